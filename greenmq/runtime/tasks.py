"""Tasks: greenlets with a name and an owner that learns of their end; and groups that end together."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit as TaskExit
from greenlet import getcurrent

from greenmq.runtime.clock import Deadline, Timeoutish, post
from greenmq.runtime.epoch import forks
from greenmq.runtime.future import Future
from greenmq.runtime.seam import library

__all__ = (
    'Task', 'TaskExit', 'TaskGroup', 'current', 'current_name', 'link', 'spawn',
)  # fmt: skip

logger = logging.getLogger('greenmq.runtime')

OnExit = Callable[['Task', 'BaseException | None'], Any]

# Tasks that have not ended. This is also what keeps a task alive that nobody else refers to while it waits.
_live: set[Task] = set()


class Task:
    """A function that runs in a greenlet of its own. Made by `spawn`.

    Attributes:
        name (str): the fixed, documented name.
        error (BaseException | None): what ended it, if that was an error; a kill is none.
    """

    __slots__ = (
        '__weakref__', '_args', '_ended', '_epoch', '_fun', '_greenlet', '_hub', '_kills', '_on_exit',
        '_owner', 'error', 'name',
    )  # fmt: skip

    def __init__(
        self, fun: Callable[..., Any], args: tuple[Any, ...], name: str, owner: object, on_exit: OnExit | None
    ) -> None:
        self.name = name
        self.error: BaseException | None = None
        self._fun: Callable[..., Any] | None = fun
        self._args = args
        self._on_exit = on_exit
        self._ended: Future | None = None
        self._kills = 0
        self._epoch = forks.count
        self._hub = library.get_hub()
        self._owner = None if owner is None else weakref.ref(owner, self._owner_gone)
        _live.add(self)
        # Somebody else may kill the bare greenlet before its start: then only `_end` is called.
        self._greenlet: Any = library.spawn(self._run, self._end, name)

    @property
    def done(self) -> bool:
        """True when it has ended, by itself or by a kill."""
        return self._greenlet is None

    def kill(self) -> None:
        """Raise TaskExit in it, wherever it waits; before its start: it never runs.

        Any number of times, from any thread.

        It has not ended when this returns; see `join`. The running task is killed where it waits next.

        Source: gevent.Greenlet.kill(block=False).
        """
        if self._greenlet is not None:
            # Two kills before the first arrives are one: the second would cut the clean-up of the first.
            self._kills += 1
            if self._kills == 1:
                post(self._hub, self._throw)

    def join(self, timeout: Timeoutish = None) -> bool:
        """Wait until it has ended.

        Arguments:
            timeout (Deadline | float): no limit if None.
        Returns:
            bool: False if it had not ended in time.
        Raises:
            RuntimeError: a task cannot wait for its own end.
        Switches: only if it has not ended. Killed while waiting: the task goes on.
        Source: gevent.Greenlet.join; differs: tells whether it has ended.
        """
        if self._greenlet is None:
            return True
        if self._greenlet is getcurrent():
            raise RuntimeError(f'{self!r} cannot wait for its own end')
        deadline = Deadline.of(timeout)
        if deadline.expired():
            return False
        if self._ended is None:
            self._ended = Future()
        return self._ended.waited(deadline)

    def _run(self) -> None:
        fun, args = self._fun, self._args
        self._fun, self._args = None, ()
        try:
            if not self._kills and fun is not None:
                fun(*args)
        except TaskExit:
            pass  # a kill is a normal end
        except Exception as exc:
            self._failed(exc)
        except BaseException as exc:
            # A Timeout that its maker does not catch is an error of the task; Ctrl-C and SystemExit are not
            # for us: the hub takes them to the main greenlet.
            self._failed(exc)
            if not isinstance(exc, library.Timeout):
                raise
        finally:
            del fun, args  # on_exit may keep the task: not what it worked on
            self._end()
            del self  # which keeps its error, whose traceback refers to this frame

    def _failed(self, error: BaseException) -> None:
        self.error = error
        if self._epoch == forks.count:
            logger.error('task %r ended by an error', self.name, exc_info=error)

    def _end(self) -> None:
        # no switch: nobody may see a task that is half ended
        if self._greenlet is None:
            return
        self._greenlet = None
        self._owner = None
        _live.discard(self)
        on_exit, self._on_exit = self._on_exit, None
        ended, self._ended = self._ended, None
        if self._epoch != forks.count:
            # A copy in a forked child: the owner's after_fork hook has told it; nothing restarts here.
            on_exit = None
        if on_exit is not None:
            try:
                on_exit(self, self.error)
            except Exception:
                logger.exception('on_exit of task %r failed', self.name)
        if ended is not None:
            ended.set_result()

    def _throw(self) -> None:
        # Its start was queued before this, so it has started, or `_run` has seen the kill and let it end.
        self._kills = 0
        if self._greenlet is not None:
            self._greenlet.throw(TaskExit)

    def _owner_gone(self, _reference: object) -> None:
        # Runs wherever the last reference was dropped, perhaps in the garbage collector of another thread.
        self.kill()

    def __repr__(self) -> str:
        ended = 'done' if self.error is None else f'failed: {self.error!r}'
        return f'<Task {self.name!r} {"running" if self._greenlet is not None else ended}>'


def spawn(
    fun: Callable[..., Any],
    *args: Any,
    name: str,
    owner: object | None = None,
    on_exit: OnExit | None = None,
) -> Task:
    """Start a task; it runs in the hub's next round.

    Arguments:
        fun (Callable): called with `args`. An error it lets out is logged on 'greenmq.runtime' and given to
            `on_exit`.
        name (str): fixed and documented, e.g. "amqp-reader h:5672".
        owner (object): held weakly; when it is collected the task is killed. So `fun` must not be a method of
            it.
        on_exit (Callable[[Task, BaseException | None], None]): runs at the end of the task, in it, with its
            error (None after a kill or a normal end). Must not block. Not called in a forked child.
    Returns:
        Task: has `name`, `done`, `error`, `kill()`, `join(timeout)`.
    Source: greenmq's own; the rule that no greenlet is without an owner is nameko's.
    """
    return Task(fun, args, name, owner, on_exit)


class TaskGroup:
    """Tasks that end together: when one ends by an error, the others are killed.

    Arguments:
        name (str): the tasks are called after it unless they have names of their own.
    Attributes:
        error (BaseException | None): the first error of a member.
    Source: greenmq's own; a nursery of trio is similar.
    """

    __slots__ = ('__weakref__', '_tasks', 'error', 'name')

    def __init__(self, name: str) -> None:
        self.name = name
        self.error: BaseException | None = None
        self._tasks: set[Task] = set()

    def spawn(
        self,
        fun: Callable[..., Any],
        *args: Any,
        name: str | None = None,
        owner: object | None = None,
        on_exit: OnExit | None = None,
    ) -> Task:
        """Start a task in the group; as the function `spawn`."""

        def ended(task: Task, error: BaseException | None) -> None:
            self._tasks.discard(task)
            if error is not None and self.error is None:
                self.error = error
                self.kill()
            if on_exit is not None:
                on_exit(task, error)

        task = spawn(fun, *args, name=name or self.name, owner=owner, on_exit=ended)
        self._tasks.add(task)
        return task

    def kill(self) -> None:
        """Kill all; but not the task that calls, if it is one of them."""
        me = getcurrent()
        for task in list(self._tasks):
            if task._greenlet is not me:
                task.kill()

    def join(self, timeout: Timeoutish = None) -> bool:
        """Wait until all have ended, those included that are spawned meanwhile.

        Returns:
            bool: False if not in time.
        Switches: only if there are any. Killed while waiting: the tasks go on.
        """
        deadline = Deadline.of(timeout)
        while self._tasks:
            if not next(iter(self._tasks)).join(deadline):
                return False
        return True

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f'<TaskGroup {self.name!r} {len(self._tasks)} running>'


def current() -> Any:
    """Identity of the task or greenlet that runs: hashable, weakly referable."""
    return getcurrent()


def current_name() -> str:
    """Name of the task or greenlet that runs, its repr if it has none."""
    running = getcurrent()
    return str(getattr(running, 'name', '') or repr(running))


def link(task: Any, callback: Callable[[Any], None]) -> bool:
    """Have something called after a task or greenlet has ended, in whatever way.

    Arguments:
        task (object): what `current` gave.
        callback (Callable[[object], None]): gets `task`; runs in the hub.
    Returns:
        bool: False if the library cannot tell: a bare greenlet, or the main one.
    Source: gevent.Greenlet.rawlink.
    """
    return library.link(task, callback)


def is_task(greenlet: Any) -> bool:
    """Tell whether a greenlet, of any thread, is one that `spawn` started and that has not ended."""
    return any(task._greenlet is greenlet for task in list(_live))


def kill_all(hub: Any) -> bool:
    """Of a hub whose thread ends: kill its tasks, all of which the hub is to let run once more.

    Returns:
        bool: True if there were any.
    """
    found = [task for task in list(_live) if task._hub is hub]
    for task in found:
        task.kill()
    return bool(found)


def end_all() -> None:
    """In a forked child: end all copied tasks of this thread but the one that forked."""
    me, hub = getcurrent(), library.peek_hub()
    for task in list(_live):
        if task._hub is not hub:
            _live.discard(task)
        elif task._greenlet is not me:
            task._kills = 0
            task.kill()
