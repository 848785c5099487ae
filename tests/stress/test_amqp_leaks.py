"""Nothing stays behind of AMQP calls, channels and connections, with the collector switched off (P47)."""
from __future__ import annotations

import pytest

from greenmq import Connection, Consumer, Queue
from greenmq.exceptions import NotFound
from tests.stress import FACTOR
from tests.support import census

pytestmark = pytest.mark.slow

#: A table that doubles once in the run is no leak, one object for every tenth round is.
OBJECTS = 0.1


@pytest.fixture
def connection(amqp_url):
    with Connection(amqp_url) as connection:
        Queue('leaks', durable=False)(connection.default_channel).declare()
        yield connection


def check(action, rounds):
    with census.unchanged('fds threads greenlets'):
        grown = census.growth(action, rounds * FACTOR)
    assert grown.objects_per_round < OBJECTS, str(grown)


def open_and_close(connection):
    with connection.channel() as channel:
        channel.queue_declare('leaks', passive=True)


def publish_and_get(connection):
    connection.Producer(connection.default_channel).publish({'id': 1}, routing_key='leaks')
    connection.default_channel.basic_get('leaks').ack()


def consume(connection):
    queue = Queue('leaks', durable=False)
    with Consumer(connection, [queue], callbacks=[lambda body, message: message.ack()]):
        connection.Producer(connection.default_channel).publish({'id': 1}, routing_key='leaks')
        connection.drain_events(timeout=10)


def fail(connection):
    with pytest.raises(NotFound):
        connection.default_channel.queue_declare('missing', passive=True)


@pytest.mark.parametrize('action', [open_and_close, publish_and_get, consume, fail])
def test_on_one_connection(connection, action):
    check(lambda: action(connection), rounds=300)
    wires = connection.connection.link.wires
    assert len(wires) <= 3 and max(wires, default=0) <= 4, 'numbers of closed channels are not used again'


def test_connecting_and_closing(amqp_url):
    def connect_and_close():
        with Connection(amqp_url) as connection:
            connection.default_channel.queue_declare('q')
            connection.Producer().publish({'id': 1}, routing_key='q')

    check(connect_and_close, rounds=100)
