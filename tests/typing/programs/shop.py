"""A typed program that names every public class: mypy --strict accepts it, and it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import greenmq
from greenmq import (
    BrokerConnection,
    Connection,
    Consumer,
    Exchange,
    Message,
    Producer,
    Queue,
    abstract,
    binding,
    compat,
    connections,
    disable_insecure_serializers,
    doctor,
    enable_insecure_serializers,
    eventloop,
    exceptions,
    log,
    matcher,
    parse_url,
    producers,
    serialization,
    uuid,
)
from greenmq.clocks import LamportClock, timetuple
from greenmq.common import Broadcast, QoS, itermessages, maybe_declare
from greenmq.connection import ChannelPool, ConnectionPool, PooledConnection
from greenmq.exceptions import DecodeError, OperationalError
from greenmq.mixins import ConsumerMixin, ConsumerProducerMixin
from greenmq.pidbox import Mailbox, Node
from greenmq.pools import Connections, PoolGroup, ProducerPool, Producers
from greenmq.resource import Resource
from greenmq.simple import SimpleBase, SimpleBuffer, SimpleQueue
from greenmq.transport import virtual
from greenmq.types import Channel, Future

URL = 'memory://typed'

ORDERS = Exchange('orders', type='topic', durable=True)
QUEUES: list[Queue] = [
    Queue('new', ORDERS, routing_key='order.new', max_length=1_000, queue_arguments={'x-max-priority': 4}),
    Queue('all', [binding(ORDERS, 'order.#')], expires=60.0),
]


class Shelf(virtual.Channel):
    """A transport of the program's own, as those written for kombu are."""

    kept: dict[str, list[Any]] = {}

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        self.kept.setdefault(queue, []).append(message)


class Shop(ConsumerMixin):
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.done: list[Any] = []

    # The hint that everybody writes.
    def get_consumers(self, Consumer: type[Consumer], channel: Channel) -> list[Consumer]:
        return [
            Consumer(queues=QUEUES[:1], callbacks=[self.on_order], accept=['json'], prefetch_count=10),
            Consumer([QUEUES[1]], callbacks=[self.on_any]),
        ]

    @contextmanager
    def extra_context(self, connection: Connection, channel: Channel) -> Iterator[None]:
        yield

    def on_order(self, body: dict[str, int], message: Message) -> None:
        self.done.append(body)
        message.ack()
        self.should_stop = len(self.done) == 2

    def on_any(self, body: Any, message: Message) -> None:
        message.reject()

    def on_decode_error(self, message: Message, exc: BaseException) -> None:
        message.ack_log_error(log.get_logger('shop'), (OperationalError,))

    def on_consume_ready(
        self, connection: Connection, channel: Channel, consumers: Sequence[Consumer], **kwargs: Any
    ) -> None:
        assert len(consumers) == 2


class Answering(ConsumerProducerMixin):
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def get_consumers(self, Consumer: type[Consumer], channel: Channel) -> list[Consumer]:
        return [Consumer(QUEUES, on_message=self.answer)]

    def answer(self, message: Message) -> None:
        reply_to: str = message.properties['reply_to']
        self.producer.publish('yes', exchange='', routing_key=reply_to, correlation_id=uuid())
        message.ack()


class Tokens(Resource[str]):
    def setup(self) -> None: ...

    def new(self) -> str:
        return uuid()

    def close_resource(self, resource: str) -> None: ...


def publish(connection: Connection) -> None:
    with producers[connection].acquire(block=True, timeout=5) as producer:
        for queue in QUEUES:
            maybe_declare(queue, producer.channel)
        producer.publish(
            {'order': 1},
            exchange=ORDERS,
            routing_key='order.new',
            declare=QUEUES,
            headers={'shop': 'a'},
            priority=3,
            retry=True,
            retry_policy={'max_retries': 3},
            expiration=60,
            correlation_id='1',
            message_id=uuid(),
        )
    future: Future = Producer(connection, ORDERS).publish_nowait({'order': 2}, routing_key='order.new')
    error: BaseException | None = future.exception(timeout=5)
    assert future.done() and error is None


def take(connection: Connection) -> int:
    channel: Channel = connection.channel()
    with channel:
        found: Message | None = QUEUES[0](channel).get(accept=['json'])
        if found is not None:
            found.requeue()
        name, waiting, consumers = QUEUES[0](channel).queue_declare(passive=True)
    assert (name, consumers) == ('new', 0)
    return int(waiting)


