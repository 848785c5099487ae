"""Mailboxes of processes: commands to one or all nodes, and their replies."""

from __future__ import annotations

import socket
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from time import time
from typing import Any, TypeVar

from greenmq import runtime
from greenmq.clocks import LamportClock
from greenmq.common import maybe_declare, oid_from
from greenmq.core.commands import number_of
from greenmq.entity import Exchange, Queue
from greenmq.exceptions import InconsistencyError, InvalidArgument, TimeoutError
from greenmq.matcher import match
from greenmq.messaging import Consumer, Producer
from greenmq.node import W_PIDBOX_IN_USE, Node, debug, error
from greenmq.utils.functional import maybe_evaluate
from greenmq.utils.objects import cached_property
from greenmq.utils.text import printable
from greenmq.utils.uuid import uuid

__all__ = ('REPLY_QUEUE_EXPIRES', 'W_PIDBOX_IN_USE', 'Mailbox', 'Node', 'debug', 'error', 'match')

#: Seconds without use after which the broker removes a queue of replies.
REPLY_QUEUE_EXPIRES = 10


_MailboxT = TypeVar('_MailboxT', bound='Mailbox')

#: Requests whose late replies are kept for the greenlet that may still ask for them.
_UNCLAIMED_LIMIT = 1000


class Mailbox:
    """Sends commands to nodes and collects what they answer.

    Arguments:
        namespace (str): keeps the mailboxes of one broker apart.
        type (str): of the exchange; 'fanout' reaches every node.
        connection (Connection): unless given to each call of the mailbox.
        clock (LamportClock): shared with the rest of the program.
        accept (list[str]): what may be decoded. Default json.
        serializer (str): of commands.
        producer_pool (ProducerPool): to publish with.
        queue_ttl, reply_queue_ttl (float): seconds a message may wait in a queue.
        queue_expires, reply_queue_expires (float): seconds without use after which a queue goes.
        queue_durable, queue_exclusive (bool): of the nodes' queues; not both.

    Greenlets may share one: each has a reply queue of its own.

    Source: kombu.pidbox.Mailbox.
    """

    node_cls = Node
    exchange_fmt = '%s.pidbox'
    reply_exchange_fmt = 'reply.%s.pidbox'
    #: Names or shell patterns of the exchanges, beside the mailbox's own one, to which a command may have its
    #: node reply. A sender could name any other one in `reply_to`.
    reply_exchanges: tuple[str, ...] = ('reply.*.pidbox',)

    namespace: str | None = None
    connection: Any = None
    type: str = 'direct'
    exchange: Any = None
    reply_exchange: Any = None
    accept: Any = ['json']
    serializer: str | None = None

    def __init__(
        self,
        namespace: str,
        type: str = 'direct',
        connection: Any = None,
        clock: Any = None,
        accept: Any = None,
        serializer: str | None = None,
        producer_pool: Any = None,
        queue_ttl: float | None = None,
        queue_expires: float | None = None,
        queue_durable: bool = False,
        queue_exclusive: bool = True,
        reply_queue_ttl: float | None = None,
        reply_queue_expires: float = 10.0,
    ) -> None:
        if queue_durable and queue_exclusive:
            raise InvalidArgument(
                'queue_durable', queue_durable,
                'does not go with queue_exclusive: an exclusive queue ends with its connection',
            )  # fmt: skip
        self.namespace = namespace
        self.connection = connection
        self.type = type
        self.clock = LamportClock() if clock is None else clock
        self.exchange = self._get_exchange(namespace, type)
        self.reply_exchange = self._get_reply_exchange(namespace)
        self.unclaimed: defaultdict[str, deque[Any]] = defaultdict(deque)
        self._own = runtime.Local()
        self.accept = self.accept if accept is None else accept
        self.serializer = self.serializer if serializer is None else serializer
        self.queue_ttl = queue_ttl
        self.queue_expires = queue_expires
        self.queue_durable = queue_durable
        self.queue_exclusive = queue_exclusive
        self.reply_queue_ttl = reply_queue_ttl
        self.reply_queue_expires = reply_queue_expires
        self._producer_pool = producer_pool

    def __call__(self: _MailboxT, connection: Any) -> _MailboxT:
        """Give a copy of the mailbox that uses `connection`."""
        bound = copy(self)
        bound.connection = connection
        return bound

    def Node(
        self,
        hostname: str | None = None,
        state: Any = None,
        channel: Any = None,
        handlers: dict[str, Callable[..., Any]] | None = None,
    ) -> Node:
        """Make a node of this mailbox.

        Arguments:
            hostname (str): default: that of the host.
        Source: kombu Mailbox.Node.
        """
        return self.node_cls(hostname or socket.gethostname(), state, channel, handlers, mailbox=self)

    def call(
        self,
        destination: Any,
        command: str,
        kwargs: dict[str, Any] | None = None,
        timeout: float | None = None,
        callback: Callable[[Any], Any] | None = None,
        channel: Any = None,
    ) -> Any:
        """Send a command to some nodes and collect their replies.

        Arguments:
            destination (list[str]): names of nodes.
            timeout (float | None): seconds to wait for each reply.
            callback (Callable): called with each reply.
        Returns:
            list[dict[str, object]]: for each reply, the node's name and what its handler returned.
        Switches: yes.
        Source: kombu Mailbox.call.
        """
        return self._broadcast(
            command,
            kwargs or {},
            destination,
            reply=True,
            timeout=timeout,
            callback=callback,
            channel=channel,
        )

    def cast(self, destination: Any, command: str, kwargs: dict[str, Any] | None = None) -> Any:
        """Send a command to some nodes, without a reply.

        Switches: yes.
        Source: kombu Mailbox.cast.
        """
        return self._broadcast(command, kwargs or {}, destination, reply=False)

    def abcast(self, command: str, kwargs: dict[str, Any] | None = None) -> Any:
        """Send a command to all nodes, without a reply.

        Switches: yes.
        Source: kombu Mailbox.abcast.
        """
        return self._broadcast(command, kwargs or {}, reply=False)

    def multi_call(
        self,
        command: str,
        kwargs: dict[str, Any] | None = None,
        timeout: float | None = 1,
        limit: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        channel: Any = None,
    ) -> Any:
        """Send a command to all nodes and collect their replies.

        Arguments:
            timeout (float | None): seconds to wait for each reply.
            limit (int | None): end after that many.
        Returns:
            list[dict[str, object]]: as `call`.
        Switches: yes.
        Source: kombu Mailbox.multi_call.
        """
        return self._broadcast(
            command,
            kwargs or {},
            reply=True,
            timeout=timeout,
            limit=limit,
            callback=callback,
            channel=channel,
        )

    def get_reply_queue(self) -> Queue:
        """Make the queue where this greenlet's replies arrive.

        Source: kombu Mailbox.get_reply_queue.
        """
        oid = self.oid
        return Queue(
            f'{oid}.{self.reply_exchange.name}',
            exchange=self.reply_exchange,
            routing_key=oid,
            durable=self.queue_durable,
            auto_delete=not self.queue_durable,
            exclusive=self.queue_exclusive,
            expires=self.reply_queue_expires,
            message_ttl=self.reply_queue_ttl,
        )

    @property
    def reply_queue(self) -> Queue:
        """The queue where this greenlet's replies arrive."""
        own = self._own
        queue: Queue | None = getattr(own, 'reply_queue', None)
        if queue is None:
            queue = own.reply_queue = self.get_reply_queue()
        return queue

    def get_queue(self, hostname: str | None) -> Queue:
        """Make the queue of a node's commands.

        Source: kombu Mailbox.get_queue.
        """
        return Queue(
            f'{hostname}.{self.namespace}.pidbox',
            exchange=self.exchange,
            durable=self.queue_durable,
            exclusive=self.queue_exclusive,
            auto_delete=not self.queue_durable,
            expires=self.queue_expires,
            message_ttl=self.queue_ttl,
        )

    @contextmanager
    def producer_or_acquire(self, producer: Any = None, channel: Any = None) -> Iterator[Any]:
        """Give a producer: the given one, one of the pool, or one on `channel`.

        Switches: yes if the pool has none free.
        Source: kombu Mailbox.producer_or_acquire.
        """
        if producer:
            yield producer
        elif self.producer_pool:
            with self.producer_pool.acquire() as producer:
                yield producer
        else:
            yield Producer(channel, auto_declare=False)

    def publish_reply(self, *args: Any, **kwargs: Any) -> None:
        """Send a reply, as a subclass may have it. Switches: yes."""
        self._publish_reply(*args, **kwargs)

    def _publish_reply(
        self,
        reply: Any,
        exchange: str,
        routing_key: str,
        ticket: str | None,
        channel: Any = None,
        producer: Any = None,
        **opts: Any,
    ) -> None:
        channel = channel or self.connection.default_channel
        where = Exchange(exchange, type='direct', delivery_mode='transient', durable=False)
        with self.producer_or_acquire(producer, channel) as producer:
            try:
                producer.publish(
                    reply,
                    exchange=where,
                    routing_key=routing_key,
                    declare=[where],
                    headers={'ticket': ticket, 'clock': self.clock.forward()},
                    retry=True,
                    **opts,
                )
            except InconsistencyError:
                # The queue of replies is gone: whoever asked does not wait any more.
                debug('nobody waits for the reply to %r', ticket)

    def _publish(
        self,
        type: str,
        arguments: dict[str, Any],
        destination: Any = None,
        reply_ticket: str | None = None,
        channel: Any = None,
        timeout: float | None = None,
        serializer: str | None = None,
        producer: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        message: dict[str, Any] = {
            'method': type,
            'arguments': arguments,
            'destination': destination,
            'pattern': pattern,
            'matcher': matcher,
        }
        channel = channel or self.connection.default_channel
        if reply_ticket:
            maybe_declare(self.reply_queue(channel))
            message.update(
                ticket=reply_ticket, reply_to={'exchange': self.reply_exchange.name, 'routing_key': self.oid}
            )
        with self.producer_or_acquire(producer, channel) as producer:
            producer.publish(
                message,
                exchange=self.exchange.name,
                declare=[self.exchange],
                headers={'clock': self.clock.forward(), 'expires': time() + timeout if timeout else 0},
                serializer=serializer or self.serializer,
                retry=True,
            )

    def _broadcast(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        destination: Any = None,
        reply: bool = False,
        timeout: float | None = 1,
        limit: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        channel: Any = None,
        serializer: str | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> Any:
        if destination is not None and not isinstance(destination, (list, tuple)):
            raise InvalidArgument(
                'destination', destination, f'must be a list/tuple not {destination.__class__}'
            )
        for what, value in (('pattern', pattern), ('matcher', matcher)):
            if value is not None and not isinstance(value, str):
                raise InvalidArgument(what, value, 'is no string')
        ticket = uuid() if reply else None
        if limit is None and destination:
            limit = len(destination)
        channel = channel or self.connection.default_channel
        self._publish(
            command,
            arguments or {},
            destination=destination,
            reply_ticket=ticket,
            channel=channel,
            timeout=timeout,
            serializer=serializer,
            pattern=pattern,
            matcher=matcher,
        )
        if ticket is None:
            return None
        return self._collect(ticket, limit=limit, timeout=timeout, callback=callback, channel=channel)

    def _collect(
        self,
        ticket: str,
        limit: int | None = None,
        timeout: float | None = 1,
        callback: Callable[[Any], Any] | None = None,
        channel: Any = None,
        accept: Any = None,
    ) -> Any:
        if ticket in self.unclaimed:
            return self.unclaimed.pop(ticket)
        channel = channel or self.connection.default_channel
        queue = self.reply_queue
        responses: list[Any] = []
        consumer = Consumer(channel, [queue], accept=self.accept if accept is None else accept, no_ack=True)
        consumer.on_decode_error = _undecodable  # a stranger's: ours still come
        consumer.register_callback(partial(self._on_reply, ticket, responses, callback))
        try:
            with consumer:
                self._drain_replies(responses, limit, timeout)
            return responses
        finally:
            channel.after_reply_message_received(queue.name)

    def _on_reply(
        self,
        ticket: str,
        responses: list[Any],
        callback: Callable[[Any], Any] | None,
        body: Any,
        message: Any,
    ) -> None:
        headers = message.headers
        self.clock.adjust(int(number_of(headers, 'clock')))
        expires = number_of(headers, 'expires')
        if expires and time() > expires:
            return
        answered = headers.get('ticket', ticket)
        if not isinstance(answered, str):
            debug('a reply to no ticket: %s', printable(answered, 80))
            return
        if answered == ticket:
            if callback:
                callback(body)
            responses.append(body)
            return
        self.unclaimed[answered].append(body)
        while (
            len(self.unclaimed) > _UNCLAIMED_LIMIT
        ):  # replies that came too late, and that nobody will ask for
            del self.unclaimed[next(iter(self.unclaimed))]

    def _drain_replies(self, responses: list[Any], limit: int | None, timeout: float | None) -> None:
        # `timeout` is for each reply, and other greenlets' events are no replies: so the time starts anew
        # only when one of ours has come.
        seen, deadline = 0, runtime.Deadline.after(timeout)
        while not limit or len(responses) < limit:
            try:
                self.connection.drain_events(timeout=deadline.remaining())
            except TimeoutError:
                return
            if len(responses) > seen:
                seen, deadline = len(responses), runtime.Deadline.after(timeout)
            elif deadline.expired():
                return

    def _get_exchange(self, namespace: str, type: str) -> Exchange:
        return Exchange(self.exchange_fmt % namespace, type=type, durable=False, delivery_mode='transient')

    def _get_reply_exchange(self, namespace: str) -> Exchange:
        return Exchange(
            self.reply_exchange_fmt % namespace, type='direct', durable=False, delivery_mode='transient'
        )

    @property
    def oid(self) -> str:
        """What this greenlet's replies are addressed to."""
        own = self._own
        oid: str | None = getattr(own, 'oid', None)
        if oid is None:
            oid = own.oid = oid_from(self)
        return oid

    @cached_property
    def producer_pool(self) -> Any:
        """The pool to publish with, or None. Deleted, as in a forked child, it is asked for anew."""
        return maybe_evaluate(self._producer_pool)


def _undecodable(message: Any, exc: Exception) -> None:
    debug('a reply that cannot be read: %r', exc)
