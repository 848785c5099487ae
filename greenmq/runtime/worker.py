"""A private native thread with an inbox, for a client that blocks and belongs to the thread that made it.

A database client shared by `offload`'s pool fails in a patched process: its sockets and locks are the hub
library's and belong to the hub of the thread that made them. So one `Worker` makes and alone uses one
client; concurrency comes from batches, and a long wait has a second worker with a second client.

Conditions: the thread touches nothing of the hub but `post`; its inbox is a queue of C, which is never
patched; it is started below `threading`, so the interpreter does not wait for it; it holds the worker
weakly, so one that nobody has any more ends.
"""

from __future__ import annotations

import logging
import weakref
from _queue import Empty, SimpleQueue
from collections.abc import Callable
from typing import Any

from greenmq.exceptions import ConnectionClosed, Forked
from greenmq.runtime import threadend
from greenmq.runtime.clock import Timeoutish, post
from greenmq.runtime.epoch import fork_epoch
from greenmq.runtime.offload import start_thread
from greenmq.runtime.seam import library
from greenmq.runtime.waiter import Waiter

__all__ = ('Worker',)

logger = logging.getLogger('greenmq.runtime')

LOOK_SECONDS = 5.0  # an idle thread looks so often whether its worker is still wanted


class _Job:
    """One call: runs in the thread, ends in the hub that asked."""

    __slots__ = ('_abandon', '_args', '_fun', '_hold', '_hub', '_waiter')

    def __init__(
        self,
        fun: Callable[..., Any],
        args: tuple[Any, ...],
        abandon: Callable[[Any], Any] | None,
        waiter: Waiter | None,
    ) -> None:
        self._fun = fun
        self._args = args
        self._abandon = abandon
        self._waiter = waiter
        # `tell` may come from the thread itself, which shall get no hub by it.
        self._hub: Any = None if waiter is None else library.get_hub()
        self._hold = None if waiter is None else library.hold(self._hub)

    def run(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.pending:
            return  # nobody waits any more: not begun is better than done for nothing
        result, error = None, None
        try:
            result = self._fun(*self._args)
        except BaseException as exc:
            error = exc
        if waiter is None:
            if error is not None:
                logger.error('a call in a private thread failed: %r', self._fun, exc_info=error)
        elif not post(self._hub, self.deliver, result, error):
            self._give_up(result, error)
        del error  # its traceback refers to this frame

    def deliver(self, result: Any, error: BaseException | None) -> None:
        waiter = self._waiter
        if waiter is None:
            return
        if error is not None:
            waiter.fail(error)
        elif not waiter.wake(result):
            self.decline(result)

    def decline(self, result: Any) -> None:
        # It came too late. Undoing it may block as well, and belongs to the thread that did it.
        if self._abandon is not None:
            self._abandon(result)

    def _give_up(self, result: Any, error: BaseException | None) -> None:
        if error is None and self._abandon is not None:
            self._abandon(result)

    def let_go(self) -> None:
        if self._hold is not None:
            self._hold.close()


class _Inbox:
    """What the thread knows of its worker: the jobs, and whether it is to end."""

    __slots__ = ('busy', 'jobs', 'left', 'running', 'worker')

    def __init__(self, worker: Worker) -> None:
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self.worker = weakref.ref(worker)
        self.running = self.busy = False
        self.left: Callable[[], Any] | None = None


class Worker:
    """One native thread that makes the calls it is given, one after the other, in their order.

    Arguments:
        name (str): for error texts.
        leave (Callable): called in the thread, last, when the worker was closed or nobody has it any more:
            the place to close the client.
    """

    def __init__(self, name: str, leave: Callable[[], Any] | None = None) -> None:
        self.name = name
        self._epoch = fork_epoch()
        self._inbox = _Inbox(self)
        self._inbox.left = leave
        self._closed = False

    def call(
        self,
        fun: Callable[..., Any],
        *args: Any,
        deadline: Timeoutish = None,
        abandon: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Run something in the thread, after all that was given before, and wait for it.

        Arguments:
            fun (Callable): called with `args`; uses nothing of runtime but `post`.
            deadline (Deadline | float): of this wait; the thread itself cannot be stopped.
            abandon (Callable): gets the result in the thread, if the wait ended before it came.
        Returns:
            object: what `fun` returned.
        Raises:
            TimeoutError: not in time. ConnectionClosed: the worker was closed. Forked: it is the parent's.
            Others: from `fun`.
        Switches: yes. Killed while waiting: a call that had not begun never begins; the result of one that
            had goes to `abandon`.
        """
        waiter = Waiter(f'{self.name}: no answer of {getattr(fun, "__name__", fun)!s}')
        late = None if abandon is None else (lambda result: self.tell(abandon, result))
        job = _Job(fun, args, late, waiter)
        self._put(job)
        try:
            return waiter.wait(deadline, job.decline)
        finally:
            job.let_go()

    def tell(self, fun: Callable[..., Any], *args: Any) -> None:
        """Run something in the thread and do not wait; what it raises is logged."""
        self._put(_Job(fun, args, None, None))

    def _put(self, job: _Job) -> None:
        if self._epoch != fork_epoch():
            raise Forked(f'{self.name}: its thread belongs to the parent')
        if self._closed:
            raise ConnectionClosed(f'{self.name} was closed')
        inbox = self._inbox
        inbox.jobs.put(job)
        if not inbox.running:
            inbox.running = True
            start_thread(_Run(inbox))

    def close(self) -> None:
        """End the thread after the calls it was given so far; `leave` is called."""
        if not self._closed:
            self._closed = True
            if self._inbox.running and not self._inbox.busy:
                threadend.ending.add(id(self._inbox))  # the process may end at once, and is to wait for it
            self._inbox.jobs.put(None)

    @property
    def waiting(self) -> int:
        """Calls that have not begun."""
        return self._inbox.jobs.qsize()

    def __repr__(self) -> str:
        return f'<Worker {self.name}: {"closed" if self._closed else f"{self.waiting} waiting"}>'


class _Run:
    """The thread's life. Holds the inbox and not the worker."""

    __slots__ = ('_inbox',)

    def __init__(self, inbox: _Inbox) -> None:
        self._inbox = inbox

    def __call__(self) -> None:
        inbox = self._inbox
        while True:
            try:
                job = inbox.jobs.get(timeout=LOOK_SECONDS)
            except Empty:
                if inbox.worker() is None:
                    break
                continue
            if job is None:
                break
            inbox.busy = True
            job.run()
            inbox.busy = False
            del job  # an idle thread must not hold the last arguments and result
        # A client may wait a moment for its own tasks to end. The interpreter is not taken down under them.
        threadend.ending.add(id(inbox))
        try:
            if inbox.left is not None:
                inbox.left()
        except Exception:
            logger.exception('a private thread could not leave in order: %r', inbox.left)
        finally:
            threadend.end_thread()
            threadend.ending.discard(id(inbox))
