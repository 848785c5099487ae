"""Stores, cut at every switch: nothing is lost or settled twice, and the session goes on (P4, P5)."""

from __future__ import annotations

import functools

import pytest

from greenmq import Connection, Exchange, Queue, runtime
from tests.cancel.world import consume_one
from tests.stress import FACTOR
from tests.support import green, switches
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.own_process]

#: Rounds of the hub after the switch: 0 finds the statement on its way, the others later.
ROUNDS = (0, 1, 5, 20) if FACTOR > 1 else (0, 3)
cuts = functools.partial(switches.cuts, rounds=ROUNDS, limit=60, must_switch=True)

#: One with its calls in a thread, one on a socket; the others are reached by the same ways.
STORES = ['file_url', 'postgresql_url'] + (
    ['filesystem_url', 'sqla_sqlite_url', 'mariadb_url', 'pgmq_url'] if FACTOR > 1 else []
)


class World:
    """One connection that is hit again and again, and what must be true of it after each hit."""

    def __init__(self, url):
        self.url = url
        self.connection = Connection(url, connect_timeout=60)
        self.connection.connect()
        self.channel = self.connection.channel()
        self.queue = Queue('cancel', Exchange('cancel'), routing_key='cancel')
        self.queue(self.channel).declare()
        self.producer = self.connection.Producer(self.channel, serializer='json')

    @property
    def session(self):
        return self.connection.transport.session

    def put(self, number):
        self.producer.publish({'id': number}, exchange='cancel', routing_key='cancel')

    def take(self):
        message = self.channel.basic_get('cancel')
        if message is None:
            return None
        message.ack()
        return message.payload['id']

    def quiet(self):
        """No take, claim or settlement is under way."""
        settler, intake = self.session.settler, self.session.intake
        wait_until(lambda: not settler.pending and not intake.flying, 20, 'everything to be settled')
        claims = getattr(self.session.driver, '_claims', None)
        if claims is not None:
            claims.join(runtime.Deadline.after(20))

    def left(self):
        """What is there. What a killed take had goes back at once, in a task of its own."""
        self.quiet()
        green.sleep(0.01)
        self.quiet()
        return list(iter(self.take, None))

    def check(self):
        self.quiet()
        session = self.session
        assert session.epoch == 1 and session.state == 'open'
        assert not session.publisher.waiting and not len(session.leases)
        assert all(not channel.books.reserved for channel in session.channels)
        assert self.connection.ping() >= 0
        assert self.queue(self.channel).queue_declare(passive=True).message_count == 0


@pytest.fixture(params=STORES)
def world(request):
    world = World(request.getfixturevalue(request.param))
    yield world
    world.connection.close()


def arrives(world, expected, seconds=10):
    """Also what is on its way back: it is there in the end, once."""
    found = world.left()
    with green.Timeout(seconds, AssertionError(f'{expected} expected, and {found} there')):
        while found != expected:
            assert len(found) <= len(expected), found
            green.sleep(0.01)
            found += world.left()


@pytest.mark.green_timeout(600 if FACTOR > 1 else 120)
def test_publish(world):
    for injection in cuts():
        outcome = injection.run(world.put, 1)
        wait_until(lambda: not world.session.publisher.waiting, 5, 'the puts')
        if outcome.error is None:
            assert world.left() == [1]
        else:
            world.put(2)  # what is still on its way is stored before this one
            assert sorted(world.left()) in ([2], [1, 2])
        world.check()


@pytest.mark.green_timeout(600 if FACTOR > 1 else 120)
def test_get_and_ack(world):
    for injection in cuts():
        world.put(1)
        outcome = injection.run(world.take)
        arrives(world, [] if outcome.value == 1 else [1])
        world.check()


@pytest.mark.green_timeout(600 if FACTOR > 1 else 120)
def test_consuming(world):
    for injection in cuts(rounds=ROUNDS[:2]):
        world.put(1)
        seen = []
        injection.run(lambda seen=seen: consume_one(world, seen))
        world.connection.default_channel.close()
        if not seen:
            arrives(world, [1])
        world.check()


@pytest.mark.green_timeout(600 if FACTOR > 1 else 120)
def test_closing_a_channel_that_holds_messages(world):
    for injection in cuts(rounds=ROUNDS[:2]):
        world.put(1)
        channel = world.connection.channel()
        assert channel.basic_get('cancel') is not None
        injection.run(channel.close)
        wait_until(lambda channel=channel: channel.closed and channel.connection is None, 10, 'the end')
        arrives(world, [1])
        world.check()
