"""Every example of kombu's own documents and of the user's, with our imports, on memory://."""

import logging
import pickle
import ssl

import pytest

from greenmq import Connection, Consumer, Exchange, Producer, Queue, pools
from greenmq.common import eventloop
from greenmq.exceptions import (
    ChannelLimitExceeded,
    ConnectionLimitExceeded,
    LimitExceeded,
    NotBoundError,
    OperationalError,
    TimeoutError,
)
from greenmq.mixins import ConsumerMixin
from greenmq.pools import PoolGroup, ProducerPool, connections, get_limit, producers, set_limit
from greenmq.utils.url import parse_url

URL = 'memory://documents'


@pytest.fixture(autouse=True)
def fresh_pools():
    limit = get_limit()
    yield
    pools.reset()
    set_limit(limit, force=True)


# ------------------------------------------------------------------------------------------ readme

media_exchange = Exchange('media', 'direct', durable=True)
video_queue = Queue('video', exchange=media_exchange, routing_key='video')


def test_quick_overview():
    seen = []

    def process_media(body, message):
        seen.append(body)
        message.ack()

    with Connection(URL) as conn:
        producer = conn.Producer(serializer='json')
        producer.publish(
            {'name': '/tmp/lolcat1.avi', 'size': 1301013},
            exchange=media_exchange, routing_key='video', declare=[video_queue],
        )  # fmt: skip
        with conn.Consumer(video_queue, callbacks=[process_media]):
            while not seen:
                conn.drain_events()
    assert seen == [{'name': '/tmp/lolcat1.avi', 'size': 1301013}]


def test_declaring_by_hand():
    with Connection(URL) as conn:
        assert video_queue(conn).declare() == 'video'


def test_several_queues_on_one_channel():
    seen = []

    def process_media(body, message):
        seen.append(body)
        message.ack()

    video = Queue('video', exchange=media_exchange, key='video')
    image = Queue('image', exchange=media_exchange, key='image')
    with Connection(URL) as connection:
        with connection.Consumer([video, image], callbacks=[process_media]):
            producer = connection.Producer()
            producer.publish('v', exchange=media_exchange, routing_key='video')
            producer.publish('i', exchange=media_exchange, routing_key='image')
            while len(seen) < 2:
                connection.drain_events()
    assert sorted(seen) == ['i', 'v']


def test_channels_by_hand():
    with Connection(URL) as connection:
        with connection.channel() as channel:
            producer = Producer(channel, media_exchange)
            consumer = Consumer(channel)
            assert producer.channel is consumer.channel is channel


def test_without_with_statements():
    seen = []

    def my_callback(body, message):
        seen.append(body)
        message.ack()

    connection = Connection(URL)
    consumer = Consumer(connection, video_queue)
    consumer.register_callback(my_callback)
    consumer.consume()
    Producer(connection).publish('x', exchange=media_exchange, routing_key='video')
    connection.drain_events(timeout=5)
    consumer.cancel()
    connection.release()
    assert seen == ['x']


def test_entities_are_declarations_and_act_when_bound():
    exchange = Exchange('tasks', 'direct')
    with Connection(URL) as connection:
        bound_exchange = exchange(connection)
        bound_exchange.declare()
        bound_exchange.delete()
    with pytest.raises(NotBoundError, match=r"Can't call \w+ on Exchange not bound to a\s+channel"):
        exchange.delete()
    assert pickle.loads(pickle.dumps(video_queue)) == video_queue


def test_terminology_of_topic_exchanges():
    exchange = Exchange('stocks', 'topic')
    queue = Queue('prices', exchange, routing_key='*.stock.#')
    with Connection(URL) as conn:
        for key in ('usd.stock', 'eur.stock.db', 'stock.nasdaq'):
            conn.Producer().publish(key, exchange=exchange, routing_key=key, declare=[queue])
        bound = queue(conn)
        assert [bound.get(no_ack=True).payload for _ in range(2)] == ['usd.stock', 'eur.stock.db']
        assert bound.get() is None


# -------------------------------------------------------------------------------- connection guide


