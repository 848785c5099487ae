"""One connection that several native threads publish through, as Celery's worker does, in a process that
nobody patched: what another thread publishes goes out, whatever the connection's own thread is busy with.
"""

from __future__ import annotations

import re
import sys

import pytest

from greenmq import Connection, Exchange, Producer, Queue, runtime
from greenmq.exceptions import ConnectionError, OperationalError, WrongHub
from greenmq.mixins import ConsumerMixin
from greenmq.runtime.seam import library
from greenmq.transport import base
from tests.support import census, green
from tests.support.process import run, wait_until


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


@pytest.mark.core
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
    # One of each thread would be three more; a client's own pool may have grown by one meanwhile.
    wait_until(lambda: len(census.fds()) < len(before) + 3, 10, 'as few descriptors as before')


@pytest.mark.one_of_a_kind
def test_an_exchange_that_the_broker_lost_is_declared_again_from_another_thread(connection, connect, target):
    # The connection's own thread would, but it is blocked: a broker that restarts forgets what is not durable
    channel = connect().channel()
    channel.queue_delete(queue=target.name)
    channel.exchange_delete(exchange=target.exchange.name)
    publish = connection.Producer().publish  # which declares nothing itself
    answer = natively(lambda: publish('there', exchange=target.exchange.name, routing_key=target.routing_key))
    assert not isinstance(answer, BaseException), answer
    if connect().transport.driver_type == 'amqp':
        assert bodies(target) == ['there']


@pytest.fixture
def moves(connection):
    """A broker whose connections another thread may take over; the others refuse it by name."""
    transport = connection.transport
    if type(transport).move_here is base.Transport.move_here or getattr(transport, 'clustered', False):
        assert isinstance(natively(connection.channel), WrongHub)
        pytest.skip('its connections stay in the thread that opened them')


@pytest.mark.usefixtures('moves')
class TestAConnectionThatAnotherThreadUses:
    """It was opened here; the other thread uses it while this one is blocked, hub and all."""

    def test_is_opened_again_there_if_nobody_waits_here(self, connection, target):
        for use in (connection.Consumer, connection.channel, connection.connect,
                    lambda: connection.default_channel,
                    lambda: connection.SimpleQueue(f'{target.name}-simple')):
            assert not isinstance(natively(use), BaseException)
            assert connection.default_channel is not None

    def test_keeps_its_channels_and_what_they_consume(self, connection, channel, target, producer):
        got = []
        take = [lambda body, message: (got.append(body), message.ack())]
        consumer = channel.Consumer([target], callbacks=take)
        consumer.qos(prefetch_count=2)
        consumer.consume()
        connection.drain_events(timeout=10)
        producer.publish('there')
        assert natively(lambda: connection.drain_events(timeout=10)) is None
        assert got == ['here', 'there']
        assert channel.prefetch_count == 2
        # and back again
        producer.publish('here again')
        connection.drain_events(timeout=10)
        assert got == ['here', 'there', 'here again']

    def test_what_was_acknowledged_before_does_not_come_again(self, target, producer):
        target.get().ack()  # a moment before, so that nothing has left yet
        assert natively(target.get) is None

    def test_what_was_not_acknowledged_is_delivered_or_still_ours(self, target, producer):
        message = target.get()

        def there():
            again = target.get()
            if again is not None:
                again.ack()

        assert natively(there) is None
        message.ack()  # stale where it was delivered again: harms nobody
        assert target.get() is None

    def test_is_refused_while_somebody_waits_here(self, connection, target, producer):
        assert bodies(target) == ['here']
        consumer = connection.Consumer([target], callbacks=[lambda body, message: message.ack()])
        consumer.consume()
        waits = green.spawn(connection.drain_events, timeout=10)
        green.sleep(0.05)
        for use in (lambda: connection.drain_events(timeout=0.1), connection.channel, connection.Consumer):
            error = natively(use)
            assert isinstance(error, WrongHub)
            assert 'open one in each thread' in str(error)
        producer.publish('here again')
        waits.get(timeout=10)

    def test_is_handed_over_by_a_thread_in_its_loop(self, connection, target, producer):
        before = connection.default_channel
        assert green.in_thread(lambda: connection.default_channel) is before
        assert green.in_thread(target.get).payload == 'here'

    def test_is_refused_by_a_thread_in_its_loop_where_somebody_waits(self, connection, target, producer):
        assert bodies(target) == ['here']
        connection.Consumer([target], callbacks=[lambda body, message: message.ack()]).consume()
        waits = green.spawn(connection.drain_events, timeout=10)
        green.sleep(0.05)
        with pytest.raises(WrongHub):
            green.in_thread(lambda: connection.drain_events(timeout=0.1))
        producer.publish('here again')
        waits.get(timeout=10)

    def test_two_threads_under_a_lock_of_their_own(self, connection, target, producer):
        assert bodies(target) == ['here']
        lock, taken = runtime.NativeLock(), []

        def turns():
            for _ in range(5):
                with lock:
                    producer.publish('turn')
                    while (message := target.get()) is None:
                        pass
                    message.ack()
                    taken.append(message.payload)

        done = runtime.NativeLock()
        done.acquire()
        library.original('_thread', 'start_new_thread')(lambda: (turns(), done.release()), ())
        turns()
        assert done.acquire(timeout=20)
        assert len(taken) == 10
        assert target.get() is None

    def test_what_a_thread_acknowledges_before_it_ends_does_not_come_again(self, connect, target, producer):
        # Given a thread that opens a connection, and ends without closing it
        connection = connect()
        connection.close()
        assert natively(lambda: target(connection.default_channel).get().ack()) is None
        wait_until(lambda: target(connection.default_channel).get() is None, 5, 'the ack')
        assert target.get() is None

    def test_a_worker_whose_run_is_given_to_a_thread(self, connection, target, producer):
        class Worker(ConsumerMixin):
            def __init__(self, connection):
                self.connection, self.got = connection, []

            def get_consumers(self, Consumer, channel):
                return [Consumer([target], callbacks=[self.take])]

            def take(self, body, message):
                self.got.append(body)
                message.ack()
                self.should_stop = True

        worker = Worker(connection)
        assert natively(worker.run) is None
        assert worker.got == ['here']


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
        ):
            assert isinstance(natively(publish), WrongHub)


