"""What one channel consumes: its consumers, the deliveries that are out, the acks on their way back.

Delivery tags that users see grow over all epochs: each wire channel adds what was used before it (`base`).
So a tag of an epoch that ended is known by its number alone; settling it is dropped here and reported, never
sent to the broker, which would close the channel over it (P36).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from amqp import spec
from amqp.serialization import dumps

from greenmq import events, runtime
from greenmq.core.ledger import AckBuffer, DeliveryLedger
from greenmq.exceptions import ChannelError, ConnectionError, StaleDelivery

from . import methods, wire
from .message import Delivery
from .wirechannel import Reply, WireChannel

if TYPE_CHECKING:
    from .channel import Channel
    from .link import Link

__all__ = ['Consumer', 'Consuming']

log = logging.getLogger('greenmq.transport.pyamqp')


class Consumer:
    """One consumer: what to ask the broker for, and whom to call."""

    __slots__ = (
        'arguments',
        'callback',
        'cancelled',
        'exclusive',
        'no_ack',
        'no_local',
        'on_cancel',
        'paused',
        'queue',
        'tag',
        'unlimited',
    )

    def __init__(
        self,
        tag: str,
        queue: str,
        no_ack: bool,
        exclusive: bool,
        no_local: bool,
        arguments: dict[str, Any] | None,
        callback: Callable[[Delivery], Any] | None,
        on_cancel: Callable[[str], Any] | None,
    ) -> None:
        self.tag = tag
        self.queue = queue
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.no_local = no_local
        self.arguments = arguments
        self.callback = callback
        self.on_cancel = on_cancel
        self.unlimited = no_ack
        self.paused = False
        self.cancelled = False

    def request(self, queue: str, nowait: bool) -> bytes:
        """The arguments of its basic.consume."""
        return methods.encode(
            methods.BASIC_CONSUME,
            (0, queue, self.tag, self.no_local, self.no_ack, self.exclusive, nowait, self.arguments or {}),
        )


class Consuming:
    """The consuming side of a `Channel`, and its calls."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.connection = channel.connection
        self.wire: WireChannel | None = None
        self.consumers: dict[bytes, Consumer] = {}
        self.ledger: DeliveryLedger[Consumer | None] = DeliveryLedger()
        self.acks: AckBuffer[Consumer | None] = AckBuffer(self.ledger)
        self.last_tag = 0
        self.qos: tuple[int, int, bool] | None = None
        self.stale = 0
        self._dirty = False
        self._opening = runtime.Lock()
        self._places: dict[bytes, tuple[str, str]] = {}

    # ---- the wire

    def open(self, deadline: runtime.Deadline) -> WireChannel:
        """The wire channel for calls and deliveries, opened (and consumers started again) if it is not.

        Switches: only if it has to be opened.
        """
        channel = self.wire
        if channel is not None and channel.error is None:
            return channel
        link = self.connection.wait_open(deadline)
        if not self._opening.acquire(deadline):
            raise deadline.error(f'{self.channel!r}: no wire channel')
        try:
            while self.wire is None or self.wire.error is not None:
                self._restore(link, deadline)
            return self.wire
        finally:
            self._opening.release()

    def restore(self, link: Link, deadline: runtime.Deadline) -> None:
        """Have the wire, with QoS and consumers, on a new link; nothing to do where nothing was open
        before."""
        with self._opening:
            while (self.qos is not None or self.consumers) and (
                self.wire is None or self.wire.error is not None
            ):
                self._restore(link, deadline)

    def _restore(self, link: Link, deadline: runtime.Deadline) -> None:
        channel = WireChannel(link, self)
        channel.open(deadline)
        channel.base = self.last_tag
        if self.channel.transactional:
            channel.call(methods.TX_SELECT.signature, b'', methods.TX_SELECT.replies, deadline)
        if self.qos is not None:
            self._send_qos(channel, self.qos, deadline)
        for key, consumer in list(self.consumers.items()):
            if consumer.cancelled:
                continue
            try:
                channel.call(
                    spec.Basic.Consume,
                    consumer.request(self.connection.current_name(consumer.queue), False),
                    methods.BASIC_CONSUME.replies,
                    deadline,
                )
            except ChannelError as exc:
                # One queue that is gone must not keep the other consumers from theirs: try again without it.
                log.warning(
                    '%r: consumer %s of queue %r cannot be started again: %s',
                    self.channel,
                    consumer.tag,
                    consumer.queue,
                    exc,
                )
                del self.consumers[key]
                self.connection.consumer_cancelled(self.channel, consumer)
                return
            consumer.paused = False
        self.wire = channel

    def call(
        self,
        method: methods.Method,
        arguments: tuple[Any, ...],
        deadline: runtime.Deadline,
        on_abandoned: Callable[[Reply], None] | None = None,
    ) -> Reply:
        """A synchronous method on the consuming wire."""
        encoded = methods.encode(method, arguments)
        return self.open(deadline).call(method.signature, encoded, method.replies, deadline, on_abandoned)

    def close(self, deadline: runtime.Deadline) -> None:
        """Flush acks, close the wire; what was delivered and not settled goes back to its queue."""
        channel, self.wire = self.wire, None
        self.consumers.clear()
        if channel is not None and channel.error is None:
            self._flush(channel)
            channel.close(deadline)
        self.ledger.drain()
        self.acks.clear()
        self.connection.drain.discard(self.channel)

    # ---- QoS and consumers

    def set_qos(
        self, prefetch_size: int, prefetch_count: int, a_global: bool, deadline: runtime.Deadline
    ) -> None:
        """basic.qos, now and on every later wire."""
        self.qos = (prefetch_size, prefetch_count, a_global)
        self._send_qos(self.open(deadline), self.qos, deadline)

    def _send_qos(self, channel: WireChannel, qos: tuple[int, int, bool], deadline: runtime.Deadline) -> None:
        channel.call(
            spec.Basic.Qos, methods.encode(methods.BASIC_QOS, qos), methods.BASIC_QOS.replies, deadline
        )

    def start(self, consumer: Consumer, deadline: runtime.Deadline, nowait: bool) -> str:
        """basic.consume. Killed: the consumer is cancelled again once the broker has answered."""
        channel = self.open(deadline)
        if self.qos is None and not consumer.no_ack and self.connection.settings.default_prefetch:
            self.set_qos(0, self.connection.settings.default_prefetch, False, deadline)
        consumer.unlimited = consumer.no_ack or not (self.qos and self.qos[1])
        key = consumer.tag.encode()
        self.consumers[key] = consumer
        queue = self.connection.current_name(consumer.queue)
        try:
            if nowait:
                self.flush()
                channel.send(wire.method_frame(channel.id, spec.Basic.Consume, consumer.request(queue, True)))
            else:
                channel.call(
                    spec.Basic.Consume,
                    consumer.request(queue, False),
                    methods.BASIC_CONSUME.replies,
                    deadline,
                    lambda reply: self._cancel_nowait(channel, consumer),
                )
        except BaseException:
            self.consumers.pop(key, None)
            raise
        return consumer.tag

    def resume_cancelled(self, consumer: Consumer, deadline: runtime.Deadline) -> None:
        """Start a consumer again that the broker had cancelled."""
        if self.consumers.get(consumer.tag.encode()) is not consumer or consumer.cancelled:
            return
        channel = self.wire
        if channel is None or channel.error is not None:
            self.open(deadline)  # starts all consumers, this one among them
        elif consumer.paused:
            consumer.paused = False
            channel.call(
                spec.Basic.Consume,
                consumer.request(self.connection.current_name(consumer.queue), False),
                methods.BASIC_CONSUME.replies,
                deadline,
            )

    def stop(self, tag: str, deadline: runtime.Deadline, nowait: bool) -> None:
        """basic.cancel. Deliveries of the consumer that no callback has seen go back to the queue."""
        consumer = self.consumers.get(tag.encode())
        if consumer is None:
            return
        consumer.cancelled = True
        channel = self.wire
        try:
            if channel is not None and channel.error is None and not consumer.paused:
                if nowait:
                    self._cancel_nowait(channel, consumer)
                else:
                    channel.call(
                        spec.Basic.Cancel,
                        methods.encode(methods.BASIC_CANCEL, (tag, False)),
                        methods.BASIC_CANCEL.replies,
                        deadline,
                    )
        finally:
            self.consumers.pop(tag.encode(), None)
            for delivery in self.connection.drain.remove(self.channel, lambda event: event[1] is consumer):
                self._give_back(delivery[0])

    def _cancel_nowait(self, channel: WireChannel, consumer: Consumer) -> None:
        if channel.error is None:
            channel.send(
                wire.method_frame(
                    channel.id, spec.Basic.Cancel, methods.encode(methods.BASIC_CANCEL, (consumer.tag, True))
                )
            )

    def _give_back(self, delivery: Delivery) -> None:
        if delivery.delivery_tag in self.ledger:
            self.reject(delivery.delivery_tag, True)

    def get(self, queue: str, no_ack: bool, deadline: runtime.Deadline) -> Delivery | None:
        """basic.get. Killed: a message that was taken for it goes back to its queue."""
        channel = self.open(deadline)
        arguments = methods.encode(methods.BASIC_GET, (0, self.connection.current_name(queue), no_ack))

        def undo(reply: Reply) -> None:
            if reply[0] == wire.GET_OK and not no_ack and channel.error is None:
                tag = int.from_bytes(reply[1][4:12], 'big')
                channel.send(wire.method_frame(channel.id, spec.Basic.Reject, dumps('Lb', (tag, True))))

        signature, payload, content = channel.call(
            spec.Basic.Get, arguments, methods.BASIC_GET.replies, deadline, undo
        )
        if signature != wire.GET_OK or content is None:
            return None
        tag, redelivered, exchange, routing_key, count = wire.read_arguments('Lbssl', payload)
        delivery = Delivery(
            '',
            self._number(channel, tag),
            bool(redelivered),
            exchange,
            routing_key,
            content,
            self.channel,
            count,
        )
        if not no_ack:
            self.ledger.add(delivery.delivery_tag, None)
        return delivery

    def _number(self, channel: WireChannel, tag: int) -> int:
        number = channel.base + tag
        self.last_tag = max(self.last_tag, number)
        return number

    # ---- what arrives (called by the reader: no switch)

    def on_delivery(self, channel: WireChannel, content: wire.Content) -> None:
        method = content.method
        end = 5 + method[4]
        consumer = self.consumers.get(method[5:end])
        tag = int.from_bytes(method[end : end + 8], 'big')
        if consumer is None:
            # Nobody can ever settle it, and with no_ack this answer would be an error: there the message is
            # gone.
            channel.send(wire.method_frame(channel.id, spec.Basic.Reject, dumps('Lb', (tag, True))))
            return
        number = self.last_tag = channel.base + tag
        place = method[end + 9 :]
        names = self._places.get(place)
        if names is None:
            names = self._place(place)
        delivery = Delivery(
            consumer.tag, number, bool(method[end + 8] & 1), names[0], names[1], content, self.channel
        )
        if not consumer.no_ack:
            self.ledger.add(number, consumer)
        drain = self.connection.drain
        drain.put(self.channel, (delivery, consumer), len(content.body) + 512)
        if consumer.unlimited and drain.pending_bytes > self.connection.settings.max_waiting_bytes:
            self._pause(channel, consumer)

    def _place(self, place: bytes) -> tuple[str, str]:
        """Exchange and routing key, which repeat from delivery to delivery, from their bytes."""
        exchange, routing_key = wire.read_arguments('ss', place, 0)
        if len(self._places) > 1024:
            self._places.clear()
        self._places[place] = names = (exchange, routing_key)
        return names

    def _pause(self, channel: WireChannel, consumer: Consumer) -> None:
        if consumer.paused or self.connection.is_auto_delete(consumer.queue):
            return  # cancelling the last consumer of an auto-delete queue would delete it
        consumer.paused = True
        self._cancel_nowait(channel, consumer)
        self.connection.paused.append((self, consumer))
        log.warning(
            '%s: more than %d bytes wait for the callbacks of consumer %s; its deliveries are paused',
            self.connection.name,
            self.connection.settings.max_waiting_bytes,
            consumer.tag,
        )
        events.emit('paused', self.connection.source, consumer_tag=consumer.tag, queue=consumer.queue)

    def resume(self, consumer: Consumer) -> None:
        """Ask for deliveries again after `_pause`. No switch."""
        channel = self.wire
        if not consumer.paused or consumer.cancelled or channel is None or channel.error is not None:
            return
        consumer.paused = False
        queue = self.connection.current_name(consumer.queue)
        channel.send(wire.method_frame(channel.id, spec.Basic.Consume, consumer.request(queue, True)))

    def on_cancel(self, channel: WireChannel, consumer_tag: str) -> None:
        consumer = self.consumers.get(consumer_tag.encode())
        if consumer is not None:
            self.connection.consumer_cancelled(self.channel, consumer)

    def on_return(self, channel: WireChannel, content: wire.Content) -> None:
        self.channel.publishing.on_return(channel, content)

    def on_confirm(self, channel: WireChannel, tag: int, multiple: bool, ack: bool) -> None:
        self.channel.publishing.on_confirm(channel, tag, multiple, ack)

    def on_wire_end(self, channel: WireChannel, error: BaseException) -> None:
        if channel is not self.wire:
            return
        self._dirty = False
        self.acks.clear()
        self.ledger.drain()
        # Deliveries nobody has seen are delivered again by the broker: run now, they would be run twice.
        self.connection.drain.discard(self.channel)
        if self.channel.single_wire:
            self.channel.publishing.on_wire_end(channel, error)
        if isinstance(error, ChannelError) and self.consumers:
            self.connection.channel_lost(self.channel, error)

    # ---- settling

    def ack(self, tag: int, multiple: bool) -> bool:
        """Settle deliveries; told to the broker with the writer's next turn. False: the tag is of a lost
        epoch."""
        try:
            if multiple:
                self.acks.ack_multiple(tag)
            else:
                self.acks.ack(tag)
        except KeyError:
            return self._unknown(tag)
        if not self._dirty:
            self._dirty = True
            channel = self.wire
            if channel is not None:
                channel.link.flush_soon(self)
        return True

    def reject(self, tag: int, requeue: bool) -> bool:
        """basic.reject; in order with the acks given before it."""
        try:
            self.ledger.pop(tag)
        except KeyError:
            return self._unknown(tag)
        channel = self.wire
        if channel is not None and channel.error is None:
            channel.send(
                wire.method_frame(channel.id, spec.Basic.Reject, dumps('Lb', (tag - channel.base, requeue)))
            )
        return True

    def nack(self, tag: int, multiple: bool, requeue: bool) -> bool:
        """basic.nack (RabbitMQ): as `reject`, for all up to a tag with `multiple`."""
        if not multiple:
            return self.reject(tag, requeue)
        try:
            self.ledger.settle(tag, multiple=True)
        except KeyError:
            return self._unknown(tag)
        channel = self.wire
        if channel is not None and channel.error is None:
            last = tag - channel.base if tag else 0
            channel.send(wire.method_frame(channel.id, spec.Basic.Nack, dumps('Lbb', (last, True, requeue))))
        return True

    def _unknown(self, tag: int) -> bool:
        """A tag that is not out: of a lost epoch (dropped and reported), or settled before (the caller's
        fault)."""
        channel = self.wire
        base = self.last_tag if channel is None or channel.error is not None else channel.base
        self.stale += 1
        if tag <= base:
            log.info(
                '%r: settling delivery %s of a lost connection is dropped; the broker delivers it again',
                self.channel,
                tag,
            )
            events.emit('stale_ack', self.connection.source, delivery_tag=tag)
            if self.connection.settings.raise_stale:
                raise StaleDelivery(
                    f'delivery {tag} of {self.channel!r} belongs to a connection that was lost', tag
                )
        else:
            log.warning('%r: delivery %s is not outstanding (settled twice?)', self.channel, tag)
        return False

    def flush(self) -> None:
        """Queue the acks that were held back. No switch."""
        self._dirty = False
        channel = self.wire
        if channel is not None and channel.error is None:
            self._flush(channel)

    def _flush(self, channel: WireChannel) -> None:
        base = channel.base
        frames = [
            wire.method_frame(
                channel.id, spec.Basic.Ack, (tag - base).to_bytes(8, 'big') + bytes((multiple,))
            )
            for tag, multiple in self.acks.flush()
        ]
        if frames:
            try:
                channel.send(b''.join(frames))
            except ConnectionError as exc:
                log.debug('%r: %d acks went with the connection: %s', self.channel, len(frames), exc)
