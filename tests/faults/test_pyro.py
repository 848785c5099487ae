"""A broker over Pyro: what it costs, connections that end, a daemon that dies, Pyro's own client beside."""
from __future__ import annotations

import socket

import pytest

from greenmq import Connection, Queue, runtime
from greenmq.exceptions import InvalidArgument, NotFound
from tests.faults.stores import consuming, count, drain_until, forks, survives, wait_get
from tests.stress import FACTOR
from tests.support import green
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.pyro import PyroBroker
from tests.support.stores import declare, driver

Pyro5 = pytest.importorskip('Pyro5')


@pytest.fixture
def name(request):
    """A queue that no other test uses."""
    return f'{request.node.name}'


def publish_many(connection, total, name):
    producer = connection.Producer(routing_key=name, serializer='json')
    green.joinall([green.spawn(producer.publish, n) for n in range(total)], raise_error=True)


def calls(connection):
    return driver(connection).stats()['calls']


def test_a_hundred_messages_are_a_few_calls(pyro_url, name):
    with Connection(pyro_url) as connection:
        declare(connection, name)
        publish_many(connection, 1, name)
        before = calls(connection)
        publish_many(connection, 100, name)
        assert calls(connection) - before <= 4
        before = calls(connection)
        with consuming(connection, name, prefetch_count=101) as seen:
            drain_until(connection, lambda: len(seen) == 101)
            green.sleep(0.1)
            assert calls(connection) - before <= 15


def test_an_idle_consumer_asks_nothing(pyro_url, name):
    with Connection(pyro_url) as connection:
        declare(connection, name)
        with consuming(connection, name):
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.2)
            before = calls(connection)
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=1)
            assert calls(connection) == before


@pytest.mark.parametrize('serializer', ['json', 'serpent'])
def test_serializers(pyro_url, name, serializer):
    with Connection(f'{pyro_url}?serializer={serializer}') as connection:
        bound = declare(connection, name)
        connection.Producer(routing_key=name, serializer='json').publish({'a': 'ä'})
        assert wait_get(bound).payload == {'a': 'ä'}


@pytest.mark.faults
def test_what_a_connection_held_goes_back_when_it_ends(pyro_broker, pyro_url, name):
    with Proxy(pyro_broker.port) as proxy, Connection(pyro_url) as there:
        url = pyro_url.replace(str(pyro_broker.port), str(proxy.port))
        with Connection(url) as here:
            bound = declare(here, name)
            here.Producer(routing_key=name).publish('x')
            held = wait_get(bound)
            proxy.cut()
            again = wait_get(Queue(name)(there.default_channel))
            assert again.headers['x-delivery-count'] == 1 and again.delivery_info['redelivered']
            held.ack()
            again.requeue()
            wait_until(lambda: count(Queue(name)(there.default_channel)) == 1, 10, 'the message')


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.green_timeout(200)
def test_a_daemon_with_a_store_that_is_killed_loses_nothing(pyro_broker, pyro_url, name):
    survives(pyro_url, pyro_broker.restart, 12 if FACTOR > 1 else 3, {}, timeout=20, name=name)


@pytest.mark.faults
def test_a_daemon_without_a_store_keeps_what_it_is_told_for_as_long_as_it_lives(name):
    with PyroBroker(durable=False) as broker, Connection(broker.url()) as there:
        with Connection(broker.url(), transport_options={'fetch_ahead': 7}) as here:
            bound = declare(here, name, queue_arguments={'x-message-ttl': 60_000})
            producer = here.Producer(routing_key=name, serializer='json')
            producer.publish('low')
            producer.publish('high', priority=9)
            producer.publish('over', expiration=0.01)
            producer.publish('late', headers={'x-delay': 2000})
            green.sleep(0.05)
            assert [bound.get().payload for _ in range(2)] == ['high', 'low']
            assert bound.get() is None
        # What it held goes back, counted, and in its old order
        bound = Queue(name)(there.default_channel)
        again = [wait_get(bound) for _ in range(3)]
        assert [message.payload for message in again] == ['high', 'low', 'late']
        assert [message.headers.get('x-delivery-count') for message in again] == [1, 1, None]


