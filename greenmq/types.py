"""What a program may expect of a channel and of a future, and the keywords that `publish`, `Queue` and others
know: for type checkers, and for the error that names the nearest one.

A program that is typed names these, since each transport has classes of its own:

>>> from greenmq.types import Channel, Future
>>> def settle(channel: Channel, sent: Future) -> None:
...     sent.result(5)

Nothing here switches.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypedDict, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

    from greenmq import messaging
    from greenmq.connection import Connection
    from greenmq.entity import Exchange, Queue
    from greenmq.message import Message
    from greenmq.transport.virtual.state import queue_declare_ok_t
    from greenmq.utils.functional import ChannelPromise

__all__ = (
    'Callback', 'Channel', 'ChannelLike', 'ConsumerOptions', 'DrainOptions', 'ExchangeOptions',
    'Future', 'NoOptions', 'PoolOptions', 'ProducerOptions', 'Properties', 'PublishOptions',
    'QueueOptions', 'Queues', 'Received', 'SimpleOptions',
)  # fmt: skip

_ChannelT = TypeVar('_ChannelT', bound='Channel')

#: What stands for a channel wherever one is taken: for a connection its default channel.
ChannelLike: TypeAlias = 'Channel | Connection | ChannelPromise'
#: Called with (body, message).
Callback: TypeAlias = 'Callable[[Any, Message], Any]'
#: What a consumer takes from: a dictionary as for `Queue.from_dict`.
Queues: TypeAlias = 'Queue | dict[str, Any] | Iterable[Queue | dict[str, Any]]'


class Future(Protocol):
    """A value that comes later: what `Producer.publish_nowait` returns.

    Source: concurrent.futures.Future; differs: nothing can be cancelled.
    """

    def done(self) -> bool:
        """Tell whether there is a value or an error."""

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the value, at most `timeout` seconds; raise the error or TimeoutError.

        Switches: unless done.
        """

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait, and return the error that `result` would raise, or None. Switches: unless done."""

    def add_done_callback(self, callback: Callable[[Any], Any], /) -> None:
        """Have `callback(future)` called when it is done; at once if it is. It must not block."""


class Channel(Protocol):
    """What a channel of every transport can do. A transport may offer more, and take more keywords.

    How each method waits and what it raises is said in `greenmq.transport.pyamqp` and `.virtual`.

    Source: kombu StdChannel and virtual.Channel; AMQP 0-9-1.
    """

    @property
    def channel_id(self) -> Any:
        """Its number on the connection."""

    @property
    def connection(self) -> Any:
        """The transport's connection; its `client` is the Connection. None once the channel is closed."""

    @property
    def no_ack_consumers(self) -> set[str] | None:
        """Tags of consumers whose messages need no acknowledgement."""

    def Consumer(self, *args: Any, **kwargs: Any) -> messaging.Consumer:
        """A Consumer on this channel; takes what it takes after the channel."""

    def Producer(self, *args: Any, **kwargs: Any) -> messaging.Producer:
        """A Producer on this channel; takes what it takes after the channel."""

    def exchange_declare(
        self,
        exchange: str,
        type: str = ...,
        *,
        passive: bool = ...,
        durable: bool = ...,
        auto_delete: bool = ...,
        nowait: bool = ...,
        arguments: Mapping[str, Any] | None = ...,
    ) -> object:
        """Make an exchange, or with `passive` ask whether there is one."""

    def exchange_delete(self, exchange: str, if_unused: bool = ..., nowait: bool = ...) -> object:
        """Remove an exchange."""

    def exchange_bind(
        self,
        destination: str,
        source: str = ...,
        routing_key: str = ...,
        nowait: bool = ...,
        arguments: Mapping[str, Any] | None = ...,
    ) -> object:
        """Have an exchange send on to another one."""

    def exchange_unbind(
        self,
        destination: str,
        source: str = ...,
        routing_key: str = ...,
        nowait: bool = ...,
        arguments: Mapping[str, Any] | None = ...,
    ) -> object:
        """Take back what `exchange_bind` did."""

    def queue_declare(
        self,
        queue: str = ...,
        passive: bool = ...,
        *,
        durable: bool = ...,
        exclusive: bool = ...,
        auto_delete: bool = ...,
        nowait: bool = ...,
        arguments: Mapping[str, Any] | None = ...,
    ) -> queue_declare_ok_t | Any:
        """Make a queue, or ask for it (`passive`): (name, messages, consumers); None with `nowait`."""

    def queue_bind(
        self,
        queue: str,
        exchange: str = ...,
        routing_key: str = ...,
        *,
        nowait: bool = ...,
        arguments: Mapping[str, Any] | None = ...,
    ) -> object:
        """Have an exchange send to a queue."""

    def queue_unbind(
        self,
        queue: str,
        exchange: str,
        routing_key: str = ...,
        *,
        nowait: bool = ...,
        arguments: Mapping[str, Any] | None = ...,
    ) -> object:
        """Take back what `queue_bind` did."""

    def queue_delete(
        self, queue: str, if_unused: bool = ..., if_empty: bool = ..., *, nowait: bool = ...
    ) -> int | None:
        """Remove a queue; how many messages went with it."""

    def queue_purge(self, queue: str, *, nowait: bool = ...) -> int | None:
        """Remove what waits in a queue; how many messages that were."""

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        """Add options such as `expires` to the arguments of a queue, in the broker's names and units."""

    def prepare_message(
        self,
        body: Any,
        priority: int | None = ...,
        content_type: str | None = ...,
        content_encoding: str | None = ...,
        headers: dict[str, Any] | None = ...,
        properties: dict[str, Any] | None = ...,
    ) -> Any:
        """Make what `basic_publish` takes."""

    def basic_publish(
        self,
        message: Any,
        /,
        exchange: str,
        routing_key: str,
        *,
        mandatory: bool = ...,
        immediate: bool = ...,
    ) -> object:
        """Publish what `prepare_message` made."""

    def basic_get(self, queue: str, no_ack: bool = ...) -> Any:
        """Take one message, None if there is none."""

    def message_to_python(self, raw_message: Any) -> Message:
        """Make a Message of what `basic_get` and the callbacks of `basic_consume` were given."""

    def basic_consume(
        self,
        queue: str,
        *,
        no_ack: bool,
        callback: Callable[[Any], Any],
        consumer_tag: str,
        nowait: bool = ...,
        arguments: Mapping[str, Any] | None = ...,
        on_cancel: Callable[[str], Any] | None = ...,
    ) -> object:
        """Have messages of a queue come to `callback`, in whoever drains events."""

    def basic_cancel(self, consumer_tag: str) -> object:
        """End a consumer; messages in hand stay ours."""

    def basic_ack(self, delivery_tag: Any, multiple: bool = ...) -> bool | None:
        """Say that a message is dealt with (`multiple`: and all before); False if its connection was lost."""

    def basic_reject(self, delivery_tag: Any, requeue: bool = ...) -> bool | None:
        """Refuse a message; False if its connection was lost."""

    def basic_recover(self, requeue: bool = ...) -> object:
        """Have all messages in hand delivered again."""

    def basic_qos(
        self, prefetch_size: int = ..., prefetch_count: int = ..., *, apply_global: bool = ...
    ) -> object:
        """Limit how many messages may be in hand unacknowledged."""

    def after_reply_message_received(self, queue: str) -> object:
        """Called when a reply has come: the queue of replies may go."""

    def flow(self, active: bool) -> object:
        """Pause deliveries, or go on."""

    def close(self) -> object:
        """Give back what is unsettled, and close."""

    def __enter__(self: _ChannelT) -> _ChannelT: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> object: ...


