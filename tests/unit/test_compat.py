import pytest

from greenmq import compat
from greenmq.connection import Connection
from greenmq.entity import Exchange


@pytest.fixture
def connection():
    with Connection('memory://') as connection:
        yield connection


@pytest.fixture
def pair(connection):
    consumer = compat.Consumer(connection, queue='q', exchange='e', routing_key='k', exchange_type='topic')
    publisher = compat.Publisher(connection, exchange='e', routing_key='k', exchange_type='topic')
    yield publisher, consumer
    consumer.close()


def test_a_publisher_is_made_of_names(connection):
    with compat.Publisher(
        connection, exchange='e', exchange_type='topic', durable=False, auto_delete=True
    ) as publisher:
        assert publisher.exchange == Exchange('e', 'topic', durable=False, auto_delete=True)
        assert publisher.backend is publisher.channel is connection.default_channel
    assert publisher._closed
    channel = connection.channel()
    assert compat.Publisher(connection, exchange=Exchange('x'), channel=channel).backend is channel


def test_a_consumer_is_made_of_names(connection, pair):
    _, consumer = pair
    (queue,) = consumer.queues
    assert (queue.name, queue.exchange.name, queue.exchange.type, queue.routing_key) == (
        'q',
        'e',
        'topic',
        'k',
    )
    assert consumer.backend is consumer.channel is not connection.default_channel


def test_fetch(pair):
    publisher, consumer = pair
    for n in range(3):
        publisher.send({'n': n})
    got = []
    consumer.register_callback(lambda body, message: (got.append(body), message.ack()))
    consumer.fetch().ack()
    assert consumer.fetch(no_ack=True).payload == {'n': 1}
    consumer.fetch(enable_callbacks=True)
    assert got == [{'n': 2}]
    assert consumer.fetch() is None


def test_iterqueue_takes_no_more_than_its_limit(pair):
    publisher, consumer = pair
    for n in range(4):
        publisher.send(n)
    assert [message.payload for message in consumer.iterqueue(limit=2)] == [0, 1]
    assert [message.payload for message in consumer.iterqueue()] == [2, 3]
    endless = iter(consumer)
    assert next(endless) is None
    publisher.send(5)
    assert next(endless).payload == 5


def test_wait_and_iterconsume(pair):
    publisher, consumer = pair
    got = []
    consumer.register_callback(lambda body, message: (got.append(body), message.ack()))
    for n in range(3):
        publisher.send(n)
    assert consumer.wait(2) == [None, None]
    assert len(list(consumer.iterconsume(limit=1))) == 1
    assert got == [0, 1, 2]


def test_discard_all_and_what_is_not_there_any_more(pair):
    publisher, consumer = pair
    publisher.send(1)
    assert consumer.discard_all() == 1
    with pytest.raises(NotImplementedError, match='filters'):
        consumer.discard_all(filterfunc=len)
    with pytest.raises(NotImplementedError, match='enable_callbacks'):
        consumer.process_next()


def test_a_set_of_consumers(connection, pair):
    _, other = pair
    consumers = compat.ConsumerSet(
        connection, from_dict={'a': {'exchange': 'a', 'routing_key': 'x'}}, consumers=[other]
    )
    consumers.add_consumer_from_dict('b', exchange='b')
    consumers.add_consumer(compat.Consumer(connection, queue='c', exchange='c'))
    assert [queue.name for queue in consumers.queues] == ['q', 'a', 'b', 'c']
    got = []
    consumers.register_callback(lambda body, message: (got.append(body), message.ack()))
    compat.Publisher(connection, exchange='a', routing_key='x').send('x')
    list(consumers.iterconsume(limit=1))
    assert got == ['x']
    assert consumers.discard_all() == 0
    channel = consumers.backend
    consumers.close()
    assert channel.closed


def test_a_given_channel_stays_open(connection):
    channel = connection.channel()
    compat.ConsumerSet(connection, channel=channel).close()
    assert not channel.closed


def test_entry_to_queue():
    queue = compat.entry_to_queue('q', exchange='e', binding_key='b')
    assert (queue.name, queue.exchange.name, queue.routing_key) == ('q', 'e', 'b')
