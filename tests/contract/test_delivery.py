"""What goes in comes out: as it was, in order, to one consumer, and back to its queue if nobody settles
it.
"""

from __future__ import annotations

import contextlib
from queue import Empty

import pytest

from greenmq.exceptions import ConnectionLost
from greenmq.transport.driver.flight import Flight
from tests.contract.conftest import text
from tests.support import green
from tests.support.process import wait_until


@pytest.fixture
def here(channel, bench):
    return bench(channel)


@pytest.fixture
def there(connect, bench):
    """A second connection."""
    return bench(connect().channel())


@pytest.mark.core
def test_a_message_arrives_as_it_was_sent(here, queue):
    headers = {'word': 'grün', 'number': 7, 'nested': {'list': [1, 2]}}
    here.put(queue, b'\x00\xffbody', headers=headers, correlation_id='c-1', reply_to='r', delivery_mode=1)
    message = here.get(queue)
    assert bytes(message.body) == b'\x00\xffbody'
    assert message.content_type == 'application/data'
    assert message.content_encoding == 'binary'
    assert message.headers == headers
    assert message.properties['correlation_id'] == 'c-1' and message.properties['reply_to'] == 'r'
    assert message.delivery_info['routing_key'] == queue and message.delivery_info['exchange'] == ''
    assert not message.delivery_info['redelivered']
    message.ack()
    assert here.get(queue) is None


