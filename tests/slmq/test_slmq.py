"""SoftLayer MQ: its few calls, its token, and what kombu's transport gets wrong with it."""

from __future__ import annotations

import pytest

from greenmq import Connection, Queue
from greenmq.exceptions import AccessRefused, InvalidArgument, NotFound
from greenmq.transport import get_transport_cls
from tests.support import green
from tests.support.cloud import Seen, declared, publish
from tests.support.http_proxy import HTTPProxy


@pytest.fixture
def name(name):
    return name.replace('-', '.')


@pytest.fixture
def proxy(slmq):
    with HTTPProxy(slmq.port) as proxy:
        yield proxy


@pytest.fixture
def connect(opened):
    """Open a connection to a URL; closed at the end of the test."""
    return lambda url, **options: opened(url, **{'polling_interval': 0.2, **options})


def size(connection, name):
    return connection.default_channel.queue_declare(name, passive=True).message_count


def test_both_spellings_of_the_scheme():
    assert get_transport_cls('SLMQ') is get_transport_cls('slmq')


def test_it_says_once_that_the_service_is_gone(connect, slmq, caplog, monkeypatch):
    monkeypatch.setattr('greenmq.transport.SLMQ.driver._told', set())
    for timeout in (1, 2):
        connect(slmq.url(), visibility_timeout=timeout)
    assert caplog.text.count('was shut down') == 1


def test_an_ack_deletes_and_says_whose_it_was(connect, slmq, name):
    connection = connect(slmq.url(), visibility_timeout=1)
    queue = declared(connection, name)
    publish(connection, name, ['x'])
    message = queue.get()
    assert message.delivery_info['slmq_queue_name'] == name.replace('.', '_')
    assert message.delivery_info['slmq_message_id']
    message.ack()
    green.sleep(1.3)
    assert queue.get() is None


def test_what_a_dead_consumer_held_comes_back_after_the_visibility_timeout(connect, slmq, name):
    connection = connect(slmq.url(), visibility_timeout=1)
    queue = declared(connection, name)
    publish(connection, name, ['x'])
    connection.transport.session.driver.take([name], 1, 0, 0.0)  # and nobody ever hears of it
    seen = Seen(connection, queue)
    seen.until(lambda: seen.bodies == ['x'], 10)
    seen.stop()


def test_requeued_messages_are_counted_copies(connect, slmq, name):
    connection = connect(slmq.url())
    queue = declared(connection, name)
    publish(connection, name, ['x'])
    queue.get().requeue()
    seen = Seen(connection, queue)
    seen.until(lambda: seen.bodies == ['x'])
    seen.stop()
    assert seen.messages[0].headers['x-delivery-count'] == 1
    green.sleep(0.2)
    assert size(connection, name) == 0


def test_connections_are_kept_and_calls_carry_many(connect, slmq, proxy, name):
    connection = connect(slmq.url(port=proxy.port))
    queue = declared(connection, name)
    publish(connection, name, list(range(100)), 5)
    proxy.reset()
    seen = Seen(connection, queue, prefetch=1000)
    seen.until(lambda: len(seen.bodies) == 100)
    green.sleep(0.3)
    seen.stop()
    gets = sum(count for operation, count in proxy.counts.items() if operation.startswith('GET'))
    assert gets <= 8 and proxy.total <= 110
    assert proxy.connections <= 25  # kombu's client makes one for each call


def test_a_token_that_ended_is_got_anew(connect, slmq, proxy, name):
    connection = connect(slmq.url(port=proxy.port))
    declared(connection, name)
    proxy.answer('POST .*/messages', 401, '{}', times=1)
    publish(connection, name, ['x'])
    assert size(connection, name) == 1
    assert sum(count for operation, count in proxy.counts.items() if operation.endswith('/auth')) == 2


def test_faults_leave_nobody_deaf(connect, slmq, proxy, name):
    connection = connect(slmq.url(port=proxy.port), visibility_timeout=2)
    queue = declared(connection, name)
    seen = Seen(connection, queue)
    proxy.answer('messages', 500, '', chance=0.2)
    proxy.cut_after('messages', chance=0.2)
    publish(connection, name, list(range(10)), 3, retry=True)
    seen.until(lambda: set(seen.bodies) == set(range(10)), 25)
    proxy.heal()
    publish(connection, name, ['last'])
    seen.until(lambda: 'last' in seen.bodies, 10)
    seen.stop()


def test_a_prefix_holds_for_all_that_is_done_with_a_queue(connect, slmq, name):
    connection = connect(slmq.url(), queue_name_prefix=f'{name}-')
    queue = declared(connection, 'tasks')
    publish(connection, 'tasks', [1, 2])
    assert queue.purge() == 2
    assert [each['name'] for each in connection.transport.manager.get_queues()] == ['tasks']
    queue.delete()
    with pytest.raises(NotFound):
        connection.default_channel.queue_declare('tasks', passive=True)


def test_who_is_not_let_in(slmq):
    with pytest.raises(AccessRefused) as caught:
        Connection(slmq.url(key='wrong-key')).connect()
    assert 'wrong-key' not in str(caught.value)
    with pytest.raises(InvalidArgument, match='lacks an account'):
        Connection('slmq://u:k@host').connect()


def test_the_environment_comes_first(slmq, monkeypatch, name):
    values = {'SLMQ_HOST': '127.0.0.1', 'SLMQ_PORT': str(slmq.port), 'SL_USERNAME': 'user',
              'SL_API_KEY': 'api-key', 'SLMQ_ACCOUNT': 'account'}
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    with Connection('slmq://nobody:none@nowhere:1/x?secure=0') as connection:
        Queue(name)(connection.default_channel).declare()
        connection.default_channel.queue_delete(name)
