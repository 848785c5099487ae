"""What a Queue says about lengths and times holds in memory too, not only raw x-arguments."""
from __future__ import annotations

import pytest

from greenmq import Connection, Queue
from greenmq.transport.memory import broker


@pytest.fixture
def connection():
    with Connection('memory://localhost/limits') as connection:
        yield connection


def fill(connection, queue, count):
    producer = connection.Producer()
    for number in range(count):
        producer.publish({'n': number}, exchange='', routing_key=queue.name, declare=[queue])


def test_max_length_of_a_queue_drops_the_oldest(connection):
    queue = Queue('short', durable=False, max_length=2)
    fill(connection, queue, 5)
    bound = queue(connection.default_channel)
    assert [bound.get(no_ack=True).payload['n'] for _ in range(2)] == [3, 4]
    assert bound.get() is None


def test_the_other_limits_arrive_under_their_names(connection):
    Queue('limits', durable=False, expires=60, message_ttl=5, max_length_bytes=1000, max_priority=4)(
        connection.default_channel).declare()
    assert broker('limits').queues['limits'].arguments == {
        'x-expires': 60_000, 'x-message-ttl': 5_000, 'x-max-length-bytes': 1000, 'x-max-priority': 4}
