"""The one pool algorithm: free resources last in first out, those who wait first come first served.

Where a resource or its place can be; each move between two of them is one stretch without a switch:

* *free*: on the shelf;
* *opening*: between two owners: being made, prepared or put back. The place is taken before any of that
  begins, and given back on whatever ends it, be it an error, a kill or a Timeout of the caller;
* *in use*: somebody has a lease. A resource that was handed to a waiter is in use from that moment; a waiter
  that dies before it runs declines, and the next one in line gets it.

``in_use + free + opening == size``, never above the limit but after a forced shrink. Nobody waits while
there is room.
"""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from greenmq import exceptions, runtime
from greenmq.log import get_logger
from greenmq.pooling.background import BackgroundTasks
from greenmq.pooling.lease import Lease, Shelf
from greenmq.pooling.reaper import Reaper
from greenmq.pooling.stats import PoolStats, nothing_free, percentile
from greenmq.pooling.threads import ThreadPools
from greenmq.utils import validate
from greenmq.utils.functional import lazy

__all__ = ('Lease', 'PoolStats', 'Resource', 'Shelf')

logger = get_logger('greenmq.pool')

T = TypeVar('T')

_ROOM: Any = object()  # handed to a waiter: there is room for one more, open it yourself
_TIMES = 1024  # how many waits the percentiles of stats() look back on


def _nobody() -> None:
    return None


