"""Redis, cut at every switch: replies reach the right one, nothing is lost or settled twice (P4, P5, P26)."""

from __future__ import annotations

import functools

import pytest

from greenmq import Connection, Exchange, Queue
from tests.cancel.world import Hit, consume_one
from tests.support import green, switches

pytestmark = pytest.mark.slow

#: Rounds of the hub after the switch: 0 and 1 find the command on its way, the others near its reply.
ROUNDS = (0, 1, 5, 20)

#: Each injection at these switches, see `switches.cuts`.
cuts = functools.partial(switches.cuts, rounds=ROUNDS, limit=60)


class World(Hit):
    """What must be true on a Redis after each hit."""

    def __init__(self, server):
        self.server = server
        super().__init__(server.url())
        self.session = self.connection.transport.driver.server

    def left(self):
        # What a killed fetch has taken goes back when its reply comes: that is before the reply to this.
        self.session.execute(('ECHO', 'replies are in order'))
        return list(iter(self.take, None))

    def check(self):
        """Replies are in step, everything is settled, and it is the same connection."""
        assert self.session.execute(('ECHO', 'in step')) == b'in step'
        assert self.session.epoch == 1 and not self.session.link._takers
        self.connection.transport.driver.settler.wait(10)
        with self.server.client() as client:
            assert client.hlen('unacked') == client.zcard('unacked_index') == 0


@pytest.fixture
def world(redis_server):
    world = World(redis_server)
    yield world
    world.connection.close()


def test_publish(world):
    for injection in cuts():
        outcome = injection.run(world.put, 1)
        found = world.left()
        assert found == [1] if outcome.error is None else found in ([], [1])
        world.check()


def test_get_and_ack(world):
    for injection in cuts():
        world.put(1)
        outcome = injection.run(world.take)
        # Killed before it had the message: it is back, or on its way back.
        found = world.left()
        assert found == ([] if outcome.value == 1 else [1])
        world.check()


def test_consuming(world):
    for injection in cuts():
        world.put(1)
        seen = []
        injection.run(lambda seen=seen: consume_one(world, seen))
        world.connection.default_channel.close()
        world.connection.transport.driver.settler.wait(10)
        assert seen + world.left() == [1]
        world.check()


def test_declaring(world):
    queue = Queue('other', Exchange('other', type='topic'), routing_key='a.#')
    for injection in cuts():
        injection.run(lambda: queue(world.connection.channel()).declare())
        queue(world.channel).declare()
        world.producer.publish({'id': 2}, exchange='other', routing_key='a.b')
        assert world.channel.queue_purge('other') == 1
        world.channel.queue_delete('other')
        world.check()


def test_closing_a_channel_that_holds_messages(world):
    for injection in cuts(must_switch=True):
        world.put(1)
        channel = world.connection.channel()
        assert channel.basic_get('cancel') is not None
        injection.run(channel.close)
        with green.Timeout(10):
            while not channel.closed or channel.connection is not None:
                green.sleep(0.001)
        world.connection.transport.driver.settler.wait(10)
        assert world.left() == [1]
        world.check()


def test_connecting(redis_server):
    for injection in cuts(kinds=(green.GreenletExit,), twice=(False,)):
        connection = Connection(redis_server.url())
        injection.run(connection.connect)
        connection.connect()
        assert connection.transport.driver.server.execute(('ECHO', 'x')) == b'x'
        connection.close()
    green.sleep(0.05)
    assert redis_server.clients() == []
