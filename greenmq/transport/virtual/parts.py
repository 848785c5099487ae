"""What every part of a virtual channel stands on: the contract with the broker, the settings, the books."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from queue import Empty
from typing import Any, ClassVar

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed
from greenmq.transport import base
from greenmq.transport.virtual.consumers import Board, Subscription
from greenmq.transport.virtual.envelope import Base64, Message
from greenmq.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES
from greenmq.transport.virtual.fetch import Fetcher
from greenmq.transport.virtual.qos import QoS
from greenmq.transport.virtual.settle import Settling
from greenmq.utils.scheduling import FairCycle

__all__ = ('AbstractChannel', 'ChannelParts', 'Empty')


class AbstractChannel:
    """What a broker must give: the contract of a virtual channel. See the text above.

    Source: kombu virtual.AbstractChannel.
    """

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        """Take the next message from `queue`, or raise `Empty`."""
        raise NotImplementedError('Virtual channels must implement _get')

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        """Put a message into `queue`."""
        raise NotImplementedError('Virtual channels must implement _put')

    def _purge(self, queue: str) -> int:
        """Remove all messages of `queue`; return how many."""
        raise NotImplementedError('Virtual channels must implement _purge')

    def _size(self, queue: str) -> int:
        """Return how many messages wait in `queue`."""
        return 0

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Delete `queue`; called once for each of its bindings, with (exchange, routing key, pattern,
        queue).
        """
        self._purge(queue)

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        """Make `queue`; it may exist."""

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        """Tell whether `queue` exists."""
        return True

    def _poll(self, cycle: Any, callback: Callable[..., Any], timeout: float | None = None) -> Any:
        """Ask the queues in turn until one has a message."""
        return cycle.get(callback)

    def _get_and_deliver(self, queue: str, callback: Callable[..., Any]) -> None:
        """Take one message and give it to `callback(payload, queue)`."""
        callback(self._get(queue), queue)

    def _abandon(self, items: list[tuple[str, Any]]) -> None:
        """Take back (queue, payload) pairs that a fetch brought too late."""
        give_back(self, items)


def give_back(channel: Any, items: list[tuple[str, Any]]) -> None:
    """Give back (queue, payload) pairs that nobody wants any more."""
    for queue, payload in items:
        if channel.settle_now is None:
            channel._put(queue, payload)
        else:
            # The broker still has it, under the lease: put again, there would be two.
            channel._settling.reject(channel._make_message(payload, queue).delivery_tag, True)


class ChannelParts(AbstractChannel, base.StdChannel):
    """The state of a virtual channel. `Channel` adds the methods of AMQP, each group in a module of its
    own.
    """

    #: How messages come: 'push', 'wait' or 'poll'.
    delivery: ClassVar[str] = 'poll'
    Message: Any = Message
    QoS: Any = QoS
    #: Does closing give back what is unsettled?
    do_restore = True
    #: Codecs of bodies, by name.
    codecs: ClassVar[dict[str, Any]] = {'base64': Base64()}
    #: Codec of the bodies we publish; None puts them as they are.
    body_encoding: str | None = 'base64'
    supports_fanout = False
    #: Exchange type → class; of an instance, → object.
    exchange_types: Any = STANDARD_EXCHANGE_TYPES
    #: Where messages go that no queue is bound for.
    deadletter_queue: str | None = None
    #: Transport options copied to attributes of the same names.
    from_transport_options: tuple[str, ...] = ('body_encoding', 'deadletter_queue')
    default_priority = 0
    min_priority = 0
    max_priority = 9
    #: Messages that may wait in this process for a callback while the program set no prefetch.
    fetch_ahead = 100
    #: Seconds that one fetch waits at the broker in delivery 'wait'.
    wait_timeout = 10.0
    #: Seconds that a delivery is ours without `_extend`; None for as long as we are connected.
    lease_seconds: float | None = None
    #: Deliveries of one message before it's dead-lettered; 0 for any number.
    max_deliveries = 0

    _settle: Any = None
    _extend: Any = None

    # What one group of methods calls of another.
    basic_publish: Any
    decode_body: Any
    prepare_message: Any
    get_table: Any
    typeof: Any
    queue_delete: Any
    _ask_for_more: Any
    _consumer_count: Any
    _lookup: Any
    _put_back: Any
    _queue_bind: Any
    _table: Any

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.connection = connection
        self._hub = runtime.hub_id()
        self.closed = False
        self.no_ack_consumers: set[str] = set()
        self._consumers: set[str] = set()
        self._tag_to_queue: dict[str, str] = {}
        self._active_queues: list[str] = []
        self._subscriptions: dict[str, Subscription] = {}
        self._takers: dict[str, deque[Subscription]] = {}
        self._cycle: Any = None
        self._qos: Any = None
        self._flowing = True
        # Queues (or groups of a fetcher) whose consumers here had no room, the longest waiting first.
        self._starved: OrderedDict[Any, None] = OrderedDict()
        self.exchange_types = {name: cls(self) for name, cls in type(self).exchange_types.items()}
        self._own_routes = (
            getattr(type(self).get_table, '__module__', '') == 'greenmq.transport.virtual.entities'
        )
        self._fetcher = Fetcher(self)
        self._settling = Settling(self) if self._settle is not None or self._extend is not None else None
        #: Settles what needs no ack, where the broker waits for one all the same; None elsewhere.
        self.settle_now = self._settling.ack if self._settling is not None and self._settle else None
        self.channel_id = self._get_free_channel_id()
        options = getattr(connection.client, 'transport_options', None) or {}
        self._close_timeout = options.get('close_timeout') or 5.0
        for name in (*self.from_transport_options, 'fetch_ahead', 'max_deliveries'):
            if options.get(name) is not None:
                setattr(self, name, options[name])

    @property
    def board(self) -> Board:
        """Where a channel that delivers by push says that a queue has messages."""
        board = getattr(self.state, 'board', None)
        if board is None:
            board = self.state.board = Board()
        return board

    @property
    def qos(self) -> Any:
        """The unsettled deliveries and the prefetch of this channel."""
        qos = self._qos
        if qos is None:
            qos = self._qos = self.QoS(self)
        return qos

    @property
    def cycle(self) -> Any:
        """The consumed queues in turn, for `_poll`."""
        if self._cycle is None:
            self._reset_cycle()
        return self._cycle

    def _reset_cycle(self) -> None:
        self._cycle = FairCycle(self._get_and_deliver, self._active_queues, Empty)

    def _get_free_channel_id(self) -> int:
        return int(self.connection._take_channel_id())

    def _check_open(self) -> None:
        if self.closed:
            raise ConnectionClosed(f'{self!r} is closed')

    @property
    def state(self) -> Any:
        """The `BrokerState` of the connection's transport."""
        return self.connection.state
