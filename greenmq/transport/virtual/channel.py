"""A channel of a broker that only knows queues: routing, prefetch, acknowledgements and consumers, done by
the client.

How a transport is written
--------------------------
Subclass `Channel` and give `_put`, `_size`, `_purge`, `_delete` (and `_new_queue`, `_has_queue`), and say by
`delivery` how messages come:

'push'
    Whoever puts a message into a queue calls ``self.board.notify(queue)``; `_get(queue)` never switches.
    Nothing waits and no task runs: the message is handed over in the context of the one who put it.
'wait'
    ``_get_many(queues, n, timeout)`` returns up to n pairs (queue, payload), waiting at the broker for the
    first; or
    ``_get(queue, timeout)`` returns one payload, raising Empty. One supervised task per channel calls the
    former, one per queue the latter.
'poll' (the default: what a channel written for kombu is)
    ``_get(queue)`` raises Empty. One task per channel looks every `polling_interval` seconds.

Optional: ``_settle(acks, rejects)`` settles many at once, tags and (tag, requeue) pairs in order;
``_extend(tags, seconds)`` renews the leases of what is in work, called each third of `lease_seconds`;
``_abandon(items)`` takes back
(queue, payload) pairs that a fetch brought after nobody wanted them any more: the consumer was cancelled, or
its task killed. A `_get` that is killed while it holds messages calls `_abandon` itself.

Fetches are bounded by the free prefetch; where the program set none, `fetch_ahead` messages wait in the
process at most.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from queue import Empty
from typing import Any, ClassVar

from greenmq.exceptions import ConnectionClosed, Unroutable
from greenmq.log import get_logger
from greenmq.transport import base
from greenmq.transport.virtual.consumers import Board, Subscription
from greenmq.transport.virtual.entities import EntityMethods
from greenmq.transport.virtual.envelope import Base64, Message, given_back
from greenmq.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES
from greenmq.transport.virtual.fetch import Fetcher
from greenmq.transport.virtual.qos import QoS
from greenmq.transport.virtual.settle import Settling
from greenmq.utils.scheduling import FairCycle
from greenmq.utils.uuid import uuid

__all__ = (
    'UNDELIVERABLE_FMT', 'W_NO_CONSUMERS', 'AbstractChannel', 'Channel', 'Empty', 'UndeliverableWarning',
)  # fmt: skip

UNDELIVERABLE_FMT = (
    'Message could not be delivered: no queue is bound to exchange {exchange!r} '
    'with binding key {routing_key!r}.'
)
W_NO_CONSUMERS = 'Giving back a message of queue %r: nobody consumes it.'

logger = get_logger('greenmq.transport.virtual')


class UndeliverableWarning(UserWarning):
    """A message reached no queue and went to the `deadletter_queue`.

    Source: kombu UndeliverableWarning.
    """


class AbstractChannel:
    """What a broker must give: the contract of a virtual channel. See the text above.

    Source: kombu virtual.AbstractChannel.
    """

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        """Take the next message from `queue`, or raise `Empty`."""
        raise NotImplementedError('Virtual channels must implement _get')

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        """Put a message into `queue`."""
        raise NotImplementedError('Virtual channels must implement _put')

    def _purge(self, queue: str) -> int:
        """Remove all messages of `queue`; return how many."""
        raise NotImplementedError('Virtual channels must implement _purge')

    def _size(self, queue: str) -> int:
        """Return how many messages wait in `queue`."""
        return 0

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete `queue`; called once for each of its bindings, with (exchange, routing key, pattern,
        queue).
        """
        self._purge(queue)

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        """Make `queue`; it may exist."""

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        """Tell whether `queue` exists."""
        return True

    def _poll(self, cycle: Any, callback: Callable[..., Any], timeout: float | None = None) -> Any:
        """Ask the queues in turn until one has a message."""
        return cycle.get(callback)

    def _get_and_deliver(self, queue: str, callback: Callable[..., Any]) -> None:
        """Take one message and give it to `callback(payload, queue)`."""
        callback(self._get(queue), queue)

    def _abandon(self, items: list[tuple[str, Any]]) -> None:
        """Take back (queue, payload) pairs that a fetch brought too late."""
        for queue, payload in items:
            self._put(queue, payload)


