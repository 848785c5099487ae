"""Stores, and brokers of other protocols, cut at every switch: nothing is lost or settled twice (P4, P5)."""

from __future__ import annotations

import functools

import pytest

from greenmq import runtime
from tests.cancel.world import HitSession, consume_one
from tests.stress import FACTOR
from tests.support import green, switches
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.once]

cuts = functools.partial(switches.cuts, limit=60, must_switch=True)
#: Rounds of the hub after the switch: 0 finds the statement on its way, the others later.
ROUNDS = (0, 1, 5, 20) if FACTOR > 1 else (0, 3)
#: How a call of few switches is cut, and how one of many.
STORE = functools.partial(cuts, rounds=ROUNDS), functools.partial(cuts, rounds=ROUNDS[:2])
BROKER = 2 * (functools.partial(cuts, kinds=(green.GreenletExit,), rounds=(0, 1, 4), twice=(False,)),)

#: One with its calls in a thread, one on a socket; the others are reached by the same ways.
STORES = ['file_url', 'postgresql_url'] + (
    ['filesystem_url', 'sqla_sqlite_url', 'mariadb_url', 'pgmq_url'] if FACTOR > 1 else []
)
ROWS = [
    *(pytest.param((store, *STORE), id=store, marks=pytest.mark.green_timeout(600 if FACTOR > 1 else 120))
      for store in STORES),
    pytest.param(('mongo_peer', *BROKER), id='mongo_peer', marks=pytest.mark.mongodb),
    pytest.param(('zookeeper_url', *BROKER), id='zookeeper_url', marks=pytest.mark.zookeeper),
    pytest.param(('pyro_url', *BROKER), id='pyro_url'),
    pytest.param(('qpid_url', *BROKER), id='qpid_url', marks=pytest.mark.rabbitmq),
    pytest.param(('artemis_url', *BROKER), id='artemis_url', marks=pytest.mark.amqp10),
    pytest.param(('broker_j_url', *BROKER), id='broker_j_url', marks=pytest.mark.amqp10),
    pytest.param(('servicebus_url', *BROKER), id='servicebus_url', marks=pytest.mark.servicebus),
]


class World(HitSession):
    """What must be true of a session after each hit."""

    def __init__(self, url, cuts, fewer_cuts):
        super().__init__(url, connect_timeout=60)
        self.queue(self.channel).purge()  # a server that lives as long as the run may have some of before
        self.cuts, self.fewer_cuts = cuts, fewer_cuts

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
        return super().left()

    def check(self):
        super().check()
        # Artemis counts what it was told to forget until it has written that down.
        size = self.queue(self.channel).queue_declare
        wait_until(lambda: size(passive=True).message_count == 0, 10, 'an empty queue')


@pytest.fixture(params=ROWS)
def world(request):
    fixture, *ways = request.param
    found = request.getfixturevalue(fixture)
    world = World(found if isinstance(found, str) else found.url('cancel'), *ways)
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


def test_publish(world):
    for injection in world.cuts():
        outcome = injection.run(world.put, 1)
        wait_until(lambda: not world.session.publisher.waiting, 5, 'the puts')
        done = outcome.error is None
        if done:
            assert world.left() == [1]
        world.put(2)  # unhurt; what is still on its way is stored before this one
        found = sorted(world.left())
        assert found == [2] if done else found in ([2], [1, 2])
        world.check()


def test_get_and_ack(world):
    for injection in world.cuts():
        world.put(1)
        outcome = injection.run(world.take)
        arrives(world, [] if outcome.value == 1 else [1])
        world.check()


def test_consuming(world):
    for injection in world.fewer_cuts():
        world.put(1)
        seen = []
        injection.run(lambda seen=seen: consume_one(world, seen))
        world.connection.default_channel.close()
        assert seen in ([], [1])
        arrives(world, [] if seen else [1])
        world.check()


def test_closing_a_channel_that_holds_messages(world):
    for injection in world.fewer_cuts():
        world.put(1)
        channel = world.connection.channel()
        assert channel.basic_get('cancel') is not None
        injection.run(channel.close)
        wait_until(lambda channel=channel: channel.closed and channel.connection is None, 10, 'the end')
        arrives(world, [1])
        world.check()