class Received(TypedDict, total=False):
    """Properties that only transports set. Programs send those of a message on, as they are."""

    application_headers: Mapping[str, Any] | None
    body_encoding: str | None
    delivery_info: Mapping[str, Any] | None
    delivery_tag: Any
    expires_at: float | None


class Properties(Received, total=False):
    """What a message carries beside its body and headers, in `**properties` of `publish`.

    The first are AMQP's, the last are read by brokers in the cloud. Any other name is sent along too, where
    the transport can, but for one that is nearly one of these: that is taken for a misspelt one.
    """

    correlation_id: str | None
    reply_to: str | None
    message_id: str | None
    timestamp: datetime.datetime | float | None
    type: str | None
    user_id: str | None
    app_id: str | None
    cluster_id: str | None

    message_attributes: Mapping[str, Any] | None
    MessageGroupId: str | None
    MessageDeduplicationId: str | None
    DelaySeconds: float | None
    delay_seconds: float | None


class PublishOptions(Properties, total=False):
    """What passes through to `Producer.publish`."""

    delivery_mode: int | str | None
    mandatory: bool
    immediate: bool
    priority: int
    content_type: str | None
    content_encoding: str | None
    exchange: Exchange | str | None
    retry: bool
    retry_policy: Mapping[str, Any] | None
    declare: Iterable[Any] | None
    expiration: float | None
    timeout: float | None
    confirm_timeout: float | None


