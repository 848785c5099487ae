"""The broker takes no publishes for want of memory: bounded, typed, and nobody else is harmed (P18)."""
from __future__ import annotations

import time

import gevent
import pytest

from greenmq.exceptions import BufferFull, ConnectionBlocked
from tests.faults.conftest import SOON, Consuming, outcome, queue
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.once]

PUBLISHERS = 100


@pytest.fixture
def alarm(rabbitmq):
    yield rabbitmq.alarm
    rabbitmq.alarm(False)


def test_an_alarm_ends_publishes_at_their_deadline_and_harms_nobody_else(rig, alarm, rabbitmq):
    bound = queue('alarm')
    consuming = rig.connection(heartbeat=1)
    consumer = Consuming(rig, consuming, bound, prefetch_count=1)
    publishing = rig.connection(heartbeat=1)
    facts = rig.facts('blocked', 'unblocked', 'lost')
    producer = publishing.Producer(exchange=bound.exchange, routing_key='alarm')
    confirms = [producer.publish_nowait({'id': number}) for number in range(1000)]
    for confirm in confirms:  # what it has not read before the alarm, it does not read until its end
        confirm.result(timeout=20)
    alarm(True)
    # The broker reads this one, and then no more.
    nudge = rig.spawn(outcome, lambda: producer.publish({'id': -1}, timeout=60))
    facts.wait('blocked')
    assert 'memory' in facts['blocked'][0]['reason']
    assert publishing.connection.blocked

    start = time.monotonic()
    bounded = [rig.spawn(outcome, lambda n=n: producer.publish({'id': 10_000 + n}, timeout=1))
               for n in range(PUBLISHERS)]
    gevent.joinall(bounded, timeout=SOON, raise_error=True)
    for each in bounded:
        error, end = each.value
        assert type(error) is ConnectionBlocked, repr(error)
        assert 'memory' in error.reason
        assert 1 <= end - start < 2

    waiting = [rig.spawn(outcome, lambda n=n: producer.publish({'id': 20_000 + n}, timeout=60))
               for n in range(PUBLISHERS)]
    # Consumers on their own connection go on: one message at a time, so each needs the ack before it.
    consumer.wait(*range(1000), seconds=20)
    gevent.sleep(4)  # four heartbeats: nobody is judged by a broker that does not read
    assert not facts['lost']
    assert not any(each.ready() for each in waiting)
    alarm(False)
    gevent.joinall([nudge, *waiting], timeout=SOON, raise_error=True)
    assert [each.value[0] for each in waiting] == [None] * PUBLISHERS
    consumer.wait(*range(20_000, 20_000 + PUBLISHERS))
    assert len(consumer.seen) == len(set(consumer.seen)), 'something was published twice'
    assert not set(consumer.seen) & set(range(10_000, 10_000 + PUBLISHERS)), 'what was refused has arrived'
    facts.wait('unblocked')
    assert not facts['lost']


def test_what_does_not_wait_is_bounded_while_the_broker_blocks(rig, alarm):
    connection = rig.connection(out_buffer_bytes=100_000, close_timeout=0.5)
    producer = connection.Producer()
    producer.publish({}, routing_key='nowhere')
    alarm(True)
    rig.spawn(outcome, lambda: producer.publish({}, routing_key='nowhere', timeout=60))
    wait_until(lambda: connection.connection.blocked, SOON, 'the block')
    taken = []
    with pytest.raises(BufferFull):
        while len(taken) < 10_000:
            taken.append(producer.publish_nowait('x' * 1000, routing_key='nowhere'))
    assert 10 < len(taken) < 200
    with gevent.Timeout(0.5 + 2):
        connection.close()


def test_a_connection_that_does_both_sends_its_acks_when_the_block_is_over(rig, alarm):
    connection = rig.connection()
    bound = queue('both')
    consumer = Consuming(rig, connection, bound, prefetch_count=10)
    other = rig.connection().Producer(exchange=bound.exchange, routing_key='both')
    for number in range(50):
        other.publish({'id': number})
    consumer.wait(*range(50))
    alarm(True)
    nudge = rig.spawn(outcome, lambda: connection.Producer().publish({}, routing_key='nowhere', timeout=60))
    wait_until(lambda: connection.connection.blocked, SOON, 'the block')
    alarm(False)
    assert nudge.get(timeout=SOON)[0] is None
    for number in range(50, 100):
        other.publish({'id': number})
    consumer.wait(*range(100))
    assert not consumer.redelivered and not consumer.errors