@pytest.mark.rabbitmq
def test_a_broker_comes_to_all_that_was_said_before_a_move(rabbitmq, amqp_url):
    """Of a connection that ends before its answer it would drop the acks that its channels have not read."""
    said = []
    with Connection(amqp_url) as connection:
        target = Queue('moved')(connection.default_channel)
        target.declare()
        connection.Producer().publish('here', routing_key='moved')
        for _ in range(10):
            target.get().requeue()
            natively(lambda: target.get().requeue())

        def closed():
            said.append(rabbitmq.new_output())
            of_ours = rf"closing AMQP connection .* vhost: '{connection.virtual_host}'.*\)(.?)$"
            ends = re.findall(of_ours, ''.join(said), re.MULTILINE)
            return len(ends) >= 19 and ends

        ends = wait_until(closed, 30, 'the end of the connections')
    assert set(ends) == {''}  # a colon, and the reason, where it ended before the answer



def test_a_message_drained_here_may_be_settled_there(connection, channel, target, producer):
    message = target.get()
    natively(message.ack)
    wait_until(lambda: message.acknowledged, 5, 'the ack')
    assert bodies(target) == []


@pytest.mark.parametrize('way', ['reject', 'requeue', 'basic_nack'])
def test_a_message_drained_here_may_be_refused_there(channel, target, producer, way):
    if way == 'basic_nack' and not hasattr(channel, way):
        pytest.skip('it is a method of RabbitMQ')
    message = target(channel).get()
    refuse = getattr(message, way, None) or (lambda: channel.basic_nack(message.delivery_tag, requeue=True))
    assert not isinstance(natively(refuse), BaseException)
    if way == 'reject':
        green.sleep(0.05)
        assert bodies(target) == []
    else:
        again = []
        wait_until(lambda: again.extend(bodies(target)) or again, 20, 'the message')
        assert again == ['here']


@pytest.mark.own_process
def test_a_wait_without_a_limit_is_no_deadlock_while_another_thread_may_end_it():
    program = """
import threading, time
from greenmq import Connection, Queue
connection, got = Connection('memory://'), []
queue = Queue('q', routing_key='q')
connection.Consumer([queue], callbacks=[lambda body, message: (got.append(body), message.ack())]).consume()
def publish():
    time.sleep(0.2)
    Connection('memory://').Producer().publish('from a thread', routing_key='q')
threading.Thread(target=publish).start()
connection.drain_events()
print(got)
"""
    assert run([sys.executable, '-W', 'ignore', '-c', program]) == "['from a thread']\n"
