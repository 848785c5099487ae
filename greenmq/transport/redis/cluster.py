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
from greenmq.transport.redis import wire
from greenmq.transport.redis.dialling import dial_place
from greenmq.transport.redis.errors import raised
from greenmq.transport.redis.link import Link, Taker
from greenmq.transport.redis.replies import DONE
from greenmq.transport.redis.session import Session
from greenmq.transport.redis.transport import Transport
from greenmq.utils.url import parse_url

__all__ = ('ClusterSession', 'ClusterTransport')

logger = get_logger('greenmq.transport.redis')

#: Seconds between two looks at the slots while a node is away, and between two tries of a command.
LOOK = 0.2
AGAIN = 0.05
#: How often a command follows a redirection before its error is raised.
MAX_REDIRECTIONS = 16

DialNode = Callable[[str, Any, runtime.Deadline], Link]


class ClusterSession(Session):
    """The connections to all primaries, as one `Session`.

    Arguments:
        dial_node: opens a link to "host:port".
        seeds (Sequence[str]): nodes to ask first.
    """

    def __init__(self, dial_node: DialNode, seeds: list[str], name: str, owner: Any) -> None:
        super().__init__(self._no_dial, name, owner)
        self.clustered = True
        self._dial_node = dial_node
        self._seeds = seeds
        self._nodes: dict[str, Session] = {}
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
        """Ask the seeds for the slots and connect to all primaries. See `Session.open`."""
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

    def _node(self, name: str) -> Session:
        node = self._nodes.get(name)
        if node is None:
            ref, dial = weakref.ref(self), self._dial_node

            def dial_this(owner: Any, deadline: runtime.Deadline) -> Link:
                if ref() is None:
                    raise ConnectionClosed('nobody uses the connection any more')
                return dial(name, owner, deadline)

            node = self._nodes[name] = Session(dial_this, name, self)
            node._watches = self._watches  # whoever waits for a key does not care which node tells
        return node

    def _forget(self, name: str) -> None:
        node = self._nodes.pop(name, None)
        if node is not None:
            node.close()

    def _learn(self, node: Session, deadline: runtime.Deadline, dial: bool = True) -> None:
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
                other = self._node(name)
                other._recovery = runtime.spawn(other.recover, name=f'redis-node {name}', owner=other)

    def _look_soon(self) -> None:
        if not self.closed and (self._looking is None or self._looking.done):
            self._looking = runtime.spawn(_look, weakref.ref(self), name='redis-slots', owner=self)

    def _look_once(self, deadline: runtime.Deadline) -> bool:
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

    def node_of(self, key: str | None) -> Session:
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

    def on_lost(self, session: Session, error: BaseException) -> None:
        """See `SessionOwner`."""
        self._look_soon()
        self.failure = error
        owner = self._owner()
        if owner is not None and not self.closed and session.name in self._nodes:
            owner.on_lost(self, error)

    def on_recovered(self, session: Session) -> None:
        """See `SessionOwner`."""
        owner = self._owner()
        if owner is not None and self.epoch:
            owner.on_recovered(self)
        for waiters in (self._waiting, self._attempts):
            for waiter in waiters[:]:
                waiter.wake()
            waiters.clear()

    def on_pushed(self, session: Session, push: Any) -> None:
        """See `SessionOwner`."""
        owner = self._owner()
        if owner is not None:
            owner.on_pushed(self, push)

    def close(self) -> None:
        """See `Session.close`."""
        if self.closed:
            return
        if self._looking is not None:
            self._looking.kill()
        for node in self._nodes.values():
            node.close()
        super().close()

    def _wait(self, line: list[runtime.Waiter], deadline: runtime.Deadline | None) -> Link:
        while not self.connected:
            if self.closed:
                raise ConnectionClosed(f'the connection to redis cluster {self.name} is closed')
            waiter = runtime.Waiter(
                f'redis cluster {self.name} is away ({self.failure}); it did not come back'
            )
            line.append(waiter)
            try:
                waiter.wait(deadline)
            finally:
                if waiter in line:
                    line.remove(waiter)
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
        """See `Session.execute_many`; all of one slot."""
        for _ in range(MAX_REDIRECTIONS):
            link = self._open_node(key, deadline)
            replies = [link.expect(reply, shape) for reply in link.call_many(commands, deadline)]
            redirected = [reply for reply in replies if isinstance(reply, _REDIRECTIONS)]
            if not redirected:
                break
            self.moved(redirected[0])
            runtime.sleep(AGAIN)
        return [raised(reply, self.name) for reply in replies]

    def _ask(
        self,
        command: tuple[Any, ...],
        key: str | None,
        deadline: runtime.Deadline | None,
        orphan: Callable[[Any], Any] | None,
        shape: Any,
    ) -> Any:
        reply: Any = None
        asking = ''
        for _ in range(MAX_REDIRECTIONS):
            node = self._node(asking) if asking else self._open_session(key, deadline)
            if asking:
                node.post(wire.pack(('ASKING',)), '', _ignore)
                asking = ''
            reply = node._ask(command, key or '', deadline, orphan, shape)
            if isinstance(reply, AskError):
                asking = f'{reply.host}:{reply.port}'
            elif isinstance(reply, _REDIRECTIONS):
                self.moved(reply)
                if not isinstance(reply, MovedError):
                    runtime.sleep(AGAIN)
            else:
                break
        return reply

    def _open_session(self, key: str | None, deadline: runtime.Deadline | None) -> Session:
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
        """A node said that a slot is elsewhere. Switches: no."""
        if isinstance(error, MovedError):
            name = f'{error.host}:{error.port}'
            self._slots[error.slot_id] = name
            if name not in self._nodes:
                node = self._node(name)
                node._recovery = runtime.spawn(node.recover, name=f'redis-node {name}', owner=node)
        self._look_soon()

    def post(self, data: bytes, key: str, take: Taker, count: int = 1) -> None:
        """See `Session.post`."""
        self.node_of(key).post(data, key, take, count)

    def link_for(self, key: str) -> Link | None:
        """See `Session.link_for`."""
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


