"""What a transport must give: the contract that Connection, Producer and Consumer rely on.

A transport is a class with the methods of `Transport`; its channels have AMQP's methods (`queue_declare`,
`basic_publish` …) and those of `StdChannel`. `greenmq.transport.virtual` has all of it for brokers that only
know queues. What the layers above call beyond kombu's names:

* ``basic_publish(message, exchange, routing_key, mandatory=False, immediate=False, timeout=None, **kwargs)``:
  timeout is a `runtime.Deadline`, seconds, or None;
* ``basic_publish_nowait(message, exchange, routing_key, **kwargs)`` returns a `runtime.Future` and never
  waits;
* ``has_dead_letter(queue)``: would a rejected message of this queue be kept somewhere?

and, where the broker may have dead-letter places that no client sees, ``dead_letters_unseen = True``:
what cannot be decoded is rejected there, not acknowledged.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from greenmq import runtime
from greenmq.exceptions import (
    ChannelError,
    ConnectionError,
    ConnectionLost,
    RecoverableConnectionError,
    WrongHub,
)
from greenmq.message import Message
from greenmq.transport import eventloop
from greenmq.transport.drain import Drain
from greenmq.transport.options import Option
from greenmq.utils.functional import dictfilter
from greenmq.utils.objects import cached_property
from greenmq.utils.time import maybe_s_to_ms

if TYPE_CHECKING:
    from greenmq.messaging import Consumer, Producer

__all__ = ('Management', 'Message', 'StdChannel', 'Transport')

C = TypeVar('C')

#: Queue option of `entity.Queue` → (AMQP argument, conversion). Durations are given in seconds.
RABBITMQ_QUEUE_ARGUMENTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    'expires': ('x-expires', maybe_s_to_ms),
    'message_ttl': ('x-message-ttl', maybe_s_to_ms),
    'max_length': ('x-max-length', int),
    'max_length_bytes': ('x-max-length-bytes', int),
    'max_priority': ('x-max-priority', int),
}


def to_rabbitmq_queue_arguments(arguments: Mapping[str, Any] | None, **options: Any) -> dict[str, Any]:
    """Return queue arguments as RabbitMQ names them.

    Arguments:
        arguments (Mapping[str, object]): AMQP arguments that the user gave himself; never changed.
        expires (float): seconds that an unused queue lives.
        message_ttl (float): seconds that a message stays.
        max_length (int): messages.
        max_length_bytes (int): bytes of bodies.
        max_priority (int): highest priority, 1 to 255.
    Returns:
        dict[str, object]: `arguments` and what was given of the options, durations in whole milliseconds.
    Raises:
        KeyError: an option of another name.
    Source: kombu to_rabbitmq_queue_arguments; RabbitMQ "Queues, optional arguments".
    """
    prepared: dict[str, Any] = dict(arguments or {})
    for name, value in options.items():
        argument, convert = RABBITMQ_QUEUE_ARGUMENTS[name]
        if value is not None:
            prepared[argument] = convert(value)
    return dictfilter(prepared)


class Implements(dict):  # type: ignore[type-arg]
    """Capabilities by name, also as attributes.

    Source: kombu transport.base.Implements.
    """

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def extend(self, **kwargs: Any) -> Implements:
        """Return a copy with these capabilities changed."""
        return self.__class__(self, **kwargs)


default_transport_capabilities = Implements(
    asynchronous=False,
    exchange_type=frozenset(['direct', 'topic', 'fanout', 'headers']),
    heartbeats=False,
    batch_publish=False,
)


def _missing(obj: object, method: str) -> NotImplementedError:
    cls = type(obj)
    return NotImplementedError(f'Transport {cls.__module__}.{cls.__name__} does not implement {method}')


class StdChannel:
    """What every channel offers beside AMQP's methods.

    Source: kombu transport.base.StdChannel.
    """

    #: Tags of the consumers that don't acknowledge, or None if the channel doesn't keep them.
    no_ack_consumers: set[str] | None = None

    def Consumer(self, *args: Any, **kwargs: Any) -> Consumer:
        """Return a `greenmq.messaging.Consumer` on this channel. Switches: as its constructor."""
        from greenmq.messaging import Consumer

        channel: Any = self  # with the methods of AMQP that a transport adds
        return Consumer(channel, *args, **kwargs)

    def Producer(self, *args: Any, **kwargs: Any) -> Producer:
        """Return a `greenmq.messaging.Producer` on this channel. Switches: as its constructor."""
        from greenmq.messaging import Producer

        channel: Any = self
        return Producer(channel, *args, **kwargs)

    def get_bindings(self) -> Any:
        """Return the bindings the broker has, where it can tell.

        Raises:
            NotImplementedError: this transport can't.
        """
        raise _missing(self, 'get_bindings')

    def after_reply_message_received(self, queue: str) -> None:
        """Called when a reply was read from a queue that served for one reply only: the place to delete
        it.
        """

    def prepare_queue_arguments(self, arguments: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        """Return queue arguments as this broker understands them."""
        return arguments

    def has_dead_letter(self, queue: str) -> bool:
        """Tell whether a message rejected from `queue` would be kept somewhere; False if it isn't known.

        Source: greenmq's own: what decides whether an undecodable message is rejected or acknowledged (P40).
        """
        return False

    def publish_together(self) -> None:
        """Told to a channel that a pool leases: it may publish over what all leases of its connection share.

        An error over it must stay that of the one who caused it. Here: nothing is shared.
        Source: greenmq's own: one confirm of the broker for the publishes of many greenlets (P19, P22).
        """

    def consumes(self, consumer_tag: str) -> bool:
        """Tell whether messages may come for a consumer, as far as can be known without asking the broker.

        Source: greenmq's own: consuming is proved, not assumed (P25).
        """
        known = getattr(self, 'callbacks', None)
        return known is None or consumer_tag in known

    def within(self, deadline: Any) -> AbstractContextManager[None]:
        """Hold every call that this greenlet makes in the block to a deadline, where calls can wait at all.

        Source: greenmq's own: kombu's methods have no `timeout`, and a publish has one deadline (P17).
        """
        return nullcontext()

    def basic_publish_nowait(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Publish without waiting.

        Returns:
            runtime.Future: resolves when the broker has the message, or to the error.
        Source: greenmq's own. Here: for channels whose `basic_publish` doesn't wait.
        """
        future = runtime.Future()
        try:
            future.set_result(self.basic_publish(message, exchange, routing_key, **kwargs))  # type: ignore[attr-defined]
        except Exception as error:  # whoever asks the future gets it
            future.set_exception(error)
        return future

    def __enter__(self: C) -> C:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()  # type: ignore[attr-defined]


