"""Greenlets are killed, consumers cancelled, connections closed at any moment: nothing is lost or hidden."""

from __future__ import annotations

import random

import pytest

from greenmq import Connection
from tests.stress import FACTOR
from tests.support import green
from tests.support.cloud import Seen, declared, gives_back_when_told_to_end, publish

pytestmark = pytest.mark.slow

ROUNDS = 50 if FACTOR > 1 else 8


def consume(url, queue, held):
    """A consumer that acknowledges nothing, until it is killed."""
    with Connection(url, transport_options={'polling_interval': 0.1}) as connection:
        with connection.Consumer([queue], callbacks=[lambda body, message: held.append(message)]):
            while True:
                connection.drain_events(timeout=5)


def test_what_ended_consumers_held_comes_to_another_one_at_once(connect, azurite, name):
    connection = connect(azurite.url(), polling_interval=0.1)
    queue = declared(connection, name)
    producer = connection.Producer(routing_key=name, serializer='json')
    rng = random.Random(16)
    for number in range(ROUNDS):
        # No lease can end here: what comes was given back.
        url = azurite.url(query=f'?queue_name_prefix=&fetch_ahead={number + 1}')
        ended = green.spawn(consume, url, queue, [])
        feeder = green.spawn(lambda: [producer.publish(n) for n in range(4)])
        green.sleep(rng.random() * 0.4)
        ended.kill()
        feeder.join()
        seen = Seen(connection, queue)
        seen.until(lambda seen=seen: sorted(seen.bodies) == [0, 1, 2, 3], 20)
        seen.stop()
        green.sleep(0.05)
    assert connection.default_channel.queue_declare(name, passive=True).message_count == 0


@pytest.mark.own_process
@pytest.mark.green_timeout(900 if FACTOR > 1 else 90)
def test_a_worker_that_is_told_to_end_gives_everything_back(connect, azurite, name, tmp_path):
    options = {'polling_interval': 0.1}
    connection = connect(azurite.url(), **options)
    gives_back_when_told_to_end(connection, azurite.url(), options, name, tmp_path,
                                50 if FACTOR > 1 else 2, 5)


def test_publishes_that_are_killed_leave_the_connection_sound(connect, azurite, name):
    connection = connect(azurite.url(), polling_interval=0.1)
    queue = declared(connection, name)
    producer = connection.Producer(routing_key=name, serializer='json')
    rng = random.Random(17)
    confirmed = []

    def send(number):
        producer.publish(number)
        confirmed.append(number)

    for number in range(ROUNDS * 3):
        task = green.spawn(send, number)
        green.sleep(rng.random() * 0.02)
        task.kill()
    producer.publish('last')
    seen = Seen(connection, queue)
    seen.until(lambda: {'last', *confirmed} <= set(seen.bodies), 20)
    seen.stop()
    session = connection.transport.session
    assert session.state == 'open' and session.epoch == 1


def test_acks_whose_greenlets_are_killed_arrive(connect, azurite, name):
    connection = connect(azurite.url(), polling_interval=0.1)
    queue = declared(connection, name)
    producer = connection.Producer(routing_key=name, serializer='json')
    rng = random.Random(18)
    for number in range(ROUNDS):
        producer.publish(number)
        message = queue.get()
        task = green.spawn(message.ack)
        green.sleep(rng.random() * 0.02)
        task.kill()
        if not message.acknowledged:
            message.ack()
    with green.Timeout(20):
        while connection.default_channel.queue_declare(name, passive=True).message_count:
            green.sleep(0.05)


@pytest.mark.green_timeout(600 if FACTOR > 1 else 60)
def test_settlements_race_renewals_and_nothing_comes_twice(connect, azurite, name, caplog):
    count, rng = (1000 if FACTOR > 1 else 60), random.Random(5)
    # Few are out at a time in a soak: the emulator renews some tens a second.
    lease, held = (10, 30) if FACTOR > 1 else (6, 100)
    connection = connect(azurite.url(), lease_timeout=lease, polling_interval=0.1)
    queue = declared(connection, name)
    publish(connection, name, list(range(count)), 20)

    def later(message):
        green.sleep(rng.random() * 2 * lease)
        message.ack()

    seen = Seen(connection, queue, handle=lambda message: green.spawn(later, message), prefetch=held)
    seen.until(lambda: len(seen.bodies) >= count, 500 if FACTOR > 1 else 45)
    with green.Timeout(30):
        while connection.default_channel.queue_declare(name, passive=True).message_count:
            green.sleep(0.1)
    seen.stop()
    assert sorted(seen.bodies) == list(range(count))
    assert 'came after' not in caplog.text
