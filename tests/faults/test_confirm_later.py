"""Publishes that are confirmed later, and a broker that goes down before they are (P16, P17)."""
from __future__ import annotations

import time

import gevent
import pytest

from greenmq import Connection, Exchange, Queue
from greenmq.exceptions import ConnectionLost, OperationalError, PublishUnconfirmed, Unroutable
from greenmq.messaging import ConfirmLater
from tests.faults.conftest import SOON
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.once]

QUEUE = Queue('later', Exchange('later'), 'later')
WAY = {'exchange': QUEUE.exchange, 'routing_key': 'later', 'declare': [QUEUE]}


def found(connection):
    """The messages of the queue, in their order."""
    bound, numbers = QUEUE(connection.default_channel), []
    while (message := bound.get(no_ack=True)) is not None:
        numbers.append(message.payload)
    return numbers


def on_their_way(connection, producer, count):
    """So many publishes, written and not confirmed: the proxy keeps what the broker says."""
    for number in range(count):
        producer.publish(number, **WAY)
    wait_until(lambda: connection.connection.link.out_bytes == 0, SOON, 'the publishes to be sent')


def test_each_is_there_when_the_block_has_ended(rig):
    producer = rig.connection().Producer()
    with ConfirmLater(limit=500) as sent:
        for number in range(2000):
            producer.publish(number, **WAY)
        assert 0 < len(sent) <= 500
    assert not producer.channel.publishing.outstanding
    assert found(rig.control) == list(range(2000))


def test_what_was_on_its_way_when_the_connection_was_lost_is_told_of_each(rig, proxy):
    connection = rig.connection(proxy)
    producer = connection.Producer()
    producer.publish(-1, **WAY)
    with pytest.raises(PublishUnconfirmed, match='20 publishes failed') as caught, ConfirmLater() as sent:
        proxy.blackhole('down')
        on_their_way(connection, producer, 20)
        proxy.cut()
        proxy.heal()
    assert caught.value.sent == 'unknown'
    assert [each.arguments.body for each in sent.failures] == [str(number) for number in range(20)]


def test_with_retry_it_is_sent_again(rig, proxy):
    connection = rig.connection(proxy)
    producer = connection.Producer()
    producer.publish(-1, **WAY)
    with ConfirmLater() as sent:
        proxy.blackhole('up')
        for number in range(20):
            producer.publish(number, retry=True, **WAY)
        proxy.cut()
        proxy.heal()
    assert not sent.failures and found(rig.control) == [-1, *range(20)]


def test_a_broker_that_is_killed_before_the_flush_has_all_of_it_afterwards(rig, rabbitmq):
    connection = rig.connection()
    producer = connection.Producer()
    producer.publish(-1, **WAY)
    with ConfirmLater() as sent:
        for number in range(500):
            producer.publish(number, retry=True, **WAY)
        rabbitmq.kill()
        rabbitmq.start()
    assert not sent.failures
    assert set(found(rig.connection())) == set(range(-1, 500))


def test_a_broker_that_stays_away_is_told_within_the_time_of_the_flush(rig, proxy):
    connection = rig.connection(proxy)
    producer = connection.Producer()
    producer.publish(-1, **WAY)
    with ConfirmLater() as sent, gevent.Timeout(SOON):
        proxy.blackhole('up')
        producer.publish(0, retry=True, **WAY)
        proxy.refuse()
        proxy.cut()
        with pytest.raises(PublishUnconfirmed):
            sent.flush(timeout=1)
        producer.publish(1, **WAY)  # it waits for the connection to come back
        with pytest.raises((PublishUnconfirmed, ConnectionLost)):  # as publish() says it
            sent.flush(timeout=0.2)
        with pytest.raises(OperationalError):
            producer.publish(2, retry=True, retry_policy={'max_retries': 0}, **WAY)
        assert len(sent.failures) == 2


def test_an_error_leaves_the_block_within_the_close_timeout(rig, proxy):
    connection = rig.connection(proxy)  # whose close_timeout is 1 s
    producer = connection.Producer()
    producer.publish(-1, **WAY)
    began = time.monotonic()
    with gevent.Timeout(SOON), pytest.raises(KeyError), ConfirmLater() as sent:
        proxy.blackhole('down')
        producer.publish(0, **WAY)
        raise KeyError
    assert len(sent.failures) == 1 and time.monotonic() - began >= 1
    proxy.heal()


def test_the_errors_of_one_message_are_its_own(rig):
    producer = rig.connection().Producer()
    producer.publish(-1, **WAY)
    with pytest.raises(Unroutable), ConfirmLater() as sent:
        producer.publish(0, **WAY)
        producer.publish(1, routing_key='nowhere', mandatory=True)
        producer.publish(2, **WAY)
    assert [each.arguments.routing_key for each in sent.failures] == ['nowhere']
    assert found(rig.control) == [-1, 0, 2]


def test_on_redis(redis_url):
    with Connection(redis_url) as connection:
        producer = connection.Producer()
        with ConfirmLater():
            for number in range(200):
                producer.publish(number, retry=True, **WAY)
        assert found(connection) == list(range(200))
