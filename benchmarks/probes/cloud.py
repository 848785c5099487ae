"""One phase of a program on a cloud queue: CPU (user + system) of this process for each message.

`python -m benchmarks.probes.cloud PACKAGE URL OPTIONS PHASE COUNT`; phases are declare (a count of queues),
publish, consume (counts of messages) and idle (seconds). kombu is patched by gevent first, as its users do.
Whoever starts it counts the calls meanwhile.
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

BODY = {'id': 7, 'name': 'greenlet', 'text': 'x' * 350}
GREENLETS = 100
#: Each producer of kombu has a connection of its own, and each of these a client of the SDK.
KOMBU_POOL = 10


class Probe:
    """One package on one broker."""

    def __init__(self, package, url, options):
        self.package = importlib.import_module(package)
        self.ours = package == 'greenmq'
        self.connection = self.package.Connection(url, transport_options=options)
        self.queue = self.package.Queue('bench', routing_key='bench')
        self.seen = 0

    def declare(self, count):
        for number in range(count):
            self.package.Queue(f'bench-{number}')(self.connection.default_channel).declare()

    def timed(self, count, function):
        cpu, start = time.process_time(), time.perf_counter()
        function()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        return {'rate': count / seconds, 'us': 1e6 * cpu / count}

    def publish(self, count):
        pools = importlib.import_module(f'{self.package.__name__}.pools')
        if not self.ours:
            pools.set_limit(KOMBU_POOL)
        producers = pools.producers[self.connection]

        def each(number):
            for _ in range(number):
                with producers.acquire(block=True) as producer:
                    producer.publish(BODY, routing_key='bench', serializer='json')

        def many(number):
            tasks = [gevent.spawn(each, number // GREENLETS) for _ in range(GREENLETS)]
            gevent.joinall(tasks, raise_error=True)

        many(GREENLETS)  # makes clients and connections, which is no message's cost
        found = self.timed(count, lambda: many(count))
        pools.reset()
        return {**found, 'messages': count + GREENLETS}

    def on_message(self, body, message):
        self.seen += 1
        message.ack()

    def consume(self, count):
        consumer = self.connection.Consumer([self.queue], callbacks=[self.on_message], prefetch_count=200,
                                            auto_declare=False)

        def drain():
            with consumer:
                while self.seen < count:
                    try:
                        self.connection.drain_events(timeout=5)
                    except TimeoutError:
                        continue
                if self.ours:
                    self.connection.default_channel.connection.session.settler.wait(None)

        self.queue(self.connection.default_channel).queue_declare(passive=True)  # makes what calls need
        return self.timed(count, drain)

    def idle(self, seconds):
        with self.connection.Consumer([self.queue], callbacks=[self.on_message], auto_declare=False):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                try:
                    self.connection.drain_events(timeout=1)
                except TimeoutError:
                    continue


def main(package, url, options, phase, count):
    probe = Probe(package, url, json.loads(options))
    found = getattr(probe, phase)(int(count))
    print(json.dumps(found or {}))
    sys.stdout.flush()
    import os

    os._exit(0)  # what waits at the service is not part of it


if __name__ == '__main__':
    main(*sys.argv[1:])
