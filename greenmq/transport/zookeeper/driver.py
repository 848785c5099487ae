"""Queues in ZooKeeper: what the base of transports needs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from kazoo.exceptions import (
    AuthFailedError,
    ConnectionLoss,
    InvalidACLError,
    NoAuthError,
    NoNodeError,
    OperationTimeoutError,
    SessionExpiredError,
    SessionMovedError,
    UnimplementedError,
)

from greenmq import runtime
from greenmq.exceptions import AccessRefused, ConnectionLost, NotFound
from greenmq.log import get_logger
from greenmq.transport.driver import Binding, Driver, Fault, Place, Put, Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.options import Option, seconds, whole
from greenmq.transport.zookeeper.bindings import Bindings
from greenmq.transport.zookeeper.layout import named
from greenmq.transport.zookeeper.member import Member
from greenmq.transport.zookeeper.nodes import OPERATION, Nodes
from greenmq.transport.zookeeper.queues import Queues
from greenmq.transport.zookeeper.sending import HEAD, Sending
from greenmq.transport.zookeeper.sweeping import Sweeping
from greenmq.transport.zookeeper.taking import Taking
from greenmq.transport.zookeeper.waiting import Waiting
from greenmq.utils.json import dumps

__all__ = ('ZooKeeperDriver',)

logger = get_logger('greenmq.transport.zookeeper')


def _auth(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, str):
        value = [value.partition(':')[::2]]
    found = [(str(scheme), str(credential)) for scheme, credential in value]
    if not all(scheme and credential for scheme, credential in found):
        raise ValueError("neither 'scheme:credential' nor a list of (scheme, credential)")
    return found


def _acl(value: Any) -> str:
    if value not in ('open', 'creator'):
        raise ValueError("neither 'open' nor 'creator'")
    return str(value)


class ZooKeeperDriver(Driver):
    """Queues in ZooKeeper, on kombu's nodes; `layout` says what is where.

    A message is taken by moving its node, in one transaction, to a node that names its owner; the owner's own
    node ends with its session, and who sweeps moves back what such owners held.

    Attributes:
        nodes, waiting, taking, sending, queues_, bindings_, sweeping: its parts.
    """

    delivery = 'wait'
    groups = 'all'
    wait_seconds = 30.0
    take_batch = 100
    settle_batch = 500
    settle_hold = 0.005
    put_batch = 100
    max_puts = 1
    keeps_deadline = True
    survives_loss = True
    shared_bindings = True
    understands = frozenset({'ssl'})
    options = {
        'session_timeout': Option(
            seconds, 10.0, 'seconds without a sign of life after which the server ends a session'
        ),
        'auth': Option(_auth, None, "'scheme:credential', or a list of (scheme, credential) of ZooKeeper"),
        'acl': Option(_acl, 'open', "rights of the nodes made: 'open' as kombu's, or 'creator' alone"),
        'max_packet': Option(
            whole, 1_048_575, 'bytes of a request that the server takes: its jute.maxbuffer, or less'
        ),
    }
    errors = {
        ConnectionLoss: ConnectionLost, SessionExpiredError: ConnectionLost,
        SessionMovedError: ConnectionLost, OperationTimeoutError: ConnectionLost,
        NoAuthError: Fault(AccessRefused, 'no'), AuthFailedError: Fault(AccessRefused, 'no'),
        InvalidACLError: Fault(AccessRefused, 'no'), NoNodeError: Fault(NotFound, 'no'),
    }  # fmt: skip

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        super().__init__(place, settings, owner)
        self.max_payload = settings['max_packet'] - HEAD
        self.nodes = nodes = Nodes(place.virtual_host)
        self.waiting = Waiting(nodes)
        self.taking = Taking(nodes, self.waiting, self.again)
        self.sending = Sending(nodes, settings['max_packet'])
        self.queues_ = Queues(nodes)
        self.bindings_ = Bindings(nodes)
        self.sweeping = Sweeping(nodes, self.queues_, self.taking, self.waiting)
        self._sweep: runtime.Task | None = None
        self.sweep_again = False  # an owner ended while one was under way, which may have looked before

    # ---- the connection

    def open(self, deadline: runtime.Deadline) -> None:
        member = self.nodes.present
        if member is not None and not member.over:
            try:
                member.wait_connected(deadline)
                self._watch_ours(deadline)
                self.taking.release_strays()
                self._sweep_soon()  # whose ends the watches did not tell, and what a cut sweep left
                return
            except ConnectionLost:
                if not member.over:
                    raise
        self._leave(deadline)
        self._begin(deadline)
        self._sweep_soon()

    def _begin(self, deadline: runtime.Deadline) -> None:
        settings, place = self.settings, self.place
        told, heard = weakref.WeakMethod(self._told), weakref.WeakMethod(self._heard)
        member = Member(
            self.nodes.layout, settings['session_timeout'], partial(_call, told), partial(_call, heard)
        )
        auth = list(settings['auth'] or ())
        if place.userid:
            auth.append(('digest', f'{place.userid}:{place.password or ""}'))
        tls = runtime.TLSOptions.of(place.ssl)
        member.start(place.url, partial(_dial, tls), auth, settings['acl'], deadline)
        self.nodes.present = member
        try:
            self._watch_ours(deadline)
        except BaseException:
            self._leave(runtime.Deadline.after(0))
            raise

    def _watch_ours(self, deadline: runtime.Deadline) -> None:
        layout, client = self.nodes.layout, self.nodes.client
        if self.waiting.tree_watches:
            try:
                for watch in [client.watch_all(path) for path in (layout.owners, layout.bindings)]:
                    watch.get(timeout=deadline)
                return
            except UnimplementedError:
                logger.info('%s is older than 3.6: its queues are listed at each change', self.place.host)
                self.waiting.tree_watches = False
        told = partial(_call, weakref.WeakMethod(self._owners_changed))
        client.get_children_async(layout.owners, watch=told).get(timeout=deadline)

    def close(self, deadline: runtime.Deadline) -> None:
        self._leave(deadline)

    def _leave(self, deadline: runtime.Deadline) -> None:
        member, self.nodes.present = self.nodes.present, None
        self.taking.drop()
        self.waiting.forget()
        sweep, self._sweep = self._sweep, None
        if sweep is not None:
            sweep.kill()
        if member is not None:
            member.leave(deadline)

    def forget(self) -> None:
        member, self.nodes.present = self.nodes.present, None
        if member is not None:
            member.forget()
        self.taking.drop()
        self.waiting.forget()
        self._sweep = None

    def ping(self, deadline: runtime.Deadline) -> None:
        self.nodes.stat(self.nodes.layout.owners, deadline)

    def version(self) -> str:
        import kazoo

        return str(kazoo.__version__)

    # ---- what kazoo tells, in its loop: nothing here may wait

    def _told(self, what: str) -> None:
        if what == 'back':
            return  # `open` waits for it
        over = what == 'over'
        error = ConnectionLost('the session with ZooKeeper is over' if over else 'ZooKeeper is away')
        self.waiting.lost(error)
        if over:
            self.taking.drop()
        self.owner.lost(error)

    def _heard(self, event: Any) -> None:
        if not event.path or self.waiting.heard(event):
            return
        parent, _, name = event.path.rpartition('/')
        if parent == self.nodes.layout.bindings:
            self.owner.changed(named(name))
        elif parent == self.nodes.layout.owners and event.type == 'DELETED':
            self._sweep_soon()

    def _owners_changed(self, event: Any) -> None:
        # Of a server before 3.6, whose watches tell once.
        member = self.nodes.present
        if member is not None and member.client.connected:
            told = partial(_call, weakref.WeakMethod(self._owners_changed))
            member.client.get_children_async(self.nodes.layout.owners, watch=told)
            self._sweep_soon()

    def _sweep_soon(self) -> None:
        self.sweep_again = True
        if self._sweep is None or self._sweep.done:
            self._sweep = runtime.spawn(_sweep, weakref.ref(self), name='zookeeper-sweep', owner=self)

    # ---- messages

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None]:
        return self.sending.put(items, deadline)

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> list[Taken]:
        return self.taking.take(queues, n, max_bytes, seconds)

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> Iterable[tuple[Taken, Exception | None]]:
        return self.taking.settle(done, back, deadline)

    def encode(self, message: dict[str, Any]) -> bytes:
        return dumps(message).encode()

    # ---- queues and bindings

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> None:
        self.queues_.make(queue, facts, deadline)

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        return self.queues_.has(queue, deadline)

    def facts(self, queue: str, deadline: runtime.Deadline) -> Mapping[str, Any] | None:
        return self.queues_.facts(queue, deadline)

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        return self.queues_.size(queue, deadline)

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        return self.queues_.purge(queue, deadline)

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        self.taking.forget_folder(queue)
        self.queues_.delete(queue, deadline)

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]]:
        return self.queues_.listed(deadline)

    def bindings(self, exchange: str, deadline: runtime.Deadline) -> list[Binding]:
        return self.bindings_.of(exchange, deadline)

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        self.bindings_.bind(binding, deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        self.bindings_.unbind(binding, deadline)

    # ---- now and then

    def sweep(self, deadline: runtime.Deadline) -> None:
        self.sweeping.sweep(deadline)

    def stats(self) -> dict[str, Any]:
        return {'held': len(self.taking), 'known': len(self.waiting), 'packets': self.nodes.packets}


def _dial(tls: Any, host: str, port: int, timeout: Any) -> runtime.Stream:
    return runtime.dial(host, port, timeout, tls)


def _call(reference: Any, *args: Any) -> None:
    method = reference()
    if method is not None:
        method(*args)


def _sweep(reference: Callable[[], ZooKeeperDriver | None]) -> None:
    driver = reference()
    while driver is not None and driver.sweep_again:
        driver.sweep_again = False
        try:
            driver.sweep(runtime.Deadline.after(OPERATION))
        except Exception as error:  # the next round does it
            logger.debug('a sweep failed: %r', error)
