"""One process: the class is made, its signals are in hand, it runs until it is told to end.

Exit codes
----------
0    it ended in good order: by SIGTERM or SIGINT, or because it was done
1    it ended by an error: the broker could not be reached as often as it may be tried, or a callback raised
     what is no Exception
2    it was asked for wrongly: no such module or class, a bad URL or option
4    it was told to end, and callbacks were still running at the end of the drain timeout
128+n  a second signal n ended it at once
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType

from greenmq import Connection, runtime
from greenmq.log import get_logger
from greenmq.mixins import ConsumerMixin
from greenmq.worker.health import Health
from greenmq.worker.loading import build

__all__ = ('FAILED', 'LATE', 'MISUSED', 'OK', 'Settings', 'Signals', 'serve')

logger = get_logger('greenmq.worker')

OK, FAILED, MISUSED, LATE = 0, 1, 2, 4

# Seconds beyond the drain timeout for what is left then: closing connections.
GRACE = 0.9
# Seconds between two looks whether the supervisor still lives.
ORPHAN_CHECK = 1.0


@dataclass(frozen=True)
class Settings:
    """What a worker process is to do.

    Attributes:
        target (str): ``module:Class``, built as ``Class(connection)``.
        broker (str): URL.
        concurrency (int | None): callbacks of a consumer at once; None: as the class says.
        drain_timeout (float): seconds for callbacks that run when it is told to end.
        health (tuple[str, int] | None): where to serve health and metrics; port 0 takes a free one.
    """

    target: str
    broker: str
    concurrency: int | None = None
    drain_timeout: float = 30.0
    health: tuple[str, int] | None = None

    def numbered(self, number: int) -> Settings:
        """Those of the process of that number: it has a health port of its own."""
        if self.health is None or self.health[1] == 0:
            return self
        return replace(self, health=(self.health[0], self.health[1] + number))


class Signals:
    """What the process makes of SIGTERM, SIGINT, SIGQUIT and SIGHUP.

    The handlers only leave word: the greenlet that runs the worker does the rest. But a second signal, and
    the end of all time that was given, end the process where it stands, since that greenlet may never run
    again.

    Arguments:
        worker (ConsumerMixin): is stopped by the first.
        drain_timeout (float): seconds it then has; none after SIGQUIT.
    Attributes:
        hit (int): the first one that came.
    """

    def __init__(self, worker: ConsumerMixin, drain_timeout: float) -> None:
        self.worker = worker
        self.drain_timeout = drain_timeout
        self.hit = 0
        self._hub = runtime.hub_id()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Context manager: the handlers are in place."""
        before = {each: signal.signal(each, self.handle)
                  for each in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)}
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self.too_late)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The handler."""
        if self.hit:
            os._exit(128 + signum)
        self.hit = signum
        timeout = 0.0 if signum == signal.SIGQUIT else self.drain_timeout
        # A callback that computes keeps the hub from its timers, but not the interpreter from this one.
        signal.setitimer(signal.ITIMER_REAL, timeout + GRACE)
        ConsumerMixin.stop(self.worker, timeout)
        runtime.post(self._hub, partial(self._say, signal.Signals(signum).name, timeout))

    @staticmethod
    def _say(name: str, timeout: float) -> None:
        # Not by the handler, which may have come while a line is written.
        logger.info('%s: ending; callbacks that run have %g s', name, timeout)

    def too_late(self, signum: int, frame: FrameType | None) -> None:
        """The handler of the alarm that `handle` set."""
        os._exit(LATE)


def serve(settings: Settings, supervisor: int | None = None) -> int:
    """Run a worker in this process.

    Arguments:
        supervisor (int): pid of the parent; the worker stops when that has gone.
    Returns:
        int: the exit code; after SIGHUP the process becomes a new one and this does not return.
    Raises:
        NotAWorker: there is no such class, or it can't be made.
        OSError: health can't be served there.
        Exception: what the module raises when it is imported, or the class when it is made.
    Switches: yes.
    """
    connection = Connection(settings.broker)
    worker = build(settings.target, connection)
    if settings.concurrency is not None:
        worker.concurrency = settings.concurrency
    signals = Signals(worker, settings.drain_timeout)
    with ExitStack() as stack:
        stack.enter_context(signals.installed())
        stack.callback(connection.close)
        if settings.health is not None:
            stack.enter_context(Health(worker, settings.health).serving())
        if supervisor is not None:
            arguments = supervisor, worker, settings.drain_timeout
            stack.callback(runtime.spawn(_stop_with, *arguments, name='greenmq.orphan').kill)
        logger.info('%s consumes from %s', settings.target, connection.as_uri())
        code = _run(worker)
    if signals.hit == signal.SIGHUP and supervisor is None and code in (OK, LATE):
        logger.info('starting anew after SIGHUP')
        os.execv(sys.executable, [sys.executable, '-m', 'greenmq.cli', *sys.argv[1:]])
    return code


def _run(worker: ConsumerMixin) -> int:
    try:
        worker.run()
    except Exception:
        return FAILED  # logged by `run`
    except BaseException as exc:
        logger.error('%r ended by %r', worker, exc, exc_info=exc)
        return FAILED
    late = ConsumerMixin.status(worker)['overdue']
    logger.info('ended; %s', f'{late} callbacks were cut short' if late else 'all that was begun is done')
    return LATE if late else OK


def _stop_with(supervisor: int, worker: ConsumerMixin, drain_timeout: float) -> None:
    while os.getppid() == supervisor:
        runtime.sleep(ORPHAN_CHECK)
    logger.warning('the supervisor %d has gone: ending', supervisor)
    ConsumerMixin.stop(worker, drain_timeout)
