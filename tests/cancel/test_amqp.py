"""AMQP on RabbitMQ, cut at every switch: channel numbers, turns, wires, tags and books stay sound (P5)."""
from __future__ import annotations

import functools

import pytest

from greenmq import Connection, Consumer, Queue, pools
from greenmq.exceptions import ConnectionClosed
from tests.cancel.world import Hit
from tests.support import census, green, switches

pytestmark = pytest.mark.slow

SOON = 10
#: Rounds of the hub after the switch: 1 and 10 find the call on its way, the others near its answer.
ROUNDS = (0, 1, 10, 50, 200)

#: Each injection at these switches, see `switches.cuts`.
cuts = functools.partial(switches.cuts, rounds=ROUNDS)


class World(Hit):
    """What must be true at RabbitMQ after each hit."""

    def __init__(self, url):
        super().__init__(url, durable=False)
        self.probe = Queue('probe', durable=False, max_length=10)
        self.probe(self.channel).declare()
        self.amqp.known_exchanges.clear()  # the look-up opens the wire that is kept for such calls
        self.put(0)
        assert self.take() == 0
        self.wires = len(self.amqp.link.wires)

    @property
    def amqp(self):
        return self.connection.connection

    def wait_take(self):
        """The next message; one that was given back may need a moment."""
        with green.Timeout(SOON):
            while (number := self.take()) is None:
                green.sleep(0)
        return number

    def check(self, wires=None):
        """The link lives and nobody holds anything of it; declaring, publishing and consuming go on."""
        amqp, link = self.amqp, self.amqp.link
        assert amqp.epoch == 1 and link.error is None
        with green.Timeout(SOON, AssertionError(f'left behind: {list(link.wires.values())}')):
            while self.unsettled() or len(link.wires) > (wires or self.wires):
                green.sleep(0)
        seen = []

        def on_message(body, message):
            seen.append(message.ack())

        with Consumer(self.channel, [self.probe], callbacks=[on_message]):
            self.producer.publish({'probe': 1}, routing_key='probe')
            with green.Timeout(SOON):
                while not seen:
                    self.connection.drain_events(timeout=SOON)
        assert len(seen) == 1 and not self.channel.callbacks
        assert self.amqp.epoch == 1

    def unsettled(self):
        """Locks that are held and answers that are due."""
        amqp = self.amqp
        locks = [amqp._control_lock, *(wire._turn for wire in amqp.link.wires.values())]
        for channel in amqp.channels.values():
            locks += [channel.consuming._opening, channel.publishing._opening]
        calls = [wire for wire in amqp.link.wires.values() if wire._calls]
        return [lock for lock in locks if lock.locked()] + calls


@pytest.fixture
def world(amqp_url):
    with census.unchanged('fds'):
        world = World(amqp_url)
        yield world
        world.connection.close()
        del world.connection, world.channel, world.producer


def test_connect(amqp_url, rabbitmq, amqp_vhost):
    with census.unchanged('fds greenlets'):
        for injection in cuts():
            connection = Connection(amqp_url)
            injection.run(connection.connect)
            connection.connect()
            connection.default_channel.queue_declare('q')
            connection.close()
    rows = [row for row in rabbitmq.list_connections() if row['vhost'] == amqp_vhost]
    assert not rows, rows


def test_close(amqp_url, rabbitmq, amqp_vhost):
    with census.unchanged('fds greenlets'):
        for injection in cuts():
            connection = Connection(amqp_url)
            connection.default_channel.queue_declare('q')
            told = []

            def drain(connection=connection, told=told):
                try:
                    connection.drain_events()
                except ConnectionClosed as exc:
                    told.append(type(exc))

            draining = green.spawn(drain)
            green.sleep(0)
            injection.run(connection.close)
            connection.close()
            draining.join(SOON)
            assert told == [ConnectionClosed] and not connection.connected
            del draining, drain, connection
    rows = [row for row in rabbitmq.list_connections() if row['vhost'] == amqp_vhost]
    assert not rows, rows


def test_open_a_channel(world):
    for injection in cuts():
        channel = world.connection.channel()
        injection.run(channel.open)
        channel.close()
        world.check()


def test_close_a_channel_with_deliveries_and_acks(world):
    for injection in cuts():
        channel = world.connection.channel()
        taken = []
        channel.basic_consume('cancel', callback=taken.append)
        for number in (1, 2, 3):
            world.put(number)
        while len(taken) < 2:
            world.connection.drain_events(timeout=SOON)
        channel.basic_ack(taken[0].delivery_tag)
        injection.run(channel.close)
        channel.close()
        assert [world.wait_take() for _ in range(2)] == [2, 3], 'an ack was lost, or a delivery'
        world.check()


