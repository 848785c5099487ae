"""A queue with `put` and `get`, like the one of the standard library, kept by a broker."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from queue import Empty
from typing import TYPE_CHECKING, Any, TypeVar

from greenmq import entity, messaging, runtime
from greenmq.connection import maybe_channel
from greenmq.exceptions import SerializationError, SerializerNotInstalled, TimeoutError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

    from greenmq.message import Message
    from greenmq.types import ChannelLike, PublishOptions

__all__ = ('SimpleBuffer', 'SimpleQueue')

_SimpleT = TypeVar('_SimpleT', bound='SimpleBase')


class SimpleBase:
    """What the simple queues share.

    Arguments:
        channel (Channel | Connection): for a connection its default channel.
        producer (Producer): what `put` publishes with.
        consumer (Consumer): what `get` takes from; its first queue is the queue.
        no_ack (bool): messages need no acknowledgement.

    Any number of greenlets may put and get; each message goes to one of them.

    Source: kombu.simple.SimpleBase.
    """

    Empty = Empty

    _consuming = False
    _getting = 0

    def __init__(
        self,
        channel: ChannelLike,
        producer: messaging.Producer,
        consumer: messaging.Consumer,
        no_ack: bool = False,
    ) -> None:
        self.channel = maybe_channel(channel)
        self.producer = producer
        self.consumer = consumer
        self.no_ack = no_ack
        self.queue = self.consumer.queues[0]
        self.buffer: deque[Message] = deque()
        self.consumer.register_callback(self._receive)

    def __enter__(self: _SimpleT) -> _SimpleT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def get(self, block: bool = True, timeout: float | None = None) -> Message:
        """Take a message.

        Arguments:
            block (bool): wait for one.
            timeout (float | None): seconds to wait; None: for ever.
        Returns:
            Message: to be acknowledged, unless `no_ack`.
        Raises:
            Empty: there is none (in time).
            DecodeError: the message cannot be decoded. It is ``error.message``, to be settled unless it was
                rejected into a dead-letter place.
        Switches: yes, unless one was delivered already.
        Source: kombu SimpleBase.get.
        """
        if not block:
            return self.get_nowait()
        self._getting += 1
        try:
            self._consume()
            return self._wait(runtime.Deadline.after(timeout))
        finally:
            self._getting -= 1

    def _wait(self, deadline: runtime.Deadline) -> Message:
        drain_events = self.channel.connection.client.drain_events
        while not self.buffer:
            remaining = deadline.remaining()
            if remaining is not None and remaining <= 0:
                raise self.Empty(f'no message in queue {self.queue.name!r} in time')
            try:
                drain_events(timeout=remaining)
            except TimeoutError:
                if not self.buffer:  # another greenlet may have drained for us at the last moment
                    raise self.Empty(f'no message in queue {self.queue.name!r} in time') from None
        return self.buffer.popleft()

    def get_nowait(self) -> Message:
        """Take a message if there is one now.

        Raises:
            Empty: there is none.
        Switches: yes, for the answer of the broker.
        Source: kombu SimpleBase.get_nowait; differs: what was delivered to an earlier `get` comes first.
        """
        self._take_held()
        if self.buffer:
            return self.buffer.popleft()
        self._pause()
        message = self.queue.get(no_ack=self.no_ack, accept=self.consumer.accept)
        if message is None:
            raise self.Empty(f'no message in queue {self.queue.name!r} now')
        return message

    def put(
        self,
        message: Any,
        serializer: str | None = None,
        headers: dict[str, Any] | None = None,
        compression: str | None = None,
        routing_key: str | None = None,
        **kwargs: Unpack[PublishOptions],
    ) -> None:
        """Publish a message into the queue.

        Arguments:
            message (object): anything the serializer takes.
            **kwargs: as for `Producer.publish`.
        Switches: yes.
        Source: kombu SimpleBase.put.
        """
        self.producer.publish(
            message,
            serializer=serializer,
            routing_key=routing_key,
            headers=headers,
            compression=compression,
            **kwargs,
        )

    def clear(self) -> int:
        """Remove all messages that wait in the queue.

        Returns:
            int: how many there were.
        Switches: yes.
        Source: kombu SimpleBase.clear.
        """
        self._pause()
        dropped = 0
        while True:
            try:
                self._take_held()
                break
            except (SerializationError, SerializerNotInstalled) as exc:
                bad = getattr(exc, 'message', None)
                if bad is not None and not bad.acknowledged and not self.no_ack:
                    bad.ack()
                dropped += 1
        while self.buffer:
            message = self.buffer.popleft()
            if not self.no_ack:
                message.ack()
            dropped += 1
        return dropped + int(self.consumer.purge())

    def qsize(self) -> int:
        """Ask how many messages wait in the queue.

        Switches: yes.
        Source: kombu SimpleBase.qsize.
        """
        self._pause()
        _, size, _ = self.queue.queue_declare(passive=True)
        return int(size) + len(self.buffer) + self._held()

    def _held(self) -> int:
        # What a broker elsewhere has sent ahead waits in this process, in nobody's count but ours.
        held = getattr(type(self.channel), 'held', None)
        if held is None:
            return 0
        return sum(held(self.channel, tag) for tag in self.consumer.active_tags.values())

    def _take_held(self) -> None:
        while self._held():
            try:
                self.channel.connection.client.drain_events(timeout=0)
            except TimeoutError:
                return  # another greenlet takes them just now

    def _pause(self) -> None:
        # A broker in this process delivers at once, also what nobody has asked for yet, and that still
        # counts as waiting. While nobody is in `get` the consumer can be cancelled: virtual channels then
        # put back what it was sent. The next `get` consumes again.
        if self._consuming and not self._getting and hasattr(self.channel, 'delivery'):
            self.close()

    def close(self) -> None:
        """Stop taking messages. What was delivered and not asked for goes back when the channel is closed.

        Switches: yes.
        Source: kombu SimpleBase.close.
        """
        self.consumer.cancel()
        self._consuming = False

    def _receive(self, body: Any, message: Message) -> None:
        self.buffer.append(message)

    def _consume(self) -> None:
        if not self._consuming:
            self.consumer.consume(no_ack=self.no_ack)
            self._consuming = True

    def __len__(self) -> int:
        """`len(queue)` is `queue.qsize()`."""
        return self.qsize()

    def __bool__(self) -> bool:
        # Without this an empty queue would be false.
        return True


class SimpleQueue(SimpleBase):
    """A queue that survives, with acknowledgements.

    Arguments:
        channel (Channel | Connection): for a connection its default channel.
        name (str | Queue): a name makes a queue and an exchange of that name.
        no_ack (bool | None): messages need no acknowledgement. Default: the class's.
        queue_opts (dict), queue_args (dict): for the Queue, and its `queue_arguments`.
        exchange_opts (dict): for the Exchange.
        serializer (str), compression (str): for `put`.
        accept (Iterable[str]): what `get` may decode.
    Example:
        >>> with Connection('memory://localhost/example') as connection:
        ...     with SimpleQueue(connection, 'orders') as queue:
        ...         queue.put({'id': 1})
        ...         message = queue.get(timeout=1)
        ...         message.ack()
        ...         message.payload
        {'id': 1}

    Source: kombu.simple.SimpleQueue.
    """

    no_ack = False
    queue_opts: dict[str, Any] = {}
    queue_args: dict[str, Any] = {}
    exchange_opts: dict[str, Any] = {'type': 'direct'}

    def __init__(
        self,
        channel: ChannelLike,
        name: str | entity.Queue,
        no_ack: bool | None = None,
        queue_opts: dict[str, Any] | None = None,
        queue_args: dict[str, Any] | None = None,
        exchange_opts: dict[str, Any] | None = None,
        serializer: str | None = None,
        compression: str | None = None,
        accept: Iterable[str] | None = None,
    ) -> None:
        if isinstance(name, entity.Queue):
            queue = name
            exchange, routing_key = queue.exchange, queue.routing_key
            if not exchange:  # it has several ways in: put uses the shortest
                exchange, routing_key = entity.Exchange(''), queue.name
        else:
            exchange = entity.Exchange(name, **{**self.exchange_opts, **(exchange_opts or {})})
            queue = entity.Queue(
                name,
                exchange,
                name,
                queue_arguments={**self.queue_args, **(queue_args or {})},
                **{**self.queue_opts, **(queue_opts or {})},
            )
            routing_key = name
        consumer = messaging.Consumer(channel, queue, accept=accept)
        producer = messaging.Producer(
            channel, exchange, serializer=serializer, routing_key=routing_key, compression=compression
        )
        super().__init__(channel, producer, consumer, self.no_ack if no_ack is None else no_ack)


class SimpleBuffer(SimpleQueue):
    """A queue that goes with its consumer, without acknowledgements.

    Source: kombu.simple.SimpleBuffer.
    """

    no_ack = True
    queue_opts = {'durable': False, 'auto_delete': True, 'exclusive': True}
    exchange_opts = {'durable': False, 'delivery_mode': 'transient', 'auto_delete': True}