def _look(ref: weakref.ref[ClusterSession]) -> None:
    while True:
        session = ref()
        if session is None or session.closed or session._look_once(runtime.Deadline.after(2.0)):
            return
        del session
        runtime.sleep(LOOK)


class ClusterTransport(Transport):
    """A Redis Cluster.

    Source: greenmq's own; kombu has none.
    """

    clustered: ClassVar[bool] = True

    def _make_session(self) -> Session:
        if self._db:
            raise InvalidArgument('database', self._db, 'must be 0: a cluster has no other')
        client = self.client
        seeds = [f'{client.hostname or "localhost"}:{client.port or self.default_port}']
        for text in getattr(client, 'alt', None) or ():
            found = parse_url(text if '://' in text else f'redis+cluster://{text}')
            seeds.append(f'{found["hostname"] or "localhost"}:{found["port"] or self.default_port}')
        ref = weakref.ref(self)

        def dial(name: str, owner: Any, deadline: runtime.Deadline) -> Link:
            transport = ref()
            if transport is None or transport.client is None:
                raise ConnectionClosed('nobody uses the connection any more')
            return transport._dial_name(name, owner, deadline)

        return ClusterSession(dial, list(dict.fromkeys(seeds)), f'cluster at {seeds[0]}', self)

    def _dial_name(self, name: str, owner: Any, deadline: runtime.Deadline, tracking: bool = True) -> Link:
        host, _, port = name.rpartition(':')
        place = self._place()._replace(host=host.strip('[]'), port=int(port))
        if not tracking:
            place = place._replace(tracking=False, scripts=False)
        return dial_place(place, owner, deadline)

    def _dial_beside(self, key: str, owner: Any, deadline: runtime.Deadline) -> Link:
        session = self.session
        assert isinstance(session, ClusterSession)
        return self._dial_name(session.node_of(key).name, owner, deadline, False)

    def _dial(self, owner: Any, deadline: runtime.Deadline, tracking: bool) -> Link:
        # Of pub/sub: each node tells all others what is published on it.
        session = self.session
        assert isinstance(session, ClusterSession)
        return self._dial_name(session.node_of(None).name, owner, deadline, tracking)