RECEIVED = frozenset(Received.__annotations__)
#: Every other keyword of `Producer.publish`.
PUBLISH_KEYWORDS = frozenset(PublishOptions.__annotations__) - RECEIVED | {
    'body', 'routing_key', 'serializer', 'headers', 'compression',
}  # fmt: skip


class QueueOptions(TypedDict, total=False):
    """What `Queue` takes by name; see there."""

    key: str | None
    queue_arguments: Mapping[str, Any] | None
    binding_arguments: Mapping[str, Any] | None
    consumer_arguments: Mapping[str, Any] | None
    durable: bool | None
    exclusive: bool | None
    auto_delete: bool | None
    no_ack: bool | None
    alias: str | None
    no_declare: bool | None
    expires: float | None
    message_ttl: float | None
    max_length: int | None
    max_length_bytes: int | None
    max_priority: int | None


class ExchangeOptions(TypedDict, total=False):
    """What `Exchange` takes by name; see there."""

    arguments: Mapping[str, Any] | None
    durable: bool | None
    passive: bool | None
    auto_delete: bool | None
    delivery_mode: int | str | None
    no_declare: bool | None


class ProducerOptions(TypedDict, total=False):
    """What `Connection.Producer` passes on to `Producer`."""

    exchange: Exchange | str | None
    routing_key: str | None
    serializer: str | None
    auto_declare: bool | None
    compression: str | None
    on_return: Callable[..., Any] | None


class ConsumerOptions(TypedDict, total=False):
    """What `Connection.Consumer` passes on to `Consumer`."""

    no_ack: bool | None
    auto_declare: bool | None
    callbacks: Iterable[Callback] | None
    on_decode_error: Callable[[Message, Exception], Any] | None
    on_message: Callable[[Message], Any] | None
    accept: Iterable[str] | None
    prefetch_count: int | None
    tag_prefix: str | None
    callback: Callback | Iterable[Callback] | None


class SimpleOptions(TypedDict, total=False):
    """What `Connection.SimpleQueue` and `SimpleBuffer` pass on."""

    serializer: str | None
    compression: str | None
    accept: Iterable[str] | None


class PoolOptions(TypedDict, total=False):
    """What `Connection.Pool` and `ChannelPool` pass on; see `Resource`."""

    preload: int | None
    close_after_fork: bool | None
    max_idle: float | None
    max_age: float | None


class NoOptions(TypedDict):
    """For what takes any keyword, since kombu's does, and reads none of them."""


class DrainOptions(TypedDict, total=False):
    """What `Connection.drain_events` takes."""

    timeout: float | None
    channel: Channel
