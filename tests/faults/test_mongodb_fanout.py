"""Fanout in MongoDB between programs on greenmq and on kombu: kombu's capped collection, followed and fed."""
from __future__ import annotations

import pytest

from greenmq import Connection, Exchange, Queue, events
from tests.faults.stores import count, wait_get
from tests.support import green
from tests.support.kombu_process import Kombu
from tests.support.process import wait_until
from tests.support.stores import driver

pytestmark = [pytest.mark.slow, pytest.mark.faults]

NEWS = Exchange('news', type='fanout')


@pytest.fixture(params=['stream', 'signals', 'ferretdb'])
def url(request):
    """Where queues are: on a server that tells of changes, on one that does not, on FerretDB."""
    if request.param == 'ferretdb':
        return request.getfixturevalue('mongodb_url')
    return request.getfixturevalue('mongo_peer' if request.param == 'stream' else 'mongo_alone').url('d')


def listen(connection, name, exchange=NEWS):
    bound = Queue(name, exchange)(connection.channel())
    bound.declare()
    return bound


def all_of(bound, n, seconds=20):
    found = [wait_get(bound, seconds) for _ in range(n)]
    for message in found:
        message.ack()
    return [message.payload for message in found]


def heard(kombu, n):
    wait_until(lambda: len(kombu.drain(0.1)) >= n, 30, 'what kombu heard')
    return kombu.drain(0.1)


def test_each_hears_what_the_other_broadcasts(url, request):
    deaf = 'ferretdb' in request.node.name  # kombu is, there: its cursor ends with its first batch
    with Kombu(url) as kombu, Connection(url) as connection:
        kombu.declare('theirs', 'news', 'fanout')
        kombu.publish('to nobody', 'news')  # a collection that is empty deafens kombu: see celery/kombu#386
        kombu.consume('theirs', 'news', 'fanout', '')
        bounds = [listen(connection, name) for name in ('one', 'two')]
        kombu.publish('from kombu', 'news')
        for bound in bounds:
            assert all_of(bound, 1) == ['from kombu']
        producer = connection.Producer(exchange=NEWS, serializer='json')
        for n in range(3):
            producer.publish(n)
        assert deaf or heard(kombu, 4)[-3:] == [0, 1, 2]
        for bound in bounds:
            # Once, though they are in both places
            assert all_of(bound, 3) == [0, 1, 2]
            assert bound.get() is None
        # Nobody reads kombu's queue: nothing may pile up in it
        assert count(Queue('theirs')(connection.default_channel)) == 0


def test_a_consumer_is_woken_by_what_kombu_broadcasts(url):
    with Kombu(url) as kombu, Connection(url) as connection:
        kombu.declare('theirs', 'news', 'fanout')
        seen = []
        with connection.Consumer([Queue('ours', NEWS)], callbacks=[lambda body, message: (
            seen.append(body), message.ack())], accept=['json']):
            for n in range(5):
                kombu.publish(n, 'news')
            with green.Timeout(30):
                while len(seen) < 5:
                    connection.drain_events(timeout=30)
            assert seen == list(range(5))


def test_two_programs_have_a_copy_each_and_who_is_not_bound_has_none(url):
    with Kombu(url) as kombu, Connection(url) as here, Connection(
        url, transport_options={'fetch_ahead': 7}
    ) as there:
        kombu.declare('theirs', 'news', 'fanout')
        ours, others = listen(here, 'ours'), listen(there, 'others')
        elsewhere = listen(there, 'elsewhere', Exchange('weather', type='fanout'))
        kombu.publish('x', 'news')
        assert all_of(ours, 1) == all_of(others, 1) == ['x']
        others.unbind_from(NEWS)
        kombu.publish('y', 'news')
        assert all_of(ours, 1) == ['y']
        green.sleep(0.3)
        assert others.get() is None and elsewhere.get() is None


def test_a_queue_that_two_consume_has_one_copy(mongo_peer):
    url = mongo_peer.url('d')
    with Kombu(url) as kombu, Connection(url) as here, Connection(
        url, transport_options={'fetch_ahead': 7}
    ) as there:
        kombu.declare('theirs', 'news', 'fanout')
        bounds = [listen(here, 'shared'), listen(there, 'shared')]
        kombu.publish('x', 'news')
        green.sleep(0.5)
        for connection in (here, there, here):
            driver(connection).take(['nothing'], 1, 10**6, 0)
        assert count(bounds[0]) == 1


@pytest.mark.parametrize('empty', [True, False])
def test_a_cursor_that_ends_goes_on_where_it_was(mongo_alone, empty):
    url = mongo_alone.url('d')
    with Kombu(url) as kombu, Connection(url) as connection:
        kombu.declare('theirs', 'news', 'fanout')
        if not empty:
            kombu.publish('before', 'news')
        bound = listen(connection, 'ours')
        kombu.publish(0, 'news')
        assert all_of(bound, 1) == [0]
        mongo_alone.fail('getmore', 'CursorNotFound', times=2)
        for n in (1, 2):
            kombu.publish(n, 'news')
        assert all_of(bound, 2) == [1, 2]
        assert bound.get() is None


def test_what_was_overwritten_unread_is_told_as_a_gap(mongo_alone):
    url, gaps = mongo_alone.url('d'), []
    with Connection(url, transport_options={'capped_queue_size': 5000}) as connection, Kombu(url) as kombu:
        bound = listen(connection, 'ours')
        kombu.declare('theirs', 'news', 'fanout')
        kombu.publish('first', 'news')
        assert all_of(bound, 1) == ['first']
        listening = events.subscribe('gap', gaps.append)
        for n in range(50):
            kombu.publish(n, 'news')
        got = all_of(bound, 5)
        wait_until(lambda: gaps, 10, 'the word of a gap')
        listening.cancel()
        assert got[0] > 0 and gaps[0].facts['exchange'] == 'news'
        # And goes on
        while bound.get(no_ack=True) is not None:
            green.sleep(0)
        kombu.publish('after', 'news')
        assert all_of(bound, 1) == ['after']
