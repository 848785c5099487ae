"""Servers as child processes: started on free loopback ports, stopped by pid, gone when the test run is."""
from __future__ import annotations

import _socket
import ctypes
import os
import pathlib
import random
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import traceback

import pytest

from greenmq import runtime
from tests.support import green

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)

#: Below the range that the kernel gives to outgoing connections (32768 on), which could take a port from us.
PORTS = range(20000, 32700)
#: How many of them a process takes for itself at a time.
BLOCK = 100
_left = []

#: Servers that run now: their log is shown with a failing test.
RUNNING = []


def servers_required():
    """Whether a missing server is an error (CI) and not a reason to skip (a laptop)."""
    return bool(os.environ.get('CI') or os.environ.get('GREENMQ_REQUIRE_SERVERS'))


def need(*programs):
    """Skip the test if a program is not installed; in CI, fail it. Gives the paths."""
    paths = [shutil.which(program) for program in programs]
    missing = [program for program, path in zip(programs, paths, strict=True) if path is None]
    if missing:
        (pytest.fail if servers_required() else pytest.skip)(f'not installed: {", ".join(missing)}')
    return paths


def free_ports(count):
    """`count` ports of 127.0.0.1 that nobody listens on, each given out once, to no other run: a server
    may listen only half a minute after it was given its port."""
    found = []
    while len(found) < count:
        if not _left:
            _left.extend(_own_block())
        port = _left.pop()
        with socket.socket() as probe:
            try:
                probe.bind(('127.0.0.1', port))
            except OSError:
                continue
        found.append(port)
    return found


def _own_block():
    # It is ours while we have the socket of this name, which the kernel takes from us when we end.
    starts = list(PORTS[:-BLOCK:BLOCK])
    random.shuffle(starts)
    for start in starts:
        owner = _socket.socket(_socket.AF_UNIX)
        try:
            owner.bind(f'\0greenmq-ports-{start}'.encode())
        except OSError:
            owner.close()
            continue
        owner.detach()
        return range(start, start + BLOCK)
    raise AssertionError('other test runs have all the ports')


def die_with_parent():
    """In the child, before exec: the kernel kills it when the thread that started it ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def popen(command, preexec=die_with_parent, **options):
    """Popen for a child that must not outlive us."""
    return subprocess.Popen(command, preexec_fn=preexec, **options)


def wait_until(condition, seconds, what):
    """Ask again and again, letting other greenlets run; for processes that cannot call us back."""
    with green.Timeout(seconds, AssertionError(f'{what}: not within {seconds} s')):
        while not (answer := condition()):
            green.sleep(0.02)
        return answer


def read_line(pipe, seconds=60):
    """The next line that a child writes, '' at its end; other greenlets run on, and leases are kept up.

    For children that answer with one line and then wait for the next question: what is left in the buffer of
    the pipe would not be seen.
    """
    wait_until(lambda: select.select([pipe], [], [], 0)[0], seconds, 'a line of the child')
    return pipe.readline()


def fork(work):
    """Run it in a forked child, and give its pid; the child ends with 0 if the work went through."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.alarm(60)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def exit_codes(pids, seconds=60):
    """How these children ended, in this order; asked without stopping the hub."""
    found = {}

    def all_ended():
        for pid in set(pids) - set(found):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                found[pid] = os.waitstatus_to_exitcode(status)
        return len(found) == len(pids)

    wait_until(all_ended, seconds, 'the end of the children')
    return [found[pid] for pid in pids]


def reap(pid, seconds=20):
    """Wait until a child that `runtime.fork_child` made has ended, and let the system forget it."""
    def ended():
        try:
            return runtime.exit_code(pid) is not None
        except ChildProcessError:
            return True  # a hub library that is patched in has a handler of SIGCHLD, which was there first

    wait_until(ended, seconds, 'the end of the child')


def run(command, seconds=30, **options):
    """Run a program to its end without stopping the hub; gives what it printed.

    Not gevent.subprocess: its SIGCHLD handler would reap children of the stdlib's in an unpatched process.
    """
    with tempfile.TemporaryFile() as out:
        child = popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, **options)
        try:
            wait_until(lambda: child.poll() is not None, seconds, ' '.join(command))
        finally:
            end(child)
        out.seek(0)
        text = out.read().decode(errors='replace')
    assert child.returncode == 0, f'{" ".join(command)} ended with {child.returncode}:\n{text}'
    return text


def end(child):
    """Kill a child, if it still runs, and reap it."""
    if child.poll() is None:
        child.kill()
        child.wait()


def stat(pid):
    """The fields of a process in `/proc/PID/stat`, from its state on; None if there is none."""
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return None


def runs(pid):
    """Whether a process that need not be our child has not ended; one that nobody has reaped has."""
    fields = stat(pid)
    return fields is not None and fields[0] != 'Z'


class Started:
    """`with` starts it, and stops it also when its start fails."""

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info):
        self.stop()


class Server(Started):
    """One server: its directory, log and process. Subclasses say the command and when it answers."""

    ready_seconds = 30.0
    #: What the child does before it becomes the server.
    preexec = staticmethod(die_with_parent)

    def __init__(self, name):
        self.name = name
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f'greenmq-{name}-'))
        self.log = self.directory / 'output.log'
        self.process = None
        self._shown = 0

    def command(self):
        raise NotImplementedError

    def environment(self):
        return dict(os.environ)

    def answers(self):
        """Whether a protocol answer comes."""
        raise NotImplementedError

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def start(self):
        """Start it on the directory it has, and wait until it answers."""
        assert not self.running, f'{self.name} runs already'
        with open(self.log, 'ab') as output:
            self.process = popen(self.command(), self.preexec, env=self.environment(), cwd=self.directory,
                                 stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        RUNNING.append(self)
        self.wait_ready()

    def wait_ready(self):
        def ready():
            assert self.running, f'{self.name} ended at its start:\n{self.new_output()}'
            return self.answers()

        wait_until(ready, self.ready_seconds, f'{self.name} to answer')

    def kill(self):
        """SIGKILL, as a crash: the directory stays for `start()`."""
        if self.process is not None:
            end(self.process)
        if self in RUNNING:
            RUNNING.remove(self)

    def restart(self):
        """Crash it and start it again on the same ports and data."""
        self.kill()
        self.start()

    def stop(self):
        """End it for good and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def pause(self):
        """Freeze it: connections stay, nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def logs(self):
        return [self.log]

    def new_output(self):
        """What it wrote since this was last asked."""
        text = ''.join(path.read_text(errors='replace') for path in self.logs() if path.exists())
        new, self._shown = text[self._shown:], len(text)
        return new


def exchange(address, data, size=1, seconds=1.0):
    """Send bytes to a TCP address and give the first bytes that come back, b'' if none."""
    try:
        with green.socket.create_connection(address, timeout=seconds) as sock:
            sock.sendall(data)
            return sock.recv(size)
    except OSError:
        return b''
