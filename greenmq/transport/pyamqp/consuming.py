"""What one channel consumes: the wire it comes over, the consumers, what arrives for them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from amqp import spec
from amqp.serialization import dumps

from greenmq import events, runtime
from greenmq.exceptions import ChannelError, ConnectionError, DecodeError, InvalidArgument

from . import frames, methods
from .message import Delivery
from .settling import Settling
from .wirechannel import NotSent, Reply, WireChannel

if TYPE_CHECKING:
    from .channel import Channel
    from .link import Link

__all__ = ['Consumer', 'Consuming']

log = logging.getLogger('greenmq.transport.pyamqp')

#: The arguments of a basic.qos: bytes, messages, and whether they are the channel's or each consumer's.
QoS = tuple[int, int, bool]

#: The last one for each consumer that is started from then on, and the last one for the channel: they do not
#: touch each other. The place of each is its `a_global`.
_Limits = tuple[QoS | None, QoS | None]

_NO_LIMIT: QoS = (0, 0, False)


def _with(limits: _Limits, qos: QoS) -> _Limits:
    return (limits[0], qos) if qos[2] else (qos, limits[1])


class Consumer:
    """One consumer: what to ask the broker for, and whom to call."""

    __slots__ = (
        'arguments',
        'callback',
        'cancelled',
        'exclusive',
        'life',
        'limit',
        'lost',
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
        self.limit: QoS | None = None  # under which it was started
        self.life = 0  # of the wire: the last one on which a caller has started it
        self.paused = False
        self.cancelled = False
        self.lost = False  # its queue is gone: somebody else waits until it can be started again

    def request(self, queue: str, nowait: bool) -> bytes:
        """The arguments of its basic.consume."""
        return methods.encode(
            methods.BASIC_CONSUME,
            (0, queue, self.tag, self.no_local, self.no_ack, self.exclusive, nowait, self.arguments or {}),
        )


class Consuming(Settling):
    """The consuming side of a `Channel`, and its calls."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self.consumers: dict[bytes, Consumer] = {}
        self.recovering = False  # a basic.recover is under way: what arrives will come again
        self.transactional = False
        self.qos: QoS | None = None  # the last one
        self._limits: _Limits = (None, None)
        self._opening = runtime.Lock()
        self._places: dict[bytes, tuple[str, str, DecodeError | None]] = {}
        self._restored = False  # the wire has its QoS and consumers
        self._life = 0  # how many wires there were
        self._told: _Limits = (None, None)  # those that this wire knows
        self._starting: set[bytes] = set()
        #: Tags of consumers without acks that went while deliveries were on their way: nothing to give back.
        self._gone_no_ack: set[bytes] = set()

    # ---- the wire

    def open(self, deadline: runtime.Deadline) -> WireChannel:
        """The wire channel for calls and deliveries, opened (and consumers started again) if it is not.

        Switches: only if it has to be opened.
        """
        while True:
            channel = self.ready_wire
            if channel is not None:
                return channel
            self.channel.check_open()
            link = self.connection.wait_open(deadline)
            if not self._opening.acquire(deadline):
                raise deadline.error(f'{self.channel!r}: no wire channel')
            try:
                if self.ready_wire is None and link.error is None:
                    self._restore(link, lambda: deadline)
            finally:
                self._opening.release()

    @property
    def in_use(self) -> bool:
        """Does a greenlet open the wire, or start a consumer?"""
        return self._opening.locked() or bool(self._starting)

    @property
    def ready_wire(self) -> WireChannel | None:
        """The wire channel, if it is open and has its QoS and consumers."""
        channel = self.wire
        return channel if channel is not None and channel.error is None and self._restored else None

    def restore(self, link: Link, step: Callable[[], runtime.Deadline]) -> None:
        """Have the wire, with QoS and consumers, on a new link, if one was open before.

        Arguments:
            step (Callable): a deadline for each consumer: there may be thousands.
        """
        with self._opening:
            while (self.qos is not None or self.consumers) and self.ready_wire is None:
                self._restore(link, step)

    def _restore(self, link: Link, step: Callable[[], runtime.Deadline]) -> None:
        self._forget_deliveries()  # of the last wire; another thread, whose they were, may have been at it
        channel = WireChannel(link, self).open(step())
        channel.base = self.last_tag
        # Ours from here on: what its first consumers are given is settled on it, restored or not.
        self.wire, self._restored = channel, False
        self._life += 1
        self._told = (None, None)
        try:
            self.channel.check_open()  # or nobody would ever close it
            self._set_up(channel, step)
        except NotSent:
            return  # it ended meanwhile; the caller tries again
        except BaseException as exc:
            channel.close_soon()
            if self.consumers and link.error is None and self.connection.connected and self.channel.is_open:
                self.connection.channel_lost(self.channel, exc)
            raise
        self._restored = channel.error is None
        self.connection.resume_paused()

    def _set_up(self, channel: WireChannel, step: Callable[[], runtime.Deadline]) -> None:
        if self.transactional:
            channel.call(methods.TX_SELECT.signature, b'', methods.TX_SELECT.replies, step())
        last, shared = self._limits
        if shared is not None:
            self._send_qos(channel, shared, step())
        for key, consumer in list(self.consumers.items()):
            if consumer.cancelled or consumer.lost or self.consumers.get(key) is not consumer:
                continue
            limit = consumer.limit or self._told[False] and _NO_LIMIT
            if limit and limit != self._told[False] and not consumer.no_ack:
                self._send_qos(channel, limit, step())
            try:
                self._ask_again(channel, key, consumer, step())
            except (ChannelError, ConnectionError) as exc:
                if not channel.refused:
                    raise
                # One queue that is gone must not keep the other consumers from theirs: try again without it.
                told = '%r: consumer %s of queue %r cannot be started again: %s'
                log.warning(told, self.channel, consumer.tag, consumer.queue, exc)
                self.consumers.pop(key, None)
                consumer.lost = True
                self.connection.consumer_cancelled(self.channel, consumer)
                return
        if last is not None and self._told[False] != last:
            self._send_qos(channel, last, step())

    def _ask_again(
        self, channel: WireChannel, key: bytes, consumer: Consumer, deadline: runtime.Deadline
    ) -> None:
        """basic.consume for a consumer that was here before, unless it is cancelled until its turn comes."""

        def abandoned(reply: Reply) -> None:
            self._cancel_nowait(channel, consumer)

        request = consumer.request(self.connection.current_name(consumer.queue), False)
        channel.take_turn(deadline)
        if consumer.cancelled or self.consumers.get(key) is not consumer:
            channel.give_turn()
            return
        # Now and not with the reply: together with that deliveries may come, so many that it is paused again.
        consumer.paused = False
        replies = methods.BASIC_CONSUME.replies
        try:
            channel.exchange(spec.Basic.Consume, request, replies, deadline, None, abandoned)
        except BaseException:
            consumer.paused = True
            raise

    def call(
        self,
        method: methods.Method,
        arguments: tuple[Any, ...],
        deadline: runtime.Deadline,
        on_abandoned: Callable[[Reply], None] | None = None,
    ) -> Reply:
        """A synchronous method on the consuming wire."""
        encoded = methods.encode(method, arguments)
        return self.call_encoded(method, lambda: encoded, deadline)

    def call_encoded(
        self, method: methods.Method, request: Callable[[], bytes], deadline: runtime.Deadline
    ) -> Reply:
        """The same with what gives the bytes of the arguments, for each wire anew: see `_take_turn`."""
        while True:
            try:
                return self.open(deadline).call(method.signature, request(), method.replies, deadline)
            except NotSent:
                continue  # the wire ended over somebody else's call

    def _take_turn(
        self, request: Callable[[], bytes], deadline: runtime.Deadline
    ) -> tuple[WireChannel, bytes]:
        """The wire, with the turn for one `exchange` on it, and the method's arguments.

        They are encoded before the turn is taken, for a mistake of the caller must not keep it; and anew for
        each wire, since a queue that the broker named has another name in each epoch.
        """
        while True:
            channel = self.open(deadline)
            arguments = request()
            try:
                channel.take_turn(deadline)
            except NotSent:
                continue
            return channel, arguments

    def close_soon(self) -> None:
        """Flush acks, close the wire; what was delivered and not settled goes back to its queue."""
        channel = self.wire
        self.consumers.clear()
        if channel is not None:
            self.flush()
            channel.close_soon()  # and with `on_wire_end` all that belongs to it

    def close(self, deadline: runtime.Deadline) -> None:
        """As `close_soon`, and wait for the broker's answer. Switches: yes."""
        channel = self.wire
        self.close_soon()
        if channel is not None:
            channel.close(deadline)

    # ---- QoS and consumers

    def set_qos(
        self, prefetch_size: int, prefetch_count: int, a_global: bool, deadline: runtime.Deadline
    ) -> None:
        """basic.qos, now and on every later wire."""
        self.qos = qos = (prefetch_size, prefetch_count, a_global)
        self._limits = _with(self._limits, qos)
        while True:
            channel = self.open(deadline)
            if self._told[a_global] == qos:
                return  # opening the wire has said it
            try:
                self._send_qos(channel, qos, deadline)
                return
            except NotSent:
                continue  # the wire ended over somebody else's call

    def _send_qos(self, channel: WireChannel, qos: QoS, deadline: runtime.Deadline) -> None:
        def told(reply: Reply) -> None:
            self._told = _with(self._told, qos)

        encoded = methods.encode(methods.BASIC_QOS, qos)
        channel.call(spec.Basic.Qos, encoded, methods.BASIC_QOS.replies, deadline, told)

    def start(self, consumer: Consumer, deadline: runtime.Deadline, nowait: bool) -> str:
        """basic.consume. Killed: the consumer is cancelled again once the broker has answered.

        A consumer of that tag which a recovery has started, and no caller since, is taken over: programs
        written for kombu consume again after each loss.

        Raises:
            InvalidArgument: the channel has a consumer of that tag; the broker would close the connection.
        """
        key = consumer.tag.encode()
        if key in self.consumers and key not in self._starting:
            self.open(deadline)  # a recovery under way ends first
            if self._take_over(key, consumer, deadline):
                return consumer.tag
        if key in self.consumers or key in self._starting:
            raise InvalidArgument('consumer_tag', consumer.tag, 'a tag that no consumer of the channel has')
        self._starting.add(key)
        try:
            if self.qos is None and not consumer.no_ack and self.connection.settings.default_prefetch:
                self.set_qos(0, self.connection.settings.default_prefetch, False, deadline)
            consumer.unlimited = consumer.no_ack or not (self.qos and self.qos[1])
            if not nowait and (self.consumers or len(self.ledger)):
                self._look_up(consumer.queue, deadline)
            self._start(key, consumer, deadline, nowait)
            consumer.life = self._life
        finally:
            self._starting.discard(key)
        return consumer.tag

    def _take_over(self, key: bytes, consumer: Consumer, deadline: runtime.Deadline) -> bool:
        """Give the consumer that was restored under this tag to the caller of a new one.

        Returns:
            bool: True if it serves as it is; one that asks the broker for something else is cancelled.
        """
        restored = self.consumers.get(key)
        if restored is None or restored.life == self._life:
            return False
        now = self.connection.current_name
        limited = consumer.no_ack or restored.limit == self._told[False]
        if not limited or (
            restored.request(now(restored.queue), False) != consumer.request(now(consumer.queue), False)
        ):
            self.stop(consumer.tag, deadline, False)
            return False
        restored.callback, restored.on_cancel = consumer.callback, consumer.on_cancel
        restored.life = self._life
        return True

    def _look_up(self, queue: str, deadline: runtime.Deadline) -> None:
        # A 404 for the consume itself would close the wire, and take the deliveries that are out with it.
        if not queue.startswith('amq.rabbitmq.'):
            def request() -> bytes:
                name = self.connection.current_name(queue)
                return methods.encode(methods.QUEUE_DECLARE, (0, name, True, False, False, False, False, {}))

            self.connection.control_call(methods.QUEUE_DECLARE, request, False, deadline)

    def _start(self, key: bytes, consumer: Consumer, deadline: runtime.Deadline, nowait: bool) -> None:
        def started(reply: Reply) -> None:
            self._gone_no_ack.discard(key)
            self.consumers[key] = consumer

        def abandoned(reply: Reply) -> None:
            consumer.cancelled = True
            self._cancel_nowait(channel, consumer)
            self._remove(key, consumer, True)

        channel, request = self._take_turn(
            lambda: consumer.request(self.connection.current_name(consumer.queue), nowait), deadline
        )
        consumer.limit = self._told[False]
        if nowait:
            channel.give_turn()
            self.flush()
            channel.send_method(spec.Basic.Consume, request)
            self.consumers[key] = consumer
        else:
            replies = methods.BASIC_CONSUME.replies
            channel.exchange(spec.Basic.Consume, request, replies, deadline, started, abandoned)

    def _remove(self, key: bytes, consumer: Consumer, late: bool) -> None:
        """Forget a consumer; what was delivered to it and no callback saw goes back to the queue.

        Arguments:
            late (bool): more may come for it. Its tag is only kept then: programs use one after the other.
        """
        if self.consumers.get(key) is consumer:
            del self.consumers[key]
        if consumer.no_ack and late:
            self._gone_no_ack.add(key)
        for delivery in self.connection.take_back(self.channel, lambda event: event[1] is consumer):
            self._give_back(delivery[0])

    def resume_cancelled(self, consumer: Consumer, deadline: runtime.Deadline) -> None:
        """Start a consumer again that the broker had cancelled."""
        key = consumer.tag.encode()
        while True:
            channel = self.open(deadline)  # if that starts the consumers, this one is among them
            try:
                if consumer.paused:
                    self._ask_again(channel, key, consumer, deadline)
            except NotSent:
                continue  # the wire ended over somebody else's call
            consumer.lost = False
            return

    def stop(self, tag: str, deadline: runtime.Deadline, nowait: bool) -> None:
        """basic.cancel. Deliveries of the consumer that no callback has seen go back to the queue."""
        consumer = self.consumers.get(tag.encode())
        if consumer is None:
            return
        consumer.cancelled = True
        channel = self.wire
        late = True  # what is on its way comes after we have forgotten the consumer
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
                    late = False
        except (NotSent, ChannelError, ConnectionError) as exc:
            if not isinstance(exc, NotSent) and (channel is None or channel.link.error is not None):
                raise
            log.debug('%r: consumer %s ended with its wire: %s', self.channel, tag, exc)
        except BaseException:
            # Perhaps before it was sent: a broker that was not told delivers for ever, and we give it back
            # for ever. Told twice it says nothing.
            if channel is not None:
                self._cancel_nowait(channel, consumer)
            raise
        finally:
            self._remove(tag.encode(), consumer, late)

    def _cancel_nowait(self, channel: WireChannel, consumer: Consumer) -> None:
        if channel.error is None:
            channel.send(
                frames.method_frame(
                    channel.id, spec.Basic.Cancel, methods.encode(methods.BASIC_CANCEL, (consumer.tag, True))
                )
            )

    def _give_back(self, delivery: Delivery) -> None:
        if delivery.delivery_tag in self.ledger:
            self.reject(delivery.delivery_tag, True)

    def get(self, queue: str, no_ack: bool, deadline: runtime.Deadline) -> Delivery | None:
        """basic.get. Killed: a message that was taken for it goes back to its queue."""
        def arrived(reply: Reply) -> None:
            # In the reader, so that the ledger has the tags in the order of the broker's numbers.
            if reply[0] == frames.GET_OK:
                self.last_tag = channel.base + int.from_bytes(reply[1][4:12], 'big')
                if not no_ack:
                    self.ledger.add(self.last_tag, None)

        def abandoned(reply: Reply) -> None:
            if reply[0] == frames.GET_OK and not no_ack:
                tag = channel.base + int.from_bytes(reply[1][4:12], 'big')
                if tag in self.ledger:
                    self.reject(tag, True)

        def request() -> bytes:
            return methods.encode(methods.BASIC_GET, (0, self.connection.current_name(queue), no_ack))

        channel, arguments = self._take_turn(request, deadline)
        replies = methods.BASIC_GET.replies
        signature, payload, content = channel.exchange(
            spec.Basic.Get, arguments, replies, deadline, arrived, abandoned
        )
        if signature != frames.GET_OK or content is None:
            return None
        tag, count = int.from_bytes(payload[4:12], 'big'), int.from_bytes(payload[-4:], 'big')
        exchange, routing_key, fault = frames.read_place(payload, 13)
        redelivered = bool(payload[12] & 1)
        delivery = Delivery(
            '', channel.base + tag, redelivered, exchange, routing_key, content, self.channel, count
        )
        delivery.fault = fault
        return delivery

    def recover(self, deadline: runtime.Deadline) -> None:
        """basic.recover: every delivery that is out comes again, under another tag."""

        def recovered(reply: Reply) -> None:
            self.recovering = False

        channel, encoded = self._take_turn(lambda: methods.encode(methods.BASIC_RECOVER, (True,)), deadline)
        self.flush()
        self._forget_deliveries()
        self.recovering = True
        replies = methods.BASIC_RECOVER.replies
        channel.exchange(spec.Basic.Recover, encoded, replies, deadline, recovered)

    def _forget_deliveries(self) -> None:
        """What is out will be delivered again: run now, what no callback has seen would be run twice."""
        self.connection.take_back(self.channel, lambda event: event[0].delivery_tag in self.ledger)
        self.ledger.drain()

    # ---- what arrives (called by the reader: no switch)

    def on_delivery(self, channel: WireChannel, content: frames.Content) -> None:
        method = content.method
        end = 5 + method[4]
        consumer = self.consumers.get(method[5:end])
        tag = int.from_bytes(method[end : end + 8], 'big')
        if consumer is None:
            if method[5:end] in self._gone_no_ack:
                return  # the message is settled already, and an answer would be an error
            # Nobody can ever settle it.
            channel.send(frames.method_frame(channel.id, spec.Basic.Reject, dumps('Lb', (tag, True))))
            return
        number = self.last_tag = channel.base + tag
        if self.recovering and not consumer.no_ack:
            return  # it was on its way when the broker took everything back: it comes again
        place = method[end + 9 :]
        names = self._places.get(place)
        if names is None:
            names = self._place(place)
        owner = self._channel() or self.channel  # the property, without a call for each message
        delivery = Delivery(
            consumer.tag, number, bool(method[end + 8] & 1), names[0], names[1], content, owner
        )
        delivery.fault = names[2]
        if not consumer.no_ack:
            self.ledger.add(number, consumer)
        drain = self.connection.drain
        drain.put(owner, (delivery, consumer), len(content.body) + 512)
        if consumer.unlimited and drain.pending_bytes > self.connection.settings.max_waiting_bytes:
            self._pause(channel, consumer)

    def _place(self, place: bytes) -> tuple[str, str, DecodeError | None]:
        """Exchange and routing key, which repeat from delivery to delivery, from their bytes."""
        names = frames.read_place(place, 0)
        if len(self._places) > 1024:
            self._places.clear()
        self._places[place] = names
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
        if not consumer.paused or self.consumers.get(consumer.tag.encode()) is not consumer:
            return
        if channel is None or channel.error is not None or channel.link.error is not None:
            return  # the next wire is asked for all consumers
        if not self._restored:
            # Its turn may be still to come there: a tag that is asked for twice ends the connection.
            self.connection.paused.append((self, consumer))
            return
        consumer.paused = False
        queue = self.connection.current_name(consumer.queue)
        channel.send(frames.method_frame(channel.id, spec.Basic.Consume, consumer.request(queue, True)))
        events.emit('resumed', self.connection.source, consumer_tag=consumer.tag, queue=consumer.queue)

    def on_cancel(self, channel: WireChannel, consumer_tag: str) -> None:
        consumer = self.consumers.get(consumer_tag.encode())
        if consumer is not None:
            self.connection.consumer_cancelled(self.channel, consumer)

    def on_return(self, channel: WireChannel, content: frames.Content) -> None:
        self.channel.publishing.on_return(channel, content)

    def on_confirm(self, channel: WireChannel, tag: int, multiple: bool, ack: bool) -> None:
        self.channel.publishing.on_confirm(channel, tag, multiple, ack)

    def on_wire_end(self, channel: WireChannel, error: BaseException) -> None:
        self.channel.publishing.on_wire_end(channel, error)
        if channel is not self.wire:
            return
        restored, self._restored = self._restored, False
        self._dirty = self.recovering = False
        self._gone_no_ack.clear()
        self.acks.clear()
        self._forget_deliveries()
        if channel.refused and self.consumers and restored:
            self.connection.channel_lost(self.channel, error)
