"""One AMQP connection and one channel for hundreds of greenlets: nothing mixes, nothing is lost (P1–P3, P6).

Short in every run; `GREENMQ_SOAK=1` gives each storm a minute.
"""
from __future__ import annotations

import collections
import hashlib
import itertools
import random

import gevent
import pytest

from greenmq import Connection, Consumer, Exchange, Queue, pools
from greenmq.exceptions import ConnectionClosed, NotFound
from tests.stress import FACTOR
from tests.support import census
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.once]

SECONDS = 60 if FACTOR > 1 else 2
GREENLETS = 200


@pytest.fixture(params=['tcp', 'tls'])
def connect(request, rabbitmq, certificates, amqp_vhost, opened):
    """Open a connection, plain or with TLS."""
    if request.param == 'tls':
        ssl = {'ssl': certificates.client_options()}
        return lambda **arguments: opened(rabbitmq.tls_url(amqp_vhost), {**arguments, **ssl})
    return lambda **arguments: opened(rabbitmq.url(amqp_vhost), arguments)


class Storm:
    """What greenlets do to one channel until the time is up, and the books of it."""

    def __init__(self, connection, seed):
        self.connection = connection
        self.channel = connection.channel()
        self.random = random.Random(seed)
        self.exchange = Exchange('storm', type='topic', durable=False)
        self.work = Queue('storm-work', self.exchange, routing_key='work', durable=False)
        self.pull = Queue('storm-pull', self.exchange, routing_key='pull', durable=False)
        self.producer = connection.Producer(self.channel, exchange=self.exchange, serializer='json')
        self.numbers = itertools.count()
        self.safe = set()
        self.acked = collections.Counter()
        self.done = collections.Counter()
        self.over = False
        for queue in (self.work, self.pull):
            queue(self.channel).declare()

    def publish(self):
        number = next(self.numbers)
        size = self.random.choice((1, 30, 300, 20_000))
        self.producer.publish(
            {'id': number, 'fill': 'x' * size}, routing_key=self.random.choice(('work', 'work', 'pull')),
            declare=[self.random.choice((self.work, self.pull))], mandatory=self.random.random() < 0.2)
        self.safe.add(number)

    def declare(self):
        name = f'storm-{self.random.randrange(40)}'
        queue = Queue(name, self.exchange, routing_key=f'none.{name}', durable=False)(self.channel)
        queue.declare()
        assert self.channel.queue_declare(name, passive=True).queue == name

    def get(self):
        message = self.pull(self.channel).get()
        if message is not None:
            assert message.ack() is not False
            self.acked[message.payload['id']] += 1

    def consume(self):
        with Consumer(self.channel, [self.work], callbacks=[self.on_message], accept=['json']):
            gevent.sleep(self.random.random() * 0.2)

    def on_message(self, body, message):
        if self.random.random() < 0.1:
            gevent.sleep(0)
        assert message.ack() is not False
        self.acked[body['id']] += 1

    def qos(self):
        self.channel.basic_qos(0, self.random.randrange(1, 500), False)

    def open_and_close(self):
        with self.connection.channel() as channel:
            channel.queue_declare('storm-work', passive=True)

    def act(self):
        actions = (self.publish,) * 8 + (self.declare, self.get, self.get, self.consume, self.qos,
                                         self.open_and_close)
        while not self.over:
            action = self.random.choice(actions)
            action()
            self.done[action.__name__] += 1

    def drain(self):
        while not self.over:
            try:
                self.connection.drain_events(timeout=0.1)
            except TimeoutError:
                continue

    def run(self, seconds):
        greenlets = [gevent.spawn(self.act) for _ in range(GREENLETS)]
        greenlets += [gevent.spawn(self.drain) for _ in range(4)]
        gevent.sleep(seconds)
        self.over = True
        gevent.joinall(greenlets, timeout=60, raise_error=True)
        assert all(each.ready() for each in greenlets), 'a greenlet hangs'

    def finish(self):
        """Take what is left, with the same channel."""
        with Consumer(self.channel, [self.work], callbacks=[self.on_message], accept=['json']), \
                gevent.Timeout(60):
            while len(self.acked) < len(self.safe):
                before = len(self.acked)
                self.get()
                if len(self.acked) == before:
                    self.connection.drain_events(timeout=10)

    def check(self):
        assert set(self.acked) == self.safe, f'lost {self.safe - set(self.acked)}'
        twice = [number for number, count in self.acked.items() if count > 1]
        assert not twice, f'acked twice: {twice}'


