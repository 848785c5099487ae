"""The connection of a virtual transport: its channels, its events, and kombu's names for both."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Mapping
from typing import Any, ClassVar

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, WrongHub
from greenmq.log import get_logger
from greenmq.transport import base
from greenmq.transport.drain import Drain
from greenmq.transport.numbers import ChannelNumbers
from greenmq.transport.options import Option, seconds, whole
from greenmq.transport.virtual.channel import Channel, Empty
from greenmq.transport.virtual.consumers import Callbacks
from greenmq.transport.virtual.state import BrokerState
from greenmq.utils.objects import cached_property
from greenmq.utils.scheduling import FairCycle

__all__ = ('W_NO_CONSUMERS', 'Management', 'Transport')

logger = get_logger('greenmq.transport.virtual')

#: Seconds for what a channel waits for when it closes, where the transport options name none.
CLOSE_TIMEOUT = 5.0

W_NO_CONSUMERS = 'Giving back a message of queue %r: nobody consumes it.'


def close_and_tell(channel: Any) -> None:
    """Close a channel whose connection is closed, in a task: nobody is there to raise to.

    Switches: as the channel's `close`.
    """
    try:
        channel.close()
    except Exception as error:
        # What was not settled goes back to its queue by itself: of a broker that is away this is no news.
        logger.warning('%r was closed, not in good order: %s', channel, error)


class Management(base.Management):
    """Questions to a virtual broker, asked on a channel of their own.

    Source: kombu virtual.Management.
    """

    def __init__(self, transport: Any) -> None:
        super().__init__(transport)
        self.channel = transport.client.channel()

    def get_bindings(self) -> list[dict[str, str]]:
        """Return every binding as a dict of destination, source, routing_key."""
        return [
            {'destination': queue, 'source': exchange, 'routing_key': rkey}
            for queue, exchange, rkey in self.channel.list_bindings()
        ]

    def get_queues(self) -> list[str]:
        """Return the names of the queues that there are, bound or not. Switches: as the channel."""
        bound = (binding['destination'] for binding in self.get_bindings())
        return sorted({*self.channel.state.queues, *bound})

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


class Transport(base.Transport, metaclass=ABCMeta):
    """A virtual transport, which is its own connection.

    Arguments:
        client (Connection): the Connection it serves.
    Source: kombu virtual.Transport; differs: `drain_events` waits for an event and polls nothing, see
        `fetch`.
    """

    Channel: ClassVar[Any] = Channel
    Cycle: ClassVar[Any] = FairCycle
    Management: ClassVar[Any] = Management

    default_port: Any = None
    #: The open channels.
    channels: list[Any] = None  # type: ignore[assignment]
    #: Seconds between two looks, for channels that can only poll; None if their `_get` waits by itself.
    polling_interval: float | None = 1.0
    channel_max = 65535
    implements = base.Transport.implements.extend(
        asynchronous=False, exchange_type=frozenset(['direct', 'topic']), heartbeats=False
    )
    generic_options: ClassVar[bool] = True
    #: What the errors of the broker's client mean: its class, or a predicate → a class of ours, or a `Fault`.
    #: They become that wherever the base calls the channel; what is not named passes as it is.
    errors: ClassVar[Mapping[Any, Any]] = {}
    options: ClassVar[dict[str, Option]] = {
        'fetch_ahead': Option(whole, 100, 'messages that may wait here while the program sets no prefetch'),
        'max_deliveries': Option(
            whole, 0, 'deliveries of a message before it is dead-lettered; 0 is unlimited'
        ),
        'polling_interval': Option(
            seconds, 1.0, 'seconds between two looks, where the broker can only be polled'
        ),
    }

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.channels = []
        self._home = runtime.hub_id()
        self.state = BrokerState()
        given = getattr(client, 'transport_options', None) or {}
        interval = given.get('polling_interval') if hasattr(given, 'get') else None
        if interval is not None:
            self.polling_interval = interval
        self._callbacks: Any = Callbacks(self.channels)
        #: Deliveries that wait for whoever drains.
        self.events: Drain[Any] = Drain(f'{self.driver_type} connection')
        self._avail_channels: list[Any] = []
        self.numbers = ChannelNumbers()
        self._used_channel_ids = self.numbers.used
        self.closing: runtime.Deadline | None = None
        self._opening: dict[Any, int] = {}  # greenlet → the number of the channel it is about to open
        # A subclass with a `drain_events` of its own fetches in it: our tasks would take its messages away.
        self._looks = self.Channel.delivery == 'poll'
        #: Do tasks of ours fetch, and the one that does for a channel?
        self.fetches = type(self).drain_events is Transport.drain_events
        self._delivers_itself = type(self)._deliver is not Transport._deliver
        self.fetching: dict[Any, Any] = {}  # fetch task → its channel
        # A payload on its way through a subclass's `_deliver` → (subscription, Message), by its id.
        self.prepared: dict[int, tuple[Any, Any]] = {}

    # ------------------------------------------------------------ connection

    def establish_connection(self) -> Any:
        """Open one channel, so that a broker that isn't there is noticed now, and return the connection: this
        object.

        Switches: as the channel's constructor.
        """
        self.events.revive()
        self._avail_channels.append(self.create_channel(self))
        return self

    def close_connection(self, connection: Any) -> None:
        """Close all channels; every `drain_events`, now and later, raises ConnectionClosed. Idempotent.

        Switches: as the channels' `close`.
        """
        self.events.fail(ConnectionClosed(f'{self!r} is closed'))
        options = getattr(self.client, 'transport_options', None) or {}
        # One deadline for all channels, or a hundred of them would take a hundred times as long.
        self.closing = self.closing or runtime.Deadline.after(options.get('close_timeout', CLOSE_TIMEOUT))
        closing = []
        try:
            for channels in (self._avail_channels, self.channels):
                while channels:
                    channel = channels.pop()
                    if channel.closed:
                        continue
                    if channel.delivery == 'push':
                        channel.close()
                    else:
                        # All at once, and each to its end even if we are killed while we wait for them.
                        closing.append(runtime.spawn(close_and_tell, channel, name='greenmq-close'))
            for task in closing:
                task.join(self.closing)
        finally:
            self.closing = None

    def move_here(self, connection: Any) -> None:
        """See `base.Transport.move_here`. What is unsettled stays ours: nothing has to be delivered again."""
        if runtime.is_here(self._home):
            return
        if self.events.failed or not runtime.take_over(self._home, self._leave):
            raise WrongHub(repr(self))
        self._arrive()

    def _is_in_use(self) -> bool:
        """Does a greenlet of the program wait for something here, or run a callback?"""
        return self.events.in_use

    def _leave(self) -> bool:
        """Let go of what belongs to the old thread's hub; False if it is in use there."""
        if self._is_in_use():
            return False
        for channel in self.channels:
            channel.leave_here()
        return True

    def _arrive(self) -> None:
        """Go on in this thread."""
        self._home = runtime.hub_id()
        for channel in list(self.channels):
            channel.arrived_here()

    def verify_connection(self, connection: Any) -> bool:
        """Tell whether the connection is open: not closed by us."""
        return not self.events.failed

    def ping(self, connection: Any, deadline: runtime.Deadline) -> None:
        """See `base.Transport.ping`: by the channel's `_ping`, or the size of a queue.

        Switches: as the channel's hooks.
        """
        super().ping(connection, deadline)
        for channel in self.channels[:1]:
            channel.adapter.ping(deadline)

    def create_channel(self, connection: Any) -> Any:
        """Open a channel. Switches: as its constructor.

        Raises:
            ResourceError: `channel_max` are open.
        """
        if self._avail_channels:
            return self._avail_channels.pop()
        try:
            channel = self.Channel(connection)
        except BaseException:
            self.numbers.give_back(self._opening.pop(runtime.current(), 0))
            raise
        self._opening.pop(runtime.current(), None)
        self.channels.append(channel)
        return channel

    def close_channel(self, channel: Any) -> None:
        """Forget a channel that closes."""
        self.numbers.give_back(getattr(channel, 'channel_id', 0))
        for channels in (self.channels, self._avail_channels):
            if channel in channels:
                channels.remove(channel)
        channel.connection = None

    def take_channel_id(self) -> int:
        """A number for a new channel. Raises `ResourceError`: `channel_max` are open."""
        number = self._opening[runtime.current()] = self.numbers.take(self.channel_max)
        return number

    # ---------------------------------------------------------------- events

    @property
    def drains_channels(self) -> bool:
        """See `base.Transport.drains_channels`: not where a subclass has a `drain_events` of its own."""
        return self.fetches

    def waiting_events(self, connection: Any) -> Drain[Any]:
        """See `base.Transport.waiting_events`."""
        return self.events

    def drain_events(self, connection: Any, timeout: Any = None, channel: Any = None, **kwargs: Any) -> None:
        """Handle one event of any channel in this greenlet.

        Arguments:
            timeout (float): seconds; None waits for ever.
            channel (Channel): of this channel only; from then on nobody else gets its events.
        Raises:
            TimeoutError: nothing came in time.
            ConnectionClosed: we closed the connection.
            Exception: what the callback raises, or what a fetch failed with.
        Switches: yes, unless an event waits.
        """
        events = self.events
        if channel is not None:
            if self._looks:
                channel.fetcher.kick()
            events.drain_lane(channel, self._dispatch, timeout)
            return
        if not self._looks or events.pending:
            events.drain(self._dispatch, timeout)
            return
        # kombu looks when it is called and once more at the end, and programs rely on either.
        self._look_now()
        handled = events.handled
        try:
            events.drain(self._dispatch, timeout)
        except TimeoutError:
            if events.handled != handled:
                raise  # a callback's own
            self._look_now()
            events.drain(self._dispatch, 0)

    def drain_waiting(self, channel: Any) -> bool:
        """As `drain_events` of a channel; False where that would have to wait."""
        return self.events.drain_waiting(channel, self._dispatch)

    def _look_now(self) -> None:
        for channel in self.channels:
            channel.fetcher.kick()

    def _dispatch(self, event: Any) -> None:
        sub, message = event
        if sub.no_ack and sub.channel.settle_now is not None:
            sub.channel.settle_now(message.delivery_tag)
        if sub.handled():
            sub.channel.ask_for_more()
        if self._delivers_itself or sub.queue in self._callbacks.own:
            self._deliver_raw(sub, message)
        else:
            sub.callback(message)

    def _deliver_raw(self, sub: Any, message: Any) -> None:
        # By way of the subclass: it sees the payload as kombu would show it. `_receive` finds the Message
        # again.
        raw = message.raw
        self.prepared[id(raw)] = (sub, message)
        try:
            self._deliver(raw, sub.queue)
        finally:
            self.prepared.pop(id(raw), None)

    def _deliver(self, message: Any, queue: str) -> None:
        """Give a payload to the consumer of its queue; from a fetch task, by way of whoever drains.

        Raises:
            KeyError: no queue.
        Source: kombu virtual.Transport._deliver.
        """
        if not queue:
            raise KeyError(f'Received message without destination queue: {message}')
        if self.fetching and id(message) not in self.prepared:
            channel = self.fetching.get(runtime.current())
            if channel is not None:
                channel.deliveries.fetched(message, queue)
                return
        try:
            callback = self._callbacks[queue]
        except KeyError:
            logger.warning(W_NO_CONSUMERS, queue)
            self._reject_inbound_message(message, queue)
        else:
            callback(message)

    def _reject_inbound_message(self, raw_message: Any, queue: str | None = None) -> None:
        for channel in self.channels[:1]:
            channel.take_back(raw_message, queue)

    def deliver(self, message: Any, queue: str) -> None:
        """Give a payload to the consumer of its queue, as the subclass does it."""
        self._deliver(message, queue)

    def on_message_ready(self, channel: Any, message: Any, queue: str) -> None:
        """Give a payload to the consumer of its queue.

        Raises:
            KeyError: nobody consumes it.
        Source: kombu virtual.Transport.on_message_ready.
        """
        if not queue or queue not in self._callbacks:
            raise KeyError(f'Message for queue {queue!r} without consumers: {message}')
        self._callbacks[queue](message)

    def _drain_channel(self, channel: Any, callback: Any, timeout: float | None = None) -> Any:
        return channel.drain_events(callback=callback, timeout=timeout)

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Port and host where the URL names none."""
        return {'port': self.default_port, 'hostname': 'localhost'}

    @cached_property
    def cycle(self) -> Any:
        """All channels, in turn: for subclasses that bring their own `drain_events`."""
        # Made on demand: it knows us, and a ring of two would outlive every connection that was closed (P47).
        return self.Cycle(self._drain_channel, self.channels, Empty)

    @cached_property
    def manager(self) -> Any:
        """The management object of this transport."""
        return self.get_manager()

    def __repr__(self) -> str:
        cls = type(self)
        return f'<{cls.__module__}.{cls.__name__}: {len(self.channels)} channels, {self.events!r}>'
