"""Pools on Redis: many greenlets on two sockets, some of them killed, and forks in the middle (P22, P44)."""
from __future__ import annotations

import os

import gevent
import gevent.queue
import pytest

from greenmq import Connection, Queue, pools
from tests.support.process import exit_codes, fork, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.green_timeout(90), pytest.mark.once]


@pytest.fixture(autouse=True)
def fresh_limit():
    yield
    pools.set_limit(10)


@pytest.fixture
def books(redis_url):
    """A connection of its own, and a queue."""
    with Connection(redis_url) as connection:
        queue = Queue('books', routing_key='books')(connection.default_channel)
        queue.declare()
        yield queue


def publish(url, number):
    with pools.producers[url].acquire(block=True) as producer:
        producer.publish({'id': number}, routing_key='books')


def ids(queue):
    return sorted(message.payload['id'] for message in iter(lambda: queue.get(no_ack=True), None))


def sockets_to(port):
    """How many connections this process has to a port of this machine."""
    mine = {os.readlink(f'/proc/self/fd/{name}') for name in os.listdir('/proc/self/fd')
            if os.path.exists(f'/proc/self/fd/{name}')}
    with open('/proc/net/tcp') as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return sum(f'socket:[{row[9]}]' in mine and int(row[2].rpartition(':')[2], 16) == port for row in rows)


@pytest.mark.parametrize('limit', [2, 1000])
def test_many_greenlets_need_two_sockets(redis_url, redis_server, books, limit):
    pools.set_limit(limit)
    before, safe, victims = sockets_to(redis_server.port), [], gevent.queue.Queue()

    def work(number):
        with pools.producers[redis_url].acquire(block=True, timeout=60) as producer:
            if number % 10 == 0:
                victims.put(gevent.getcurrent())
                gevent.sleep(60)
            producer.publish({'id': number}, routing_key='books')
            safe.append(number)

    def kill():
        for _ in range(100):
            victims.get().kill(block=False)

    gevent.joinall([*(gevent.spawn(work, number) for number in range(1000)), gevent.spawn(kill)],
                   raise_error=True)
    assert sockets_to(redis_server.port) - before <= 2
    stats = pools.producers[redis_url].stats()
    assert (stats.in_use, stats.opening, stats.waiting) == (0, 0, 0) and stats.size <= limit
    assert len(safe) == 900 and ids(books) == sorted(safe)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='forks')
def test_children_publish_at_once(redis_url, books):
    safe, stopping = [], []

    def work():
        while not stopping:
            publish(redis_url, len(safe))
            safe.append(len(safe))

    task = gevent.spawn(work)
    children = []
    for number in range(5):
        goal = len(safe) + 5
        wait_until(lambda goal=goal: len(safe) >= goal, 20, 'publishes')
        children.append(fork(lambda number=number: publish(redis_url, 1_000_000 + number)))
    codes = exit_codes(children)
    stopping.append(True)
    task.get(timeout=20)
    assert codes == [0] * 5
    assert ids(books) == [*safe, *range(1_000_000, 1_000_005)]
