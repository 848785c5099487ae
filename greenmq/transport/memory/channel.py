"""A channel of the broker in this process: AMQP's methods, handed on to the parts that do the work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any, ClassVar

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, InvalidArgument
from greenmq.runtime import is_here
from greenmq.transport import base, virtual
from greenmq.transport.base import to_rabbitmq_queue_arguments
from greenmq.transport.drain import drain_once
from greenmq.transport.memory.access import Access
from greenmq.transport.memory.broker import DEFAULT_QUEUES, LocalBroker
from greenmq.transport.memory.deliveries import Deliveries, payload_of
from greenmq.transport.memory.queue import LocalQueue
from greenmq.transport.virtual import envelope
from greenmq.transport.virtual.books import Books
from greenmq.transport.virtual.consumers import Subscription
from greenmq.transport.virtual.entities import Entities, EntityMethods
from greenmq.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES
from greenmq.utils.scheduling import FairCycle

__all__ = ('Channel',)


class Channel(EntityMethods, base.StdChannel):
    """A channel of the broker in this process. Nothing here switches.

    Arguments:
        connection (Transport): the transport, which is its own connection.
    Attributes:
        broker (LocalBroker): the virtual host.
        access (Access), books (Books), deliveries (Deliveries), entities (Entities): its parts.
        channel_id (int): unique in the connection.
        closed (bool): True once `close` was called.
    Source: kombu transport.memory.Channel.
    """

    delivery: ClassVar[str] = 'push'
    Message: Any = virtual.Message
    QoS: Any = virtual.QoS
    #: Exchange type → class; of an instance, → object.
    exchange_types: Any = STANDARD_EXCHANGE_TYPES
    #: The queues of the virtual host, by name; of the class, those of '/'.
    queues: dict[str, LocalQueue] = DEFAULT_QUEUES
    #: Kept for programs that look at it.
    events: ClassVar[dict[str, Any]] = {}
    #: Closing puts back what is unsettled in its place, not by kombu's way.
    do_restore = False
    restores_in_front = True
    supports_fanout = True
    #: Codecs of bodies, by name; here bodies stay what they are: bytes.
    codecs: ClassVar[dict[str, Any]] = envelope.CODECS
    body_encoding: str | None = None
    #: Where messages go that no queue is bound for.
    deadletter_queue: str | None = None
    #: Transport options copied to attributes of the same names.
    from_transport_options: tuple[str, ...] = ('body_encoding', 'deadletter_queue')
    default_priority = 0
    min_priority = 0
    max_priority = 9
    #: Messages that may wait for a callback while the program set no prefetch.
    fetch_ahead = 100
    #: Deliveries of one message before it's dead-lettered; 0 for any number.
    max_deliveries = 0
    #: What needs no ack is settled when it is taken.
    settle_now: Any = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.connection = connection
        self._hub = runtime.hub_id()
        self.closed = False
        self.broker: LocalBroker = connection.broker
        self.queues = self.broker.queues
        options = getattr(connection.client, 'transport_options', None) or {}
        for name in (*self.from_transport_options, 'fetch_ahead', 'max_deliveries'):
            if options.get(name) is not None:
                setattr(self, name, options[name])
        # Programs give kombu's option for a broker of text; in memory it would only cost.
        self.body_encoding = None
        self.books = Books()
        self.no_ack_consumers = self.books.no_ack
        self.access = Access(self.broker, connection.user, connection.locks_exclusive)
        self.deliveries = Deliveries(self.broker, self.books, self.max_deliveries)
        self.exchange_types = {name: cls(self) for name, cls in type(self).exchange_types.items()}
        vhost = getattr(connection.client, 'virtual_host', None) or '/'
        self.entities = Entities(self.access, connection, self.exchange_types, vhost)
        self._plain_qos = self.QoS is virtual.QoS
        self.channel_id: int = connection.take_channel_id()

    # ---- small questions

    @property
    def state(self) -> Any:
        """The `BrokerState` of the virtual host."""
        return self.connection.state

    @property
    def board(self) -> Any:
        """Where the consumers of the virtual host stand."""
        return self.broker.board

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
    def active_queues(self) -> set[str]:
        """The queues that are consumed."""
        return set(self.books.takers)

    @property
    def cycle(self) -> Any:
        """The consumed queues in turn, for programs that look at it."""
        return FairCycle(lambda queue, take: take(self._get(queue), queue), list(self.active_queues), Empty)

    def _check_open(self) -> None:
        if self.closed:
            raise ConnectionClosed(f'{self!r} is closed')

    # ---- entities, where the broker has a say

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> int:
        """Delete a queue; its consumers stop. See `virtual.Channel.queue_delete`."""
        return self.access.drop(queue, if_unused, if_empty)

    def queue_unbind(
        self, queue: str, exchange: str | None = None, routing_key: str = '', arguments: Any = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """Remove a binding; an auto_delete exchange goes with its last one."""
        super().queue_unbind(queue, exchange, routing_key, arguments, **kwargs)
        self.broker.exchange_unused(exchange or 'amq.direct')

    def get_table(self, exchange: str) -> Any:
        """Return the bindings of an exchange: (routing key, pattern, queue). Raises `KeyError`."""
        return self.access.table(exchange)

    def has_dead_letter(self, queue: str) -> bool:
        """Tell whether a message rejected from `queue` is kept somewhere."""
        return self.access.has_dead_letter(queue)

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> dict[str, Any]:
        """Return `arguments` with a Queue's `expires`, `message_ttl`, … as RabbitMQ names them."""
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def after_reply_message_received(self, queue: str) -> None:
        """Do nothing: reply queues go by their own rules."""

    # ---- publish

    prepare_message = envelope.prepare_message

    def basic_publish(
        self, message: Any, exchange: str, routing_key: str, mandatory: bool = False,
        immediate: bool = False, timeout: Any = None, confirm_timeout: Any = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        """Publish what `prepare_message` made; waiting consumers have it when this returns.

        Arguments:
            mandatory (bool): raise if no queue gets it.
        Raises:
            Unroutable: `mandatory`, and no queue would get it.
            PublishNacked: a queue is full and refuses (x-overflow).
            ConnectionClosed: the channel is closed.
        Source: AMQP 0-9-1 basic.publish; kombu: without `mandatory` a message for an exchange or key that
            nobody knows vanishes, and a queue named in the default exchange is made.
        """
        if self.closed:
            raise ConnectionClosed(f'{self!r} is closed')
        broker = self.broker
        plan = broker.plan(exchange, routing_key)
        if plan is None:
            plan = self.access.plan(
                self.entities, message, exchange, routing_key, mandatory, self.deadletter_queue
            )
        broker.publish(plan, message, exchange, routing_key, self.connection.drops_expired)

    encode_body = envelope.encode_body
    decode_body = envelope.decode_body

    # ---- consume

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Limit the unsettled messages of this channel; 0 for no limit.

        Raises:
            InvalidArgument: a negative number.
        Source: AMQP 0-9-1 basic.qos; kombu: the whole channel counts, whatever `apply_global` says.
        """
        if prefetch_count is not None and prefetch_count < 0:
            raise InvalidArgument('prefetch_count', prefetch_count, 'is negative')
        self.qos.prefetch_count = prefetch_count or 0
        self.ask_for_more()

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> None:
        """Deliver the messages of `queue` to `callback(message)`, called by whoever drains.

        Raises:
            AccessRefused, ResourceLocked: somebody has the queue for himself.
        Source: AMQP 0-9-1 basic.consume.
        """
        self._check_open()
        self.connection.move_here(self.connection)
        if consumer_tag in self.books.subscriptions:
            self.basic_cancel(consumer_tag)
        sub = Subscription(
            consumer_tag, queue, self, no_ack, callback, bool(kwargs.get('exclusive')),
            kwargs.get('arguments'),
        )  # fmt: skip
        self.access.admit(sub)
        self.books.add(sub)
        self.board.add(sub)
        self.board.notify(queue)

    def basic_cancel(self, consumer_tag: str) -> None:
        """End a consumer; what waits for its callback goes back to its place. An unknown tag is fine.

        An auto_delete queue goes with its last consumer.
        """
        sub = self.books.remove(consumer_tag)
        if sub is None:
            return
        self.board.remove(sub)
        waiting = [message for _, message in self.connection.events.remove(self, lambda each: each[0] is sub)]
        while sub.posted:
            waiting.append(sub.posted.popleft())
        sub.waiting = 0
        self.deliveries.put_back(waiting)
        if not self.board.consumers(sub.queue):
            self.broker.consumer_gone(sub.queue)

    def consumes(self, consumer_tag: str) -> bool:
        """See `StdChannel.consumes`."""
        return not self.closed and consumer_tag in self.books.subscriptions

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take one message now, or None."""
        self._check_open()
        message = None
        while message is None:
            record = self.access.take(queue)
            if record is None:
                return None
            message = self.deliveries.message(self, record)
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
        return message

    def next_message(self, queue: str, sub: Subscription) -> Any:
        """The next message of a queue for a consumer of ours, or None: for the board."""
        found = self.broker.queues.get(queue)
        if found is None or not found.ready:
            return None
        message = None
        while message is None:
            record = self.broker.take(found)
            if record is None:
                return None
            message = self.deliveries.message(self, record)
        return message

    def put_back(self, messages: list[Any]) -> None:
        """Put back what no callback has had: for the board."""
        self.deliveries.put_back(messages)

    def ask_for_more(self) -> None:
        """There is room again: ask the queues that had none, each at most once."""
        books = self.books
        if not books.subscriptions or self.closed:
            return
        starved, qos = books.starved, self.qos
        # No more of them than there is room for: an ack must not cost more the more queues there are. Who
        # still has no room stands at the end of the row again.
        for _ in range(len(starved)):
            if not starved or not (self.no_ack_consumers or qos.can_consume()):
                return
            self.board.notify(starved.popitem(last=False)[0])

    def _room_again(self) -> None:
        books = self.books
        if books.subscriptions and books.starved:
            if self.qos.prefetch_count or books.below_half(self.fetch_ahead):
                self.ask_for_more()

    def flow(self, active: bool = True) -> bool:
        """Stop the deliveries to this channel's consumers, or go on.

        Source: AMQP 0-9-1 channel.flow.
        """
        flowing = self.books.flowing = bool(active)
        self.ask_for_more()
        return flowing

    def receive(self, raw: Any, queue: str) -> Any:
        """Give a payload to a consumer of `queue`: for a `_deliver` that a program has written."""
        known = self.connection.prepared.pop(id(raw), None)
        if known is not None:
            sub, message = known
        else:
            message = self.Message(raw, channel=self)
            message.delivery_tag, message.queue = self.deliveries.next_tag(), queue
            sub = self.books.next_taker(queue)
            message.delivery_info['consumer_tag'] = sub.tag
            if not sub.no_ack:
                self.qos.append(message, message.delivery_tag)
        return sub.callback(message)

    def take_back(self, payload: Any, queue: str) -> None:
        """Put a payload that nobody consumes into its queue."""
        self.access.put(queue, payload)

    def message_to_python(self, raw_message: Any) -> Any:
        """Return a Message of a payload; one that is a Message already stays as it is."""
        return (
            raw_message if isinstance(raw_message, self.Message) else self.Message(raw_message, channel=self)
        )

    def drain_events(self, timeout: float | None = None, **kwargs: Any) -> None:
        """Handle one event of this channel's connection, if one comes in time. Raises: Empty."""
        drain_once(self.connection, timeout or 0)

    # ---- settle

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> bool | None:
        """Settle a message, with `multiple` also all delivered before it.

        Returns:
            bool | None: False if the channel is closed: the message went back to its queue.
        """
        if self.closed:
            return False
        if not is_here(self._hub):
            return self._at_home(self.basic_ack, delivery_tag, multiple)
        qos = self.books.qos or self.qos
        if multiple:
            for tag in qos.up_to(delivery_tag):
                qos.ack(tag)
        else:
            qos.ack(delivery_tag)
        # Without a prefetch an ack makes no room: taking a message does, and looks then.
        if self.books.starved and (qos.prefetch_count or not self._plain_qos):
            self._room_again()
        return None

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> bool | None:
        """Refuse a message: dead-lettered or dropped, or with `requeue` back to its place in the queue.

        Returns:
            bool | None: as `basic_ack`.
        """
        if self.closed:
            return False
        if not is_here(self._hub):
            return self._at_home(self.basic_reject, delivery_tag, requeue)
        message = self.qos.unsettled.get(delivery_tag)
        if message is not None:
            requeue = self.deliveries.goes_back(message, requeue)
        self.qos.reject(delivery_tag, requeue=requeue)
        self._room_again()
        return None

    def _at_home(self, settle: Callable[..., Any], *args: Any) -> bool:
        # Have the thread of the channel do it, soon: worker threads settle what another thread drained.
        return runtime.post(self._hub, partial(settle, *args))

    def basic_recover(self, requeue: bool = False) -> Any:
        """Give back all that is unsettled on this channel.

        Raises:
            NotImplementedError: without `requeue`, as brokers have it.
        """
        if not requeue:
            raise NotImplementedError('Does not support recover(requeue=False)')
        for sub, message in self.connection.events.remove(self, lambda event: not event[0].no_ack):
            sub.waiting -= 1
            message.unseen = True
        failed = self.qos.restore_unacked()
        self.ask_for_more()
        return failed

    # ---- kombu's hooks, for programs and exchange types that call them

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        self.access.put(queue, message)

    def _put_fanout(self, exchange: str, message: Any, routing_key: str | None = None, **kwargs: Any) -> None:
        for queue in self._lookup(exchange, routing_key or ''):
            self.access.put(queue, message)

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:
        return self.entities.lookup(exchange, routing_key, default or self.deadletter_queue)

    def _lookup_headers(self, exchange: str, routing_key: str, headers: Any) -> Any:
        return self.state.route(exchange, routing_key, headers or {})

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        record = self.access.take(queue)
        if record is None:
            raise Empty()
        return payload_of(record, self.deliveries.next_tag())

    def _size(self, queue: str) -> int:
        return self.access.size(queue)

    def _purge(self, queue: str) -> int:
        return self.access.purge(queue)

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        self.access.delete(queue)

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        self.access.make(queue, **kwargs)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self.access.has(queue)

    def _restore_at_beginning(self, message: Any) -> None:
        self.deliveries.restore(message)

    # ---- its end, and another thread

    def close(self) -> None:
        """End the consumers and leave the connection. Idempotent, from any greenlet.

        Everything unsettled is back in its place when this returns.
        """
        if self.closed:
            return
        self.closed = True
        events = self.connection.events.discard(self)
        for _, message in events:
            message.unseen = True
        for tag in list(self.books.subscriptions):
            self.basic_cancel(tag)
        # Those that need no ack are in no book of ours.
        self.deliveries.put_back([message for sub, message in events if sub.no_ack])
        # Whoever points back at us is sent away, or a closed channel would stay until the collector comes
        # (P47).
        for kind in self.exchange_types.values():
            kind.channel = None
        self.connection.close_channel(self)
        self.deliveries.give_back_all()

    def leave_here(self) -> None:
        """The connection leaves this thread, see `Transport.move_here`."""

    def arrived_here(self) -> None:
        """The connection goes on in this thread, see `Transport.move_here`."""
        self._hub = runtime.hub_id()
        for sub in self.books.subscriptions.values():
            sub.hub = self._hub
            while sub.posted:
                sub.accept(sub.posted.popleft())
        for sub in self.books.subscriptions.values():
            self.board.remove(sub)  # or it is out already: the old thread had ended
            self.board.add(sub)
        for queue in list(self.books.takers):
            self.board.notify(queue)

    def __del__(self) -> None:
        # Abandoned without close(): what it had goes back, but not from here, where the lock may be held.
        deliveries = getattr(self, 'deliveries', None)
        places = deliveries.places() if deliveries is not None and not self.closed else None
        if places:
            runtime.post(self._hub, self.broker.put_back, places, True, self.max_deliveries)

    def __repr__(self) -> str:
        state = 'closed' if self.closed else 'open'
        unsettled = len(self.books.qos.unsettled) if self.books.qos is not None else 0
        cls = type(self)
        return (
            f'<{cls.__module__}.{cls.__name__} {getattr(self, "channel_id", None)}: {state}, '
            f'{len(self.books.subscriptions)} consumers, {unsettled} unsettled>'
        )


virtual.Channel.register(Channel)
