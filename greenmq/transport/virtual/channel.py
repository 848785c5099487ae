"""A channel of a broker that only knows queues, written in kombu's style: AMQP's methods are here, handed on
to the parts that do the work, and the broker's side is a subclass's.

New transports are better written as a `driver`, see "Write a transport" in the manual.

How a channel in kombu's style is written
-----------------------------------------
Subclass `Channel` and give `_put`, `_size`, `_purge`, `_delete` (and `_new_queue`, `_has_queue`), and say by
`delivery` how messages come:

'poll' (the default: what a channel written for kombu is)
    ``_get(queue)`` raises Empty. One task per channel looks every `polling_interval` seconds.
'wait'
    ``_get_many(queues, n, timeout)`` returns up to n pairs (queue, payload), waiting at the broker for the
    first; or ``_get(queue, timeout)`` returns one payload, raising Empty. One supervised task per channel
    calls the former, one per queue the latter; with ``groups = 'each'`` one per queue calls `_get_many`.

Optional: ``_settle(acks, rejects)`` settles many at once, tags and (tag, requeue) pairs, each oldest first;
what is requeued shall stand in that order at the front again. It is called again with the same tags after a
failure, and for all that is unsettled when the channel closes. ``_extend(tags, seconds)`` renews the leases
of what is in work, called each third of `lease_seconds`. ``_abandon(items)`` takes back (queue, payload)
pairs that a fetch brought after nobody wanted them any more: the consumer was cancelled, or its task killed.
A `_get` that is killed while it holds messages calls `_abandon` itself. ``_ping(deadline)`` has the broker
answer; without it the size of a queue is asked for. What the errors of a broker's client mean stands in
`Transport.errors`.

Fetches are bounded by the free prefetch; where the program set none, `fetch_ahead` messages wait in the
process at most.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, Unroutable
from greenmq.transport import base
from greenmq.transport.virtual import closing, envelope
from greenmq.transport.virtual.adapter import AbstractChannel, Adapter, Empty, in_time
from greenmq.transport.virtual.books import Books
from greenmq.transport.virtual.consumers import Subscription
from greenmq.transport.virtual.deliveries import Deliveries
from greenmq.transport.virtual.entities import (
    UNDELIVERABLE_FMT,
    Entities,
    EntityMethods,
    UndeliverableWarning,
)
from greenmq.transport.virtual.envelope import CODECS, Message
from greenmq.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES
from greenmq.transport.virtual.fetch import Fetcher
from greenmq.transport.virtual.qos import QoS
from greenmq.transport.virtual.settle import Settling
from greenmq.utils.objects import alias
from greenmq.utils.scheduling import FairCycle
from greenmq.utils.uuid import uuid

__all__ = ('UNDELIVERABLE_FMT', 'AbstractChannel', 'Channel', 'Empty', 'UndeliverableWarning')


class Channel(EntityMethods, AbstractChannel, base.StdChannel, metaclass=ABCMeta):
    """A virtual channel.

    Arguments:
        connection (Transport): the virtual transport, which is its own connection.
    Attributes:
        adapter (Adapter), books (Books), deliveries (Deliveries), entities (Entities), fetcher (Fetcher): its
            parts.
        settling (Settling | None): acks on their way to the broker; None if they are nothing to it.
        channel_id (int): unique in the connection.
        closed (bool): True once `close` was called.
    Source: kombu virtual.Channel.
    """

    #: How messages come: 'wait' or 'poll'.
    delivery: ClassVar[str] = 'poll'
    #: Which queues one `_get_many` of delivery 'wait' may be about: 'all', or 'each' by itself.
    groups: ClassVar[str] = 'all'
    Message: Any = Message
    QoS: Any = QoS
    #: Does closing give back what is unsettled?
    do_restore = True
    #: Codecs of bodies, by name.
    codecs: ClassVar[dict[str, Any]] = CODECS
    #: Codec of the bodies we publish; None puts them as they are.
    body_encoding: str | None = 'base64'
    supports_fanout = False
    #: Exchange type → class; of an instance, → object.
    exchange_types: Any = STANDARD_EXCHANGE_TYPES
    #: Where messages go that no queue is bound for.
    deadletter_queue: str | None = None
    #: Transport options copied to attributes of the same names.
    from_transport_options: tuple[str, ...] = ('body_encoding', 'deadletter_queue')
    default_priority = 0
    min_priority = 0
    max_priority = 9
    #: Messages that may wait in this process for a callback while the program set no prefetch.
    fetch_ahead = 100
    #: Seconds that one fetch waits at the broker in delivery 'wait'.
    wait_timeout = 10.0
    #: Seconds that a delivery is ours without `_extend`; None for as long as we are connected.
    lease_seconds: float | None = None
    #: Deliveries of one message before it's dead-lettered; 0 for any number.
    max_deliveries = 0

    _qos: Any = alias('books', 'qos')

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.connection = connection
        self._hub = runtime.hub_id()
        self.closed = False
        books = self.books = Books()
        self.no_ack_consumers = books.no_ack
        # By kombu's names, for subclasses.
        self._consumers, self._tag_to_queue = books.subscriptions, books.queue_of
        self._active_queues = books.queues
        self._cycle: Any = None
        self.exchange_types = {name: cls(self) for name, cls in type(self).exchange_types.items()}
        self.adapter = Adapter(self, connection.errors)
        self.restores_in_front = self.adapter.restores_in_front
        vhost = getattr(connection.client, 'virtual_host', None) or '/'
        self.entities = Entities(
            self.adapter, connection, self.exchange_types, vhost, self.adapter.own_routes
        )
        self.fetcher = Fetcher(self)
        settling = Settling(self) if self.adapter.settles or self.adapter.extends else None
        self.settling: Any = settling
        #: Settles what needs no ack, where the broker waits for one all the same; None elsewhere.
        self.settle_now = settling.ack if settling is not None and self.adapter.settles else None
        self.deliveries = Deliveries(self)
        self.channel_id = self._get_free_channel_id()
        options = getattr(connection.client, 'transport_options', None) or {}
        self.close_timeout: float = options.get('close_timeout') or 5.0
        for name in (*self.from_transport_options, 'fetch_ahead', 'max_deliveries'):
            if options.get(name) is not None:
                setattr(self, name, options[name])

    # ---- small questions

    @property
    def qos(self) -> Any:
        """The unsettled deliveries and the prefetch of this channel."""
        qos = self.books.qos
        if qos is None:
            qos = self.books.qos = self.QoS(self)
        return qos

    @property
    def prefetch_count(self) -> int:
        """What `basic_qos` set last; 0 is unlimited."""
        return self.books.prefetch_count

    @property
    def cycle(self) -> Any:
        """The consumed queues in turn, for `_poll`."""
        if self._cycle is None:
            self._reset_cycle()
        return self._cycle

    def _reset_cycle(self) -> None:
        self._cycle = FairCycle(self._get_and_deliver, self._active_queues, Empty)

    def _get_free_channel_id(self) -> int:
        return int(self.connection.take_channel_id())

    def _check_open(self) -> None:
        if self.closed:
            raise ConnectionClosed(f'{self!r} is closed')

    def has_dead_letter(self, queue: str) -> bool:
        """Tell whether a message rejected from `queue` is kept somewhere."""
        arguments = self.state.queues.get(queue, {}).get('arguments') or {}
        return arguments.get('x-dead-letter-exchange') is not None

    @property
    def active_queues(self) -> set[str]:
        """The queues that are consumed."""
        return set(self.books.takers)

    @property
    def state(self) -> Any:
        """The `BrokerState` of the connection's transport."""
        return self.connection.state

    # ---- publish

    prepare_message = envelope.prepare_message
    encode_body = envelope.encode_body
    decode_body = envelope.decode_body

    @in_time
    def basic_publish(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Publish what `prepare_message` made.

        Arguments:
            mandatory (bool): raise if no queue would get it.
        Raises:
            Unroutable: `mandatory`, and no queue would get it.
            PublishUnconfirmed: not within `timeout`.
            ConnectionClosed: the channel is closed.
        Switches: as the channel's `_put`.
        Source: AMQP 0-9-1 basic.publish; kombu.
        """
        self._check_open()
        self._inplace_augment_message(message, exchange, routing_key)
        headers = message.get('headers')
        if kwargs.get('mandatory') and not self.entities.reaches(exchange, routing_key, headers):
            raise Unroutable(message, exchange, routing_key)
        if exchange:
            return self.typeof(exchange).deliver(message, exchange, routing_key, **kwargs)
        return self.adapter.put(routing_key, message, **kwargs)

    def _inplace_augment_message(self, message: Any, exchange: str, routing_key: str) -> None:
        properties = message['properties']
        message['body'], body_encoding = self.encode_body(message['body'], self.body_encoding)
        properties['body_encoding'] = body_encoding
        properties['delivery_tag'] = self._next_delivery_tag()
        properties.setdefault('delivery_info', {}).update(exchange=exchange, routing_key=routing_key)

    def _next_delivery_tag(self) -> Any:
        return uuid()

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:
        """Return the queues that get a message; the deadletter queue if there are none."""
        default = self.deadletter_queue if default is None else default
        return self.entities.lookup(exchange, routing_key, default)

    def _lookup_headers(self, exchange: str, routing_key: str, headers: Any) -> Any:
        return self.state.route(exchange, routing_key, headers or {})

    def _put_fanout(self, exchange: str, message: Any, routing_key: str | None = None, **kwargs: Any) -> None:
        for queue in self._lookup(exchange, routing_key or ''):
            self.adapter.put(queue, message, **kwargs)

    def _get_message_priority(self, message: Any, reverse: bool = False) -> int:
        try:
            priority = max(min(int(message['properties']['priority']), self.max_priority), self.min_priority)
        except (TypeError, ValueError, KeyError):
            priority = self.default_priority
        return self.max_priority - priority if reverse else priority

    # ---- consume

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Limit the unsettled messages of this channel; 0 for no limit.

        Source: AMQP 0-9-1 basic.qos; kombu: the whole channel counts, whatever `apply_global` says.
        """
        self.qos.prefetch_count = prefetch_count or 0
        self.ask_for_more()

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> None:
        """Deliver the messages of `queue` to `callback(message)`, called by whoever drains.

        Source: AMQP 0-9-1 basic.consume; kombu.
        """
        self._check_open()
        self.connection.move_here(self.connection)
        if consumer_tag in self.books.subscriptions:
            self.basic_cancel(consumer_tag)
        exclusive, arguments = bool(kwargs.get('exclusive')), kwargs.get('arguments')
        self.books.add(Subscription(consumer_tag, queue, self, no_ack, callback, exclusive, arguments))
        self._reset_cycle()
        self.fetcher.refresh()

    def basic_cancel(self, consumer_tag: str) -> None:
        """End a consumer; what waits for its callback goes back to the queue. An unknown tag is fine.

        Switches: as the channel's `_restore_at_beginning`. Killed: ended all the same.
        """
        sub = self.books.remove(consumer_tag)
        if sub is None:
            return
        self._reset_cycle()
        self.fetcher.refresh()
        events = self.connection.events.remove(self, lambda event: event[0] is sub)
        sub.waiting = 0
        self.deliveries.put_back([message for _, message in events])

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take one message now.

        Returns:
            Message: or None if there is none.
        Switches: as the channel's `_get`.
        """
        self._check_open()
        return self.deliveries.take(queue, no_ack)

    def message_to_python(self, raw_message: Any) -> Any:
        """Return a Message of a payload; one that is a Message already stays as it is."""
        return (
            raw_message if isinstance(raw_message, self.Message) else self.Message(raw_message, channel=self)
        )

    def receive(self, raw: Any, queue: str) -> Any:
        """Hand one payload to the next consumer of `queue` on this channel, in the caller's greenlet."""
        return self.deliveries.receive(raw, queue)

    def take_back(self, payload: Any, queue: str) -> None:
        """Give back a payload that nobody consumes."""
        self.deliveries.take_back(payload, queue)

    def drain_events(self, timeout: float | None = None, callback: Callable[..., Any] | None = None) -> Any:
        """Ask the broker once for a message, and give it to `callback(payload, queue)`.

        Raises:
            Empty: nothing there, or no room for more.
        Switches: as the channel's `_get`.
        Source: kombu virtual.Channel.drain_events. `Transport.drain_events` is what programs call.
        """
        callback = callback or self.connection.deliver
        if self._consumers and self.qos.can_consume():
            return self.adapter.look(self.cycle, self._active_queues, callback, timeout)
        raise Empty()

    def flow(self, active: bool = True) -> bool:
        """Stop the deliveries to this channel's consumers, or go on.

        Source: AMQP 0-9-1 channel.flow.
        """
        flowing = self.books.flowing = bool(active)
        self.ask_for_more()
        return flowing

    def ask_for_more(self) -> None:
        """There is room, perhaps for the first time in a while."""
        if self.books.subscriptions and not self.closed:
            self.books.starved.clear()
            self.fetcher.kick()

    def consumes(self, consumer_tag: str) -> bool:
        """See `StdChannel.consumes`: also its messages are fetched, and the last fetch did not fail."""
        if self.closed or consumer_tag not in self._tag_to_queue:
            return False
        if not self.connection.fetches:
            return True
        states = self.fetcher.states.values()
        return bool(states) and 'backoff' not in states

    # ---- settle

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> bool | None:
        """Settle a message, with `multiple` also all delivered before it.

        Returns:
            bool | None: False if the channel is closed: the message went back to its queue.
        Switches: as the channel's QoS.
        """
        return self._settle_here(self.deliveries.ack, delivery_tag, multiple)

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> bool | None:
        """Refuse a message: dead-lettered or dropped, or with `requeue` back to the front of its queue.

        Returns:
            bool | None: as `basic_ack`.
        Switches: as the channel's QoS.
        """
        return self._settle_here(self.deliveries.reject, delivery_tag, requeue)

    def _settle_here(self, settle: Callable[..., Any], *args: Any) -> bool | None:
        if self.closed:
            return False
        if not runtime.is_here(self._hub):
            # The thread of the channel does it, soon: worker threads settle what another thread drained.
            again = partial(self._settle_here, settle, *args)
            return runtime.post(self._hub, partial(runtime.spawn, again, name='greenmq-settle'))
        settle(*args)
        return None

    def basic_recover(self, requeue: bool = False) -> Any:
        """Give back all that is unsettled on this channel.

        Raises:
            NotImplementedError: without `requeue`, as brokers have it.
        Switches: as the channel's `_restore_at_beginning`.
        """
        if not requeue:
            raise NotImplementedError('Does not support recover(requeue=False)')
        return self.deliveries.recover()

    def _restore(self, message: Any) -> None:
        """Put a delivery back into its queue, and into no other one."""
        self.deliveries.restore(message)

    def after_reply_message_received(self, queue: str) -> None:
        """Delete a queue that served for one reply. Switches: as `queue_delete`."""
        self.queue_delete(queue)

    # ---- its end, and another thread

    def close(self) -> None:
        """End the consumers, give back what is unsettled, and leave the connection. Idempotent, from any
        greenlet.

        Switches: as the channel's cancelling and restoring.
        """
        if not self.closed:
            self.closed = True
            closing.close(self)

    def let_go(self) -> None:
        """Leave the connection, with what is unsettled given back."""
        # Whoever points back at us is sent away, or a closed channel would stay until the collector comes
        # (P47; tests/stress/test_leaks.py).
        self._cycle = None
        for kind in self.exchange_types.values():
            kind.channel = None
        if self.books.qos is not None and not self.books.qos.unsettled:
            self.books.qos = None
        self.connection.close_channel(self)

    def leave_here(self) -> None:
        """The connection leaves this thread, see `Transport.move_here`."""
        self.fetcher.leave()

    def arrived_here(self) -> None:
        """The connection goes on in this thread, see `Transport.move_here`."""
        self._hub = runtime.hub_id()
        for sub in self.books.subscriptions.values():
            sub.hub = self._hub
        if self.settling is not None:
            self.settling.arrived_here()
        self.fetcher = Fetcher(self)
        self.fetcher.refresh()

    def __repr__(self) -> str:
        state = 'closed' if self.closed else self.fetcher.state
        unsettled = len(self.books.qos.unsettled) if self.books.qos is not None else 0
        return (
            f'<{type(self).__module__}.{type(self).__name__} {getattr(self, "channel_id", None)}: {state}, '
            f'{len(self._consumers)} consumers, {unsettled} unsettled>'
        )
