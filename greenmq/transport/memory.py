"""``memory://``: a broker inside the process, for programs that need no other one, and for tests.

* URL: ``memory://`` or ``memory://localhost/name``. Connections to one virtual host share one broker;
  `reset` empties it.
* Types of exchange: direct, topic, fanout, headers; exchange-to-exchange bindings; alternate-exchange.
* Priorities (higher is sooner, 0 to 9 or x-max-priority), expiration and x-message-ttl, x-expires,
  x-max-length, x-max-length-bytes, x-overflow, dead letters, exclusive and auto_delete queues.
* Nothing is polled: a publish hands the message to a waiting consumer. Nothing is durable: it ends with the
  process, and a forked child begins with an empty broker.

An exclusive queue goes with the connection that declared it, the last one of several. Meanwhile other
connections may use it, as in kombu, whose programs leave connections to the collector; the option
`lock_exclusive` refuses them, as RabbitMQ does.

Options: `lock_exclusive`, `fetch_ahead`, `max_deliveries`, `deadletter_queue`, and the common ones; see
`transport.options`.
"""

from __future__ import annotations

from itertools import count
from queue import Empty
from typing import Any, ClassVar

from greenmq.exceptions import AccessRefused, ConnectionClosed, InvalidArgument, Unroutable
from greenmq.message import Message
from greenmq.runtime import is_here, post
from greenmq.transport import virtual
from greenmq.transport.base import to_rabbitmq_queue_arguments
from greenmq.transport.options import Option, truth
from greenmq.transport.virtual.consumers import Subscription
from greenmq.transport.virtual.envelope import DELIVERY_COUNT
from greenmq.transport.virtual.local_broker import LocalBroker
from greenmq.transport.virtual.local_queue import LocalQueue, Record
from greenmq.transport.virtual.unmade import settle_unmade

__all__ = ('Channel', 'Transport', 'reset')

_brokers: dict[str, LocalBroker] = {}

# kombu has the broker's state as class attributes: these are those of the virtual host '/'.
_default_queues: dict[str, LocalQueue] = {}
_default_state = virtual.BrokerState()


def broker(virtual_host: str | None = None) -> LocalBroker:
    """Return the broker of a virtual host, made at first use; '/' if none is named."""
    name = virtual_host or '/'
    found = _brokers.get(name)
    if found is None:
        fresh = LocalBroker(name, _default_state, _default_queues) if name == '/' else LocalBroker(name)
        found = _brokers.setdefault(name, fresh)
    return found


def reset(virtual_host: str | None = None) -> None:
    """Empty the broker of a virtual host, or of all: queues, exchanges, consumers. For tests.

    Connections stay usable; what they had consumed and not settled is gone.
    """
    for name in [virtual_host] if virtual_host is not None else list(_brokers):
        if name in _brokers:
            _brokers[name].clear()


def _payload(record: Record, tag: Any) -> dict[str, Any]:
    """The message as a virtual channel of kombu would get it from its broker."""
    message: dict[str, Any] = record.message
    properties = dict(message['properties'])
    properties['delivery_tag'] = tag
    properties['delivery_info'] = {'exchange': record.exchange, 'routing_key': record.routing_key}
    return {
        'body': message['body'],
        'content-type': message.get('content-type'),
        'content-encoding': message.get('content-encoding'),
        'headers': _headers(record),
        'properties': properties,
        'redelivered': record.redelivered,
    }


def _headers(record: Record) -> dict[str, Any]:
    headers = dict(record.message.get('headers') or ())
    if record.count:
        headers[DELIVERY_COUNT] = record.count
    return headers


