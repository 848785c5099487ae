"""Brokers of other protocols, cut at every switch: what was confirmed is there once, and it goes on."""

from __future__ import annotations

import functools

import pytest

from greenmq import Connection, Exchange, Queue
from tests.cancel.world import consume_one
from tests.support import green, switches
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

cuts = functools.partial(
    switches.cuts, kinds=(green.GreenletExit,), rounds=(0, 1, 4), twice=(False,), limit=60, must_switch=True
)


class World:
    """One connection that is hit again and again, and what must be true of it after each hit."""

    def __init__(self, url):
        self.connection = Connection(url)
        self.connection.connect()
        self.channel = self.connection.channel()
        self.queue = Queue('cancel', Exchange('cancel'), routing_key='cancel')
        self.queue(self.channel).declare()
        self.queue(self.channel).purge()
        self.producer = self.connection.Producer(self.channel, serializer='json')

    def put(self, number):
        self.producer.publish({'id': number}, exchange='cancel', routing_key='cancel')

    def take(self):
        message = self.channel.basic_get('cancel')
        if message is None:
            return None
        message.ack()
        return message.payload['id']

    def left(self, expected=()):
        """What is in the queue; waits for what is expected, which may be on its way back."""
        session = self.connection.transport.session
        wait_until(lambda: not session.settler.pending, 10, 'everything to be settled')
        found = []
        wait_until(lambda: found.extend(iter(self.take, None)) or len(found) >= len(expected), 10, 'all')
        return found

    def check(self):
        session = self.connection.transport.session
        wait_until(lambda: not session.settler.pending, 10, 'everything to be settled')
        assert session.epoch == 1 and session.state == 'open'
        assert not session.publisher.waiting and not len(session.leases)
        assert all(not channel.books.reserved for channel in session.channels)
        assert self.connection.ping() >= 0


@pytest.fixture(params=[
    pytest.param('mongo_peer', marks=pytest.mark.mongodb),
    pytest.param('zookeeper_url', marks=pytest.mark.zookeeper), 'pyro_url',
])
def world(request):
    found = request.getfixturevalue(request.param)
    world = World(found if isinstance(found, str) else found.url('cancel'))
    yield world
    world.connection.close()


def test_publish(world):
    for injection in cuts():
        outcome = injection.run(world.put, 1)
        wait_until(lambda: not world.connection.transport.session.publisher.waiting, 5, 'the puts')
        if outcome.error is None:
            assert world.left([1]) == [1]
        else:
            assert world.left() in ([], [1])
        # Those after it are not hurt by one that nobody waited for
        world.put(2)
        assert [number for number in world.left([2]) if number == 2] == [2]
        world.check()


def test_get_and_ack(world):
    for injection in cuts():
        world.put(1)
        outcome = injection.run(world.take)
        expected = [] if outcome.value == 1 else [1]
        assert world.left(expected) == expected
        world.check()


def test_consuming(world):
    for injection in cuts():
        world.put(1)
        seen = []
        injection.run(lambda seen=seen: consume_one(world, seen))
        world.connection.default_channel.close()
        assert seen + world.left([] if seen else [1]) == [1]
        world.check()
