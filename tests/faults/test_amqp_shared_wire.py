"""Leases publish over one wire of their connection, and what one of them does wrong stays its own fault."""
from __future__ import annotations

import pytest

from greenmq import Exchange, Queue, pools
from greenmq.exceptions import ChannelError, NotFound, PublishUnconfirmed, Unroutable
from greenmq.pools import ProducerPool
from tests.faults.conftest import SOON, outcome
from tests.support import green
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults]

GREENLETS, TURNS = 40, 25


class Desk:
    """A pool of producers on one connection, a queue, and the other side's view of both."""

    def __init__(self, rig, proxy=None, limit=GREENLETS, **options):
        self.control = rig.control.default_channel
        self.queue = Queue('desk', Exchange('desk', durable=False), routing_key='desk', durable=False)
        self.queue(self.control).declare()
        self.pool = ProducerPool(rig.connection(proxy, connect=False, **options).Pool(2), limit=limit)
        self.safe = []

    def publish(self, number, exchange='desk', **options):
        with self.pool.acquire(block=True) as producer:
            producer.publish({'id': number}, exchange=exchange, routing_key='desk', delivery_mode=1,
                             **options)
        self.safe.append(number)

    def publish_many(self, first):
        for number in range(first, first + TURNS):
            self.publish(number)

    def crowd(self):
        return [green.spawn(self.publish_many, TURNS * one) for one in range(GREENLETS)]

    @property
    def amqp(self):
        return self.pool._shared.found[0].connection.connection

    @property
    def shared(self):
        return self.amqp.channels[self.amqp.shared].publishing

    def ids(self):
        found = []
        bound = self.queue(self.control)
        while (message := bound.get(no_ack=True)) is not None:
            found.append(message.payload['id'])
        return found

    def close(self):
        self.pool.force_close_all()
        self.pool.connections.force_close_all()


@pytest.fixture
def desk(rig):
    desk = Desk(rig)
    yield desk
    desk.close()


def proved(desk, *exchanges):
    for number, exchange in enumerate(exchanges or ['desk']):
        desk.publish(-1 - number, exchange)
    desk.ids()
    desk.safe.clear()


def test_the_leases_open_one_wire_for_all(desk):
    proved(desk)
    green.joinall(desk.crowd(), raise_error=True)
    assert sorted(desk.ids()) == sorted(desk.safe) and len(desk.safe) == GREENLETS * TURNS
    # the shared one, that of the first publish to the exchange, and the one for calls
    assert len(desk.amqp.link.wires) == 3
    assert desk.pool.stats().discarded == {}


def test_the_order_of_what_one_lease_publishes(desk):
    """Without waiting, and then with: the second must not pass the first on another wire."""
    proved(desk)
    with desk.pool.acquire() as producer:
        for number in range(0, 300, 3):
            ready = {'exchange': 'desk', 'routing_key': 'desk', 'delivery_mode': 1}
            future = producer.publish_nowait({'id': number}, **ready)
            producer.publish({'id': number + 1}, **ready)
            producer.publish({'id': number + 2}, **ready)
            assert future.result(SOON) is None
    assert desk.ids() == list(range(300))


def test_a_refused_publish_is_that_of_its_lease_alone(desk, rig):
    """An exchange goes away behind our back: 404 ends the shared wire under everybody (P6)."""
    gone = Exchange('gone', durable=False)
    gone(desk.control).declare()
    proved(desk, 'desk', 'gone')
    tasks = desk.crowd()
    wait_until(lambda: len(desk.safe) > GREENLETS, SOON, 'the first publishes')
    wire = desk.shared.wire
    gone(desk.control).delete()
    with pytest.raises(NotFound):
        desk.publish('nowhere', 'gone')
    with pytest.raises(NotFound):
        desk.publish('nowhere', 'gone')
    green.joinall(tasks, raise_error=True)
    # Then all others were told that theirs is safe, and it is, and it was one wire that ended
    assert wire.refused and len(desk.safe) == GREENLETS * TURNS
    assert set(desk.ids()) == set(desk.safe)
    assert desk.pool.stats().discarded == {'replaced': 2} and desk.amqp.epoch == 1
    # and when the exchange is there again it is published to again, over one wire
    gone(desk.control).declare()
    proved(desk, 'gone', 'gone', 'desk', 'desk')
    assert desk.shared.wire is not wire and desk.shared.wire.is_open


