"""The transport's AMQP connection: one link at a time, and what outlives it.

A `Connection` is open, recovering or closed. While it recovers, calls wait inside their deadlines; the
channels, consumers and entities that users hold stay the same objects. Recovery walks the client's hosts with
jitter, declares again what was declared here, and starts the consumers again (P24, P25).

Tasks (reader, writer, heartbeat, recovery) know the connection weakly, so one that was abandoned is closed.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

from greenmq import events, runtime
from greenmq.core.topology import Topology
from greenmq.exceptions import ConnectionClosed, ConnectionLost, Forked, NotFound, TimeoutError, WrongHub
from greenmq.log import outage_level
from greenmq.transport.drain import Drain
from greenmq.transport.pause import Pause
from greenmq.transport.waiters import WaitingLine

from . import frames, methods, recovery
from .blocking import tell_blocked
from .channel import Channel as AMQPChannel
from .consuming import Consumer, Consuming
from .link import Link
from .message import Delivery
from .names import QueueNames
from .settings import Settings
from .wirechannel import Control, NotSent, Reply, WireChannel

__all__ = ['Connection']

logger = logging.getLogger('greenmq.transport.pyamqp')

#: Opens one link: (connection, deadline, epoch) → Link, not yet started. Given by the transport, which knows
#: the hosts.
Dial = Callable[['Connection', runtime.Deadline, int], Link]
Event = tuple[Delivery, Any]


class Connection:
    """A connection to an AMQP broker over all its epochs.

    Arguments:
        name (str): host:port/vhost, for texts.
        dial: opens a link; see `Dial`.
        settings (Settings): options.
        source (object): what events name as their source (the public Connection); held weakly.

    Attributes:
        epoch (int): how many links there were; tags, consumers and declarations belong to one.
        link (Link | None): the present one.
        closed (bool): `close()` was called.
    """

    Channel: ClassVar[type[AMQPChannel]] = AMQPChannel

    def __init__(self, name: str, dial: Dial, settings: Settings, source: Any = None) -> None:
        self.name = name
        self.settings = settings
        self.log = logger
        self.epoch = 0
        self.link: Link | None = None
        self.closed = False
        self.client: Any = source
        self.topology = Topology()
        self.known_exchanges: set[str] = set()
        self.paused: list[tuple[Consuming, Consumer]] = []
        self.drain: Drain[Event] = Drain(name)
        self.channels: dict[int, AMQPChannel] = {}
        self._dial = dial
        self._source = weakref.ref(source) if source is not None else None
        self.hub: Any = runtime.hub_id()
        self._next_channel = 1
        self.shared = 0  # number of the channel that leases publish over together, once there is one
        self.names = QueueNames()
        self.pause = Pause()  # of the recovery, between two tries
        self._ready = False
        self._move_level = logging.INFO  # DEBUG once it has moved: a pool of threads moves it with each lease
        self._failed: BaseException | None = None
        self._gate = WaitingLine()
        self._control: WireChannel | None = None
        self._control_owner = Control()
        self._control_lock = runtime.Lock()
        self._recovery: runtime.Task | None = None
        runtime.after_fork(self._after_fork)

    def __repr__(self) -> str:
        state = 'closed' if self.closed else 'open' if self.connected else 'recovering'
        numbers = f', {self.link.out_bytes} bytes out' if self.link is not None else ''
        return (
            f'<AMQP Connection {self.name}: {state}, epoch {self.epoch}, {len(self.channels)} channels, '
            f'{self.drain.pending} events waiting{numbers}>'
        )

    @property
    def source(self) -> Any:
        """The public connection that events name."""
        return None if self._source is None else self._source()

    @property
    def connected(self) -> bool:
        """Is there a live link, with everything restored on it?"""
        link = self.link
        return self._ready and link is not None and link.error is None and not self.closed

    @property
    def heartbeat(self) -> float:
        """Negotiated seconds between heartbeats; 0 for none."""
        return self.link.heartbeat if self.link is not None else 0

    @property
    def server_properties(self) -> Any:
        """What the broker said of itself."""
        return self.link.terms.server_properties if self.link is not None else {}

    @property
    def blocked(self) -> str | None:
        """The broker's reason while it refuses publishes."""
        return self.link.blocked if self.link is not None else None

    def info(self) -> dict[str, Any]:
        """Numbers of the present link and of what waits here."""
        return {
            **(self.link.info() if self.link is not None else {}),
            'waiting_events': self.drain.pending,
            'waiting_bytes': self.drain.pending_bytes,
        }

    # ---- opening, losing, recovering

    def connect(self, deadline: runtime.Deadline, patience: float | None = None) -> Connection:
        """Open a link and restore on it what the last one had.

        Arguments:
            patience (float): seconds for each thing that is restored, see `recovery.restore`.
        Switches: yes. Killed: the socket is closed, nothing else changed.
        """
        link = self._dial(self, deadline, self.epoch + 1)
        if self.closed:  # meanwhile, by somebody who could not see this link
            link.abandon()
            raise ConnectionClosed(f'{self.name} was closed while it was being opened')
        self.epoch += 1
        self.link = link
        self._ready = False
        link.start()
        try:
            recovery.restore(self, link, deadline, patience)
        except BaseException as exc:
            link.lose(ConnectionLost(f'{self.name}: could not be restored: {exc!r}'))
            raise
        if link.error is not None:
            raise runtime.again(link.error)
        self._ready = True
        self._failed = None
        self._gate.wake()
        if self.epoch > 1:
            self.log.log(self._move_level, '%s: recovered, epoch %d', self.name, self.epoch)
            if (source := self.source) is not None:
                source.begin_epoch()
            events.emit('recovered', source, epoch=self.epoch)
        return self

    def wait_open(self, deadline: runtime.Deadline, fail_fast: bool = False) -> Link:
        """The live link, after waiting for recovery if need be.

        Arguments:
            fail_fast (bool): do not wait once a try to recover has failed: it is known to be down.
        Raises:
            ConnectionClosed: it was closed.
            ConnectionLost: not recovered within the deadline, or known to be down.
        Switches: only while it is not open.
        """
        while True:
            link = self.link
            if link is not None and self._ready and link.error is None:
                self._check_hub()
                return link
            if self.closed:
                raise ConnectionClosed(f'{self.name} was closed')
            if link is None and self._recovery is None:
                self._start_recovery()  # in a forked child: nobody has opened it yet
            if self._recovery is None or (fail_fast and self._failed is not None):
                # A program that tries again without a pause must not keep the recovery from running.
                runtime.sleep(0)
                raise ConnectionLost(f'{self.name} is down: {self._failed or "not connected"}')
            try:
                self._gate.wait(deadline)
            except TimeoutError:
                why = f': {self._failed}' if self._failed else ''
                raise ConnectionLost(f'{self.name}: not recovered within {deadline.seconds} s{why}') from None

    def wait_attempt(self, deadline: runtime.Deadline) -> None:
        """Wait for the outcome of one try to recover; make it here if nobody else does.

        Raises:
            ConnectionClosed: it was closed.
            Exception: what the try met.
        Switches: yes, unless it is open.
        """
        if self.connected:
            return
        if not self.closed and self._recovery is None:
            if self.link is not None or not self.settings.recover:
                self.connect(deadline)
                return
            self._start_recovery()
        self.pause.end()
        self._gate.wait(deadline)
        if self.closed:
            raise ConnectionClosed(f'{self.name} was closed')
        if not self.connected and self._failed is not None:
            raise runtime.again(self._failed)

    def on_link_lost(self, link: Link, error: BaseException) -> None:  # no switch
        """The present link ended; called once, by the link."""
        if link is not self.link:
            return
        was_ready, self._ready = self._ready, False
        self._put_away(link)
        if self.closed or isinstance(error, (Forked, ConnectionClosed)):
            if not self.closed:  # or they were told already, whatever the broker says to our goodbye
                self.drain.fail(error)
            self._gate.wake()
            return
        if not was_ready:
            return  # lost while being opened: whoever opens it knows already
        self._move_level = logging.INFO
        self.log.log(outage_level('lost', self.name), '%s: connection lost: %s', self.name, error)
        events.emit('lost', self.source, error=error, epoch=self.epoch)
        self._failed = None
        if self.settings.recover:
            self._start_recovery()
        else:
            self._failed = error
        self.drain.report(error)

    def _put_away(self, link: Link | None) -> None:
        """What belonged to the link that ended."""
        if link is not None and link.blocked is not None and not self.closed:
            link.blocked = None
            tell_blocked(self, None)
        self.known_exchanges.clear()
        self.paused.clear()
        self._control = None

    @property
    def recovering(self) -> bool:
        """Was it lost, and does it come back by itself?"""
        return self._recovery is not None

    def _start_recovery(self) -> None:
        name = f'amqp-recovery {self.name}'
        self._recovery = runtime.spawn(
            recovery.recover, weakref.ref(self), name=name, owner=None, on_exit=self._recovery_ended)

    @property
    def is_here(self) -> bool:
        """Does it belong to this native thread?"""
        return self.hub is None or runtime.is_here(self.hub)

    def check_here(self) -> None:
        """Refuse another native thread before anything of its call is queued. Makes no hub."""
        if self.hub is not None and not runtime.is_here(self.hub):
            raise WrongHub(f'{self!r}')

    def come_here(self) -> None:
        """Belong to the calling thread from now on: open again here, as after a loss, if nobody waits there.

        Raises:
            WrongHub: a greenlet of the other thread waits for something here, or that thread does not let go.
        Switches: only to wait for a thread that is in its loop.
        """
        hub = self.hub
        if hub is None or runtime.is_here(hub):
            return
        if self.closed or not runtime.take_over(hub, self._leave):
            raise WrongHub(f'{self!r}')
        self.hub = runtime.hub_id()
        self.drain.revive()  # it fails since the other thread has ended, if that has
        self.log.log(self._move_level, '%s: goes on in another thread', self.name)
        self._move_level = logging.DEBUG
        self._start_recovery()

    def _leave(self) -> bool:  # no switch
        if self._in_use:
            return False
        error = ConnectionLost(f'{self.name}: it goes on in another thread')
        link, self.link = self.link, None
        self._ready = False
        self._end_recovery()
        self._put_away(link)
        if link is not None:
            link.leave(error, self.hub)
        events.emit('lost', self.source, error=error, epoch=self.epoch)
        return True

    @property
    def _in_use(self) -> bool:
        """Does a greenlet wait for something here, or run a callback?"""
        if self.drain.in_use or len(self._gate) or self._control_lock.locked():
            return True
        if self.link is not None and self.link.in_use:
            return True
        return any(each.consuming.in_use or each.publishing.in_use for each in self.channels.values())

    def _check_hub(self) -> None:
        if self.hub is None:
            self.hub = runtime.hub_id()  # a forked child may have a new one
        else:
            self.check_here()

    def _recovery_ended(self, task: runtime.Task, error: BaseException | None) -> None:
        if self._recovery is task:
            self._recovery, self._failed = None, error or self._failed
            self._gate.wake()
            if not self.connected:  # it was killed: who waits for messages would do so for ever
                self.drain.report(ConnectionLost(f'{self.name}: its recovery was ended: {error!r}'))

    def recovery_failed(self, error: BaseException) -> None:
        """A try failed: who asked to fail fast need not wait longer. No switch."""
        self._failed = error
        self._gate.wake()

    def current_name(self, queue: str) -> str:
        """The name that a queue has now: one the broker named gets another name in each epoch."""
        return self.names.now(queue)

    # ---- calls over the control wire

    def call_on(
        self, link: Link, method: methods.Method, arguments: tuple[Any, ...], deadline: runtime.Deadline
    ) -> Reply:
        encoded = methods.encode(method, arguments)
        while True:
            try:
                return self._control_wire(link, deadline).call(
                    method.signature, encoded, method.replies, deadline
                )
            except NotSent:
                continue  # it ended over somebody else's call

    def _control_wire(self, link: Link, deadline: runtime.Deadline) -> WireChannel:
        channel = self._control
        if channel is not None and channel.error is None and channel.link is link:
            return channel
        if not self._control_lock.acquire(deadline):
            raise deadline.error(f'{self.name}: no control channel')
        try:
            channel = self._control
            if channel is None or channel.error is not None or channel.link is not link:
                channel = WireChannel(link, self._control_owner)
                channel.open(deadline)
                self._control = channel
            return channel
        finally:
            self._control_lock.release()

    def control_call(
        self, method: methods.Method, request: Callable[[], bytes], nowait: bool, deadline: runtime.Deadline
    ) -> Reply | None:
        """A method over a wire whose failure hurts nobody else; `request` gives its arguments as of now."""
        while True:
            channel = self._control_wire(self.wait_open(deadline), deadline)
            encoded = request()
            if nowait:
                channel.send_method(method.signature, encoded)
                return None
            try:
                return channel.call(method.signature, encoded, method.replies, deadline)
            except NotSent:
                continue  # it ended over somebody else's call

    def look_up_exchange(self, exchange: str, deadline: runtime.Deadline) -> None:
        """Make sure, once an epoch, that an exchange is there before something is published to it.

        Raises:
            NotFound: it is not.
        """
        if exchange.startswith('amq.'):
            self.known_exchanges.add(exchange)  # every virtual host has these
            return
        arguments = methods.encode(
            methods.EXCHANGE_DECLARE, (0, exchange, 'direct', True, False, False, False, False, {})
        )
        try:
            self.control_call(methods.EXCHANGE_DECLARE, lambda: arguments, False, deadline)
        except NotFound:
            if not recovery.restore_for_another(self, exchange, deadline):
                raise
        self.known_exchanges.add(exchange)

    # ---- entities

    def forget(self, kind: str, name: str) -> None:
        """An entity was deleted: neither declared again nor taken for known."""
        if kind == 'queue':
            self.topology.forget_queue(name)
            self.names.forget(name)
        else:
            self.topology.forget_exchange(name)
        entities = getattr(self.source, 'declared_entities', None)
        if entities:
            # What was declared is remembered per epoch (P20); a deleted entity has to be declared anew. The
            # set holds hashes, which do not tell their names: better all once more than this one never.
            entities.clear()

    def queue_facts(self, name: str) -> dict[str, Any]:
        current = self.current_name(name)
        for kind, facts in self.topology.replay():
            if kind == 'queue' and facts['name'] == current:
                return facts
        return {}

    def has_dead_letter(self, queue: str) -> bool:
        """Was the queue declared here with a dead-letter exchange?"""
        arguments = self.queue_facts(queue).get('arguments') or {}
        return arguments.get('x-dead-letter-exchange') is not None

    def is_auto_delete(self, queue: str) -> bool:
        """Was the queue declared here as auto-delete?"""
        return bool(self.queue_facts(queue).get('auto_delete'))

    # ---- channels

    def channel(self, channel_id: int | None = None, callback: Any = None) -> AMQPChannel:
        """A new channel."""
        if self.closed:
            raise ConnectionClosed(f'{self.name} was closed')
        return self.Channel(self, channel_id, on_open=callback)

    def register(self, channel: AMQPChannel) -> int:
        """Enter a channel; returns its number."""
        number = self._next_channel
        self._next_channel += 1
        self.channels[number] = channel
        return number

    def unregister(self, channel: AMQPChannel) -> None:
        """Forget a closed channel."""
        self.channels.pop(channel.channel_id, None)
        self.drain.discard(channel)
        self.resume_paused()

    def take_back(self, channel: AMQPChannel, wanted: Callable[[Event], bool]) -> list[Event]:
        """Take out what waits for its callbacks and is `wanted`; there is room for others then. No switch."""
        taken = self.drain.remove(channel, wanted)
        self.resume_paused()
        return taken

    def channel_lost(self, channel: AMQPChannel, error: BaseException) -> None:  # no switch
        """The broker closed the consuming wire of a channel over an error: start its consumers again."""
        self.log.warning(
            '%r: the broker closed its wire channel (%s); its consumers are started again', channel, error
        )
        runtime.spawn(recovery.reopen, self, channel, name=f'amqp-reopen {self.name}', owner=self)

    def consumer_cancelled(self, channel: AMQPChannel, consumer: Consumer) -> None:  # no switch
        """The broker ended a consumer: its queue was deleted, or its leader moved (P37)."""
        recovery.consumer_cancelled(self, channel, consumer)

    def on_blocked(self, link: Link, reason: str | None) -> None:  # no switch
        """The broker refuses publishes (memory, disk), or takes them again."""
        tell_blocked(self, reason)

    # ---- events

    def drain_events(self, timeout: Any = None, channel: AMQPChannel | None = None) -> None:
        """Run the callback of one event in this greenlet, of any channel or of one that it has to itself.

        See `greenmq.transport.drain`.
        """
        if runtime.hub_id() is not self.hub:
            self.come_here()
        if channel is None:
            self.drain.drain(_handle, timeout)
        else:
            self.drain.drain_lane(channel, _handle, timeout)
        if self.paused:
            self.resume_paused()

    def drain_waiting(self, channel: AMQPChannel) -> bool:
        """As `drain_events` of a channel; False where that would have to wait."""
        found = self.drain.drain_waiting(channel, _handle)
        if self.paused:
            self.resume_paused()
        return found

    def resume_paused(self) -> None:
        """Ask for deliveries again where they were paused, if there is room. No switch."""
        if self.paused and self.is_here and self.drain.pending_bytes < self.settings.max_waiting_bytes // 2:
            paused, self.paused = self.paused, []
            for consuming, consumer in paused:
                consuming.resume(consumer)

    # ---- closing

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Flush, close all channels and the connection; wake everybody who waits with `ConnectionClosed`.
        Idempotent.

        Switches: yes, at most `close_timeout` seconds; in a hub callback no: the socket is closed without a
        word.
        """
        if self.closed:
            return
        self.closed = True
        error = ConnectionClosed(f'{self.name} was closed')
        self._end_recovery()
        self.drain.fail(error)
        self._gate.wake()
        link = self.link
        try:
            if link is not None and link.error is None:
                if runtime.in_hub() or self.hub not in (None, runtime.hub_id()):
                    link.abandon()
                else:
                    self._say_goodbye(link, runtime.Deadline.after(self.settings.close_timeout))
        finally:
            for channel in list(self.channels.values()):
                channel.closed = True
            self.channels.clear()
            self.topology.clear()

    def _end_recovery(self) -> None:
        task, self._recovery = self._recovery, None
        if task is not None:
            task.kill()

    def _say_goodbye(self, link: Link, deadline: runtime.Deadline) -> None:
        try:
            link.flush()
            # Publishers of other greenlets wait for their confirms: let what is on its way arrive.
            half = runtime.Deadline.after((deadline.remaining() or 0) / 2)
            for channel in list(self.channels.values()):
                if not channel.publishing.wait_confirmed(half):
                    break
        finally:
            link.close(deadline)

    def collect(self) -> None:
        """Drop the socket without a word."""
        self.closed = True
        self._end_recovery()
        if self.link is not None:
            self.link.abandon()
        self.drain.fail(ConnectionClosed(f'{self.name} was closed'))
        self._gate.wake()

    def _after_fork(self) -> None:
        # The parent's socket was let go of by the runtime. This one starts anew, with the same channels: what
        # was declared and consumed stays the parent's, and whoever waited here is told.
        link, self.link = self.link, None
        if link is not None and link.error is None:
            link.error = Forked(self.name)
        self._ready, self._failed, self._recovery, self.hub = False, None, None, None
        self._gate, self._control, self._control_lock = WaitingLine(), None, runtime.Lock()
        self.topology.clear()
        self.known_exchanges.clear()
        self.paused.clear()
        self.names.clear()
        self.drain = Drain(self.name)
        self.drain.report(Forked(self.name))
        for channel in self.channels.values():
            recovery.start_anew(channel)

    # ---- py-amqp's names that programs use

    def heartbeat_tick(self, rate: int = 2) -> None:
        """Nothing to do: heartbeats go by themselves (P10)."""

    def send_heartbeat(self) -> None:
        """Send a heartbeat frame now."""
        if self.link is not None:
            self.link.send(frames.HEARTBEAT)

    def is_alive(self) -> bool:
        """As `connected`."""
        return self.connected

    def update_secret(self, secret: str, reason: str = '') -> None:
        """Give the broker a new credential (OAuth 2) on the open connection.

        A recovery logs in as ever: with what `credential_provider` says then, else with the URL's password.

        Switches: yes, at most `operation_timeout` seconds.
        """
        deadline = runtime.Deadline.after(self.settings.operation_timeout)
        self.wait_open(deadline).update_secret(secret, reason, deadline)


def _handle(event: Event) -> None:
    delivery, receiver = event
    channel = delivery.channel
    if channel is not None and not channel.closed:
        channel.handle(delivery, receiver)