def test_basic_connection():
    for conn in (
        Connection(URL),
        Connection(
            hostname='localhost', userid='guest', password='guest', virtual_host='/', transport='memory'
        ),
    ):
        with conn:
            channel = conn.channel()
            assert channel.connection.client is conn


def test_connect_gives_the_connection_for_chaining():
    with Connection(URL) as conn:
        assert conn.connect() is conn
        assert conn.connected


def test_connection_with_retries():
    def on_connection_error(exc, interval):
        raise AssertionError(f'{exc} {interval}')

    conn = Connection(URL)
    with conn.ensure_connection(
        errback=on_connection_error, max_retries=5, interval_start=1, interval_step=2, interval_max=10
    ) as same:
        assert same is conn
        conn.channel()


def test_parse_url():
    assert {
        'transport': 'redis', 'hostname': 'localhost', 'port': 6379, 'userid': 'user', 'password': 'pass',
        'virtual_host': '1',
    }.items() <= parse_url('redis://user:pass@localhost:6379/1').items()  # fmt: skip
    parsed = parse_url('amqp://guest:guest@localhost:5672//')
    assert (parsed['transport'], parsed['virtual_host']) == ('amqp', '/')


def test_event_processing():
    seen = []

    def process_message(body, message):
        seen.append(body)
        message.ack()

    conn = Connection(URL)
    queue = Queue('test_queue')
    with conn:
        consumer = conn.Consumer(queue, callbacks=[process_message])
        consumer.consume()
        for n in range(10):
            conn.Producer().publish(n, routing_key='test_queue')
        for _ in eventloop(conn, limit=10, timeout=5.0):
            pass
    assert seen == list(range(10))


def test_simple_queues():
    with Connection(URL) as conn:
        queue = conn.SimpleQueue(
            'simple', no_ack=None, queue_opts=None, exchange_opts=None, channel=conn.channel()
        )
        queue.put({'a': 1})
        message = queue.get(block=True, timeout=5)
        assert message.payload == {'a': 1}
        message.ack()
        queue.close()
        buffer = conn.SimpleBuffer('buffer')
        buffer.put('x')
        assert buffer.get(timeout=5).payload == 'x'
        buffer.close()


# ---------------------------------------------------------------------------- connection reference


def test_ways_to_make_a_connection():
    Connection('amqp://guest:guest@localhost:5672//')
    Connection('amqp://foo;amqp://bar', failover_strategy='round-robin')
    Connection('redis://', transport_options={'visibility_timeout': 3000})
    Connection(
        'amqp://', login_method='EXTERNAL',
        ssl={
            'ca_certs': '/etc/pki/tls/certs/something.crt', 'keyfile': '/etc/something/system.key',
            'certfile': '/etc/something/system.cert', 'cert_reqs': ssl.CERT_REQUIRED,
        },
    )  # fmt: skip


def test_channel_pool():
    with Connection(URL) as connection:
        pool = connection.ChannelPool(2)
        c1 = pool.acquire()
        pool.acquire()
        with pytest.raises(ChannelLimitExceeded):
            pool.acquire()
        c1.release()
        pool.acquire()


def test_connection_pool():
    connection = Connection(URL)
    pool = connection.Pool(2)
    c1 = pool.acquire()
    pool.acquire()
    with pytest.raises(ConnectionLimitExceeded):
        pool.acquire()
    c1.release()
    pool.acquire()
    pool.force_close_all()


def test_autoretry():
    def publish_messages(channel=None):
        Producer(channel).publish('x', 'autoretry')
        return 'published'

    connection = Connection(URL)
    channel = connection.channel()
    try:
        ret, channel = connection.autoretry(publish_messages, channel)()
    finally:
        channel.close()
    assert ret == 'published'
    connection.release()


def test_ensure():
    logger = logging.getLogger('documents')

    def errback(exc, interval):
        logger.error('Error: %r', exc, exc_info=1)
        logger.info('Retry in %s seconds.', interval)

    conn = Connection(URL)
    producer = Producer(conn)
    Queue('dest')(conn).declare()
    publish = conn.ensure(producer, producer.publish, errback=errback, max_retries=3)
    publish({'hello': 'world'}, routing_key='dest')
    assert Queue('dest')(conn).get(no_ack=True).payload == {'hello': 'world'}
    conn.release()


