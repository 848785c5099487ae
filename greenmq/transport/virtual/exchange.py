"""What the types of exchange do with a message, for transports that route themselves.

A table is kombu's: a list of (routing_key, pattern, queue). The pattern is written for workers of kombu that
share a table with us (it is a regular expression); we match by word and never look at it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

from greenmq.core.routing import match_topic
from greenmq.utils.text import escape_regex

__all__ = (
    'STANDARD_EXCHANGE_TYPES', 'DirectExchange', 'ExchangeType', 'FanoutExchange', 'HeadersExchange',
    'TopicExchange',
)  # fmt: skip

Binding = tuple[str, Any, str]
Table = Iterable[Binding]


class Target(Protocol):
    """What a type of exchange asks of its channel, by kombu's names."""

    supports_fanout: bool

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        """Put a message into a queue."""

    def _put_fanout(self, exchange: str, message: Any, routing_key: str | None = None, **kwargs: Any) -> None:
        """Have the broker fan it out."""

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:
        """The queues that get a message."""

    def _lookup_headers(self, exchange: str, routing_key: str, headers: Any) -> Any:
        """The same, where the headers have a say."""


class ExchangeType:
    """One type of exchange, on one channel.

    Subclass it, and name the class in `Channel.exchange_types`, for a type of your own.

    Arguments:
        channel (Target): whose `_put` takes the messages.
    Source: kombu ExchangeType.
    """

    type: ClassVar[Any] = None

    def __init__(self, channel: Any) -> None:
        self.channel: Any = channel

    def lookup(self, table: Table, exchange: str, routing_key: str, default: Any) -> Any:
        """Return the queues of `table` that get a message with this key: any iterable; here a set in order.

        Raises:
            NotImplementedError: in this base.
        """
        raise NotImplementedError('subclass responsibility')

    def prepare_bind(self, queue: str, exchange: str, routing_key: str, arguments: Any) -> Binding:
        """Return the table's entry for a binding."""
        return routing_key, None, queue

    def deliver(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Put the message into every queue that it is routed to. Switches: as the channel's `_put`."""
        put = self.channel._put
        for queue in self.channel._lookup(exchange, routing_key):
            put(queue, message, **kwargs)

    def equivalent(
        self, prev: dict[str, Any], exchange: str, type: str, durable: bool, auto_delete: bool, arguments: Any
    ) -> bool:
        """Tell whether declaring `exchange` so again would change nothing."""
        return (
            type == prev['type']
            and bool(durable) == bool(prev['durable'])
            and bool(auto_delete) == bool(prev['auto_delete'])
            and (arguments or {}) == (prev['arguments'] or {})
        )


class DirectExchange(ExchangeType):
    """Queues bound with just this key.

    Source: AMQP 0-9-1, 3.1.3.1; kombu DirectExchange.
    """

    type = 'direct'

    def lookup(self, table: Table, exchange: str, routing_key: str, default: Any) -> Any:
        """Return the queues bound with the key, each once."""
        return dict.fromkeys(queue for rkey, _, queue in table if rkey == routing_key).keys()


class TopicExchange(ExchangeType):
    """Queues whose pattern matches the key by word: ``*`` is one word, ``#`` any number, none included.

    Source: AMQP 0-9-1, 3.1.3.3; kombu TopicExchange; differs: ``#`` matches no words too.
    """

    type = 'topic'
    #: What stands for the wildcards in the regular expressions that kombu's workers read.
    wildcards: ClassVar[dict[str, str]] = {'*': r'[^\.]+', '#': r'.*?'}

    def lookup(self, table: Table, exchange: str, routing_key: str, default: Any) -> Any:
        """Return the queues whose pattern matches, each once."""
        return dict.fromkeys(queue for rkey, _, queue in table if match_topic(rkey, routing_key)).keys()

    def prepare_bind(self, queue: str, exchange: str, routing_key: str, arguments: Any) -> Binding:
        """Return the table's entry with the regular expression of kombu."""
        return routing_key, self.key_to_pattern(routing_key), queue

    def key_to_pattern(self, rkey: str) -> str:
        """Return kombu's regular expression for a topic pattern."""
        words = [self.wildcards.get(word, escape_regex(word)) for word in rkey.split('.')]
        return '^' + r'\.'.join(words) + '$'


class FanoutExchange(ExchangeType):
    """All queues bound, whatever the key.

    Source: AMQP 0-9-1, 3.1.3.2; kombu FanoutExchange; differs: where the broker has no fanout of its own, the
    message is put into each bound queue instead of nowhere.
    """

    type = 'fanout'

    def lookup(self, table: Table, exchange: str, routing_key: str, default: Any) -> Any:
        """Return the queues bound, each once."""
        return dict.fromkeys(queue for _, _, queue in table).keys()

    def deliver(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Hand over to the channel's `_put_fanout` if the broker fans out itself. Switches: as that."""
        if self.channel.supports_fanout:
            self.channel._put_fanout(exchange, message, routing_key, **kwargs)
        else:
            super().deliver(message, exchange, routing_key, **kwargs)


class HeadersExchange(ExchangeType):
    """Queues whose binding arguments match the message's headers.

    Source: AMQP 0-9-1, 3.1.3.4 and RabbitMQ's `x-match`; kombu's virtual transports have none.
    """

    type = 'headers'

    def lookup(self, table: Table, exchange: str, routing_key: str, default: Any) -> Any:
        """Return no queue: without the headers nothing can be said; `deliver` asks with them."""
        return []

    def deliver(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Put the message into every queue whose arguments match. Switches: as the channel's `_put`."""
        put = self.channel._put
        for queue in self.channel._lookup_headers(exchange, routing_key, message.get('headers')):
            put(queue, message, **kwargs)


#: The types every virtual channel has.
STANDARD_EXCHANGE_TYPES: dict[str, type[ExchangeType]] = {
    'direct': DirectExchange,
    'topic': TopicExchange,
    'fanout': FanoutExchange,
    'headers': HeadersExchange,
}
