"""How a virtual channel settles: acks, rejects, and the way back into the queue or to the dead letters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from greenmq import runtime
from greenmq.transport.virtual.deaths import died
from greenmq.transport.virtual.envelope import DELIVERY_COUNT, given_back
from greenmq.transport.virtual.parts import ChannelParts

__all__ = ('SettleMethods',)


class SettleMethods(ChannelParts):
    """basic_ack, basic_reject, basic_recover."""

    #: Can a header hold a datetime, as in AMQP?
    _writes_times = False

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> bool | None:
        """Settle a message, with `multiple` also all delivered before it.

        Returns:
            bool | None: False if the channel is closed: the message went back to its queue.
        Switches: as the channel's QoS.
        """
        if self.closed:
            return False
        if not runtime.is_here(self._hub):
            return self._at_home(self.basic_ack, delivery_tag, multiple)
        qos = self.qos
        if multiple:
            for tag in qos.up_to(delivery_tag):
                self._ack(qos, tag)
        else:
            self._ack(qos, delivery_tag)
        self._room_again()
        return None

    def _at_home(self, settle: Callable[..., Any], *args: Any) -> bool:
        """Have the thread of the channel do it, soon: worker threads settle what another thread drained."""
        return runtime.post(self._hub, partial(runtime.spawn, settle, *args, name='greenmq-settle'))

    def _ack(self, qos: Any, tag: Any) -> None:
        known = self.settling is not None and tag in qos.unsettled
        qos.ack(tag)
        if known:
            self.settling.ack(tag)

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> bool | None:
        """Refuse a message: dead-lettered or dropped, or with `requeue` back to the front of its queue.

        Returns:
            bool | None: as `basic_ack`.
        Switches: as the channel's QoS.
        """
        if self.closed:
            return False
        if not runtime.is_here(self._hub):
            return self._at_home(self.basic_reject, delivery_tag, requeue)
        message = self.qos.unsettled.get(delivery_tag)
        if message is not None and requeue and self._delivered_too_often(message):
            requeue = False
            self._dead_letter(message, 'delivery_limit')
        elif message is not None and not requeue:
            self._dead_letter(message, 'rejected')
        if message is not None and self.adapter.settles:
            self.qos.ack(delivery_tag)
            self.settling.reject(delivery_tag, requeue)
        else:
            self.qos.reject(delivery_tag, requeue=requeue)
        self._room_again()
        return None

    def _room_again(self) -> None:
        if self.books.subscriptions and self.books.starved and self._low():
            self.ask_for_more()

    def _low(self) -> bool:
        # Without a prefetch the limit is ours: we refill at half, not one by one.
        return bool(self.qos.prefetch_count) or self.books.below_half(self.fetch_ahead)

    def _delivered_too_often(self, message: Any) -> bool:
        limit = self.max_deliveries
        return bool(limit) and given_back(message)['headers'][DELIVERY_COUNT] >= limit

    def _dead_letter(self, message: Any, reason: str) -> None:
        """Send a refused message to the dead-letter exchange of its queue, if it has one."""
        queue = getattr(message, 'queue', None)
        arguments = (self.state.queues.get(queue, {}).get('arguments') or {}) if queue else {}
        exchange = arguments.get('x-dead-letter-exchange')
        if exchange is None:
            return
        payload = message.serializable()
        info = message.delivery_info
        came_by = info.get('exchange') or '', info.get('routing_key') or ''
        headers, properties = died(payload['headers'], payload['properties'], str(queue), reason, *came_by)
        if not self._writes_times:
            first = headers['x-death'][0]
            first['time'] = int(first['time'].timestamp())  # a broker of plain JSON
        key = arguments.get('x-dead-letter-routing-key') or came_by[1]
        if not isinstance(properties.get('priority') or 0, int):
            del properties['priority']  # a stranger's
        body = self.decode_body(payload['body'], properties.get('body_encoding'))
        fresh = self.prepare_message(
            body, None, payload['content-type'], payload['content-encoding'], headers, properties
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
        self.connection.events.remove(self, self._forget_event)
        failed = self.qos.restore_unacked()
        self.ask_for_more()
        return failed

    def _forget_event(self, event: Any) -> bool:
        sub = event[0]
        if sub.no_ack:
            return False
        sub.waiting -= 1
        event[1].unseen = True
        return True

    def _put_back(self, messages: list[Any]) -> None:
        """Give back deliveries that no callback had, so that the oldest comes first again."""
        for message in reversed(messages) if self.restores_in_front else messages:
            message.unseen = True
            tag = message.delivery_tag
            if tag not in self.qos.unsettled:
                self.qos.append(
                    message, tag
                )  # of a consumer that needs no ack: in our books until it is back
            self._restore_at_beginning(message)
            self.qos.ack(tag)  # not before: killed in between, it is given back when the channel closes

    def take_back(self, payload: Any, queue: str) -> None:
        """Give back a payload that nobody consumes."""
        message = self.adapter.make_message(payload, queue)
        self.qos.append(message, message.delivery_tag)
        self.basic_reject(message.delivery_tag, requeue=True)

    def put_back(self, messages: list[Any]) -> None:
        """Give back what came from another thread, and has no room here."""
        self._put_back(messages)

    @property
    def restores_in_front(self) -> bool:
        """Does what is given back go to the front of its queue?"""
        return type(self)._restore_at_beginning is not SettleMethods._restore_at_beginning

    def _restore(self, message: Any) -> None:
        """Put a delivery back into its queue, and into no other one."""
        payload = given_back(message)
        queue = getattr(message, 'queue', None)
        if queue is not None:
            self.adapter.put(queue, payload)
            return
        info = message.delivery_info
        for name in self._lookup(info.get('exchange', ''), info.get('routing_key', '')):
            self.adapter.put(name, payload)

    def _restore_at_beginning(self, message: Any) -> None:
        """As `_restore`, at the front; override it where the broker has a front.

        With `_settle` the broker still has the message, and is asked to deliver it again.
        """
        if self.adapter.settles:
            self.settling.reject(message.delivery_tag, True)
        else:
            self._restore(message)

    def after_reply_message_received(self, queue: str) -> None:
        """Delete a queue that served for one reply. Switches: as `queue_delete`."""
        self.queue_delete(queue)
