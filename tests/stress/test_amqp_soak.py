"""Random faults, one after another: after each of them every consumer consumes again, and says so (P25)."""
from __future__ import annotations

import random
import time

import gevent
import pytest

from greenmq import Connection, Consumer, Exchange, Queue
from tests.stress import FACTOR
from tests.support.process import wait_until
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.stress, pytest.mark.green_timeout(3600)]

FAULTS = 50 * FACTOR
#: Seconds from the moment on which the network and the broker are well again.
AGAIN = 5
HEARTBEAT = 1


class Consuming:
    """A consumer that goes on over all faults, on a connection that may be shared."""

    def __init__(self, connection, number):
        self.key = f'soak-{number}'
        self.seen = set()
        queue = Queue(self.key, Exchange('soak', durable=True), routing_key=self.key, durable=True)
        self.consumer = Consumer(connection.channel(), [queue], callbacks=[self.on_message], accept=['json'],
                                 prefetch_count=10)
        self.consumer.consume()

    def on_message(self, body, message):
        self.seen.add(body['round'])
        message.ack()


def drain(connection):
    while True:
        try:
            connection.drain_events()
        except connection.connection_errors:
            continue


def test_after_each_of_many_faults_every_consumer_consumes(rabbitmq, amqp_vhost):
    rng = random.Random(FAULTS)
    # Only after this long a silence has been noticed.
    silent = 2 * HEARTBEAT + 1.5
    with Proxy(rabbitmq.port) as proxy:
        url = f'amqp://guest:guest@127.0.0.1:{proxy.port}/{amqp_vhost}'
        options = {'heartbeat': HEARTBEAT, 'transport_options': {'close_timeout': 1.0}}
        shared, alone = Connection(url, **options).connect(), Connection(url, **options).connect()
        publishing = Connection(url, **options).connect()
        consumers = [Consuming(shared, 0), Consuming(shared, 1), Consuming(alone, 2)]
        greenlets = [gevent.spawn(drain, each) for each in (shared, alone)]
        faults = {
            'cut': lambda: proxy.cut(), 'fin': lambda: proxy.fin(rng.choice(['up', 'down'])),
            'half': lambda: (proxy.half(rng.randrange(1, 40), 'down', 'stall'), gevent.sleep(silent)),
            'blackhole': lambda: (proxy.blackhole(rng.choice(['up', 'down', 'both'])), gevent.sleep(silent)),
            'refuse': lambda: (proxy.refuse(), proxy.cut(), gevent.sleep(rng.random()), proxy.accept()),
            'twice': lambda: (proxy.cut(), gevent.sleep(0.1 * rng.random()), proxy.cut()),
        }
        slowest = 0.0
        try:
            for number in range(FAULTS):
                name = rng.choice(list(faults))
                if number % 25 == 24:
                    name = 'kill -9'
                    rabbitmq.sync()
                    rabbitmq.restart()
                else:
                    faults[name]()
                    proxy.heal()
                start = time.monotonic()
                producer = publishing.Producer(exchange='soak')
                for each in consumers:
                    producer.publish({'round': number}, routing_key=each.key, retry=True, timeout=20)
                wait_until(lambda n=number: all(n in each.seen for each in consumers), 20,
                           f'consumption after fault {number}, {name}')
                took = time.monotonic() - start
                slowest = max(slowest, took)
                assert took < AGAIN, f'{took:.1f} s after fault {number}, {name}'
        finally:
            print(f'{number + 1} faults, the slowest return took {slowest:.2f} s')
            gevent.killall(greenlets)
            for connection in (shared, alone, publishing):
                connection.close()
