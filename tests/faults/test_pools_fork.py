"""Forks while pools are busy: each child publishes at once through its own, and nothing is lost (P44)."""
from __future__ import annotations

import itertools
import os
import random

import gevent
import pytest

from greenmq import Connection, Queue, pools, runtime
from greenmq.exceptions import Forked
from tests.faults.conftest import SOON
from tests.support.process import exit_codes, fork, wait_until

pytestmark = [
    pytest.mark.slow, pytest.mark.faults, pytest.mark.green_timeout(120),
    pytest.mark.skipif(not hasattr(os, 'fork'), reason='forks'),
]

FORKS = 20


class Books:
    """What was confirmed to whom, and what is in the queue; by a connection that no fork concerns."""

    def __init__(self, rig):
        self.connection = rig.control
        self.queue = Queue('forked', routing_key='forked')(self.connection.default_channel)
        self.queue.declare()

    def ids(self):
        found, count = [], self.queue.queue_declare(passive=True)[1]
        callbacks = [lambda body, message: found.append(body['id'])]
        with self.connection.Consumer(self.queue, callbacks=callbacks, accept=['json'], no_ack=True):
            while len(found) < count:
                self.connection.drain_events(timeout=SOON)
        return found


def publish(connection, name, filling=''):
    with pools.producers[connection].acquire(block=True) as producer:
        producer.publish({'id': name, 'filling': filling}, routing_key='forked', delivery_mode=1)


def test_twenty_forks_while_the_parent_publishes(rig, rabbitmq):
    """At random moments, also while a greenlet is in the middle of sending."""
    books = Books(rig)
    # With these buffers a large message is hardly ever sent in one piece.
    connection = rig.connection(rig.proxy(buffer_bytes=16_384), connect=False)
    facts = rig.facts('lost')
    safe, stopping = [], []

    def told(function, *args):
        # What is copied into a child waits in greenmq, and ends there.
        try:
            function(*args)
        except Forked:
            return 'forked'

    def small(who):
        while not stopping:
            name = f'parent {who} {len(safe)}'
            publish(connection, name)
            safe.append(name)
            runtime.sleep(0.01)  # ten of them: one thousand a second

    def large():
        while not stopping:
            name = f'parent large {len(safe)}'
            publish(connection, name, 'x' * 500_000)
            safe.append(name)

    tasks = [rig.spawn(told, small, who) for who in range(10)] + [rig.spawn(told, large)]
    wait_until(lambda: len(safe) > 20, SOON, 'the first publishes')
    with pools.producers[connection].acquire(block=True) as producer:
        shared = producer.connection
    epoch, seed = shared.epoch, random.randrange(2**32)
    chance, children, sending = random.Random(seed), {}, []
    for number in itertools.count():
        # On a machine under load the parent may take long to send anything.
        if number >= FORKS and any(sending) or number >= 10 * FORKS:
            break
        gevent.sleep(chance.random() * 0.05)

        def work(number=number):
            pool = pools.producers[connection]
            assert pool.stats()[1:6] == (0, 0, 0, 0, 0), pool
            publish(connection, f'child {number}')
            assert pools.producers[connection].acquire().connection is not shared
            assert [task.get(timeout=5) for task in tasks] == ['forked'] * len(tasks)

        sending.append(shared.connection.link.out_bytes > 0)
        children[fork(work)] = f'child {number}'
    assert any(sending), 'no fork came while the parent was sending'
    # Then each child has published, and the parent has noticed nothing
    assert set(exit_codes(children)) == {0}, f'seed {seed}'
    before = len(safe)
    wait_until(lambda: len(safe) > before + 20, SOON, 'more publishes')
    stopping.append(True)
    gevent.joinall(tasks, timeout=SOON, raise_error=True)
    assert shared.connected and shared.epoch == epoch and not facts['lost']
    assert pools.producers[connection].stats().in_use == 0
    assert sorted(books.ids()) == sorted([*safe, *children.values()]), f'seed {seed}'
    assert 'UNEXPECTED_FRAME' not in rabbitmq.new_output()


def test_a_child_sends_nothing_on_what_it_inherited(rig, rabbitmq):
    """Neither by using its own pools, nor by closing all, nor by its end: the parent's socket is silent."""
    books = Books(rig)
    proxy = rig.proxy()
    connection, url = rig.connection(proxy, connect=False), rig.url()
    held = pools.connections[connection].acquire().connect()
    publish(connection, 'parent 1')
    leased = pools.producers[connection].acquire()
    gevent.sleep(0.05)
    sent, made = proxy.forwarded_bytes('up'), proxy.total_connections

    def work():
        direct = Connection(url)
        publish(direct, 'child')
        leased.release()  # the parent's leases are none here
        held.release()
        pools.reset()

    assert exit_codes([fork(work)]) == [0]
    assert proxy.forwarded_bytes('up') == sent and proxy.total_connections == made
    assert held.connected
    leased.publish({'id': 'parent 2'}, routing_key='forked')
    leased.release()
    held.release()
    assert sorted(books.ids()) == ['child', 'parent 1', 'parent 2']
    assert pools.connections[connection].stats().discarded == {}
