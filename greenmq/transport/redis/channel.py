"""The Redis channel: entities and their keys; publishing and consuming stand in the modules beside this
one.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import redis
import redis.sentinel

from greenmq import runtime
from greenmq.exceptions import AMQPError, OperationalError
from greenmq.log import get_logger
from greenmq.transport.base import to_rabbitmq_queue_arguments
from greenmq.transport.redis.bindings import declaration
from greenmq.transport.redis.consuming import RedisConsuming
from greenmq.transport.redis.envelope import EXPIRES_AT, Envelopes
from greenmq.transport.redis.publishing import RedisPublishing
from greenmq.transport.redis.replies import NUMBERS, expect
from greenmq.transport.redis.settling import ChannelSettling
from greenmq.transport.virtual import channel as virtual
from greenmq.transport.virtual.exchange import DirectExchange, FanoutExchange, TopicExchange
from greenmq.transport.virtual.qos import QoS as VirtualQoS
from greenmq.utils.uuid import uuid

__all__ = ('PRIORITY_STEPS', 'Channel', 'QoS', 'SentinelChannel')

logger = get_logger('greenmq.transport.redis')

PRIORITY_STEPS = [0, 3, 6, 9]
#: Seconds that a declare, bind, count, … may take.
OPERATION = 30.0


class QoS(VirtualQoS):
    """What a Redis channel has delivered and nobody has settled.

    Source: kombu redis QoS.
    """

    restore_at_shutdown = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def restore_unacked(self, client: Any = None) -> Any:
        """See `virtual.QoS.restore_unacked`. Switches: no."""
        return super().restore_unacked()

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Give one delivery back to the front of its queue. Switches: no."""
        self._delivered.pop(tag, None)
        self.channel._give_back_tag('', tag, 'r')

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Look now for messages of consumers that are gone, and of kombu workers that are overdue.

        Switches: yes.
        """
        transport = self.channel.connection
        transport.leases.sweep(transport, force=True)

    @property
    def unacked_key(self) -> str:
        """HASH of what is not settled."""
        return str(self.channel.unacked_key)

    @property
    def unacked_index_key(self) -> str:
        """ZSET of when that was taken."""
        return str(self.channel.unacked_index_key)

    @property
    def unacked_mutex_key(self) -> str:
        """kombu's workers' lock; ours is another one."""
        return str(self.channel.unacked_mutex_key)

    @property
    def unacked_mutex_expire(self) -> Any:
        """Seconds of kombu's workers' lock."""
        return self.channel.unacked_mutex_expire

    @property
    def visibility_timeout(self) -> float:
        """Seconds after which a kombu worker's message is restored."""
        return float(self.channel.visibility_timeout)


