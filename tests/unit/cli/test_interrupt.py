"""Ctrl-C: told once to whoever can end the work, at any moment."""

import fcntl
import os
import random
import signal
import struct
import subprocess
import sys
import termios

import pytest

from greenmq import runtime
from greenmq.cli.interrupt import INTERRUPTED, Interrupts
from greenmq.cli.session import in_task
from tests.house.source import ROOT


class TestInterrupts:

    def test_raises_while_nobody_wants_to_be_told(self):
        interrupts = Interrupts()
        with pytest.raises(KeyboardInterrupt):
            interrupts.handle(signal.SIGINT, None)
        assert interrupts.hit

    def test_tells_who_wants_to_be_told(self):
        interrupts, told = Interrupts(), []
        with interrupts.told(lambda: told.append('now')):
            interrupts.handle(signal.SIGINT, None)
        assert told == ['now'] and interrupts.hit

    def test_the_second_ends_the_process_at_once(self, monkeypatch):
        codes = []
        monkeypatch.setattr(os, '_exit', codes.append)
        interrupts = Interrupts()
        with interrupts.told(lambda: None):
            interrupts.handle(signal.SIGINT, None)
            assert codes == []
            interrupts.handle(signal.SIGINT, None)
        assert codes == [INTERRUPTED]

    def test_is_ignored_at_the_end(self):
        interrupts = Interrupts()
        interrupts.ignore()
        interrupts.handle(signal.SIGINT, None)
        assert not interrupts.hit

    @pytest.mark.parametrize('before, taken', [(signal.SIG_IGN, False), (signal.default_int_handler, True)])
    def test_a_signal_that_the_parent_wants_ignored_stays_so(self, before, taken):
        kept = signal.signal(signal.SIGINT, before)
        try:
            interrupts = Interrupts()
            interrupts.install()
            assert signal.getsignal(signal.SIGINT) == (interrupts.handle if taken else before)
        finally:
            signal.signal(signal.SIGINT, kept)


class TestInTask:

    def test_gives_the_value(self):
        assert in_task(lambda: 42, Interrupts()) == 42

    def test_raises_what_the_work_raised(self):
        with pytest.raises(ZeroDivisionError):
            in_task(lambda: 1 / 0, Interrupts())

    def test_an_interrupt_ends_work_that_waits_and_lets_it_clean_up(self):
        # Given work that waits for ever, and waits again when it cleans up
        interrupts, log = Interrupts(), []

        def work():
            runtime.run_soon(interrupts.handle, signal.SIGINT, None)
            try:
                runtime.Event().wait()
            finally:
                runtime.sleep(0)
                log.append('clean')

        # When Ctrl-C comes while it waits, then it ends in good order
        with pytest.raises(KeyboardInterrupt):
            in_task(work, interrupts)
        assert log == ['clean']

    def test_an_interrupt_in_the_middle_of_running_code_ends_it_where_it_waits(self):
        interrupts, log = Interrupts(), []

        def work():
            interrupts.handle(signal.SIGINT, None)
            log.append('goes on')
            runtime.Event().wait()
            log.append('never')

        with pytest.raises(KeyboardInterrupt):
            in_task(work, interrupts)
        assert log == ['goes on']


def start(*arguments, **options):
    command = [sys.executable, '-m', 'greenmq.cli', *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            **options)


def finish(process):
    """Exit code, standard output and standard error; a process that hangs is killed and fails the test."""
    try:
        output, errors = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f'hangs: {process.communicate()}')
    return process.returncode, output, errors


@pytest.fixture(scope='module')
def big(tmp_path_factory):
    """More lines than a process counts while somebody presses two keys."""
    path = tmp_path_factory.mktemp('big') / 'text'
    path.write_text('some words on a line\n' * 300_000)
    return path


@pytest.mark.slow
class TestCtrlC:

    @pytest.mark.parametrize('seed', range(6))
    def test_at_a_random_moment_of_the_demo(self, seed, big):
        # Given a demo that has got as far as running its own code, and runs on for a random while
        process = start('demo', str(big), env={**os.environ, 'PYTHONUNBUFFERED': '1'})
        wait_until_it_handles_the_signal(process)
        runtime.sleep(random.Random(seed).uniform(0, 3))
        # When Ctrl-C is pressed
        process.send_signal(signal.SIGINT)
        code, output, errors = finish(process)
        # Then it is over, and nothing is said about it
        assert (code, output, errors.strip()) == (130, '', '')

    def test_while_standard_input_is_read(self):
        process = start('publish', '--broker', 'memory://', '--queue', 'q', stdin=subprocess.PIPE)
        wait_until_it_handles_the_signal(process)
        process.send_signal(signal.SIGINT)
        code, _, errors = finish(process)
        assert code == 130 and 'Traceback' not in errors

    def test_while_waiting_for_messages(self):
        process = start('consume', '--broker', 'memory://', '--follow', 'q')
        wait_until_it_handles_the_signal(process)
        runtime.sleep(0.5)
        process.send_signal(signal.SIGINT)
        code, _, errors = finish(process)
        assert code == 130 and 'Traceback' not in errors

    def test_a_terminal_is_left_as_it_was(self, big):
        # Given a demo that draws its bar on a terminal
        ours, its = os.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
        process = subprocess.Popen([sys.executable, '-m', 'greenmq.cli', 'demo', str(big)], cwd=ROOT,
                                   stdin=its, stdout=its, stderr=its, start_new_session=True)
        os.close(its)
        seen = b''
        while b'lines/s' not in seen:
            seen += runtime.offload(os.read, ours, 4096)
        # When Ctrl-C is pressed
        process.send_signal(signal.SIGINT)
        after = read_to_the_end(ours)
        # Then the bar is wiped out and the cursor stands on a line of its own
        assert process.wait(30) == 130
        assert b'Traceback' not in after
        assert after.endswith(b'\n') and b'%|' not in after.rpartition(b'\r')[2].strip(b'\r\n')


def read_to_the_end(descriptor):
    seen = b''
    while True:
        try:
            data = runtime.offload(os.read, descriptor, 4096)
        except OSError:                         # EIO: the other side of a terminal has closed
            data = b''
        if not data:
            os.close(descriptor)
            return seen
        seen += data


def wait_until_it_handles_the_signal(process):
    """Before that the interpreter is still starting, and Ctrl-C ends it in the interpreter's own way."""
    mask = 1 << signal.SIGINT - 1
    while process.poll() is None:
        with open(f'/proc/{process.pid}/status') as status:
            facts = dict(line.split(':', 1) for line in status)
        with open(f'/proc/{process.pid}/maps') as maps:
            # Python takes the signal first; we do before the hub library is loaded, at its first use.
            if int(facts['SigCgt'], 16) & mask and '/gevent/' in maps.read():
                return
        runtime.sleep(0.005)
    pytest.fail(f'ended by itself: {process.communicate()}')