class Management:
    """Questions about the broker itself.

    Source: kombu transport.base.Management.
    """

    def __init__(self, transport: Any) -> None:
        self.transport = transport

    def get_bindings(self) -> Any:
        """Return all bindings of the broker.

        Raises:
            NotImplementedError: this transport can't tell.
        """
        raise _missing(self, 'get_bindings')


class _Recoverable:
    # The errors worth another try, of a transport that does not name them. One that names only what means
    # a broken connection or channel was written before kombu told them apart (and some of kombu's are): all
    # that can be done after any of these is to open it again.
    def __init__(
        self,
        ours: tuple[type[BaseException], ...],
        theirs: Callable[[Any], tuple[type[BaseException], ...]],
    ) -> None:
        self._ours = ours
        self._theirs = theirs

    def __get__(self, transport: Any, owner: type[Any]) -> tuple[type[BaseException], ...]:
        source = owner if transport is None else transport
        return self._theirs(source) if names_errors_only(source) else self._ours


def names_errors_only(transport: Any) -> bool:
    """Tell whether a transport names its errors, and not which of them a new connection helps against.

    Arguments:
        transport (Transport): or its class; written for kombu, it need not be below ours.
    """
    owner = transport if isinstance(transport, type) else type(transport)
    if not issubclass(owner, Transport):
        return not hasattr(transport, 'recoverable_connection_errors')
    if 'recoverable_connection_errors' in getattr(transport, '__dict__', ()):
        return False
    if next(c for c in owner.__mro__ if 'recoverable_connection_errors' in c.__dict__) is not Transport:
        return False
    return any(
        getattr(transport, name) is not Transport.__dict__[name]
        for name in ('connection_errors', 'channel_errors')
    )


