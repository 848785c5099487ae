"""Consumer: from deliveries of a channel to the program's callbacks. Public in `greenmq.messaging`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, overload

from greenmq import events
from greenmq.abstract import maybe_channel
from greenmq.consuming.standins import StandIns, keeper
from greenmq.entity import Queue
from greenmq.exceptions import ContentDisallowed, InvalidArgument
from greenmq.log import get_logger
from greenmq.message import settle_undecodable
from greenmq.serialization import prepare_accept_content
from greenmq.utils import validate
from greenmq.utils.functional import maybe_list

if TYPE_CHECKING:
    from types import TracebackType

    from greenmq.connection import Connection
    from greenmq.message import Message
    from greenmq.types import Callback, ChannelLike, Queues

__all__ = ('Consumer',)

logger = get_logger('greenmq.messaging')

_ConsumerT = TypeVar('_ConsumerT', bound='Consumer')

_deliver_listeners = events.listeners('deliver')


class Consumer:
    """Takes messages from queues.

    Arguments:
        channel (Channel | Connection): for a connection its default channel.
        queues (Queue | Iterable[Queue]): what to take from.
        no_ack (bool | None): messages need no acknowledgement; None: as each queue says.
        auto_declare (bool): declare the queues now and after `revive`. Default true.
        callbacks (list[Callable]): each called with (body, message), in the greenlet that drains events.
        on_decode_error (Callable): called with (message, error) for a message that can't be decoded; it
            settles it. Without it the error comes out of `drain_events`, once: the message is rejected where
            its queue has a dead-letter place, else it stays unacknowledged until the program settles
            ``error.message``. One whose properties cannot be read is settled here.
        on_message (Callable): called with (message) instead of the callbacks; nothing is decoded then.
        accept (Iterable[str]): content types or serializer names that may be decoded; None: all that are
            enabled.
        prefetch_count (int): how many messages may be in hand unacknowledged; 0: no limit.
        tag_prefix (str): start of the consumer tags.
        callback (Callable | list[Callable]): more callbacks.
    Raises:
        InvalidArgument: a negative prefetch, or a queue that is none, before anything is sent.
    Switches: yes if queues are declared.
    Example:
        >>> def on_order(body, message):
        ...     print(body)
        ...     message.ack()
        >>> with Connection('memory://localhost/example') as connection:
        ...     _ = connection.Producer().publish({'id': 1}, routing_key='orders', declare=[Queue('orders')])
        ...     with Consumer(connection, Queue('orders'), callbacks=[on_order], prefetch_count=10):
        ...         connection.drain_events(timeout=5)
        {'id': 1}

    Source: kombu.messaging.Consumer; differs: `callback`; a bad message stops nothing (P40).
    """

    ContentDisallowed = ContentDisallowed

    channel: Any = None
    no_ack: bool | None = None
    auto_declare: bool = True
    callbacks: Any = None
    on_message: Callable[[Message], Any] | None = None
    on_decode_error: Callable[[Message, Exception], Any] | None = None
    accept: Any = None
    prefetch_count: int | None = None

    #: Who runs the callbacks, in place of the greenlet that drains: called with (consumer, message).
    runner: Callable[[Any, Any], Any] | None = None

    _tags = count(1)
    _stand_ins = StandIns()

    @overload
    def __init__(
        self,
        channel: ChannelLike | None,
        queues: Queues | None = None,
        no_ack: bool | None = None,
        auto_declare: bool | None = None,
        callbacks: Iterable[Callback] | None = None,
        on_decode_error: Callable[[Message, Exception], Any] | None = None,
        on_message: Callable[[Message], Any] | None = None,
        accept: Iterable[str] | None = None,
        prefetch_count: int | None = None,
        tag_prefix: str | None = None,
        callback: Callback | Iterable[Callback] | None = None,
    ) -> None: ...

    # What `ConsumerMixin.get_consumers` is handed: its channel is given already. It is called
    # `type[Consumer]` there, as everybody does.
    @overload
    def __init__(
        self,
        queues: Queues | None = None,
        no_ack: bool | None = None,
        auto_declare: bool | None = None,
        callbacks: Iterable[Callback] | None = None,
        on_decode_error: Callable[[Message, Exception], Any] | None = None,
        on_message: Callable[[Message], Any] | None = None,
        accept: Iterable[str] | None = None,
        prefetch_count: int | None = None,
        tag_prefix: str | None = None,
        callback: Callback | Iterable[Callback] | None = None,
    ) -> None: ...

    def __init__(  # type: ignore[misc]
        self,
        channel: Any,
        queues: Any = None,
        no_ack: bool | None = None,
        auto_declare: bool | None = None,
        callbacks: Any = None,
        on_decode_error: Callable[[Message, Exception], Any] | None = None,
        on_message: Callable[[Message], Any] | None = None,
        accept: Iterable[str] | None = None,
        prefetch_count: int | None = None,
        tag_prefix: str | None = None,
        callback: Any = None,
    ) -> None:
        if prefetch_count is not None:
            validate.whole_number('prefetch_count', prefetch_count)
        self.channel = None
        self.tag_prefix = tag_prefix
        self._queues: dict[str, Queue] = {each.name: each for each in map(_queue, maybe_list(queues) or ())}
        self._active_tags: dict[str, str] = {}
        #: What is to be consumed, with the no_ack of each: still known when a `revive` fails half way.
        self._consumed: dict[str, bool | None] = {}
        self.no_ack = self.no_ack if no_ack is None else no_ack
        if auto_declare is not None:
            self.auto_declare = auto_declare
        self.callbacks = (self.callbacks or []) if callbacks is None else callbacks
        if callback is not None:
            more = [callback] if callable(callback) else callback
            self.callbacks = [*self.callbacks, *more]
        self.on_decode_error = on_decode_error or self.on_decode_error
        self.on_message = on_message or self.on_message
        self.accept = prepare_accept_content(accept)
        self.prefetch_count = prefetch_count
        if channel is not None:
            self.revive(channel)

    @property
    def queues(self) -> list[Queue]:
        """The queues, bound to the channel."""
        return list(self._queues.values())

    @queues.setter
    def queues(self, queues: Queues | None) -> None:
        self._queues = {queue.name: queue for queue in map(_queue, maybe_list(queues) or ())}

    def revive(self, channel: ChannelLike) -> None:
        """Move to another channel: bind the queues to it, declare them, set the prefetch, and go on consuming
        from those that were consumed, each with the `no_ack` it had.

        On the channel it has already, if that one restores its consumers by itself, nothing changes.

        Arguments:
            channel (Channel | Connection): for a connection its default channel.
        Switches: yes.
        Source: kombu Consumer.revive.
        """
        channel = maybe_channel(channel)
        if channel is self.channel and keeper(channel) is not None:
            return
        self._leave()
        self._active_tags.clear()
        self.channel = channel
        self._queues = {name: queue(channel) for name, queue in self._queues.items()}
        # The queue itself, too: one that the broker names has another name on another connection.
        again = [(name, self._queues.get(name)) for name in self._consumed]
        if self.auto_declare:
            self.declare()
        if self.prefetch_count is not None:
            self.qos(prefetch_count=self.prefetch_count)
        for name, queue in again:
            no_ack = self._consumed.pop(name)
            if queue is not None:
                self._consumed[queue.name] = no_ack
                self._basic_consume(queue, no_ack, nowait=name != again[-1][0])

    def _leave(self) -> None:
        """End what a channel that restores its consumers would start again, to take a share of the messages.

        Lost or not: what cannot be told to the broker is not restored either.
        """
        connection = keeper(self.channel)
        if connection is None:
            return
        for tag in list(self._active_tags.values()):
            try:
                self._stand_ins.cancel(self.channel, tag)
            except (*connection.connection_errors, *connection.channel_errors) as error:
                logger.debug('cancelling %r: %r', self, error)

    def declare(self) -> None:
        """Declare the queues, their exchanges and bindings.

        Switches: yes.
        Source: kombu Consumer.declare.
        """
        for name, queue in list(self._queues.items()):
            queue.declare()
            if queue.name != name:  # the broker named it
                self._queues.pop(name, None)
                self._queues[queue.name] = queue

    def register_callback(self, callback: Callback) -> None:
        """Add a callback.

        Arguments:
            callback (Callable): called with (body, message).
        Source: kombu Consumer.register_callback.
        """
        if not isinstance(self.callbacks, list):
            self.callbacks = list(self.callbacks)
        self.callbacks.append(callback)

    def __enter__(self: _ConsumerT) -> _ConsumerT:
        self.consume()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection = self.connection
        lost = tuple(getattr(connection, 'connection_errors', ()))
        if isinstance(exc, lost):
            # The broker has no consumer of ours any more, unless it was a mere time-out, or is restored.
            self._leave()
            self._active_tags.clear()
            return
        ignored = lost + tuple(getattr(connection, 'channel_errors', ()))
        try:
            self.cancel()
        except ignored as error:
            logger.debug('cancelling %r: %r', self, error)

    def add_queue(self, queue: Queue | dict[str, Any]) -> Queue:
        """Add a queue; `consume` starts taking from it, also when the others are consumed already.

        Arguments:
            queue (Queue | dict): a dictionary as for `Queue.from_dict`.
        Returns:
            Queue: bound to the channel.
        Switches: yes if it is declared.
        Source: kombu Consumer.add_queue.
        """
        added = _queue(queue)(self.channel)
        if self.auto_declare:
            added.declare()
        self._queues[added.name] = added
        return added

    def consume(self, no_ack: bool | None = None) -> None:
        """Start taking messages from the queues that are not consumed yet.

        Arguments:
            no_ack (bool | None): None: as the consumer says.
        Switches: yes.
        Source: kombu Consumer.consume.
        """
        no_ack = self.no_ack if no_ack is None else no_ack
        waiting = [queue for queue in self._queues.values() if queue.name not in self._active_tags]
        for queue in waiting:
            # One answer is enough: the broker does these in order.
            self._consumed[queue.name] = no_ack  # wanted from now on, also where a loss prevents it
            self._basic_consume(queue, no_ack, nowait=queue is not waiting[-1])

    def _basic_consume(self, queue: Any, no_ack: bool | None, nowait: bool) -> None:
        if queue.name in self._active_tags:
            return  # another greenlet was faster
        tag = self._active_tags[queue.name] = f'{self.tag_prefix or "greenmq-"}{next(self._tags)}'
        connection = keeper(self.channel)
        receiver = self if connection is None else self._twin()
        try:
            queue.consume(tag, receiver._receive_callback, no_ack=no_ack, nowait=nowait)
        except BaseException:
            # Also when killed: a queue that counts as consumed and is not would stay so for ever.
            if self._active_tags.get(queue.name) == tag:
                del self._active_tags[queue.name]
            raise
        if connection is not None:
            self._stand_ins.started(self, queue, tag, connection)

    def _twin(self) -> Any:
        # The channel holds it in our place, so that it can be seen when the program has let go of us; what it
        # has is ours.
        twin = object.__new__(type(self))
        twin.__dict__ = self.__dict__
        return twin

    def cancel(self) -> None:
        """Stop taking messages; those in hand stay ours to settle. Can be called any number of times.

        Switches: yes. Killed while waiting: what was not cancelled is left to the next call.
        Source: kombu Consumer.cancel.
        """
        channel, active = self.channel, self._active_tags
        while active:
            name = next(iter(active))
            tag = active.pop(name)
            self._consumed.pop(name, None)
            try:
                self._stand_ins.cancel(channel, tag)
            except BaseException as exc:
                # After an error the broker has no such consumer; after a kill it may still have it.
                if not isinstance(exc, Exception):
                    active.setdefault(name, tag)
                raise

    close = cancel

    def cancel_by_queue(self, queue: Queue | str) -> None:
        """Stop taking from one queue, and forget it.

        Arguments:
            queue (Queue | str): or its name.
        Switches: yes if it was consumed.
        Source: kombu Consumer.cancel_by_queue.
        """
        name = queue.name if isinstance(queue, Queue) else queue
        self._queues.pop(name, None)
        self._consumed.pop(name, None)
        tag = self._active_tags.pop(name, None)
        if tag is not None:
            self._stand_ins.cancel(self.channel, tag)

    def consuming_from(self, queue: Queue | str) -> bool:
        """Whether messages are taken from a queue.

        Arguments:
            queue (Queue | str): or its name.
        Source: kombu Consumer.consuming_from.
        """
        return (queue.name if isinstance(queue, Queue) else queue) in self._active_tags

    def purge(self) -> int:
        """Remove all messages that wait in the queues.

        Returns:
            int: how many there were.
        Switches: yes.
        Source: kombu Consumer.purge.
        """
        return sum(queue.purge() for queue in self._queues.values())

    def flow(self, active: bool) -> None:
        """Let the broker pause, or go on with, the deliveries of this channel.

        Switches: yes.
        Source: kombu Consumer.flow; AMQP 0-9-1 channel.flow.
        """
        self.channel.flow(active)

    def qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> object:
        """Limit how much may be in hand unacknowledged.

        Arguments:
            prefetch_size (int): bytes (most brokers want 0).
            prefetch_count (int): messages; 0: no limit.
            apply_global (bool): for the whole channel, not each consumer.
        Raises:
            InvalidArgument: negative.
        Switches: yes.
        Source: kombu Consumer.qos.
        """
        validate.whole_number('prefetch_size', prefetch_size)
        validate.whole_number('prefetch_count', prefetch_count)
        return self.channel.basic_qos(prefetch_size, prefetch_count, apply_global)

    def recover(self, requeue: bool = False) -> object:
        """Have all messages in hand delivered again.

        Arguments:
            requeue (bool): perhaps to other consumers.
        Switches: yes.
        Source: kombu Consumer.recover.
        """
        return self.channel.basic_recover(requeue=requeue)

    def receive(self, body: Any, message: Message) -> None:
        """Hand a decoded message to the callbacks; subclasses may do otherwise.

        Raises:
            NotImplementedError: there are no callbacks.
        Switches: as the callbacks.
        Source: kombu Consumer.receive.
        """
        callbacks = self.callbacks
        if not callbacks:
            raise NotImplementedError('Consumer does not have any callbacks')
        for callback in callbacks:
            callback(body, message)

    def _receive_callback(self, message: Any) -> Any:
        to_python = getattr(self.channel, 'message_to_python', None)
        if to_python is not None:
            message = to_python(message)
        accept = self.accept
        if accept is not None:
            message.accept = accept
        if _deliver_listeners:
            events.emit('deliver', source=self.channel, message=message)
        runner = self.runner
        return self.process_message(message) if runner is None else runner(self, message)

    @property
    def active_tags(self) -> dict[str, str]:
        """Queue → tag, of those that are consumed."""
        return self._active_tags

    def process_message(self, message: Any) -> Any:
        """Decode a message and call back, in this greenlet. Switches: as the callbacks."""
        on_message = self.on_message
        try:
            if on_message is None:
                body = message.decode()
            elif getattr(message, 'sound', False) is not True and message.errors:
                message.raise_error()
        except Exception as exc:  # whatever a decoder raises is about this one message
            return self._undecodable(message, exc)
        return on_message(message) if on_message is not None else self.receive(body, message)

    def _undecodable(self, message: Any, exc: Exception) -> Any:
        tag = message.delivery_info.get('consumer_tag')
        name = next((name for name, active in self._active_tags.items() if active == tag), None)
        queue = self._queues.get(name) if name is not None else None
        if 'x-dead-letter-exchange' in (getattr(queue, 'queue_arguments', None) or ()):
            message.dead_letter = True  # not every channel knows, and a handler has nothing but the message
        exc.message = message  # type: ignore[attr-defined]
        handler = self.on_decode_error
        if handler is not None:
            return handler(message, exc)
        # The program may know more than we do: as in kombu the body is its to judge, and to settle.
        settle_undecodable(message, exc, keep=not message.unreadable)
        raise exc

    def __repr__(self) -> str:
        return f'<{type(self).__name__}: {self.queues}>'

    @property
    def connection(self) -> Connection | Any:
        """The Connection, None if the channel does not tell."""
        return getattr(getattr(self.channel, 'connection', None), 'client', None)


def _queue(queue: Any) -> Queue:
    if isinstance(queue, dict):
        return Queue.from_dict(**queue)
    if not hasattr(queue, 'name'):
        raise InvalidArgument('queue', queue, 'is not a Queue')
    return queue  # type: ignore[no-any-return]
