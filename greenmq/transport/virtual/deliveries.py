"""The deliveries of one channel in kombu's style: payloads become messages, and are settled or go back."""

from __future__ import annotations

import weakref
from queue import Empty
from typing import Any

from greenmq.transport.virtual.deaths import died
from greenmq.transport.virtual.envelope import DELIVERY_COUNT, Message, check_payload, given_back
from greenmq.transport.virtual.unmade import tell_unmade
from greenmq.utils.uuid import uuid

__all__ = ('Deliveries',)


class Deliveries:
    """What one channel has in hand.

    Arguments:
        channel (Channel): held weakly: it holds us.
    Switches: as the channel's hooks, where it takes, gives back or settles.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = weakref.ref(channel)
        self._adapter = channel.adapter
        self._books = channel.books
        self._settling = channel.settling

    # ---- coming

    def message(self, raw: Any, queue: str) -> Any:
        """Make the Message of a payload. Raises whatever its fields trip over."""
        channel: Any = self._channel()
        if channel.Message is Message:
            check_payload(raw)
        message = channel.Message(raw, channel=channel)
        tag = message.delivery_tag
        if tag is None or tag in channel.qos.unsettled:
            # kombu numbers messages when they are published: one in two queues would be settled in both at
            # once.
            message.delivery_tag = uuid()
        message.queue = queue
        return message

    def take(self, queue: str, no_ack: bool) -> Any:
        """Take the next message of a queue now, or None. What is no message is settled, and passed over."""
        channel: Any = self._channel()
        while True:
            try:
                raw = self._adapter.get_one(queue)
            except Empty:
                return None
            try:
                message = self.message(raw, queue)
            except Exception as error:
                self.settle_unmade(raw, queue, error)
                continue
            if not no_ack:
                channel.qos.append(message, message.delivery_tag)
                self._leased()
            elif channel.settle_now is not None:
                channel.settle_now(message.delivery_tag)
            return message

    def fetched(self, raw: Any, queue: str) -> None:
        """Register one payload that a fetch brought, and leave it to whoever drains."""
        channel: Any = self._channel()
        if queue not in self._books.takers or channel.closed:
            self._adapter.abandon([(queue, raw)])
            return
        try:
            message = self.message(raw, queue)
        except Exception as error:
            self.settle_unmade(raw, queue, error)
            return
        self._books.next_taker(queue).accept(message)
        self._leased()

    def receive(self, raw: Any, queue: str) -> Any:
        """Hand one payload to the next consumer of a queue, in the caller's greenlet."""
        channel: Any = self._channel()
        known = channel.connection.prepared.pop(id(raw), None)
        if known is not None:
            sub, message = known
            return sub.callback(message)
        try:
            message = self.message(raw, queue)
        except Exception as error:
            return self.settle_unmade(raw, queue, error)
        sub = self._books.next_taker(queue)
        message.delivery_info['consumer_tag'] = sub.tag
        if not sub.no_ack:
            channel.qos.append(message, message.delivery_tag)
        return sub.callback(message)

    def _leased(self) -> None:
        if self._settling is not None:
            self._settling.leased()

    def settle_unmade(self, raw: Any, queue: str, error: Exception) -> None:
        """Settle what a queue gave and no Message can be made of, and tell of it: it stops nobody (P40)."""
        properties = raw.get('properties') if isinstance(raw, dict) else None
        tag = properties.get('delivery_tag') if isinstance(properties, dict) else None
        if tag is None or not self._adapter.settles:
            fate = 'It is dropped.'
        else:
            self._settling.reject(tag, False)
            fate = 'It is rejected.'
        tell_unmade(self._channel(), queue, error, fate)

    # ---- settling

    def ack(self, tag: Any, multiple: bool) -> None:
        """Settle one, or all up to one."""
        channel: Any = self._channel()
        qos = channel.qos
        for each in qos.up_to(tag) if multiple else (tag,):
            known = self._settling is not None and each in qos.unsettled
            qos.ack(each)
            if known:
                self._settling.ack(each)
        self._room_again(channel)

    def reject(self, tag: Any, requeue: bool) -> None:
        """Refuse one: it goes back, or to the dead letters."""
        channel: Any = self._channel()
        qos = channel.qos
        message = qos.unsettled.get(tag)
        if message is not None:
            if requeue and self._delivered_too_often(message):
                requeue = False
                self._dead_letter(message, 'delivery_limit')
            elif not requeue:
                self._dead_letter(message, 'rejected')
        if message is not None and self._adapter.settles:
            qos.ack(tag)
            self._settling.reject(tag, requeue)
        else:
            qos.reject(tag, requeue=requeue)
        self._room_again(channel)

    def _room_again(self, channel: Any) -> None:
        books = self._books
        # Without a prefetch the limit is ours: we refill at half, not one by one.
        if books.subscriptions and books.starved:
            if books.prefetch_count or books.below_half(channel.fetch_ahead):
                channel.ask_for_more()

    def _delivered_too_often(self, message: Any) -> bool:
        limit = self._channel().max_deliveries  # type: ignore[union-attr]
        return bool(limit) and given_back(message)['headers'][DELIVERY_COUNT] >= limit

    def _dead_letter(self, message: Any, reason: str) -> None:
        """Send a refused message to the dead-letter exchange of its queue, if it has one."""
        channel: Any = self._channel()
        queue = getattr(message, 'queue', None)
        arguments = (channel.state.queues.get(queue, {}).get('arguments') or {}) if queue else {}
        exchange = arguments.get('x-dead-letter-exchange')
        if exchange is None:
            return
        payload = message.serializable()
        info = message.delivery_info
        came_by = info.get('exchange') or '', info.get('routing_key') or ''
        headers, properties = died(payload['headers'], payload['properties'], str(queue), reason, *came_by)
        first = headers['x-death'][0]
        first['time'] = int(first['time'].timestamp())  # a broker of plain JSON
        key = arguments.get('x-dead-letter-routing-key') or came_by[1]
        if not isinstance(properties.get('priority') or 0, int):
            del properties['priority']  # a stranger's
        body = channel.decode_body(payload['body'], properties.get('body_encoding'))
        fresh = channel.prepare_message(
            body, None, payload['content-type'], payload['content-encoding'], headers, properties
        )
        channel.basic_publish(fresh, exchange, key)

    # ---- going back

    def recover(self) -> Any:
        """Give back all that is unsettled; what could not be, as (error, message)."""
        channel: Any = self._channel()
        for sub, message in channel.connection.events.remove(channel, lambda event: not event[0].no_ack):
            sub.waiting -= 1
            message.unseen = True
        failed = channel.qos.restore_unacked()
        channel.ask_for_more()
        return failed

    def put_back(self, messages: list[Any]) -> None:
        """Give back deliveries that no callback had, so that the oldest comes first again."""
        channel: Any = self._channel()
        qos = channel.qos
        for message in reversed(messages) if self._adapter.restores_in_front else messages:
            message.unseen = True
            tag = message.delivery_tag
            if tag not in qos.unsettled:
                qos.append(message, tag)  # of a consumer that needs no ack: in our books until it is back
            self._adapter.restore(message)
            qos.ack(tag)  # not before: killed in between, it is given back when the channel closes

    def take_back(self, payload: Any, queue: str) -> None:
        """Give back a payload that nobody consumes."""
        channel: Any = self._channel()
        message = self.message(payload, queue)
        channel.qos.append(message, message.delivery_tag)
        channel.basic_reject(message.delivery_tag, requeue=True)

    def restore(self, message: Any) -> None:
        """Put a delivery back into its queue, and into no other one."""
        channel: Any = self._channel()
        payload = given_back(message)
        queue = getattr(message, 'queue', None)
        if queue is not None:
            self._adapter.put(queue, payload)
            return
        info = message.delivery_info
        for name in channel.entities.lookup(
            info.get('exchange', ''), info.get('routing_key', ''), channel.deadletter_queue
        ):
            self._adapter.put(name, payload)
