"""Producer: from a value to a message at the broker, by any number of greenlets at once. Public in
`greenmq.messaging`.

Nothing of one call is kept on the object. What it keeps is the channel, replaced as a whole by `revive`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from greenmq import events, runtime
from greenmq.abstract import maybe_channel
from greenmq.common import maybe_declare
from greenmq.compression import compress
from greenmq.connection import is_connection
from greenmq.entity import Exchange
from greenmq.exceptions import (
    ChannelError,
    ConnectionClosed,
    InvalidArgument,
    Unroutable,
    WouldBlock,
    WrongHub,
)
from greenmq.publishing.arguments import PublishArguments, checked_delivery_mode, name_reply_queue
from greenmq.publishing.backlog import Backlog
from greenmq.publishing.batch import DEFAULT_BATCH_SIZE, BatchState, ProducerBatch, can_batch
from greenmq.publishing.declaring import declare_in_time, forget_declared
from greenmq.publishing.later import blocks, later_of, sender
from greenmq.serialization import dumps, encoded
from greenmq.types import PUBLISH_KEYWORDS, RECEIVED
from greenmq.utils import validate
from greenmq.utils.functional import ChannelPromise

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

    from greenmq.connection import Connection
    from greenmq.types import Channel, ChannelLike, Future, Properties

__all__ = ('Producer',)

#: Seconds a publish may take, everything included; the transport option `publish_timeout` says otherwise.
PUBLISH_TIMEOUT = 30.0

#: Text of at most this many characters fits a short string in UTF-8 whatever they are.
_SURELY_SHORT = validate.SHORT_STRING_BYTES // 4

#: The broker says that an exchange or queue is not there, or not as it was declared.
_DECLARATION_LOST = (404, 406)

#: Replies to this name come over the channel that asked.
DIRECT_REPLY_TO = 'amq.rabbitmq.reply-to'

_ProducerT = TypeVar('_ProducerT', bound='Producer')

# Looked up once: these are called for every message.
_deadline_after = runtime.Deadline.after
_in_hub = runtime.in_hub
_publish_listeners = events.listeners('publish')
_new = tuple.__new__


class Producer:
    """Publishes messages, usually to one exchange.

    Arguments:
        channel (Channel | Connection): for a connection its default channel is opened by the first use.
        exchange (Exchange | str): where to publish unless `publish` says otherwise. A name alone is not
            declared.
        routing_key (str): default for `publish`.
        serializer (str): default for `publish`; None: the default of the process, json.
        auto_declare (bool): declare `exchange` before the first publish of each epoch. Default true.
        compression (str): default for `publish`.
        on_return (Callable): called with (error, exchange, routing_key, message) for a message published with
            `mandatory` that no queue took; without it that publish raises `Unroutable`.
    Example:
        >>> with Connection('memory://localhost/example') as connection:
        ...     producer = Producer(connection, serializer='json')
        ...     _ = producer.publish({'id': 1}, routing_key='orders', declare=[Queue('orders')], timeout=5)

    Source: kombu.messaging.Producer; differs: safe to share between greenlets; `exchange` may be a name.
    """

    exchange: Any = None
    routing_key: str = ''
    serializer: str | None = None
    compression: str | None = None
    auto_declare: bool = True
    on_return: Callable[..., Any] | None = None
    __connection__: Any = None

    def __init__(
        self,
        channel: ChannelLike | None,
        exchange: Exchange | str | None = None,
        routing_key: str | None = None,
        serializer: str | None = None,
        auto_declare: bool | None = None,
        compression: str | None = None,
        on_return: Callable[..., Any] | None = None,
    ) -> None:
        self._channel: Any = None
        self._batches: dict[Any, BatchState] = {}
        self._backlog: Backlog | None = None
        self.exchange = exchange if exchange is not None else self.exchange
        if self.exchange is None:
            self.exchange = Exchange('')
        elif isinstance(self.exchange, str):
            self.exchange = Exchange(self.exchange, no_declare=True)
        self.routing_key = routing_key or self.routing_key
        self.serializer = serializer or self.serializer
        self.compression = compression or self.compression
        self.on_return = on_return or self.on_return
        if auto_declare is not None:
            self.auto_declare = auto_declare
        if channel is not None:
            self.revive(channel)

    def __repr__(self) -> str:
        return f'<Producer: {self._channel!r}>'

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return None, self.exchange, self.routing_key, self.serializer, self.auto_declare, self.compression

    def declare(self) -> None:
        """Declare the exchange.

        Switches: yes.
        Source: kombu Producer.declare.
        """
        if self.exchange.name:
            self.exchange.declare()

    def maybe_declare(self, entity: Any, retry: bool = False, **retry_policy: Any) -> bool | None:
        """Declare an entity unless that was done in this epoch of the connection.

        Switches: yes if it has to be declared.
        Source: kombu Producer.maybe_declare.
        """
        if entity:
            return maybe_declare(entity, self.channel, retry, **retry_policy)
        return None

    def publish(
        self,
        body: Any,
        routing_key: str | None = None,
        delivery_mode: int | str | None = None,
        mandatory: bool = False,
        immediate: bool = False,
        priority: int = 0,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        headers: Mapping[str, Any] | None = None,
        compression: str | None = None,
        exchange: Exchange | str | None = None,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
        declare: Iterable[Any] | None = None,
        expiration: float | None = None,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        **properties: Unpack[Properties],
    ) -> object:
        """Publish a message. Nothing that is passed in is changed.

        Arguments:
            body (object): anything the serializer takes; with `content_type` a str or bytes that is sent as
                it is.
            routing_key (str): at most 255 bytes of UTF-8. Default: the producer's.
            delivery_mode (int | str): 1/'transient' or 2/'persistent'. Default: the exchange's, else
                persistent.
            mandatory (bool): the message must reach a queue.
            immediate (bool): it must reach a consumer (most brokers refuse this).
            priority (int): 0 to 255.
            content_type (str), content_encoding (str): of a body that is encoded already.
            serializer (str): by name. Default: the producer's.
            headers (dict[str, object]): sent along.
            compression (str): by name; '' for none. Default: the producer's.
            exchange (Exchange | str): Default: the producer's.
            retry (bool): try again after connection errors, within `timeout`.
            retry_policy (dict[str, object]): as for `Connection.ensure`; it holds for the first connect too.
            declare (Iterable[Exchange | Queue]): declared first, unless that was done in this epoch.
            expiration (float): seconds after which the broker may drop it.
            timeout (float): seconds, 0 or more, for all of it: connecting, declaring, sending, confirming.
                Default: the transport option `publish_timeout`, 30. inf: without limit.
            confirm_timeout (float): seconds, 0 or more; handed to the transport, for kombu's sake.
            **properties: further AMQP properties (correlation_id, reply_to, …).
        Returns:
            object: what the transport's channel returned.
        Raises:
            InvalidArgument: a value that can't be sent, before anything is.
            EncodeError: the body can't be serialized.
            WouldBlock: called in a hub callback; `publish_nowait` is for that.
            Unroutable: `mandatory`, and no queue took it (from the broker).
            PublishUnconfirmed: not confirmed in time. ConnectionBlocked: the broker takes nothing now.
            OperationalError: with `retry`: given up.
            WrongHub: in another native thread than the connection's, for what belongs to its channel: a
                transaction, a direct reply. All else goes over a connection that this thread gets for it.
        Switches: yes. Killed while waiting: the message is sent whole or not at all.
        Source: kombu Producer.publish; differs: one deadline for everything; declarations are remembered
            (P20).
        """
        if _in_hub():
            raise WouldBlock('publish')
        deadline = runtime.Deadline.of(timeout) if timeout is not None else self._default_deadline()
        if deadline.seconds is not None and deadline.seconds < 0:
            raise InvalidArgument('timeout', timeout, 'is negative, at least 0 needed')
        if confirm_timeout is not None:
            confirm_timeout = validate.at_least_zero('confirm_timeout', confirm_timeout)
        args = self._arguments(
            body, routing_key, delivery_mode, mandatory, immediate, priority, content_type, content_encoding,
            serializer, headers, compression, exchange, declare, expiration, properties, deadline,
            confirm_timeout,
        )  # fmt: skip
        policy = {**(retry_policy or {}), 'timeout': deadline} if retry else None
        later = later_of() if blocks else None
        if later is not None:
            later.make_room(deadline)
        try:
            result = self._publish(*args) if policy is None else self._send(args, policy, deadline)
        except WrongHub:
            other = self._of_this_thread(args.properties, deadline, policy)
            if other is None:
                raise
            result = other._send(args, policy, deadline)
        if later is not None:
            client = self.connection
            later.keep(result, args, client, partial(_again, client, args, policy) if policy else None)
        return result

    def _send(
        self, args: PublishArguments, policy: dict[str, Any] | None, deadline: runtime.Deadline
    ) -> Any:
        if policy is None:
            return self._publish(*args)
        client = self.__connection__
        if client is not None and (self._channel is None or self._channel.__class__ is ChannelPromise):
            # The caller's policy holds for the first connect as well: a limit counts in every phase (P17).
            client.wait_open(deadline, policy)
        connection = self.connection
        if getattr(connection, 'recovering', False) is True:
            # And for one that is known to be lost: a publish alone would wait for it up to its deadline.
            connection.wait_open(deadline, policy)
        return connection.ensure(self, self._publish, **policy)(*args)

    def _of_this_thread(
        self, properties: dict[str, Any], deadline: runtime.Deadline, policy: Mapping[str, Any] | None
    ) -> Producer | None:
        """This producer for another thread than its connection's, which refused it before anything was sent.

        None for what belongs to the very channel: a transaction, and who asks for a direct reply.
        """
        client: Any = self.__connection__
        if client is None:
            client = getattr(getattr(self._channel, 'connection', None), 'client', None)
        if (
            not hasattr(client, 'sibling')
            or getattr(self._channel, 'transactional', False)
            or properties.get('reply_to') == DIRECT_REPLY_TO
        ):
            return None
        sibling = client.sibling()
        sibling.wait_open(deadline, policy)
        other = copy.copy(self)
        other._batches, other._backlog, other.__connection__ = {}, None, sibling
        # Nobody drains that connection: what comes back is told by the publish itself.
        other.on_return = None
        other.revive(sibling.default_channel)
        other.on_return = self.on_return
        return other

    def publish_nowait(
        self,
        body: Any,
        routing_key: str | None = None,
        delivery_mode: int | str | None = None,
        mandatory: bool = False,
        immediate: bool = False,
        priority: int = 0,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        headers: Mapping[str, Any] | None = None,
        compression: str | None = None,
        exchange: Exchange | str | None = None,
        declare: Iterable[Any] | None = None,
        expiration: float | None = None,
        **properties: Unpack[Properties],
    ) -> Future:
        """Publish without waiting, in a hub callback too.

        Arguments:
            all: as for `publish`.
        Returns:
            runtime.Future: resolves when the broker has the message, or to the error. Messages keep their
            order.
        Raises:
            InvalidArgument, EncodeError: as `publish`.
            BufferFull: too many messages wait already.
        Switches: no. If the channel must be opened or something declared first, a task does that.
        """
        args = self._arguments(
            body, routing_key, delivery_mode, mandatory, immediate, priority, content_type, content_encoding,
            serializer, headers, compression, exchange, declare, expiration, properties,
            self._default_deadline(), None,
        )  # fmt: skip
        channel = self._channel
        send: Callable[..., Future] | None = getattr(channel, 'basic_publish_nowait', None)
        if (
            self._backlog
            or send is None
            or isinstance(channel, ChannelPromise)
            or self._undeclared(channel, args.declare)
        ):
            if self._backlog is None:
                self._backlog = Backlog(self._publish)
            return self._backlog.put(*args)
        message = channel.prepare_message(
            args.body, args.priority, args.content_type, args.content_encoding, args.headers, args.properties
        )
        name, key = args.exchange, args.routing_key
        if _publish_listeners:
            events.emit('publish', source=channel, exchange=name, routing_key=key, size=len(args.body))
        return send(message, exchange=name, routing_key=key, mandatory=mandatory, immediate=immediate)

    def _default_deadline(self) -> runtime.Deadline:
        client = self.__connection__
        if client is None:
            client = getattr(getattr(self._channel, 'connection', None), 'client', None)
        options = getattr(client, 'transport_options', None)
        if options and options.__class__ is dict and 'publish_timeout' in options:
            return runtime.Deadline.of(_seconds(options['publish_timeout']))
        return _deadline_after(PUBLISH_TIMEOUT)

    def _arguments(
        self, body: Any, routing_key: Any, delivery_mode: Any, mandatory: bool, immediate: bool,
        priority: Any, content_type: str | None, content_encoding: str | None, serializer: str | None,
        headers: Any, compression: str | None, exchange: Any, declare: Any, expiration: Any,
        properties: Any, deadline: Any, confirm_timeout: float | None,
    ) -> PublishArguments:  # fmt: skip
        """What `_publish` takes, checked: the one place where a caller's bad value is found."""
        default = self.exchange
        if properties and not PUBLISH_KEYWORDS.issuperset(properties):
            validate.keywords('publish()', properties, PUBLISH_KEYWORDS, RECEIVED)
        if exchange:
            if isinstance(exchange, Exchange):
                delivery_mode = delivery_mode or exchange.delivery_mode
                exchange = exchange.name
            elif not isinstance(exchange, str):
                raise InvalidArgument('exchange', exchange, 'is neither an Exchange nor a name')
            else:
                delivery_mode = delivery_mode or default.delivery_mode
            if len(exchange) > _SURELY_SHORT:
                validate.short_string('exchange', exchange)
        else:
            delivery_mode = delivery_mode or default.delivery_mode
            exchange = default.name
        properties['delivery_mode'] = checked_delivery_mode(delivery_mode) if delivery_mode else 2
        if 'reply_to' in properties:
            name_reply_queue(properties)
        if routing_key is None:
            routing_key = self.routing_key
        if routing_key.__class__ is not str or len(routing_key) > _SURELY_SHORT:
            validate.short_string('routing_key', routing_key)
        if priority:
            validate.priority(priority)
        if expiration is not None:
            properties['expiration'] = validate.expiration_ms(expiration)
        if headers:
            validate.headers(headers)
            headers = dict(headers)
        else:
            headers = {}
        if 'compression' in headers and not content_type:
            del headers['compression']  # how *this* body travels is told below
        if content_type:
            body, content_encoding = encoded(body, content_type, content_encoding)
        else:
            content_type, content_encoding, body = dumps(body, serializer=serializer or self.serializer)
        if compression is None:
            compression = self.compression
        if compression:
            body, headers['compression'] = compress(body, compression)
        if self.auto_declare and default.name:
            declare = [*declare, default] if declare and default not in declare else declare or (default,)
        # Made as a tuple is: a NamedTuple's own constructor is one more call for each message.
        return _new(PublishArguments, (
            body, priority, content_type, content_encoding, headers, properties, routing_key, mandatory,
            immediate, exchange, declare, deadline, confirm_timeout,
        ))  # fmt: skip

    def _publish(
        self, body: Any, priority: Any, content_type: str, content_encoding: str, headers: dict[str, Any],
        properties: dict[str, Any], routing_key: str, mandatory: bool, immediate: bool, exchange: str,
        declare: Any, deadline: Any, confirm_timeout: float | None, again: bool = False,
    ) -> Any:  # fmt: skip
        # Called again after a loss, then with another channel: the message is made for the one at hand.
        channel = self._channel
        if channel is None or channel.__class__ is ChannelPromise:
            client = self.__connection__
            if client is not None:
                # Opened by the promise alone, a broker that is away would hold us past our deadline
                # (P17, P21).
                client.wait_open(deadline)
            channel = self.channel
        message = channel.prepare_message(body, priority, content_type, content_encoding, headers, properties)
        if declare:
            connection = channel.connection
            # What `maybe_declare` would ask, without a call for each entity of each message.
            client = connection.client if connection is not None else None
            if client is None and connection is not None:
                raise ConnectionClosed(f'publish: {connection!r} was closed')
            declared = client.declared_entities if client is not None else ()
            for entity in declare:
                if hash(entity) not in declared:
                    declare_in_time(deadline, entity, channel)
        publish = channel.basic_publish
        if blocks and later_of() is not None:
            publish = sender(channel)
        if self._batches:
            state = self._batches.get(runtime.current())
            if state is not None:
                publish = state.publisher(channel)
        try:
            result = publish(
                message,
                exchange=exchange,
                routing_key=routing_key,
                mandatory=mandatory,
                immediate=immediate,
                timeout=deadline,
                confirm_timeout=confirm_timeout,
            )
        except Unroutable as exc:
            # Somebody may have deleted a queue that we remember as declared: declare once more, then believe
            # it (P20). The message is prepared anew: the channel has already put it into its own form.
            if declare and not again and forget_declared(channel, declare):
                return self._publish(
                    body, priority, content_type, content_encoding, headers, properties, routing_key,
                    mandatory, immediate, exchange, declare, deadline, confirm_timeout, True,
                )  # fmt: skip
            return self._returned(exc, channel)
        except ChannelError as exc:
            if getattr(exc, 'reply_code', None) in _DECLARATION_LOST:
                forget_declared(channel, declare, exchange)
            raise
        if _publish_listeners:
            events.emit('publish', source=channel, exchange=exchange, routing_key=routing_key, size=len(body))
        return result

    def _returned(self, exc: Unroutable, channel: Any) -> None:
        handlers = _return_handlers(channel)
        if handlers is None:  # a channel with such a table tells of it by itself
            events.emit(
                'returned', source=channel, exchange=exc.exchange, routing_key=exc.routing_key, error=exc
            )
        on_return = self.on_return
        if on_return is None:
            try:
                raise exc
            finally:
                del exc  # its traceback holds this frame: each would keep the other until the collector comes
        if handlers is None or on_return not in handlers:
            on_return(exc, exc.exchange, exc.routing_key, exc.message)

    def _undeclared(self, channel: Any, declare: Any) -> bool:
        if not declare:
            return False
        declared = channel.connection.client.declared_entities
        return any(hash(entity) not in declared for entity in declare)

    def batch(self, max_size: int = DEFAULT_BATCH_SIZE) -> ProducerBatch:
        """Collect what this greenlet publishes inside the `with` block and send it together.

        On a transport that cannot, each message is published at once. An exception that leaves the block, or
        one inside it, discards what was not sent yet; nothing more can be published in them then.

        Arguments:
            max_size (int): messages after which it is flushed by itself.
        Returns:
            ProducerBatch: a context manager with `flush()`.
        Raises:
            InvalidArgument: not a positive integer.
        Switches: no; the flush does.
        Source: kombu Producer.batch; differs: per greenlet, not per thread.
        """
        return ProducerBatch(self, self._batches, max_size)

    @property
    def supports_batch_publish(self) -> bool:
        """Whether the transport sends a batch together."""
        return can_batch(self.channel)

    @property
    def channel(self) -> Channel:
        """The channel to publish on. Opened now if it was only promised, and then this switches."""
        channel = self._channel
        if isinstance(channel, ChannelPromise):
            promise, channel = channel, channel()
            # Another greenlet may have revived us while the channel was opened: then its channel is the
            # newer one.
            if self._channel is promise:
                self._channel = channel
                self.exchange.revive(channel)
                self._listen_for_returns(channel)
        return channel  # type: ignore[no-any-return]

    @channel.setter
    def channel(self, channel: Channel | None) -> None:
        self._channel = channel

    def _listen_for_returns(self, channel: Any) -> None:
        if self.on_return is not None:
            handlers = _return_handlers(channel)
            if handlers is not None:
                handlers.add(self.on_return)

    def revive(self, channel: ChannelLike) -> None:
        """Use another channel from now on, for all greenlets that share this producer.

        Arguments:
            channel (Channel | Connection): for a connection its default channel is opened by the first use.
        Source: kombu Producer.revive.
        """
        if is_connection(channel):
            connection: Any = channel
            self.__connection__ = connection
            channel = ChannelPromise(lambda: connection.default_channel)
        if isinstance(channel, ChannelPromise):
            self._channel = channel
            self.exchange = self.exchange(channel)
        else:
            channel = maybe_channel(channel)
            self._channel = channel
            self.exchange = self.exchange(channel)
            self._listen_for_returns(channel)

    def __enter__(self: _ProducerT) -> _ProducerT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the producer back to the pool it came from, if any; a pool replaces this method.

        Source: kombu Producer.release.
        """

    close = release

    @property
    def connection(self) -> Connection | Any:
        """The Connection, None if the channel does not tell."""
        client = self.__connection__
        if client is None:
            client = getattr(getattr(self.channel, 'connection', None), 'client', None)
        return client


def _seconds(value: Any) -> float | None:
    return None if value is None else validate.at_least_zero('publish_timeout', value)


def _again(client: Any, args: PublishArguments, policy: dict[str, Any], deadline: runtime.Deadline) -> None:
    """Publish once more what went down after `publish` had returned."""
    args, policy = args._replace(deadline=deadline), {**policy, 'timeout': deadline}
    Producer(client)._send(args, policy, deadline)


def _return_handlers(channel: Any) -> Any:
    # Only channels in the manner of py-amqp have such a table: `events['basic_return']`, a set.
    table = getattr(channel, 'events', None)
    if not isinstance(table, dict):
        return None
    try:
        return table['basic_return']
    except KeyError:
        return None
