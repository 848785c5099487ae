"""Publisher and Consumer with the arguments of carrot, for programs from before kombu."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from greenmq import messaging, runtime
from greenmq.entity import Exchange, Queue

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ('Consumer', 'Publisher')

_PublisherT = TypeVar('_PublisherT', bound='Publisher')
_ConsumerT = TypeVar('_ConsumerT', bound='Consumer')

#: What carrot's configuration files hold, as a queue.
entry_to_queue = Queue.from_dict


def _iterconsume(connection: Any, consumer: Any, no_ack: bool | None, limit: int | None) -> Iterator[Any]:
    consumer.consume(no_ack=no_ack)
    for _ in range(limit) if limit else count():
        yield connection.drain_events()


class Publisher(messaging.Producer):
    """A producer made from names.

    Arguments:
        connection (Connection): published on its default channel, unless `channel` is given.
        exchange (str | Exchange), exchange_type (str), durable (bool), auto_delete (bool): of the exchange.
        routing_key (str): default for `send`.
        channel (Channel): instead.
        **kwargs: for the Producer.
    Source: kombu.compat.Publisher.
    """

    exchange: Any = ''
    exchange_type = 'direct'
    routing_key = ''
    durable = True
    auto_delete = False
    _closed = False

    def __init__(
        self,
        connection: Any,
        exchange: Any = None,
        routing_key: str | None = None,
        exchange_type: str | None = None,
        durable: bool | None = None,
        auto_delete: bool | None = None,
        channel: Any = None,
        **kwargs: Any,
    ) -> None:
        self.exchange = exchange or self.exchange
        self.exchange_type = exchange_type or self.exchange_type
        self.durable = self.durable if durable is None else durable
        self.auto_delete = self.auto_delete if auto_delete is None else auto_delete
        if not isinstance(self.exchange, Exchange):
            self.exchange = Exchange(
                self.exchange, self.exchange_type, auto_delete=self.auto_delete, durable=self.durable
            )
        super().__init__(channel or connection, self.exchange, routing_key, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> Any:
        """As `publish`.

        Switches: yes.
        Source: kombu Publisher.send.
        """
        return self.publish(*args, **kwargs)

    def close(self) -> None:
        """Mark it as closed; the channel is the connection's.

        Source: kombu Publisher.close.
        """
        super().close()
        self._closed = True

    def __enter__(self: _PublisherT) -> _PublisherT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def backend(self) -> Any:
        """The channel."""
        return self.channel


class Consumer(messaging.Consumer):
    """A consumer made from names, on a channel of its own.

    Arguments:
        connection (Connection): where that channel is opened.
        queue (str), exchange (str), routing_key (str), exchange_type (str): what to take from.
        durable, exclusive, auto_delete (bool): of the queue, the first and last of the exchange too.
        **kwargs: for `messaging.Consumer`.
    Source: kombu.compat.Consumer.
    """

    queue: Any = ''
    exchange: Any = ''
    routing_key = ''
    exchange_type = 'direct'
    durable = True
    exclusive = False
    auto_delete = False
    _closed = False

    def __init__(
        self,
        connection: Any,
        queue: str | None = None,
        exchange: str | None = None,
        routing_key: str | None = None,
        exchange_type: str | None = None,
        durable: bool | None = None,
        exclusive: bool | None = None,
        auto_delete: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self.backend = connection.channel()
        self.durable = self.durable if durable is None else durable
        self.exclusive = self.exclusive if exclusive is None else exclusive
        self.auto_delete = self.auto_delete if auto_delete is None else auto_delete
        self.queue = queue or self.queue
        self.exchange = exchange or self.exchange
        self.exchange_type = exchange_type or self.exchange_type
        self.routing_key = routing_key or self.routing_key
        entity = Queue(
            self.queue,
            Exchange(self.exchange, self.exchange_type, auto_delete=self.auto_delete, durable=self.durable),
            self.routing_key,
            durable=self.durable,
            exclusive=self.exclusive,
            auto_delete=self.auto_delete,
        )
        super().__init__(self.backend, entity, **kwargs)

    def revive(self, channel: Any) -> None:
        """Move to another channel.

        Switches: yes.
        Source: kombu.compat Consumer.revive.
        """
        self.backend = channel
        super().revive(channel)

    def close(self) -> None:
        """Stop taking messages and close the channel.

        Switches: yes.
        Source: kombu.compat Consumer.close.
        """
        self.cancel()
        self.backend.close()
        self._closed = True

    def __enter__(self: _ConsumerT) -> _ConsumerT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        return self.iterqueue(infinite=True)

    def fetch(self, no_ack: bool | None = None, enable_callbacks: bool = False) -> Any:
        """Take one message, if there is one now.

        Arguments:
            enable_callbacks (bool): hand it to the callbacks too.
        Returns:
            Message | None: None for an empty queue.
        Switches: yes.
        Source: kombu.compat Consumer.fetch.
        """
        message = self.queues[0].get(self.no_ack if no_ack is None else no_ack)
        if message is not None and enable_callbacks:
            self.receive(message.payload, message)
        return message

    def process_next(self) -> NoReturn:
        """Not there any more: use ``fetch(enable_callbacks=True)``.

        Source: kombu.compat Consumer.process_next.
        """
        raise NotImplementedError('Use fetch(enable_callbacks=True)')

    def discard_all(self, filterfunc: Any = None) -> int:
        """Remove all messages that wait in the queue.

        Returns:
            int: how many there were.
        Switches: yes.
        Source: kombu.compat Consumer.discard_all.
        """
        if filterfunc is not None:
            raise NotImplementedError('discard_all does not implement filters')
        return self.purge()

    def iterconsume(self, limit: int | None = None, no_ack: bool | None = None) -> Iterator[Any]:
        """Consume, and give what each `drain_events` returned; messages go to the callbacks.

        Arguments:
            limit (int | None): end after that many events.
        Switches: yes.
        Source: kombu.compat Consumer.iterconsume.
        """
        return _iterconsume(self.connection, self, no_ack, limit)

    def wait(self, limit: int | None = None) -> list[Any]:
        """As `iterconsume`, to the end.

        Switches: yes.
        Source: kombu.compat Consumer.wait.
        """
        return list(self.iterconsume(limit))

    def iterqueue(self, limit: int | None = None, infinite: bool = False) -> Iterator[Any]:
        """Take messages one after the other.

        Arguments:
            limit (int | None): at most that many.
            infinite (bool): do not end when the queue is empty, but give None then.
        Switches: yes.
        Source: kombu.compat Consumer.iterqueue; differs: takes no message above the limit.
        """
        for _ in range(limit) if limit else count():
            item = self.fetch()
            if item is None:
                if not infinite:
                    return
                runtime.sleep(0)  # who asks without end must let the publishers run
            yield item


class ConsumerSet(messaging.Consumer):
    """A consumer of several queues, on a channel of its own.

    Arguments:
        connection (Connection): where that channel is opened, unless `channel` is given.
        from_dict (dict[str, dict]): options for `Queue.from_dict` by queue name.
        consumers (Iterable[Consumer]): take over their queues.
        **kwargs: for `messaging.Consumer`.
    Source: kombu.compat.ConsumerSet.
    """

    def __init__(
        self,
        connection: Any,
        from_dict: dict[str, dict[str, Any]] | None = None,
        consumers: Iterable[Any] | None = None,
        channel: Any = None,
        **kwargs: Any,
    ) -> None:
        self._provided_channel = bool(channel)
        self.backend = channel or connection.channel()
        queues = [queue for consumer in consumers or () for queue in consumer.queues]
        queues += [Queue.from_dict(name, **options) for name, options in (from_dict or {}).items()]
        super().__init__(self.backend, queues, **kwargs)

    def iterconsume(self, limit: int | None = None, no_ack: bool = False) -> Iterator[Any]:
        """Consume, and give what each `drain_events` returned; messages go to the callbacks.

        Switches: yes.
        Source: kombu ConsumerSet.iterconsume.
        """
        return _iterconsume(self.connection, self, no_ack, limit)

    def discard_all(self) -> int:
        """Remove all messages that wait in the queues.

        Switches: yes.
        Source: kombu ConsumerSet.discard_all.
        """
        return self.purge()

    def add_consumer_from_dict(self, queue: str, **options: Any) -> Any:
        """Add a queue, from options as for `Queue.from_dict`.

        Switches: yes.
        Source: kombu ConsumerSet.add_consumer_from_dict.
        """
        return self.add_queue(Queue.from_dict(queue, **options))

    def add_consumer(self, consumer: Any) -> None:
        """Take over the queues of another consumer.

        Switches: yes.
        Source: kombu ConsumerSet.add_consumer.
        """
        for queue in consumer.queues:
            self.add_queue(queue)

    def revive(self, channel: Any) -> None:
        """Move to another channel.

        Switches: yes.
        Source: kombu ConsumerSet.revive.
        """
        self.backend = channel
        super().revive(channel)

    def close(self) -> None:
        """Stop taking messages, and close the channel if it was opened here.

        Switches: yes.
        Source: kombu ConsumerSet.close.
        """
        self.cancel()
        if not self._provided_channel:
            self.backend.close()
