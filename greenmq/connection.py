"""URL and options become a transport: one connection, its default channel, and trying again when it is lost.

Any number of greenlets may use one Connection. What they share:

* an *epoch*, how often the connection was opened: whoever meets an error compares the epoch before and
  after, so a loss is handled once and nobody closes the connection that a neighbour has just opened anew;
* a *dial* (`connecting.attempt.SharedAttempt`), one for all who need the connection at the same moment.

A connection belongs to the hub of the thread that opened it, until it is closed. A forked child starts
without one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle as roundrobin_failover
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from greenmq import runtime
from greenmq.abstract import maybe_channel
from greenmq.connecting.address import failover_strategies, resolve_aliases
from greenmq.connecting.opening import Opening
from greenmq.connecting.retrying import AutoRetry, Ensured, LibraryErrors, Policy
from greenmq.exceptions import ConnectionLost, OperationalError
from greenmq.log import get_logger
from greenmq.pooling.connections import ChannelPool, ConnectionPool, is_closed
from greenmq.pooling.lease import Lease
from greenmq.resource import Resource
from greenmq.utils.url import ssl_available

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

    from greenmq.entity import Queue
    from greenmq.messaging import Consumer, Producer
    from greenmq.simple import SimpleBuffer, SimpleQueue
    from greenmq.types import (
        Channel,
        ChannelLike,
        ConsumerOptions,
        DrainOptions,
        PoolOptions,
        ProducerOptions,
        Queues,
        SimpleOptions,
    )

__all__ = (
    'BrokerConnection', 'ChannelPool', 'Connection', 'ConnectionPool', 'PooledConnection', 'Resource',
    'failover_strategies', 'is_connection', 'maybe_channel', 'resolve_aliases', 'roundrobin_failover',
    'ssl_available',
)  # fmt: skip

logger = get_logger('greenmq.connection')

P = ParamSpec('P')
T = TypeVar('T')
SelfT = TypeVar('SelfT', bound='Connection')
PooledT = TypeVar('PooledT', bound='PooledConnection')

RETRY_TIMEOUT = 30.0  # seconds: what an implicit connect (default_channel) tries at most after a loss

_RETRY_OPTIONS = ('max_retries', 'interval_start', 'interval_step', 'interval_max', 'errback', 'callback')


class Connection(Opening):
    """A connection to a broker, opened when it is first needed, shared by any number of greenlets.

    Arguments:
        hostname (str | Sequence[str]): a URL, several in a list or after each other with ``;``, or a host
            name. What its query names is a parameter of this list (``?heartbeat=10``) or a transport option.
        userid, password, virtual_host, port: used where the URL says nothing.
        insist (bool): kept for old programs; does nothing.
        ssl (bool | dict): TLS, with its options.
        transport (str | type): used if the URL has no scheme; 'amqp' if not given.
        connect_timeout (float): seconds for one attempt: DNS, TCP, TLS and handshake together.
        transport_options (dict): copied, converted to their types and never changed.
        login_method (str): SASL mechanism.
        heartbeat (float): seconds; None takes the broker's proposal, 0 disables. Beats are sent without any
            call.
        failover_strategy (str | Callable[[list[str]], Iterator[str]]): which host is next: 'round-robin',
            'shuffle', or a function that makes an endless iterator.
        alternates (Sequence[str]): more URLs to try.
        credential_provider: asked for user and password by transports that can.
    Raises:
        InvalidArgument: a port, number or strategy that is none; an option of the wrong type.
        UnknownOption: with ``strict_options=True`` in transport_options.
    Source: kombu.connection.Connection; differs: `heartbeat` defaults to None, `connect()` returns the
        Connection.
    """

    # --------------------------------------------------------------------------------------- trying again

    def ensure(
        self,
        obj: Any,
        fun: Callable[P, T],
        errback: Callable[[BaseException, float], Any] | None = None,
        max_retries: int | None = None,
        interval_start: float = 1,
        interval_step: float = 1,
        interval_max: float = 1,
        on_revive: Callable[[Any], Any] | None = None,
        retry_errors: tuple[type[BaseException], ...] | None = None,
        timeout: runtime.Deadline | float | None = None,
    ) -> Callable[P, T]:
        """Make a function that repeats `fun` when the connection or a channel fails.

        After a loss the connection is opened again, once for all greenlets that need it, and
        ``obj.revive(channel)`` is called. A connection that still works is never closed: others use it.

        Arguments:
            obj: what to revive; e.g. a Producer.
            fun: what to call.
            errback: called as ``errback(error, seconds until the next try)``.
            max_retries (int): how often to try again; None: for ever (within `timeout`), 0: never.
            interval_start, interval_step, interval_max (float): seconds between tries. The first is at once.
            on_revive: called with the new channel.
            retry_errors (tuple[type, ...]): more errors that are worth a try.
            timeout (float): seconds for all tries of one call; None: no limit.
        Returns:
            Callable: takes what `fun` takes. It raises OperationalError when it gave up, with the
                transport's error as the cause, and passes ConnectionClosed and what a retry can't help.
        Switches: the function does.
        Source: kombu Connection.ensure; differs: `timeout`, and repeated failures are paced.
        """
        policy = Policy(
            errback, max_retries, interval_start, interval_step, interval_max, on_revive,
            tuple(retry_errors or ()),
        )  # fmt: skip
        return Ensured(self, obj, fun, policy, timeout)

    def autoretry(
        self, fun: Callable[..., Any], channel: Any = None, **ensure_options: Any
    ) -> Callable[..., Any]:
        """Make a function that calls ``fun(*args, channel=channel, **kwargs)`` with a live channel, trying
        again.

        Arguments:
            channel: the first one to use; None: the default channel.
            ensure_options: as for `ensure`; they hold for the first connect too.
        Returns:
            Callable: returns (what `fun` returned, the channel it was called with last).
        Switches: the function does.
        Source: kombu Connection.autoretry.
        """
        retried = AutoRetry(self, fun, channel, ensure_options)
        return self.ensure(retried, retried, **ensure_options)

    def _reraise_as_library_errors(
        self,
        ConnectionError: type[Exception] = OperationalError,
        ChannelError: type[Exception] = OperationalError,
    ) -> LibraryErrors:
        return LibraryErrors(self, ConnectionError, ChannelError)

    def _channel_for(self, obj: Any, deadline: runtime.Deadline) -> Any:
        """The channel to revive `obj` with, now that the connection is open again."""
        if getattr(self._transport, 'keeps_channels', False):
            kept = getattr(obj, 'channel', None)
            if kept is not None and not callable(kept):
                return kept
        return self._open_default_channel(deadline)

    # ------------------------------------------------------------------------------------------ channels

    def channel(self) -> Channel:
        """Open a new channel.

        Returns:
            Channel: the transport's; close it when done.
        Raises:
            ConnectionClosed: the connection was closed and not opened again.
        Switches: yes.
        Source: kombu Connection.channel.
        """
        connection = self._live()
        return self.transport.create_channel(connection)  # type: ignore[no-any-return]

    @property
    def default_channel(self) -> Channel:
        """The channel that is used where a connection is given instead of one; opened when first asked for.

        Raises:
            OperationalError: no broker could be reached; see `wait_open`.
        Switches: yes, if it must be opened.
        Source: kombu Connection.default_channel.
        """
        channel = self._default_channel
        if channel is not None and self.connected and not is_closed(channel):
            self._check_hub()
            return channel  # type: ignore[no-any-return]
        return self._open_default_channel(None)

    def _owns(self, channel: Any) -> bool:
        """False if `channel` is of an earlier connection."""
        parent = getattr(channel, 'connection', None)
        return parent is None or parent in (self._connection, self._transport)

    def _open_default_channel(self, deadline: runtime.Deadline | None) -> Channel:
        self.wait_open(deadline)
        if self._default_channel is None or is_closed(self._default_channel):
            opened = self.channel()
            if self._default_channel is None or is_closed(self._default_channel):
                self._default_channel = opened
            else:
                self.maybe_close_channel(opened)  # another greenlet was faster
        return self._default_channel  # type: ignore[no-any-return]

    def wait_open(
        self,
        deadline: runtime.Deadline | float | None = None,
        policy: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the connection, trying again: what each implicit use of it does.

        How often and how long, say `policy` and below it the transport options of the same names:
        max_retries, interval_start, interval_step, interval_max, errback, callback. One that was not open
        before is given up when all hosts were tried and connect_retries_timeout (a transport option; default:
        `connect_timeout`) has passed: a wrong address is told in seconds. One that was lost is worth waiting
        for: 30 seconds, or connect_retries_timeout.

        Arguments:
            deadline (Deadline | float): when to stop at the latest.
            policy (Mapping[str, object]): the retry policy of the caller, as for `ensure`.
        Raises:
            OperationalError: not within the deadline or the retries.
        Switches: yes, unless it is open.
        """
        if self.connected:
            self._enter()
            return
        options = self.transport_options
        given = {**options, **(policy or {})}
        retries = {name: given[name] for name in _RETRY_OPTIONS if given.get(name) is not None}
        patience = options.get('connect_retries_timeout')
        if self._connection is None and not self._lost:
            patience = self.connect_timeout if patience is None else patience
            first = runtime.Deadline.after(patience or None)
        else:
            first = runtime.NEVER
        if deadline is None and first is runtime.NEVER:
            deadline = runtime.Deadline.after(RETRY_TIMEOUT if patience is None else patience)
        self._ensure_connection(**retries, timeout=deadline, patience=first)

    def maybe_close_channel(self, channel: Channel) -> None:
        """Close a channel; errors of a channel or connection that is gone are no errors then.

        Switches: yes.
        Source: kombu Connection.maybe_close_channel.
        """
        try:
            channel.close()
        except (*self.connection_errors, *self.channel_errors) as exc:
            logger.debug('closing %r: %r', channel, exc)

    def revive(self, new_channel: Channel) -> None:
        """Let go of the default channel unless it is `new_channel`; the next use opens one.

        Switches: yes.
        Source: kombu Connection.revive.
        """
        old = self._default_channel
        if old is not None and old is not new_channel:
            self._default_channel = None
            self.maybe_close_channel(old)

    def drain_events(self, **kwargs: Unpack[DrainOptions]) -> object:
        """Handle one event of the broker in this greenlet; or return when another greenlet has handled one.

        Arguments:
            timeout (float): seconds; None waits for ever.
        Raises:
            TimeoutError: nothing came.
            ConnectionLost: the connection was lost (not opened again: nothing would be consumed on the new
                one).
            ConnectionClosed: somebody closed it, now or before.
        Switches: yes.
        Source: kombu Connection.drain_events.
        """
        connection = self._connection
        if connection is None or self._closed:
            connection = self._live()
        else:
            self._check_hub()
        return self._transport.drain_events(connection, **kwargs)

    def ping(self, timeout: float = 5.0) -> float:
        """Have the broker answer, on the open connection; that changes nothing.

        Arguments:
            timeout (float): seconds to wait for the answer.
        Returns:
            float: seconds it took.
        Raises:
            ConnectionLost: the connection is not open.
            TimeoutError: no answer in time.
        Switches: yes.
        """
        if self._connection is None or self._closed:
            raise ConnectionLost(f'{self!r} is not open')
        self._check_hub()
        started = runtime.monotonic()
        self._transport.ping(self._connection, runtime.Deadline.after(timeout))
        return runtime.monotonic() - started

    def __enter__(self: SelfT) -> SelfT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    # ----------------------------------------------------------------------------------------- transport

    @property
    def connection_errors(self) -> tuple[type[BaseException], ...]:
        """What the transport raises when a connection fails."""
        return self.transport.connection_errors

    @property
    def channel_errors(self) -> tuple[type[BaseException], ...]:
        """What the transport raises when a channel fails."""
        return self.transport.channel_errors

    @property
    def recoverable_connection_errors(self) -> tuple[type[BaseException], ...]:
        """The connection errors after which opening it again helps."""
        transport = self.transport
        found = getattr(transport, 'recoverable_connection_errors', None)
        # a transport written before kombu told them apart: opening it again is all that can be done
        return transport.connection_errors + transport.channel_errors if found is None else found

    @property
    def recoverable_channel_errors(self) -> tuple[type[BaseException], ...]:
        """The channel errors after which the connection is as good as before."""
        return getattr(self.transport, 'recoverable_channel_errors', ())

    @property
    def supports_heartbeats(self) -> bool:
        """True if the application must call `heartbeat_check`."""
        return bool(self.transport.implements.heartbeats)

    @property
    def is_evented(self) -> bool:
        """True if the transport can be registered with an event loop."""
        return bool(self.transport.implements.asynchronous)

    @property
    def qos_semantics_matches_spec(self) -> bool:
        """True if prefetch counts are meant as AMQP 0-9-1 has them. Opened if need be: the broker tells."""
        return bool(self.transport.qos_semantics_matches_spec(self.connection))

    def supports_exchange_type(self, exchange_type: str) -> bool:
        """True if exchanges of that type can be declared.

        Source: kombu Connection.supports_exchange_type.
        """
        return exchange_type in self.transport.implements.exchange_type

    def get_heartbeat_interval(self) -> float:
        """Seconds between heartbeats as agreed with the broker; 0 for none.

        Switches: yes, if it must be opened.
        Source: kombu Connection.get_heartbeat_interval.
        """
        return self.transport.get_heartbeat_interval(self.connection)

    def heartbeat_check(self, rate: int = 2) -> object:
        """Kept for kombu programs: heartbeats are sent by the transport itself.

        Source: kombu Connection.heartbeat_check; differs: never opens the connection.
        """
        if self._connection is None:
            return None
        return self._transport.heartbeat_check(self._connection, rate=rate)

    def register_with_event_loop(self, loop: Any) -> None:
        """Have an event loop of kombu's kind handle the connection's events, in each of its rounds.

        Source: kombu Connection.register_with_event_loop.
        """
        self.transport.register_with_event_loop(self.connection, loop)

    @property
    def manager(self) -> Any:
        """What the transport offers to look at the broker; not every one does."""
        return self.transport.manager

    def get_manager(self, *args: Any, **kwargs: Any) -> Any:
        """As `manager`, with arguments.

        Source: kombu Connection.get_manager.
        """
        return self.transport.get_manager(*args, **kwargs)

    # ------------------------------------------------------------------------------- what stands on one

    def Pool(self, limit: int | None = None, **kwargs: Unpack[PoolOptions]) -> ConnectionPool:
        """A pool of connections like this one.

        Arguments:
            limit (int): how many at most; None: no limit.
            preload (int): how many to make at once.
        Source: kombu Connection.Pool.
        """
        return ConnectionPool(self, limit, **kwargs)

    def ChannelPool(self, limit: int | None = None, **kwargs: Unpack[PoolOptions]) -> ChannelPool:
        """A pool of channels of this connection.

        Arguments:
            limit (int): how many at most; None: no limit.
            preload (int): how many to open at once.
        Source: kombu Connection.ChannelPool.
        """
        return ChannelPool(self, limit, **kwargs)

    def _pooled(self, pool: ConnectionPool) -> PooledConnection:
        return PooledConnection(pool, **self._info(resolve=False))

    def Producer(
        self, channel: ChannelLike | None = None, *args: Any, **kwargs: Unpack[ProducerOptions]
    ) -> Producer:
        """A Producer on `channel`, or on the default channel.

        Source: kombu Connection.Producer.
        """
        from greenmq.messaging import Producer

        return Producer(channel or self, *args, **kwargs)

    def Consumer(
        self,
        queues: Queues | None = None,
        channel: ChannelLike | None = None,
        *args: Any,
        **kwargs: Unpack[ConsumerOptions],
    ) -> Consumer:
        """A Consumer on `channel`, or on the default channel.

        Raises:
            WrongHub: a greenlet of another native thread waits on this connection.
        Source: kombu Connection.Consumer.
        """
        from greenmq.messaging import Consumer

        self._check_hub()
        return Consumer(channel or self, queues, *args, **kwargs)

    def SimpleQueue(
        self,
        name: str | Queue,
        no_ack: bool | None = None,
        queue_opts: dict[str, Any] | None = None,
        queue_args: dict[str, Any] | None = None,
        exchange_opts: dict[str, Any] | None = None,
        channel: ChannelLike | None = None,
        **kwargs: Unpack[SimpleOptions],
    ) -> SimpleQueue:
        """A queue with put and get, durable; `name` is a name or a Queue.

        Source: kombu Connection.SimpleQueue.
        """
        from greenmq.simple import SimpleQueue

        return SimpleQueue(channel or self, name, no_ack, queue_opts, queue_args, exchange_opts, **kwargs)

    def SimpleBuffer(
        self,
        name: str | Queue,
        no_ack: bool | None = None,
        queue_opts: dict[str, Any] | None = None,
        queue_args: dict[str, Any] | None = None,
        exchange_opts: dict[str, Any] | None = None,
        channel: ChannelLike | None = None,
        **kwargs: Unpack[SimpleOptions],
    ) -> SimpleBuffer:
        """As `SimpleQueue`, but nothing of it survives a restart of the broker.

        Source: kombu Connection.SimpleBuffer.
        """
        from greenmq.simple import SimpleBuffer

        return SimpleBuffer(channel or self, name, no_ack, queue_opts, queue_args, exchange_opts, **kwargs)


class PooledConnection(Connection):
    """A Connection of a pool: `release()` and the end of a ``with`` give it back there.

    Arguments:
        pool (ConnectionPool): where it belongs.
        kwargs: as for Connection.
    Source: kombu.connection.PooledConnection.
    """

    def __init__(self, pool: ConnectionPool, **kwargs: Any) -> None:
        self._pool = pool
        # Which lease a task entered with: when it leaves, this object may long have been leased to another
        # one.
        self._entered: dict[Any, Lease] = {}
        super().__init__(**kwargs)

    def _plain_class(self) -> type[Connection]:
        return Connection

    def __enter__(self: PooledT) -> PooledT:
        lease: Any = self.release
        if isinstance(lease, Lease):
            task = runtime.current()
            self._entered[task] = lease
            if not lease.held_by(task):
                lease.taken()  # another task passed it on
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        lease = self._entered.pop(runtime.current(), None)
        if lease is None:
            self.release()
        elif exc is None:
            lease()
        else:
            lease.discard()


def is_connection(obj: Any) -> bool:
    """True for a Connection.

    Source: kombu.connection.is_connection.
    """
    return isinstance(obj, Connection)


BrokerConnection = Connection