class Channel(AbstractChannel, EntityMethods, base.StdChannel):
    """A virtual channel.

    Arguments:
        connection (Transport): the virtual transport, which is its own connection.
    Attributes:
        channel_id (int): unique in the connection.
        closed (bool): True once `close` was called.
    Source: kombu virtual.Channel.
    """

    #: How messages come: 'push', 'wait' or 'poll'.
    delivery: ClassVar[str] = 'poll'
    Message: Any = Message
    QoS: Any = QoS
    #: Does closing give back what is unsettled?
    do_restore = True
    #: Codecs of bodies, by name.
    codecs: ClassVar[dict[str, Any]] = {'base64': Base64()}
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

    _settle: Any = None
    _extend: Any = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.connection = connection
        self.closed = False
        self.no_ack_consumers: set[str] = set()
        self._consumers: set[str] = set()
        self._tag_to_queue: dict[str, str] = {}
        self._active_queues: list[str] = []
        self._subscriptions: dict[str, Subscription] = {}
        self._takers: dict[str, deque[Subscription]] = {}
        self._cycle: Any = None
        self._qos: Any = None
        self._flowing = True
        self.exchange_types = {name: cls(self) for name, cls in type(self).exchange_types.items()}
        self._own_routes = type(self).get_table is Channel.get_table
        self._fetcher = Fetcher(self)
        self._settling = Settling(self) if self._settle is not None or self._extend is not None else None
        self.channel_id = self._get_free_channel_id()
        options = getattr(connection.client, 'transport_options', None) or {}
        for name in (*self.from_transport_options, 'fetch_ahead', 'max_deliveries'):
            if options.get(name) is not None:
                setattr(self, name, options[name])

    @property
    def board(self) -> Board:
        """Where a channel that delivers by push says that a queue has messages."""
        board = getattr(self.state, 'board', None)
        if board is None:
            board = self.state.board = Board()
        return board

    @property
    def qos(self) -> Any:
        """The unsettled deliveries and the prefetch of this channel."""
        qos = self._qos
        if qos is None:
            qos = self._qos = self.QoS(self)
        return qos

    @property
    def cycle(self) -> Any:
        """The consumed queues in turn, for `_poll`."""
        if self._cycle is None:
            self._reset_cycle()
        return self._cycle

    def _reset_cycle(self) -> None:
        self._cycle = FairCycle(self._get_and_deliver, self._active_queues, Empty)

    def _get_free_channel_id(self) -> int:
        return int(self.connection._take_channel_id())

    def _check_open(self) -> None:
        if self.closed:
            raise ConnectionClosed(f'{self!r} is closed')

    # --------------------------------------------------------------- publish

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the payload of a message; nothing given is changed later. Switches: no."""
        properties = dict(properties) if properties else {}
        properties['delivery_info'] = dict(properties.get('delivery_info') or ())
        properties.setdefault('priority', priority or self.default_priority)
        return {
            'body': body,
            'content-encoding': content_encoding,
            'content-type': content_type,
            'headers': dict(headers) if headers else {},
            'properties': properties,
        }

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Publish what `prepare_message` made.

        Arguments:
            mandatory (bool): raise if no queue would get it.
        Raises:
            Unroutable: `mandatory`, and no queue would get it.
            ConnectionClosed: the channel is closed.
        Switches: as the channel's `_put`.
        Source: AMQP 0-9-1 basic.publish; kombu.
        """
        self._check_open()
        self._inplace_augment_message(message, exchange, routing_key)
        if kwargs.get('mandatory') and not self._reaches(message, exchange, routing_key):
            raise Unroutable(message, exchange, routing_key)
        if exchange:
            return self.typeof(exchange).deliver(message, exchange, routing_key, **kwargs)
        return self._put(routing_key, message, **kwargs)

    def _inplace_augment_message(self, message: Any, exchange: str, routing_key: str) -> None:
        properties = message['properties']
        message['body'], body_encoding = self.encode_body(message['body'], self.body_encoding)
        properties['body_encoding'] = body_encoding
        properties['delivery_tag'] = self._next_delivery_tag()
        properties.setdefault('delivery_info', {}).update(exchange=exchange, routing_key=routing_key)

    def _next_delivery_tag(self) -> Any:
        return uuid()

    def _reaches(self, message: Any, exchange: str, routing_key: str) -> bool:
        if not exchange:
            return bool(self._has_queue(routing_key))
        if exchange not in self.state.exchanges and self._own_routes:
            return False
        if self.typeof(exchange).type == 'headers':
            return bool(self._lookup_headers(exchange, routing_key, message.get('headers')))
        if self._routes_itself(exchange):
            return bool(self.state.route(exchange, routing_key))
        return bool(self.typeof(exchange).lookup(self._table(exchange), exchange, routing_key, None))

    def _routes_itself(self, exchange: str) -> bool:
        # Not if the channel keeps its tables elsewhere or has exchange types of its own: those do the look-up
        # then.
        kind = self.typeof(exchange)
        return self._own_routes and type(kind) is STANDARD_EXCHANGE_TYPES.get(kind.type)

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:
        """Return the queues that get a message; the deadletter queue if there are none."""
        default = self.deadletter_queue if default is None else default
        if not exchange:
            return [routing_key or default]
        if self._routes_itself(exchange):
            found = self.state.route(exchange, routing_key)
        else:
            found = self.typeof(exchange).lookup(self._table(exchange), exchange, routing_key, default)
        if not found and default is not None:
            warnings.warn(
                UndeliverableWarning(UNDELIVERABLE_FMT.format(exchange=exchange, routing_key=routing_key)),
                stacklevel=2,
            )
            self._new_queue(default)
            found = [default]
        return found

    def _lookup_headers(self, exchange: str, routing_key: str, headers: Any) -> Any:
        return self.state.route(exchange, routing_key, headers or {})

    def _put_fanout(self, exchange: str, message: Any, routing_key: str | None = None, **kwargs: Any) -> None:
        for queue in self._lookup(exchange, routing_key or ''):
            self._put(queue, message, **kwargs)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: Any, queue: str) -> None:
        """Called after a binding if `supports_fanout`: for brokers that keep bindings too."""

    def _get_message_priority(self, message: Any, reverse: bool = False) -> int:
        try:
            priority = max(min(int(message['properties']['priority']), self.max_priority), self.min_priority)
        except (TypeError, ValueError, KeyError):
            priority = self.default_priority
        return self.max_priority - priority if reverse else priority

    def encode_body(self, body: Any, encoding: str | None = None) -> tuple[Any, str | None]:
        """Return a body as the named codec encodes it, and the name. Switches: no."""
        if encoding and encoding.lower() != 'utf-8':
            return self.codecs[encoding].encode(body), encoding
        return body, encoding

    def decode_body(self, body: Any, encoding: str | None = None) -> Any:
        """Undo `encode_body`. Switches: no."""
        if encoding and encoding.lower() != 'utf-8':
            return self.codecs[encoding].decode(body)
        return body

    # --------------------------------------------------------------- consume

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Limit the unsettled messages of this channel; 0 for no limit. Switches: no.

        Source: AMQP 0-9-1 basic.qos; kombu: the whole channel counts, whatever `apply_global` says.
        """
        self.qos.prefetch_count = prefetch_count or 0
        self._ask_for_more()

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> None:
        """Deliver the messages of `queue` to `callback(message)`, called by whoever drains. Switches: no.

        Source: AMQP 0-9-1 basic.consume; kombu.
        """
        self._check_open()
        if consumer_tag in self._subscriptions:
            self.basic_cancel(consumer_tag)
        sub = Subscription(
            consumer_tag,
            queue,
            self,
            no_ack,
            callback,
            bool(kwargs.get('exclusive')),
            kwargs.get('arguments'),
        )
        self._admit(sub)
        self._subscriptions[consumer_tag] = sub
        self._consumers.add(consumer_tag)
        self._tag_to_queue[consumer_tag] = queue
        self._active_queues.append(queue)
        self._takers.setdefault(queue, deque()).append(sub)
        if no_ack:
            self.no_ack_consumers.add(consumer_tag)
        self._reset_cycle()
        if self.delivery == 'push':
            self.board.add(sub)
            self.board.notify(queue)
        else:
            self._fetcher.refresh()

    def _admit(self, sub: Subscription) -> None:
        """Refuse a consumer by raising; a hook for brokers that know exclusive ones."""

    def basic_cancel(self, consumer_tag: str) -> None:
        """End a consumer; what waits for its callback goes back to the queue. An unknown tag is fine.
        Switches: as the channel's `_restore_at_beginning`.
        """
        sub = self._subscriptions.pop(consumer_tag, None)
        if sub is None:
            return
        sub.cancelled = True
        self._consumers.discard(consumer_tag)
        self.no_ack_consumers.discard(consumer_tag)
        self._tag_to_queue.pop(consumer_tag, None)
        if sub.queue in self._active_queues:
            self._active_queues.remove(sub.queue)
        takers = self._takers.get(sub.queue)
        if takers is not None:
            takers.remove(sub)
            if not takers:
                del self._takers[sub.queue]
        self._reset_cycle()
        if self.delivery == 'push':
            self.board.remove(sub)
        else:
            self._fetcher.refresh()
        waiting = [
            message for _, message in self.connection._events.remove(self, lambda event: event[0] is sub)
        ]
        while sub.posted:
            waiting.append(sub.posted.popleft())
        sub.waiting = 0
        self._put_back(waiting)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take one message now.

        Returns:
            Message: or None if there is none.
        Switches: as the channel's `_get`.
        """
        self._check_open()
        try:
            raw = self._get_one(queue)
        except Empty:
            return None
        message = self._make_message(raw, queue)
        if not no_ack:
            self.qos.append(message, message.delivery_tag)
            if self._settling is not None:
                self._settling.leased()
        return message

    def _get_one(self, queue: str) -> Any:
        if getattr(self, '_get_many', None) is not None and type(self)._get is AbstractChannel._get:
            for _, raw in self._get_many([queue], 1, 0):  # type: ignore[attr-defined]
                return raw
            raise Empty()
        return self._get(queue)

    def message_to_python(self, raw_message: Any) -> Any:
        """Return a Message of a payload; one that is a Message already stays as it is. Switches: no."""
        return (
            raw_message if isinstance(raw_message, self.Message) else self.Message(raw_message, channel=self)
        )

    def _make_message(self, raw: Any, queue: str) -> Any:
        message = self.Message(raw, channel=self)
        tag = message.delivery_tag
        if tag is None or tag in self.qos._delivered:
            # kombu numbers messages when they are published: one in two queues would be settled in both at
            # once.
            message.delivery_tag = tag = uuid()
        message.queue = queue
        return message

    def _next_message(self, queue: str, sub: Subscription) -> Any:
        """The next message of a push channel for `sub`, or None; never switches."""
        try:
            return self._make_message(self._get(queue), queue)
        except Empty:
            return None

    def _receive(self, raw: Any, queue: str) -> Any:
        """Hand one payload to the next consumer of `queue` on this channel, in the caller's greenlet."""
        sub = self._next_taker(queue)
        message = self.connection._prepared.pop(id(raw), None)
        if message is None:
            message = self._make_message(raw, queue)
            message.delivery_info['consumer_tag'] = sub.tag
            if not sub.no_ack:
                self.qos.append(message, message.delivery_tag)
        return sub.callback(message)

    def _next_taker(self, queue: str) -> Subscription:
        takers = self._takers[queue]
        sub = takers[0]
        takers.rotate(-1)
        return sub

    def _fetched(self, raw: Any, queue: str) -> None:
        """Register one payload that a fetch brought, and leave it to whoever drains."""
        if queue not in self._takers:
            self._abandon([(queue, raw)])
            return
        self._next_taker(queue).accept(self._make_message(raw, queue))
        if self._settling is not None:
            self._settling.leased()

    def drain_events(self, timeout: float | None = None, callback: Callable[..., Any] | None = None) -> Any:
        """Ask the broker once for a message of the queues consumed, and give it to `callback(payload,
        queue)`.

        Raises:
            Empty: nothing there, or no room for more.
        Switches: as the channel's `_get`.
        Source: kombu virtual.Channel.drain_events. `Transport.drain_events` is what programs call.
        """
        callback = callback or self.connection._deliver
        if self._consumers and self.qos.can_consume():
            if self.delivery == 'poll' and getattr(self, '_get_many', None) is not None:
                return self._get_many(self._active_queues, timeout=timeout)  # type: ignore[attr-defined]
            return self._poll(self.cycle, callback, timeout=timeout)
        raise Empty()

    def _consumer_count(self, queue: str) -> int:
        if self.delivery == 'push':
            return len(self.board.consumers(queue))
        return sum(len(channel._takers.get(queue, ())) for channel in self.connection.channels)

    def flow(self, active: bool = True) -> bool:
        """Stop the deliveries to this channel's consumers, or go on. Switches: no.

        Source: AMQP 0-9-1 channel.flow.
        """
        self._flowing = bool(active)
        self._ask_for_more()
        return self._flowing

    def _ask_for_more(self) -> None:
        # There is room, perhaps for the first time in a while.
        if not self._subscriptions or self.closed:
            return
        if self.delivery == 'push':
            for queue in list(self._takers):
                self.board.notify(queue)
        else:
            self._fetcher.kick()

    # ---------------------------------------------------------------- settle

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> bool | None:
        """Settle a message, with `multiple` also all delivered before it.

        Returns:
            bool | None: False if the channel is closed: the message went back to its queue.
        Switches: as the channel's QoS.
        """
        if self.closed:
            return False
        qos = self.qos
        if multiple:
            for tag in self._up_to(delivery_tag):
                self._ack(qos, tag)
        else:
            self._ack(qos, delivery_tag)
        self._room_again()
        return None

    def _ack(self, qos: Any, tag: Any) -> None:
        known = self._settling is not None and tag in qos._delivered
        qos.ack(tag)
        if known and self._settling is not None:
            self._settling.ack(tag)

    def _up_to(self, delivery_tag: Any) -> list[Any]:
        delivered = self.qos._delivered
        if delivery_tag not in delivered:
            return [delivery_tag]
        tags = []
        for tag in delivered:
            tags.append(tag)
            if tag == delivery_tag:
                break
        return tags

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> bool | None:
        """Refuse a message: dead-lettered or dropped, or with `requeue` back to the front of its queue.

        Returns:
            bool | None: as `basic_ack`.
        Switches: as the channel's QoS.
        """
        if self.closed:
            return False
        message = self.qos._delivered.get(delivery_tag)
        if message is not None and requeue and self._delivered_too_often(message):
            requeue = False
            self._dead_letter(message, 'delivery_limit')
        elif message is not None and not requeue:
            self._dead_letter(message, 'rejected')
        if self._settling is not None and message is not None and self._settle is not None:
            self.qos.ack(delivery_tag)
            self._settling.reject(delivery_tag, requeue)
        else:
            self.qos.reject(delivery_tag, requeue=requeue)
        self._room_again()
        return None

    def _room_again(self) -> None:
        if self._subscriptions:
            if self.delivery != 'push':
                self._fetcher.kick()
            else:
                for sub in list(self._subscriptions.values()):
                    if sub.starved:
                        sub.starved = False
                        self.board.notify(sub.queue)

    def _delivered_too_often(self, message: Any) -> bool:
        limit = self.max_deliveries
        return bool(limit) and given_back(message)['headers']['x-delivery-count'] >= limit

    def _dead_letter(self, message: Any, reason: str) -> None:
        """Send a refused message to the dead-letter exchange of its queue, if it has one."""
        queue = getattr(message, 'queue', None)
        arguments = (self.state.queues.get(queue, {}).get('arguments') or {}) if queue else {}
        exchange = arguments.get('x-dead-letter-exchange')
        if exchange is None:
            return
        payload = message.serializable()
        info = message.delivery_info
        headers = payload['headers']
        headers.setdefault('x-first-death-reason', reason)
        headers.setdefault('x-first-death-queue', queue)
        headers.setdefault('x-first-death-exchange', info.get('exchange', ''))
        key = arguments.get('x-dead-letter-routing-key') or info.get('routing_key') or ''
        body = message.body
        fresh = self.prepare_message(
            body,
            None,
            payload['content-type'],
            payload['content-encoding'],
            headers,
            {name: value for name, value in payload['properties'].items() if name != 'expiration'},
        )
        self.basic_publish(fresh, exchange, key)

    def basic_recover(self, requeue: bool = False) -> Any:
        """Give back all that is unsettled on this channel.

        Raises:
            NotImplementedError: without `requeue`, as brokers have it.
        Switches: as the channel's `_restore_at_beginning`.
        """
        if not requeue:
            raise NotImplementedError('Does not support recover(requeue=False)')
        self.connection._events.remove(self, self._forget_event)
        failed = self.qos.restore_unacked()
        self._ask_for_more()
        return failed

    def _forget_event(self, event: Any) -> bool:
        sub = event[0]
        if sub.no_ack:
            return False
        sub.waiting -= 1
        return True

    def _put_back(self, messages: list[Any]) -> None:
        """Give back deliveries that no callback had, so that the oldest comes first again."""
        for message in reversed(messages) if self._restores_in_front else messages:
            self.qos.ack(message.delivery_tag)
            self._restore_at_beginning(message)

    @property
    def _restores_in_front(self) -> bool:
        return type(self)._restore_at_beginning is not Channel._restore_at_beginning

    def _restore(self, message: Any) -> None:
        """Put a delivery back into its queue, and into no other one."""
        payload = given_back(message)
        queue = getattr(message, 'queue', None)
        if queue is not None:
            self._put(queue, payload)
            return
        info = message.delivery_info
        for name in self._lookup(info.get('exchange', ''), info.get('routing_key', '')):
            self._put(name, payload)

    def _restore_at_beginning(self, message: Any) -> None:
        """As `_restore`, at the front; override it where the broker has a front."""
        self._restore(message)

    def after_reply_message_received(self, queue: str) -> None:
        """Delete a queue that served for one reply. Switches: as `queue_delete`."""
        self.queue_delete(queue)

    # ----------------------------------------------------------------- close

    def close(self) -> None:
        """End the consumers, give back what is unsettled, and leave the connection. Idempotent, from any
        greenlet.

        Switches: as the channel's cancelling and restoring.
        """
        if self.closed:
            return
        self.closed = True
        try:
            for tag in list(self._consumers):
                self.basic_cancel(tag)
            self._fetcher.close()
            self.connection._events.discard(self)
            if self._settling is not None:
                self._settling.close()
            if self._qos is not None:
                self._qos.restore_unacked_once()
        finally:
            self._cycle = None
            self.connection.close_channel(self)

    def __repr__(self) -> str:
        state = 'closed' if self.closed else self._fetcher.state
        unsettled = len(self._qos._delivered) if self._qos is not None else 0
        return (
            f'<{type(self).__module__}.{type(self).__name__} {getattr(self, "channel_id", None)}: {state}, '
            f'{len(self._consumers)} consumers, {unsettled} unsettled>'
        )
