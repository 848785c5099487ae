"""What every part of a virtual channel stands on: the contract with the broker, the settings, the books."""

from __future__ import annotations

from typing import Any, ClassVar

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed
from greenmq.transport import base
from greenmq.transport.virtual.adapter import AbstractChannel, Adapter, Empty
from greenmq.transport.virtual.books import Books
from greenmq.transport.virtual.consumers import Board
from greenmq.transport.virtual.entities import Entities
from greenmq.transport.virtual.envelope import CODECS, Message
from greenmq.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES
from greenmq.transport.virtual.fetch import Fetcher
from greenmq.transport.virtual.qos import QoS
from greenmq.transport.virtual.settle import Settling
from greenmq.utils.objects import alias
from greenmq.utils.scheduling import FairCycle

__all__ = ('AbstractChannel', 'ChannelParts', 'Empty')


class ChannelParts(AbstractChannel, base.StdChannel):
    """The state of a virtual channel. `Channel` adds the methods of AMQP, each group in a module of its
    own.
    """

    #: How messages come: 'push', 'wait' or 'poll'.
    delivery: ClassVar[str] = 'poll'
    #: Which queues one `_get_many` of delivery 'wait' may be about: 'all', or 'each' by itself.
    groups: ClassVar[str] = 'all'
    Message: Any = Message
    QoS: Any = QoS
    #: Does closing give back what is unsettled?
    do_restore = True
    #: Codecs of bodies, by name.
    codecs: ClassVar[dict[str, Any]] = CODECS
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

    _qos: Any = alias('books', 'qos')

    # What one group of methods calls of another.
    basic_publish: Any
    decode_body: Any
    prepare_message: Any
    queue_delete: Any
    typeof: Any
    ask_for_more: Any
    _consumer_count: Any
    _lookup: Any
    _put_back: Any

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.connection = connection
        self._hub = runtime.hub_id()
        self.closed = False
        self.no_ack_consumers: set[str] = set()
        self._consumers: set[str] = set()
        self._tag_to_queue: dict[str, str] = {}
        self._active_queues: list[str] = []
        self.books = Books()
        self._cycle: Any = None
        self.exchange_types = {name: cls(self) for name, cls in type(self).exchange_types.items()}
        self.adapter = Adapter(self, connection.errors)
        vhost = getattr(connection.client, 'virtual_host', None) or '/'
        self.entities = Entities(
            self.adapter, connection, self.exchange_types, vhost, self.adapter.own_routes
        )
        self.fetcher = Fetcher(self)
        settling = Settling(self) if self.adapter.settles or self.adapter.extends else None
        self.settling: Any = settling
        #: Settles what needs no ack, where the broker waits for one all the same; None elsewhere.
        self.settle_now = settling.ack if settling is not None and self.adapter.settles else None
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
        qos = self.books.qos
        if qos is None:
            qos = self.books.qos = self.QoS(self)
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
        return int(self.connection.take_channel_id())

    def _check_open(self) -> None:
        if self.closed:
            raise ConnectionClosed(f'{self!r} is closed')

    def has_dead_letter(self, queue: str) -> bool:
        """Tell whether a message rejected from `queue` is kept somewhere."""
        arguments = self.state.queues.get(queue, {}).get('arguments') or {}
        return arguments.get('x-dead-letter-exchange') is not None

    @property
    def active_queues(self) -> set[str]:
        """The queues that are consumed."""
        return set(self.books.takers)

    @property
    def state(self) -> Any:
        """The `BrokerState` of the connection's transport."""
        return self.connection.state
