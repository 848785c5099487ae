"""The demo on eventlet, in a process of its own: the totals of greenlets and broker equal a direct count."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.support import green

pytestmark = [
    pytest.mark.own_process,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec('eventlet') is None, reason='eventlet is not installed'),
    # It is a process of its own: once is enough.
    pytest.mark.skipif(green.RUNTIME != 'gevent' or green.PATCHED, reason='run in the unpatched process'),
]
PATCHED = 'import eventlet; eventlet.monkey_patch(); '
DEMO = 'import sys; from greenmq.cli import main; sys.argv[0] = "greenmq"; sys.exit(main())'


@pytest.mark.parametrize('patch', ['', PATCHED], ids=['unpatched', 'patched'])
@pytest.mark.parametrize('broker', ['memory', 'amqp_url', 'redis_url'])
def test_equal_totals(broker, patch, request, tmp_path):
    texts = tmp_path / 'text'
    texts.write_text('the quick brown fox\n' * 400)
    url = 'memory://' if broker == 'memory' else request.getfixturevalue(broker)
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', patch + DEMO, 'demo', '--broker', url, str(texts)],
        env={**os.environ, 'GREENMQ_RUNTIME': 'eventlet'}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '1,600' in done.stdout, done.stdout
