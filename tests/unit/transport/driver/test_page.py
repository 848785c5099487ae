"""The page "Write a transport": its program runs as it stands, and is held to the contract."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import pytest

from tests.house.source import ROOT
from tests.support import green

pytestmark = [pytest.mark.slow, pytest.mark.own_process]

PAGE = (ROOT / 'docs/transports.rst').read_text()


@pytest.fixture
def program(tmp_path):
    found = re.search(r'^\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)', PAGE, re.M)[1]
    path = tmp_path / 'litequeue.py'
    path.write_text(textwrap.dedent(found))
    return path


def environment(program, **more):
    paths = os.pathsep.join([str(program.parent), str(ROOT)])
    return {**os.environ, 'PYTHONPATH': paths, **more}


def run(child, program, folder):
    return subprocess.run([sys.executable, *green.QUIET, '-c', child], timeout=60, text=True,
                          capture_output=True, env=environment(program), cwd=folder)


def test_it_is_short(program):
    lines = [line for line in program.read_text().splitlines() if line.strip()]
    assert len(lines) < 100, len(lines)


def test_it_passes_the_contract(program, tmp_path):
    files = [str(ROOT / 'tests/contract' / f'test_{name}.py') for name in ('delivery', 'entities', 'threads')]
    url = f'lite:///{tmp_path}/queues.db'
    done = subprocess.run(
        [sys.executable, *green.QUIET, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-p', 'litequeue',
         '-m', 'not rabbitmq', *files],
        cwd=ROOT, text=True, capture_output=True, timeout=300,
        env=environment(program, GREENMQ_CONTRACT_URLS=url))
    assert done.returncode == 0, done.stdout[-6000:]


def test_a_consumer_that_is_killed_loses_nothing(program, tmp_path):
    child = textwrap.dedent(f'''
        import os
        from greenmq import Connection
        import litequeue
        litequeue.SQLiteDriver.lease_seconds = 1.0
        connection = Connection(transport='litequeue:Transport', virtual_host={str(tmp_path / 'q.db')!r})
        queue = connection.SimpleQueue('work')
        for n in range(5):
            queue.put(n)
        queue.get(timeout=5)
        os._exit(9)
    ''')
    done = run(child, program, tmp_path)
    assert done.returncode == 9
    child = textwrap.dedent(f'''
        from greenmq import Connection
        connection = Connection(transport='litequeue:Transport', virtual_host={str(tmp_path / 'q.db')!r})
        queue, found = connection.SimpleQueue('work'), []
        while len(found) < 5:
            message = queue.get(timeout=20)
            found.append(message.payload)
            message.ack()
        connection.close()
        print(sorted(found))
    ''')
    done = run(child, program, tmp_path)
    assert done.stdout.strip() == '[0, 1, 2, 3, 4]', done.stderr
