"""Exchange and binding: where messages are sent to, and the ways from there. Public as `greenmq.entity`'s."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from greenmq.abstract import Attributes, MaybeChannelBound, Object
from greenmq.exceptions import InvalidArgument
from greenmq.utils import validate

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from greenmq.types import Channel, ChannelLike, ExchangeOptions

__all__ = ('Exchange', 'binding', 'maybe_delivery_mode')

TRANSIENT_DELIVERY_MODE = 1
PERSISTENT_DELIVERY_MODE = TRANSIENT_DELIVERY_MODE + 1

DELIVERY_MODES = {'transient': TRANSIENT_DELIVERY_MODE, 'persistent': PERSISTENT_DELIVERY_MODE}

#: Exchanges that the broker makes itself and lets nobody declare.
INTERNAL_EXCHANGE_PREFIX = ('amq.',)


def maybe_delivery_mode(
    v: int | str | None,
    modes: Mapping[str, int] | None = None,
    default: int | None = PERSISTENT_DELIVERY_MODE,
) -> Any:
    """Give the number of a delivery mode.

    Arguments:
        v (int | str | None): a number, 'transient', 'persistent', or something false for the default.
        modes (dict[str, int]): the known names.
        default (int | None): for no mode at all.
    Returns:
        int: 1 transient, 2 persistent; a number is given back as it is.
    Raises:
        KeyError: an unknown name.
    Source: kombu.entity.maybe_delivery_mode.
    """
    if v:
        return v if isinstance(v, int) else (DELIVERY_MODES if modes is None else modes)[v]
    return default


def pretty_bindings(bindings: Iterable[Any]) -> str:
    """Give bindings as the text ``[exchange->key, …]``.

    Source: kombu.entity.pretty_bindings.
    """
    return f'[{", ".join(map(str, bindings))}]'


def _known_mode(mode: int | str) -> int | str:
    # An unknown name is kept: whether it means something is asked when a message is published.
    return DELIVERY_MODES.get(mode, mode) if isinstance(mode, str) else mode


def name_of(exchange: Exchange | str) -> str:
    """Give an exchange's name, from the exchange or from the name itself."""
    return exchange.name if isinstance(exchange, Exchange) else exchange


def forget_declaration(entity: MaybeChannelBound) -> None:
    """Make the next `maybe_declare` of a deleted entity ask the broker again, in the same epoch too (P20)."""
    client = getattr(getattr(entity.channel, 'connection', None), 'client', None)
    declared = getattr(client, 'declared_entities', None)
    if declared:
        declared.discard(hash(entity))


