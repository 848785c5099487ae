"""KB (1,000 bytes) each of what idles: `python -m benchmarks.probes.footprint PACKAGE URL WHAT NUMBER`.

Two figures: what the process grew by (whole pages, with what its allocator keeps), and what Python allocated.
"""
from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import sys
import tracemalloc
import uuid

import gevent

PAGE = os.sysconf('SC_PAGE_SIZE')
#: Made before the first look: what is made once for all.
WARM = 5


def resident():
    with open('/proc/self/statm') as numbers:
        return int(numbers.read().split()[1]) * PAGE


def traced():
    return tracemalloc.get_traced_memory()[0]


class Footprint:
    def __init__(self, package, url):
        self.module, self.url = importlib.import_module(package), url
        self.base = self.module.Connection(url)
        self.base.connect()
        self.channel = self.base.default_channel
        self.names = map(f'{uuid.uuid4().hex[:8]}.{{}}'.format, itertools.count())
        self.kept = []

    def connection(self):
        """Connected, without a channel."""
        found = self.module.Connection(self.url)
        found.connect()
        return found

    def channel_(self):
        return self.base.channel()

    def consumer(self):
        """Of a queue of its own, all on one channel."""
        queue = self.module.Queue(next(self.names), exclusive=True, durable=False)
        consumer = self.module.Consumer(self.channel, [queue], callbacks=[print])
        consumer.consume()
        return consumer

    def idle(self, make, number, look):
        """How much a figure grows by for each of so many."""
        gevent.sleep(0.1)
        gc.collect()
        before = look()
        self.kept += [make() for _ in range(number)]
        gevent.sleep(0.1)
        gc.collect()
        return (look() - before) / number

    def waiting(self, work, number, look):
        """The same for greenlets that all wait at once."""
        # In one round of the hub: before it reads an answer, all have begun to wait.
        gevent.setswitchinterval(60)
        gc.collect()
        seen = []
        before = look()
        tasks = [gevent.spawn(work) for _ in range(number)]
        gevent.spawn(lambda: seen.extend([look(), sum(map(bool, tasks))])).join()
        gevent.joinall(tasks, raise_error=True)
        after, alive = seen
        if alive != number:
            raise SystemExit(f'{number - alive} of {number} greenlets did not wait')
        return (after - before) / number

    def measure(self, what, number, look):
        if what == 'sleep':
            return self.waiting(lambda: gevent.sleep(0.2), number, look)
        if what == 'publish':
            queue = next(self.names)
            self.module.Queue(queue, exclusive=True, durable=False)(self.channel).declare()
            producer = self.base.Producer(routing_key=queue)
            producer.publish(1)
            return self.waiting(lambda: producer.publish(1), number, look)
        return self.idle(getattr(self, 'channel_' if what == 'channel' else what), number, look)


def main(package, url, what, number):
    work = Footprint(package, url)
    work.measure(what, WARM, resident)
    grown = work.measure(what, int(number), resident)
    tracemalloc.start()
    allocated = work.measure(what, int(number), traced)
    tracemalloc.stop()
    print(json.dumps({'resident': grown / 1000, 'allocated': allocated / 1000}), flush=True)
    for kept in work.kept:
        if what == 'connection':
            kept.close()
    work.base.close()


if __name__ == '__main__':
    main(*sys.argv[1:])
