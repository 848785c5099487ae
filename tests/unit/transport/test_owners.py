"""Marks of owners: who is dead is told by the kernel, and everybody else is woken without waiting."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from greenmq.exceptions import InvalidArgument
from greenmq.transport import owners
from greenmq.transport.owners import Mark, check_local, gone, read_wake, wake

HOLD = """
import os, sys
from greenmq.transport.owners import Mark
mark = Mark(sys.argv[1])
if len(sys.argv) > 2 and os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print(mark.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds a mark; gives it and the mark's name."""
    processes = []

    def holder(*args, folder=tmp_path):
        process = subprocess.Popen([sys.executable, '-c', HOLD, str(folder), *args],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield holder
    for process in processes:
        process.kill()
        process.stdin.close()
        process.stdout.close()
        process.wait()


def test_a_mark_holds_as_long_as_its_process(holder, tmp_path):
    process, name = holder()
    assert not gone(str(tmp_path), name)
    process.send_signal(signal.SIGSTOP)
    assert not gone(str(tmp_path), name)
    process.kill()
    process.wait()
    assert gone(str(tmp_path), name)
    assert os.listdir(tmp_path) == []


def test_a_socket_whose_path_would_be_too_long_is_swept_too(holder, tmp_path, monkeypatch):
    folder = tmp_path / ('f' * 100)
    with tempfile.TemporaryDirectory() as near:
        monkeypatch.setenv('XDG_RUNTIME_DIR', near)
        process, name = holder(folder=folder)
        assert os.listdir(near) == [f'greenmq-{name}.sock']
        process.kill()
        process.wait()
        assert gone(str(folder), name)
        assert os.listdir(near) == os.listdir(folder) == []


def test_a_child_that_lives_on_does_not_hold_it(holder, tmp_path):
    process, name = holder('fork')
    process.kill()
    process.wait()
    assert gone(str(tmp_path), name)


def test_ones_own_is_never_looked_at(tmp_path):
    # Closing a second descriptor of the file would free the lock of this process.
    mark = Mark(str(tmp_path))
    assert not gone(str(tmp_path), mark.name)
    program = 'import sys; from greenmq.transport.owners import gone; print(gone(*sys.argv[1:]))'
    found = subprocess.run([sys.executable, '-c', program, str(tmp_path), mark.name], stdout=subprocess.PIPE,
                           text=True, check=True)
    assert found.stdout.strip() == 'False'
    mark.close()
    assert gone(str(tmp_path), mark.name) and os.listdir(tmp_path) == []


def test_words_to_others(tmp_path):
    one, two = Mark(str(tmp_path)), Mark(str(tmp_path))
    assert wake(one.socket, [two.socket_path], {'a', 'b'}, False) == []
    assert wake(one.socket, [two.socket_path], {'c'}, True) == []
    assert read_wake(two.socket) == ({'a', 'b', 'c'}, True)
    assert read_wake(two.socket) == (set(), False)
    wake(one.socket, [two.socket_path], {f'q{n}' for n in range(5000)}, False)
    assert read_wake(two.socket) == (None, False)
    path = two.socket_path
    two.close()
    assert wake(one.socket, [path], {'a'}, False) == [path]
    one.close()


def test_a_listener_that_does_not_read_holds_nobody_up(tmp_path):
    one, two = Mark(str(tmp_path)), Mark(str(tmp_path))
    for _ in range(2000):
        assert wake(one.socket, [two.socket_path], {'q'}, False) == []
    assert read_wake(two.socket)[0] == {'q'}
    one.close()
    two.close()


def test_a_long_path_has_its_socket_elsewhere(tmp_path):
    folder = tmp_path / ('x' * 100)
    mark = Mark(str(folder))
    other = Mark(str(tmp_path))
    assert not mark.socket_path.startswith(str(folder))
    assert wake(other.socket, [mark.socket_path], {'q'}, False) == []
    mark.close()
    other.close()
    assert not os.path.exists(mark.socket_path)


def test_a_network_file_system_is_refused_by_name(tmp_path, monkeypatch):
    import builtins
    import io

    lines = '22 1 0:21 / / rw - ext4 /dev/a rw\n' f'23 22 0:22 / {tmp_path} rw - nfs4 server:/x rw\n'
    real = builtins.open
    monkeypatch.setattr(owners, 'open', lambda path, *args, **kwargs: (
        io.StringIO(lines) if path == '/proc/self/mountinfo' else real(path, *args, **kwargs)), raising=False)
    with pytest.raises(InvalidArgument, match='nfs4'):
        check_local(str(tmp_path / 'inside'))
    check_local(str(tmp_path.parent))
