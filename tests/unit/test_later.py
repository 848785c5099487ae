"""ConfirmLater: what a block of publishes waits for, and what it tells of those that failed."""

from __future__ import annotations

import logging

import pytest

from greenmq import Connection, Queue, runtime
from greenmq.exceptions import (
    BufferFull,
    ConnectionLost,
    InvalidArgument,
    PublishNacked,
    PublishUnconfirmed,
    Unroutable,
)
from greenmq.messaging import ConfirmLater, Producer
from greenmq.transport import memory
from tests.unit.recorder import Recorder


class Channel(Recorder):
    """Keeps the futures that it gave; `broker` says what becomes of the next ones at once."""

    transactional = False

    def __init__(self):
        super().__init__()
        self.futures = []
        self.full = False

    def basic_publish_nowait(self, message, **place):
        if self.full:
            raise BufferFull('no room')
        self.calls.append(('nowait', (), place))
        self.futures.append(runtime.Future())
        return self.futures[-1]

    def confirm(self, error=None):
        for future in self.futures:
            future.set_exception(error) if error is not None else future.set_result()


@pytest.fixture
def channel():
    return Channel()


@pytest.fixture
def producer(channel):
    return Producer(channel)


def test_in_the_block_nothing_waits_and_at_its_end_all_do(channel, producer):
    with ConfirmLater() as sent:
        for key in 'abc':
            producer.publish('x', key)
        assert len(sent) == 3 and not channel.of('basic_publish')
        told = runtime.spawn(sent.flush, name='flush')
        runtime.sleep(0.01)
        assert not told.done
        channel.confirm()
        told.join()
        assert told.error is None
        assert len(sent) == 0 and sent.failures == []
        producer.publish('x', 'd')
        runtime.call_later(0.01, channel.confirm)
    assert [future.done() for future in channel.futures] == [True] * 4
    producer.publish('x', 'e')
    assert [call['routing_key'] for call in channel.of('basic_publish')] == ['e']


def test_other_greenlets_wait_as_ever(channel, producer):
    with ConfirmLater():
        runtime.spawn(producer.publish, 'x', 'theirs', name='other').join()
    assert len(channel.of('basic_publish')) == 1 and not channel.futures


def test_one_failure_is_raised_as_it_is_and_several_as_one(channel, producer):
    for count in (1, 3):
        told = PublishNacked if count == 1 else PublishUnconfirmed
        with pytest.raises(told) as caught, ConfirmLater() as sent:
            for number in range(count):
                producer.publish('x', 'q', headers={'id': number})
            channel.confirm(PublishNacked(None, '', 'q'))
        assert [each.arguments.headers['id'] for each in sent.failures] == list(range(count))
        assert count == 1 or caught.value.sent == 'no'


def test_a_confirm_that_does_not_come_is_told(channel, producer):
    with ConfirmLater() as sent:
        producer.publish('x', 'q')
        with pytest.raises(PublishUnconfirmed, match="routing key 'q'") as caught:
            sent.flush(timeout=0.01)
        assert caught.value.sent == 'unknown' and len(sent) == 0 and len(sent.failures) == 1
        sent.flush()  # told once


def test_what_may_be_sent_again_is(channel, producer, monkeypatch):
    again = []

    def once_more(client, args, policy, deadline):
        again.append((args.routing_key, policy['max_retries']))

    monkeypatch.setattr('greenmq.publishing.producer._again', once_more)
    monkeypatch.setattr(producer, '_send', lambda args, policy, deadline: producer._publish(*args))
    with ConfirmLater() as sent:
        producer.publish('x', 'a', retry=True, retry_policy={'max_retries': 5})
        channel.confirm(PublishUnconfirmed('gone'))
    assert again == [('a', 5)] and sent.failures == []


@pytest.mark.parametrize('first, then, told', [
    (PublishUnconfirmed('first'), ConnectionLost('away'), 'unknown'),
    (PublishUnconfirmed('first', sent='no'), ConnectionLost('away'), 'no'),
    (PublishUnconfirmed('first', sent='no'), PublishUnconfirmed('then'), 'unknown'),
])
def test_what_is_told_is_whether_it_may_have_arrived(channel, producer, monkeypatch, first, then, told):
    def again(client, args, policy, deadline):
        raise then

    monkeypatch.setattr('greenmq.publishing.producer._again', again)
    monkeypatch.setattr(producer, '_send', lambda args, policy, deadline: producer._publish(*args))
    with pytest.raises(PublishUnconfirmed) as caught, ConfirmLater():
        producer.publish('x', 'a', retry=True)
        channel.confirm(first)
    assert caught.value.sent == told


def test_above_the_limit_a_publish_waits_for_half_of_them(channel, producer):
    with ConfirmLater(limit=4):
        for number in range(4):
            producer.publish(number, 'q')
        with pytest.raises(PublishUnconfirmed, match='the limit is 4') as caught:
            producer.publish('x', 'q', timeout=0.01)
        assert caught.value.sent == 'no' and len(channel.futures) == 4
        runtime.call_later(0.01, lambda: [future.set_result() for future in channel.futures[:2]])
        producer.publish(5, 'q')
        assert len(channel.futures) == 5
        channel.confirm()


def test_a_full_buffer_makes_a_publish_wait_as_ever(channel, producer):
    channel.full = True
    with ConfirmLater() as sent:
        producer.publish('x', 'q')
        assert len(sent) == 0
    assert len(channel.of('basic_publish')) == 1


def test_an_error_leaves_with_its_own_name_and_the_rest_is_logged(channel, producer, caplog):
    caplog.set_level(logging.ERROR, 'greenmq.publishing')
    with pytest.raises(KeyError), ConfirmLater() as sent:
        producer.publish('x', 'q')
        channel.confirm(PublishNacked(None, '', 'q'))
        raise KeyError
    assert '1 messages are not confirmed' in caplog.text and len(sent.failures) == 1


def test_a_kill_waits_for_nothing_and_is_told(channel, producer, caplog):
    caplog.set_level(logging.ERROR, 'greenmq.publishing')

    def work():
        with ConfirmLater():
            producer.publish('x', 'q')
            runtime.sleep(60)

    task = runtime.spawn(work, name='work')
    runtime.sleep(0.01)
    task.kill()
    task.join()
    assert '1 messages are not confirmed' in caplog.text
    producer.publish('x', 'q')  # no block is left behind
    assert len(channel.of('basic_publish')) == 1


def test_blocks_within_blocks_and_twice(channel, producer):
    with ConfirmLater() as outer:
        producer.publish('x', 'q')
        with ConfirmLater() as inner:
            producer.publish('x', 'q')
            assert (len(outer), len(inner)) == (1, 1)
            channel.confirm()
        producer.publish('x', 'q')
        assert len(outer) == 1
        with pytest.raises(RuntimeError), outer:
            pass
        channel.confirm()
    with pytest.raises(InvalidArgument):
        ConfirmLater(limit=0)


def test_in_memory():
    memory.reset()
    with Connection('memory://localhost/later') as connection:
        queue = Queue('later')(connection.default_channel)
        producer = connection.Producer()
        with ConfirmLater():
            for number in range(100):
                producer.publish(number, routing_key='later', declare=[queue], retry=True)
        assert [queue.get(no_ack=True).payload for _ in range(100)] == list(range(100))
        with pytest.raises(Unroutable), ConfirmLater():
            producer.publish('x', routing_key='nowhere', mandatory=True)
    memory.reset()