@pytest.mark.faults
def test_a_killed_fetch_gives_back_what_it_brought(pyro_url, name):
    """Wherever the kill hits, and also when the daemon has answered already."""
    with Connection(pyro_url) as connection:
        declare(connection, name)
        producer = connection.Producer(routing_key=name)
        what = driver(connection)
        for turn in range(60):
            got = []
            task = runtime.spawn(lambda got=got: got.extend(what.take([name], 2, 10**6, 5.0)), name='take')
            producer.publish('x')
            for _ in range(turn % 6):
                green.sleep(0.0003)
            task.kill()
            task.join()
            with green.Timeout(10):
                while not got:
                    got = what.take([name], 2, 10**6, 0)
            what.settle(got, [], runtime.Deadline.after(10))


def test_exclusive_queues_end_with_their_connection(pyro_url, name):
    with Connection(pyro_url) as there:
        with Connection(pyro_url, transport_options={'fetch_ahead': 7}) as here:
            declare(here, name, exclusive=True)
            assert count(Queue(name)(there.default_channel)) == 0
        wait_until(lambda: not driver(there).has(name, runtime.Deadline.after(5)), 10, 'the end of the queue')


def test_one_callers_bad_input_costs_nobody_elses_connection(pyro_broker, pyro_url, name):
    with Connection(pyro_url) as connection:
        declare(connection, name)
        for garbage in (b'GET / HTTP/1.1\r\n\r\n', b'PYRO' + b'\xff' * 60, b'PYRO\x01\xf6'):
            with green.socket.create_connection(('127.0.0.1', pyro_broker.port), timeout=5) as sock:
                sock.sendall(garbage)
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(100) == b''
        assert count(Queue(name)(connection.default_channel)) == 0


def test_an_object_that_is_not_there(pyro_url):
    with pytest.raises(NotFound, match='elsewhere'):
        Connection(f'{pyro_url}elsewhere').connect()


@pytest.mark.parametrize('option', ['serializer=marshal', 'serializer=pickle'])
def test_a_bad_option_is_refused_by_name(pyro_url, option):
    with pytest.raises(InvalidArgument, match='serializer'):
        Connection(f'{pyro_url}?{option}').connect()


@pytest.mark.own_process
@pytest.mark.slow
def test_a_forked_child_leaves_the_parents_connection_alone(pyro_url):
    with Connection(pyro_url) as connection:
        for queue in ('q', 'children'):
            connection.default_channel.queue_delete(queue=queue)
    assert forks(pyro_url) == '3 3\n'


STOCK = """
import sys
import Pyro5.api
with Pyro5.api.Proxy(sys.argv[1]) as broker:
    broker.new_queue('stock')
    broker.put('stock', {'a': 1})
    print(broker.has_queue('stock'), broker.size('stock'), 'stock' in broker.get_queue_names())
    print(broker.get('stock'))
    try:
        broker.get('stock')
    except LookupError as error:
        print('empty')
    broker.put('stock', 2)
    print(broker.purge('stock'))
    broker.delete('stock')
    print(broker.has_queue('stock'))
    try:
        broker.leave()
    except AttributeError:
        print('no such method')
"""


@pytest.mark.own_process
@pytest.mark.slow
def test_pyros_own_client_calls_the_names_of_kombu(pyro_broker):
    import sys

    from tests.support.process import run

    uri = f'PYRO:kombu.broker@127.0.0.1:{pyro_broker.port}'
    out = run([sys.executable, '-W', 'ignore', '-c', STOCK, uri])
    assert out == "True 1 True\n{'a': 1}\nempty\n1\nFalse\nno such method\n"
