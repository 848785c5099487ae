"""A child starts clean: not a byte from it on its parent's socket, and its own connection at once (P44)."""
from __future__ import annotations

import json
import os

import gevent
import pytest

from greenmq import pools
from tests.faults.conftest import SOAK, SOON, outcome, queue
from tests.support.process import exit_codes, fork, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.green_timeout(120)]

CHILDREN = 20 if SOAK else 5


def test_children_publish_at_once_and_the_parent_never_notices(rig, proxy, rabbitmq):
    connection = rig.connection(proxy)
    facts = rig.facts('lost')
    bound = queue('fork', auto_delete=False)
    bound(connection.default_channel).declare()
    producer = connection.Producer(exchange=bound.exchange, routing_key='fork')
    safe, running = [], [1]

    def publish():
        # Large enough that a fork finds the writer in the middle of a message.
        while running:
            producer.publish({'id': f'parent {len(safe)}', 'filling': 'x' * 200_000})
            safe.append(f'parent {len(safe)}')

    publisher = rig.spawn(publish)
    children = []
    for number in range(CHILDREN):
        goal = len(safe) + 5
        wait_until(lambda goal=goal: len(safe) >= goal, SOON, 'publishes')

        def work(number=number):
            producer.publish({'id': f'child {number}'}, timeout=20)
            with pools.producers[connection].acquire(block=True) as pooled:
                pooled.publish({'id': f'pooled {number}'}, exchange=bound.exchange, routing_key='fork')
            gevent.sleep(0)

        children.append(fork(work))
    assert exit_codes(children) == [0] * CHILDREN
    running.clear()
    publisher.get(timeout=SOON)
    expected = [*safe, *(f'{who} {number}' for who in ('child', 'pooled') for number in range(CHILDREN))]
    wait_until(lambda: rig.messages('fork') >= len(expected), SOON, 'all messages')
    channel = rig.control.default_channel
    got = [json.loads(message.body)['id']
           for message in iter(lambda: channel.basic_get('fork', no_ack=True), None)]
    assert sorted(got) == sorted(expected)
    assert not facts['lost']
    assert 'UNEXPECTED_FRAME' not in rabbitmq.new_output()


def test_a_child_that_does_nothing_sends_nothing(rig, proxy):
    connection = rig.connection(proxy, heartbeat=1)
    connection.Producer().publish({}, routing_key='nowhere')
    sent = proxy.forwarded_bytes('up')

    def work():
        # In the child the parent's heartbeat would be due several times, and then the interpreter ends.
        gevent.sleep(2.5)
        connection.close()

    proxy.blackhole('up')  # what the parent says in the meantime must not count
    pid = fork(work)
    os.kill(pid, 0)
    assert exit_codes([pid]) == [0]
    inner = connection.connection
    link_bytes = inner.link.bytes_out
    proxy.heal()
    wait_until(lambda: proxy.forwarded_bytes('up') > sent, SOON, 'the heartbeats of the parent')
    assert connection.connected
    # All that went up since is the parent's: heartbeats of eight bytes each.
    assert (proxy.forwarded_bytes('up') - sent) <= link_bytes + 64
    assert (proxy.forwarded_bytes('up') - sent) % 8 == 0
    assert outcome(connection.Producer().publish, {}, routing_key='nowhere')[0] is None


def test_a_greenlet_that_waits_in_the_child_is_told_of_the_fork(rig):
    connection = rig.connection()
    waiting = rig.spawn(outcome, connection.drain_events)
    gevent.sleep(0.05)

    def work():
        error, _ = waiting.get(timeout=5)
        assert type(error).__name__ == 'Forked', repr(error)
        connection.Producer().publish({}, routing_key='nowhere', timeout=20)

    assert exit_codes([fork(work)]) == [0]
    assert not waiting.ready()
    assert connection.connected
    waiting.kill()
