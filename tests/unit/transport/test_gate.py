"""Turns at a file, among processes."""
from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from greenmq.transport.gate import Gate
from tests.support.process import end, popen, wait_until

pytestmark = pytest.mark.skipif(
    not pathlib.Path('/proc/locks').exists(), reason='the order is that of Linux'
)

WAITS = """
import sys
from greenmq.transport.gate import Gate
with Gate(sys.argv[1]), open(sys.argv[2], 'a') as book:
    book.write(sys.argv[3])
"""


@pytest.fixture
def processes():
    """Starts processes that enter once, write down their name, and end; gives each when it waits."""
    found = []

    def start(*args):
        found.append(popen([sys.executable, '-c', WAITS, *map(str, args)], stderr=subprocess.PIPE))
        wait_until(lambda: waits(found[-1]), 20, 'a process at the gate')
        return found[-1]

    yield start
    for process in found:
        end(process)
        process.stderr.close()


def waits(process):
    """Does a process wait for a lock?"""
    lines = pathlib.Path('/proc/locks').read_text().splitlines()
    return any('->' in line and f' {process.pid} ' in line for line in lines)


def test_nobody_passes_who_is_next_and_all_come_in(tmp_path, processes):
    file, book = tmp_path / 'file', tmp_path / 'book'
    gate = Gate(str(file))
    with gate:
        others = [processes(file, book, name) for name in 'abc']
    # Who frees it, and wants it again before anybody else runs, comes after the next one. The two behind that
    # one are woken with us, and who runs first is first.
    with gate:
        assert book.read_text().startswith('a')
    for other in others:
        assert other.wait(20) == 0
    assert sorted(book.read_text()) == ['a', 'b', 'c']
    gate.close()


def test_the_dead_keep_nobody_waiting(tmp_path, processes):
    file, book = tmp_path / 'file', tmp_path / 'book'
    gate = Gate(str(file))
    with gate:
        end(processes(file, book, 'a'))
        processes(file, book, 'b')
    with gate:
        assert book.read_text() == 'b'
    gate.close()
