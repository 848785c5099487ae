"""Several processes: forked, watched, started again with growing pauses, ended together.

SIGTERM, SIGINT   all drain; who has not ended after the drain timeout and a second more is killed
SIGQUIT           the same without the time to drain
SIGHUP            each process is replaced by a new one, which imports the class anew; the old one drains
A second SIGTERM, SIGINT or SIGQUIT kills all at once.

A process that ends with code 0 by itself was done, and is not started again. One that says by code 2 that it
was asked for wrongly would say so again: then all end, with that code.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

from greenmq import runtime
from greenmq.core.retry import RetrySchedule
from greenmq.log import get_logger
from greenmq.worker.loading import NotAWorker
from greenmq.worker.serving import LATE, MISUSED, OK

__all__ = ('Supervisor',)

logger = get_logger('greenmq.worker')

# Seconds between two looks for processes that have ended, where no SIGCHLD says so.
LOOK = 0.5
# Seconds that a process lives at least, or its next start is paced as after a failure.
SOUND = 10.0
# Bytes of a reason: a pipe takes so many at once or none.
REASON = 4096
# Seconds beyond the drain timeout before processes are killed.
GRACE = 1.5

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


@dataclass
class _Place:
    """One of the processes that are to run, and what became of those that ran there."""

    number: int
    pid: int = 0
    started: float = 0.0
    failures: int = 0
    next_start: float = 0.0
    done: bool = False
    old: set[int] = field(default_factory=set)


class Supervisor:
    """Keeps processes running.

    Arguments:
        serve (Callable[[int, int], int]): what a process does, given its number and our pid; returns its
            exit code.
        processes (int): how many.
        drain_timeout (float): seconds that they have to end.
        complain (Callable[[str], object]): told why they were asked for wrongly, by the first that finds out.
    Source: greenmq's own; the signals are gunicorn's.
    """

    def __init__(
        self,
        serve: Callable[[int, int], int],
        processes: int,
        drain_timeout: float,
        complain: Callable[[str], object],
    ) -> None:
        self._serve = serve
        self._complain = complain
        # A pipe from all processes to us: each says its reason before it ends, so that none is lost by who of
        # them is the first to end.
        self._reasons, self._reason = os.pipe()
        os.set_blocking(self._reasons, False)
        os.set_blocking(self._reason, False)
        self._places = [_Place(number) for number in range(processes)]
        self._drain_timeout = drain_timeout
        self._pauses = RetrySchedule(None, 1, 2, 30)
        self._hit: list[int] = []
        self._hups = 0
        self._bell = runtime.Event()
        self._hub = runtime.hub_id()
        self._code = OK
        self._ending: runtime.Deadline | None = None

    def run(self) -> int:
        """Keep them running until a signal ends it or all are done.

        Returns:
            int: the exit code.
        Switches: yes.
        """
        with self._signals():
            try:
                while not self._over():
                    self._bell.clear()
                    self._reap()
                    self._obey()
                    self._start_due()
                    self._bell.wait(LOOK)
            finally:
                self._signal_all(signal.SIGKILL)
                os.close(self._reasons)
                os.close(self._reason)
        return self._code

    def _over(self) -> bool:
        if any(place.pid or place.old for place in self._places):
            return False
        return self._ending is not None or all(place.done for place in self._places)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        wanted = (*_ENDING, signal.SIGHUP, signal.SIGCHLD)
        before = {each: signal.signal(each, self._handle) for each in wanted}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum in _ENDING:
            self._hit.append(signum)
        elif signum == signal.SIGHUP:
            self._hups += 1
        runtime.post(self._hub, self._bell.set)

    # --------------------------------------------------------------------------------- what to do

    def _obey(self) -> None:
        if self._hit and self._ending is None:
            quick = self._hit[0] == signal.SIGQUIT
            self._ending = runtime.Deadline.after((0 if quick else self._drain_timeout) + GRACE)
            logger.info('ending %d processes', sum(bool(place.pid) for place in self._places))
            self._signal_all(signal.SIGQUIT if quick else signal.SIGTERM)
        elif self._ending is not None and (len(self._hit) > 1 or self._ending.expired()):
            self._code = 128 + self._hit[-1] if len(self._hit) > 1 else self._code or LATE
            self._signal_all(signal.SIGKILL)
        elif self._hups and self._ending is None:
            self._hups = 0
            for place in self._places:
                if place.pid:
                    place.old.add(place.pid)
                    _send(place.pid, signal.SIGTERM)
                    place.pid, place.next_start = 0, 0.0

    def _start_due(self) -> None:
        if self._ending is not None:
            return
        now = runtime.monotonic()
        for place in self._places:
            if not place.pid and not place.done and place.next_start <= now:
                self._start(place)

    def _start(self, place: _Place) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = runtime.fork_child()
        if pid == 0:
            self._be_child(place.number, parent)
        place.pid, place.started = pid, runtime.monotonic()
        logger.info('process %d started as number %d', pid, place.number)

    def _be_child(self, number: int, parent: int) -> None:
        # Never back into the parent's code, whatever happens.
        code = 1
        try:
            for each in (*_ENDING, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(each, signal.SIG_DFL)
            code = self._serve(number, parent)
        except NotAWorker as exc:
            code = MISUSED
            with suppress(BlockingIOError):  # so many have said it
                os.write(self._reason, str(exc).encode()[: REASON - 1] + b'\0')
        except BaseException as exc:
            logger.error('process %d could not run: %r', os.getpid(), exc, exc_info=exc)
        finally:
            logging.shutdown()
            sys.stdout.flush()
            os._exit(code)

    def _reap(self) -> None:
        for place in self._places:
            for pid in [*place.old, *([place.pid] if place.pid else ())]:
                code = _exit_code(pid)
                if code is None:
                    continue
                if pid in place.old:
                    place.old.discard(pid)
                    logger.info('process %d ended with %d', pid, code)
                else:
                    place.pid = 0
                    self._ended(place, pid, code)

    def _ended(self, place: _Place, pid: int, code: int) -> None:
        if self._ending is not None:
            if self._code == OK and code != -signal.SIGTERM:  # by our signal, before it had a handler for it
                self._code = code if code >= 0 else LATE
            logger.info('process %d ended with %d', pid, code)
            return
        if code == OK:
            place.done = True
            logger.info('process %d is done', pid)
            return
        if code == MISUSED:
            self._complain(self._first_reason() or f'process {pid} ended with {code}')
            self._code, self._ending = MISUSED, runtime.Deadline.after(self._drain_timeout + GRACE)
            self._signal_all(signal.SIGTERM)
            return
        now = runtime.monotonic()
        place.failures = 0 if now - place.started >= SOUND else place.failures + 1
        pause = self._pauses.delay(place.failures - 1) if place.failures else 0.0
        place.next_start = now + pause
        logger.warning('process %d ended with %d; another is started in %.0f s', pid, code, pause)

    def _first_reason(self) -> str:
        try:
            return os.read(self._reasons, REASON).partition(b'\0')[0].decode(errors='replace')
        except BlockingIOError:
            return ''  # the program's own code ended the process

    def _signal_all(self, signum: int) -> None:
        for place in self._places:
            for pid in [*place.old, *([place.pid] if place.pid else ())]:
                _send(pid, signum)


def _send(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass  # it has ended, and will be reaped


def _exit_code(pid: int) -> int | None:
    """Exit code of a child, negative for a signal; None while it runs."""
    try:
        return runtime.exit_code(pid)
    except ChildProcessError:
        return 1  # somebody else has reaped it
