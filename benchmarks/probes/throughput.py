"""Publish, consume and ack small dicts over memory://; CPU (user + system) and time for each message.

`python -m benchmarks.probes.throughput PACKAGE [MESSAGES] [--profile]`
"""
from __future__ import annotations

import cProfile
import importlib
import json
import pstats
import sys
import time

#: Published, then consumed, and again: below greenmq's default prefetch, and the queue stays short.
BATCH = 500
BODY = {'id': 7, 'name': 'greenlet', 'tags': ['a', 'b'], 'ok': True}


class Throughput:
    """One producer and one consumer on one connection."""

    def __init__(self, package):
        self.package = importlib.import_module(package)
        self.seen = 0
        self.publish_cpu = self.consume_cpu = 0.0

    def on_message(self, body, message):
        self.seen += 1
        message.ack()

    def run(self, messages):
        package = self.package
        queue = package.Queue('bench', package.Exchange('bench', type='direct'), routing_key='bench')
        with package.Connection('memory://') as connection:
            producer = connection.Producer(serializer='json')
            with connection.Consumer([queue], callbacks=[self.on_message]):
                self.batch(connection, producer, 2 * BATCH)  # imports, caches, allocator
                self.seen, self.publish_cpu, self.consume_cpu = 0, 0.0, 0.0
                for _ in range(messages // BATCH):
                    self.batch(connection, producer, BATCH)

    def batch(self, connection, producer, count):
        publish, clock = producer.publish, time.process_time
        target = self.seen + count
        start = clock()
        for _ in range(count):
            publish(BODY, exchange='bench', routing_key='bench')
        published = clock()
        while self.seen < target:
            connection.drain_events(timeout=10)
        self.publish_cpu += published - start
        self.consume_cpu += clock() - published


def measure(package, messages):
    probe = Throughput(package)
    start = time.perf_counter()
    probe.run(messages)
    seconds = time.perf_counter() - start
    assert probe.seen == messages, f'{probe.seen} of {messages} messages seen'
    return {
        'publish_us': 1e6 * probe.publish_cpu / messages,
        'consume_us': 1e6 * probe.consume_cpu / messages,
        'total_us': 1e6 * (probe.publish_cpu + probe.consume_cpu) / messages,
        'per_second': messages / seconds,
    }


def main(arguments):
    package = arguments[0]
    numbers = [int(argument) for argument in arguments[1:] if argument.isdigit()]
    messages = numbers[0] // BATCH * BATCH if numbers else 20 * BATCH
    if '--profile' in arguments:
        profile = cProfile.Profile()
        profile.runcall(measure, package, messages)
        pstats.Stats(profile).sort_stats('tottime').print_stats(30)
        return
    print(json.dumps(measure(package, messages)))


if __name__ == '__main__':
    main(sys.argv[1:])
