"""The Redis transport: one multiplexed connection, what all its channels share, and the ways to a server."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis

from greenmq import events, runtime
from greenmq.exceptions import AMQPError, ConnectionClosed, ConnectionLost, InvalidArgument, OperationalError
from greenmq.log import get_logger, outage_level
from greenmq.transport.options import Option, convert
from greenmq.transport.redis import errors
from greenmq.transport.redis.bindings import Bindings, declaration
from greenmq.transport.redis.channel import Channel
from greenmq.transport.redis.dialling import Place, credentials_of, dial_place, tls_of
from greenmq.transport.redis.expiry import Expiry
from greenmq.transport.redis.keys import Keys
from greenmq.transport.redis.leases import Leases
from greenmq.transport.redis.link import Link
from greenmq.transport.redis.lookout import Lookout
from greenmq.transport.redis.management import Management
from greenmq.transport.redis.options import OPTIONS
from greenmq.transport.redis.pubsub import Fanout, StreamFanout
from greenmq.transport.redis.replies import is_facts
from greenmq.transport.redis.session import Session
from greenmq.transport.redis.settling import Settler
from greenmq.transport.redis.wire import MAX_BYTES
from greenmq.transport.virtual import transport as virtual
from greenmq.utils.text import printable
from greenmq.utils.url import secret
from greenmq.utils.uuid import uuid

__all__ = ('DEFAULT_DB', 'DEFAULT_PORT', 'Transport')

logger = get_logger('greenmq.transport.redis')

DEFAULT_PORT = 6379
DEFAULT_DB = 0
DEFAULT_HEALTH_CHECK_INTERVAL = 15
#: Seconds to look whether what we declared is still there, after a loss.
RESTORING = 30.0


class Transport(virtual.Transport):
    """Redis 6.2 or later, and Valkey.

    Features: direct, topic and fanout exchanges, priorities, expiration and x-message-ttl, delayed messages
    (header ``x-delay``, ms), `max_deliveries`, prefetch, leases, recovery by itself, TLS, ACL users. kombu's
    keys and envelope, so both libraries can share queues.

    URL: ``redis://user:password@host:port/db``, ``rediss://…`` with TLS,
    ``redis+socket:///path?virtual_host=db``. Options: see `redis.options` and `greenmq.transport.options`.

    Source: kombu redis Transport.
    """

    Channel: ClassVar[Any] = Channel
    Management: ClassVar[Any] = Management
    default_port = DEFAULT_PORT
    driver_type = 'redis'
    driver_name = 'redis'
    polling_interval: float | None = None
    brpop_timeout = 1
    recovery_pauses = (0.05, 0.2, 1.0)
    #: Channels, consumers and `default_channel` stay the same objects over a recovery.
    keeps_channels = True
    #: Is the database spread over a cluster?
    clustered: ClassVar[bool] = False
    options: ClassVar[dict[str, Option]] = OPTIONS

    connection_errors = errors.connection_errors
    channel_errors = errors.channel_errors
    recoverable_connection_errors = (*virtual.Transport.recoverable_connection_errors, ConnectionLost)

    implements = virtual.Transport.implements.extend(
        asynchronous=False,  # a program that brings kombu's event loop (Celery) must not hand us to it
        batch_publish=True,
        heartbeats=False,
        exchange_type=frozenset(['direct', 'topic', 'fanout']),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        client = self.client
        self.polling_interval = None
        given = dict(getattr(client, 'transport_options', None) or {})
        self._given = {name: option.default for name, option in self._options().items()}
        self._given.update({name: value for name, value in given.items() if value is not None})
        if self._socket is not None:
            query = dict(parse_qsl(self._socket.query))
            query.pop('virtual_host', None)
            self._given.update(convert(query, type(self)))
        value = self._given
        self._db = self._database()
        self._amqp_order = value['priority_order'] == 'amqp'
        self._drop_expired = value['drop_expired']
        self._fanout_mode: str = value['fanout_mode']
        self._stream_maxlen: int = value['stream_maxlen']
        self._fetch_batch = max(1, min(value['fetch_batch'], 1000))
        self.max_message_bytes: int = value['max_message_bytes'] or MAX_BYTES
        visibility = float(value['visibility_timeout'] or 3600.0)
        lease = value['lease_timeout'] or min(visibility, 60.0)
        self._lease_ms = max(int(lease * 1000), 100)
        self._number = 1
        self._ended = False
        self.keys = Keys(
            uuid().replace('-', '')[:16],
            value['global_keyprefix'] or '',
            value['priority_steps'],
            value['sep'],
            self.clustered,
            value['unacked_key'],
            value['unacked_index_key'],
        )
        self.session = self._make_session()
        self.session.clustered = self.clustered
        self.bindings = Bindings(
            self.session, self.keys, self.state, self.Channel.keyprefix_queue, value['sep']
        )
        self.settler = Settler(self.session, self.keys, self)
        self.leases = Leases(self, lease, value['sweep_interval'] or 5.0, visibility)
        self.expiry = Expiry(self)
        self.lookout = Lookout(self, value['health_check_interval'] or 0.0)
        self.fanout: Any = (
            StreamFanout(self)
            if self._fanout_mode == 'stream'
            else Fanout(self, self._dialler(tracking=False), self.session.name)
        )

    @classmethod
    def _options(cls) -> dict[str, Option]:
        table: dict[str, Option] = {}
        for base in reversed(cls.__mro__):
            table.update(base.__dict__.get('options') or {})
        return table

    # ------------------------------------------------------------ where to

    def _database(self) -> int:
        name = getattr(self.client, 'virtual_host', None)
        if self._socket is not None:
            name = dict(parse_qsl(self._socket.query)).get('virtual_host')
        text = str(name or '').strip('/')
        if not text:
            return DEFAULT_DB
        try:
            return int(text)
        except ValueError:
            # not shown: it may be a password, if that is where a @ was forgotten
            raise InvalidArgument('database', '...', 'must be a number, as in redis://localhost/0') from None

    @staticmethod
    def is_virtual_host(name: Any) -> bool:
        """Can this be the number of a database? Switches: no."""
        text = str(name or '').strip('/')
        return not text or (text.isascii() and text.isdigit())

    @property
    def _socket(self) -> SplitResult | None:
        """The parts of the URL if it names a unix socket: a Connection leaves those to the transport."""
        name = str(getattr(self.client, 'hostname', None) or '')
        if name.startswith('/'):
            name = f'socket://{name}'
        if not name.startswith(('redis+socket://', 'valkey+socket://', 'socket://', 'unix://')):
            return None
        return urlsplit(name)

    def _place(self) -> Place:
        client, value, unix = self.client, self._given, self._socket
        tcp = tuple((6, name, number) for name, number in (value['socket_keepalive_options'] or {}).items())
        provider = getattr(client, 'credential_provider', None)
        return Place(
            host=client.hostname or 'localhost',
            port=int(client.port or self.default_port),
            path=unquote(unix.path) if unix else '',
            db=self._db,
            username=unquote((unix and unix.username) or '') or client.userid or value['username'],
            password=unquote((unix and unix.password) or '') or secret(client.password),
            client_name=value['client_name'],
            tls=tls_of(client),
            tracking=value['tracking'],
            interval=value['health_check_interval'] or 0.0,
            tcp=tcp,
            max_bytes=self.max_message_bytes,
            credentials=credentials_of(provider) if provider is not None else None,
        )

    def _dialler(self, tracking: bool = True) -> Any:
        # Knows us weakly: it lives in the session, and that in tasks.
        ref = weakref.ref(self)

        def dial(owner: Any, deadline: runtime.Deadline) -> Link:
            transport = ref()
            if transport is None or transport.client is None:
                raise ConnectionClosed('nobody uses the connection any more')
            return transport._dial(owner, deadline, tracking)

        return dial

    def _dial(self, owner: Any, deadline: runtime.Deadline, tracking: bool) -> Link:
        place = self._place()
        if not tracking:
            place = place._replace(tracking=False, scripts=False)
        try:
            return dial_place(place, owner, deadline)
        except Exception:
            if self.session.epoch and getattr(self.client, 'cycle', None) is not None:
                # A recovery walks the hosts itself; the first opening is walked by the Connection.
                self.client._apply(next(self.client.cycle))
            raise

    def _dial_beside(self, key: str, owner: Any, deadline: runtime.Deadline) -> Link:
        """Another link to the server that has a key."""
        return self._dial(owner, deadline, False)

    def _make_session(self) -> Session:
        client, unix = self.client, self._socket
        name = unix.path if unix else f'{client.hostname or "localhost"}:{client.port or self.default_port}'
        return Session(self._dialler(), f'{name}/{self._db}', self)

    # ---------------------------------------------------------------- opening

    def establish_connection(self) -> Any:
        """Connect, and return the connection: this object.

        Raises:
            ConnectionLost, OSError, TimeoutError: not reached. AuthenticationFailed: refused.
        Switches: yes. Killed: nothing stays open.
        """
        deadline = getattr(self.client, 'connect_deadline', None)
        if deadline is None:
            deadline = runtime.Deadline.after(self._given['socket_connect_timeout'] or 5.0)
        self.session.open(deadline)
        self._warn_of_eviction()
        return super().establish_connection()

    def recover_connection(self, connection: Any, deadline: runtime.Deadline) -> Any:
        """Wait for the outcome of the present try to recover a lost connection.

        Raises:
            Exception: what the try failed with; the next one is under way.
        Switches: yes.
        """
        self.session.wait_attempt(deadline)
        return self

    def _warn_of_eviction(self) -> None:
        runtime.spawn(_look_at_eviction, weakref.ref(self.session), name='redis-eviction')

    def verify_connection(self, connection: Any) -> bool:
        """Is there a living link? Switches: no."""
        return self.session.connected and not self._events.failed

    def ping(self, connection: Any, deadline: runtime.Deadline) -> None:
        """See `base.Transport.ping`. Switches: yes."""
        super().ping(connection, deadline)
        self.session.execute(('PING',), None, deadline)

    def _is_in_use(self) -> bool:
        return super()._is_in_use() or self.session.in_use

    def _leave(self) -> bool:
        if self.clustered or not super()._leave():
            return False
        self.leases.stop()
        self.expiry.stop()
        self.lookout.leave()
        self.fanout.leave()
        self.session.leave()
        client = self.client
        if client is not None:
            error = ConnectionLost(f'{self.session.name}: it goes on in another thread')
            events.emit('lost', client, error=error, epoch=client.epoch)
        return True

    def _arrive(self) -> None:
        self.session.arrive()
        self.fanout.arrive()
        super()._arrive()
        if self._consumes():
            self.leases.start()
            self.expiry.start()

    def recovering(self, connection: Any) -> bool:
        """Is it lost, and coming back by itself? Switches: no."""
        return bool(self.session.epoch) and not self.session.closed and not self.session.connected

    def close_connection(self, connection: Any) -> None:
        """Close all channels, give back what is ours, and end the connection. Idempotent.

        Switches: yes; bounded by `close_timeout`.
        """
        if self._ended:
            return
        self._ended = True
        deadline = runtime.Deadline.after(self._given.get('close_timeout') or virtual.CLOSE_TIMEOUT)
        self._closing = deadline
        try:
            super().close_connection(connection)
            if self.session.connected:
                self._say_goodbye(deadline)
        finally:
            self.leases.stop()
            self.expiry.stop()
            self.lookout.close()
            self.fanout.close()
            self.session.close()

    def _say_goodbye(self, deadline: runtime.Deadline) -> None:
        try:
            self.settler.wait(deadline)
            for home in self.keys.homes():
                self.session.execute(('DEL', home.lease), home.lease, deadline)
        except (AMQPError, OperationalError, OSError) as error:
            # What is left there comes back when the lease ends.
            logger.warning(
                '%s: not everything was settled before the connection closed: %s', self.session.name, error
            )

    # --------------------------------------------- what the session tells (no switch)

    def on_lost(self, session: Session, error: BaseException) -> None:
        """See `session.SessionOwner`. Switches: no."""
        if not isinstance(error, ConnectionClosed):
            level = outage_level('lost', session.name)
            logger.log(level, 'redis %s: the connection was lost: %s', session.name, error)
        client = self.client
        if client is not None:
            events.emit('lost', client, error=error, epoch=getattr(client, 'epoch', 0))
        self._events.report(error)

    def on_recovered(self, session: Session) -> None:
        """See `session.SessionOwner`. Switches: no."""
        client = self.client
        if client is not None and getattr(client, '_transport', None) is self:
            client.begin_epoch()
            events.emit('recovered', client, epoch=client.epoch)
        self.settler.recovered()
        runtime.spawn(_reconcile, weakref.ref(self), name='redis-reconcile', owner=self)

    def on_pushed(self, session: Session, push: Any) -> None:
        """See `session.SessionOwner`: somebody emptied the database. Switches: no."""
        if push[0] == b'invalidate':
            runtime.spawn(_reconcile, weakref.ref(self), name='redis-reconcile', owner=self)

    # ------------------------------------------------ what channels and leases ask

    def _next_numbers(self, count: int) -> int:
        number = self._number
        self._number += count
        return number

    def _known_tags(self) -> set[str]:
        known = self.settler.tags()
        for channel in self.channels:
            if channel._qos is not None:
                known.update(channel._qos._delivered)
            lane = self._events._lanes.get(channel)
            if lane is not None:
                known.update(message.delivery_tag for _, message in lane.events)
        return known

    def _has_unsettled(self) -> bool:
        return bool(self.settler.pending) or any(
            channel._qos is not None and channel._qos._delivered for channel in self.channels
        )

    def _consumes(self) -> bool:
        return any(
            channel._subscriptions or (channel._qos and channel._qos._delivered) for channel in self.channels
        )

    def _restore_topology(self) -> None:
        """Declare again what we declared, if it is gone: the server may have kept nothing over a restart."""
        deadline, queues = runtime.Deadline.after(RESTORING), dict(self.state.queues)
        key = self.keys.queues
        if queues and not self.session.execute(('EXISTS', key), key, deadline):
            words = [word for queue, facts in queues.items() for word in (queue, declaration(facts))]
            self.session.execute(('HSET', key, *words), key, deadline)
            for queue in queues:
                expires = self.expiry.of(self, queue)
                if expires is not None:
                    self.expiry.use(self, queue, expires, deadline)
        self.bindings.restore(deadline)

    def _kind_of(self, exchange: str) -> str:
        record = self.state.exchanges.get(exchange)
        return (record['type'] if record else None) or 'direct'

    def _check_consuming(self) -> None:
        """Consuming is proved, not assumed: a channel that did not ask for two intervals starts anew
        (P25).
        """
        for channel in list(self.channels):
            silent = self._deaf_for(channel)
            if silent and self.session.connected:
                logger.error('%r has not asked for messages for %.0f s: it starts anew', channel, silent)
                channel.fetched_at = runtime.monotonic()
                channel._fetcher.refresh()

    def _deaf_for(self, channel: Any) -> float:
        """Seconds that it has not asked for messages, if it should have; else 0."""
        asked = channel.fetched_at
        if asked is None or channel._fetcher.states.get(None) != 'fetching':
            return 0.0
        silent: float = runtime.monotonic() - asked
        return silent if silent > 2 * (self._given['health_check_interval'] or 15.0) + 5.0 else 0.0

    # ------------------------------------------------------------------ the rest

    def driver_version(self) -> str:
        """The version of redis-py. Switches: no."""
        return str(redis.__version__)

    @property
    def supports_batch_publish(self) -> bool:
        """Whether a batch leaves together: always."""
        return True

    def on_readable(self, fileno: Any, loop: Any = None) -> None:
        """Nothing to do: our sockets belong to the hub."""

    def __repr__(self) -> str:
        cls = type(self)
        return f'<{cls.__module__}.{cls.__name__}: {self.session!r}, {len(self.channels)} channels>'


def _look_at_eviction(ref: weakref.ref[Session]) -> None:
    session = ref()
    if session is None or session.closed:
        return
    try:
        question = ('CONFIG', 'GET', 'maxmemory-policy')
        found = session.execute(question, None, runtime.Deadline.after(5.0), is_facts)
    except (AMQPError, OperationalError, OSError):
        return  # an ACL may forbid to ask; nothing depends on the answer
    values = list(found.values()) if isinstance(found, dict) else found[1::2]
    policy = printable(values[0].decode(errors='replace')) if values and isinstance(values[0], bytes) else ''
    if policy and policy != 'noeviction':
        logger.warning(
            'redis %s evicts keys when it is full (maxmemory-policy %s): messages and bindings may vanish; '
            'set it to noeviction',
            session.name,
            policy,
        )


def _reconcile(ref: weakref.ref[Transport]) -> None:
    transport = ref()
    if transport is None or transport.session.closed:
        return
    try:
        transport._restore_topology()
        transport.leases.renew(transport)
        transport.leases.reconcile(transport)
    except (AMQPError, OperationalError, OSError) as error:
        logger.debug('%s: reconcile: %s', transport.session.name, error)  # the next recovery does it again
