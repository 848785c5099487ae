"""One connection that several native threads publish through, as Celery's worker does, in a process that
nobody patched: what another thread publishes goes out, whatever the connection's own thread is busy with.
"""

from __future__ import annotations

import pytest

from greenmq import Connection, Exchange, Producer, Queue, runtime
from greenmq.exceptions import ConnectionError, OperationalError, WrongHub
from greenmq.runtime.seam import library
from tests.support import census, green
from tests.support.process import wait_until


def natively(function):
    """Run it in a thread that nobody prepared, and block this one, hub and all, until it is done."""
    done, result = runtime.NativeLock(), []
    done.acquire()

    def run():
        try:
            result.append(function())
        except BaseException as error:
            result.append(error)
        finally:
            done.release()

    library.original('_thread', 'start_new_thread')(run, ())
    assert done.acquire(timeout=20), 'the other thread needs this one'
    return result[0]


@pytest.fixture
def target(channel, name):
    queue = Queue(name, Exchange(f'{name}-x', durable=False), name, durable=False)(channel)
    queue.declare()
    yield queue
    queue.delete()
    queue.exchange.delete()


@pytest.fixture
def producer(connection, target):
    producer = connection.Producer(exchange=target.exchange, routing_key=target.routing_key)
    producer.publish('here', declare=[target])
    return producer


def bodies(target):
    found = []
    while (message := target.get(no_ack=True)) is not None:
        found.append(message.payload)
    return found


@pytest.mark.parametrize('retry', [False, True])
def test_another_thread_publishes_while_the_connections_own_is_blocked(producer, target, retry):
    natively(lambda: producer.publish('there', retry=retry, declare=[target]))
    producer.publish('here again')
    assert bodies(target) == ['here', 'there', 'here again']


def test_what_is_bound_to_no_channel_yet_is_published_too(connection, target):
    # Given a producer that another thread is the first to use
    producer = connection.Producer()
    natively(lambda: producer.publish('there', exchange=target.exchange, routing_key=target.routing_key))
    assert bodies(target) == ['there']


def test_many_at_once_and_often(producer, target):
    def ten():
        for n in range(10):
            producer.publish(n)

    tasks = [runtime.spawn(green.in_thread, ten, name=f'thread {n}') for n in range(5)]
    for task in tasks:
        task.join(20)
    assert sorted(bodies(target)[1:]) == sorted([*range(10)] * 5)


def test_a_thread_that_ends_leaves_no_descriptor_behind(producer):
    before = census.fds()
    for _ in range(3):
        natively(lambda: producer.publish('there'))
    wait_until(lambda: len(census.fds()) <= len(before), 10, 'as few descriptors as before')


def test_the_connection_itself_serves_one_thread(connection):
    connection.connect()
    for use in (connection.Producer, connection.Consumer, connection.channel, connection.connect,
                connection.drain_events, lambda: connection.default_channel,
                lambda: connection.SimpleQueue('q')):
        error = natively(use)
        assert isinstance(error, WrongHub)
        assert 'open one in each thread' in str(error)


def test_once_it_is_closed_no_thread_publishes(connect, target):
    connection = connect()
    producer = connection.Producer(exchange=target.exchange.name, routing_key=target.routing_key)
    producer.publish('here')
    natively(lambda: producer.publish('there'))
    connection.close()
    assert isinstance(natively(lambda: producer.publish('there')), (ConnectionError, OperationalError))
    assert bodies(target) == ['here', 'there']


@pytest.mark.rabbitmq
def test_what_belongs_to_the_channel_stays_in_its_thread(amqp_url):
    with Connection(amqp_url) as connection:
        channel = connection.channel()
        asks, transacts = Producer(channel), Producer(connection.channel())
        transacts.channel.tx_select()
        asks.publish('here', routing_key='nowhere')
        for publish in (
            lambda: asks.publish('there', routing_key='nowhere', reply_to='amq.rabbitmq.reply-to'),
            lambda: transacts.publish('there', routing_key='nowhere'),
            lambda: connection.drain_events(timeout=0.1),
        ):
            assert isinstance(natively(publish), WrongHub)


def test_a_message_drained_here_may_be_settled_there(connection, channel, target, producer):
    message = target.get()
    natively(message.ack)
    wait_until(lambda: message.acknowledged, 5, 'the ack')
    assert bodies(target) == []
