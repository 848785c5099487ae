"""Publish, consume and ack small dicts through a store on the local disk; time and CPU for each message.

`python -m benchmarks.probes.stores PACKAGE STORE MESSAGES`, STORE one of file, filesystem, sqlite; each run
has a folder of its own. kombu is patched by gevent first, as its users do.
"""

from __future__ import annotations

import sys

if sys.argv[1:2] == ['kombu']:
    from gevent import monkey

    monkey.patch_all()

import importlib
import json
import os
import tempfile
import time

import gevent

BODY = {'id': 7, 'name': 'greenlet', 'tags': ['a', 'b'], 'ok': True}
GREENLETS = 100


def place(store, folder):
    """URL and transport options of a store in a folder."""
    if store == 'filesystem':
        os.makedirs(f'{folder}/data')
        os.makedirs(f'{folder}/control')
        return 'filesystem://', {
            'data_folder_in': f'{folder}/data', 'data_folder_out': f'{folder}/data',
            'control_folder': f'{folder}/control',
        }  # fmt: skip
    return {'file': f'file://{folder}', 'sqlite': f'sqla+sqlite:///{folder}/broker.db'}[store], {}


class Probe:
    """One package on one store."""

    def __init__(self, package, url, options):
        self.package = importlib.import_module(package)
        self.connect = lambda: self.package.Connection(url, transport_options=dict(options))
        exchange = self.package.Exchange('bench', type='direct')
        self.queue = self.package.Queue('bench', exchange, routing_key='bench')
        self.latencies = []
        self.seen = 0

    def timed(self, name, count, function):
        cpu, start = time.process_time(), time.perf_counter()
        function()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        return {f'{name}_rate': count / seconds, f'{name}_us': 1e6 * cpu / count}

    def publish(self, producer, count):
        for _ in range(count):
            producer.publish(BODY, exchange=self.queue.exchange, routing_key='bench')

    def run(self, messages):
        alone, each = max(messages // 10, 50), max(messages // GREENLETS, 1)
        result = {}
        with self.connect() as connection:
            self.queue(connection.default_channel).declare()
            producer = connection.Producer(serializer='json')
            self.publish(producer, 20)
            result.update(self.timed('alone', alone, lambda: self.publish(producer, alone)))
            result.update(self.many(producer, each))
        result.update(self.consume(20 + alone + each * GREENLETS))
        result.update(self.wakeups(100 if self.package.__name__ == 'greenmq' else 5))
        return result

    def many(self, producer, each):
        # kombu's channels are for one greenlet at a time; on these stores its calls do not switch, so that
        # its greenlets would only wait for each other: one publishes what a hundred would.
        if self.package.__name__ == 'kombu':
            return self.timed('many', each * GREENLETS, lambda: self.publish(producer, each * GREENLETS))

        def publish():
            greenlets = [gevent.spawn(self.publish, producer, each) for _ in range(GREENLETS)]
            gevent.joinall(greenlets, raise_error=True)

        return self.timed('many', each * GREENLETS, publish)

    def on_message(self, body, message):
        self.seen += 1
        message.ack()

    def consume(self, expected):
        with self.connect() as connection:
            consumer = connection.Consumer([self.queue], callbacks=[self.on_message], prefetch_count=200)

            def drain():
                with consumer:
                    while self.seen < expected:
                        connection.drain_events(timeout=30)

            return self.timed('consume', expected, drain)

    def on_waking(self, body, message):
        self.latencies.append(time.perf_counter() - body['sent'])
        message.ack()

    def wakeups(self, count):
        with self.connect() as connection, self.connect() as other:
            producer = other.Producer(serializer='json')
            self.queue(other.default_channel).declare()  # kombu's SQL tables have no bindings

            def publish():
                for _ in range(count):
                    gevent.sleep(0.02)
                    body = {'sent': time.perf_counter()}
                    producer.publish(body, exchange=self.queue.exchange, routing_key='bench')

            with connection.Consumer([self.queue], callbacks=[self.on_waking]):
                feeder = gevent.spawn(publish)
                while len(self.latencies) < count:
                    connection.drain_events(timeout=30)
                feeder.join()
        ordered = sorted(1e3 * latency for latency in self.latencies)
        return {'wake_p50': ordered[count // 2], 'wake_p99': ordered[int(count * 0.99)]}


def main(arguments):
    package, store, messages = arguments
    with tempfile.TemporaryDirectory(prefix='greenmq-bench-', dir=os.environ.get('BENCH_FOLDER')) as folder:
        print(json.dumps(Probe(package, *place(store, folder)).run(int(messages))))


if __name__ == '__main__':
    main(sys.argv[1:])