class LocalMessage(virtual.Message):
    """A delivery out of a queue in this process, made without the payload that nobody asks for.

    Arguments:
        record (Record): the message and its place.
        channel (Channel): where it is settled.
        tag (int): its number there.
    """

    __slots__ = ()

    def __init__(self, record: Record, channel: Any, tag: int) -> None:
        self.queue = record.queue.name
        self.place = record
        message = record.message
        info = {
            'exchange': record.exchange,
            'routing_key': record.routing_key,
            'redelivered': record.redelivered,
        }
        properties = message['properties'].copy()
        properties['delivery_info'] = info
        properties['delivery_tag'] = tag
        Message.__init__(
            self,
            message['body'],
            tag,
            message.get('content-type'),
            message.get('content-encoding'),
            info,
            properties,
            _headers(record),
            'utf-8',
            None,
            channel,
        )

    @property
    def _raw(self) -> dict[str, Any]:  # type: ignore[override]
        return _payload(self.place, self.delivery_tag)


class Channel(virtual.Channel):
    """A channel of the broker in this process.

    Source: kombu transport.memory.Channel.
    """

    delivery: ClassVar[str] = 'push'
    #: The queues of the virtual host, by name; of the class, those of '/'.
    queues: dict[str, LocalQueue] = _default_queues
    #: Kept for programs that look at it.
    events: ClassVar[dict[str, Any]] = {}
    #: Closing gives back what is unsettled in another way than kombu's hook, see `close`.
    do_restore = False
    supports_fanout = True
    #: Bodies stay what they are: bytes.
    body_encoding: str | None = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._broker: LocalBroker = connection.broker
        self._user = connection.user
        self.queues = self._broker.queues
        self._tags = count(1)
        self._plain_messages = self.Message is virtual.Message
        self._plain_qos = self.QoS is virtual.QoS
        super().__init__(connection, **kwargs)
        # Programs give kombu's option for a broker of text; in memory it would only cost.
        self.body_encoding = None

    @property
    def board(self) -> Any:
        """Where the consumers of the virtual host stand."""
        return self._broker.board

    # --------------------------------------------------------------- publish

    def basic_publish(
        self,
        message: Any,
        exchange: str,
        routing_key: str,
        mandatory: bool = False,
        immediate: bool = False,
        timeout: Any = None,
        confirm_timeout: Any = None,
        **kwargs: Any,
    ) -> None:
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
        broker = self._broker
        plan = broker.plan(exchange, routing_key)
        if plan is None:
            plan = self._plan(message, exchange, routing_key, mandatory)
        broker.publish(plan, message, exchange, routing_key)

    def _plan(self, message: Any, exchange: str, routing_key: str, mandatory: bool) -> tuple[LocalQueue, ...]:
        broker = self._broker
        if not exchange:
            if mandatory and routing_key not in broker.queues:
                raise Unroutable(message, exchange, routing_key)
            self._queue_for(routing_key)
            return broker.remember_plan(exchange, routing_key, [routing_key])
        if exchange in broker.state.exchanges and self._routes_itself(exchange):
            names = broker.state.route(exchange, routing_key, message.get('headers'))
            if names:
                if not broker.state.known_route(exchange, routing_key):
                    return tuple(broker.queues[name] for name in names)  # the headers had a say
                return broker.remember_plan(exchange, routing_key, names)
        # No queue, or an exchange type that a program brought along: kombu's way finds or warns.
        names = [name for name in self._lookup(exchange, routing_key) if name is not None]
        if not names and mandatory:
            raise Unroutable(message, exchange, routing_key)
        return tuple(self._queue_for(name) for name in names)

    def _queue_for(self, queue: str) -> LocalQueue:
        found = self._broker.queues.get(queue)
        return found if found is not None else self._broker.declare(queue, self._user)

    # ------------------------------------- what a virtual channel has to give

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        found = self._queue_for(queue)
        info = message['properties'].get('delivery_info') or {}
        self._broker.publish((found,), message, info.get('exchange', ''), info.get('routing_key', queue))

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        record = self._take(queue)
        if record is None:
            raise Empty()
        return _payload(record, next(self._tags))

    def _size(self, queue: str) -> int:
        found = self._broker.queues.get(queue)
        return 0 if found is None else found.ready

    def _purge(self, queue: str) -> int:
        found = self._broker.queues.get(queue)
        if found is not None:
            self._broker.check(found, self._user)
        return self._broker.purge(queue)

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        self._broker.delete(queue)

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        self._broker.declare(queue, self._user, locked=self.connection.locks_exclusive, **kwargs)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        found = self._broker.queues.get(queue)
        if found is not None:
            self._broker.check(found, self._user)
        return found is not None

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> dict[str, Any]:
        """Return `arguments` with a Queue's `expires`, `message_ttl`, `max_length` … as RabbitMQ names them.
        """
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> int:
        """Delete a queue; its consumers stop. See `virtual.Channel.queue_delete`."""
        found = self._broker.queues.get(queue)
        if found is None:
            return 0
        self._broker.check(found, self._user)
        consumers = self.board.consumers(queue)
        if (if_empty and found.ready) or (if_unused and consumers):
            return 0
        return self._broker.delete(queue)

    def has_dead_letter(self, queue: str) -> bool:
        """Tell whether a message rejected from `queue` is kept somewhere."""
        found = self._broker.queues.get(queue)
        return found is not None and found.arguments.get('x-dead-letter-exchange') is not None

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = '',
        arguments: Any = None,
        **kwargs: Any,
    ) -> None:
        """Remove a binding; an auto_delete exchange goes with its last one."""
        super().queue_unbind(queue, exchange, routing_key, arguments, **kwargs)
        self._broker.exchange_unused(exchange or 'amq.direct')

    # --------------------------------------------------------------- consume

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """See `virtual.Channel.basic_qos`.

        Raises:
            InvalidArgument: a negative number.
        """
        if prefetch_count is not None and prefetch_count < 0:
            raise InvalidArgument('prefetch_count', prefetch_count, 'is negative')
        super().basic_qos(prefetch_size, prefetch_count, apply_global)

    def _admit(self, sub: Subscription) -> None:
        queue = self._queue_for(sub.queue)
        self._broker.check(queue, self._user)
        others = self.board.consumers(sub.queue)
        if others and (sub.exclusive or any(other.exclusive for other in others)):
            raise AccessRefused(
                f"ACCESS_REFUSED - queue '{sub.queue}' in vhost '{self._broker.name}' in exclusive use",
                (60, 20),
                'Channel.basic_consume',
                403,
            )

    def basic_cancel(self, consumer_tag: str) -> None:
        """See `virtual.Channel.basic_cancel`; an auto_delete queue goes with its last consumer."""
        sub = self._subscriptions.get(consumer_tag)
        if sub is None:
            return
        super().basic_cancel(consumer_tag)
        if not self.board.consumers(sub.queue):
            self._broker.consumer_gone(sub.queue)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take one message now, or None."""
        self._check_open()
        message = None
        while message is None:
            record = self._take(queue)
            if record is None:
                return None
            message = self._delivery(record)
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
        return message

    def _take(self, queue: str) -> Record | None:
        found = self._queue_for(queue)
        if found.owner is not None:
            self._broker.check(found, self._user)
        if found.expires is not None:
            self._broker._used(found)
        return self._broker.take(found)

    def _next_message(self, queue: str, sub: Subscription) -> Any:
        found = self._broker.queues.get(queue)
        if found is None or not found.ready:
            return None
        message = None
        while message is None:
            record = self._broker.take(found)
            if record is None:
                return None
            message = self._delivery(record)
        return message

    def _delivery(self, record: Record) -> Any:
        # None: it can be made into none, and is settled.
        try:
            if self._plain_messages:
                return LocalMessage(record, self, next(self._tags))
            # A subclass brought a Message of its own, and expects a payload.
            message = self.Message(_payload(record, next(self._tags)), channel=self)
        except Exception as error:
            settle_unmade(self, record, record.queue.name, error)
            return None
        message.queue = record.queue.name
        message.place = record
        return message

    # ---------------------------------------------------------------- settle

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> bool | None:
        """See `virtual.Channel.basic_ack`."""
        if multiple or self.closed or not is_here(self._hub):
            return super().basic_ack(delivery_tag, multiple)
        qos = self._qos or self.qos
        qos.ack(delivery_tag)
        # Without a prefetch an ack makes no room: taking a message does, and looks then.
        if self._starved and (qos.prefetch_count or not self._plain_qos):
            self._room_again()
        return None

    def _delivered_too_often(self, message: Any) -> bool:
        place = getattr(message, 'place', None)
        return bool(self.max_deliveries) and place is not None and place.count + 1 >= self.max_deliveries

    def _dead_letter(self, message: Any, reason: str) -> None:
        if getattr(message, 'place', None) is not None:
            self._broker.dead_letter(message.place, reason)

    def _restore(self, message: Any) -> None:
        place = getattr(message, 'place', None)
        if place is not None:
            self._broker.put_back([place], not hasattr(message, 'unseen'), self.max_deliveries)
        else:
            super()._restore(message)

    def _restore_at_beginning(self, message: Any) -> None:
        self._restore(message)

    def _put_back(self, messages: list[Any]) -> None:
        # No callback has had these: they don't count as delivered.
        for message in messages:
            self.qos.ack(message.delivery_tag)
        self._broker.put_back([message.place for message in messages], seen=False)

    def after_reply_message_received(self, queue: str) -> None:
        """Do nothing: reply queues go by their own rules."""

    def close(self) -> None:
        """See `virtual.Channel.close`. Everything unsettled is back in its place when this returns."""
        if self.closed:
            return
        qos = self._qos
        super().close()
        if qos is not None:
            messages = [message for message in qos._delivered.values() if message.place is not None]
            qos._delivered.clear()
            unseen = [message.place for message in messages if hasattr(message, 'unseen')]
            seen = [message.place for message in messages if not hasattr(message, 'unseen')]
            self._broker.put_back(unseen, False)
            self._broker.put_back(seen, True, self.max_deliveries)
            self._qos = None  # it knows us: a ring of two would wait for the collector
            self._qos = None  # it points back at us (P47)

    def __del__(self) -> None:
        # Abandoned without close(): what it had goes back, but not from here, where the lock may be held.
        qos = getattr(self, '_qos', None)
        if qos is not None and qos._delivered and not self.closed:
            places = [message.place for message in qos._delivered.values() if message.place is not None]
            post(self._hub, self._broker.put_back, places, True, self.max_deliveries)


class Management(virtual.Management):
    """Questions to a broker in memory."""

    def get_queues(self) -> list[str]:
        """See `virtual.Management.get_queues`."""
        return sorted(self.channel._broker.queues)


class Transport(virtual.Transport):
    """The broker in this process.

    Arguments:
        client (Connection): its `virtual_host` names the broker.
    Attributes:
        broker (LocalBroker): shared by all connections to that virtual host.
    Source: kombu transport.memory.Transport.
    """

    Channel: ClassVar[Any] = Channel
    Management: ClassVar[Any] = Management
    #: The state of the virtual host '/'.
    global_state: Any = _default_state
    driver_type = 'memory'
    driver_name = 'memory'
    options: ClassVar[dict[str, Option]] = {
        'lock_exclusive': Option(truth, False, 'other connections may not use an exclusive queue'),
    }
    implements = virtual.Transport.implements.extend(
        exchange_type=frozenset(['direct', 'topic', 'fanout', 'headers'])
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.broker = broker(getattr(client, 'virtual_host', None))
        self.state = self.broker.state
        #: Stands for this connection at the broker, which must not keep it alive.
        self.user = object()
        options = getattr(client, 'transport_options', None) or {}
        self.locks_exclusive: bool = options.get('lock_exclusive') or False

    def close_connection(self, connection: Any) -> None:
        """See `virtual.Transport.close_connection`; exclusive queues go."""
        super().close_connection(connection)
        self.broker.connection_closed(self.user)

    def __del__(self) -> None:
        # Abandoned without close(). A finalizer must not take the broker's lock, which its own thread may
        # hold.
        user = getattr(self, 'user', None)
        if user is not None and any(queue.owner is user for queue in list(self.broker.queues.values())):
            post(self._home, self.broker.connection_closed, user)

    def driver_version(self) -> str:
        """There is no driver."""
        return 'N/A'