class Resource(Generic[T]):
    """A pool. Subclasses say how a resource is made, made ready, put back and closed.

    Arguments:
        limit (int): how many there may be at once; None or 0: no limit, and none is kept for the next one.
        preload (int): how many `setup` makes at once.
        close_after_fork (bool): a forked child begins with an empty pool. (It does in any case.)
        max_idle (float): seconds; what was free for longer is closed, down to `preload`.
        max_age (float): seconds; what was open for longer is replaced when it is free, in the background.
    Source: kombu.resource.Resource; differs: max_idle, max_age, stats.
    """

    LimitExceeded: type[exceptions.LimitExceeded] = exceptions.LimitExceeded
    close_after_fork = False
    #: Seconds that ``acquire(block=True)`` waits at most; None or inf: for ever.
    default_timeout: float | None = 30.0
    #: A resource that comes back while an exception passes is closed, and not given to the next.
    discards_on_error = False
    #: Seconds that a free resource is kept, up to a tenth less; None: any time.
    max_idle: float | None = None
    #: Seconds that a resource is used, up to a tenth less; None: any time.
    max_age: float | None = None

    def __init__(
        self, limit: int | None = None, preload: int | None = None, close_after_fork: bool | None = None, *,
        max_idle: float | None = None, max_age: float | None = None,
    ) -> None:  # fmt: skip
        self._limit: int | None = validate.pool_limit(limit)
        self.max_idle = self.max_idle if max_idle is None else max_idle
        self.max_age = self.max_age if max_age is None else max_age
        self.preload = preload or 0
        if close_after_fork is not None:
            self.close_after_fork = close_after_fork
        self._closed = False
        self.begin()
        self.setup()

    def begin(self) -> None:
        """Have nothing: what belongs to one hub."""
        limited = self.max_idle is not None or self.max_age is not None
        self._reaper = Reaper(self, self.max_idle, self.max_age) if limited else None
        self._others, self._renewals = ThreadPools(), BackgroundTasks('greenmq.pool')
        self._resource = Shelf(weakref.ref(self))
        self._dirty: dict[int, Lease] = {}  # by id: resources need not be hashable
        self._opening = 0
        self._line: runtime.Handoff | None = None
        self._hub: Callable[[], Any] = _nobody
        self.needs_setup = False
        self._opened = 0
        self._discarded: Counter[str] = Counter()
        self._waits: deque[float] = deque(maxlen=_TIMES)
        runtime.after_fork(self._after_fork)

    # ------------------------------------------------------------------------------ what subclasses define

    def setup(self) -> None:
        """Fill the pool: called once when it is made, and again in a forked child.

        Source: kombu Resource.setup.
        """
        raise NotImplementedError('subclass responsibility')

    def new(self) -> Any:
        """Make a resource; may switch. The place for it is reserved already.

        Source: kombu ConnectionPool.new.
        """
        raise NotImplementedError('subclass responsibility')

    def prepare(self, resource: Any) -> Any:
        """Make a resource ready to be handed out; may switch, and return another one: of a `lazy`, its value.

        Source: kombu Resource.prepare.
        """
        return resource() if isinstance(resource, lazy) else resource

    def release_resource(self, resource: Any) -> None:
        """Called when a resource comes back, before anybody else can have it.

        Source: kombu Resource.release_resource.
        """

    def close_resource(self, resource: Any) -> None:
        """Close a resource for good; may switch.

        Source: kombu Resource.close_resource.
        """
        resource.close()

    def collect_resource(self, resource: Any) -> None:
        """Close a resource that is broken, or that may not wait; by default in the background.

        Switches: must not.
        Source: kombu Resource.collect_resource.
        """
        runtime.spawn(self._close_quietly, resource, name='greenmq.pool')

    def is_alive(self, resource: Any) -> bool:
        """False if a free resource is not worth handing out. Must not switch."""
        return True

    def warm(self, resource: Any) -> None:
        """Open a new resource that nobody waits for, so that who takes it need not. Switches: yes."""
        self.prepare(resource)

    # ------------------------------------------------------------------------------------------- acquire

    def acquire(self, block: bool = False, timeout: float | None = None) -> T:
        """Take a resource from the pool, opening one if there is room.

        Arguments:
            block (bool): wait for a free one when the limit is reached, at most the pool's default_timeout.
            timeout (float): seconds to wait (implies `block`); inf waits for ever.
        Returns:
            object: ours alone until its `release()` is called, or `release(resource)` of the pool.
        Raises:
            LimitExceeded: nothing free (in time); ``args[0]`` is the limit, the text says who has them.
            RuntimeError: the pool is closed.
            whatever making one raises.
        Switches: yes, unless one is free. Killed at any point: the pool is as it was.
        Source: kombu Resource.acquire; differs: waiters are served in order, a timeout implies block.
        """
        other = self._enter()
        if other is not None:
            return other.acquire(block, timeout)  # type: ignore[no-any-return]
        grant = self._claim()
        if grant is None:
            if timeout is None:
                if not block:
                    raise self._limit_exceeded(None)
                timeout = self.default_timeout
            grant = self._wait(timeout, runtime.Deadline.after(timeout))
        return self._hand_out(grant)

    def _enter(self) -> Any:
        """Check that it may be used; the set to be used instead, if this one is another thread's."""
        if self._closed:
            raise RuntimeError(f'Acquire on closed pool: {self!r}')
        hub = runtime.hub_id()
        if self._hub() is not hub:
            with self._others.lock:  # two threads may come first
                if self._hub() is not None:
                    return self._others.set_of(self, hub)
                # weakly: a pool must not keep the hub of a thread that has ended
                self._hub = weakref.ref(hub)
        if self.needs_setup:
            self.needs_setup = False
            self.setup()
        return None

    def _claim(self) -> Any:
        """The lease of a free resource or _ROOM, counted as opening; None if all are in use."""
        # no switch
        free = self._resource.queue
        while free:
            resource = free.pop()
            if self._reaper is not None:
                self._reaper.taken(resource)
            if self.is_alive(resource):
                self._opening += 1
                return Lease(self, resource)
            self._throw_away(resource, 'dead')
        limit = self._limit
        if not limit or self.size < limit:
            limit = self._ceiling()  # never above the limit, so nobody who waits need ask
        if limit and self.size >= limit and not (self._reap() and self.size < limit):
            return None
        self._opening += 1
        return _ROOM

    def _reap(self) -> bool:
        """Take back the places of leases that are worth nothing any more; False if there can be no such."""
        return False

    def _wait(self, timeout: float | None, deadline: runtime.Deadline) -> Any:
        if deadline.expired():
            raise self._limit_exceeded(timeout)
        if self._line is None:
            self._line = runtime.Handoff(f'{self!r}: nothing free')
        began = runtime.monotonic()
        try:
            grant = self._line.wait(deadline, decline=self._decline)
        except exceptions.TimeoutError:
            raise self._limit_exceeded(timeout) from None
        finally:
            self._waits.append(runtime.monotonic() - began)
        # no switch
        if grant is _ROOM:
            return grant
        lease = self._dirty.pop(id(grant), None)
        if lease is not None:
            self._opening += 1
            return lease
        self._enter()  # force_close_all() took it out of our hands before we ran
        return self._claim() or self._wait(timeout, deadline)

    def _decline(self, grant: Any) -> None:
        # the waiter died after it had accepted; must not switch
        if grant is _ROOM:
            self._opening -= 1
            self._fill_room()
        elif self._dirty.pop(id(grant), None) is not None:
            self._put_back(grant)

    def _hand_out(self, grant: Any) -> T:
        resource = None if grant is _ROOM else grant.resource
        try:
            if grant is _ROOM:
                resource = self._make()
            made = self.prepare(resource)
            if self._closed:
                raise RuntimeError(f'Acquire on closed pool: {self!r}')
        except BaseException:
            self._opening -= 1
            if isinstance(resource, lazy) and not self._closed:
                self._put_back(resource)  # nothing was made of it yet
            elif resource is not None:
                self._throw_away(resource, 'failed')
            else:
                self._fill_room()
            raise
        # no switch
        if self._reaper is not None and made is not resource:
            self._reaper.opened(made)  # of a `lazy`
        self._opening -= 1
        lease = self._dirty[id(made)] = Lease(self, made) if grant is _ROOM or made is not resource else grant
        lease.taken()
        try:
            made.release = lease
        except AttributeError:
            pass  # it takes no attributes: only the pool's own release() gives it back
        return made  # type: ignore[no-any-return]

    def _make(self) -> Any:
        resource = self.new()
        # no switch
        self._opened += 1
        if self._reaper is not None:
            self._reaper.opened(resource)
        return resource

    # -------------------------------------------------------------------------------------------- return

    def release(self, resource: Any) -> None:
        """Give a resource back; the first in line gets it. Nothing happens if it was given back before.

        Switches: only if `release_resource` does, or if there is no limit: it is closed then. Killed: it is
            closed.
        Source: kombu Resource.release.
        """
        lease = self._dirty.pop(id(resource), None)
        if lease is None:
            self._others.pass_on('release', resource)
            return
        broken = self.discards_on_error and lease.in_error()
        lease.end()
        if broken:
            self._throw_away(resource, 'replaced')
            return
        if not self._limit or self._closed:
            self._fill_room()
            self._gone(resource)
            self._close_quietly(resource)
            return
        self._opening += 1
        try:
            self.release_resource(resource)
            alive = self.is_alive(resource)
        except BaseException:
            self._opening -= 1
            self._throw_away(resource, 'failed')
            raise
        # no switch
        self._opening -= 1
        if alive and not self._closed:
            self._put_back(resource)
        else:
            self._throw_away(resource, 'dead')

    def replace(self, resource: Any) -> None:
        """Give a resource back as broken: it is closed in the background, and there is room for a new one.

        Source: kombu Resource.replace.
        """
        lease = self._dirty.pop(id(resource), None)
        if lease is not None:
            lease.end()
            self._throw_away(resource, 'replaced')
        else:
            self._others.pass_on('replace', resource)

    def orphaned(self, lease: Lease, who: str) -> None:
        """The task that had a lease has ended without giving its resource back: called by the lease."""
        # no switch
        resource = lease.resource
        if self._dirty.get(id(resource)) is not lease:
            return
        del self._dirty[id(resource)]
        seconds = runtime.monotonic() - lease.since
        lease.end()
        logger.warning(
            '%r: %s has ended and did not give back %r, which it had for %.1f s; it is closed, and its place '
            'is free again. Use it in a `with`, or return it from the task to pass it on.',
            self, who, resource, seconds,
        )  # fmt: skip
        self._throw_away(resource, 'orphaned')

    def _put_back(self, resource: Any) -> None:
        # no switch
        limit = self._limit
        if self._closed or (limit and self.size >= limit):
            # shrunk below what is there: this one is one too many
            self._throw_away(resource, 'closed' if self._closed else 'shrunk')
            return
        if self._reaper is not None and self._reaper.is_old(resource):
            self._throw_away(resource, 'old')
            self._renewals.add(self._renew)
            return
        line = self._line
        if line is not None:
            lease = self._dirty[id(resource)] = Lease(self, resource)
            if line.give(resource):
                return
            lease.end()
            del self._dirty[id(resource)]
        self._resource.queue.append(resource)
        if self._reaper is not None:
            self._reaper.shelved(resource)

    def _throw_away(self, resource: Any, cause: str) -> None:
        # no switch: its place is free before it is closed
        self._discarded[cause] += 1
        self._gone(resource)
        self._fill_room()
        if isinstance(resource, lazy):
            return
        try:
            self.collect_resource(resource)
        except Exception as exc:  # it is broken: what it says now is of no use to the caller
            logger.debug('%r: closing %r: %r', self, resource, exc)

    def _gone(self, resource: Any) -> None:
        if self._reaper is not None:
            self._reaper.gone(resource)

    def _fill_room(self) -> None:
        """Tell those who wait that there is room, as many as there is room for."""
        # no switch
        line = self._line
        if line is None:
            return
        limit = self._ceiling()
        while not limit or self.size < limit:
            self._opening += 1
            if not line.give(_ROOM):
                self._opening -= 1
                return

    def _close_quietly(self, resource: Any) -> None:
        try:
            self.close_resource(resource)
        except Exception as exc:  # a broken resource may raise anything; it is gone either way
            logger.debug('%r: closing %r: %r', self, resource, exc)

    # ------------------------------------------------------------------------------------ in the background

    def on_shelf(self) -> list[Any]:
        """The free resources, the one to be handed out next last."""
        return self._resource.queue

    def retire(self, resource: Any, cause: str) -> None:
        """Close a free resource; another one takes its place, in the background, unless it was idle."""
        # no switch: identity, not equality: two connections to one broker are equal
        free = self._resource.queue
        for place, each in enumerate(free):
            if each is resource:
                del free[place]
                break
        else:
            return
        self._throw_away(resource, cause)
        if cause != 'idle' or self.size < self.preload:
            self._renewals.add(self._renew)

    def _renew(self) -> None:
        limit = self._ceiling()
        if self._closed or (limit and self.size >= limit):
            return
        # no switch
        self._opening += 1
        resource: Any = None
        try:
            resource = self._make()
            self.warm(resource)
        except BaseException as exc:
            self._opening -= 1
            if resource is None:
                self._fill_room()
            else:
                self._throw_away(resource, 'failed')
            if not isinstance(exc, Exception):
                raise
            logger.info('%r: nothing new could be opened, the next one to need it tries again: %r', self, exc)
            self._renewals.forget()
            return
        # no switch
        self._opening -= 1
        self._put_back(resource)

    # ---------------------------------------------------------------------------------------------- size

    def has_leased(self, resource: Any) -> bool:
        """Is it in use, and from here?"""
        return id(resource) in self._dirty

    @property
    def size(self) -> int:
        """How many there are: in use, free, being opened."""
        return len(self._dirty) + len(self._resource.queue) + self._opening

    def _ceiling(self) -> int | None:
        """The limit, or less if what the resources stand on has room for less."""
        return self._limit

    @property
    def limit(self) -> int | None:
        """How many resources there may be at once; None or 0: no limit. May be set; see `resize`."""
        return self._limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self.resize(limit)

    def resize(
        self, limit: int | None, force: bool = False, ignore_errors: bool = False, reset: bool = False
    ) -> None:
        """Change the limit.

        Arguments:
            force (bool): also below the number in use: those too many are closed as they come back.
            ignore_errors (bool): as `force`.
            reset (bool): close all there are, also those in use.
        Raises:
            RuntimeError: more are in use, and neither `force` nor `ignore_errors` was given.
        Switches: only with `reset`.
        Source: kombu Resource.resize.
        """
        in_use, limit = len(self._dirty) + self._opening, validate.pool_limit(limit)
        if limit and in_use > limit and not (force or ignore_errors):
            was = f'was={self._limit} now={limit}, {in_use} in use'
            raise RuntimeError(f"Can't shrink pool when in use: {was}")
        # no switch
        self._limit = limit
        self._others.tell('resize', limit, True)
        free = self._resource.queue
        while free and limit and self.size > limit:
            self._throw_away(free.pop(0), 'shrunk')
        self._fill_room()
        if reset:
            self.force_close_all(close_pool=False)

    def force_close_all(self, close_pool: bool = True) -> None:
        """Close all resources, also those in use.

        Arguments:
            close_pool (bool): no more can be acquired afterwards, and those who wait get RuntimeError.
        Switches: yes. Killed: the rest is closed in the background.
        Source: kombu Resource.force_close_all.
        """
        self._closed = self._closed or close_pool
        self._others.tell('force_close_all', close_pool)
        self._force_close()

    def thread_ended(self) -> None:
        """Close what this thread has, and be the pool of whichever uses it next. Switches: yes."""
        self._hub = _nobody  # not closed: Celery keeps as app.pool what the first thread to send looked up
        self._force_close()
        self._renewals, self._opening, self._line = BackgroundTasks('greenmq.pool'), 0, None

    def _force_close(self) -> None:
        # no switch: what is closed below belongs to nobody any more
        doomed = [lease.resource for lease in self._dirty.values()]
        for lease in self._dirty.values():
            lease.end()
        free = self._resource.queue
        doomed += [resource for resource in free if not isinstance(resource, lazy)]
        self._dirty.clear()
        if self._reaper is not None:
            self._reaper.forget()
        free[:] = [] if self._closed else [resource for resource in free if isinstance(resource, lazy)]
        self._discarded['closed'] += len(doomed)
        if self._closed:
            if self._line is not None:
                self._line.fail_all(RuntimeError(f'Acquire on closed pool: {self!r}'))
        else:
            self._fill_room()
        try:
            while doomed:
                self._close_quietly(doomed.pop())
        finally:
            for left in doomed:
                self._throw_away(left, 'closed')  # killed: the rest in the background

    def _after_fork(self) -> None:
        # All of it is the parent's: nothing may be closed here in a way that the broker would notice.
        for lease in self._dirty.values():
            lease.end()
        self._others, self._renewals = ThreadPools(), BackgroundTasks('greenmq.pool')
        self._dirty.clear()
        self._resource.queue.clear()
        self._opening, self._line = 0, None
        if self._reaper is not None:
            self._reaper.forget()
        self._hub = _nobody
        self._waits.clear()
        self.needs_setup = not self._closed

    # ------------------------------------------------------------------------------------------- numbers

    def stats(self) -> PoolStats:
        """What the pool has and has done."""
        return PoolStats(
            limit=self._limit, size=self.size, in_use=len(self._dirty), free=len(self._resource.queue),
            opening=self._opening, waiting=self._waiting(), opened=self._opened,
            discarded=dict(self._discarded),
            wait_p50=percentile(self._waits, 50), wait_p99=percentile(self._waits, 99),
        )

    def _waiting(self) -> int:
        return 0 if self._line is None else len(self._line)

    @property
    def label(self) -> str:
        """Its name, for texts."""
        return type(self).__name__

    def _limit_exceeded(self, waited: float | None) -> exceptions.LimitExceeded:
        text = nothing_free(self.label, self._limit, self._dirty.values(), waited)
        return self.LimitExceeded(self._limit, text)

    def __repr__(self) -> str:
        return (
            f'<{type(self).__name__} {self.label}: {len(self._dirty)} in use, '
            f'{len(self._resource.queue)} free, {self._opening} opening '
            f'of {self._limit or "any number"}, {self._waiting()} waiting>'
        )
