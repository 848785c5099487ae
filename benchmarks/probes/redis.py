"""Publish, consume and ack small dicts on a Redis server; CPU (user + system) and time for each message.

`python -m benchmarks.probes.redis PACKAGE URL MESSAGES`; kombu is patched by gevent first, as its users do.
"""

from __future__ import annotations

import sys

if sys.argv[1:2] == ['kombu']:
    from gevent import monkey

    monkey.patch_all()

import importlib
import json
import time

import gevent

BODY = {'id': 7, 'name': 'greenlet', 'tags': ['a', 'b'], 'ok': True}
GREENLETS = 100


class Probe:
    """One package on one server."""

    def __init__(self, package, url):
        self.package = importlib.import_module(package)
        self.url = url
        self.queue = self.package.Queue(
            'bench', self.package.Exchange('bench', type='direct'), routing_key='bench'
        )
        self.seen = 0

    def timed(self, name, count, function):
        cpu, start = time.process_time(), time.perf_counter()
        function()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        return {f'{name}_rate': count / seconds, f'{name}_us': 1e6 * cpu / count}

    def run(self, messages):
        result = {}
        with self.package.Connection(self.url) as connection:
            self.queue(connection.default_channel).declare()
            self.queue(connection.default_channel).purge()
            producer = connection.Producer(serializer='json')
            publish = producer.publish

            def alone(count):
                for _ in range(count):
                    publish(BODY, exchange='bench', routing_key='bench')

            alone(200)
            result.update(self.timed('alone', messages // 4, lambda: alone(messages // 4)))
        self.many(GREENLETS)
        result.update(self.timed('many', messages, lambda: self.many(messages)))
        result.update(self.consume(200 + messages // 4 + GREENLETS + messages))
        result.update(self.wakeups(400 if self.package.__name__ == 'greenmq' else 100))
        return result

    def many(self, messages):
        # kombu's channels can't be shared by greenlets: its users take producers from a pool.
        pools = importlib.import_module(f'{self.package.__name__}.pools')
        connection = self.package.Connection(self.url)
        shared = self.package.__name__ == 'greenmq'
        producers = pools.producers[connection]
        if not shared:
            pools.set_limit(GREENLETS)

        def each(count):
            if shared:
                with producers.acquire(block=True) as producer:
                    for _ in range(count):
                        producer.publish(BODY, exchange='bench', routing_key='bench')
            else:
                with pools.producers[connection].acquire(block=True) as producer:
                    for _ in range(count):
                        producer.publish(BODY, exchange='bench', routing_key='bench')

        gevent.joinall(
            [gevent.spawn(each, messages // GREENLETS) for _ in range(GREENLETS)], raise_error=True
        )
        pools.reset()

    def on_message(self, body, message):
        self.seen += 1
        message.ack()

    def consume(self, expected):
        with self.package.Connection(self.url) as connection:
            consumer = connection.Consumer([self.queue], callbacks=[self.on_message], prefetch_count=200)

            def drain():
                with consumer:
                    while self.seen < expected:
                        connection.drain_events(timeout=30)

            return self.timed('consume', expected, drain)

    def wakeups(self, count):
        latencies = []

        def on_message(body, message):
            latencies.append(time.perf_counter() - body['sent'])
            message.ack()

        with self.package.Connection(self.url) as connection, self.package.Connection(self.url) as other:
            producer = other.Producer(serializer='json')

            def publish():
                for _ in range(count):
                    gevent.sleep(0.007)
                    producer.publish({'sent': time.perf_counter()}, exchange='bench', routing_key='bench')

            with connection.Consumer([self.queue], callbacks=[on_message]):
                feeder = gevent.spawn(publish)
                while len(latencies) < count:
                    connection.drain_events(timeout=30)
                feeder.join()
        ordered = sorted(1e3 * latency for latency in latencies)
        return {'wake_p50': ordered[count // 2], 'wake_p99': ordered[int(count * 0.99)]}


def main(arguments):
    package, url, messages = arguments
    print(json.dumps(Probe(package, url).run(int(messages))))


if __name__ == '__main__':
    main(sys.argv[1:])
