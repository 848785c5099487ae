"""Pools by connection, of connections and of producers; one global limit.

`connections[conn]` leases whole connections, one to a holder. `producers[conn]` leases *channels*: all its
producers publish over one or two connections that the pool keeps for them, so thousands of greenlets need
two sockets. What goes wrong in one lease costs that channel and nobody else.

The groups keep one set of pools for each hub, so native threads may use them; a forked child begins with
none.

>>> with producers['memory://localhost/example'].acquire(timeout=2) as producer:
...     _ = producer.publish({'id': 1}, routing_key='orders', declare=[Queue('orders')], timeout=2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

from greenmq import messaging, runtime
from greenmq.connection import Connection
from greenmq.log import get_logger
from greenmq.pooling.background import BackgroundTasks
from greenmq.pooling.connections import ConnectionPool
from greenmq.pooling.shared import SharedConnections, close_channel
from greenmq.resource import Resource
from greenmq.utils import validate
from greenmq.utils.collections import EqualityDict, eqhash
from greenmq.utils.functional import lazy

__all__ = (
    'PoolGroup', 'ProducerPool', 'connections', 'get_limit', 'producers', 'register_group', 'reset',
    'set_limit',
)  # fmt: skip

logger = get_logger('greenmq.pool')

PoolT = TypeVar('PoolT')
GroupT = TypeVar('GroupT', bound='PoolGroup[Any]')

#: Kept for programs that set it: lowering the limit is never refused.
disable_limit_protection: Any = None
#: As the limit of a group: that of `set_limit`.
use_global_limit: Any = object()

_limit = [10]
_groups: list[PoolGroup[Any]] = []

# of a group that nobody has used yet
_NO_HUB: tuple[Callable[[], Any], EqualityDict] = ((lambda: None), EqualityDict())

class ProducerPool(Resource[messaging.Producer]):
    """A pool of producers, each with a channel of its own, on a few connections that they share.

    A subclass that overrides `create_producer` or `prepare` gets whole connections: one each, as in kombu.

    Arguments:
        connections (ConnectionPool): where the connections come from.
        limit (int): how many producers at most; None: no limit.
        Producer (type): the class of the producers.
        max_connections (int): how many connections they share at most.
    Source: kombu.pools.ProducerPool; differs: channels are leased, not connections.
    """

    Producer: Any = messaging.Producer
    close_after_fork = True
    discards_on_error = True
    #: How many connections all producers share at most.
    max_connections = 2

    def __init__(self, connections: ConnectionPool, *args: Any, **kwargs: Any) -> None:
        self.connections = connections
        self.Producer = kwargs.pop('Producer', None) or self.Producer
        self.max_connections = kwargs.pop('max_connections', None) or self.max_connections
        cls = type(self)
        self._shares = (
            cls.create_producer is ProducerPool.create_producer and cls.prepare is ProducerPool.prepare
        )
        super().__init__(*args, **kwargs)

    def begin(self) -> None:
        """See `Resource.begin`."""
        self._share_anew()
        super().begin()

    def _share_anew(self) -> None:
        self._shared = SharedConnections(self.connections, self.max_connections)
        self._closings = BackgroundTasks('greenmq.pool')

    def setup(self) -> None:
        """Nothing: producers are made when they are acquired."""

    def acquire(self, block: bool = False, timeout: float | None = None) -> messaging.Producer:
        """Take a producer; its channel is opened when it publishes.

        Arguments:
            block (bool): wait for one when the limit is reached, at most the pool's default_timeout.
            timeout (float): seconds to wait (implies `block`), also for a connection; inf waits for ever.
        Returns:
            Producer: given back by `release()` or at the end of a ``with``. After an error in the ``with``
                its channel is closed, and not used again.
        Raises:
            LimitExceeded: nothing free in time.
        Switches: yes, unless one is free. Killed: the pool is as it was.
        Source: kombu Resource.acquire.
        """
        if self._shares and not self._shared.found:
            other = self._enter()
            if other is not None:
                return other.acquire(block, timeout)  # type: ignore[no-any-return]
            if timeout is None and block:
                timeout = self.default_timeout
            deadline = runtime.Deadline.after(timeout)
            self._enter()
            self._shared.add(block, timeout)
            timeout = deadline.remaining() if timeout is not None else None
        return Resource.acquire(self, block, timeout)

    def create_producer(self) -> messaging.Producer:
        """Make a producer on a connection of its own.

        Switches: yes, if it has to wait for a connection.
        Source: kombu ProducerPool.create_producer.
        """
        connection = self.connections.acquire(block=True)
        try:
            return self.Producer(connection)  # type: ignore[no-any-return]
        except BaseException:
            connection.release()
            raise

    def new(self) -> Any:
        """A producer, with a channel to be opened on a shared connection."""
        if not self._shares:
            return lazy(self.create_producer)
        return self._shared.lease(self.Producer)

    def prepare(self, p: Any) -> Any:
        """Make a producer ready: one that has no connection of its own gets one, unless they share.

        Switches: yes, if it has to wait for a connection.
        Source: kombu ProducerPool.prepare.
        """
        if callable(p):
            p = p()
        if not self._shares and p._channel is None:
            connection = self.connections.acquire(block=True)
            try:
                p.revive(connection)
            except BaseException:
                connection.release()
                raise
        return p

    def release_resource(self, resource: Any) -> None:
        """Give the connection of a producer back too, unless it is shared."""
        if not self._shares:
            connection = resource.__connection__
            if connection is not None:
                connection.release()
            resource.channel = None

    def close_resource(self, resource: Any) -> None:
        """Close what is only of this producer: the leased channel, or nothing. Switches: yes."""
        lease = self._shared.end(resource)
        if lease is not None:
            close_channel(*lease)
        elif not self._shares:
            self.release_resource(resource)

    def collect_resource(self, resource: Any) -> None:
        """As `close_resource`, in the background."""
        lease = self._shared.end(resource)
        if lease is not None:
            if hasattr(lease[1], '__value__'):
                self._closings.add(close_channel, *lease)
        elif not self._shares:
            connection, resource.channel = resource.__connection__, None
            if connection is not None:
                self.connections.replace(connection)

    def is_alive(self, resource: Any) -> bool:
        """True if its channel is the leased one, and open; or is still to be opened."""
        alive = self._shared.is_alive(resource, resource._channel)
        return not self._shares if alive is None else alive

    def _force_close(self) -> None:
        shared = self._shared.take_all()
        try:
            super()._force_close()
        finally:
            for each in shared:
                each.released()

    def _ceiling(self) -> int | None:
        return self._shared.ceiling(self._limit)

    def _after_fork(self) -> None:
        self._share_anew()
        super()._after_fork()

    @property
    def label(self) -> str:
        """See `Resource.label`."""
        return f'producers of {self.connections.label}'


class PoolGroup(EqualityDict, Generic[PoolT]):
    """Pools by what they are pools of; one is made when it is first asked for. Each hub has its own.

    Arguments:
        limit (int): of each pool; `use_global_limit`: that of `set_limit`.
        close_after_fork (bool): a forked child begins with none. (It does in any case.)
    Source: kombu.pools.PoolGroup.
    """

    limit: int | None = None
    _by_hub: WeakKeyDictionary[Any, EqualityDict] = WeakKeyDictionary()  # its own from the first use on
    _last: tuple[Callable[[], Any], EqualityDict] = _NO_HUB

    def __init__(self, limit: int | None = None, close_after_fork: bool = True) -> None:
        super().__init__()
        self.limit = limit
        self.close_after_fork = close_after_fork

    def create(self, resource: Any, limit: int | None) -> PoolT:
        """Make the pool for `resource`; subclasses say how.

        Source: kombu PoolGroup.create.
        """
        raise NotImplementedError('PoolGroups must define ``create``')

    def resolve(self, resource: Any) -> Any:
        """What `resource` stands for: here itself."""
        return resource

    @property
    def pools(self) -> EqualityDict:
        """Those of the hub of this thread."""
        hub = runtime.hub_id()
        last, latest = self._last
        if last() is hub:
            return latest
        found = self._by_hub.get(hub)
        if found is None:
            if '_by_hub' not in self.__dict__:
                self._by_hub = WeakKeyDictionary()
                runtime.after_fork(self._after_fork)
            found = self._by_hub[hub] = EqualityDict()
            runtime.at_thread_end(self)
        self._last = ref(hub), found
        return found

    def thread_ended(self) -> None:
        """Close what the pools of this thread have. Switches: yes."""
        _each(list(self._by_hub.pop(runtime.hub_id(), {}).values()), 'thread_ended')

    def _after_fork(self) -> None:
        # Not closed: what is in them is the parent's. Each pool forgets its own in the same way.
        self._by_hub = WeakKeyDictionary()
        self._last = _NO_HUB

    def __getitem__(self, resource: Connection | str | Any) -> PoolT:
        found = self.pools.get(resource)
        return self.__missing__(resource) if found is None else found

    def __missing__(self, resource: Any) -> PoolT:
        whole = self.resolve(resource)
        pools = self.pools
        pool = pools.get(whole)
        if pool is None:
            limit = get_limit() if self.limit is use_global_limit else self.limit
            pool = pools[whole] = self.create(whole, limit)
        return pool  # type: ignore[no-any-return]

    def __setitem__(self, resource: Any, pool: Any) -> None:
        self.pools[self.resolve(resource)] = pool

    def __delitem__(self, resource: Any) -> None:
        del self.pools[self.resolve(resource)]

    def __contains__(self, resource: Any) -> bool:
        return self.resolve(resource) in self.pools

    def __iter__(self) -> Iterator[Any]:
        return iter(self.pools)

    def __len__(self) -> int:
        return len(self.pools)

    def __bool__(self) -> bool:
        return bool(self.pools)

    def get(self, resource: Any, default: Any = None) -> Any:
        """The pool, if there is one; makes none."""
        return self.pools.get(self.resolve(resource), default)

    def setdefault(self, resource: Any, default: Any = None) -> Any:
        """The pool, or `default` from now on."""
        return self.pools.setdefault(self.resolve(resource), default)

    def pop(self, resource: Any, *default: Any) -> Any:
        """Take a pool out of the group; it is not closed."""
        return self.pools.pop(eqhash(self.resolve(resource)), *default)

    def keys(self) -> Any:
        """What the pools are pools of."""
        return self.pools.keys()

    def values(self) -> Any:
        """The pools."""
        return self.pools.values()

    def items(self) -> Any:
        """Pairs of what they are pools of, and the pools."""
        return self.pools.items()

    def clear(self) -> None:
        """Forget the pools of this hub; they are not closed."""
        self.pools.clear()

    def __repr__(self) -> str:
        return repr(dict(self.pools))

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other


class _ByConnection(PoolGroup[PoolT]):
    # A URL is looked up on each request of a web worker: it is parsed once.
    def __init__(self, limit: int | None = None, close_after_fork: bool = True) -> None:
        super().__init__(limit, close_after_fork)
        self._urls: dict[str, Connection] = {}

    def resolve(self, resource: Any) -> Any:
        if not isinstance(resource, str):
            return resource
        found = self._urls.get(resource)
        if found is None:
            found = self._urls[resource] = Connection(resource)
        return found

    def __getitem__(self, resource: Connection | str) -> PoolT:
        # Each request comes through here, so what can be spared is.
        whole = self.resolve(resource) if resource.__class__ is str else resource
        found = dict.get(self.pools, eqhash(whole))
        return self.__missing__(whole) if found is None else found


class Connections(_ByConnection[ConnectionPool]):
    """Connection pools by connection or URL.

    Source: kombu.pools.Connections; differs: a URL will do.
    """

    def create(self, connection: Connection, limit: int | None) -> ConnectionPool:
        """A pool of connections like `connection`.

        Source: kombu Connections.create.
        """
        return connection.Pool(limit=limit)


class Producers(_ByConnection[ProducerPool]):
    """Producer pools by connection or URL.

    Source: kombu.pools.Producers; differs: a URL will do.
    """

    def create(self, connection: Connection, limit: int | None) -> ProducerPool:
        """A pool of producers, on connections of ``connections[connection]``.

        Source: kombu Producers.create.
        """
        return ProducerPool(connections[connection], limit=limit)


def register_group(group: GroupT) -> GroupT:
    """Have `reset` close the pools of this group, and `set_limit` resize those under the global limit.

    Source: kombu.pools.register_group.
    """
    _groups.append(group)
    return group


connections = register_group(Connections(limit=use_global_limit))
producers = register_group(Producers(limit=use_global_limit))


def get_limit() -> int:
    """The global limit: how many resources a pool has at most. 0: no limit.

    Source: kombu.pools.get_limit.
    """
    return _limit[0]


def set_limit(
    limit: int | None, force: bool = False, reset_after: bool = False, ignore_errors: bool = False
) -> int:
    """Set the global limit, also of the pools that are there; those of other threads follow, forced.

    Arguments:
        limit (int): None or 0: no limit.
        force (bool): also below the number in use; those too many are closed as they come back.
        reset_after (bool): close all that is in the pools, also what is in use.
        ignore_errors (bool): as `force`.
    Returns:
        int: the limit.
    Raises:
        RuntimeError: more are in use somewhere. The limit is set for the pools made from now on.
    Switches: only with `reset_after`.
    Source: kombu.pools.set_limit.
    """
    limit = validate.pool_limit(limit) or 0
    if limit == _limit[0] and not (force or reset_after):
        return limit
    _limit[0] = limit
    for hub, pool in _globally_limited():
        if runtime.is_here(hub):
            pool.resize(limit, force=force, ignore_errors=ignore_errors, reset=reset_after)
        else:
            resize = partial(pool.resize, limit, force=True, reset=reset_after)
            runtime.post(hub, partial(runtime.spawn, resize, name='greenmq.pool'))
    return limit


def _globally_limited() -> list[tuple[Any, Any]]:
    # Asks for no hub: a program sets its limit where it is imported, and the library is not chosen there.
    groups = [group._by_hub for group in _groups if group.limit is use_global_limit]
    return [(hub, pool) for group in groups for hub, pools in list(group.items()) for pool in pools.values()]


def reset(*args: Any, **kwargs: Any) -> None:
    """Close all pools of all registered groups, and forget them.

    Those of other threads are closed by those threads.

    Switches: yes.
    Source: kombu.pools.reset.
    """
    for group in reversed(_groups):  # producers give their connections back before those are closed
        for hub, pools in list(group._by_hub.items()):
            doomed = list(pools.values())
            pools.clear()
            if runtime.is_here(hub):
                _close_pools(doomed)
            else:
                runtime.post(hub, partial(runtime.spawn, _close_pools, doomed, name='greenmq.pool'))


def _close_pools(pools: list[Any]) -> None:
    _each(pools, 'force_close_all')


def _each(pools: list[Any], method: str) -> None:
    for pool in pools:
        close: Callable[[], Any] = getattr(pool, method, pool.force_close_all)
        try:
            close()
        except Exception:  # the other pools must be closed all the same
            logger.warning('reset: %r could not be closed', pool, exc_info=True)