def test_a_fault_that_the_broker_does_not_name_is_not_met_twice(desk, monkeypatch):
    # Given something that ends a wire and that we don't expect to
    monkeypatch.setattr('greenmq.transport.pyamqp.sharedwire.is_plain', lambda message: True)
    proved(desk)
    tasks = desk.crowd()
    wait_until(lambda: len(desk.safe) > GREENLETS, SOON, 'the first publishes')
    for _ in range(3):
        with pytest.raises(ChannelError, match='user_id'):
            desk.publish('spoilt', user_id='nobody')
    ended = desk.shared.wire
    green.joinall(tasks, raise_error=True)
    assert set(desk.ids()) == set(desk.safe) and len(desk.safe) == GREENLETS * TURNS
    assert desk.pool.stats().discarded == {'replaced': 3}
    # Then the rest of this epoch everybody publishes over a wire of their own
    assert ended.refused and desk.shared.wire is ended


@pytest.mark.parametrize('options', [{'user_id': 'nobody'}, {'headers': {'CC': 7}}])
def test_what_a_broker_may_refuse_goes_over_the_wire_of_its_lease(desk, options):
    proved(desk)
    desk.publish(1)
    wire = desk.shared.wire
    with pytest.raises(ChannelError):
        desk.publish('spoilt', **options)
    desk.publish(2)
    assert desk.shared.wire is wire and wire.is_open and desk.ids() == [1, 2]


def test_a_message_that_must_be_routed_raises_in_its_own_lease(desk):
    proved(desk, '')
    told = []

    def lose(number):
        with desk.pool.acquire(block=True) as producer:
            try:
                producer.publish({'id': number}, routing_key='nowhere', mandatory=True)
            except Unroutable:
                told.append(number)

    tasks = desk.crowd() + [green.spawn(lose, number) for number in range(50)]
    green.joinall(tasks, raise_error=True)
    assert sorted(told) == list(range(50)) and sorted(desk.ids()) == sorted(desk.safe)


def test_a_loss_is_told_to_all_who_had_something_under_way(rig, proxy):
    desk = Desk(rig, proxy)
    proved(desk)
    desk.publish(0)
    wire = desk.shared.wire
    proxy.blackhole()
    tasks = [green.spawn(outcome, desk.publish, number, retry=False) for number in range(1, GREENLETS)]
    wait_until(lambda: len(wire.ledger) == GREENLETS - 1, SOON, 'all under way')
    proxy.cut()
    proxy.heal()
    errors = [task.get()[0] for task in tasks]
    assert {type(error) for error in errors} == {PublishUnconfirmed}
    assert {error.sent for error in errors} == {'unknown'}
    # Then the next publishes go over a wire of the new epoch
    proved(desk)
    desk.publish(0)
    assert desk.shared.wire is not wire and desk.shared.wire.is_open and desk.ids() == [0]
    desk.close()


def test_who_is_killed_leaves_the_wire_to_the_others(desk):
    proved(desk)
    tasks = desk.crowd()
    wait_until(lambda: len(desk.safe) > GREENLETS, SOON, 'the first publishes')
    wire = desk.shared.wire
    for task in tasks[::2]:
        task.kill()
    green.joinall(tasks, raise_error=True)
    desk.publish('last')
    found = desk.ids()
    assert set(desk.safe) <= set(found) and len(found) == len(set(found))
    assert desk.shared.wire is wire and wire.is_open and not len(wire.ledger)
    assert desk.pool.stats().in_use == 0
    desk.close()


def test_a_lease_in_a_transaction_publishes_alone(desk):
    proved(desk)
    with desk.pool.acquire() as producer:
        producer.channel.tx_select()
        producer.publish({'id': 1}, exchange='desk', routing_key='desk', delivery_mode=1)
        assert desk.ids() == []
        producer.channel.tx_commit()
        wait_until(lambda: desk.control.queue_declare('desk', passive=True).message_count == 1, SOON, 'it')
    assert desk.ids() == [1]


def test_the_reset_of_the_pools_ends_it(rig):
    connection = rig.connection(connect=False)
    for _ in range(3):
        with pools.producers[connection].acquire() as producer:
            producer.publish({}, routing_key='nobody')
        pools.reset()
        assert not producer.connection.connected
