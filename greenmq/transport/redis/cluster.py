"""``redis+cluster://``: one link a primary, and which of them a key belongs to.

URL: ``redis+cluster://user:password@host:port``, several seeds after each other with ``;``. The key layout is
ours (see `keys`): all that a script touches for a queue is in the slot of ``{<queue>}``.

A node that is lost recovers by itself; meanwhile any other is asked for the slots, every 0.2 s, so that a
replica that took over is found (P34). MOVED changes one slot at once, ASK one command, TRYAGAIN and
CLUSTERDOWN are tried again within the deadline. The layout is learnt from nodes, never assumed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from greenmq import runtime
from greenmq.exceptions import AMQPError, ConnectionClosed, ConnectionLost, InvalidArgument, OperationalError
from greenmq.log import get_logger
from greenmq.transport.redis import resp
from greenmq.transport.redis.driver import RedisDriver
from greenmq.transport.redis.errors import raised
from greenmq.transport.redis.handshake import Target, connect
from greenmq.transport.redis.link import Link, Taker
from greenmq.transport.redis.replies import DONE
from greenmq.transport.redis.server import Server, weakly
from greenmq.transport.redis.transport import Transport
from greenmq.transport.waiters import WaitingLine
from greenmq.utils.url import parse_url

__all__ = ('ClusterDriver', 'ClusterServer', 'ClusterTransport')

logger = get_logger('greenmq.transport.redis')

#: Seconds between two looks at the slots while a node is away, and between two tries of a command.
LOOK = 0.2
AGAIN = 0.05
#: How often a command follows a redirection before its error is raised.
MAX_REDIRECTIONS = 16


class ClusterServer(Server):
    """The connections to all primaries, as one `Server`.

    Arguments:
        dial_node (Callable): a bound method (name, owner, deadline) that opens a link to "host:port"; its
            object is held weakly.
        seeds (Sequence[str]): nodes to ask first.
    """

    def __init__(self, dial_node: Callable[..., Link], seeds: list[str], name: str) -> None:
        super().__init__(self._no_dial, name)
        self.clustered = True
        self._dial_node = weakref.WeakMethod(dial_node)
        self._seeds = seeds
        self._nodes: dict[str, Server] = {}
        self._slots: list[str] = [''] * 16384
        self._looking: runtime.Task | None = None

    @staticmethod
    def _no_dial(owner: Any, deadline: runtime.Deadline) -> Link:
        raise NotImplementedError('each node is dialled by itself')

    # ---- nodes

    @property
    def connected(self) -> bool:
        """Is any node there?"""
        return any(node.connected for node in self._nodes.values())

    @property
    def tracks(self) -> bool:
        """Do the nodes tell of changed keys?"""
        return all(node.tracks for node in self._nodes.values() if node.connected)

    def open(self, deadline: runtime.Deadline) -> None:
        """Ask the seeds for the slots and connect to all primaries. See `Server.open`."""
        met: list[str] = []
        for seed in self._seeds:
            try:
                node = self._node(seed)
                if not node.connected:
                    node.open(deadline)
                self._learn(node, deadline, dial=False)
            except (AMQPError, OSError, OperationalError) as error:
                met.append(f'{seed}: {error}')
                self._forget(seed)
                deadline.check(f'redis cluster {self.name} not reached ({"; ".join(met)})')
                if seed == self._seeds[-1]:
                    raise
                continue
            break
        for name in set(self._slots) - {''}:
            node = self._node(name)
            if not node.connected:
                node.open(deadline)
        self.epoch += 1

    def _node(self, name: str) -> Server:
        node = self._nodes.get(name)
        if node is None:
            # Whoever waits for a key does not care which node tells.
            dial = self._dial_node()
            if dial is None:
                raise ConnectionClosed('nobody uses the connection any more')
            node = Server(weakly(dial, name), name, self, self.watchers)
            self._nodes[name] = node
        return node

    def _forget(self, name: str) -> None:
        node = self._nodes.pop(name, None)
        if node is not None:
            node.close()

    def _learn(self, node: Server, deadline: runtime.Deadline, dial: bool = True) -> None:
        reply = node.execute(('CLUSTER', 'SLOTS'), None, deadline, _are_slots)
        slots = [''] * 16384
        for first, last, primary, *_ in reply:
            host = primary[0].decode() if primary[0] else node.name.rpartition(':')[0]
            name = f'{host}:{primary[1]}'
            slots[first : last + 1] = [name] * (last - first + 1)
        if not any(slots):
            raise ConnectionLost(f'redis {node.name} knows no slots: it is no cluster, or not yet')
        self._slots = slots
        for gone in [name for name in self._nodes if name not in set(slots)]:
            self._forget(gone)
        for name in set(slots) - {''}:
            if name not in self._nodes and dial:
                self._node(name).begin()

    def _look_soon(self) -> None:
        if not self.closed and (self._looking is None or self._looking.done):
            self._looking = runtime.spawn(_look, weakref.ref(self), name='redis-slots', owner=self)

    def look_once(self, deadline: runtime.Deadline) -> bool:
        """Ask somebody for the slots; True if all is well."""
        for node in list(self._nodes.values()):
            if not node.connected:
                continue
            try:
                self._learn(node, deadline)
            except (AMQPError, OSError, OperationalError) as error:
                logger.debug('redis cluster %s: %s', self.name, error)
                continue
            return all(each.connected for each in self._nodes.values())
        return False

    def node_of(self, key: str | None) -> Server:
        """The session of the primary that has a key; any for None.

        Raises:
            ConnectionLost: nobody has that slot now.
        """
        if self.closed:
            raise ConnectionClosed(f'the connection to redis cluster {self.name} is closed')
        if key is None:
            for node in self._nodes.values():
                if node.connected:
                    return node
        name = self._slots[key_slot(key.encode())] if key is not None else ''
        node_found = self._nodes.get(name)
        if node_found is None:
            self._look_soon()
            raise ConnectionLost(f'redis cluster {self.name}: nobody has the slot of {key!r} now')
        return node_found

    # ---- what the nodes tell (no switch)

    def on_lost(self, server: Server, error: BaseException) -> None:
        """See `ServerOwner`."""
        self._look_soon()
        self.failure = error
        owner = self._owner()
        if owner is not None and not self.closed and server.name in self._nodes:
            owner.on_lost(self, error)

    def on_recovered(self, server: Server) -> None:
        """See `ServerOwner`."""
        owner = self._owner()
        if owner is not None and self.epoch:
            owner.on_recovered(self)
        self.let_through()

    def on_pushed(self, server: Server, push: Any) -> None:
        """See `ServerOwner`."""
        owner = self._owner()
        if owner is not None:
            owner.on_pushed(self, push)

    def close(self) -> None:
        """See `Server.close`."""
        if self.closed:
            return
        if self._looking is not None:
            self._looking.kill()
        for node in self._nodes.values():
            node.close()
        super().close()

    def _wait(self, line: WaitingLine, deadline: runtime.Deadline | None) -> Link:
        while not self.connected:
            if self.closed:
                raise ConnectionClosed(f'the connection to redis cluster {self.name} is closed')
            line.wait(deadline, f'redis cluster {self.name} is away ({self.failure}); it did not come back')
        link = self.node_of(None).link
        assert link is not None
        return link

    # ---- commands

    def execute_many(
        self,
        commands: list[tuple[Any, ...]],
        key: str | None = None,
        deadline: runtime.Deadline | None = None,
        shape: Any = DONE,
    ) -> list[Any]:
        """See `Server.execute_many`; all of one slot."""
        for _ in range(MAX_REDIRECTIONS):
            link = self._open_node(key, deadline)
            replies = [link.expect(reply, shape) for reply in link.call_many(commands, deadline)]
            redirected = [reply for reply in replies if isinstance(reply, _REDIRECTIONS)]
            if not redirected:
                break
            self.moved(redirected[0])
            runtime.sleep(AGAIN)
        return [raised(reply, self.name) for reply in replies]

    def ask(
        self,
        command: tuple[Any, ...],
        key: str | None,
        deadline: runtime.Deadline | None,
        orphan: Callable[[Any], Any] | None,
        shape: Any,
    ) -> Any:
        """See `Server.ask`."""
        reply: Any = None
        asking = ''
        for _ in range(MAX_REDIRECTIONS):
            node = self._node(asking) if asking else self._open_session(key, deadline)
            if asking:
                node.post(resp.pack(('ASKING',)), '', _ignore)
                asking = ''
            reply = node.ask(command, key or '', deadline, orphan, shape)
            if isinstance(reply, AskError):
                asking = f'{reply.host}:{reply.port}'
            elif isinstance(reply, _REDIRECTIONS):
                self.moved(reply)
                if not isinstance(reply, MovedError):
                    runtime.sleep(AGAIN)
            else:
                break
        return reply

    def _open_session(self, key: str | None, deadline: runtime.Deadline | None) -> Server:
        while True:
            try:
                node = self.node_of(key)
                if node.connected:
                    return node
            except ConnectionLost:
                if deadline is not None and deadline.expired():
                    raise
            self._look_soon()
            if deadline is not None:
                deadline.check(f'redis cluster {self.name}: no answer for {key!r}')
            runtime.sleep(AGAIN)

    def _open_node(self, key: str | None, deadline: runtime.Deadline | None) -> Link:
        link = self._open_session(key, deadline).link
        assert link is not None
        return link

    def moved(self, error: Any) -> None:
        """A node said that a slot is elsewhere."""
        if isinstance(error, MovedError):
            name = f'{error.host}:{error.port}'
            self._slots[error.slot_id] = name
            if name not in self._nodes:
                self._node(name).begin()
        self._look_soon()

    def post(self, data: bytes, key: str, take: Taker, count: int = 1) -> None:
        """See `Server.post`."""
        self.node_of(key).post(data, key, take, count)

    def link_for(self, key: str) -> Link | None:
        """See `Server.link_for`."""
        try:
            return self.node_of(key).link_for(key)
        except AMQPError:
            return None


def _are_slots(reply: Any) -> bool:
    # Each: first slot, last slot, the primary (host, port, …), its replicas.
    return reply.__class__ is list and all(
        each.__class__ is list
        and len(each) >= 3
        and list(map(type, each[:3])) == [int, int, list]
        and 0 <= each[0] <= each[1] < 16384
        and len(each[2]) >= 2
        and each[2][1].__class__ is int
        and (each[2][0] is None or (each[2][0].__class__ is bytes and each[2][0].isascii()))
        for each in reply
    )


_REDIRECTIONS = (MovedError, AskError, TryAgainError, ClusterDownError)


def _ignore(reply: Any) -> None:
    """ASKING is always answered by OK."""


def _look(ref: weakref.ref[ClusterServer]) -> None:
    while True:
        server = ref()
        if server is None or server.closed or server.look_once(runtime.Deadline.after(2.0)):
            return
        del server
        runtime.sleep(LOOK)


class ClusterDriver(RedisDriver):
    """A Redis Cluster."""

    server: ClusterServer
    clustered: ClassVar[bool] = True

    def _make_server(self) -> Server:
        if self.db:
            raise InvalidArgument('database', self.db, 'must be 0: a cluster has no other')
        place = self.place
        seeds = [f'{place.host or "localhost"}:{place.port or self.default_port}']
        for text in place.alternates:
            found = parse_url(text if '://' in text else f'redis+cluster://{text}')
            seeds.append(f'{found["hostname"] or "localhost"}:{found["port"] or self.default_port}')
        return ClusterServer(self.dial_node, list(dict.fromkeys(seeds)), f'cluster at {seeds[0]}')

    def dial_node(self, name: str, owner: Any, deadline: runtime.Deadline) -> Link:
        """Open a link for commands to a node. Raises, Switches: as `dial`."""
        return connect(self._target_of(name), owner, deadline)

    def _target_of(self, name: str) -> Target:
        host, _, port = name.rpartition(':')
        return self.target()._replace(host=host.strip('[]'), port=int(port))

    def dial_plain(self, owner: Any, deadline: runtime.Deadline) -> Link:
        """See `RedisDriver.dial_plain`: each node tells all others what is published on it."""
        return self._plain(self.server.node_of(None).name, owner, deadline)

    def dial_beside(self, key: str, owner: Any, deadline: runtime.Deadline) -> Link:
        """See `RedisDriver.dial_beside`."""
        return self._plain(self.server.node_of(key).name, owner, deadline)

    def _plain(self, name: str, owner: Any, deadline: runtime.Deadline) -> Link:
        target = self._target_of(name)._replace(tracking=False, scripts=False)
        return connect(target, owner, deadline)


class ClusterTransport(Transport):
    """A Redis Cluster.

    Source: greenmq's own; kombu has none.
    """

    Driver: ClassVar[Any] = ClusterDriver
    clustered: ClassVar[bool] = True
