"""Exchange, Queue and binding: values that can be declared on a channel given to them.

They can be pickled, copied, compared and kept in configuration; a bound one acts on its channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from greenmq.abstract import Attributes, MaybeChannelBound, Object
from greenmq.exceptions import ContentDisallowed
from greenmq.exchange import (
    DELIVERY_MODES,
    INTERNAL_EXCHANGE_PREFIX,
    PERSISTENT_DELIVERY_MODE,
    TRANSIENT_DELIVERY_MODE,
    Exchange,
    binding,
    forget_declaration,
    frozen,
    maybe_delivery_mode,
    name_of,
    pretty_bindings,
)
from greenmq.message import settle_undecodable
from greenmq.serialization import prepare_accept_content
from greenmq.utils import validate

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from greenmq.message import Message
    from greenmq.transport.virtual.state import queue_declare_ok_t
    from greenmq.types import Channel, ChannelLike, QueueOptions

__all__ = (
    'DELIVERY_MODES', 'INTERNAL_EXCHANGE_PREFIX', 'PERSISTENT_DELIVERY_MODE', 'TRANSIENT_DELIVERY_MODE',
    'Exchange', 'MaybeChannelBound', 'Object', 'Queue', 'binding', 'maybe_delivery_mode', 'pretty_bindings',
)  # fmt: skip

#: What `Queue.from_dict` reads.
_FROM_DICT = frozenset({
    'exchange', 'exchange_type', 'exchange_durable', 'exchange_auto_delete', 'exchange_arguments',
    'delivery_mode', 'binding_key', 'routing_key', 'key', 'queue_durable', 'durable', 'queue_auto_delete',
    'auto_delete', 'exclusive', 'no_ack', 'queue_arguments', 'binding_arguments', 'consumer_arguments',
    'bindings', 'alias', 'no_declare', 'expires', 'message_ttl', 'max_length', 'max_length_bytes',
    'max_priority', 'on_declared',
})  # fmt: skip

#: Texts of so many characters are within 255 bytes of UTF-8, whatever they are.
_SURELY_SHORT = validate.SHORT_STRING_BYTES // 4


def _number(value: Any) -> Any:
    # What is no number is left as it is: the declaration says what is wrong with it, and whose it is.
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return value


def _whole(value: Any) -> Any:
    number = _number(value)
    return int(number) if isinstance(number, float) and number.is_integer() else value


_QueueT = TypeVar('_QueueT', bound='Queue')


class Queue(MaybeChannelBound):
    """A named queue and how it is bound.

    Arguments:
        name (str): empty: the broker invents one when it is declared.
        exchange (Exchange | str): what to bind to; or a binding, or several, as in `bindings`.
        routing_key (str): of that bind; `key` is another word for it.
        channel (Channel | Connection): bind to it at once.
        bindings (Iterable[binding]): several ways in; then `exchange` is None.
        on_declared (Callable): called with (name, messages, consumers) once the broker has the queue.
        durable (bool): survives a restart of the broker. Default true.
        exclusive (bool): for this connection only, and gone with it.
        auto_delete (bool): gone with its last consumer.
        no_ack (bool): consumers need not acknowledge.
        expires (float): seconds without use after which the broker removes it.
        message_ttl (float): seconds a message may wait in it.
        max_length (int), max_length_bytes (int): above that the oldest messages go.
        max_priority (int): 0 to 255; the broker keeps that many levels.
        queue_arguments, binding_arguments, consumer_arguments (dict[str, object]): the broker's extensions.
        alias (str): a name for programs; the broker does not see it.
        no_declare (bool): never declare it.
    Switches: yes if bound to a connection, see `maybe_bind`.
    Example:
        >>> errors = Queue('errors', Exchange('logs', type='topic'), routing_key='*.error', max_length=1000)
        >>> with Connection('memory://localhost/example') as connection:
        ...     errors(connection).declare()
        'errors'

    Source: kombu.entity.Queue; differs: `key`, and a single binding as `exchange`.
    """

    ContentDisallowed = ContentDisallowed

    name: str = ''
    exchange: Any = Exchange('')
    routing_key: str = ''
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    no_ack: bool = False

    attrs: Attributes = (
        ('name', None),
        ('exchange', None),
        ('routing_key', None),
        ('queue_arguments', None),
        ('binding_arguments', None),
        ('consumer_arguments', None),
        ('durable', bool),
        ('exclusive', bool),
        ('auto_delete', bool),
        ('no_ack', None),
        ('alias', None),
        ('bindings', list),
        ('no_declare', bool),
        ('expires', _number),
        ('message_ttl', _number),
        ('max_length', _whole),
        ('max_length_bytes', _whole),
        ('max_priority', _whole),
    )

    def __init__(
        self,
        name: str = '',
        exchange: Exchange | str | binding | Iterable[binding] | None = None,
        routing_key: str = '',
        channel: ChannelLike | None = None,
        bindings: Iterable[binding] | None = None,
        on_declared: Callable[[str, int, int], Any] | None = None,
        **kwargs: Unpack[QueueOptions],
    ) -> None:
        self.queue_arguments: dict[str, Any] | None = None
        self.binding_arguments: dict[str, Any] | None = None
        self.consumer_arguments: dict[str, Any] | None = None
        self.alias: str | None = None
        self.no_declare: bool | None = None
        self.expires: float | None = None
        self.message_ttl: float | None = None
        self.max_length: int | None = None
        self.max_length_bytes: int | None = None
        self.max_priority: int | None = None
        routing_key = routing_key or kwargs.pop('key', None) or self.routing_key
        super().__init__(name=name or self.name, routing_key=routing_key, **kwargs)
        self.on_declared = on_declared
        self._set_bindings(exchange, bindings)
        if self.exclusive:  # the broker removes it with the connection anyway
            self.auto_delete = True
        self.maybe_bind(channel)

    def _set_bindings(self, exchange: Any, bindings: Iterable[Any] | None) -> None:
        if isinstance(exchange, binding):
            exchange = [exchange]
        if isinstance(exchange, str):
            exchange = Exchange(exchange)
        if isinstance(exchange, (list, tuple, set, frozenset)):
            bindings = [*exchange, *(bindings or ())]
        #: A set, as in kombu: the order in which a queue is bound has no meaning.
        self.bindings: set[Any] = set(bindings or ())
        if self.bindings:
            self.exchange = None
        elif exchange is not None:
            self.exchange = exchange

    def __hash__(self) -> int:
        # All that says where its messages come from, and all of it takes part in ==. Declarations are
        # remembered by this: with the name alone, a second way into the same queue would never be bound.
        bindings, arguments = self.bindings, self.binding_arguments
        return hash((
            'Q', self.name, self.exchange, self.routing_key, frozen(arguments) if arguments else None,
            frozenset((str(each), frozen(each.arguments)) for each in bindings) if bindings else None,
        ))  # fmt: skip

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Queue):
            return NotImplemented
        return (
            self.name == other.name
            and self.exchange == other.exchange
            and self.routing_key == other.routing_key
            and self.queue_arguments == other.queue_arguments
            and self.binding_arguments == other.binding_arguments
            and self.consumer_arguments == other.consumer_arguments
            and self.durable == other.durable
            and self.exclusive == other.exclusive
            and self.auto_delete == other.auto_delete
        )

    def bind(self: _QueueT, channel: ChannelLike | None) -> _QueueT:
        """Give a copy bound to `channel`, with the same `on_declared`.

        Switches: yes for a connection whose default channel is not open yet.
        Source: kombu Queue.bind.
        """
        bound = super().bind(channel)
        bound.on_declared = self.on_declared
        return bound

    def when_bound(self) -> None:
        """Bind the exchange to the same channel.

        Source: kombu Queue.when_bound.
        """
        if self.exchange:
            self.exchange = self.exchange(self._channel)

    def declare(self, nowait: bool = False, channel: Channel | None = None) -> str:
        """Declare the exchange, then the queue, then bind one to the other.

        Arguments:
            nowait (bool): do not wait for the answers.
            channel (Channel): instead of the one it is bound to.
        Returns:
            str: the queue's name, the one that the broker invented if there was none.
        Raises:
            InvalidArgument: a name, limit or argument that no broker takes, before anything is sent.
            ChannelError: it exists with other properties (from the transport).
        Switches: yes.
        Source: kombu Queue.declare.
        """
        if not self.no_declare:
            self._check()
            channel = channel or self.channel
            if self.exchange:
                self.exchange.declare(channel=channel, nowait=nowait)
            self.queue_declare(nowait=nowait, passive=False, channel=channel)
            if self.exchange and self.exchange.name:
                self.queue_bind(nowait=nowait, channel=channel)
            for each in self.bindings:
                each.declare(channel, nowait=nowait)
                each.bind(self, nowait=nowait, channel=channel)
        return self.name

    def _check(self) -> None:
        owner = f'of queue {self.name!r}'
        validate.short_string('the name of a queue', self.name)
        validate.short_string(f'routing_key {owner}', self.routing_key)
        validate.queue_limits(
            owner,
            expires=self.expires,
            message_ttl=self.message_ttl,
            max_length=self.max_length,
            max_length_bytes=self.max_length_bytes,
            max_priority=self.max_priority,
        )
        if self.queue_arguments:
            validate.queue_arguments(owner, self.queue_arguments)

    def queue_declare(
        self, nowait: bool = False, passive: bool = False, channel: Channel | None = None
    ) -> queue_declare_ok_t | Any:
        """Declare the queue alone.

        Arguments:
            passive (bool): only ask whether it exists.
        Returns:
            tuple[str, int, int]: name, waiting messages, consumers; None with `nowait` on some transports.
        Raises:
            InvalidArgument: a name, limit or argument that no broker takes, before anything is sent.
        Switches: yes.
        Source: kombu Queue.queue_declare.
        """
        self._check()
        channel = channel or self.channel
        arguments = channel.prepare_queue_arguments(
            self.queue_arguments or {},
            expires=self.expires,
            message_ttl=self.message_ttl,
            max_length=self.max_length,
            max_length_bytes=self.max_length_bytes,
            max_priority=self.max_priority,
        )
        result = channel.queue_declare(
            queue=self.name,
            passive=passive,
            durable=self.durable,
            exclusive=self.exclusive,
            auto_delete=self.auto_delete,
            arguments=arguments,
            nowait=nowait,
        )
        if result and not self.name:
            self.name = result[0]
        if result and self.on_declared:
            self.on_declared(*result)
        return result

    def queue_bind(self, nowait: bool = False, channel: Channel | None = None) -> object:
        """Bind the queue to its exchange.

        Switches: yes.
        Source: kombu Queue.queue_bind.
        """
        return self.bind_to(
            self.exchange, self.routing_key, self.binding_arguments, nowait=nowait, channel=channel
        )

    def bind_to(
        self,
        exchange: Exchange | str = '',
        routing_key: str = '',
        arguments: dict[str, Any] | None = None,
        nowait: bool = False,
        channel: Channel | None = None,
    ) -> object:
        """Bind the queue to any exchange.

        Switches: yes.
        Source: kombu Queue.bind_to.
        """
        source = name_of(exchange)
        _check_binding(self.name, source, routing_key, arguments)
        return (channel or self.channel).queue_bind(
            queue=self.name,
            exchange=source,
            routing_key=routing_key,
            arguments=arguments,
            nowait=nowait,
        )

    def get(self, no_ack: bool | None = None, accept: Iterable[str] | None = None) -> Message | None:
        """Take one message, if there is one now.

        Arguments:
            no_ack (bool | None): it needs no acknowledgement; None: as the queue says.
            accept (Iterable[str] | None): content types or serializer names to decode; None: all that are
                enabled.
        Returns:
            Message | None: None for an empty queue.
        Raises:
            DecodeError: its body could not be decompressed. The message is ``error.message``; it is rejected
                where the queue has a dead-letter place, else not settled.
        Switches: yes.
        Source: kombu Queue.get.
        """
        channel = self.channel
        no_ack = self.no_ack if no_ack is None else no_ack
        name = self.name
        if name.__class__ is not str or len(name) > _SURELY_SHORT:
            validate.short_string('the name of a queue', name)
        message = channel.basic_get(queue=name, no_ack=no_ack)
        if message is None:
            return None
        to_python = getattr(channel, 'message_to_python', None)
        if to_python is not None:
            message = to_python(message)
        message.accept = prepare_accept_content(accept)
        if message.errors:
            exc = message.errors[0][1]
            exc.message = message
            settle_undecodable(message, exc, settled=bool(no_ack), keep=not message.unreadable)
            message.raise_error()
        return message  # type: ignore[no-any-return]

    def purge(self, nowait: bool = False) -> int:
        """Remove all messages that wait in the queue.

        Returns:
            int: how many there were; 0 with `nowait`.
        Switches: yes.
        Source: kombu Queue.purge.
        """
        validate.short_string('the name of a queue', self.name)
        return self.channel.queue_purge(queue=self.name, nowait=nowait) or 0

    def consume(
        self,
        consumer_tag: str = '',
        callback: Callable[[Any], Any] | None = None,
        no_ack: bool | None = None,
        nowait: bool = False,
        on_cancel: Callable[[str], Any] | None = None,
    ) -> object:
        """Start a consumer.

        Arguments:
            consumer_tag (str): unique on the channel; empty: the broker invents one.
            callback (Callable): called with each message, inside `drain_events`.
            no_ack (bool | None): None: as the queue says.
            on_cancel (Callable): called with the tag if the broker ends the consumer.
        Switches: yes.
        Source: kombu Queue.consume.
        """
        validate.short_string('the name of a queue', self.name)
        validate.names(consumer_tag=consumer_tag)
        if self.consumer_arguments:
            validate.headers(self.consumer_arguments, f'consumer_arguments of queue {self.name!r}')
        return self.channel.basic_consume(
            queue=self.name,
            no_ack=self.no_ack if no_ack is None else no_ack,
            consumer_tag=consumer_tag or '',
            callback=callback,  # type: ignore[arg-type]  # None: whoever drains gets nothing
            nowait=nowait,
            arguments=self.consumer_arguments,
            on_cancel=on_cancel,
        )

    def cancel(self, consumer_tag: str) -> object:
        """End a consumer; messages in hand stay ours.

        Switches: yes.
        Source: kombu Queue.cancel.
        """
        return self.channel.basic_cancel(consumer_tag)

    def delete(self, if_unused: bool = False, if_empty: bool = False, nowait: bool = False) -> int | None:
        """Remove the queue from the broker.

        Arguments:
            if_unused (bool): only without consumers.
            if_empty (bool): only without messages.
        Switches: yes.
        Source: kombu Queue.delete.
        """
        validate.short_string('the name of a queue', self.name)
        result = self.channel.queue_delete(
            queue=self.name, if_unused=if_unused, if_empty=if_empty, nowait=nowait
        )
        forget_declaration(self)
        return result

    def queue_unbind(
        self, arguments: dict[str, Any] | None = None, nowait: bool = False, channel: Channel | None = None
    ) -> object:
        """Unbind the queue from its exchange.

        Switches: yes.
        Source: kombu Queue.queue_unbind.
        """
        return self.unbind_from(self.exchange, self.routing_key, arguments, nowait, channel)

    def unbind_from(
        self,
        exchange: Exchange | str = '',
        routing_key: str = '',
        arguments: dict[str, Any] | None = None,
        nowait: bool = False,
        channel: Channel | None = None,
    ) -> object:
        """Unbind the queue from any exchange.

        Switches: yes.
        Source: kombu Queue.unbind_from.
        """
        source = name_of(exchange)
        _check_binding(self.name, source, routing_key, arguments)
        return (channel or self.channel).queue_unbind(
            queue=self.name,
            exchange=source,
            routing_key=routing_key,
            arguments=arguments,
            nowait=nowait,
        )

    def __repr__(self) -> str:
        if self.bindings:
            return self._repr_entity(f'Queue {self.name or repr("")} -> {pretty_bindings(self.bindings)}')
        return self._repr_entity(
            f'Queue {self.name or repr("")} -> {self.exchange!r} -> {self.routing_key or ""}'
        )

    @property
    def can_cache_declaration(self) -> bool:  # type: ignore[override]
        """False for a queue that the broker may remove by itself."""
        expires = self.expires is not None or 'x-expires' in (self.queue_arguments or ())
        return not expires and not self.auto_delete

    @classmethod
    def from_dict(cls, queue: str, **options: Any) -> Queue:
        """Make a queue from flat options, as configuration files have them.

        Arguments:
            queue (str): the name.
            **options: the arguments of `Queue`; `binding_key` for the routing key; `exchange` by name with
                `exchange_type`, `exchange_durable`, `exchange_auto_delete`, `exchange_arguments`,
                `delivery_mode`; `queue_durable`, `queue_auto_delete`. Plain `durable` and `auto_delete` mean
                both. Others are ignored, but for what is nearly one of these.
        Raises:
            InvalidArgument: a misspelt option, with the name that was meant.
        Source: kombu Queue.from_dict; differs: `exchange` may be an Exchange, `bindings` may be any iterable.
        """
        validate.keywords('Queue.from_dict()', options, _FROM_DICT)
        exchange = options.get('exchange')
        if not isinstance(exchange, Exchange):
            exchange = Exchange(
                exchange or '',
                type=options.get('exchange_type') or '',
                delivery_mode=options.get('delivery_mode'),
                durable=_first(options, 'exchange_durable', 'durable'),
                auto_delete=_first(options, 'exchange_auto_delete', 'auto_delete'),
                arguments=options.get('exchange_arguments'),
            )
        same = (
            'exclusive',
            'no_ack',
            'queue_arguments',
            'binding_arguments',
            'consumer_arguments',
            'bindings',
        )
        more = (
            'alias',
            'no_declare',
            'expires',
            'message_ttl',
            'max_length',
            'max_length_bytes',
            'max_priority',
        )
        return cls(
            queue,
            exchange=exchange,
            routing_key=_first(options, 'binding_key', 'routing_key', 'key'),
            durable=_first(options, 'queue_durable', 'durable'),
            auto_delete=_first(options, 'queue_auto_delete', 'auto_delete'),
            on_declared=options.get('on_declared'),
            **{name: options.get(name) for name in same + more},
        )

    def as_dict(self, recurse: bool = False) -> dict[str, Any]:
        """Give the fields by name; `bindings` as a list.

        Source: kombu Queue.as_dict.
        """
        fields = super().as_dict(recurse)
        if recurse:
            fields['bindings'] = [each.as_dict(recurse=True) for each in self.bindings]
        return fields


def _check_binding(name: Any, exchange: Any, routing_key: Any, arguments: Any) -> None:
    validate.names(queue=name, exchange=exchange, routing_key=routing_key)
    if arguments:
        validate.headers(arguments, f'the arguments of a binding of {name!r}')


def _first(options: Mapping[str, Any], *names: str) -> Any:
    return next((options[name] for name in names if options.get(name) is not None), None)