@pytest.mark.green_timeout(60 + 3 * SECONDS)
def test_two_hundred_greenlets_on_one_channel(connect, rabbitmq, amqp_vhost, record_property):
    storm = Storm(connect(), seed=20_24)
    storm.run(SECONDS)
    with_us = [each for each in rabbitmq.list_connections() if each['vhost'] == amqp_vhost]
    assert len(with_us) == 1, with_us
    storm.finish()
    storm.check()
    record_property('done', dict(storm.done))
    print(f'{SECONDS} s: {dict(storm.done)}, {len(storm.safe)} messages')
    amqp = storm.connection.connection
    assert amqp.epoch == 1 and len(amqp.channels) == 1
    assert len(amqp.link.wires) <= 3, amqp.link.wires
    for name in ('storm-work', 'storm-pull'):
        declared = storm.channel.queue_declare(name, passive=True)
        assert declared.message_count == 0, f'{name}: {declared}'


@pytest.mark.green_timeout(120)
def test_frames_stay_whole_while_every_send_is_partial(rabbitmq, amqp_vhost):
    """P3: the digest of every body arrives with it; the broker has seen no frame where none was due."""
    rounds = 6 * FACTOR
    with Proxy(rabbitmq.port, buffer_bytes=4096) as proxy:
        url = f'amqp://guest:guest@127.0.0.1:{proxy.port}/{amqp_vhost}'
        slow, fast = Connection(url), Connection(rabbitmq.url(amqp_vhost))
        queue = Queue('whole', durable=False)
        seen = []

        def on_message(body, message):
            assert hashlib.sha256(body).hexdigest() == message.headers['sha256']
            seen.append(len(body))
            message.ack()

        with slow, fast:
            producer = slow.Producer()
            queue(slow.default_channel).declare()
            proxy.slow(4_000_000, 'up')
            rng = random.Random(7)

            def publish(size):
                body = rng.randbytes(size)
                producer.publish(body, routing_key='whole', content_type='application/data',
                                 content_encoding='binary', timeout=100,
                                 headers={'sha256': hashlib.sha256(body).hexdigest()})

            sizes = [size for _ in range(rounds) for size in (1, 100, 4095, 131_064, 131_065, 300_000)]
            sizes += [5_000_000] * FACTOR
            rng.shuffle(sizes)
            publishing = [gevent.spawn(publish, size) for size in sizes]
            with Consumer(fast, [queue], callbacks=[on_message], accept=None, prefetch_count=10):
                while len(seen) < len(sizes):
                    fast.drain_events(timeout=100)
            gevent.joinall(publishing, timeout=10, raise_error=True)
            assert sorted(seen) == sorted(sizes)
            assert slow.connection.epoch == 1
    assert 'UNEXPECTED_FRAME' not in ''.join(log.read_text() for log in rabbitmq.logs() if log.exists())


@pytest.mark.green_timeout(60)
def test_a_thousand_publishes_to_a_missing_exchange(rabbitmq, amqp_vhost):
    """P6: each raises, none hangs, and there are no more channels at the broker than producers."""
    connection = Connection(rabbitmq.url(amqp_vhost))
    group = pools.producers[connection]
    raised = collections.Counter()

    def publish():
        for _ in range(20):
            try:
                with group.acquire(block=True, timeout=30) as producer:
                    producer.publish({'x': 1}, exchange='missing', routing_key='k')
            except NotFound as exc:
                raised[type(exc)] += 1

    greenlets = [gevent.spawn(publish) for _ in range(50)]
    gevent.joinall(greenlets, timeout=50, raise_error=True)
    assert raised == {NotFound: 1000}
    rows = [row for row in rabbitmq.list('connections', 'vhost', 'channels') if row['vhost'] == amqp_vhost]
    assert len(rows) <= 2 and sum(row['channels'] for row in rows) <= 3 * group.limit, rows
    with group.acquire(block=True, timeout=5) as producer:
        producer.publish({'x': 1}, exchange='', routing_key='nobody')


@pytest.mark.parametrize('blackhole', [False, True], ids=['answering', 'blackhole'])
def test_closing_from_everywhere_wakes_everybody(blackhole, rabbitmq, amqp_vhost, certificates):
    """P2: TLS, 50 parked consumers, 20 greenlets close at once: one typed error, in time, no fd left."""
    with Proxy(('localhost', rabbitmq.tls_port)) as proxy, census.unchanged('fds'):
        connection = Connection(
            f'amqps://guest:guest@localhost:{proxy.port}/{amqp_vhost}', ssl=certificates.client_options(),
            transport_options={'close_timeout': 0.5})
        connection.connect()
        queue = Queue('parked', durable=False)
        for number in range(50):
            channel = connection.channel()
            queue(channel).declare()
            channel.basic_consume('parked', consumer_tag=f't{number}')
        errors = []

        def park():
            try:
                connection.drain_events()
            except BaseException as exc:
                errors.append(type(exc))

        parked = [gevent.spawn(park) for _ in range(50)]
        gevent.sleep(0.01)
        if blackhole:
            proxy.blackhole()
        closing = [gevent.spawn(connection.close) for _ in range(20)]
        with gevent.Timeout(3):
            gevent.joinall(closing + parked, raise_error=True)
        assert errors == [ConnectionClosed] * 50
        connection.close()
        proxy.heal()
