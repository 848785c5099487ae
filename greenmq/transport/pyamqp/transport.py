"""The AMQP transport: from the options of a `Connection` to a link with its broker."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import amqp
import amqp.exceptions

from greenmq import runtime
from greenmq.exceptions import AccessRefused, AMQPError, ConnectionLost, NotAllowed, OperationalError
from greenmq.transport import base
from greenmq.transport.credentials import provided
from greenmq.transport.drain import Drain
from greenmq.transport.options import Option, convert, options_table
from greenmq.utils.amq_manager import get_manager
from greenmq.utils.url import secret

from . import methods
from .channel import Channel as AMQPChannel
from .connection import Connection as AMQPConnection
from .handshake import open_connection
from .link import Link
from .settings import OPTIONS, Settings

__all__ = ['DEFAULT_PORT', 'DEFAULT_SSL_PORT', 'SSLTransport', 'Transport']

DEFAULT_PORT = 5672
DEFAULT_SSL_PORT = 5671

#: What RabbitMQ allows to a connection unless it is told otherwise.
CHANNEL_MAX = 2047

#: What the broker shows of us: `rabbitmqctl list_connections client_properties`.
CLIENT_PROPERTIES = {'product': 'greenmq', 'platform': 'Python'}


class Transport(base.Transport):
    """AMQP 0-9-1, for RabbitMQ.

    Features: exchanges of all types and plugins, confirms, transactions, quorum queues and streams, TLS,
    recovery, heartbeats by themselves, any number of greenlets on one connection.

    URL: ``amqp://user:password@host:port/vhost``, ``amqps://…`` with TLS, ``pyamqp://`` as amqp. The virtual
    host ``/`` is the default; ``//`` at the end names it. Options: see `settings.OPTIONS` and
    `greenmq.transport.options`.

    Source: kombu.transport.pyamqp.Transport.
    """

    Connection = AMQPConnection
    Channel = AMQPChannel

    default_port = DEFAULT_PORT
    default_ssl_port = DEFAULT_SSL_PORT
    driver_type = 'amqp'
    driver_name = 'py-amqp'
    options: ClassVar[dict[str, Option]] = OPTIONS
    #: Channels, consumers and `default_channel` stay the same objects over a recovery.
    keeps_channels = True
    drains_channels = True

    connection_errors = amqp.Connection.connection_errors
    channel_errors = amqp.Connection.channel_errors
    recoverable_connection_errors = (*amqp.Connection.recoverable_connection_errors, OperationalError)
    recoverable_channel_errors = amqp.Connection.recoverable_channel_errors

    implements = base.Transport.implements.extend(asynchronous=False, heartbeats=False)

    def __init__(
        self, client: Any, default_port: int | None = None, default_ssl_port: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(client, **kwargs)
        self.default_port = default_port or self.default_port
        self.default_ssl_port = default_ssl_port or self.default_ssl_port

    def driver_version(self) -> str:
        """The version of the amqp package."""
        return str(amqp.__version__)

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """What a URL leaves out."""
        return {
            'userid': 'guest',
            'password': 'guest',
            'hostname': 'localhost',
            'virtual_host': '/',
            'port': self.default_ssl_port if self.client.ssl else self.default_port,
        }

    @property
    def recovery_pauses(self) -> tuple[float, float, float]:
        """See `base.Transport.recovery_pauses`: those of a connection that recovers by itself."""
        options = self.client.transport_options
        step, most = options.get('recovery_interval'), options.get('recovery_interval_max')
        return 0.05, 0.2 if step is None else step, 2.0 if most is None else most

    # ---- opening

    def establish_connection(self) -> AMQPConnection:
        """Open a connection to the client's present host.

        Raises:
            OSError, ConnectionError: not reached, or refused by the broker.
            TimeoutError: not within `connect_timeout`.
        Switches: yes. Killed: nothing stays open.
        """
        client = self.client
        values = {name: option.default for name, option in options_table(type(self)).items()}
        values.update(convert(client.transport_options, type(self)))
        if client.connect_timeout is not None:
            values['connect_timeout'] = client.connect_timeout
        settings = Settings(values)
        connection = self.Connection(self._name(), _Dialler(client), settings, client)
        connection.connect(client.connect_deadline or runtime.Deadline.after(settings.connect_timeout))
        return connection

    def recover_connection(self, connection: AMQPConnection, deadline: runtime.Deadline) -> AMQPConnection:
        """Wait for the outcome of the present try to recover a lost connection.

        Returns:
            Connection: the same one, open again; a new one if that was closed.
        Raises:
            OSError, ConnectionError: the try failed; the next one is under way.
        Switches: yes.
        """
        if connection.closed:
            return self.establish_connection()
        connection.wait_attempt(deadline)
        return connection

    def _name(self) -> str:
        place = _place(self.client)
        return f'{place["hostname"]}:{place["port"]}/{place["virtual_host"]}'

    # ---- what Connection asks for

    def create_channel(self, connection: AMQPConnection) -> AMQPChannel:
        """A new channel."""
        return connection.channel()

    def close_channel(self, channel: Any) -> None:
        """Close a channel. Switches: yes."""
        channel.close()

    def close_connection(self, connection: AMQPConnection) -> None:
        """Flush and close. Switches: yes."""
        connection.client = None
        connection.close()

    def waiting_events(self, connection: AMQPConnection) -> Drain[Any]:
        """See `base.Transport.waiting_events`."""
        return connection.drain

    def drain_events(
        self, connection: AMQPConnection, timeout: Any = None, channel: Any = None, **kwargs: Any
    ) -> None:
        """Handle one event in this greenlet. Switches: yes."""
        connection.drain_events(timeout, channel)

    def verify_connection(self, connection: AMQPConnection) -> bool:
        """Is it open, and everything restored on it?"""
        return connection.connected

    def ping(self, connection: AMQPConnection, deadline: runtime.Deadline) -> None:
        """See `base.Transport.ping`. On a wire of its own, without consumers. Switches: yes."""
        super().ping(connection, deadline)
        nothing = methods.encode(methods.BASIC_QOS, (0, 0, False))
        connection.control_call(methods.BASIC_QOS, lambda: nothing, False, deadline)

    def move_here(self, connection: AMQPConnection) -> None:
        """See `base.Transport.move_here`. Switches: only to wait for a thread that is in its loop."""
        connection.come_here()

    def recovering(self, connection: AMQPConnection) -> bool:
        """Was it lost, and does it come back by itself?"""
        return connection.recovering

    @property
    def max_channels(self) -> int:
        """How many channels the connection can have, or may have once it is open: two on the wire each."""
        client = self.client
        link = getattr(getattr(client, '_connection', None), 'link', None)
        asked = client.transport_options.get('channel_max') if client is not None else None
        most = asked or CHANNEL_MAX if link is None else link.terms.channel_max
        return max(1, (int(most) - 1) // 2)  # one is for calls that belong to no channel

    def heartbeat_check(self, connection: AMQPConnection, rate: int = 2) -> None:
        """Nothing to do: heartbeats go by themselves (P10)."""

    def get_heartbeat_interval(self, connection: AMQPConnection) -> float:
        """Negotiated seconds between heartbeats."""
        return connection.heartbeat

    def qos_semantics_matches_spec(self, connection: AMQPConnection) -> bool:
        """False for RabbitMQ since 3.3: without `apply_global` it counts per consumer."""
        properties = connection.server_properties
        if properties.get('product') != 'RabbitMQ':
            return True
        version = tuple(
            int(part) for part in str(properties.get('version', '0')).split('.')[:2] if part.isdigit()
        )
        return version < (3, 3)

    def get_manager(self, *args: Any, **kwargs: Any) -> Any:
        """A client of RabbitMQ's management API."""
        return get_manager(self.client, *args, **kwargs)


