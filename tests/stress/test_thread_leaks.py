"""Native threads that publish and end, as in a server with one for each request, leave nothing behind."""
from __future__ import annotations

import contextlib
import gc
import os

import pytest

from greenmq import Connection, pools
from greenmq.pools import ProducerPool
from greenmq.runtime.seam import library
from tests.stress import FACTOR
from tests.support import census
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.green_timeout(300)]

WARM_UP = 5
OURS = ('Hub', 'Greenlet', 'GreenThread', 'Link', 'Connection', 'PooledConnection', 'ConnectionPool',
        'ProducerPool')


def in_threads(number, work):
    """Run it in so many threads that we know nothing of, one after the other."""
    errors, begun = [], []

    def run():
        begun.append(library.original('_thread', 'get_native_id')())
        try:
            work()
        except BaseException as exc:
            errors.append(exc)

    for so_far in range(1, number + 1):
        library.original('_thread', 'start_new_thread')(run, ())
        wait_until(lambda so_far=so_far: len(begun) == so_far and not is_there(begun[-1]), 10, 'its end')
    assert not errors


def is_there(thread):
    return os.path.exists(f'/proc/self/task/{thread}')


def kinds():
    gc.collect()
    names = [type(each).__name__ for each in gc.get_objects()]
    return {name: names.count(name) for name in OURS}, len(names)


@contextlib.contextmanager
def global_producers(url):
    def work():
        with pools.producers[url].acquire(block=True) as producer:
            producer.publish({'id': 1}, routing_key='nowhere')

    yield work


@contextlib.contextmanager
def one_pool_for_all(url):
    pool = ProducerPool(Connection(url).Pool(2), limit=2)

    def work():
        with pool.acquire(block=True) as producer:
            producer.publish({'id': 1}, routing_key='nowhere')

    work()  # the first set is that of this thread
    yield work
    pool.force_close_all()
    pool.connections.force_close_all()


@contextlib.contextmanager
def a_connection_of_its_own(url):
    def work():
        with Connection(url) as connection:
            connection.Producer().publish({'id': 1}, routing_key='nowhere')

    yield work


@contextlib.contextmanager
def a_connection_that_nobody_closes(url):
    yield lambda: Connection(url).Producer().publish({'id': 1}, routing_key='nowhere')


@pytest.mark.parametrize('way', [global_producers, one_pool_for_all, a_connection_of_its_own,
                                 a_connection_that_nobody_closes])
@pytest.mark.parametrize('transport', ['memory', 'amqp', 'redis'])
def test_threads_that_publish_and_end(request, transport, way):
    url = request.getfixturevalue(f'{transport}_url') if transport != 'memory' else 'memory://localhost/ended'
    rounds = (50 if transport == 'amqp' else 20) * FACTOR
    with way(url) as work:
        in_threads(WARM_UP, work)
        (before, objects), fds = kinds(), len(census.fds())
        in_threads(rounds, work)
        after, now = kinds()
        # the last thread's may still be known, as the one before it was or was not
        assert all(after[kind] <= before[kind] + 2 for kind in OURS), (before, after)
        assert len(census.fds()) <= fds + 2
        # What CPython leaves of a thread-local that is asked for after it was cleared, and what memory keeps.
        assert now - objects <= 5 * rounds + 300, now - objects
