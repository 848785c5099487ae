"""Messages a second through a ConsumerMixin whose callback sleeps 1 ms.

`python -m benchmarks.probes.worker PACKAGE URL CONCURRENCY MESSAGES`, and with CONCURRENCY 0 the memory that
an idle consumer takes, of MESSAGES consumers. kombu has no concurrency: its loop runs one callback at a time.
"""
from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time

CALLBACK = 0.001


def resident():
    with open('/proc/self/statm') as statm:
        return int(statm.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def sleeping(package):
    return importlib.import_module('greenmq.runtime').sleep if package == 'greenmq' else time.sleep


class Bench:
    """Made for each package on its own mixin: see `worker_class`."""

    def __init__(self, connection, package, messages):
        self.connection, self.package, self.messages = connection, importlib.import_module(package), messages
        self.sleep = sleeping(package)
        self.seen = 0
        self.start = self.end = 0.0

    def get_consumers(self, Consumer, channel):
        queue = self.package.Queue('bench-worker', durable=False)
        channel.basic_qos(0, max(2 * self.concurrency, 100), False)
        return [Consumer([queue], callbacks=[self.on_message])]

    def on_message(self, body, message):
        if not self.seen:
            self.start = time.perf_counter()
        self.seen += 1
        self.sleep(CALLBACK)
        message.ack()
        self.end = time.perf_counter()
        if self.seen >= self.messages:
            self.should_stop = True


class Idle:
    """Many consumers, and nothing to do."""

    def __init__(self, connection, package, count):
        self.connection, self.package, self.count = connection, importlib.import_module(package), count

    def get_consumers(self, Consumer, channel):
        return [Consumer([self.package.Queue(f'bench-idle-{number}', durable=False, auto_delete=True)],
                         callbacks=[print]) for number in range(self.count)]

    def on_consume_ready(self, connection, channel, consumers, **kwargs):
        self.rounds = 0

    def on_iteration(self):
        self.rounds += 1
        self.should_stop = self.rounds > 2


def made(base, package):
    return type('Worker', (base, importlib.import_module(f'{package}.mixins').ConsumerMixin), {})


def throughput(package, url, concurrency, messages):
    greenmq = importlib.import_module(package)
    with greenmq.Connection(url) as connection:
        queue = greenmq.Queue('bench-worker', durable=False)
        producer = connection.Producer()
        queue(connection.default_channel).declare()
        queue(connection.default_channel).purge()
        for number in range(messages):
            producer.publish(number, routing_key='bench-worker', delivery_mode=1)
        worker = made(Bench, package)(connection, package, messages)
        worker.concurrency = concurrency
        worker.run()
        queue(connection.default_channel).delete()
    return {'per_second': (worker.seen - 1) / (worker.end - worker.start)}


def memory(package, url, count):
    package_ = importlib.import_module(package)
    with package_.Connection(url) as connection:
        made(Idle, package)(connection, package, 1).run()  # imports and caches
        gc.collect()
        worker = made(Idle, package)(connection, package, count)
        before = resident()
        most = [before]
        worker.on_iteration_ = worker.on_iteration

        def on_iteration():
            most[0] = max(most[0], resident())
            worker.on_iteration_()

        worker.on_iteration = on_iteration
        worker.run()
    return {'kilobytes': (most[0] - before) / count / 1024}


def main(arguments):
    package, url, concurrency, messages = arguments[0], arguments[1], int(arguments[2]), int(arguments[3])
    if concurrency:
        result = throughput(package, url, concurrency, messages)
    else:
        result = memory(package, url, messages)
    print(json.dumps(result))


if __name__ == '__main__':
    main(sys.argv[1:])
