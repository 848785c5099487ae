"""A driver's broker, cut at every switch: nothing is lost or doubled, and the connection goes on (P4, P5)."""

from __future__ import annotations

import functools
import json

import pytest

from greenmq import Connection, Exchange, Queue
from tests.cancel.world import HitSession, consume_one
from tests.support import fakes, green, switches
from tests.support.process import wait_until

pytestmark = pytest.mark.slow

#: Rounds of the hub after the switch: each step of a fake takes two.
cuts = functools.partial(switches.cuts, rounds=(0, 1, 3), limit=60)


class World(HitSession):
    """One of the brokers of `fakes`, in this process."""

    def __init__(self, kind):
        self.broker = fakes.broker_of('cancel')
        super().__init__(f'{kind}://localhost/cancel', transport_options={'wait_time_seconds': 0.05})

    def quiet(self):
        """Nothing is out: what was settled or given back has arrived."""
        green.sleep(0.002)  # a call that must not be cut ends first
        settler = self.session.settler
        wait_until(lambda: not self.broker.out and not settler.pending, 10, 'everything to be settled')


@pytest.fixture(params=['fake-lease', 'fake-look'])
def world(request):
    world = World(request.param)
    yield world
    world.connection.close()


def test_publish(world):
    for injection in cuts(must_switch=True):
        outcome = injection.run(world.put, 1)
        wait_until(lambda: not world.session.publisher.waiting, 5, 'the puts')
        found = world.left()
        assert found == [1] if outcome.error is None else found in ([], [1])
        world.check()


def test_get_and_ack(world):
    for injection in cuts(must_switch=True):
        world.put(1)
        outcome = injection.run(world.take)
        found = world.left()
        assert found == ([] if outcome.value == 1 else [1])
        world.check()


def test_consuming(world):
    for injection in cuts(must_switch=True):
        world.put(1)
        seen = []
        injection.run(lambda seen=seen: consume_one(world, seen))
        world.connection.default_channel.close()
        end_polls(world)
        assert seen + world.left() == [1]
        world.check()


def end_polls(world):
    # A long poll of a consumer that is gone ends with the next message, which it gives back.
    session = world.session
    wait_until(lambda: not session.intake.flying, 10, 'the last take to end')


def test_closing_a_channel_that_holds_messages(world):
    for injection in cuts(must_switch=True):
        world.put(1)
        channel = world.connection.channel()
        assert channel.basic_get('cancel') is not None
        injection.run(channel.close)
        wait_until(lambda channel=channel: channel.closed and channel.connection is None, 10, 'the end')
        assert world.left() == [1]
        world.check()


def test_declaring(world):
    queue = Queue('other', Exchange('other', type='topic'), routing_key='a.#')
    for injection in cuts(must_switch=True):
        injection.run(lambda: queue(world.connection.channel()).declare())
        queue(world.channel).declare()
        world.producer.publish({'id': 2}, exchange='other', routing_key='a.b')
        assert world.channel.queue_purge('other') == 1
        world.channel.queue_delete('other')
        world.check()


def test_closing_the_connection(world):
    for injection in cuts(kinds=(green.GreenletExit,), must_switch=True):
        connection = Connection(world.url)
        channel = connection.channel()
        world.put(1)
        assert json.loads(channel.basic_get('cancel').body) == {'id': 1}
        injection.run(connection.close)
        assert world.left() == [1]
        world.check()


def test_connecting(world):
    for injection in cuts(kinds=(green.GreenletExit,), twice=(False,), must_switch=True):
        world.connection.close()
        connection = Connection(world.url)
        injection.run(connection.connect)
        connection.connect()
        assert connection.ping() >= 0
        world.connection = connection
        world.channel = connection.channel()
        world.producer = connection.Producer(world.channel, serializer='json')
