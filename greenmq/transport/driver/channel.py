"""A channel of a driver's broker: AMQP's methods, handed on to the parts that do the work.

It owns its `Books`; everything else belongs to the session, which the channels of all connections share.
"""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from greenmq import events, runtime
from greenmq.exceptions import (
    ConnectionBlocked,
    ConnectionClosed,
    InvalidArgument,
    NotFound,
    PublishUnconfirmed,
    TimeoutError,
)
from greenmq.log import get_logger
from greenmq.transport import base
from greenmq.transport.base import to_rabbitmq_queue_arguments
from greenmq.transport.drain import drain_once
from greenmq.transport.driver.arrival import DriverMessage
from greenmq.transport.driver.books import Books, Subscription
from greenmq.transport.driver.deliveries import Deliveries
from greenmq.transport.driver.qos import QoS
from greenmq.transport.virtual import envelope
from greenmq.transport.virtual.state import queue_declare_ok_t
from greenmq.utils.uuid import uuid

if TYPE_CHECKING:
    from greenmq.transport.driver.session import Session

__all__ = ('Channel', 'QoS')

logger = get_logger('greenmq.transport.driver')

#: Seconds that the end of a consumer waits for what its last take holds, for the sake of the order.
CANCEL_SECONDS = 1.0
#: Seconds that a channel's own `drain_events` waits for what may be on its way from the broker.
UNDER_WAY = 0.25


