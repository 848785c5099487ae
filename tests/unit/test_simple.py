import pytest

from greenmq.connection import Connection
from greenmq.entity import Exchange, Queue, binding
from greenmq.exceptions import DecodeError
from greenmq.simple import SimpleBuffer, SimpleQueue
from tests.support import green


@pytest.fixture
def connection():
    with Connection('memory://') as connection:
        yield connection


def test_put_get_and_acknowledge(connection):
    with connection.SimpleQueue('q') as queue:
        assert bool(queue)
        queue.put({'n': 1}, headers={'h': 1}, compression='zlib')
        assert len(queue) == queue.qsize() == 1
        message = queue.get(timeout=5)
        assert (message.payload, message.headers['h']) == ({'n': 1}, 1)
        message.ack()


def test_an_empty_queue(connection):
    queue = connection.SimpleQueue('q')
    for take in (queue.get_nowait, lambda: queue.get(block=False), lambda: queue.get(timeout=0.01)):
        with pytest.raises(queue.Empty):
            take()
    queue.close()


def test_messages_count_and_are_cleared_though_a_get_has_started_the_consumer(connection):
    queue = connection.SimpleQueue('q')
    queue.put('first')
    queue.get(timeout=5).ack()
    queue.put(1)
    queue.put(2)
    assert len(queue) == 2
    assert queue.get(timeout=5).payload == 1
    assert queue.get_nowait().payload == 2
    queue.put(3)
    assert queue.clear() == 1
    assert len(queue) == 0
    queue.close()


def test_greenlets_share_one_queue(connection):
    queue = connection.SimpleQueue('q')
    takers = [green.spawn(queue.get, timeout=10) for _ in range(10)]
    green.sleep(0)
    for n in range(10):
        queue.put(n)
    green.joinall(takers, raise_error=True)
    assert sorted(taker.value.payload for taker in takers) == list(range(10))
    queue.close()


def test_counting_does_not_stop_a_greenlet_that_waits(connection):
    queue = connection.SimpleQueue('q')
    taker = green.spawn(queue.get, timeout=10)
    green.sleep(0)
    assert len(queue) == 0
    queue.put('x')
    assert taker.get(timeout=5).payload == 'x'
    queue.close()


def test_a_buffer_needs_no_acknowledgements(connection):
    with connection.SimpleBuffer('b') as buffer:
        assert isinstance(buffer, SimpleBuffer)
        assert (buffer.queue.durable, buffer.queue.auto_delete, buffer.queue.exclusive) == (False, True, True)
        assert buffer.queue.exchange.delivery_mode == 1
        buffer.put('x')
        message = buffer.get(timeout=5)
        message.ack()
        assert not message.acknowledged


def test_options(connection):
    queue = SimpleQueue(
        connection, 'q', no_ack=True, queue_opts={'durable': False}, queue_args={'x-a': 1},
        exchange_opts={'type': 'topic'}, serializer='msgpack', accept=['msgpack'],
    )  # fmt: skip
    assert queue.queue.queue_arguments == {'x-a': 1}
    assert (queue.queue.durable, queue.queue.exchange.type) == (False, 'topic')
    queue.put([1])
    assert queue.get(timeout=5).content_type == 'application/x-msgpack'
    assert SimpleQueue.queue_opts == {} and SimpleQueue.exchange_opts == {'type': 'direct'}
    queue.close()


@pytest.mark.parametrize(
    'queue', [Queue('q', Exchange('e', 'topic'), 'k'), Queue('q', binding(Exchange('e'), 'k'))]
)
def test_a_queue_instead_of_a_name(connection, queue):
    simple = connection.SimpleQueue(queue)
    simple.put('x')
    assert simple.get(timeout=5).payload == 'x'
    simple.close()


def test_an_undecodable_message_is_raised_once_and_left_to_the_program(connection):
    queue = connection.SimpleQueue('q')
    queue.put(b'{', content_type='application/json', content_encoding='utf-8')
    queue.put('good')
    with pytest.raises(DecodeError) as caught:
        queue.get(timeout=5)
    message = caught.value.message
    assert queue.get(timeout=5).payload == 'good' and not message.acknowledged
    message.requeue()  # as whoever will be able to read it may want
    with pytest.raises(DecodeError) as again:
        queue.get(timeout=5)
    again.value.message.reject()
    assert queue.qsize() == 0
    queue.close()