class Transport:
    """One kind of broker, and the way to one of its servers.

    Arguments:
        client (Connection): whose host, credentials and `transport_options` are used.

    Source: kombu transport.base.Transport.
    """

    Management: ClassVar[Any] = Management

    #: Seconds of the first pause, how much longer each next one is, and of the longest, with which a daemon
    #: tries to reach the broker again.
    recovery_pauses: Any = (2.0, 2.0, 30.0)

    #: The Connection this transport serves.
    client: Any = None
    #: True if the transport takes whole URLs (`hostname` then is one).
    can_parse_url: ClassVar[bool] = False
    default_port: Any = None
    #: What means that the connection is broken.
    connection_errors: tuple[type[BaseException], ...] = (ConnectionError,)
    #: What means that the channel is broken.
    channel_errors: tuple[type[BaseException], ...] = (ChannelError,)
    #: Connection errors after which a new connection may work.
    recoverable_connection_errors: Any = _Recoverable(
        (RecoverableConnectionError, OSError, socket.timeout),
        lambda transport: (*transport.connection_errors, *transport.channel_errors),
    )
    #: Channel errors after which a new channel may work.
    recoverable_channel_errors: Any = _Recoverable((), lambda transport: ())
    driver_type = 'N/A'
    driver_name = 'N/A'
    #: Capabilities.
    implements: Any = default_transport_capabilities.extend()
    #: Does `drain_events` take a `channel`, for a greenlet that serves this one alone? Then the connection
    #: has a `drain_waiting` too, for the greenlets that help it.
    drains_channels: Any = False
    #: The transport options of this class beyond those of its bases; see `transport.options`.
    options: ClassVar[dict[str, Option]] = {}
    #: The table above is no list of what a subclass knows: one that has none may read any option.
    generic_options: ClassVar[bool] = True

    def __init__(self, client: Any, **kwargs: Any) -> None:
        self.client = client

    def establish_connection(self) -> Any:
        """Open the connection and return what the other methods take as `connection`.

        Switches: as documented there.
        """
        raise _missing(self, 'establish_connection')

    def close_connection(self, connection: Any) -> None:
        """Close the connection and all its channels."""
        raise _missing(self, 'close_connection')

    def create_channel(self, connection: Any) -> Any:
        """Open a channel."""
        raise _missing(self, 'create_channel')

    def close_channel(self, connection: Any) -> None:
        """Close a channel."""
        raise _missing(self, 'close_channel')

    def drain_events(self, connection: Any, **kwargs: Any) -> Any:
        """Handle one event in this greenlet; see `transport.drain`."""
        raise _missing(self, 'drain_events')

    def heartbeat_check(self, connection: Any, rate: int = 2) -> None:
        """Do nothing: heartbeats go by themselves (P10)."""

    def driver_version(self) -> str:
        """Return the version of the driver."""
        return 'N/A'

    def get_heartbeat_interval(self, connection: Any) -> float:
        """Return the seconds between heartbeats, 0 for none."""
        return 0

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have an event loop of kombu's kind handle what arrives, in its rounds; it is woken for that.

        An error of the connection, or of a callback, comes out of the loop's `run_once`. A connection that is
        closed is let go.
        """
        eventloop.register(self, connection, loop)

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        """Undo `register_with_event_loop`."""
        eventloop.unregister(connection, loop)

    def waiting_events(self, connection: Any) -> Drain[Any]:
        """Return the events of the connection that wait for a callback."""
        raise _missing(self, 'waiting_events')

    def verify_connection(self, connection: Any) -> bool:
        """Tell whether the connection works."""
        return True

    def ping(self, connection: Any, deadline: Any) -> None:
        """Have the broker answer, and change nothing. Here: for brokers that need no asking.

        Arguments:
            deadline (runtime.Deadline): for the answer.
        Raises:
            ConnectionLost: the connection is not open.
            TimeoutError: no answer in time.
        Switches: if there is a broker to ask.
        """
        if not self.verify_connection(connection):
            raise ConnectionLost(f'{connection!r} is not open')

    def move_here(self, connection: Any) -> None:
        """Have the connection belong to the calling native thread from now on, as it would come back after a
        loss: with its channels, and what they consume. Here: for transports that can't.

        Raises:
            WrongHub: a greenlet of the other thread waits on it, or that thread does not let go.
        Switches: only to wait for a thread that is in its loop.
        """
        raise WrongHub(repr(connection))

    def qos_semantics_matches_spec(self, connection: Any) -> bool:
        """Tell whether `basic_qos(apply_global=False)` counts per consumer, as the specification says."""
        return True

    def on_readable(self, connection: Any, loop: Any) -> None:
        """Handle what has arrived: for programs with an event loop of their own."""
        connection.drain_events(timeout=0)

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """What a connection uses where the URL says nothing."""
        return {}

    def get_manager(self, *args: Any, **kwargs: Any) -> Any:
        """Return a management object."""
        return self.Management(self)

    @cached_property
    def manager(self) -> Any:
        """The management object of this transport."""
        return self.get_manager()

    @property
    def supports_heartbeats(self) -> bool:
        """Must the application call `heartbeat_check`? Never (P10)."""
        return bool(self.implements.heartbeats)

    @property
    def supports_ev(self) -> bool:
        """Can it be driven by kombu's own event loop?"""
        return bool(self.implements.asynchronous)

    def as_uri(self, uri: str, include_password: bool = False, mask: str = '**') -> str:
        """Return the URL in a form that may be shown, for transports that parse URLs themselves."""
        raise NotImplementedError()
