"""Tools that most programs need: draining, replying, declaring once, broadcast queues, a growing prefetch."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid3, uuid4

from greenmq import runtime
from greenmq.abstract import is_closed
from greenmq.entity import Exchange, Queue
from greenmq.exceptions import ChannelError, RecoverableConnectionError, TimeoutError
from greenmq.log import get_logger
from greenmq.serialization import registry as serializers
from greenmq.utils.uuid import uuid

if TYPE_CHECKING:
    from greenmq.abstract import MaybeChannelBound
    from greenmq.connection import Connection
    from greenmq.message import Message
    from greenmq.messaging import Consumer
    from greenmq.types import Channel

__all__ = (
    'Broadcast', 'QoS', 'collect_replies', 'declaration_cached', 'drain_consumer', 'eventloop',
    'generate_oid', 'get_node_id', 'ignore_errors', 'insured', 'itermessages', 'maybe_declare', 'oid_from',
    'revive_connection', 'send_reply', 'uuid',
)  # fmt: skip

#: A prefetch count travels as 16 bits; above that only "unlimited" is left.
PREFETCH_COUNT_MAX = 0xFFFF

#: Seconds to wait for another greenlet that declares the same, where the caller has no deadline.
DECLARING = 30.0

logger = get_logger('greenmq.common')

_node_id: int | None = None


def get_node_id() -> int:
    """Give the number of this process's installation, drawn at random once.

    Source: kombu.common.get_node_id.
    """
    global _node_id
    if _node_id is None:
        _node_id = uuid4().int
    return _node_id


def generate_oid(node_id: int, process_id: int, thread_id: int, instance: Any) -> str:
    """Make an identifier of an object: the same for the same four values while the object lives.

    Source: kombu.common.generate_oid.
    """
    return str(uuid3(NAMESPACE_OID, f'{node_id:x}-{process_id:x}-{thread_id:x}-{id(instance):x}'))


def oid_from(instance: Any, threads: bool = True) -> str:
    """Make an identifier of `instance` in this process.

    Arguments:
        threads (bool): another one for each greenlet.
    Source: kombu.common.oid_from; differs: greenlets are told apart whether or not the process is patched.
    """
    return generate_oid(get_node_id(), os.getpid(), id(runtime.current()) if threads else 0, instance)


class Broadcast(Queue):
    """A queue of one's own behind a fanout exchange: every consumer that has one gets every message.

    Arguments:
        name (str): of the exchange, and the alias of the queue.
        queue (str): of the queue; invented if not given.
        unique (bool): make `queue` unique by appending to it.
        auto_delete (bool): default true here.
        exchange (Exchange): instead of a fanout exchange of that name.
        alias (str): instead of `name`.
    Example:
        >>> news = Broadcast('news')
        >>> with Connection('memory://localhost/example') as connection:
        ...     with connection.Consumer(news, callbacks=[lambda body, message: print(body)], no_ack=True):
        ...         _ = connection.Producer().publish('hello, all', exchange=news.exchange)
        ...         connection.drain_events(timeout=5)
        hello, all

    Source: kombu.common.Broadcast.
    """

    attrs = (*Queue.attrs, ('queue', None))

    def __init__(
        self,
        name: str | None = None,
        queue: str | None = None,
        unique: bool = False,
        auto_delete: bool = True,
        exchange: Exchange | str | None = None,
        alias: str | None = None,
        **kwargs: Any,
    ) -> None:
        queue = f'{queue}.{uuid()}' if queue and unique else queue or f'bcast.{uuid()}'
        super().__init__(
            alias=alias or name,
            queue=queue,  # type: ignore[call-arg]  # of `attrs`, above
            name=queue,
            auto_delete=auto_delete,
            exchange=exchange if exchange is not None else Exchange(name or '', type='fanout'),
            **kwargs,
        )


def declaration_cached(entity: Any, channel: Any) -> bool:
    """Whether `entity` was declared in this epoch of the channel's connection.

    Source: kombu.common.declaration_cached.
    """
    return hash(entity) in channel.connection.client.declared_entities


def maybe_declare(
    entity: MaybeChannelBound, channel: Any = None, retry: bool = False, **retry_policy: Any
) -> bool:
    """Declare an entity unless that was done in this epoch of the connection (P20).

    Arguments:
        entity (Exchange | Queue): bound or not; an unbound one is not changed, but for the name of a
            nameless queue. With `retry`, one that is bound to a closed channel moves to `channel`.
        channel (Channel): to declare on; default: the one it is bound to.
        retry (bool): try again after connection errors.
        **retry_policy: as for `Connection.ensure`.
    Returns:
        bool: whether it was declared now.
    Raises:
        ChannelError: no channel.
        RecoverableConnectionError: the channel's connection is gone.
        TimeoutError: another greenlet that declares it already did not end within 30 s.
    Switches: yes if it has to be declared.
    Source: kombu.common.maybe_declare; differs: what several greenlets want declared at once is declared
        once. A refusal is raised in all of them; after any other end of the one that declares (a kill, a lost
        connection) the next one does it.
    """
    return declare_within(None, entity, channel, retry, retry_policy)


def declare_within(
    deadline: runtime.Deadline | None,
    entity: Any,
    channel: Any,
    retry: bool = False,
    retry_policy: dict[str, Any] | None = None,
) -> bool:
    """As `maybe_declare`, and wait no longer than this for another greenlet that declares the same.

    Raises:
        TimeoutError: it did not end in time.
    Switches: as `maybe_declare`.
    """
    policy = retry_policy or {}
    if entity.is_bound:
        own = entity.channel
        if channel is None:
            channel = own
        elif retry and channel is not own and is_closed(own) and not is_closed(channel):
            # A retried publish passes the exchange that it declared before the reconnect.
            entity.revive(channel)
        return _ensure_declared(entity, channel, retry, policy, deadline)
    if channel is None:
        raise ChannelError(f'Cannot bind channel {channel} to entity {entity!r}')
    unbound, entity = entity, entity.bind(channel)
    declared = _ensure_declared(entity, channel, retry, policy, deadline)
    if not unbound.name:
        unbound.name = entity.name
    return declared


def _ensure_declared(
    entity: Any,
    channel: Any,
    retry: bool,
    retry_policy: dict[str, Any],
    deadline: runtime.Deadline | None,
) -> bool:
    if channel.connection is None:
        raise RecoverableConnectionError('channel disconnected')
    if _is_declared(entity, channel):
        return False
    client = channel.connection.client

    def declare() -> bool:
        if not retry:
            return _declare(entity, channel)
        return bool(channel.connection.client.ensure(entity, _declare, **retry_policy)(entity, None))

    once = getattr(client, '_declaring', None)
    if once is None or not entity.can_cache_declaration or not entity.name:
        return declare()
    # Thousands of greenlets may publish to the same new queue at once: one declares it for all of them.
    what = f'{entity!r}: another greenlet declares it; that did not end'
    declared, mine = once.do(hash(entity), declare, what, deadline or DECLARING)
    return bool(declared and mine)


def _is_declared(entity: Any, channel: Any) -> bool:
    return bool(entity.can_cache_declaration and hash(entity) in channel.connection.client.declared_entities)


def _declare(entity: Any, channel: Any) -> bool:
    # With retries the entity was moved to a new channel meanwhile: then its own is the one to use.
    channel = entity.channel if channel is None else channel
    client = channel.connection.client
    named, epoch = bool(entity.name), getattr(client, 'epoch', 0)
    entity.declare(channel=channel)
    # A nameless queue is a new one each time, so there is nothing to remember; and what was declared before a
    # loss is asked again after it.
    if entity.can_cache_declaration and named and getattr(client, 'epoch', 0) == epoch:
        client.declared_entities.add(hash(entity))
    return True


def drain_consumer(
    consumer: Consumer,
    limit: int | None = 1,
    timeout: float | None = None,
    callbacks: list[Callable[..., Any]] | None = None,
) -> Iterator[tuple[Any, Message]]:
    """Consume, and give what arrives.

    Arguments:
        consumer (Consumer): entered here, and cancelled at the end.
        limit (int | None): end after that many messages, or waits in vain, together; None: never.
        timeout (float | None): seconds to wait for each. Nothing in that time counts as one of `limit`.
        callbacks (list): called with (body, message) when it arrives.
    Returns:
        Iterator[tuple[object, Message]]: body and message; fewer than `limit` when fewer came in time.
    Switches: yes.
    Source: kombu.common.drain_consumer; differs: an event that was another greenlet's counts for nothing, but
        for the time.
    """
    arrived: deque[tuple[Any, Any]] = deque()

    def on_message(body: Any, message: Any) -> None:
        arrived.append((body, message))

    consumer.callbacks = [on_message, *(callbacks or ())]
    with consumer:
        conn = consumer.channel.connection.client
        turns = 0
        while not limit or turns < limit:
            if not arrived:
                _drain_until(conn, arrived, timeout)
            turns += 1
            if arrived:
                yield arrived.popleft()


def _drain_until(conn: Any, arrived: deque[Any], timeout: float | None) -> None:
    """Until something arrived, or not in time."""
    # One deadline: events for others who share the connection must not prolong the wait.
    deadline = runtime.Deadline.after(timeout)
    while not arrived:
        try:
            conn.drain_events(timeout=deadline.remaining())
        except TimeoutError:
            return
        if deadline.expired():
            return


def itermessages(
    conn: Connection,
    channel: Channel | None,
    queue: Queue,
    limit: int | None = 1,
    timeout: float | None = None,
    callbacks: list[Callable[..., Any]] | None = None,
    **kwargs: Any,
) -> Iterator[tuple[Any, Message]]:
    """Consume from a queue, and give what arrives.

    Arguments:
        **kwargs: for the Consumer.
    Switches: yes.
    Source: kombu.common.itermessages; see `drain_consumer`.
    """
    consumer = conn.Consumer(queues=[queue], channel=channel, **kwargs)
    return drain_consumer(consumer, limit=limit, timeout=timeout, callbacks=callbacks)


def eventloop(
    conn: Connection, limit: int | None = None, timeout: float | None = None, ignore_timeouts: bool = False
) -> Iterator[Any]:
    """Drain events again and again.

    Arguments:
        conn (Connection): whose events.
        limit (int | None): how many turns; None or 0: without end.
        timeout (float | None): seconds to wait in each turn. Without one, a turn waits as long as it takes.
        ignore_timeouts (bool): go on after a turn without an event.
    Returns:
        Iterator[object]: what `drain_events` returned, for each event.
    Raises:
        TimeoutError: no event in a turn, and `timeout` was given and is not ignored.
    Switches: yes.
    Source: kombu.common.eventloop.
    """
    for _ in range(limit) if limit else count():
        try:
            yield conn.drain_events(timeout=timeout)
        except TimeoutError:
            if timeout and not ignore_timeouts:
                raise


def send_reply(
    exchange: Exchange | str,
    req: Any,
    msg: Any,
    producer: Any = None,
    retry: bool = False,
    retry_policy: dict[str, Any] | None = None,
    **props: Any,
) -> Any:
    """Answer a request where its `reply_to` says, with its correlation id and serializer.

    Arguments:
        exchange (Exchange | str): the exchange of replies.
        req (Message): the request.
        msg (object): the answer.
        producer (Producer): to publish with; default: one on the request's channel.
        **props: for `Producer.publish`.
    Raises:
        KeyError: the request names no `reply_to`, or has a content type that no serializer makes.
    Switches: yes.
    Source: kombu.common.send_reply; differs: `producer` may be left out.
    """
    if producer is None:
        producer = req.channel.Producer()
    return producer.publish(
        msg,
        exchange=exchange,
        retry=retry,
        retry_policy=retry_policy,
        **{
            'routing_key': req.properties['reply_to'],
            'correlation_id': req.properties.get('correlation_id'),
            'serializer': serializers.type_to_name[req.content_type],
            'content_encoding': req.content_encoding,
            **props,
        },
    )


def collect_replies(
    conn: Connection, channel: Channel, queue: Queue, *args: Any, **kwargs: Any
) -> Iterator[Any]:
    """Give the bodies of replies that arrive in `queue`.

    Arguments:
        args, kwargs: as for `itermessages`; `no_ack` is true unless given, else each reply is acknowledged.
    Switches: yes.
    Source: kombu.common.collect_replies.
    """
    no_ack = kwargs.setdefault('no_ack', True)
    received = False
    try:
        for body, message in itermessages(conn, channel, queue, *args, **kwargs):
            if not no_ack:
                message.ack()
            received = True
            yield body
    finally:
        if received:
            channel.after_reply_message_received(queue.name)


def _log_retry(exc: BaseException, interval: float) -> None:
    logger.error('Connection error: %r. Retry in %ss\n', exc, interval, exc_info=True)


@contextmanager
def _ignoring(conn: Any) -> Iterator[None]:
    try:
        yield
    except conn.connection_errors + conn.channel_errors as exc:
        logger.debug('ignored on %r: %r', conn, exc)


def ignore_errors(conn: Any, fun: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Any:
    """Ignore the errors of a connection and its channels, in a call or as a context manager.

    Arguments:
        fun (Callable): called with the further arguments. Without it a context manager is returned.
    Returns:
        object: what `fun` returned, None if it raised such an error.
    Switches: as `fun`.
    Source: kombu.common.ignore_errors.
    """
    if fun is None:
        return _ignoring(conn)
    result = None
    with _ignoring(conn):
        result = fun(*args, **kwargs)
    return result


def revive_connection(connection: Any, channel: Any, on_revive: Callable[[Any], Any] | None = None) -> None:
    """Tell `on_revive`, if there is one, of the new channel.

    Switches: as `on_revive`.
    Source: kombu.common.revive_connection.
    """
    if on_revive:
        on_revive(channel)


def insured(
    pool: Any,
    fun: Callable[..., Any],
    args: Any,
    kwargs: dict[str, Any],
    errback: Callable[[BaseException, float], Any] | None = None,
    on_revive: Callable[[Any], Any] | None = None,
    **opts: Any,
) -> Any:
    """Call a function with a connection of a pool, again after connection errors.

    Arguments:
        pool (ConnectionPool): a connection is taken from it for the call.
        fun (Callable): gets `args`, `kwargs`, and `channel` and `connection`.
        errback (Callable): called with (error, seconds until the next try); default: log it.
        on_revive (Callable): called with each new channel.
        **opts: as for `Connection.ensure`.
    Returns:
        object: what `fun` returned.
    Switches: yes.
    Source: kombu.common.insured.
    """
    errback = errback or _log_retry
    with pool.acquire(block=True) as connection:
        connection.ensure_connection(errback=errback)
        # The default channel is shared by all who use this connection: nothing is opened, or left open, for
        # one call.
        channel = connection.default_channel
        revive = partial(revive_connection, connection, on_revive=on_revive)
        retried = connection.autoretry(fun, channel, errback=errback, on_revive=revive, **opts)
        result, _ = retried(*args, **dict(kwargs, connection=connection))
        return result


class QoS:
    """A prefetch count that callers raise and lower, sent by whoever may send.

    Arguments:
        callback (Callable): called with `prefetch_count=` to set it at the broker.
        initial_value (int): 0 is unlimited, and stays so.
        max_prefetch (int | None): the count is not raised above this.
    Attributes:
        value (int): what is wanted.
        prev (int | None): what was sent last; None: nothing yet.

    `increment_eventually` and `decrement_eventually` only note it down; `update`, called in the greenlet
    that owns the channel, sends it.

    Source: kombu.common.QoS.
    """

    prev: int | None = None

    def __init__(
        self, callback: Callable[..., Any], initial_value: int, max_prefetch: int | None = None
    ) -> None:
        self.callback = callback
        # Not a native lock: `update` waits for the broker while it holds it.
        self._mutex = runtime.RLock()
        self.value = initial_value or 0
        self.max_prefetch = max_prefetch

    def increment_eventually(self, n: int = 1) -> int:
        """Raise the count by `n`.

        Returns:
            int: the new value.
        Switches: yes if another greenlet is sending it.
        Source: kombu QoS.increment_eventually.
        """
        with self._mutex:
            if self.value:
                self.value += max(n, 0)
                if self.max_prefetch:
                    self.value = min(self.value, self.max_prefetch)
            return self.value

    def decrement_eventually(self, n: int = 1) -> int:
        """Lower the count by `n`, but not below 1.

        Returns:
            int: the new value.
        Switches: yes if another greenlet is sending it.
        Source: kombu QoS.decrement_eventually.
        """
        with self._mutex:
            if self.value:
                self.value = max(self.value - n, 1)
            return self.value

    def set(self, pcount: int) -> int:
        """Send a count, unless it is the one sent last.

        Arguments:
            pcount (int): above 65,535 it is sent as 0, unlimited.
        Switches: yes.
        Source: kombu QoS.set.
        """
        if pcount != self.prev:
            sent = pcount
            if pcount > PREFETCH_COUNT_MAX:
                logger.warning('QoS: prefetch count %r is above %r: unlimited', pcount, PREFETCH_COUNT_MAX)
                sent = 0
            logger.debug('basic.qos: prefetch_count->%s', sent)
            self.callback(prefetch_count=sent)
            self.prev = pcount
        return pcount

    def update(self) -> int:
        """Send the count as it is wanted now.

        Switches: yes.
        Source: kombu QoS.update.
        """
        with self._mutex:
            return self.set(self.value)
