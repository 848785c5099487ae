"""Pools: a lease that nobody contends for, a thousand greenlets and ten resources, publishing through them.

`python -m benchmarks.probes.pools PACKAGE URL [--profile]`; kombu is patched by gevent first, as its users
do.
"""

from __future__ import annotations

import sys

if sys.argv[1:2] == ['kombu']:
    from gevent import monkey

    monkey.patch_all()

import importlib
import json
import os
import time

import gevent

BODY = {'id': 7, 'name': 'greenlet', 'tags': ['a', 'b'], 'ok': True, 'text': 'x' * 200}
LEASES = 50_000
CONTENDERS, RESOURCES, TURNS = 1_000, 10, 20
PUBLISHERS, PUBLISHES = 100, 200


class Probe:
    """One package."""

    def __init__(self, name, url):
        self.package = importlib.import_module(name)
        self.pools = importlib.import_module(f'{name}.pools')
        # kombu confirms only when it is told to; greenmq by default.
        options = {'transport_options': {'confirm_publish': True}} if name == 'kombu' else {}
        self.connection = self.package.Connection(url, **options)

    def uncontended(self):
        def cost(pool):
            pool.acquire(block=True).release()
            start = time.process_time()
            for _ in range(LEASES):
                pool.acquire(block=True).release()
            return 1e6 * (time.process_time() - start) / LEASES

        connection = self.package.Connection('memory://')
        found = {'connection_us': cost(connection.Pool(RESOURCES)),
                 'producer_us': cost(self.pools.producers[connection])}
        self.pools.reset()
        return found

    def contended(self):
        """A hand-off is a resource that comes to another greenlet: who takes back what it has just given,
        past all who wait, has handed nothing over.
        """
        pool = self.package.Connection('memory://').Pool(RESOURCES)
        waits, holders, handoffs = [], {}, [0]

        def work():
            me = object()
            for _ in range(TURNS):
                began = time.perf_counter()
                resource = pool.acquire(block=True, timeout=600)
                waits.append(time.perf_counter() - began)
                if holders.get(id(resource)) is not me:
                    holders[id(resource)] = me
                    handoffs[0] += 1
                gevent.sleep(0)
                resource.release()

        start = time.perf_counter()
        gevent.joinall([gevent.spawn(work) for _ in range(CONTENDERS)], raise_error=True)
        seconds = time.perf_counter() - start
        # Only while all are there: who is first, or last, waits for fewer.
        waits = sorted(waits[CONTENDERS:-CONTENDERS])
        return {'handoffs': handoffs[0] / seconds, 'acquires': CONTENDERS * TURNS / seconds,
                'fairness': waits[-1] / waits[len(waits) // 2]}

    def published(self, rounds=3):
        """The last round counts: by then connections and channels are open."""
        self.pools.set_limit(PUBLISHERS)
        exchange = self.package.Exchange('bench-pools', type='direct', durable=False)
        queue = self.package.Queue('bench-pools', exchange, routing_key='bench', durable=False,
                                   max_length=1_000)
        with self.connection.clone() as other:
            queue(other.default_channel).declare()
        producers, connection = self.pools.producers, self.connection

        def work():
            for _ in range(PUBLISHES):
                with producers[connection].acquire(block=True) as producer:
                    producer.publish(BODY, exchange='bench-pools', routing_key='bench', serializer='json',
                                     delivery_mode=1)

        count = PUBLISHERS * PUBLISHES
        for _ in range(rounds):
            cpu, start = time.process_time(), time.perf_counter()
            gevent.joinall([gevent.spawn(work) for _ in range(PUBLISHERS)], raise_error=True)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        return {'publish_rate': count / seconds, 'publish_us': 1e6 * cpu / count, 'sockets': sockets()}

    def run(self):
        return {**self.uncontended(), **self.contended(), **self.published()}


def sockets():
    """Connections of this process, by what the kernel says."""
    mine = set()
    for name in os.listdir('/proc/self/fd'):
        try:
            mine.add(os.readlink(f'/proc/self/fd/{name}'))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    with open('/proc/net/tcp') as table:
        return sum(f'socket:[{line.split()[9]}]' in mine for line in table.readlines()[1:])


def main(arguments):
    probe = Probe(*arguments[:2])
    if '--profile' not in arguments:
        print(json.dumps(probe.run()))
        return
    import cProfile
    import pstats

    with cProfile.Profile() as profile:
        probe.published(1)
    pstats.Stats(profile).sort_stats('tottime').print_stats(40)


if __name__ == '__main__':
    main(sys.argv[1:])
