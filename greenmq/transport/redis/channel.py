"""The Redis channel: a channel of `driver.channel`, and what kombu's programs ask of one of Redis."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty
from typing import Any

import redis
import redis.sentinel

from greenmq import runtime
from greenmq.transport.driver import channel as base
from greenmq.transport.driver.qos import QoS as DriverQoS
from greenmq.transport.redis.options import CHANNEL_OPTIONS, SENTINEL_CHANNEL_OPTIONS, with_options
from greenmq.transport.redis.publishing import PublishBatch
from greenmq.transport.redis.session import RedisSession
from greenmq.transport.virtual import channel as virtual
from greenmq.transport.virtual import envelope
from greenmq.transport.virtual.exchange import DirectExchange, FanoutExchange, TopicExchange
from greenmq.utils.objects import alias
from greenmq.utils.scheduling import FairCycle

__all__ = ('PRIORITY_STEPS', 'Channel', 'QoS', 'SentinelChannel')

PRIORITY_STEPS = [0, 3, 6, 9]
#: Seconds to say that a queue is used.
PATIENCE = 10.0


class QoS(DriverQoS):
    """What a Redis channel has delivered and nobody has settled.

    Source: kombu redis QoS.
    """

    restore_at_shutdown = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(args[0] if args else kwargs['channel'])

    def append(self, message: Any, delivery_tag: Any) -> None:
        """Count a delivery as unsettled."""
        self.channel.books.unsettled.add(delivery_tag, message)

    def get(self, delivery_tag: Any) -> Any:
        """Return an unsettled message.

        Raises:
            KeyError: there is none of this tag.
        """
        found = self.channel.books.unsettled.get(delivery_tag)
        if found is None:
            raise KeyError(delivery_tag)
        return found

    def ack(self, delivery_tag: Any) -> None:
        """See `Channel.basic_ack`."""
        self.channel.basic_ack(delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """See `Channel.basic_reject`."""
        self.channel.basic_reject(delivery_tag, requeue)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Give one delivery back to the front of its queue."""
        self.reject(tag, True)

    def restore_unacked(self, client: Any = None) -> Any:
        """Give back all that is unsettled."""
        return self.channel.basic_recover(requeue=True)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """As `restore_unacked`."""
        self.restore_unacked()

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Look now for messages of consumers that are gone, and of kombu workers that are overdue.

        Switches: yes.
        """
        self.channel.session.driver.lease.sweep(force=True)

    unacked_key: Any = alias('channel', 'unacked_key')
    unacked_index_key: Any = alias('channel', 'unacked_index_key')
    unacked_mutex_key: Any = alias('channel', 'unacked_mutex_key')
    unacked_mutex_expire: Any = alias('channel', 'unacked_mutex_expire')
    visibility_timeout: Any = alias('channel', 'visibility_timeout')


@with_options
class Channel(base.Channel):
    """A channel of a Redis database. Each option of kombu's is an attribute of the same name.

    Attributes:
        on_gap (Callable): called as ``on_gap(exchange, since)`` when messages of a fanout exchange may be
            missing (P29).
    Source: kombu redis Channel.
    """

    session: RedisSession
    QoS: Any = QoS
    exchange_types: Any = {'direct': DirectExchange, 'fanout': FanoutExchange, 'topic': TopicExchange}
    keyprefix_queue = '_kombu.binding.%s'
    keyprefix_binding_permanent = '_kombu.binding_permanent.%s'
    keyprefix_binding_deadlines = '_kombu.binding_deadlines'
    keyprefix_fanout = '/{db}.'
    min_priority, max_priority = 0, 9
    priority_steps: Any = PRIORITY_STEPS
    body_encoding: str | None = 'base64'
    codecs: Any = envelope.CODECS
    encode_body = envelope.encode_body
    supports_batch_publish = True
    brpop_timeout = 1
    socket_keepalive: Any = None
    connection_class: Any = redis.Connection
    connection_class_ssl: Any = redis.SSLConnection
    ResponseError = redis.exceptions.ResponseError
    Client = redis.Redis
    from_transport_options: tuple[str, ...] = CHANNEL_OPTIONS
    on_gap: Callable[[str, float], Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = self.session.settings
        for name in self.from_transport_options:
            # What the class says already would only make every channel's `__dict__` larger.
            if settings.get(name) not in (None, getattr(self, name, None)):
                setattr(self, name, settings[name])
        self.connection_errors = self.connection.connection_errors
        self.handlers: dict[str, Any] = {}  # for programs that look at it

    def arrived_here(self) -> None:
        """The connection goes on in this thread."""
        self._hub = runtime.hub_id()

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """See `driver.Channel.basic_consume`. Switches: only if the queue is bound to a fanout exchange."""
        driver = self.session.driver
        driver.keys.list_of(queue)  # refuses what can be the name of no queue
        self.connection.move_here(self.connection)
        known = self.books.consumers(queue)
        super().basic_consume(queue, *args, **kwargs)
        self.session.start_keeping()
        heard = driver.heard.get(queue)
        if heard is not None and not known:
            try:
                driver.fanout.add(self, queue, heard[0], driver.keys.channels(*heard))
            except BaseException:
                for sub in [sub for sub in self.books.subscriptions.values() if sub.queue == queue]:
                    self.basic_cancel(sub.tag)
                raise

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """See `driver.Channel.basic_get`."""
        self.session.driver.expiry.got(queue, runtime.Deadline.after(PATIENCE))
        return super().basic_get(queue, no_ack, **kwargs)

    @property
    def active_queues(self) -> set[str]:
        """The queues that are consumed and no fanout's."""
        return set(self.books.queues) - self.session.driver.heard.keys()

    @property
    def active_fanout_queues(self) -> set[str]:
        """The queues that are consumed and hear a fanout exchange."""
        return set(self.books.queues) & self.session.driver.heard.keys()

    @property
    def auto_delete_queues(self) -> set[str]:
        """The queues that were declared auto_delete."""
        return {queue for queue, facts in self.state.queues.items() if facts.get('auto_delete')}

    @property
    def cycle(self) -> FairCycle:
        """The consumed queues in turn, for programs that look at it."""
        return FairCycle(self.basic_get, list(self.active_queues), Empty)

    def get_table(self, exchange: str) -> Any:
        """The bindings of an exchange as the server has them. Switches: yes."""
        return self.session.driver.tables.entries(exchange, self._soon())

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Collect publishes, to be sent together: see `PublishBatch`."""
        return PublishBatch(self, max_size)

    def priority(self, n: int) -> int:
        """The step of a priority."""
        return int(self.session.driver.keys.step(n))


@with_options
class SentinelChannel(Channel):
    """A channel of a primary that sentinels name.

    Source: kombu redis SentinelChannel.
    """

    connection_class: Any = redis.sentinel.SentinelManagedConnection
    connection_class_ssl: Any = redis.sentinel.SentinelManagedSSLConnection
    from_transport_options = (*CHANNEL_OPTIONS, *SENTINEL_CHANNEL_OPTIONS)


# What programs test for: they are channels of the virtual kind, though nothing of it is inherited.
virtual.Channel.register(Channel)