def test_attributes_that_the_reference_names():
    with Connection(URL, heartbeat=0) as conn:
        conn.connect()
        assert conn.heartbeat == 0
        assert conn.heartbeat_check(rate=2) is None
        assert conn.as_uri().startswith('memory://')
        assert conn.supports_exchange_type('direct')
        assert conn.get_transport_cls() is type(conn.transport)
        assert conn.info()['transport'] == 'memory'
        assert conn.clone().as_uri() == conn.as_uri()
        assert set(conn.failover_strategies) == {'round-robin', 'shuffle'}
        assert conn.declared_entities == set()
        assert conn.default_channel is conn.default_channel
        for name in (
            'recoverable_connection_errors',
            'connection_errors',
            'recoverable_channel_errors',
            'channel_errors',
        ):
            assert all(issubclass(error, Exception) for error in getattr(conn, name))
        with pytest.raises(TimeoutError):
            conn.drain_events(timeout=0.01)


# ------------------------------------------------------------------------------------------- mixins


@pytest.mark.parametrize('spelling', ['callback', 'callbacks'])
def test_consumer_mixin(spelling):
    class Worker(ConsumerMixin):
        task_queue = Queue('tasks', Exchange('tasks'), 'tasks')

        def __init__(self, connection):
            self.connection = connection
            self.done = []

        def get_consumers(self, Consumer, channel):
            return [Consumer(queues=[self.task_queue], **{spelling: [self.on_task]})]

        def on_consume_ready(self, connection, channel, consumers, **kwargs):
            with Connection(URL) as other:
                other.Producer().publish('job', exchange='tasks', routing_key='tasks')

        def on_task(self, body, message):
            self.done.append(body)
            message.ack()
            self.should_stop = True

    with Connection(URL) as connection:
        worker = Worker(connection)
        worker.run()
    assert worker.done == ['job']


# -------------------------------------------------------------------------------------------- pools


def test_global_pools_take_a_url():
    with Connection(URL) as conn:
        for name in ('test', 'task'):
            Queue(name)(conn).declare()
        with pools.connections[URL].acquire() as pooled:
            producer = pooled.Producer()
            producer.publish({'msg': 'hello'}, routing_key='test')
            with pooled.channel() as channel:
                assert channel is not None
        with pools.producers[URL].acquire() as producer:
            producer.publish({'message': 'data'}, routing_key='task')
        assert Queue('test')(conn).get(no_ack=True).payload == {'msg': 'hello'}
        assert Queue('task')(conn).get(no_ack=True).payload == {'message': 'data'}


def test_limits():
    pools.set_limit(100)
    assert get_limit() == 100
    set_limit(20)
    assert get_limit() == 20
    pools.reset()


def test_a_producer_pool_of_ones_own():
    conn_pool = Connection(URL).Pool(limit=10)
    producer_pool = ProducerPool(conn_pool, limit=5)
    with producer_pool.acquire() as producer:
        producer.publish({'custom': 'message'}, routing_key='custom')
    producer_pool.force_close_all()
    conn_pool.force_close_all()


def test_a_pool_group_of_ones_own():
    class Group(PoolGroup):
        def create(self, resource, limit):
            return resource.Pool(limit)

    group = Group(limit=3)
    connection = Connection(URL)
    assert group[connection].limit == 3
    assert group[connection] is group[connection]
    group.clear()


def test_errors_of_pools():
    try:
        with producers[URL].acquire(timeout=5.0) as producer:
            producer.publish({'data': 'message'}, routing_key='task')
    except (LimitExceeded, OperationalError) as exc:
        raise AssertionError(exc) from exc
    pool = Connection(URL).Pool(limit=1)
    with pool.acquire(), pytest.raises(LimitExceeded) as caught:
        pool.acquire(timeout=0.01)
    assert caught.value.args[0] == 1
    pool.force_close_all()


def test_one_name_for_the_groups():
    assert connections is pools.connections
    assert producers is pools.producers
