"""How a virtual channel consumes: consumers come and go, payloads become messages, `basic_get` takes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.log import get_logger
from greenmq.transport.virtual.consumers import Subscription
from greenmq.transport.virtual.envelope import Message, check_payload
from greenmq.transport.virtual.parts import ChannelParts, Empty
from greenmq.transport.virtual.unmade import settle_unmade
from greenmq.utils.uuid import uuid

__all__ = ('ConsumeMethods',)

logger = get_logger('greenmq.transport.virtual')


#: Seconds that the end of a consumer waits for what its last fetch has taken, for the sake of the order.
CANCEL_SECONDS = 1.0


class ConsumeMethods(ChannelParts):
    """basic_consume, basic_cancel, basic_get, basic_qos, flow."""

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Limit the unsettled messages of this channel; 0 for no limit.

        Source: AMQP 0-9-1 basic.qos; kombu: the whole channel counts, whatever `apply_global` says.
        """
        self.qos.prefetch_count = prefetch_count or 0
        self.ask_for_more()

    @property
    def prefetch_count(self) -> int:
        """What `basic_qos` set last; 0 is unlimited."""
        return self.books.prefetch_count

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
        sub = Subscription(
            consumer_tag,
            queue,
            self,
            no_ack,
            callback,
            bool(kwargs.get('exclusive')),
            kwargs.get('arguments'),
        )
        self.books.add(sub)
        self._consumers.add(consumer_tag)
        self._tag_to_queue[consumer_tag] = queue
        self._active_queues.append(queue)
        if no_ack:
            self.no_ack_consumers.add(consumer_tag)
        self._reset_cycle()
        if self.delivery == 'push':
            self.board.add(sub)
            self.board.notify(queue)
        else:
            self.fetcher.refresh()

    def basic_cancel(self, consumer_tag: str) -> None:
        """End a consumer; what waits for its callback goes back to the queue. An unknown tag is fine.

        Switches: as the channel's `_restore_at_beginning`, and if a fetch is on its way. Killed: ended all
        the same.
        """
        sub = self.books.remove(consumer_tag)
        if sub is None:
            return
        self._consumers.discard(consumer_tag)
        self.no_ack_consumers.discard(consumer_tag)
        self._tag_to_queue.pop(consumer_tag, None)
        if sub.queue in self._active_queues:
            self._active_queues.remove(sub.queue)
        self._reset_cycle()
        if self.delivery == 'push':
            self.board.remove(sub)
        else:
            self.fetcher.refresh()
        waiting = [
            message for _, message in self.connection.events.remove(self, lambda event: event[0] is sub)
        ]
        while sub.posted:
            waiting.append(sub.posted.popleft())
        sub.waiting = 0
        try:
            self._fetch_ended(runtime.Deadline.after(CANCEL_SECONDS))
        finally:
            self._put_back(waiting)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take one message now.

        Returns:
            Message: or None if there is none.
        Switches: as the channel's `_get`.
        """
        self._check_open()
        message = self._take_message(queue)
        if message is not None and not no_ack:
            self.qos.append(message, message.delivery_tag)
            if self.settling is not None:
                self.settling.leased()
        elif message is not None and self.settle_now is not None:
            self.settle_now(message.delivery_tag)
        return message

    def _get_one(self, queue: str) -> Any:
        return self.adapter.get_one(queue)

    def message_to_python(self, raw_message: Any) -> Any:
        """Return a Message of a payload; one that is a Message already stays as it is."""
        return (
            raw_message if isinstance(raw_message, self.Message) else self.Message(raw_message, channel=self)
        )

    def _make_message(self, raw: Any, queue: str) -> Any:
        if self.Message is Message:
            check_payload(raw)
        message = self.Message(raw, channel=self)
        tag = message.delivery_tag
        if tag is None or tag in self.qos.unsettled:
            # kombu numbers messages when they are published: one in two queues would be settled in both at
            # once.
            message.delivery_tag = tag = uuid()
        message.queue = queue
        return message

    def next_message(self, queue: str, sub: Subscription) -> Any:
        """The next message of a push channel for `sub`, or None; never switches."""
        return self._take_message(queue)

    def _take_message(self, queue: str) -> Any:
        """The next message of a queue, or None. What is none is settled, and the next one is taken."""
        while True:
            try:
                raw = self._get_one(queue)
            except Empty:
                return None
            try:
                return self._make_message(raw, queue)
            except Exception as error:
                settle_unmade(self, raw, queue, error)

    def receive(self, raw: Any, queue: str) -> Any:
        """Hand one payload to the next consumer of `queue` on this channel, in the caller's greenlet."""
        known = self.connection.prepared.pop(id(raw), None)
        if known is not None:
            sub, message = known
            return sub.callback(message)
        try:
            message = self._make_message(raw, queue)
        except Exception as error:
            return settle_unmade(self, raw, queue, error)
        sub = self.books.next_taker(queue)
        message.delivery_info['consumer_tag'] = sub.tag
        if not sub.no_ack:
            self.qos.append(message, message.delivery_tag)
        return sub.callback(message)

    def fetched(self, raw: Any, queue: str) -> None:
        """Register one payload that a fetch brought, and leave it to whoever drains."""
        if queue not in self.books.takers or self.closed:
            self.adapter.abandon([(queue, raw)])
            return
        try:
            message = self._make_message(raw, queue)
        except Exception as error:
            settle_unmade(self, raw, queue, error)
            return
        self.books.next_taker(queue).accept(message)
        if self.settling is not None:
            self.settling.leased()

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

    def _consumer_count(self, queue: str) -> int:
        if self.delivery == 'push':
            return len(self.board.consumers(queue))
        return sum(len(channel.books.takers.get(queue, ())) for channel in self.connection.channels)

    def flow(self, active: bool = True) -> bool:
        """Stop the deliveries to this channel's consumers, or go on.

        Source: AMQP 0-9-1 channel.flow.
        """
        flowing = self.books.flowing = bool(active)
        self.ask_for_more()
        return flowing

    def _waiting(self) -> int:
        """How many deliveries no callback has begun."""
        return self.books.waiting()

    def _fetch_ended(self, deadline: runtime.Deadline) -> None:
        """The fetch tasks were killed. For brokers that may still answer one: what it took goes back first,
        then what was delivered before it. Switches: perhaps.
        """

    def ask_for_more(self) -> None:
        """There is room, perhaps for the first time in a while."""
        books = self.books
        if not books.subscriptions or self.closed:
            return
        starved = books.starved
        if self.delivery != 'push':
            starved.clear()
            self.fetcher.kick()
            return
        qos = self.qos
        # Each at most once, and no more of them than there is room for: an ack must not cost more the more
        # queues there are. Who still has no room stands at the end of the row again.
        for _ in range(len(starved)):
            if not starved or not (self.no_ack_consumers or qos.can_consume()):
                return
            self.board.notify(starved.popitem(last=False)[0])
