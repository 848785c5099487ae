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


def leave_one_unsettled():
    with Connection(URL) as connection:
        bound = queue()(connection.default_channel)
        bound.declare()
        if bound.get() is None:
            connection.Producer().publish({'id': 1}, exchange='leaks', routing_key='leaks')


def fail_to_publish():
    with Connection(URL) as connection:
        try:
            connection.Producer().publish({'id': 1}, exchange='', routing_key='nowhere', mandatory=True)
        except connection.channel_errors:
            return
    raise AssertionError('a message to nowhere was taken')


LIVES = (open_and_close, declare_publish_get, consume_one, leave_one_unsettled, fail_to_publish)


@pytest.mark.parametrize('life', LIVES, ids=lambda life: life.__name__)
def test_a_connection_leaves_nothing_behind(life):
    check(life, 300)


@pytest.mark.stress
@pytest.mark.parametrize('life', LIVES, ids=lambda life: life.__name__)
def test_ten_thousand_connections_leave_nothing_behind(life):
    check(life, 10_000 * FACTOR)


def wait_in_vain(connection):
    connection.drain_events(timeout=0)


def pool_exhausted(connection):
    connection.full_pool.acquire(block=False)


def undecodable(connection):
    connection.Producer().publish(b'{', exchange='', routing_key='leaks-bad', content_type='application/json')
    queue = Queue('leaks-bad', durable=False)(connection.default_channel)
    message = queue.get(no_ack=True)
    message.decode()


def unknown_queue(connection):
    Queue('leaks-unknown')(connection.default_channel).queue_declare(passive=True)


def bad_argument(connection):
    connection.Producer().publish({}, routing_key='x' * 300)


def retried(connection):
    def fails():
        raise connection.recoverable_connection_errors[0]('down')

    connection.ensure(connection.default_channel, fails, max_retries=2, interval_start=0, interval_step=0)()


ERRORS = (wait_in_vain, pool_exhausted, undecodable, unknown_queue, bad_argument, retried)


@pytest.mark.parametrize('fails', ERRORS, ids=lambda fails: fails.__name__)
def test_an_error_keeps_nothing_alive(fails):
    """An exception and the frames it went through must not hold each other."""
    with Connection(URL) as connection:
        connection.connect()
        connection.full_pool = connection.Pool(limit=1)
        connection.full_pool.acquire()

        def fail():
            with pytest.raises(Exception):  # noqa: B017 - which one is tested elsewhere
                fails(connection)

        check(fail, 200)
        connection.full_pool.force_close_all()


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
