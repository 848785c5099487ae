"""A connection that was used and closed leaves nothing that only the garbage collector could free (P47)."""
from __future__ import annotations

import gc
import logging

import pytest

from greenmq import Connection, Queue
from greenmq.exceptions import InvalidArgument
from tests.support import census, green

pytestmark = pytest.mark.slow

ROUNDS = 20
#: Objects a round: about ten are of the counting itself.
OBJECTS = 1
#: Broker → the same where others than we keep them.
KEPT = {
    # They note each call for the tests.
    'fake-lease': 5, 'fake-look': 5, 'fake-push': 5,
    # SQLAlchemy's statements and its dialect are cycles of their own.
    'mariadb': 450,
    # Nothing is left to the collector, but PyMongo's monitors are threads that take a second to end.
    'mongodb': 100,
}


def rest():
    """Let tasks and threads end that are about to."""
    count = len(gc.get_objects())
    for _ in range(10):
        green.sleep(0.3)
        before, count = count, len(gc.get_objects())
        if count >= before:
            return


def test_connections_leave_nothing_for_the_collector(request, broker_url, name, caplog):
    caplog.set_level(logging.CRITICAL, 'greenmq')  # pytest keeps all records
    queue = Queue(name, durable=False)
    with Connection(broker_url) as connection:
        queue(connection.default_channel).declare()

    def live():
        with Connection(broker_url) as connection:
            connection.Producer().publish({'id': 1}, routing_key=name)
            message = None
            while message is None:
                message = queue(connection.default_channel).get()
            message.ack()

    grown = census.growth(live, ROUNDS, rest=rest)
    with Connection(broker_url) as connection:
        queue(connection.default_channel).delete()
    row = request.node.callspec.id
    assert grown.objects_per_round < KEPT.get(row, OBJECTS), str(grown)


def test_channels_leave_nothing_for_the_collector(request, connection, name, caplog):
    caplog.set_level(logging.CRITICAL, 'greenmq')
    queue = Queue(name, durable=False)
    queue(connection.default_channel).declare()

    def live():
        with connection.channel() as channel:
            connection.Producer(channel).publish({'id': 1}, routing_key=name)
            message = None
            while message is None:
                message = queue(channel).get()
            message.ack()

    grown = census.growth(live, ROUNDS, rest=rest)
    queue(connection.default_channel).delete()
    row = request.node.callspec.id
    assert grown.objects_per_round < KEPT.get(row, OBJECTS), str(grown)


def test_errors_keep_nothing_alive(request, connection, name, caplog):
    caplog.set_level(logging.CRITICAL, 'greenmq')

    def live():
        with connection.channel() as channel, pytest.raises(connection.channel_errors):
            Queue(name)(channel).queue_declare(passive=True)
        with pytest.raises(InvalidArgument):
            connection.Producer().publish({'id': 1}, routing_key='x' * 300)

    grown = census.growth(live, 5 * ROUNDS, rest=rest)
    row = request.node.callspec.id
    assert grown.objects_per_round < KEPT.get(row, OBJECTS), str(grown)
