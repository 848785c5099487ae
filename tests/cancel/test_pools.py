"""Pools of connections, channels and producers: acquire and release, cut at every switch."""
from __future__ import annotations

import pytest

from greenmq import pools
from tests.cancel.world import SOON, each
from tests.support import green

KINDS = ('connections', 'channels', 'producers')


def make(kind, world, limit):
    if kind == 'connections':
        return world.connection.Pool(limit=limit)
    if kind == 'channels':
        return world.connection.ChannelPool(limit=limit)
    return pools.ProducerPool(world.connection.Pool(limit=limit), limit=limit)


def check_pool(pool, limit):
    """Nothing is in use, and exactly `limit` can be taken."""
    taken = [pool.acquire(timeout=SOON) for _ in range(limit)]
    assert len({id(resource) for resource in taken}) == limit
    with pytest.raises(pool.LimitExceeded):
        pool.acquire(block=False)
    for resource in taken:
        resource.release()
    assert not pool._dirty, pool


def use(resource):
    green.sleep(0)
    return resource


@pytest.mark.parametrize('kind', KINDS)
def test_acquire_and_release(transport, kind):
    for injection, world in each(transport, must_switch=True):
        pool = make(kind, world, 2)

        def borrow(pool=pool):
            resource = pool.acquire(timeout=SOON)
            try:
                use(resource)
            finally:
                resource.release()

        injection.run(borrow)
        check_pool(pool, 2)
        pool.force_close_all()
        world.check_works()


@pytest.mark.parametrize('kind', KINDS)
def test_the_with_form(transport, kind):
    for injection, world in each(transport):
        pool = make(kind, world, 2)

        def borrow(pool=pool):
            if kind == 'channels':  # a channel of kombu's is closed by its own `with`
                resource = pool.acquire(block=True)
                try:
                    use(resource)
                finally:
                    pool.release(resource)
            else:
                with pool.acquire(block=True) as resource:
                    use(resource)

        injection.run(borrow)
        check_pool(pool, 2)
        pool.force_close_all()


@pytest.mark.parametrize('kind', KINDS)
def test_waiting_for_a_place_that_becomes_free(transport, kind):
    """The hand-off races with the kill: whoever dies after accepting must not take the place along (P22)."""
    for injection, world in each(transport, must_switch=True, rounds=(0, 1, 2, 3)):
        pool = make(kind, world, 1)
        held = pool.acquire(timeout=SOON)
        releaser = green.Greenlet(held.release)

        def wait(pool=pool, releaser=releaser):
            releaser.start()
            resource = pool.acquire(timeout=SOON)
            try:
                use(resource)
            finally:
                resource.release()

        injection.run(wait)
        releaser.join(timeout=SOON)
        check_pool(pool, 1)
        pool.force_close_all()


@pytest.mark.parametrize('kind', KINDS)
def test_the_next_in_line_is_served_when_one_is_hit(transport, kind):
    for injection, world in each(transport, rounds=(0, 1, 2, 3)):
        pool = make(kind, world, 1)
        held = pool.acquire(timeout=SOON)

        def borrow(pool=pool):
            resource = pool.acquire(timeout=SOON)
            resource.release()
            return True

        behind = []

        def wait(pool=pool, held=held, behind=behind):
            behind.append(green.spawn_later(0, borrow, pool))
            green.spawn_later(0, held.release)
            resource = pool.acquire(timeout=SOON)
            resource.release()

        injection.run(wait)
        assert behind[0].get(timeout=2 * SOON), 'the one behind was forgotten'
        check_pool(pool, 1)
        pool.force_close_all()


@pytest.mark.parametrize('kind', KINDS)
def test_closing_a_pool(transport, kind):
    for injection, world in each(transport):
        pool = make(kind, world, 2)
        pool.acquire(timeout=SOON).release()
        injection.run(pool.force_close_all)
        pool.force_close_all()
        with pytest.raises(RuntimeError):
            pool.acquire(block=False)
        world.check_works()


def test_publishing_through_the_pool_of_producers(transport):
    for injection, world in each(transport):
        pool = make('producers', world, 2)

        def publish(world=world, pool=pool):
            with pool.acquire(block=True) as producer:
                producer.publish({'id': 1}, exchange=world.exchange, routing_key='cancel',
                                 declare=[world.queue], serializer='json')

        outcome = injection.run(publish)
        if outcome.error is None:
            world.published.append(1)
        check_pool(pool, 2)
        pool.force_close_all()
        world.check_works()
        world.check_books(() if outcome.error is None else (1,))
