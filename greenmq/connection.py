"""URL and options become a transport: one connection, its default channel, and trying again when it is lost.

Any number of greenlets may use one Connection. What they share:

* an *epoch*, how often the connection was opened: whoever meets an error compares the epoch before and
  after, so a loss is handled once and nobody closes the connection that a neighbour has just opened anew;
* a *dial* (`connecting.attempt.SharedAttempt`), one for all who need the connection at the same moment.

A connection belongs to the hub of the thread that opened it, until it is closed. A forked child starts
without one.

>>> options = {'publish_timeout': 5}
>>> with Connection('memory://localhost/example', transport_options=options) as connection:
...     connection.connect().connected
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle as roundrobin_failover
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from greenmq import runtime
from greenmq.abstract import maybe_channel
from greenmq.connecting.address import (
    Address,
    converted,
    failover_strategies,
    host_cycle,
    host_of,
    resolve_aliases,
    settings_of,
    split_hosts,
    uri_of,
    warn_unknown,
)
from greenmq.connecting.opening import CLOSE_TIMEOUT, Opener
from greenmq.connecting.retrying import AutoRetry, Ensured, LibraryErrors, Policy
from greenmq.exceptions import ConnectionLost, IrrecoverableChannelError, OperationalError
from greenmq.log import get_logger
from greenmq.pooling.connections import ChannelPool, ConnectionPool, is_closed
from greenmq.pooling.lease import Lease
from greenmq.resource import Resource
from greenmq.transport import get_transport_cls
from greenmq.utils.collections import HashedSeq
from greenmq.utils.objects import alias
from greenmq.utils.url import ssl_available

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from greenmq.entity import Queue
    from greenmq.messaging import Consumer, Producer
    from greenmq.simple import SimpleBuffer, SimpleQueue
    from greenmq.transport.base import Transport
    from greenmq.types import (
        Channel,
        ChannelLike,
        ConsumerOptions,
        DrainOptions,
        NoOptions,
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


class Connection:
    """A connection to a broker, opened when it is first needed, shared by any number of greenlets.

    Arguments:
        hostname (str | Sequence[str]): a URL, several in a list or after each other with ``;``, or a host
            name. What its query names is a parameter of this list (``?heartbeat=10``) or a transport option.
        userid, password, virtual_host, port: used where the URL says nothing.
        insist (bool): kept for old programs; does nothing.
        ssl (bool | dict): TLS, with its options.
        transport (str | type): used if the URL has no scheme; 'amqp' if not given.
        connect_timeout (float): seconds for one attempt: DNS, TCP, TLS and handshake together. The transport
            option of this name comes first.
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

    #: `ensure_connection` makes the pauses that the transport makes between its own tries to recover, unless
    #: it is told others: for daemons, which shall be back when the broker is.
    paced_by_transport = False
    failover_strategies = failover_strategies
    resolve_aliases = resolve_aliases

    # What it is made of: where it may go, and what is open there.
    address: Address
    opener: Opener

    transport_cls: Any = 'amqp'
    hostname: str | None = None
    userid: str | None = None
    password: str | None = None
    virtual_host: str | None = '/'
    port: int | None = None
    ssl: Any = None
    login_method: str | None = None
    uri_prefix: str | None = None
    connect_timeout: float | None = 5
    heartbeat: float | None = None
    transport_options: dict[str, Any] = None  # type: ignore[assignment]
    failover_strategy: Any = 'round-robin'
    strategy_given: Any = 'round-robin'
    #: What was declared on this connection since it was opened; empty again when it is opened anew.
    declared_entities: set[Any] = None  # type: ignore[assignment]
    #: Endless iterator of the next URL to try; None if there is only one.
    cycle: Iterator[str] | None = None
    #: What a copy is made of, if it isn't the class.
    plain_class: type[Any] | None = None
    _eqhash: tuple[Any, HashedSeq] | None = None

    epoch: Any = alias('opener', 'epoch', doc='How often it was opened; recoveries count, by `begin_epoch`.')
    connect_deadline: Any = alias(
        'opener', 'connect_deadline', doc='Of the attempt under way, for a transport that establishes it.')
    # kombu's names, for programs that look there.
    _connection: Any = alias('opener', 'connection')
    _transport: Any = alias('opener', 'transport')
    _default_channel: Any = alias('opener', 'default_channel')
    _closed: Any = alias('opener', 'closed')
    _ensure_connection: Any = alias('opener', 'ensure')

    def __init__(
        self, hostname: str | Sequence[str] | None = 'localhost', userid: str | None = None,
        password: str | None = None, virtual_host: str | None = None, port: int | None = None,
        insist: bool = False, ssl: Any = False, transport: Any = None, connect_timeout: float | None = 5,
        transport_options: Mapping[str, Any] | None = None, login_method: str | None = None,
        uri_prefix: str | None = None, heartbeat: float | None = None,
        failover_strategy: Any = 'round-robin', alternates: Sequence[str] | None = None,
        credential_provider: Any = None, **kwargs: Unpack[NoOptions],
    ) -> None:  # fmt: skip
        given: dict[str, Any] = {
            'hostname': 'localhost',
            'userid': userid,
            'password': password,
            'virtual_host': virtual_host,
            'port': port,
            'ssl': ssl,
            'transport_cls': transport,
            'connect_timeout': connect_timeout,
            'login_method': login_method,
            'uri_prefix': uri_prefix,
            'heartbeat': heartbeat,
            'failover_strategy': failover_strategy or 'round-robin',
        }
        self.insist = insist
        self.credential_provider = credential_provider
        self.declared_entities = set()
        #: What is being declared now, done once for all greenlets that want it.
        self._declaring = runtime.Once((IrrecoverableChannelError,))
        self.opener = Opener(self)
        warn_unknown(kwargs, given)
        hosts = split_hosts(hostname) or ['localhost']
        self.address = Address(given, transport_options or {}, hosts, alternates)
        self.alt = self.address.alternates
        self._apply(hosts[0])
        self.cycle = host_cycle(self.address.hosts, self.failover_strategy)

    def _apply(self, text: str) -> None:
        for name, value in self.address.parameters(text).items():
            setattr(self, name, value)
        self.transport_options = converted(self, self.transport_options)

    # ------------------------------------------------------------------------------------------- where to

    def next_host(self) -> None:
        """Turn to the next host of the failover strategy, if there is one: for transports that recover.

        Switches: no; nothing is opened or closed.
        """
        if self.cycle is not None:
            self.opener.misses += 1
            self._apply(next(self.cycle))

    def completes_cycle(self, retries: int) -> bool:
        """True if the attempt number `retries`, counted from 0, was the last of a round over all hosts.

        Source: kombu Connection.completes_cycle.
        """
        return not (retries + 1) % len(self.address.hosts)

    def info(self) -> dict[str, Any]:
        """The parameters of this connection, with the transport's defaults; password included.

        Source: kombu Connection.info.
        """
        return settings_of(self)

    def as_uri(
        self, include_password: bool = False, mask: str = '**',
        getfields: Callable[[Any], tuple[Any, ...]] = itemgetter(
            'port', 'userid', 'password', 'virtual_host', 'transport'
        ),
    ) -> str:  # fmt: skip
        """The connection as a URL; the password is masked unless asked for.

        Source: kombu Connection.as_uri.
        """
        return uri_of(self, include_password, mask, getfields)

    @property
    def host(self) -> str:
        """Host name and port with a colon between."""
        return host_of(self)

    def clone(self, **kwargs: Any) -> Any:
        """A Connection with the same settings but those given, not opened.

        Source: kombu Connection.clone.
        """
        cls = self.plain_class or type(self)
        return cls(**{**settings_of(self, resolve=False), **kwargs})

    def __copy__(self) -> Any:
        return self.clone()

    def __reduce__(self) -> tuple[Any, ...]:
        return self.plain_class or type(self), tuple(settings_of(self, resolve=False).values()), None

    def __eqhash__(self) -> HashedSeq:
        # Asked by each ``producers[connection]`` of each request: made again only if something was changed.
        options = self.transport_options
        parts = (
            self.transport_cls, self.hostname, self.userid, self.password, self.virtual_host, self.port,
            repr(options) if options else '{}',
        )  # fmt: skip
        made = self._eqhash
        if made is None or made[0] != parts:
            made = self._eqhash = parts, HashedSeq(*parts)
        return made[1]

    def __repr__(self) -> str:
        return f'<Connection: {self.as_uri()} at {id(self):#x}>'

    def get_transport_cls(self) -> type[Transport]:
        """The transport's class.

        Raises:
            KeyError: no such transport.
            ImportError: its driver is not installed.
        Source: kombu Connection.get_transport_cls.
        """
        return get_transport_cls(self.transport_cls or 'amqp')  # type: ignore[no-any-return]

    def create_transport(self) -> Transport:
        """A new transport of this connection.

        Source: kombu Connection.create_transport.
        """
        return self.get_transport_cls()(client=self)

    @property
    def transport(self) -> Transport:
        """The transport, made when first asked for."""
        opener = self.opener
        if opener.transport is None:
            opener.transport = self.create_transport()
        return opener.transport  # type: ignore[no-any-return]

    # --------------------------------------------------------------------------------- opened, and closed

    def connect(self: SelfT) -> SelfT:
        """Open the connection now; each host is tried, and a single host twice.

        Returns:
            Connection: itself.
        Raises:
            ConnectionLost and whatever else the transport raises when a broker can't be reached.
        Switches: yes. Killed: the next greenlet that waits for this connection tries on.
        Source: kombu Connection.connect; differs: returns the Connection.
        """
        hosts = len(self.address.hosts)
        limit = None if self.connect_timeout is None else self.connect_timeout * hosts
        self._ensure_connection(None, max(1, hosts - 1), reraise_as_library_errors=False, timeout=limit)
        return self

    def ensure_connection(self: SelfT, *args: Any, **kwargs: Any) -> SelfT:
        """Open the connection, trying again until it is open.

        Arguments:
            errback (Callable[[Exception, float], None]): called before each pause, with its seconds.
            max_retries (int): None tries for ever, within `timeout`.
            interval_start, interval_step, interval_max (float): seconds between tries: 2, then 2 more each
                time, up to 30.
            callback (Callable[[], None]): called each second of a pause.
            reraise_as_library_errors (bool): False lets the transport's own error out.
            timeout (float): seconds for all of it; None: no limit.
        Returns:
            Connection: itself, also for a ``with``, which closes it.
        Raises:
            OperationalError: given up; the transport's error is its cause.
            ConnectionClosed: it was closed while we tried.
        Switches: yes, unless it is open.
        Source: kombu Connection.ensure_connection.
        """
        self._ensure_connection(*args, **kwargs)
        return self

    def _establish_connection(self) -> Any:
        # kombu's name and place: programs that test what they do without a broker let this fail
        return self.transport.establish_connection()

    def establish(self) -> Any:
        """Have the transport connect, once: for the opener. Switches: yes."""
        return self._establish_connection()

    def begin_epoch(self) -> None:
        """Note that it was opened anew: for transports whose connection recovers by itself."""
        self.opener.begin_epoch()

    def close(self) -> None:
        """Close the connection; who waits in `drain_events` or for it to open gets ConnectionClosed.

        Any greenlet may call it at any time, any number of times; the next `connect()` opens it again. It
        takes at most the option `close_timeout` (5 s); what is not closed by then is abandoned.

        Switches: yes, if it was open. Killed: closing goes on in the background.
        Source: kombu Connection.close.
        """
        self.opener.close()

    def release(self) -> None:
        """Close the connection; one that came from a pool goes back there instead.

        Switches: yes.
        Source: kombu Connection.release.
        """
        self.close()

    def collect(self, socket_timeout: float | None = None) -> None:
        """Let go of the connection without much ado; it opens again when it is needed.

        Arguments:
            socket_timeout (float): seconds to wait for the other side; 0 does not wait, None means 5.
        Switches: yes, if it was open.
        Source: kombu Connection.collect; differs: no process-wide socket timeout is changed.
        """
        self.opener.part_with(CLOSE_TIMEOUT if socket_timeout is None else socket_timeout)

    def sibling(self: SelfT) -> SelfT:
        """The connection with which this native thread publishes what it is told to publish on this one.

        One a thread, closed with this one or when the thread ends.

        Returns:
            Connection: with the same settings; opened by its first use.
        Raises:
            ConnectionClosed: this one was closed.
        """
        return self.opener.sibling()  # type: ignore[no-any-return]

    def switch(self, conn_str: str) -> None:
        """Close, and go to another URL or host from now on; does not connect.

        Switches: yes, if it was open.
        Source: kombu Connection.switch.
        """
        self.close()
        self.opener.closed = False
        self._apply(conn_str)

    def maybe_switch_next(self) -> None:
        """Switch to the next URL of the failover strategy, if there is one.

        Switches: yes, if it was open.
        Source: kombu Connection.maybe_switch_next.
        """
        if self.cycle is not None:
            self.switch(next(self.cycle))

    @property
    def connection(self) -> Any:
        """The transport's own connection object, opened if need be; None once it was closed."""
        return None if self.opener.closed else self.opener.live()

    @property
    def connected(self) -> bool:
        """True if the connection is open, as far as we know."""
        return self.opener.connected

    @property
    def recovering(self) -> bool:
        """True if it was lost and comes back by itself, in the background."""
        opener = self.opener
        found, ask = opener.connection, getattr(opener.transport, 'recovering', None)
        return found is not None and not opener.closed and ask is not None and bool(ask(found))

    # --------------------------------------------------------------------------------------- trying again

    def ensure(
        self, obj: Any, fun: Callable[P, T], errback: Callable[[BaseException, float], Any] | None = None,
        max_retries: int | None = None, interval_start: float = 1, interval_step: float = 1,
        interval_max: float = 1, on_revive: Callable[[Any], Any] | None = None,
        retry_errors: tuple[type[BaseException], ...] | None = None,
        timeout: runtime.Deadline | float | None = None,
    ) -> Callable[P, T]:  # fmt: skip
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
        Switches: the function does. Source: kombu Connection.autoretry.
        """
        retried = AutoRetry(self, fun, channel, ensure_options)
        return self.ensure(retried, retried, **ensure_options)

    def _reraise_as_library_errors(
        self, ConnectionError: Any = OperationalError, ChannelError: Any = OperationalError
    ) -> LibraryErrors:
        return LibraryErrors(self, ConnectionError, ChannelError)

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
        connection = self.opener.live()
        return self.transport.create_channel(connection)  # type: ignore[no-any-return]

    @property
    def default_channel(self) -> Channel:
        """The channel that is used where a connection is given instead of one; opened when first asked for.

        Raises:
            OperationalError: no broker could be reached; see `wait_open`.
        Switches: yes, if it must be opened.
        Source: kombu Connection.default_channel.
        """
        opener = self.opener
        channel = opener.default_channel
        if channel is not None and opener.connected and not is_closed(channel):
            opener.check_hub()
            return channel  # type: ignore[no-any-return]
        return opener.open_default_channel(None)  # type: ignore[no-any-return]

    def wait_open(
        self, deadline: runtime.Deadline | float | None = None, policy: Mapping[str, Any] | None = None
    ) -> None:
        """Open the connection, trying again: what each implicit use of it does. See `Opener.wait_open`.

        Arguments:
            deadline (Deadline | float): when to stop at the latest.
            policy (Mapping[str, object]): the retry policy of the caller, as for `ensure`.
        Raises:
            OperationalError: not within the deadline or the retries.
        Switches: yes, unless it is open.
        """
        self.opener.wait_open(deadline, policy)

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
        old = self.opener.default_channel
        if old is not None and old is not new_channel:
            self.opener.default_channel = None
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
        opener = self.opener
        connection = opener.connection
        if connection is None or opener.closed:
            connection = opener.live()
        else:
            opener.check_hub()
        return opener.transport.drain_events(connection, **kwargs)

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
        opener = self.opener
        if opener.connection is None or opener.closed:
            raise ConnectionLost(f'{self!r} is not open')
        opener.check_hub()
        started = runtime.monotonic()
        opener.transport.ping(opener.connection, runtime.Deadline.after(timeout))
        return runtime.monotonic() - started

    def __enter__(self: SelfT) -> SelfT:
        return self

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
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
        opener = self.opener
        if opener.connection is None:
            return None
        return opener.transport.heartbeat_check(opener.connection, rate=rate)

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

    def pooled(self, pool: ConnectionPool) -> PooledConnection:
        """A connection like this one, for a pool."""
        return PooledConnection(pool, **settings_of(self, resolve=False))

    def Producer(
        self, channel: ChannelLike | None = None, *args: Any, **kwargs: Unpack[ProducerOptions]
    ) -> Producer:
        """A Producer on `channel`, or on the default channel.

        Source: kombu Connection.Producer.
        """
        from greenmq.messaging import Producer

        return Producer(channel or self, *args, **kwargs)

    def Consumer(
        self, queues: Queues | None = None, channel: ChannelLike | None = None, *args: Any,
        **kwargs: Unpack[ConsumerOptions],
    ) -> Consumer:  # fmt: skip
        """A Consumer on `channel`, or on the default channel.

        Raises:
            WrongHub: a greenlet of another native thread waits on this connection.
        Source: kombu Connection.Consumer.
        """
        from greenmq.messaging import Consumer

        self.opener.check_hub()
        return Consumer(channel or self, queues, *args, **kwargs)

    def SimpleQueue(
        self, name: str | Queue, no_ack: bool | None = None, queue_opts: dict[str, Any] | None = None,
        queue_args: dict[str, Any] | None = None, exchange_opts: dict[str, Any] | None = None,
        channel: ChannelLike | None = None, **kwargs: Unpack[SimpleOptions],
    ) -> SimpleQueue:  # fmt: skip
        """A queue with put and get, durable; `name` is a name or a Queue.

        Source: kombu Connection.SimpleQueue.
        """
        from greenmq.simple import SimpleQueue

        return SimpleQueue(channel or self, name, no_ack, queue_opts, queue_args, exchange_opts, **kwargs)

    def SimpleBuffer(
        self, name: str | Queue, no_ack: bool | None = None, queue_opts: dict[str, Any] | None = None,
        queue_args: dict[str, Any] | None = None, exchange_opts: dict[str, Any] | None = None,
        channel: ChannelLike | None = None, **kwargs: Unpack[SimpleOptions],
    ) -> SimpleBuffer:  # fmt: skip
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

    plain_class = Connection

    def __init__(self, pool: ConnectionPool, **kwargs: Any) -> None:
        self._pool = pool
        # The lease a task entered with: when it leaves, this object may long have been leased to another.
        self._entered: dict[Any, Lease] = {}
        super().__init__(**kwargs)

    def __enter__(self: PooledT) -> PooledT:
        lease: Any = self.release
        if isinstance(lease, Lease):
            task = runtime.current()
            self._entered[task] = lease
            if not lease.held_by(task):
                lease.taken()  # another task passed it on
        return self

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
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