@pytest.mark.parametrize('size', [0, 1, 200_000])
def test_bodies_of_any_size(here, queue, size):
    limit = getattr(getattr(here.client.transport, 'Driver', None), 'max_payload', None)
    size = min(size, (limit or size * 2) // 2)  # in base64, with an envelope
    here.put(queue, b'\xfe' * size)
    assert bytes(here.get(queue, no_ack=True).body or b'') == b'\xfe' * size


def test_what_the_publisher_changes_later_is_not_sent(here, queue):
    headers, properties = {'a': 1}, {'correlation_id': 'x'}
    message = here.channel.prepare_message(b'body', 3, 'text/plain', 'utf-8', headers, properties)
    here.channel.basic_publish(message, exchange='', routing_key=queue)
    headers['a'] = 2
    properties.clear()
    assert properties == {}
    assert here.get(queue, no_ack=True).headers == {'a': 1}


def test_order_is_kept(here, queue):
    for n in range(20):
        here.put(queue, n)
    assert here.get_all(queue) == [str(n) for n in range(20)]


@pytest.mark.core
def test_consumer_gets_what_was_there_and_what_comes(here, queue):
    seen = []
    here.put(queue, 'before')
    here.consume(queue, lambda message: (seen.append(text(message)), message.ack()))
    here.put(queue, 'after')
    here.until(lambda: len(seen) == 2)
    assert seen == ['before', 'after']


def test_each_message_has_one_consumer(here, there, queue):
    seen = []
    for bench in (here, there):
        bench.channel.basic_qos(0, 1, False)
        bench.consume(
            queue, lambda message, bench=bench: (seen.append((bench, text(message))), message.ack())
        )
    # One of them may be so quick that the other finds nothing: more come until both have had some.
    put = 0
    with green.Timeout(20):
        while len(seen) < max(put, 10) or {bench for bench, _ in seen} != {here, there}:
            for _ in range(10 if len(seen) == put else 0):
                here.put(queue, put)
                put += 1
            here.drain(0.01)
            there.drain(0.01)
    assert sorted(body for _, body in seen) == sorted(str(n) for n in range(put))


def test_two_consumers_on_one_channel_share(here, queue):
    seen = []
    for tag in ('a', 'b'):
        here.consume(queue, lambda message, tag=tag: (seen.append(tag), message.ack()), tag=tag)
    for n in range(6):
        here.put(queue, n)
    here.until(lambda: len(seen) == 6)
    assert seen.count('a') == seen.count('b') == 3


def test_prefetch_limits_what_is_unsettled(here, queue):
    held = []
    here.channel.basic_qos(0, 2, False)
    here.consume(queue, held.append)
    for n in range(5):
        here.put(queue, n)
    here.until(lambda: len(held) == 2)
    here.drain()
    assert [text(message) for message in held] == ['0', '1']
    held[0].ack()
    here.until(lambda: len(held) == 3)
    here.drain()
    assert len(held) == 3


def test_ack_multiple_settles_all_before(here, queue):
    held = []
    here.consume(queue, held.append)
    for n in range(4):
        here.put(queue, n)
    here.until(lambda: len(held) == 4)
    held[2].ack(multiple=True)
    here.channel.close()
    again = type(here)(here.client.channel())
    assert again.get_all(queue) == ['3']
    again.channel.queue_delete(queue=queue)


def test_no_ack_leaves_nothing_unsettled(here, queue):
    seen = []
    here.consume(queue, lambda message: seen.append(text(message)), no_ack=True)
    here.put(queue, 'x')
    here.until(lambda: seen)
    here.channel.close()
    assert type(here)(here.client.channel()).get(queue) is None


def test_rejected_is_gone(here, queue):
    here.put(queue, 'x')
    here.get(queue).reject()
    assert here.get(queue) is None


@pytest.mark.core
def test_requeued_comes_back_first_and_marked(here, queue):
    for n in range(3):
        here.put(queue, n)
    first = here.get(queue)
    first.requeue()
    again = here.get(queue)
    assert text(again) == '0' and again.delivery_info['redelivered']
    again.ack()
    assert here.get_all(queue) == ['1', '2']


def test_closing_a_channel_gives_back_in_order(here, there, queue):
    held = []
    here.consume(queue, held.append)
    for n in range(4):
        here.put(queue, n)
    here.until(lambda: len(held) == 2)  # two had a callback, two wait for one
    here.channel.close()
    wait_until(lambda: there.size(queue) == 4, 10, 'what was given back')
    assert there.get_all(queue) == ['0', '1', '2', '3']
    there.channel.queue_delete(queue=queue)


@pytest.mark.core
def test_closing_the_connection_gives_back(connect, bench, here, queue):
    connection = connect()
    other = bench(connection.channel())
    here.put(queue, 'x')
    with green.Timeout(10):
        while other.get(queue) is None:
            green.sleep(0)
    connection.close()
    with green.Timeout(10):
        message = None
        while message is None:
            message = here.get(queue)
            green.sleep(0)
    assert text(message) == 'x' and message.delivery_info['redelivered']


def test_cancelled_consumer_gets_nothing_more(here, queue):
    seen = []
    here.consume(queue, lambda message: (seen.append(text(message)), message.ack()), tag='gone')
    here.put(queue, 'one')
    here.until(lambda: seen)
    here.channel.basic_cancel('gone')
    here.put(queue, 'two')
    here.drain()
    assert seen == ['one']
    assert text(here.get(queue)) == 'two'


def test_a_cancelled_consumer_gives_back_in_order(here, there, queue):
    held = []
    here.consume(queue, held.append, tag='gone')
    for n in range(4):
        here.put(queue, n)
    here.until(lambda: held)
    here.channel.basic_cancel('gone')
    held[0].ack()
    # All of it first: what had not been taken yet may be seen before what goes back.
    wait_until(lambda: there.size(queue) == 3, 10, 'what was given back')
    assert there.get_all(queue) == ['1', '2', '3']


def test_a_cancelled_consumer_leaves_its_room_to_another_of_its_channel(here, there, queue):
    """Its message waited for a callback, and was all that the prefetch allows."""
    held = []
    here.channel.basic_qos(0, 1, False)
    here.consume(queue, lambda message: None, tag='gone')
    here.put(queue, 'x')
    for _ in range(50):
        if not there.size(queue):
            break
        green.sleep(0.02)
    here.consume(queue, held.append, tag='stays')
    here.channel.basic_cancel('gone')
    here.until(lambda: held)
    assert text(held[0]) == 'x'
    held[0].ack()


def test_consumers_that_are_cancelled_in_a_row_wait_for_no_take_that_goes_on(here, queue, monkeypatch):
    """Each end of one is followed by a take for those that are left, which ends when a message comes."""
    joined, join = [], Flight.join

    def recorded(flight, deadline=None):
        joined.append(join(flight, deadline))
        return joined[-1]

    monkeypatch.setattr(Flight, 'join', recorded)
    tags = [f't{number}' for number in range(6)]
    for tag in tags:
        here.consume(queue, lambda message: message.ack(), tag=tag)
    here.drain()
    for tag in tags:
        here.channel.basic_cancel(tag)
    assert all(joined), 'the next take was waited for until the time was over'


def test_recover_delivers_again(here, queue):
    held = []
    here.consume(queue, held.append)
    here.put(queue, 'x')
    here.until(lambda: held)
    here.channel.basic_recover(requeue=True)
    here.until(lambda: len(held) == 2)
    assert held[1].delivery_info['redelivered']
    held[1].ack()


def test_each_first_look_into_a_queue_and_the_next_find_what_waits(here, channel, name):
    # A broker may take a message out of the queue for a look that ends before it is sent.
    for number in range(20):
        queue = f'{name}-{number}'
        channel.queue_declare(queue)
        here.put(queue, 'one')
        here.put(queue, 'two')
        assert here.get_all(queue) == ['one', 'two']
        channel.queue_delete(queue)


def test_get_from_an_empty_queue_is_none(here, queue):
    assert here.get(queue) is None


@pytest.mark.core
def test_drain_without_an_event_times_out(connection, channel):
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.01)


@pytest.mark.core
def test_a_channel_of_a_virtual_transport_looks_once(here, queue):
    if not hasattr(here.channel, 'drain_events'):
        pytest.skip("AMQP's channels have no such method")
    got = []
    here.consume(queue, got.append, no_ack=True)
    # Given nothing, it says so
    with pytest.raises(Empty):
        here.channel.drain_events()
    # Then it handles what came, sooner or later
    here.put(queue, 'a')

    def handled():
        with contextlib.suppress(Empty):
            here.channel.drain_events()
        return got

    wait_until(handled, 10, 'the message')
    assert list(map(text, got)) == ['a']


