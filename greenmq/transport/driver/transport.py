"""The connection of a transport that stands on a driver: its channels, its events, its share of a session."""

from __future__ import annotations

from typing import Any, ClassVar

from greenmq import events, runtime
from greenmq.exceptions import ConnectionClosed, InvalidArgument
from greenmq.log import get_logger
from greenmq.transport import base
from greenmq.transport.drain import Drain
from greenmq.transport.driver.channel import Channel
from greenmq.transport.driver.contract import Driver, Place
from greenmq.transport.driver.options import OPTIONS, settings_of
from greenmq.transport.driver.session import Session, session_of
from greenmq.transport.numbers import ChannelNumbers
from greenmq.transport.options import Option
from greenmq.transport.virtual.transport import Management as VirtualManagement
from greenmq.transport.virtual.transport import close_and_tell

__all__ = ('Transport',)

logger = get_logger('greenmq.transport.driver')

#: Seconds that a last look of delivery 'poll' may take.
LAST_LOOK = 1.0


class Management(VirtualManagement):
    """Questions to the broker of a driver."""

    def get_queues(self) -> list[Any]:
        """Return what there is to know of each queue, see `Driver.queues`. Switches: yes.

        Where the broker does not list them: the names of those that this process declared or bound.
        """
        session = self.transport.session
        deadline = runtime.Deadline.after(session.settings['operation_timeout'])
        found = session.call('list the queues', deadline, session.driver.queues, deadline)
        return super().get_queues() if found is None else list(found)


