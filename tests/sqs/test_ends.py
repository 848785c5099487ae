"""Consumers that end at any moment, are frozen, or wait for a silent server: nothing is hidden or lost."""

from __future__ import annotations

import json
import random

import pytest

from greenmq import Connection
from greenmq.runtime.seam import library
from tests.stress import FACTOR
from tests.support import green
from tests.support.cloud import Seen, declared, gives_back_when_told_to_end, publish

pytestmark = pytest.mark.slow

ROUNDS = 50 if FACTOR > 1 else 3
#: Seconds that a poll waits, and what an end needs beyond them.
WAIT, LATE = 1, 5


def consume(url, queue):
    """A consumer that settles nothing, until it is killed."""
    with Connection(url, transport_options={'wait_time_seconds': WAIT}) as connection:
        with connection.Consumer([queue], callbacks=[lambda body, message: None], prefetch_count=50):
            while True:
                connection.drain_events(timeout=5)


def comes_to_another(connection, queue, expected, seconds):
    seen = Seen(connection, queue, prefetch=50)
    seen.until(lambda: set(seen.bodies) == set(expected), seconds)
    seen.stop()


def test_what_ended_consumers_held_or_still_get_comes_to_another_one(connect, fauxqs, name):
    connection = connect(fauxqs.url(), wait_time_seconds=WAIT)
    queue = declared(connection, name)
    rng = random.Random(9)
    for number in range(ROUNDS):
        ended = green.spawn(consume, fauxqs.url(query=f'?fetch_ahead={number + 1}'), queue)
        feeder = green.spawn(publish, connection, name, list(range(12)), 3)
        green.sleep(rng.random() * 0.5)
        ended.kill()
        feeder.join()
        # No lease of 60 s can end here: what comes was given back. A poll on its way is not cut.
        comes_to_another(connection, queue, range(12), WAIT + LATE)
    assert connection.default_channel.queue_declare(name, passive=True).message_count == 0
    green.sleep(WAIT)


@pytest.mark.own_process
@pytest.mark.green_timeout(900 if FACTOR > 1 else 90)
def test_a_worker_that_is_told_to_end_gives_everything_back(connect, fauxqs, name, tmp_path):
    options = {'wait_time_seconds': WAIT}
    connection = connect(fauxqs.url(), **options)
    gives_back_when_told_to_end(connection, fauxqs.url().rstrip('/'), options, name, tmp_path, ROUNDS,
                                WAIT + LATE)


def test_messages_that_wait_for_a_slow_callback_are_renewed(connect, fauxqs, name):
    connection = connect(fauxqs.url(), lease_timeout=2)
    queue = declared(connection, name)
    publish(connection, name, list(range(20)), 20)
    slow = Seen(connection, queue, handle=lambda message: (green.sleep(0.25), message.ack()), prefetch=20)
    slow.until(lambda: slow.bodies)
    second = Seen(connect(fauxqs.url(), region='us-east-1', lease_timeout=2), queue, prefetch=1)
    slow.until(lambda: len(slow.bodies) + len(second.bodies) == 20, 20)
    green.sleep(1)
    slow.stop()
    second.stop()
    assert sorted(slow.bodies + second.bodies) == list(range(20))


def test_what_a_frozen_process_held_comes_again_and_its_late_ack_hurts_nobody(connect, fauxqs, name):
    connection = connect(fauxqs.url(), lease_timeout=1)
    queue = declared(connection, name)
    publish(connection, name, ['x'])
    seen = Seen(connection, queue, handle=lambda message: None)
    seen.until(lambda: seen.bodies)
    library.original('time', 'sleep')(2.5)  # the hub, and with it the renewals
    second = Seen(connect(fauxqs.url(), region='us-east-1'), queue)
    second.until(lambda: second.bodies or len(seen.bodies) > 1)
    seen.messages[0].ack()
    publish(connection, name, ['y'])
    both = [seen, second]
    seen.until(lambda: any('y' in each.bodies for each in both))
    for each in both:
        each.stop()


def test_a_receive_that_nobody_answers_is_made_again(connect, fauxqs, proxy, name):
    connection = connect(fauxqs.url(proxy.port), wait_time_seconds=WAIT)
    queue = declared(connection, name)
    proxy.hang('ReceiveMessage')
    seen = Seen(connection, queue)
    green.sleep(1)
    proxy.heal()  # those that were swallowed stay so
    publish(connect(fauxqs.url(), region='us-east-1'), name, ['x'])
    seen.until(lambda: seen.bodies, WAIT + LATE + 3)
    seen.stop()


def test_connections_that_are_made_at_once_share_one_client(fauxqs, monkeypatch):
    from greenmq.transport.SQS import aws

    made, make = [], aws._make
    monkeypatch.setattr(aws, '_make', lambda *args: (made.append(args), make(*args))[1])
    monkeypatch.setattr(aws, '_clients', {})
    connections = [Connection(fauxqs.url()) for _ in range(200)]
    green.joinall([green.spawn(connection.connect) for connection in connections], raise_error=True)
    assert len(made) == 1
    for connection in connections:
        connection.close()


def test_several_receives_at_once_where_there_are_many_messages(connect, fauxqs, proxy, name):
    connection = connect(fauxqs.url(proxy.port), max_receives=4)
    queue = declared(connection, name)
    publish(connection, name, list(range(200)), 50)
    proxy.reset()
    proxy.late('ReceiveMessage', 0.3)
    seen = Seen(connection, queue, prefetch=200)
    # One after the other they would take 20 times 0.3 s
    seen.until(lambda: len(seen.bodies) == 200, 5)
    asked = [json.loads(body)['WaitTimeSeconds'] for operation, body in proxy.log
             if operation == 'ReceiveMessage']
    seen.stop()
    proxy.heal()
    assert sorted(seen.bodies) == list(range(200)) and len(asked) <= 26
    assert asked.count(0) >= 16, 'those that are made at once do not wait'