def test_expiration_can_be_left_to_the_consumer(connection, connect, bench, name):
    if connection.transport.driver_type in ('amqp', 'qpid'):
        pytest.skip('the broker drops it')
    here = bench(connect(transport_options={'drop_expired': False}).channel())
    here.channel.queue_declare(queue=name, auto_delete=False, durable=False)
    # Given one whose time is over before anybody looks
    here.put(name, 'late', expiration='1')
    green.sleep(0.01)
    # Then it comes, and says when it was to expire
    message = here.wait_get(name)
    assert (text(message), message.properties['expiration']) == ('late', '1')
    message.ack()
    here.channel.queue_delete(queue=name)


@pytest.mark.core
def test_a_waiting_consumer_is_woken_by_a_publish_of_another_connection(here, there, queue):
    seen = []
    here.consume(queue, lambda message: (seen.append(text(message)), message.ack()))
    waiting = green.spawn(here.client.drain_events, timeout=10)
    green.sleep(0)
    there.put(queue, 'x')
    waiting.get(timeout=10)
    assert seen == ['x']


def test_the_error_of_a_callback_reaches_its_drainer_and_the_next_message_comes(here, queue):
    seen = []

    def broken(message):
        message.ack()
        if not seen:
            seen.append('error')
            raise LookupError('mine')
        seen.append(text(message))

    here.consume(queue, broken)
    here.put(queue, 1)
    here.put(queue, 2)
    with pytest.raises(LookupError, match='mine'):
        here.until(lambda: False)
    here.until(lambda: len(seen) == 2)
    assert seen == ['error', '2']


@pytest.mark.core
def test_a_killed_drainer_loses_nothing(here, queue):
    seen = []
    here.consume(queue, lambda message: (seen.append(text(message)), message.ack()))
    for n in range(20):
        drainer = green.spawn(here.client.drain_events, timeout=10)
        green.sleep(0)
        drainer.kill(block=False)
        here.put(queue, n)
    here.until(lambda: len(seen) == 20)
    assert seen == [str(n) for n in range(20)]


def test_callbacks_of_a_channel_do_not_overlap(here, queue):
    running, overlapped, done = [], [], []

    def slow(message):
        overlapped.append(bool(running))
        running.append(1)
        green.sleep(0)
        running.pop()
        message.ack()
        done.append(1)

    here.consume(queue, slow)
    for n in range(10):
        here.put(queue, n)

    def drain():
        while len(done) < 10:
            here.client.drain_events(timeout=10)

    drainers = [green.spawn(drain) for _ in range(4)]
    green.joinall(drainers, timeout=10, raise_error=True)
    assert overlapped == [False] * 10


@pytest.mark.core
def test_closing_the_connection_wakes_its_drainers(connect, bench, queue):
    from greenmq.exceptions import ConnectionClosed

    connection = connect()
    connection.channel()
    errors = []

    def drain():
        try:
            connection.drain_events()
        except ConnectionClosed as error:
            errors.append(error)

    drainers = [green.spawn(drain) for _ in range(3)]
    green.sleep(0)
    connection.close()
    green.joinall(drainers, timeout=10)
    assert len(errors) == 3


def test_close_twice_from_two_greenlets(connection, here, queue):
    here.consume(queue, lambda message: None)
    closers = [green.spawn(here.channel.close) for _ in range(3)]
    green.joinall(closers, timeout=10, raise_error=True)
    connection.channel().queue_delete(queue=queue)


def test_an_ack_after_the_channel_closed_says_so(here, queue):
    here.put(queue, 'x')
    message = here.get(queue)
    here.channel.close()
    assert message.ack() is False


@pytest.mark.core
def test_worker_threads_settle_what_another_thread_has_drained(here, there, queue):
    for word in ('acked', 'rejected', 'requeued'):
        here.put(queue, word)
    acked, rejected, requeued = (here.wait_get(queue) for _ in range(3))

    def work():
        return acked.ack(), rejected.reject(), requeued.requeue()

    assert green.in_thread(work) == (None, None, None)
    assert acked.acknowledged and rejected.acknowledged and requeued.acknowledged
    again = there.wait_get(queue)
    assert text(again) == 'requeued'
    again.ack()
    here.channel.close()
    assert there.get(queue) is None


def test_a_consumer_is_known_as_long_as_it_consumes(here, queue):
    here.consume(queue, print)
    wait_until(lambda: here.channel.consumes('t'), 10, 'the consumer to consume')
    assert not here.channel.consumes('nobody')
    here.channel.basic_cancel('t')
    assert not here.channel.consumes('t')


@pytest.mark.core
def test_the_broker_answers_while_the_connection_is_open(connection):
    assert connection.ping() >= 0
    connection.close()
    with pytest.raises(ConnectionLost):
        connection.ping()
