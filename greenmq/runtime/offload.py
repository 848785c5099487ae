"""Native threads for calls that block: drivers without greenlets, name resolution, long polls.

The pool is ours. gevent's own is shared with everything in the process, ten threads in all: ten slow
look-ups, or ten long polls of somebody else, and nobody connects any more (P45).

Conditions: a worker thread touches nothing of the hub but `post`; it takes jobs from a queue of C, which is
never patched; and it is started below `threading`, so that the interpreter does not wait for it at exit.
"""

from __future__ import annotations

import logging
from _queue import Empty, SimpleQueue
from collections.abc import Callable
from typing import Any

from greenmq.runtime.clock import Timeoutish, post
from greenmq.runtime.seam import Handle, library
from greenmq.runtime.sync import LateLock
from greenmq.runtime.threadend import end_thread
from greenmq.runtime.waiter import Waiter

__all__ = ('offload',)

logger = logging.getLogger('greenmq.runtime')

MAX_THREADS = 16  # enough for the round trips of a driver; what may take minutes asks for a thread of its own
IDLE_SECONDS = 30.0  # a burst pays for its threads once, a quiet process keeps none


class _Job:
    # One call: runs in a native thread, ends in the hub that asked.
    __slots__ = ('_abandon', '_args', '_error', '_fun', '_hold', '_hub', '_result', '_waiter')

    def __init__(
        self,
        fun: Callable[..., Any],
        args: tuple[Any, ...],
        abandon: Callable[[Any], Any] | None,
        waiter: Waiter,
    ) -> None:
        self._fun = fun
        self._args = args
        self._abandon = abandon
        self._waiter = waiter
        self._hub = library.get_hub()
        self._hold: Handle = library.hold(self._hub)
        self._result: Any = None
        self._error: BaseException | None = None

    def __call__(self) -> None:
        if not self._waiter.pending:
            return  # nobody waits any more: not begun is better than done for nothing
        try:
            self._result = self._fun(*self._args)
        except BaseException as exc:
            self._error = exc
        if not post(self._hub, self._deliver):
            self._give_up(self._result)

    def _deliver(self) -> None:
        error, self._error = self._error, None  # its traceback refers to the call, and so to us
        if error is not None:
            self._waiter.fail(error)
        elif not self._waiter.wake(self._result):
            self.decline(self._result)

    def let_go(self) -> None:
        self._hold.close()

    def decline(self, result: Any) -> None:
        # Closing what came too late may block as well, so it is done in a thread.
        if self._abandon is not None:
            pool.put(_Abandon(self._abandon, result))

    def _give_up(self, result: Any) -> None:
        # The hub is gone and this is a native thread already.
        if self._abandon is not None and self._error is None:
            _Abandon(self._abandon, result)()


class _Abandon:
    __slots__ = ('_abandon', '_result')

    def __init__(self, abandon: Callable[[Any], Any], result: Any) -> None:
        self._abandon = abandon
        self._result = result

    def __call__(self) -> None:
        try:
            self._abandon(self._result)
        except Exception:
            logger.exception('could not abandon a result that came too late: %r', self._abandon)


class _Pool:
    # Threads are started when a job finds none idle, and end when they were idle for a while.

    __slots__ = ('_jobs', '_lock', 'idle', 'max_threads', 'threads')

    def __init__(self, max_threads: int = MAX_THREADS) -> None:
        self.max_threads = max_threads
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = LateLock()
        self.threads = 0
        self.idle = 0

    def put(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        with self._lock.get():
            # Counted and not asked: an idle thread may have been promised to the job before.
            if self._jobs.qsize() <= self.idle or self.threads >= self.max_threads:
                return
            self.threads += 1
        start_thread(self._work)

    def _work(self) -> None:
        while True:
            with self._lock.get():
                self.idle += 1
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                job = None
            with self._lock.get():
                self.idle -= 1
                if job is None and self._jobs.empty():
                    self.threads -= 1
                    return
            if job is not None:
                job()
                del job  # an idle thread must not hold the last arguments and result

    def __repr__(self) -> str:
        return f'<offload pool: {self.threads} of {self.max_threads} threads, {self.idle} idle>'


pool = _Pool()


def start_thread(work: Callable[[], None]) -> None:
    """Start a native thread that the interpreter does not wait for at exit.

    Arguments:
        work (Callable): runs in it; what it lets out is printed by the interpreter.
    Source: _thread.start_new_thread.
    """
    library.original('_thread', 'start_new_thread')(_run_thread, (work,))


def _run_thread(work: Callable[[], None]) -> None:
    try:
        work()
    finally:
        # A driver in a patched process may have waited in this thread, and so have made a hub.
        end_thread()


def offload(
    fun: Callable[..., Any],
    *args: Any,
    deadline: Timeoutish = None,
    abandon: Callable[[Any], Any] | None = None,
    own_thread: bool = False,
) -> Any:
    """Run something that blocks in a native thread, and wait for it without blocking the hub.

    Arguments:
        fun (Callable): called with `args` in a thread; must not use anything of runtime but `post`.
        deadline (Deadline | float): of this wait; the thread itself cannot be stopped.
        abandon (Callable): gets the result, in a thread, if the wait ended before it came. May block.
        own_thread (bool): for calls that may take long (a long poll): a thread of its own, outside the pool's
            limit.
    Returns:
        object: what `fun` returned.
    Raises:
        TimeoutError: not in time.
        BaseException: what `fun` raised.
    Switches: yes. Killed while waiting: the result goes to `abandon`; a call that had not begun never begins.
    """
    waiter = Waiter(f'no answer of {getattr(fun, "__name__", fun)!s} from its thread')
    job = _Job(fun, args, abandon, waiter)
    if own_thread:
        start_thread(job)
    else:
        pool.put(job)
    try:
        return waiter.wait(deadline, job.decline)
    finally:
        job.let_go()


def forget_threads() -> None:
    """In a forked child: begin anew, no thread of the parent exists here and its lock may be taken for ever.
    """
    global pool
    pool = _Pool(pool.max_threads)
