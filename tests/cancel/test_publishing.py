"""declare, publish, publish_nowait, batch and SimpleQueue.put, cut at every switch."""
from __future__ import annotations

import pytest

from greenmq.messaging import ConfirmLater
from tests.cancel.world import each

WAYS = {
    'plainly': {},
    'with declare': {'declare': True},
    'with retry': {'declare': True, 'retry': True, 'retry_policy': {'max_retries': 2}},
    'mandatory': {'declare': True, 'mandatory': True},
    'with a timeout': {'declare': True, 'timeout': 5},
}


@pytest.mark.parametrize('way', WAYS)
def test_publish(transport, way):
    for injection, world in each(transport, must_switch=transport == 'slow'):
        if way == 'plainly':
            world.publish()
            world.queue(world.connection.default_channel).declare()
        options = dict(WAYS[way])
        if options.pop('declare', False):
            options['declare'] = [world.queue]
        producer = world.connection.Producer(serializer='json')
        outcome = injection.run(producer.publish, {'id': 1}, exchange=world.exchange, routing_key='cancel',
                                **options)
        if outcome.error is None:
            world.published.append(1)
            maybe = ()
        else:
            maybe = (1,)
        world.check_works()
        world.check_books(maybe)


def test_publish_nowait(transport):
    for injection, world in each(transport):
        world.queue(world.connection.default_channel).declare()
        producer = world.connection.Producer(serializer='json')

        def publish(world=world, producer=producer):
            return producer.publish_nowait(
                {'id': 1}, exchange=world.exchange, routing_key='cancel').result(timeout=2)

        outcome = injection.run(publish)
        if outcome.error is None:
            world.published.append(1)
        world.check_works()
        world.check_books(() if outcome.error is None else (1,))


def test_confirm_later(transport):
    for injection, world in each(transport):
        world.queue(world.connection.default_channel).declare()
        producer = world.connection.Producer(serializer='json')

        def publish(world=world, producer=producer):
            with ConfirmLater() as sent:
                producer.publish({'id': 1}, exchange=world.exchange, routing_key='cancel')
                sent.flush()

        outcome = injection.run(publish)
        if outcome.error is None:
            world.published.append(1)
        # No block is left behind: this publish waits.
        world.check_works()
        world.check_books(() if outcome.error is None else (1,))


def test_batch(transport):
    for injection, world in each(transport):
        world.queue(world.connection.default_channel).declare()
        producer = world.connection.Producer(serializer='json')

        def publish(world=world, producer=producer):
            with producer.batch():
                for number in range(3):
                    producer.publish({'id': number}, exchange=world.exchange, routing_key='cancel')

        outcome = injection.run(publish)
        if outcome.error is None:
            world.published += range(3)
        # A producer is not left in the middle of somebody's batch.
        producer.publish({'id': 9}, exchange=world.exchange, routing_key='cancel')
        world.published.append(9)
        world.check_works()
        world.check_books(() if outcome.error is None else range(3))


def test_declare_a_queue_with_its_exchange_and_bindings(transport):
    for injection, world in each(transport, must_switch=transport == 'slow'):
        injection.run(lambda world=world: world.queue(world.connection.default_channel).declare())
        world.publish(1)
        world.check_works()
        world.check_books()


def test_simple_queue_put(transport):
    for injection, world in each(transport):
        def put(world=world):
            simple = world.connection.SimpleQueue(world.queue)
            try:
                simple.put({'id': 1})
            finally:
                simple.close()

        outcome = injection.run(put)
        if outcome.error is None:
            world.published.append(1)
        world.check_works()
        world.check_books(() if outcome.error is None else (1,))