def test_declare_bind_and_delete(world):
    for injection in cuts():
        other = Queue('other', world.exchange, routing_key='other', durable=False)

        def declare(other=other):
            bound = other(world.channel)
            bound.declare()
            bound.bind_to('cancel', 'second')
            bound.unbind_from('cancel', 'second')
            bound.purge()
            bound.delete()

        injection.run(declare)
        other(world.channel).declare()
        assert other(world.channel).delete() == 0
        world.check()


def test_a_first_publish(world):
    """Look-up of the exchange, a wire of its own, confirm.select, the publish and its confirm."""
    for number, injection in enumerate(cuts(), 1):
        world.amqp.known_exchanges.clear()
        channel = world.connection.channel()
        producer = world.connection.Producer(channel)
        outcome = injection.run(producer.publish, {'id': number}, exchange='cancel', routing_key='cancel')
        producer.publish({'id': -number}, exchange='cancel', routing_key='cancel')
        found = [world.wait_take()]
        if found[0] == number:
            found.append(world.wait_take())
        assert found[-1] == -number and (outcome.error is not None or found[0] == number)
        channel.close()
        world.check()


@pytest.mark.parametrize('mandatory', [False, True])
def test_later_publishes(world, mandatory):
    for number, injection in enumerate(cuts(), 1):
        outcome = injection.run(world.producer.publish, {'id': number}, exchange='cancel',
                                routing_key='cancel', mandatory=mandatory)
        world.put(-number)
        found = [world.wait_take()]
        if found[0] == number:
            found.append(world.wait_take())
        assert found[-1] == -number and (outcome.error is not None or found[0] == number)
        world.check()


def test_publish_nowait(world):
    for injection in cuts():
        channel = world.connection.channel()
        producer = world.connection.Producer(channel)
        futures = []

        def publish(producer=producer, futures=futures):
            for number in (1, 2, 3):
                future = producer.publish_nowait({'id': number}, exchange='cancel', routing_key='cancel')
                futures.append(future)
            for future in futures:
                future.result(timeout=SOON)

        injection.run(publish)
        for future in futures:
            assert future.result(timeout=SOON) is None, 'the wait of one is not the publish of all'
        assert [world.wait_take() for _ in futures] == [1, 2, 3][:len(futures)]
        channel.close()
        world.check()


def test_get(world):
    for number, injection in enumerate(cuts(), 1):
        world.put(number)
        outcome = injection.run(world.channel.basic_get, 'cancel')
        if outcome.error is None:
            assert outcome.value.decode()['id'] == number
            outcome.value.ack()
        else:
            assert world.wait_take() == number, 'the message went with the killed'
        world.check()


def test_consume_and_cancel(world):
    for injection in cuts():
        world.put(1)
        seen = []

        def consume(seen=seen):
            world.channel.basic_consume('cancel', 'same-tag', callback=seen.append)
            world.channel.basic_cancel('same-tag')

        injection.run(consume)
        world.channel.basic_cancel('same-tag')
        declared = world.channel.queue_declare('cancel', passive=True)
        assert declared.consumer_count == 0 or world.unsettled()
        assert world.wait_take() == 1
        assert not seen
        world.check()
        assert world.channel.queue_declare('cancel', passive=True).consumer_count == 0


def test_qos(world):
    for injection in cuts():
        injection.run(world.channel.basic_qos, 0, 5, False)
        world.check()


def test_waiting_for_a_delivery(world):
    for number, injection in enumerate(cuts(), 1):
        taken = []
        world.channel.basic_consume('cancel', 'waits', callback=taken.append)

        def drain(number=number):
            green.spawn(world.put, number)
            world.connection.drain_events(timeout=SOON)

        injection.run(drain)
        while not taken:
            world.connection.drain_events(timeout=SOON)
        world.channel.basic_ack(taken[0].delivery_tag)
        world.channel.basic_cancel('waits')
        assert world.take() is None
        world.check()


def test_tx(world):
    channel = world.connection.channel()
    for number, injection in enumerate(cuts(), 1):
        def transact(number=number):
            channel.tx_select()
            world.connection.Producer(channel).publish({'id': number}, routing_key='cancel')
            channel.tx_commit()

        injection.run(transact)
        channel.tx_select()
        channel.tx_rollback()
        found = [world.take()]
        assert found in ([None], [number])
        world.check(wires=world.wires + 1)
    channel.close()


@pytest.mark.parametrize('kind', ['connections', 'producers'])
def test_pools(amqp_url, kind):
    with census.unchanged('fds'):
        group = getattr(pools, kind)[Connection(amqp_url)]
        for injection in cuts():
            def use(group=group):
                with group.acquire(block=True, timeout=SOON) as resource:
                    if kind == 'connections':
                        resource.default_channel.queue_declare('pooled')
                    else:
                        queue = Queue('pooled', durable=False)
                        resource.publish({'x': 1}, routing_key='pooled', declare=[queue])

            injection.run(use)
            for _ in range(3):
                use()
            assert not group._dirty, group
        pools.reset()