def pooled() -> None:
    pool: ProducerPool = producers[URL]
    group: PoolGroup[ConnectionPool] = connections
    assert isinstance(group, Connections) and isinstance(producers, Producers)
    assert isinstance(pool.connections, ConnectionPool)
    with group[URL].acquire() as connection:
        leased: PooledConnection = connection
        channels: ChannelPool = leased.ChannelPool(limit=2, preload=1)
        with channels.acquire() as channel:
            channel.basic_qos(0, 1, apply_global=False)
        channels.force_close_all()
    tokens = Tokens(limit=1)
    token: str = tokens.acquire()
    tokens.release(token)


def simple(connection: Connection) -> object:
    queue: SimpleBase = connection.SimpleQueue('simple', serializer='json')
    assert isinstance(queue, SimpleQueue)
    with queue, connection.SimpleBuffer('buffer') as buffer:
        assert isinstance(buffer, SimpleBuffer)
        buffer.put('b')
        buffer.get(timeout=1)
        queue.put({'a': 1}, headers={'x': 1}, priority=2)
        message = queue.get(timeout=1)
        message.ack()
        return message.payload


def old_names(connection: Connection) -> None:
    publisher: compat.Publisher = compat.Publisher(connection, exchange='old', routing_key='old')
    consumer: compat.Consumer = compat.Consumer(connection, queue='old', exchange='old', routing_key='old')
    several: compat.ConsumerSet = compat.ConsumerSet(connection, consumers=[consumer])
    publisher.send('x')
    for each in (several, consumer, publisher):
        each.close()


def ask(connection: Connection) -> None:
    box: Mailbox = Mailbox('shop', type='fanout')(connection)
    node: Node = box.Node('one', state={}, handlers={'ping': lambda state: 'pong'})
    with node.listen(connection.default_channel):
        pass
    everybody: Queue = Broadcast('news', unique=True)
    with Consumer(connection, everybody, callbacks=[print]) as consumer:
        qos = QoS(consumer.qos, 1)
        qos.increment_eventually()
        qos.update()


def small_parts() -> None:
    clock: LamportClock = LamportClock()
    stamp: timetuple = timetuple(clock.forward(), 0.0, 'id', None)
    assert stamp.clock == 1
    registry: serialization.SerializerRegistry = serialization.registry
    content_type, encoding, body = registry.dumps({'a': 1})
    plain: serialization.codec = serialization.codec(content_type, encoding, lambda value: value)
    assert registry.loads(body, plain.content_type, encoding) == {'a': 1}
    matchers: matcher.MatcherRegistry = matcher.registry
    assert matchers.match('a.b', 'a.*', 'glob')
    assert parse_url('amqp://u@h/v')['virtual_host'] == 'v'
    version: greenmq.version_info_t = greenmq.VERSION
    assert version.major >= 0
    entity: abstract.MaybeChannelBound = ORDERS
    value: abstract.Object = entity
    assert value.as_dict()['name'] == 'orders'


class Till(log.LogMixin):
    @property
    def logger_name(self) -> str:
        return 'shop.till'


class Door(log.Log):
    pass


def errors() -> tuple[type[Exception], ...]:
    return (
        exceptions.BatchPublishError, exceptions.ChannelLimitExceeded, exceptions.ConnectionLimitExceeded,
        exceptions.ContentDisallowed, DecodeError, exceptions.EncodeError, exceptions.HttpError,
        exceptions.InconsistencyError, exceptions.KombuError, exceptions.LimitExceeded,
        exceptions.MessageStateError, exceptions.NotBoundError, OperationalError,
        exceptions.SerializationError, exceptions.SerializerNotInstalled, exceptions.VersionMismatch,
        matcher.MatcherNotInstalled,
    )  # fmt: skip


def main() -> None:
    with BrokerConnection(URL, connect_timeout=3, heartbeat=10) as connection:
        publish(connection)
        assert take(connection) == 2
        for body, message in itermessages(connection, connection.default_channel, QUEUES[0], limit=1):
            message.requeue()
            assert body['order'] in (1, 2)
        revived = connection.ensure(None, take, max_retries=1)
        assert revived(connection) == 2
        for _ in eventloop(connection, limit=1, timeout=0.01, ignore_timeouts=True):
            pass
        shop = Shop(connection)
        shop.run()
        assert len(shop.done) == 2
        pooled()
        assert simple(connection) == {'a': 1}
        old_names(connection)
        ask(connection)
        small_parts()
        enable_insecure_serializers(['yaml'])
        disable_insecure_serializers()
        assert callable(doctor) and all(issubclass(error, Exception) for error in errors())
        Till().debug('closed')
        assert isinstance(Door('front'), log.LogMixin)
        print('sold', len(shop.done))


if __name__ == '__main__':
    main()