class Channel(RedisConsuming, RedisPublishing, virtual.Channel):
    """A channel of a Redis database.

    Source: kombu redis Channel.
    """

    delivery: ClassVar[str] = 'wait'
    QoS: Any = QoS
    supports_fanout = True
    exchange_types: Any = {'direct': DirectExchange, 'fanout': FanoutExchange, 'topic': TopicExchange}
    #: What is unsettled goes back when the channel closes, all at once: see `close`.
    do_restore = True
    _writes_times = True

    keyprefix_queue = '_kombu.binding.%s'
    keyprefix_binding_permanent = '_kombu.binding_permanent.%s'
    keyprefix_binding_deadlines = '_kombu.binding_deadlines'
    keyprefix_fanout = '/{db}.'
    sep = '\x06\x16'
    fanout_prefix = True
    fanout_patterns = True
    global_keyprefix = ''
    ack_emulation = True
    unacked_key = 'unacked'
    unacked_index_key = 'unacked_index'
    unacked_mutex_key = 'unacked_mutex'
    unacked_mutex_expire = 300
    unacked_restore_interval = 10
    unacked_restore_limit: Any = None
    unacked_restore_throttle = 10
    visibility_timeout = 3600
    priority_steps: Any = PRIORITY_STEPS
    socket_timeout: Any = None
    socket_connect_timeout: Any = None
    socket_keepalive: Any = None
    socket_keepalive_options: Any = None
    retry_on_timeout: Any = None
    max_connections = 10
    health_check_interval: float = 15
    client_name: Any = None
    queue_order_strategy = 'round_robin'
    connection_class = redis.Connection
    connection_class_ssl = redis.SSLConnection
    ResponseError = redis.exceptions.ResponseError
    Client = redis.Redis

    from_transport_options = (
        *virtual.Channel.from_transport_options,
        'sep', 'ack_emulation', 'unacked_key', 'unacked_index_key', 'unacked_mutex_key',
        'unacked_mutex_expire', 'visibility_timeout', 'unacked_restore_limit', 'unacked_restore_interval',
        'unacked_restore_throttle', 'fanout_prefix', 'fanout_patterns', 'global_keyprefix', 'socket_timeout',
        'socket_connect_timeout', 'socket_keepalive', 'socket_keepalive_options', 'queue_order_strategy',
        'max_connections', 'health_check_interval', 'retry_on_timeout', 'priority_steps', 'client_name',
    )  # fmt: skip

    #: Called as ``on_gap(exchange, since)`` when messages of a fanout exchange may be missing (P29).
    on_gap: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        connection: Any = args[0] if args else kwargs['connection']
        self._session = connection.session
        self._keys = connection.keys
        self._bindings = connection.bindings
        self._settler = connection.settler
        self._fanout = connection.fanout
        self._amqp_order = connection._amqp_order
        self._drop_expired = connection._drop_expired
        self._fanout_mode = connection._fanout_mode
        self._stream_maxlen = connection._stream_maxlen
        self._limits = runtime.Limits()
        self._declared = connection.state.queues
        self._fanout_queues: dict[str, tuple[str, str]] = {}
        self._queue_of: dict[str, str] = {}
        self._burying: dict[str, str] = {}
        self._envelopes = Envelopes(f'{uuid()}-')
        self.auto_delete_queues: set[str] = set()
        self._consumed: list[str] = []  # when it closed
        self._prepare_consuming()
        super().__init__(*args, **kwargs)
        self.connection_errors = connection.connection_errors
        self.brpop_timeout = connection.brpop_timeout
        #: Kept for programs that look at it: what comes is handled elsewhere.
        self.handlers: dict[str, Any] = {}
        self._settling: Any = ChannelSettling(self, self._settler)
        self.settle_now = self._settling.ack
        self.wait_timeout = self.health_check_interval or 15.0

    def _settle(self, acks: list[Any], rejects: list[tuple[Any, bool]]) -> None:
        """Settle now: acks are tags, rejects are (tag, requeue). Switches: no."""
        for tag in acks:
            self._ack_tag(tag)
        for tag, requeue in rejects:
            self._reject_tag(tag, requeue)

    def arrived_here(self) -> None:
        """See `virtual.Channel.arrived_here`. Switches: no."""
        self._consume_anew()
        super().arrived_here()

    def within(self, deadline: runtime.Deadline) -> AbstractContextManager[None]:
        """Hold every call that this greenlet makes in the block to a deadline. Switches: no."""
        return self._limits.held(deadline)

    def _soon(self) -> runtime.Deadline:
        """For what names no deadline of its own: declaring, counting, purging."""
        return self._limits.within(OPERATION)

    # ----------------------------------------------------------------- queues

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        key = self._keys.queues
        self._keys.list_of(queue)  # refuses what can be the name of no queue
        self._session.execute(('HSET', key, queue, declaration(kwargs)), key, self._soon())
        expires = (kwargs.get('arguments') or {}).get('x-expires')
        if expires is not None:
            transport = self.connection
            transport.expiry.use(transport, queue, int(expires), self._soon())
        if kwargs.get('auto_delete'):
            self.auto_delete_queues.add(queue)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        if queue in self.state.queues or queue in self.state.queue_index:
            return True
        deadline = self._soon()
        if self._session.execute(('HEXISTS', self._keys.queues, queue), self._keys.queues, deadline):
            return True
        lists = self._keys.lists(queue)
        return bool(self._session.execute(('EXISTS', *lists), lists[0], deadline))

    def _size(self, queue: str) -> int:
        lists = self._keys.lists(queue)
        commands = [('LLEN', name) for name in lists]
        return sum(self._session.execute_many(commands, lists[0], self._soon(), int))

    def _purge(self, queue: str) -> int:
        lists = self._keys.lists(queue)
        commands = [('LLEN', name) for name in lists] + [('DEL', name) for name in lists]
        words = [('MULTI',), *commands, ('EXEC',)]
        replies = self._session.execute_many(words, lists[0], self._soon(), (bytes, NUMBERS))
        return sum(expect(replies[-1], NUMBERS, self._session.name)[: len(lists)])

    def _delete(
        self, queue: str, exchange: str | None = None, routing_key: str = '', pattern: Any = None,
        *args: Any, **kwargs: Any,
    ) -> None:  # fmt: skip
        deadline = self._soon()
        if exchange:
            self._bindings.remove(exchange, routing_key, pattern, queue, deadline)
        lists = self._keys.lists(queue)
        self._session.execute(('DEL', *lists), lists[0], deadline)
        self._session.execute(('HDEL', self._keys.queues, queue), self._keys.queues, deadline)
        self.connection.expiry.forget(queue, deadline)
        self.auto_delete_queues.discard(queue)
        self._fanout_queues.pop(queue, None)

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        """Return `arguments` with a Queue's `expires`, `message_ttl`, … as RabbitMQ names them.

        Switches: no.
        """
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    # --------------------------------------------------------------- bindings

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = '',
        arguments: Any = None,
        **kwargs: Any,
    ) -> None:
        """See `virtual.Channel.queue_bind`; asserted at the server each time. Switches: yes."""
        exchange = exchange or 'amq.direct'
        again = self.state.has_binding(queue, exchange, routing_key)
        super().queue_bind(queue, exchange, routing_key, arguments, **kwargs)
        if again:
            meta = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
            self._queue_bind(exchange, *meta)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: Any, queue: str) -> None:
        if self.typeof(exchange).type == 'fanout' and self._fanout_mode != 'queues':
            # kombu writes '#' out as a star of Redis' patterns.
            self._fanout_queues[queue] = exchange, routing_key.replace('#', '*')
        declared = self.state.queues.get(queue) or {}
        expires = (declared.get('arguments') or {}).get('x-expires')
        self._bindings.add(exchange, routing_key, pattern, queue, expires, self._soon())

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = '',
        arguments: Any = None,
        **kwargs: Any,
    ) -> None:
        """See `virtual.Channel.queue_unbind`. Switches: yes."""
        exchange = exchange or 'amq.direct'
        meta = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
        super().queue_unbind(queue, exchange, routing_key, arguments, **kwargs)
        self._bindings.remove(exchange, meta[0], meta[1], queue, self._soon())

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """See `virtual.Channel.exchange_delete`. Switches: yes."""
        super().exchange_delete(exchange, if_unused, nowait)
        self._bindings.delete(exchange, self._soon())

    def get_table(self, exchange: str) -> Any:
        """The bindings of an exchange: (routing key, pattern, queue), as the server has them.

        Switches: only if they are not known.
        """
        return self._bindings.table(exchange, self._soon()).entries

    # ----------------------------------------------------------------- fanout

    def _fanout_channel(self, exchange: str, routing_key: str = '', pattern: bool = False) -> str:
        """Where an exchange is heard; as a pattern, in which only a routing key's star means any text."""
        prefix = self.keyprefix_fanout if self.fanout_prefix is True else self.fanout_prefix or ''
        place = f'{self._keys.prefix}{str(prefix).format(db=self.connection._db)}{exchange}'
        key = f'/{routing_key}' if routing_key and self.fanout_patterns else ''
        return _escaped(place, '*') + _escaped(key) if pattern else f'{place}{key}'

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """See `virtual.Channel.basic_consume`. Switches: only if the queue is bound to a fanout exchange."""
        self._keys.list_of(queue)  # refuses what can be the name of no queue
        super().basic_consume(queue, *args, **kwargs)
        # (no_ack, callback, consumer_tag): the newest of its queue's takers has it.
        consumer_tag = self._takers[queue][-1].tag
        self.connection.leases.start()
        self.connection.expiry.start()
        bound = self._fanout_queues.get(queue)
        if bound is not None and len(self._takers[queue]) == 1:
            try:
                self._fanout.add(self, queue, bound[0], self._fanout_channel(*bound, pattern=True))
            except BaseException:
                self.basic_cancel(consumer_tag)
                raise

    def basic_cancel(self, consumer_tag: str) -> None:
        """See `virtual.Channel.basic_cancel`."""
        queue = self._tag_to_queue.get(consumer_tag)
        try:
            super().basic_cancel(consumer_tag)
        finally:
            if queue is not None and queue not in self._takers:
                self._fanout.remove(self, queue)
        if queue is not None and not self.closed:
            self._drop_unused([queue])  # a channel that closes gives back first

    def _drop_unused(self, queues: Iterable[str]) -> None:
        """Delete those that are auto_delete and that nobody consumes here any more."""
        transport = self.connection
        for queue in queues:
            declared = self.state.queues.get(queue) or {}
            if not declared.get('auto_delete') or self._consumer_count(queue):
                continue
            if transport.session.connected and not runtime.in_hub():
                try:
                    self.queue_delete(queue)
                except (AMQPError, OperationalError, OSError) as error:
                    logger.debug('%r: queue %r was not deleted: %s', self, queue, error)

    @property
    def active_queues(self) -> set[str]:
        """The queues that are consumed and no fanout's."""
        return {queue for queue in self._takers if queue not in self._fanout_queues}

    @property
    def active_fanout_queues(self) -> set[str]:
        """The queues that are consumed and hear a fanout exchange."""
        return {queue for queue in self._takers if queue in self._fanout_queues}

    def consumes(self, consumer_tag: str) -> bool:
        """See `StdChannel.consumes`: also the server was asked for messages lately."""
        return super().consumes(consumer_tag) and not self.connection._deaf_for(self)

    # ------------------------------------------------------------ dead letters

    def _dead_letter(self, message: Any, reason: str) -> None:
        queue = getattr(message, 'queue', None)
        if reason == 'delivery_limit' and queue and not self.has_dead_letter(queue):
            # Nothing else would be told of a message that no consumer survives.
            self._burying[message.delivery_tag] = self._keys.dead(queue)
            return
        message._raw['properties'].pop(EXPIRES_AT, None)  # or it would expire again among the dead
        super()._dead_letter(message, reason)

    # ---------------------------------------------------------------- closing

    def close(self) -> None:
        """See `virtual.Channel.close`; queues declared auto_delete and consumed here are deleted.

        Switches: yes.
        """
        if self.closed:
            return
        session = self._session
        self._consumed = list(self._takers)
        super().close()
        session.unwatch(self._watched, self._alarm)

    def _let_go(self) -> None:
        # What was unsettled has gone back by now.
        deadline = self.connection._closing or runtime.Deadline.after(self._close_timeout)
        try:
            with self.within(deadline):
                self._drop_unused(self._consumed)
        finally:
            super()._let_go()


def _escaped(text: str, more: str = '') -> str:
    """Text as it stands in a pattern of Redis."""
    return ''.join(f'\\{char}' if char in '[]?\\' or char in more else char for char in text)


class SentinelChannel(Channel):
    """A channel of a primary that sentinels name.

    Source: kombu redis SentinelChannel.
    """

    connection_class: Any = redis.sentinel.SentinelManagedConnection
    connection_class_ssl: Any = redis.sentinel.SentinelManagedSSLConnection
    sentinel_fanout_compat = False

    from_transport_options = (
        *Channel.from_transport_options,
        'master_name', 'min_other_sentinels', 'sentinel_kwargs', 'sentinel_fanout_compat',
    )  # fmt: skip