class Exchange(MaybeChannelBound):
    """A named router of messages.

    Arguments:
        name (str): empty for the broker's default exchange, which routes by queue name.
        type (str): 'direct', 'topic', 'fanout', 'headers', or what the broker adds.
        channel (Channel | Connection): bind to it at once.
        durable (bool): survives a restart of the broker. Default true.
        auto_delete (bool): goes when its last binding goes.
        delivery_mode (int | str): for messages published to it: 1/'transient' or 2/'persistent' (the
            default).
        arguments (dict[str, object]): the broker's extensions.
        passive (bool): declaring only asks whether it exists.
        no_declare (bool): never declare it.
    Switches: yes if bound to a connection, see `maybe_bind`.
    Example:
        >>> logs = Exchange('logs', type='topic', durable=False)
        >>> with Connection('memory://localhost/example') as connection:
        ...     logs(connection).declare()

    Source: kombu.entity.Exchange.
    """

    TRANSIENT_DELIVERY_MODE = TRANSIENT_DELIVERY_MODE
    PERSISTENT_DELIVERY_MODE = PERSISTENT_DELIVERY_MODE

    name: str = ''
    type: str = 'direct'
    arguments: dict[str, Any] | None
    durable: bool = True
    auto_delete: bool = False
    passive: bool = False
    delivery_mode: Any = None
    no_declare: bool = False

    attrs: Attributes = (
        ('name', None),
        ('type', None),
        ('arguments', None),
        ('durable', bool),
        ('passive', bool),
        ('auto_delete', bool),
        ('delivery_mode', _known_mode),
        ('no_declare', bool),
    )

    def __init__(
        self,
        name: str = '',
        type: str = '',
        channel: ChannelLike | None = None,
        **kwargs: Unpack[ExchangeOptions],
    ) -> None:
        super().__init__(name=name or self.name, type=type or self.type, **kwargs)
        self.maybe_bind(channel)

    def __hash__(self) -> int:
        # Asked for each published message, to see whether the exchange was declared; a str keeps its hash.
        # Turned over, so that it is no other entity's entry in the table of declarations.
        return ~hash(self.name)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Exchange):
            return NotImplemented
        return (
            self.name == other.name
            and self.type == other.type
            and self.arguments == other.arguments
            and self.durable == other.durable
            and self.auto_delete == other.auto_delete
            and self.delivery_mode == other.delivery_mode
        )

    def declare(
        self, nowait: bool = False, passive: bool | None = None, channel: Channel | None = None
    ) -> object:
        """Make the exchange at the broker, unless it is the default one or one of the broker's own.

        Arguments:
            nowait (bool): do not wait for the answer (then errors close the channel later).
            passive (bool | None): only ask whether it exists; None: as the exchange says.
            channel (Channel): instead of the one it is bound to.
        Raises:
            NotBoundError: no channel.
            ChannelError: it exists with other properties, or its type is unknown (from the transport).
        Switches: yes.
        Source: kombu Exchange.declare.
        """
        if not self._can_declare():
            return None
        self._check()
        return (channel or self.channel).exchange_declare(
            exchange=self.name,
            type=self.type,
            durable=self.durable,
            auto_delete=self.auto_delete,
            arguments=self.arguments,
            nowait=nowait,
            passive=self.passive if passive is None else passive,
        )

    def _can_declare(self) -> bool:
        return bool(not self.no_declare and self.name and not self.name.startswith(INTERNAL_EXCHANGE_PREFIX))

    def _check(self) -> None:
        validate.short_string('the name of an exchange', self.name)
        if not isinstance(self.type, str) or not self.type:
            raise InvalidArgument(
                f'the type of exchange {self.name!r}', self.type, 'is not the name of a type'
            )
        validate.short_string(f'the type of exchange {self.name!r}', self.type)
        if self.arguments:
            validate.headers(self.arguments, f'the arguments of exchange {self.name!r}')

    def _check_binding(self, source: str, routing_key: Any, arguments: Any) -> None:
        validate.names(destination=self.name, source=source, routing_key=routing_key)
        if arguments:
            validate.headers(arguments, f'the arguments of a binding of exchange {self.name!r}')

    def bind_to(
        self,
        exchange: Exchange | str = '',
        routing_key: str = '',
        arguments: dict[str, Any] | None = None,
        nowait: bool = False,
        channel: Channel | None = None,
        **kwargs: Any,
    ) -> object:
        """Bind this exchange to another one, so that it gets messages from there.

        Arguments:
            exchange (Exchange | str): the source.
        Switches: yes.
        Source: kombu Exchange.bind_to; RabbitMQ exchange-to-exchange bindings.
        """
        source = name_of(exchange)
        self._check_binding(source, routing_key, arguments)
        return (channel or self.channel).exchange_bind(
            destination=self.name,
            source=source,
            routing_key=routing_key,
            nowait=nowait,
            arguments=arguments,
        )

    def unbind_from(
        self,
        source: Exchange | str = '',
        routing_key: str = '',
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        channel: Channel | None = None,
    ) -> object:
        """Take back what `bind_to` did.

        Switches: yes.
        Source: kombu Exchange.unbind_from.
        """
        name = name_of(source)
        self._check_binding(name, routing_key, arguments)
        return (channel or self.channel).exchange_unbind(
            destination=self.name,
            source=name,
            routing_key=routing_key,
            nowait=nowait,
            arguments=arguments,
        )

    def binding(
        self,
        routing_key: str = '',
        arguments: dict[str, Any] | None = None,
        unbind_arguments: dict[str, Any] | None = None,
    ) -> binding:
        """Give a binding of this exchange, for `Queue(bindings=…)`.

        Source: kombu Exchange.binding.
        """
        return binding(self, routing_key, arguments, unbind_arguments)

    def Message(
        self,
        body: Any,
        delivery_mode: int | str | None = None,
        properties: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Make a message for `publish`, in the form of this channel's transport.

        Arguments:
            body (str | bytes): sent as it is.
            delivery_mode (int | str): default: the exchange's, else persistent.
            properties (dict[str, object]): further AMQP properties. Not changed.
            **kwargs: `priority`, `content_type`, `content_encoding`, `headers`.
        Source: kombu Exchange.Message; differs: the caller's `properties` stay as they are.
        """
        mode = maybe_delivery_mode(delivery_mode or self.delivery_mode)
        if kwargs.get('content_encoding') is None:
            if isinstance(body, str):
                kwargs['content_encoding'] = 'utf-8'
            elif isinstance(body, (bytes, bytearray, memoryview)) and not kwargs.get('content_type'):
                # Read as they were written: without a word they would be taken for text.
                kwargs['content_type'], kwargs['content_encoding'] = 'application/data', 'binary'
        return self.channel.prepare_message(
            body, properties={**(properties or {}), 'delivery_mode': mode}, **kwargs
        )

    def publish(
        self,
        message: Any,
        routing_key: str | None = None,
        mandatory: bool = False,
        immediate: bool = False,
        exchange: Exchange | str | None = None,
    ) -> object:
        """Publish a text, bytes, or what `Message` made.

        Arguments:
            exchange (Exchange | str): publish to that one instead.
        Raises:
            Unroutable: `mandatory` and no queue took it.
        Switches: yes.
        Source: kombu Exchange.publish.
        """
        if isinstance(message, (str, bytes)):
            message = self.Message(message)
        return self.channel.basic_publish(
            message,
            exchange=name_of(exchange or self.name),
            routing_key=routing_key or '',
            mandatory=mandatory,
            immediate=immediate,
        )

    def delete(self, if_unused: bool = False, nowait: bool = False) -> object:
        """Remove the exchange from the broker.

        Arguments:
            if_unused (bool): only if nothing is bound to it.
        Switches: yes.
        Source: kombu Exchange.delete.
        """
        validate.short_string('the name of an exchange', self.name)
        result = self.channel.exchange_delete(exchange=self.name, if_unused=if_unused, nowait=nowait)
        forget_declaration(self)
        return result

    @property
    def can_cache_declaration(self) -> bool:  # type: ignore[override]
        """False for an exchange that the broker may remove by itself."""
        return not self.auto_delete

    def __repr__(self) -> str:
        return self._repr_entity(str(self))

    def __str__(self) -> str:
        return f'Exchange {self.name or repr("")}({self.type})'


def frozen(arguments: Mapping[str, Any] | None) -> object:
    """Arguments of a binding as something with a hash: the same for the same arguments in any order."""
    if not arguments:
        return None
    return frozenset((name, _hashable(value)) for name, value in arguments.items())


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value


class binding(Object):
    """One way from an exchange to a queue or another exchange.

    Arguments:
        exchange (Exchange | str): where messages come from.
        routing_key (str): what they must have, as the exchange's type understands it.
        arguments (dict[str, object]): of the bind, e.g. what a headers exchange matches.
        unbind_arguments (dict[str, object]): of the unbind.
    Example:
        >>> logs = Exchange('logs', type='topic')
        >>> ways = [binding(logs, routing_key='*.error'), binding(logs, routing_key='disk.#')]
        >>> alerts = Queue('alerts', ways)
        >>> len(alerts.bindings)
        2

    Source: kombu.entity.binding.
    """

    attrs: Attributes = (
        ('exchange', None),
        ('routing_key', None),
        ('arguments', None),
        ('unbind_arguments', None),
    )

    def __init__(
        self,
        exchange: Exchange | str | None = None,
        routing_key: str = '',
        arguments: dict[str, Any] | None = None,
        unbind_arguments: dict[str, Any] | None = None,
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.arguments = arguments
        self.unbind_arguments = unbind_arguments

    def declare(self, channel: Channel, nowait: bool = False) -> None:
        """Declare the exchange, if there is one that can be.

        Switches: yes.
        Source: kombu binding.declare.
        """
        # A name alone does not say of which type the exchange should be: it has to exist.
        if isinstance(self.exchange, Exchange):
            self.exchange.declare(channel=channel, nowait=nowait)

    def bind(self, entity: Any, nowait: bool = False, channel: Channel | None = None) -> None:
        """Bind `entity` to the exchange.

        Switches: yes.
        Source: kombu binding.bind.
        """
        entity.bind_to(
            exchange=self.exchange or '',
            routing_key=self.routing_key,
            arguments=self.arguments,
            channel=channel,
            nowait=nowait,
        )

    def unbind(self, entity: Any, nowait: bool = False, channel: Channel | None = None) -> None:
        """Unbind `entity` from the exchange.

        Switches: yes.
        Source: kombu binding.unbind.
        """
        entity.unbind_from(
            self.exchange or '',
            routing_key=self.routing_key,
            arguments=self.unbind_arguments,
            nowait=nowait,
            channel=channel,
        )

    def __repr__(self) -> str:
        return f'<binding: {self}>'

    def __str__(self) -> str:
        return f'{name_of(self.exchange or "")}->{self.routing_key}'