class Channel(base.StdChannel):
    """One channel.

    Arguments:
        connection (Transport): the transport, which is its own connection.
    Attributes:
        books (Books): what it consumes and holds.
        channel_id (int): unique in the connection.
        closed (bool): True once `close` was called.
    """

    Message: Any = DriverMessage
    QoS: Any = QoS
    #: What `StdChannel` and kombu's programs ask.
    supports_fanout = True
    do_restore = True
    default_priority = 0
    #: Transport options that kombu's channels copied to attributes.
    from_transport_options: tuple[str, ...] = ()

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.connection = connection
        self.session: Session = connection.session
        settings = self.session.settings
        self.closed = False
        self.books = Books(settings['fetch_ahead'])
        self.no_ack_consumers: set[str] = set()
        self.deliveries = Deliveries(self.books, self.session, connection.events)
        self.channel_id = connection.take_channel_id()
        self._epoch = self.session.epoch
        self._hub = runtime.hub_id()
        self._limits = runtime.Limits()
        self._operation = settings['operation_timeout']
        self._close_timeout = settings['close_timeout'] or 5.0

    # ---- small questions

    @property
    def state(self) -> Any:
        """The `BrokerState`: what was declared over this session."""
        return self.session.router.state

    @property
    def qos(self) -> Any:
        """The prefetch and what is unsettled."""
        return self.QoS(self)

    @property
    def prefetch_count(self) -> int:
        """What `basic_qos` set last; 0 is unlimited."""
        return self.books.prefetch_count

    @property
    def active_queues(self) -> set[str]:
        """The queues that are consumed."""
        return set(self.books.queues)

    @property
    def _vhost(self) -> str:
        return getattr(self.connection.client, 'virtual_host', None) or '/'

    def within(self, deadline: runtime.Deadline) -> AbstractContextManager[None]:
        """Hold every call that this greenlet makes in the block to a deadline."""
        return self._limits.held(deadline)

    def _soon(self) -> runtime.Deadline:
        return self._limits.within(self._operation)

    def _check_open(self) -> None:
        if self.closed or self.session.state == 'foreign':
            raise ConnectionClosed(f'{self!r} is closed')

    # ---- exchanges

    def exchange_declare(
        self, exchange: str | None = None, type: str = 'direct', durable: bool = False,
        auto_delete: bool = False, arguments: Any = None, nowait: bool = False, passive: bool = False,
    ) -> None:  # fmt: skip
        """Declare an exchange, or with `passive` only look for it.

        Raises:
            NotFound: `passive`, and there is none. NotEquivalentError: it exists and differs.
            InvalidArgument: a type that greenmq doesn't know.
        """
        self._check_open()
        type = type or 'direct'
        exchange = exchange or f'amq.{type}'
        if not passive:
            router = self.session.router
            router.declare_exchange(exchange, type, durable, auto_delete, arguments, self._vhost)
        elif exchange not in self.state.exchanges:
            raise not_found('exchange', exchange, self._vhost, (40, 10), 'Channel.exchange_declare')

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange with its bindings; none of that name is fine.

        Raises:
            PreconditionFailed: `if_unused`, and something is bound to it.
        Switches: if bindings are shared.
        """
        self.session.router.delete_exchange(exchange, if_unused, self._soon())

    def exchange_bind(
        self, destination: str, source: str = '', routing_key: str = '', nowait: bool = False,
        arguments: Any = None,
    ) -> None:  # fmt: skip
        """Let exchange `destination` receive what `source` routes so.

        Raises:
            NotFound: one of them is not declared. NotImplementedError: the bindings are shared.
        """
        self.session.router.bind_exchange(destination, source, routing_key or '', arguments)

    def exchange_unbind(
        self, destination: str, source: str = '', routing_key: str = '', nowait: bool = False,
        arguments: Any = None,
    ) -> None:  # fmt: skip
        """Undo `exchange_bind`; no such binding is fine."""
        self.session.router.unbind_exchange(destination, source, routing_key or '', arguments)

    def typeof(self, exchange: str, default: str = 'direct') -> Any:
        """Return the type of an exchange, as an object with a `type`."""
        from greenmq.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES

        record = self.state.exchanges.get(exchange)
        return STANDARD_EXCHANGE_TYPES[(record['type'] if record else default) or default](self)

    def get_exchanges(self) -> list[str]:
        """Return the names of all exchanges."""
        return list(self.state.exchanges)

    # ---- queues

    def queue_declare(
        self, queue: str | None = None, passive: bool = False, **kwargs: Any
    ) -> queue_declare_ok_t:
        """Declare a queue, or with `passive` only look for it.

        Arguments:
            queue (str): its name; one is made up if there is none.
            durable (bool), exclusive (bool), auto_delete (bool), arguments (dict): as in AMQP.
        Returns:
            queue_declare_ok_t: name, messages in it, consumers known here.
        Raises:
            NotFound: `passive`, and there is none.
        Switches: yes.
        """
        self._check_open()
        session, deadline = self.session, self._soon()
        queue = queue or f'{session.driver.made_up}{uuid()}'
        size: int | None = None
        if passive:
            if not session.router.has_queue(queue, deadline):
                raise not_found('queue', queue, self._vhost, (50, 10), 'Channel.queue_declare')
        else:
            facts = {**kwargs, 'arguments': dict(kwargs.get('arguments') or ())}
            size = session.router.make_queue(queue, facts, deadline)
            if kwargs.get('exclusive'):
                self.connection.exclusive_queues.add(queue)
        if size is None or session.settler.pending:
            size = session.router.size(queue, deadline)
        return queue_declare_ok_t(queue, size, session.consumers(queue))

    def queue_bind(
        self, queue: str, exchange: str | None = None, routing_key: str = '', arguments: Any = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """Bind a queue to an exchange; the same binding twice is one.

        Raises:
            NotFound: the exchange isn't declared.
        Switches: if bindings are shared.
        """
        router = self.session.router
        router.bind(queue, exchange or 'amq.direct', routing_key or '', arguments, self._vhost, self._soon())

    def queue_unbind(
        self, queue: str, exchange: str | None = None, routing_key: str = '', arguments: Any = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """Remove a binding; no such binding is fine. An auto_delete exchange goes with its last one.

        Switches: if bindings are shared.
        """
        exchange = exchange or 'amq.direct'
        router = self.session.router
        router.unbind(queue, exchange, routing_key or '', arguments, self._soon())

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> int:
        """Delete a queue, its messages and its bindings; none of that name is fine.

        Arguments:
            if_empty (bool): only if it has no messages. if_unused (bool): only if nobody consumes it.
        Returns:
            int: messages deleted.
        Switches: yes.
        """
        session, deadline = self.session, self._soon()
        count = session.router.size(queue, deadline)
        if (if_empty and count) or (if_unused and session.consumers(queue)):
            return 0
        session.router.delete_queue(queue, deadline)
        for channel in session.channels:
            channel.queue_gone(queue)
        return int(count or 0)

    def queue_gone(self, queue: str) -> None:
        """A queue was deleted: its consumers here end, and it is told."""
        for sub in [sub for sub in self.books.subscriptions.values() if sub.queue == queue]:
            self.deliveries.unseen(self.deliveries.discard(lambda each, sub=sub: each is sub))
            self._remove(sub)
            logger.warning('%r: queue %r was deleted, and consumer %r with it', self, queue, sub.tag)
            events.emit('consumer_lost', source=self, consumer_tag=sub.tag, queue=queue)

    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        """Delete the messages of a queue that nobody has; return how many. Switches: yes."""
        return self.session.router.purge_queue(queue, self._soon())

    def list_bindings(self) -> list[tuple[str, str, str]]:
        """Return (queue, exchange, routing key) of every binding made here."""
        return self.session.router.list_bindings()

    def get_bindings(self) -> list[dict[str, str]]:
        """Return every binding made here as a dict of destination, source, routing_key."""
        return [
            {'destination': queue, 'source': exchange, 'routing_key': key}
            for queue, exchange, key in self.list_bindings()
        ]

    def get_table(self, exchange: str) -> Any:
        """Return the bindings of an exchange made here: (routing key, pattern, queue)."""
        return self.state.exchanges[exchange]['table']

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> dict[str, Any]:
        """Return `arguments` with a Queue's `expires`, `message_ttl`, … as RabbitMQ names them."""
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def has_dead_letter(self, queue: str) -> bool:
        """Tell whether a message rejected from `queue` is kept somewhere."""
        return bool(self.session.router.has_dead_letter(queue))

    def after_reply_message_received(self, queue: str) -> None:
        """Delete a queue that served for one reply. Switches: as `queue_delete`."""
        self.queue_delete(queue)

    # ---- publish

    prepare_message = envelope.prepare_message

    def basic_publish(
        self, message: Any, exchange: str, routing_key: str, mandatory: bool = False,
        immediate: bool = False, timeout: Any = None, confirm_timeout: Any = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        """Publish what `prepare_message` made; the broker has it when this returns.

        Arguments:
            mandatory (bool): raise if no queue would get it.
            timeout (Deadline | float): for all of it, a recovery included.
        Raises:
            Unroutable: `mandatory`, and no queue would get it.
            PublishUnconfirmed: not in time, or cut; `sent` says whether it may have arrived.
            InvalidArgument: what this broker can't take, before anything is sent.
            ConnectionClosed: the channel is closed. WrongHub: called in another native thread.
        Switches: yes. Killed: each copy is put whole or not at all.
        """
        session = self.session
        if self.closed or session.state == 'foreign':
            self._check_open()
        session.check_here()
        deadline = timeout if timeout.__class__ is runtime.Deadline else runtime.Deadline.of(timeout)
        try:
            session.publish(message, exchange, routing_key, bool(mandatory), deadline)
        except TimeoutError as error:
            if isinstance(error, (ConnectionBlocked, PublishUnconfirmed)):
                raise
            # Of a wait before anything was put: for the connection, or for the bindings.
            raise PublishUnconfirmed(str(error), sent='no') from error

    def basic_publish_nowait(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Publish without waiting.

        Returns:
            runtime.Future: resolves when the broker has it, or to the error.
        Switches: no; a task publishes.
        """
        return publish_soon(self, message, exchange, routing_key, kwargs)

    def decode_body(self, body: Any, encoding: str | None = None) -> Any:
        """Return the bytes of a body.

        Raises:
            KeyError: an encoding nobody knows.
        """
        if encoding == 'base64':
            return a2b_base64(body)  # what Base64.decode comes to, without two calls
        if not encoding or encoding.lower() == 'utf-8':
            return body
        raise KeyError(encoding)

    # ---- consume

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Limit the unsettled messages of this channel; 0 for no limit.

        Raises:
            InvalidArgument: a negative number.
        """
        if prefetch_count is not None and prefetch_count < 0:
            raise InvalidArgument('prefetch_count', prefetch_count, 'is negative')
        self.books.prefetch_count = prefetch_count or 0
        self.room_again()

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> None:
        """Deliver the messages of `queue` to `callback(message)`, called by whoever drains.

        Raises:
            AccessRefused: one of two consumers in this thread wants the queue for itself, see `Router.admit`.
        """
        self._check_open()
        if consumer_tag in self.books.subscriptions:
            self.basic_cancel(consumer_tag)
        self.session.router.learn(queue, self._soon())
        self._check_open()  # still
        self.session.router.admit(queue, bool(kwargs.get('exclusive')), self._vhost)
        exclusive, arguments = bool(kwargs.get('exclusive')), kwargs.get('arguments')
        self.books.add(Subscription(consumer_tag, queue, bool(no_ack), callback, exclusive, arguments))
        if no_ack:
            self.no_ack_consumers.add(consumer_tag)
        self.session.intake.refresh(self)

    def basic_cancel(self, consumer_tag: str) -> None:
        """End a consumer; what waits for its callback goes back to the queue. An unknown tag is fine.

        Switches: if a take is on its way, or its queue goes with it. Killed: ended all the same.
        """
        sub = self.books.subscriptions.get(consumer_tag)
        if sub is None:
            return
        flights = self._remove(sub)
        waiting = self.deliveries.discard(lambda each: each is sub)
        try:
            # What it took goes back first, then what was delivered before it.
            self.session.intake.join(flights, runtime.Deadline.after(CANCEL_SECONDS))
        finally:
            self.deliveries.unseen(waiting)
            self.room_again()  # for the others: the take that followed found none
        if self.session.router.facts(sub.queue).get('auto_delete') and not self.session.consumers(sub.queue):
            if not self.closed and self.session.state == 'open':
                self.queue_delete(sub.queue)

    def _remove(self, sub: Subscription) -> list[Any]:
        self._forget(sub)
        return self.session.intake.refresh(self)

    def _forget(self, sub: Subscription) -> None:
        self.books.remove(sub.tag)
        self.no_ack_consumers.discard(sub.tag)
        if not self.books.takes(sub.queue):
            self.session.driver.dropped(self, sub.queue)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Take one message now.

        Returns:
            Message: or None if there is none.
        Switches: yes. Killed: nothing is taken.
        """
        self._check_open()
        found = self.deliveries.take_one(self, queue, self._soon)
        if found is None:
            return None
        taken, message = found
        if no_ack:
            self.session.settler.done(taken)
        else:
            self.books.unsettled.add(message.delivery_tag, message)
        return message

    def message_to_python(self, raw_message: Any) -> Any:
        """Return a Message of a payload; one that is a Message already stays as it is."""
        return (
            raw_message if isinstance(raw_message, self.Message) else self.Message(raw_message, channel=self)
        )

    def consumes(self, consumer_tag: str) -> bool:
        """See `StdChannel.consumes`: also its messages are fetched, and the last fetch did not fail."""
        sub = self.books.subscriptions.get(consumer_tag)
        if self.closed or sub is None:
            return False
        poller = self.session.intake.poller_of(self, sub.queue)
        return poller is not None and poller.state not in ('backoff', 'paused')

    def flow(self, active: bool = True) -> bool:
        """Stop the deliveries to this channel's consumers, or go on."""
        self.books.flowing = bool(active)
        self.room_again()
        return self.books.flowing

    def drain_events(self, timeout: float | None = None, **kwargs: Any) -> None:
        """Handle one event of this channel's connection, if one comes in time. Raises: Empty."""
        drain_once(self.connection, UNDER_WAY if timeout is None else timeout)

    def room_again(self) -> None:
        """There is room for more deliveries: have them fetched."""
        books = self.books
        if books.subscriptions and not self.closed:
            books.starved = False
            self.session.intake.kick_channel(self)

    # ---- settle

    def is_stale(self, delivery_tag: Any) -> bool:
        """Is a delivery not ours any more?"""
        return self.closed or self.deliveries.is_stale(delivery_tag)

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> bool | None:
        """Settle a message, with `multiple` also all delivered before it.

        Returns:
            bool | None: False if the channel is closed or the lease has ended: it is delivered again.
        """
        if self.closed:
            return False
        if not runtime.is_here(self._hub):
            return self._at_home(self.basic_ack, delivery_tag, multiple)
        settled = self.deliveries.ack(delivery_tag, multiple)
        if self.books.starved:
            self.room_again()
        return settled

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> bool | None:
        """Refuse a message: dead-lettered or dropped, or with `requeue` back to the front of its queue.

        Returns:
            bool | None: as `basic_ack`.
        Switches: no; a task publishes it to the dead letters.
        """
        if self.closed:
            return False
        if not runtime.is_here(self._hub):
            return self._at_home(self.basic_reject, delivery_tag, requeue)
        settled = self.deliveries.reject(delivery_tag, requeue)
        if self.books.starved:
            self.room_again()
        return settled

    def _at_home(self, settle: Callable[..., Any], *args: Any) -> bool | None:
        # Have the thread of the channel do it, soon: worker threads settle what another thread drained.
        return None if runtime.post(self._hub, partial(settle, *args)) else False

    def lose(self) -> None:
        """The connection was lost, and the broker gave back all that was out."""
        self.deliveries.lose()

    def basic_recover(self, requeue: bool = False) -> Any:
        """Give back all that is unsettled on this channel.

        Raises:
            NotImplementedError: without `requeue`, as brokers have it.
        """
        if not requeue:
            raise NotImplementedError('Does not support recover(requeue=False)')
        self.deliveries.give_back(self.deliveries.discard(lambda sub: not sub.no_ack))
        self.room_again()

    # ---- closing

    def close(self) -> None:
        """End the consumers, give back what is unsettled, and leave the connection. Idempotent.

        Switches: yes; bounded by `close_timeout`. Killed: what is to be given back still goes.
        """
        if self.closed:
            return
        self.closed = True
        connection, session = self.connection, self.session
        deadline = connection.closing or runtime.Deadline.after(self._close_timeout)
        doomed = [
            queue for queue in self.books.queues
            if session.router.facts(queue).get('auto_delete') and session.consumers(queue) == 1
        ]  # fmt: skip
        for sub in list(self.books.subscriptions.values()):
            self._forget(sub)
        flights = session.intake.refresh(self)
        try:
            session.intake.join(flights, deadline)
        finally:
            self.deliveries.give_back(self.deliveries.discard(lambda sub: True))
            connection.events.discard(self.books)
            connection.close_channel(self)
        if runtime.in_hub() or session.state != 'open':
            session.settler.flush()
            return
        for queue in doomed:
            session.router.delete_queue(queue, deadline)
        if session.settler.pending:
            session.settler.wait(deadline)

    def __repr__(self) -> str:
        state = 'closed' if self.closed else self.session.intake.state
        return f'<{self.__module__}.{type(self).__name__} {self.channel_id}: {state}, {self.books!r}>'


def not_found(kind: str, name: str, vhost: str, sig: tuple[int, int], method: str) -> NotFound:
    """The error that a broker of AMQP has for what is not there."""
    return NotFound(f'NOT_FOUND - no {kind} {name!r} in vhost {vhost!r}', sig, method, 404)


def publish_soon(
    channel: Channel, message: Any, exchange: str, routing_key: str, kwargs: dict[str, Any]
) -> runtime.Future:
    """Publish in a task; the future resolves when the broker has it, or to the error."""
    future = runtime.Future()
    kwargs.setdefault('timeout', 30.0)
    runtime.spawn(
        _publish_for, future, channel, message, exchange, routing_key, kwargs, name='greenmq-publish'
    )
    return future


def _publish_for(
    future: Any, channel: Channel, message: Any, exchange: str, routing_key: str, kwargs: dict[str, Any]
) -> None:
    try:
        channel.basic_publish(message, exchange, routing_key, **kwargs)
        future.set_result()
    except Exception as error:  # whoever asks the future gets it
        future.set_exception(error)
