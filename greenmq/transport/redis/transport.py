"""The Redis transport: the connection of a Redis database, and what kombu's programs ask of it."""

from __future__ import annotations

from queue import Empty
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from greenmq import events, runtime
from greenmq.exceptions import ConnectionLost, WrongHub
from greenmq.transport.driver import transport as base
from greenmq.transport.driver.contract import Place
from greenmq.transport.options import Option, convert
from greenmq.transport.redis import errors
from greenmq.transport.redis.channel import Channel
from greenmq.transport.redis.driver import DEFAULT_DB, DEFAULT_PORT, RedisDriver, socket_of
from greenmq.transport.redis.management import Management
from greenmq.transport.redis.options import OPTIONS
from greenmq.transport.redis.session import RedisSession
from greenmq.transport.virtual import transport as virtual
from greenmq.utils.scheduling import FairCycle

__all__ = ('DEFAULT_DB', 'DEFAULT_PORT', 'Transport')

DEFAULT_HEALTH_CHECK_INTERVAL = 15


class Transport(base.Transport):
    """Redis 6.2 or later, and Valkey.

    Features: direct, topic and fanout exchanges, priorities, expiration and x-message-ttl, delayed messages
    (header ``x-delay``, ms), `max_deliveries`, prefetch, leases, recovery by itself, TLS, ACL users. kombu's
    keys and envelope, so both libraries can share queues.

    URL: ``redis://user:password@host:port/db``, ``rediss://…`` with TLS,
    ``redis+socket:///path?virtual_host=db``. Options: see `redis.options` and `greenmq.transport.options`.

    Source: kombu redis Transport.
    """

    Driver: ClassVar[Any] = RedisDriver
    Channel: ClassVar[Any] = Channel
    Management: ClassVar[Any] = Management
    default_port = DEFAULT_PORT
    driver_type = 'redis'
    driver_name = 'redis'
    polling_interval: float | None = None
    brpop_timeout = 1
    recovery_pauses = (0.05, 0.2, 1.0)
    #: Is the database spread over a cluster?
    clustered: ClassVar[bool] = False
    Cycle: ClassVar[Any] = FairCycle
    channels: list[Any] = None  # type: ignore[assignment]
    options: ClassVar[dict[str, Option]] = OPTIONS

    connection_errors = errors.connection_errors
    channel_errors = errors.channel_errors
    recoverable_connection_errors = (*base.Transport.recoverable_connection_errors, ConnectionLost)

    implements = base.Transport.implements.extend(
        asynchronous=False,  # a program that brings kombu's event loop (Celery) must not hand us to it
        batch_publish=True,
        heartbeats=False,
        exchange_type=frozenset(['direct', 'topic', 'fanout']),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hub: Any = runtime.hub_id()
        self.session: RedisSession = self._new_session()

    # ------------------------------------------------------------ where to

    @staticmethod
    def is_virtual_host(name: Any) -> bool:
        """Can this be the number of a database?"""
        text = str(name or '').strip('/')
        return not text or (text.isascii() and text.isdigit())

    def place(self) -> Place:
        """See `driver.Transport.place`."""
        client = self.client
        # The scheme alone asks for it: whoever writes rediss:// must never get a connection without.
        tls = client.ssl or getattr(client, 'transport_cls', None) in ('rediss', 'valkeys')
        return super().place()._replace(ssl=tls or None)

    def _url(self, client: Any, host: str) -> str:
        return host  # nobody reads it; and a Connection asks its transport, which is not made yet

    def settings(self) -> dict[str, Any]:
        """See `driver.Transport.settings`; a unix socket's stand in the query of its URL as well."""
        settings = super().settings()
        unix = socket_of(self.place())
        if unix is not None:
            query = dict(parse_qsl(unix.query))
            query.pop('virtual_host', None)
            settings.update(convert(query, type(self)))
        return settings

    def _new_session(self) -> RedisSession:
        place = self.place()
        return RedisSession(self.Driver, place, self.settings(), f'redis {place.host}')

    def make_session(self) -> RedisSession:
        """Return this connection's own session: a new one, if the last was closed."""
        if self.session.state not in ('new', 'open', 'lost'):
            self.session = self._new_session()
        return self.session

    @property
    def driver(self) -> RedisDriver:
        """The driver of the session."""
        return self.session.driver

    # ---------------------------------------------------------------- threads

    def move_here(self, connection: Any) -> None:
        """See `base.Transport.move_here`. What is unsettled stays ours: nothing has to be delivered again."""
        if runtime.is_here(self._hub):
            return
        if self.events.failed or not runtime.take_over(self._hub, self._leave):
            raise WrongHub(repr(self))
        self._hub = runtime.hub_id()
        self.session.arrive_here()

    def _leave(self) -> bool:
        """Let go of what belongs to the old thread's hub; False if it is in use there."""
        if self.clustered or self.events.in_use or self.session.in_use:
            return False
        self.session.leave_here()
        client = self.client
        if client is not None:
            error = ConnectionLost(f'{self.session.name}: it goes on in another thread')
            events.emit('lost', client, error=error, epoch=client.epoch)
        return True

    # ------------------------------------------------------------------ the rest

    @property
    def supports_batch_publish(self) -> bool:
        """Whether a batch leaves together: always."""
        return True

    @property
    def cycle(self) -> FairCycle:
        """All channels, in turn, for programs that look at it."""
        return self.Cycle(self._drain_channel, self.channels, Empty)  # type: ignore[no-any-return]

    def _drain_channel(self, channel: Any, callback: Any, timeout: float | None = None) -> None:
        self.drain_events(self, timeout, channel)

    def on_message_ready(self, channel: Any, message: Any, queue: str) -> None:
        """Give a payload to the consumer of its queue.

        Raises:
            KeyError: nobody consumes it.
        Source: kombu virtual.Transport.on_message_ready.
        """
        sub = channel.books.next_taker(queue) if queue else None
        if sub is None:
            raise KeyError(f'Message for queue {queue!r} without consumers: {message}')
        sub.callback(channel.message_to_python(message))

    def on_readable(self, fileno: Any, loop: Any = None) -> None:
        """Nothing to do: our sockets belong to the hub."""


# What programs test for: as for channels.
virtual.Transport.register(Transport)
