"""The broker is killed, away and back: nothing that was confirmed is lost, nobody waits past his time."""
from __future__ import annotations

import time

import gevent
import pytest

from greenmq.exceptions import PublishUnconfirmed
from tests.faults.conftest import SOAK, SOON, Consuming, outcome, queue, wait_open
from tests.faults.ledger import MARGIN, Ledger, consume, load
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.green_timeout(600 if SOAK else 90)]

#: Seconds for the broker to start.
START = 60


@pytest.fixture(autouse=True)
def broker_afterwards(rabbitmq):
    """Whatever a test did to it, the next one has its broker."""
    yield
    if not rabbitmq.running:
        rabbitmq.start()


@pytest.mark.parametrize('retry', [True, False])
def test_a_broker_that_is_killed_under_load_loses_nothing_it_confirmed(rig, rabbitmq, retry):
    bound = queue('ledger', durable=True)
    ledger, running = Ledger(), [1]
    consuming = rig.connection()
    consume(rig, consuming, ledger, bound)
    rabbitmq.sync()
    publishing = rig.connection()
    publishers = load(rig, publishing, ledger, bound, 20, 3.0, running, retry=retry)
    kills = 10 if SOAK else 1
    for number in range(kills + 4):
        if number >= kills and (retry or ledger.unknown):
            break  # publishers in lockstep have now and then none on its way: then one kill more
        safe = len(ledger.safe)
        wait_until(lambda safe=safe: len(ledger.safe) > safe + 500, START, 'publishes')
        rabbitmq.restart()
        wait_open(publishing, seconds=START)
        wait_open(consuming, seconds=START)
    safe = len(ledger.safe)
    wait_until(lambda: len(ledger.safe) > safe + 100, START, 'publishes')
    running.clear()
    gevent.joinall(publishers, timeout=SOON, raise_error=True)
    wait_until(lambda: not ledger.lost, SOON, f'{len(ledger.lost)} of {len(ledger.safe)} to arrive')
    assert not ledger.invented
    assert not ledger.late
    if not retry:
        assert ledger.unknown  # or the kills hit nothing


def test_the_first_publish_after_a_crash_works_or_raises(rig, rabbitmq):
    """P16, with confirms and, when the end of the connection could be seen, without."""
    bound = queue('first', durable=True)
    bound(rig.control.default_channel).declare()
    confirmed, blind = rig.connection(), rig.connection(confirm_publish=False)
    producers = [each.Producer(exchange=bound.exchange, routing_key='first') for each in (confirmed, blind)]
    for number in range(40 if SOAK else 1):
        for producer in producers:
            producer.publish({'id': f'before {number}'}, timeout=START)
        wait_until(lambda: rig.messages('first') == 2, SOON, 'both')
        rabbitmq.sync()
        rabbitmq.kill()
        wait_until(lambda: not (confirmed.connected or blind.connected), SOON, 'the loss to be seen')
        for producer in producers:
            error, _ = outcome(producer.publish, {'id': 'down'}, timeout=0.5)
            assert error is not None
        rabbitmq.start()
        for producer in producers:
            # Raising is allowed while the recovery is not through: what counts is that it then was not lost.
            while outcome(producer.publish, {'id': f'after {number}'}, timeout=START)[0] is not None:
                continue
        wait_open(rig.control, seconds=START)
        got = []

        def told_safe(before=f'before {number}', after=f'after {number}', got=got):
            got += taken(rig.control.default_channel, 'first')
            # RabbitMQ 4 has not written what nobody wanted confirmed, when it is killed.
            return got.count(after) == 2 and got.count(before) >= 1

        wait_until(told_safe, SOON, 'what was told to be safe')
        assert 'down' not in got and len(got) <= 4, got


def taken(channel, name):
    """The ids of what a queue has, taken from it."""
    return [message.payload['id'] for message in iter(lambda: channel.basic_get(name, no_ack=True), None)]


def test_publishes_to_a_broker_that_is_down_end_in_time_without_a_storm(rig, rabbitmq):
    """P21: a thousand requests, twice in a row."""
    proxy = rig.proxy()
    connection = rig.connection(proxy)
    producer = connection.Producer()
    producer.publish({}, routing_key='nowhere')
    proxy.refuse()
    proxy.cut()
    before = proxy.total_connections
    wait_until(lambda: not connection.connected, SOON, 'the loss')
    for _ in range(2):
        start = time.monotonic()
        greenlets = [rig.spawn(outcome, lambda: producer.publish({}, routing_key='nowhere', timeout=0.5))
                     for _ in range(1000)]
        gevent.joinall(greenlets, timeout=SOON, raise_error=True)
        for greenlet in greenlets:
            error, end = greenlet.value
            assert isinstance(error, connection.connection_errors), repr(error)
            assert end - start < 0.5 + MARGIN
    # A port that refuses counts nothing, so the attempts are counted where they are made.
    assert proxy.total_connections == before
    start = time.monotonic()
    error, end = outcome(producer.publish, {}, routing_key='nowhere', timeout=5)
    assert end - start < 0.2, 'known to be down, and yet it waited'
    assert not isinstance(error, PublishUnconfirmed) or error.sent == 'no'


def test_attempts_to_recover_follow_their_schedule(rig):
    """A black hole that accepts: each attempt is a connection that the proxy counts."""
    proxy = rig.proxy()
    connection = rig.connection(proxy, recovery_interval=0.5, recovery_interval_max=1.0)
    producer = connection.Producer()
    producer.publish({}, routing_key='nowhere')
    before = proxy.total_connections
    cutting = rig.spawn(keep_cutting, proxy, connection)
    start = time.monotonic()
    while time.monotonic() - start < 3:
        greenlets = [rig.spawn(outcome, lambda: producer.publish({}, routing_key='nowhere', timeout=0.5))
                     for _ in range(100)]
        gevent.joinall(greenlets, raise_error=True)
    cutting.kill()
    proxy.heal()
    # 0.05, 0.05, 0.55, 1, 1 s apart, less up to half of each by chance
    assert proxy.total_connections - before <= 12


def keep_cutting(proxy, connection):
    """No handshake comes through: 4 bytes of the broker, then the end."""
    proxy.cut()
    while True:
        proxy.half(4, 'down', 'cut')
        gevent.sleep(0.02)


def test_consumers_of_a_restarted_broker_have_their_entities_again(rig, rabbitmq):
    """Everything that was not durable is gone with the broker."""
    connection = rig.connection()
    bound = queue('volatile')
    consuming = Consuming(rig, connection, bound)
    producer = connection.Producer(exchange=bound.exchange, routing_key='volatile')
    producer.publish({'id': 1})
    consuming.wait(1)
    rabbitmq.restart()
    producer.publish({'id': 2}, retry=True, timeout=START)
    consuming.wait(2)