class SSLTransport(Transport):
    """AMQP over TLS: ``amqps://``. Verifies the certificate and the host's name unless told otherwise.

    Source: kombu.transport.pyamqp.SSLTransport.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.client.ssl:
            self.client.ssl = True


def _place(client: Any) -> dict[str, Any]:
    ssl = bool(client.ssl)
    host, port = client.hostname or 'localhost', client.port
    return {
        'hostname': host,
        'port': int(port or (DEFAULT_SSL_PORT if ssl else DEFAULT_PORT)),
        'virtual_host': client.virtual_host or '/',
    }


class _Dialler:
    """Opens links to the client's hosts, the next one after each failure; knows the client weakly."""

    def __init__(self, client: Any) -> None:
        self._client = weakref.ref(client)

    def __call__(self, connection: AMQPConnection, deadline: runtime.Deadline, epoch: int) -> Link:
        client = self._client()
        if client is None:
            raise ConnectionLost(f'{connection.name}: nobody uses the connection any more')
        try:
            turn = client.opener.turn(deadline) if epoch > 1 else deadline
            return self._open(client, connection, turn, epoch)
        except Exception:
            if epoch > 1 and client.cycle is not None:
                # A recovery walks the hosts itself; the first opening is walked by the client's
                # `ensure_connection`.
                client.next_host()
            raise

    def _open(self, client: Any, connection: AMQPConnection, deadline: runtime.Deadline, epoch: int) -> Link:
        place = _place(client)
        settings = connection.settings
        options = settings.__dict__
        tls = runtime.TLSOptions.of(client.ssl)
        tcp = [(6, name, value) for name, value in (options['socket_settings'] or {}).items()]
        stream = runtime.dial(place['hostname'], place['port'], deadline, tls=tls, socket_options=tcp)
        if settings.heartbeat_thread:
            stream = runtime.SharedStream(stream)
        login = _login(client, options)
        try:
            terms = open_connection(
                stream,
                deadline,
                heartbeat=client.heartbeat,
                virtual_host=place['virtual_host'],
                client_properties={**CLIENT_PROPERTIES, **(options['client_properties'] or {})},
                locale=options['locale'],
                frame_max=options['frame_max'],
                channel_max=options['channel_max'],
                **login,
            )
        except (AccessRefused, NotAllowed) as exc:
            stream.abandon()
            raise _refused(exc, place, login['userid']) from exc
        except BaseException:
            stream.abandon()
            raise
        connection.name = f'{place["hostname"]}:{place["port"]}/{place["virtual_host"]}'
        return Link(
            stream,
            terms,
            epoch,
            connection,
            name=f'{place["hostname"]}:{place["port"]}',
            high_water=settings.out_buffer_bytes,
            max_body=settings.max_message_bytes,
            write_timeout=settings.write_timeout or 2 * terms.heartbeat or 30.0,
        )


def _refused(error: AMQPError, place: dict[str, Any], user: str | None) -> AMQPError:
    """The same with what one has to know to mend it."""
    who = 'us' if user is None else f'user {user!r}'
    where = f'{place["hostname"]}:{place["port"]}'
    text = f'{where} refused {who} at virtual host {place["virtual_host"]!r}: {error.reply_text}'
    return type(error)(text, reply_code=error.reply_code)


def _login(client: Any, options: dict[str, Any]) -> dict[str, Any]:
    provider = getattr(client, 'credential_provider', None)
    userid, password = client.userid or 'guest', secret(client.password) or 'guest'
    if provider is not None:
        user, password = provided(provider)
        userid = userid if user is None else user
    login: dict[str, Any] = {'userid': userid, 'password': password, 'login_method': client.login_method}
    if options['authentication']:
        login['authentication'] = options['authentication']
        login['login_method'] = None
        login['userid'] = None
    if options['login_response'] is not None:
        login['login_response'] = options['login_response']
    return login
