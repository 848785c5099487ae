"""What users hold: an AMQP channel for any number of greenlets, which outlives the losses of its connection.

Below it stand up to two wire channels (`publishing`, `consuming`); see there. The methods have py-amqp's
names and arguments. Each synchronous one waits at most `operation_timeout` seconds (a transport option, 30).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from amqp.exceptions import AMQPNotImplementedError

from greenmq import events, runtime
from greenmq.exceptions import ConnectionClosed, InvalidArgument, TimeoutError
from greenmq.message import settle_undecodable
from greenmq.utils.uuid import uuid
from greenmq.utils.validate import at_least_zero

from . import frames, methods
from .consuming import Consumer, Consuming
from .entities import Entities
from .message import Delivery, Outgoing
from .message import Message as AMQPMessage
from .publishing import Publishing
from .sharedwire import Refused, SharedPublishing

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ['Channel']

#: Publishes that ask for a direct reply must go over the wire that consumes from this pseudo-queue.
DIRECT_REPLY_TO = 'amq.rabbitmq.reply-to'


class Channel(Entities):
    """A channel of an AMQP connection.

    Arguments:
        connection (Connection): the transport's connection.
        channel_id (int): unused; wire channels get their numbers when they are opened.

    Attributes:
        events (dict[str, set]): ``basic_return``: called with (error, exchange, routing key, message) for
            message that comes back, in the greenlet that drains.

    Switches: opening does not; the first call does.
    Source: amqp.Channel; differs: greenlet-safe, survives the loss of its connection, publishes over a wire
    of its own.
    """

    Message = AMQPMessage
    dead_letters_unseen = True  # a policy of RabbitMQ names them, which nothing in the protocol tells

    def __init__(
        self,
        connection: Connection,
        channel_id: int | None = None,
        auto_decode: bool = True,
        on_open: Callable[[Channel], Any] | None = None,
    ) -> None:
        self.connection = connection
        self.channel_id = connection.register(self)
        self.no_ack_consumers: set[str] = set()
        self.events: dict[str, set[Callable[..., Any]]] = defaultdict(set)
        self.closed = False
        self.last_queue = ''
        self._limits = runtime.Limits()
        self.consuming = Consuming(self)
        self.publishing = Publishing(self)
        self._shared: Channel | None = None
        if on_open is not None:
            on_open(self)

    def __repr__(self) -> str:
        state = (
            'closed'
            if self.closed
            else (
                f'{len(self.consuming.consumers)} consumers, {len(self.consuming.ledger)} unacked, '
                f'{self.publishing.outstanding} unconfirmed'
            )
        )
        return f'<Channel {self.channel_id} of {self.connection.name}: {state}>'

    @property
    def is_open(self) -> bool:
        """True until `close()`, whatever becomes of the connection."""
        return not self.closed and not self.connection.closed

    @property
    def transactional(self) -> bool:
        """True after `tx_select`."""
        return self.consuming.transactional

    @property
    def callbacks(self) -> dict[str, Any]:
        """Consumer tag → callback of the consumers that run."""
        return {each.tag: each.callback for each in self.consuming.consumers.values()}

    def consumes(self, consumer_tag: str) -> bool:
        """See `StdChannel.consumes`: also the wire is open, with its consumers."""
        found = self.consuming.consumers.get(consumer_tag.encode())
        return found is not None and not found.cancelled and self.consuming.ready_wire is not None

    @property
    def prefetch_count(self) -> int:
        """What `basic_qos` set last; 0 is unlimited, or the default that the first consumer sets."""
        return self.consuming.qos[1] if self.consuming.qos is not None else 0

    def check_open(self) -> None:
        """Raise ConnectionClosed if it was closed, WrongHub in another native thread."""
        if self.closed:
            raise ConnectionClosed(f'{self!r} was closed')
        self.connection.check_here()

    def open(self) -> None:
        """Open the wire for calls now. Switches: yes."""
        self.consuming.open(self._deadline())

    def close(self, reply_code: int = 0, reply_text: str = '', method_sig: tuple[int, int] = (0, 0)) -> None:
        """Flush, and close. Deliveries that were not settled go back to their queues. Idempotent.

        Switches: yes, at most `close_timeout` seconds. Killed: the wire channels are closed when their
        answers come.
        """
        if self.closed:
            return
        self.closed = True
        seconds = self.connection.settings.close_timeout
        deadline = runtime.Deadline.after(seconds)
        for consumer in self.consuming.consumers.values():  # auto-delete queues end with the last of theirs
            self.connection.topology.forget_consumer(self._entry(consumer.tag))
        try:
            # Publishers of other greenlets wait for their confirms: let what is on its way arrive.
            self.publishing.wait_confirmed(runtime.Deadline.after(seconds / 2))
            self.consuming.close(deadline)
            self.publishing.close(deadline)
        except TimeoutError:
            # The broker does not answer; what is left belongs to the wire and ends with it.
            self.connection.log.warning(
                '%s: channel %s got no answer to its close', self.connection.name, self.channel_id
            )
        finally:
            self.consuming.close_soon()  # nothing to do, unless a kill cut the lines above
            self.publishing.close_soon()
            self.connection.unregister(self)
            self.no_ack_consumers.clear()

    def collect(self) -> None:
        """Forget the channel without a word to the broker."""
        self.closed = True
        self.connection.unregister(self)

    # ---- publishing

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> Outgoing:
        """A message for `basic_publish`.

        Raises:
            InvalidArgument: a header or property that AMQP, or RabbitMQ, cannot carry.
        """
        given: dict[str, Any] = {}
        if content_type is not None:
            given['content_type'] = content_type
        if content_encoding is not None:
            given['content_encoding'] = content_encoding
        if headers:
            given['application_headers'] = headers
        if priority is not None:
            given['priority'] = priority
        if properties:
            given.update(properties)
        return Outgoing(body.encode() if isinstance(body, str) else bytes(body), given)

    def basic_publish(
        self,
        msg: Any,
        exchange: str = '',
        routing_key: str = '',
        mandatory: bool = False,
        immediate: bool = False,
        timeout: Any = None,
        confirm_timeout: float | None = None,
        confirm: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Publish; with confirms (the default) return when the broker has taken responsibility.

        Arguments:
            msg (Outgoing): from `prepare_message`; an `amqp.Message` will do.
            timeout (float | Deadline): seconds for everything together; `publish_timeout` (30) if None.
            confirm_timeout (float): seconds; as `timeout`, the shorter one counts.
            confirm (bool): overrules the option `confirm_publish` for this message.
        Raises: see `Publishing.publish`.
        Switches: yes. Killed: the message may have been sent.
        """
        self.check_open()
        if immediate:
            raise AMQPNotImplementedError(
                'immediate=True: no RabbitMQ since 3.0 knows it, and it would close the whole connection',
                (60, 40),
            )
        if not isinstance(msg, Outgoing):
            msg = self._adopt(msg)
        if timeout is None or confirm_timeout is not None:
            timeout = self._publish_deadline(timeout, confirm_timeout)
        elif not isinstance(timeout, runtime.Deadline):
            timeout = runtime.Deadline.of(timeout)
        publishing = self.publishing
        if msg.properties.get('reply_to') == DIRECT_REPLY_TO:
            self._use_single_wire()
        if confirm is None:
            confirm = publishing.confirm
        if self._shared is not None and confirm and not mandatory and publishing.confirms_alone:
            self._publish_together(self._shared, msg, exchange, routing_key, timeout)
        else:
            publishing.publish(msg, exchange, routing_key, mandatory, timeout, confirm)

    def publish_together(self) -> None:
        """Publish over one wire with all channels of the connection that were told so; see `sharedwire`.

        Source: StdChannel.publish_together.
        """
        connection = self.connection
        shared = connection.channels.get(connection.shared)
        if shared is None:
            shared = connection.channel()
            shared.publishing = SharedPublishing(shared)
            connection.shared = shared.channel_id
        self._shared = shared

    def _publish_together(
        self, channel: Channel, msg: Outgoing, exchange: str, routing_key: str, deadline: runtime.Deadline
    ) -> None:
        shared = channel.publishing
        assert isinstance(shared, SharedPublishing)
        if shared.takes(exchange, msg):
            try:
                shared.publish(msg, exchange, routing_key, False, deadline, True)
                return
            except Refused:
                pass  # for whoever's fault: below, the broker's answer is to this message alone
        self.publishing.publish(msg, exchange, routing_key, False, deadline, True)
        shared.prove(exchange)

    def basic_publish_nowait(
        self, message: Any, exchange: str = '', routing_key: str = '', mandatory: bool = False, **kwargs: Any
    ) -> runtime.Future:
        """Queue a message and return at once.

        Returns:
            runtime.Future: resolves with the broker's confirm, or with the error.
        Raises:
            BufferFull: nothing more is taken now, or this channel has not opened its publishing wire yet.
        """
        future = runtime.Future()
        self.check_open()
        outgoing = message if isinstance(message, Outgoing) else self._adopt(message)
        self.publishing.publish_nowait(outgoing, exchange, routing_key, mandatory, future)
        return future

    def _publish_deadline(self, timeout: Any, confirm_timeout: float | None) -> runtime.Deadline:
        deadline = runtime.Deadline.of(
            self.connection.settings.publish_timeout if timeout is None else timeout
        )
        if confirm_timeout is not None:
            return deadline.within(at_least_zero('confirm_timeout', confirm_timeout))
        return deadline

    def _adopt(self, message: Any) -> Outgoing:
        body = message.body
        return Outgoing(body.encode() if isinstance(body, str) else bytes(body), dict(message.properties))

    def _use_single_wire(self) -> None:
        # tx and confirms exclude each other, and a direct reply comes back over the wire that asked for it
        self.publishing.single_wire = True
        if self.transactional:
            self.publishing.confirm = False

    def returned(self, error: Any, exchange: str, routing_key: str, content: frames.Content) -> None:
        """A message came back: tell the handlers, in whoever drains next. No switch."""
        events.emit(
            'returned',
            self.connection.source,
            exchange=exchange,
            routing_key=routing_key,
            reply_code=error.reply_code,
            reply_text=error.reply_text,
        )
        if self.events.get('basic_return'):
            delivery = Delivery('', 0, False, exchange, routing_key, content, self, 0)
            self.connection.drain.put(self, (delivery, error), len(content.body) + 512)

    def confirm_select(self, nowait: bool = False) -> None:
        """Confirms on from the next publish."""
        if self.transactional:
            raise InvalidArgument('confirm_select', 'a transactional channel', 'a channel without tx')
        self.publishing.confirm = True

    # ---- consuming

    def basic_qos(
        self,
        prefetch_size: int = 0,
        prefetch_count: int = 0,
        a_global: bool = False,
        apply_global: bool | None = None,
    ) -> None:
        """Limit the unsettled deliveries: of each consumer started from now on, or of the channel
        (`a_global`).

        Arguments:
            prefetch_size (int): bytes; RabbitMQ knows 0 only.
            prefetch_count (int): messages, 0 to 65535; 0 is unlimited.
        Raises:
            InvalidArgument: out of range.
        Switches: yes.
        """
        if not 0 <= prefetch_count <= 65535:
            raise InvalidArgument('prefetch_count', prefetch_count, '0 to 65535')
        self.consuming.set_qos(
            prefetch_size,
            prefetch_count,
            bool(a_global if apply_global is None else apply_global),
            self._deadline(),
        )

    def basic_consume(
        self,
        queue: str = '',
        consumer_tag: str = '',
        no_local: bool = False,
        no_ack: bool = False,
        exclusive: bool = False,
        nowait: bool = False,
        callback: Callable[[Delivery], Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
        on_cancel: Callable[[str], Any] | None = None,
    ) -> str:
        """Start a consumer; `callback` gets each `Delivery` in the greenlet that drains.

        Arguments:
            arguments (Mapping): ``x-priority``, ``x-stream-offset`` …
            on_cancel (Callable): called with the tag when the broker cancels the consumer; without it that is
                started again, its queue declared again if this connection declared it.
        Returns:
            str: the consumer tag.
        Switches: yes, unless `nowait`. Killed: the consumer is cancelled when the broker has answered.
        """
        tag = consumer_tag or f'gm.{uuid()}'
        consumer = Consumer(
            tag,
            queue or self.last_queue,
            no_ack,
            exclusive,
            no_local,
            dict(arguments or {}),
            callback,
            on_cancel,
        )
        self.consuming.start(consumer, self._deadline(), nowait)
        self.connection.topology.consumer(self._entry(tag), consumer.queue)
        if no_ack:
            self.no_ack_consumers.add(tag)
        return tag

    def basic_cancel(self, consumer_tag: str, nowait: bool = False) -> None:
        """End a consumer. What was delivered to it and no callback saw goes back to the queue. Idempotent.

        Switches: yes, unless `nowait`.
        """
        if self.closed or self.connection.closed:
            return
        try:
            self.consuming.stop(consumer_tag, self._deadline(), nowait)
        finally:
            self.no_ack_consumers.discard(consumer_tag)
            self.connection.topology.forget_consumer(self._entry(consumer_tag))

    def _entry(self, consumer_tag: str) -> str:
        # A tag names a consumer of its channel: another channel may have one of that name.
        return f'{self.channel_id}/{consumer_tag}'

    def held(self, consumer_tag: str) -> int:
        """How many deliveries of a consumer wait here for `drain_events`."""
        consumer = self.consuming.consumers.get(consumer_tag.encode())
        if consumer is None:
            return 0
        return self.connection.drain.count(self, lambda event: event[1] is consumer)

    def basic_get(self, queue: str = '', no_ack: bool = False) -> AMQPMessage | None:
        """One message of a queue, or None.

        Raises:
            DecodeError: its properties cannot be read. It is settled, the next call gets the next one.
        Switches: yes. Killed: a message that was taken goes back to the queue (lost with `no_ack`).
        """
        delivery = self.consuming.get(queue or self.last_queue, no_ack, self._deadline())
        if delivery is None:
            return None
        message = self.message_to_python(delivery)
        fault = message.fault
        if fault is not None:
            settle_undecodable(message, fault, self.has_dead_letter(queue or self.last_queue), bool(no_ack))
            raise fault
        return message

    def message_to_python(self, raw_message: Any) -> AMQPMessage:
        """The `Message` of a delivery."""
        return (
            raw_message if isinstance(raw_message, AMQPMessage) else self.Message(raw_message, channel=self)
        )

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> bool:
        """Settle a delivery; sent with the next flush, joined with its neighbours.

        Returns:
            bool: False if the delivery is of an epoch that was lost: nothing is sent, the broker delivers it
            again.
        Raises:
            StaleDelivery: the same, if the option `stale_ack` is 'raise'.
        Switches: no. In another thread: the thread of the connection does it, soon.
        """
        hub = self.connection.hub
        if hub is not None and not runtime.is_here(hub):
            return runtime.post(hub, self.consuming.ack, delivery_tag, multiple)
        return self.consuming.ack(delivery_tag, multiple)

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> bool:
        """Refuse a delivery: back to its queue, or dead-lettered. Returns as `basic_ack`."""
        hub = self.connection.hub
        if hub is not None and not runtime.is_here(hub):
            return runtime.post(hub, self.consuming.reject, delivery_tag, requeue)
        return self.consuming.reject(delivery_tag, requeue)

    def basic_nack(self, delivery_tag: int, multiple: bool = False, requeue: bool = True) -> bool:
        """Refuse a delivery or all up to it. Returns as `basic_ack`."""
        hub = self.connection.hub
        if hub is not None and not runtime.is_here(hub):
            return runtime.post(hub, self.consuming.nack, delivery_tag, multiple, requeue)
        return self.consuming.nack(delivery_tag, multiple, requeue)

    def basic_recover(self, requeue: bool = False) -> None:
        """Have every unsettled delivery delivered again. RabbitMQ knows `requeue=True` only.

        Switches: yes.
        """
        if not requeue:
            raise AMQPNotImplementedError(
                'basic.recover with requeue=False is not implemented by RabbitMQ', (60, 110)
            )
        self.consuming.recover(self._deadline())

    def basic_recover_async(self, requeue: bool = False) -> None:
        """As `basic_recover`: the asynchronous form is deprecated in AMQP. Switches: yes."""
        self.basic_recover(requeue)

    def flow(self, active: bool) -> bool:
        """Pause or resume this channel's deliveries.

        RabbitMQ refuses ``channel.flow(active=False)`` of a client (540); its way is a prefetch limit.
        Switches: yes.
        """
        reply = self.consuming.call(methods.FLOW, (active,), self._deadline())
        return bool(frames.read_arguments('b', reply[1])[0])

    # ---- transactions

    def tx_select(self) -> None:
        """Publishes and acks take effect with `tx_commit`. Excludes confirms. Switches: yes."""
        if self.publishing.outstanding:
            raise InvalidArgument(
                'tx_select', 'a channel with unconfirmed publishes', 'a channel without confirms'
            )
        self.publishing.confirm = False
        self.consuming.call(methods.TX_SELECT, (), self._deadline())
        self.consuming.transactional = self.publishing.single_wire = True

    def tx_commit(self) -> None:
        """Let everything since the last commit take effect. Switches: yes."""
        self.consuming.call(methods.TX_COMMIT, (), self._deadline())

    def tx_rollback(self) -> None:
        """Undo everything since the last commit. Switches: yes."""
        self.consuming.call(methods.TX_ROLLBACK, (), self._deadline())

    # ---- events (called by whoever drains)

    def handle(self, delivery: Delivery, receiver: Any) -> None:
        """Run the callback that an event is for."""
        if isinstance(receiver, Consumer):
            if not receiver.cancelled and receiver.callback is not None:
                receiver.callback(delivery)
            elif not receiver.no_ack:
                self.consuming.reject(delivery.delivery_tag, True)
            return
        if isinstance(receiver, Exception):
            for callback in list(self.events['basic_return']):
                callback(receiver, delivery.exchange, delivery.routing_key, self.message_to_python(delivery))
            return
        receiver(delivery)
