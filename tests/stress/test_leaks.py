"""Nothing stays behind: objects, memory and descriptors per round, with the collector switched off (P47)."""
from __future__ import annotations

import pytest

from greenmq import Connection, Consumer, Exchange, Queue, pools
from tests.stress import FACTOR
from tests.support import census

pytestmark = pytest.mark.slow

URL = 'memory://localhost/leaks'
#: A table that doubles once in the run is no leak, one object for every tenth round is.
OBJECTS, BYTES = 0.1, 400


def check(action, rounds):
    with census.unchanged('fds threads'):
        grown = census.growth(action, rounds)
    assert grown.objects_per_round < OBJECTS, str(grown)
    assert grown.rss_per_round < BYTES or rounds < 2000, str(grown)


def queue():
    return Queue('leaks', Exchange('leaks', durable=False), routing_key='leaks', durable=False)


def open_and_close():
    with Connection(URL) as connection:
        connection.connect()


def declare_publish_get():
    with Connection(URL) as connection:
        producer = connection.Producer()
        producer.publish({'id': 1}, exchange='leaks', routing_key='leaks', declare=[queue()])
        bound = queue()(connection.default_channel)
        bound.get().ack()


def consume_one():
    seen = []

    def on_message(body, message):
        message.ack()
        seen.append(body)

    with Connection(URL) as connection, Consumer(connection, [queue()], callbacks=[on_message]):
        connection.Producer().publish({'id': 1}, exchange='leaks', routing_key='leaks')
        while not seen:
            connection.drain_events(timeout=5)


LIVES = (open_and_close, declare_publish_get, consume_one)


@pytest.mark.parametrize('life', LIVES, ids=lambda life: life.__name__)
def test_a_connection_leaves_nothing_behind(life):
    check(life, 300)


@pytest.mark.stress
@pytest.mark.parametrize('life', LIVES, ids=lambda life: life.__name__)
def test_ten_thousand_connections_leave_nothing_behind(life):
    check(life, 10_000 * FACTOR)


@pytest.mark.parametrize('rounds', [500, pytest.param(10_000 * FACTOR, marks=pytest.mark.stress)])
def test_channels_leave_nothing_behind(rounds):
    with Connection(URL) as connection:
        connection.connect()
        check(lambda: connection.channel().close(), rounds)


@pytest.mark.parametrize('rounds', [500, pytest.param(100_000 * FACTOR, marks=pytest.mark.stress)])
def test_messages_leave_nothing_behind(rounds):
    with Connection(URL) as connection:
        producer = connection.Producer()
        seen = []

        def on_message(body, message):
            message.ack()
            seen.append(1)

        with Consumer(connection, [queue()], callbacks=[on_message]):

            def pass_one():
                producer.publish({'id': 1}, exchange='leaks', routing_key='leaks')
                while not seen:
                    connection.drain_events(timeout=5)
                seen.clear()

            check(pass_one, rounds)


@pytest.mark.parametrize('rounds', [500, pytest.param(10_000 * FACTOR, marks=pytest.mark.stress)])
def test_leases_from_the_pools_leave_nothing_behind(rounds):
    pool = pools.producers[Connection(URL)]

    def publish():
        with pool.acquire(block=True) as producer:
            producer.publish({'id': 1}, exchange='', routing_key='leaks-pooled', declare=[dead_end])

    # Bounded, so that the messages themselves are not what grows.
    dead_end = Queue('leaks-pooled', durable=False, max_length=1)
    check(publish, rounds)