class Transport(base.Transport):
    """A transport on a driver, which is its own connection. Subclass it and name the `Driver`.

    Arguments:
        client (Connection): the Connection it serves.
    Attributes:
        session (Session): what the connections of this hub to this URL share; None until it is opened.
        numbers (ChannelNumbers): of its channels.
        events (Drain): deliveries that wait for whoever drains.
        channels (list[Channel]): the open ones.
        exclusive_queues (set[str]): deleted when the connection closes.
        closing (Deadline | None): of a close under way.
    """

    Driver: ClassVar[type[Driver]] = Driver
    Channel: ClassVar[Any] = Channel
    Management: ClassVar[Any] = Management

    channel_max = 65535
    #: Channels, deliveries in wait and consumers outlive the loss of a connection.
    drains_channels = True
    implements = base.Transport.implements.extend(
        asynchronous=False,
        exchange_type=frozenset(['direct', 'topic', 'fanout', 'headers']),
        heartbeats=False,
    )
    options: ClassVar[dict[str, Option]] = dict(OPTIONS)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        table: dict[str, Option] = {}
        for driver_cls in reversed(cls.Driver.__mro__):
            table.update(driver_cls.__dict__.get('options') or {})
        cls.options = {**table, **cls.__dict__.get('options', {})}

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.session: Session = None  # type: ignore[assignment]
        self.channels: list[Any] = []
        self.exclusive_queues: set[str] = set()
        self.closing: runtime.Deadline | None = None
        self.events: Drain[Any] = Drain(f'{self.driver_type} connection')
        self._fork = runtime.fork_epoch()
        self._spare: list[Any] = []
        self.numbers = ChannelNumbers()

    @property
    def keeps_channels(self) -> bool:
        """Do channels outlive a loss? Yes, but for those that a forked child has of its parent."""
        return self._fork == runtime.fork_epoch()

    # ---- where to

    def place(self) -> Place:
        """Where the client wants to go.

        Raises:
            InvalidArgument: it asks for what this transport can't do.
        """
        client = self.client
        credentials = getattr(client, 'credential_provider', None)
        for name, value in (
            ('ssl', client.ssl), ('login_method', client.login_method), ('credentials', credentials),
        ):  # fmt: skip
            if value and name not in self.Driver.understands:
                raise InvalidArgument(name, value, f'is nothing that the {self.driver_type} transport knows')
        host = client.hostname or self.default_connection_params.get('hostname', 'localhost')
        return Place(
            host, client.port or self.default_port, client.userid, client.password,
            client.virtual_host or '/', self._url(client, host), client.ssl or None, client.login_method,
            credentials, tuple(client.alt or ()),
        )  # fmt: skip

    def _url(self, client: Any, host: str) -> str:
        return host if '://' in host else str(client.as_uri(include_password=True))

    def next_place(self) -> Place | None:
        """Turn the client to its next host; None if it has one only."""
        client = self.client
        if client is None or client.cycle is None:
            return None
        client.next_host()
        return self.place()

    # ---- connection

    def establish_connection(self) -> Any:
        """Open the session, if no other connection has, and return the connection: this object.

        Raises:
            ConnectionLost, OSError, TimeoutError: not reached. Others: refused.
        Switches: yes.
        """
        client = self.client
        deadline = getattr(client, 'connect_deadline', None)
        if deadline is None:
            deadline = runtime.Deadline.after(client.connect_timeout or 5.0)
        self.session = self.make_session()
        self.session.join(self)
        try:
            self.session.open(deadline)
        except BaseException:
            self.session.leave(self, runtime.Deadline.after(0))
            raise
        self.events.revive()
        self._spare.append(self.create_channel(self))
        return self

    def make_session(self) -> Session:
        """The session to the client's place, which others may use as well."""
        place = self.place()
        return session_of(self.Driver, place, self.settings(), f'{self.driver_type} {place.host}')

    def settings(self) -> dict[str, Any]:
        """The value of every transport option."""
        settings = settings_of(self.options, self.client.transport_options)
        settings['connect_timeout'] = self.client.connect_timeout
        return settings

    def recover_connection(self, connection: Any, deadline: runtime.Deadline) -> Any:
        """Wait for the outcome of the present try to recover a lost connection.

        Raises:
            Exception: what the try failed with; the next one is under way.
        Switches: yes.
        """
        self.session.wait_attempt(deadline)
        return self

    def recovering(self, connection: Any) -> bool:
        """Is it lost, and coming back by itself?"""
        return self.session is not None and self.session.state == 'lost'

    def verify_connection(self, connection: Any) -> bool:
        """Is it open?"""
        return self.session is not None and self.session.state == 'open' and not self.events.failed

    def ping(self, connection: Any, deadline: runtime.Deadline) -> None:
        """See `base.Transport.ping`. Switches: yes."""
        super().ping(connection, deadline)
        self.session.ping(deadline)

    def close_connection(self, connection: Any) -> None:
        """Close all channels; every `drain_events`, now and later, raises ConnectionClosed. Idempotent.

        Switches: yes; bounded by `close_timeout`.
        """
        self.events.fail(ConnectionClosed(f'{self!r} is closed'))
        session = self.session
        if session is None or self.closing is not None:
            return
        deadline = self.closing = runtime.Deadline.after(session.settings['close_timeout'] or 5.0)
        try:
            # All at once, and each to its end even if we are killed while we wait for them.
            closing = [
                runtime.spawn(close_and_tell, channel, name='greenmq-close') for channel in [*self.channels]
            ]
            for task in closing:
                task.join(deadline)
            if session.state == 'open':
                for queue in self.exclusive_queues:
                    session.router.delete_queue(queue, deadline)
        finally:
            session.leave(self, deadline)
            self.closing = None

    # ---- what the session tells (no switch)

    def on_lost(self, error: Exception) -> None:
        """The connection was lost."""
        client = self.client
        if client is not None:
            events.emit('lost', client, error=error, epoch=getattr(client, 'epoch', 0))
        self.events.report(error)

    def on_recovered(self) -> None:
        """It is back."""
        client = self.client
        if client is not None and client.transport is self:
            client.begin_epoch()
            events.emit('recovered', client, epoch=client.epoch)

    def report(self, error: Exception) -> None:
        """Something failed in the background, and is tried again."""
        self.events.report(error)

    # ---- channels

    def create_channel(self, connection: Any) -> Any:
        """Open a channel. Switches: as its constructor.

        Raises:
            ResourceError: `channel_max` are open.
        """
        if self._spare:
            return self._spare.pop()
        channel = self.Channel(connection)
        self.channels.append(channel)
        return channel

    def close_channel(self, channel: Any) -> None:
        """Forget a channel that closes."""
        self.numbers.give_back(getattr(channel, 'channel_id', 0))
        for channels in (self.channels, self._spare):
            if channel in channels:
                channels.remove(channel)
        channel.connection = None

    def take_channel_id(self) -> int:
        """A number for a new channel. Raises `ResourceError`: `channel_max` are open."""
        return self.numbers.take(self.channel_max)

    # ---- events

    def waiting_events(self, connection: Any) -> Drain[Any]:
        """See `base.Transport.waiting_events`."""
        return self.events

    def drain_events(self, connection: Any, timeout: Any = None, channel: Any = None, **kwargs: Any) -> None:
        """Handle one event of any channel in this greenlet.

        Arguments:
            timeout (float): seconds; None waits for ever.
            channel (Channel): of this channel only; from then on nobody else gets its events.
        Raises:
            TimeoutError: nothing came in time. ConnectionClosed: we closed the connection.
            Exception: what the callback raises, or what a take failed with.
        Switches: yes, unless an event waits.
        """
        if channel is not None:
            self.events.drain_lane(channel.books, self._dispatch, timeout)
            return
        session = self.session
        if session is None or session.driver.delivery != 'poll' or self.events.pending or self.events.failed:
            self.events.drain(self._dispatch, timeout)
            return
        # kombu looks when it is called and once more at the end, and programs rely on either.
        deadline = runtime.Deadline.of(timeout)
        session.intake.kick()
        handled = self.events.handled
        try:
            self.events.drain(self._dispatch, deadline)
        except TimeoutError:
            if self.events.handled != handled:
                raise  # a callback's own
            session.intake.look(runtime.Deadline.after(LAST_LOOK))
            self.events.drain(self._dispatch, 0)

    def drain_waiting(self, channel: Any) -> bool:
        """As `drain_events` of a channel; False where that would have to wait."""
        return self.events.drain_waiting(channel.books, self._dispatch)

    def _dispatch(self, event: Any) -> None:
        sub, message = event
        channel = message.channel
        ours = channel.deliveries.hand_over(sub, message)
        books = channel.books
        if books.starved and books.waiting * 2 <= (books.prefetch_count or books.fetch_ahead):
            channel.room_again()
        if ours:
            sub.callback(message)

    # ---- the rest

    @property
    def state(self) -> Any:
        """The `BrokerState` of the session."""
        return self.session.router.state

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Port and host where the URL names none."""
        return {'port': self.default_port, 'hostname': 'localhost'}

    def stats(self) -> dict[str, Any]:
        """Numbers of the session."""
        return {} if self.session is None else self.session.stats()

    def driver_version(self) -> str:
        """The version of the client library."""
        return self.Driver.version(self.session.driver) if self.session is not None else 'N/A'

    def __repr__(self) -> str:
        cls = type(self)
        return f'<{cls.__module__}.{cls.__name__}: {self.session!r}, {len(self.channels)} channels>'
