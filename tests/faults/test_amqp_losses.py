"""Whoever waits for a connection that fails learns so at once, by one typed error each (P14, P17, P38)."""
from __future__ import annotations

import time

import pytest

from greenmq.exceptions import ConnectionClosed, ConnectionLost, PublishUnconfirmed
from tests.faults.conftest import SOON, outcome, wait_open
from tests.support import green
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults]

WAITERS = 10
#: Seconds of our own work from the first waiter's end to the last one's: one stretch of code wakes them all.
TOGETHER = 0.2

#: What happens, and the heartbeat by which it is noticed (0: it is seen at once).
FAULTS = {
    'cut': (lambda proxy: proxy.cut(), 0),
    'fin': (lambda proxy: proxy.fin('down'), 0),
    'cut in a frame': (lambda proxy: proxy.half(3, 'down', 'cut'), 2),
    'fin in a frame': (lambda proxy: proxy.half(3, 'down', 'fin'), 2),
    'half a frame': (lambda proxy: proxy.half(3, 'down', 'stall'), 1),
    'blackhole down': (lambda proxy: proxy.blackhole('down'), 1),
    # Here it is the broker that misses our heartbeats, and hangs up.
    'blackhole up': (lambda proxy: None, 1),
}


@pytest.fixture(params=FAULTS)
def fault(request):
    return FAULTS[request.param]


def stuck(rig, proxy, connection):
    """Greenlets that wait for the broker in every way there is: by what they wait for."""
    producer = connection.Producer()
    producer.publish({'id': 0}, routing_key='nowhere')

    def declare(number):
        connection.channel().queue_declare(f'stuck-{number}')

    def publish(number):
        producer.publish({'id': number}, routing_key='nowhere', timeout=2 * SOON)

    def drain(number):
        connection.drain_events(timeout=2 * SOON)

    link = connection.connection.link
    # Nothing that is said from here on gets an answer, so all of them wait when the fault comes.
    proxy.blackhole('up')
    sent = link.bytes_out
    def told(action, number):
        return outcome(action, number)[0], time.process_time()  # a busy machine may hold us up meanwhile

    waiting = {action.__name__: [rig.spawn(told, action, number) for number in range(WAITERS)]
               for action in (declare, publish, drain)}
    wait_until(lambda: link.out_bytes == 0 and link.bytes_out > sent, SOON, 'the calls to be sent')
    return waiting


def test_all_who_wait_learn_of_the_same_loss_in_the_same_moment(rig, proxy, fault):
    strike, heartbeat = fault
    connection = rig.connection(proxy, heartbeat=heartbeat)
    lost = rig.facts('lost')
    waiting = stuck(rig, proxy, connection)
    strike(proxy)
    green.joinall(sum(waiting.values(), []), timeout=SOON, raise_error=True)
    proxy.heal()
    outcomes = {name: [each.value for each in group] for name, group in waiting.items()}
    for error, _ in outcomes['declare'] + outcomes['drain']:
        assert type(error) is ConnectionLost, repr(error)
    for error, _ in outcomes['publish']:
        assert type(error) is PublishUnconfirmed, repr(error)
        assert error.sent == 'unknown'
        assert isinstance(error.__cause__, ConnectionLost)
    ends = [end for group in outcomes.values() for _, end in group]
    assert max(ends) - min(ends) < TOGETHER
    wait_open(connection, 2)
    assert len(lost['lost']) == 1


def test_close_under_a_blackhole_keeps_to_its_time_and_wakes_all(rig, proxy):
    connection = rig.connection(proxy, close_timeout=0.5)
    waiting = stuck(rig, proxy, connection)
    proxy.blackhole('down')
    closing = [rig.spawn(connection.close) for _ in range(20)]
    with green.Timeout(0.5 + 2):
        green.joinall(closing, raise_error=True)
        green.joinall(sum(waiting.values(), []))
    for each in waiting['declare'] + waiting['drain']:
        assert isinstance(each.value[0], ConnectionClosed), repr(each.value[0])
    for each in waiting['publish']:
        error = each.value[0]
        assert isinstance(error, (ConnectionClosed, PublishUnconfirmed)), repr(error)


def test_a_call_that_gets_no_answer_ends_at_its_own_deadline(rig, proxy):
    connection = rig.connection(proxy, operation_timeout=0.3)
    channel = connection.channel()
    channel.open()
    proxy.blackhole('down')
    with pytest.raises(TimeoutError, match='within 0.3 s'):
        channel.queue_declare('late')
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.1)
    with pytest.raises(PublishUnconfirmed) as caught:
        connection.Producer().publish({}, routing_key='nowhere', timeout=0.3)
    assert caught.value.sent == 'no'  # it never got so far: its wire channel could not be opened
    proxy.heal()
    channel.queue_declare('next', exclusive=True)  # behind the answer that nobody waited for


def test_a_publish_on_a_silent_connection_says_what_it_knows(rig, proxy):
    connection = rig.connection(proxy)
    producer = connection.Producer()
    producer.publish({}, routing_key='nowhere')
    proxy.blackhole('down')
    with pytest.raises(PublishUnconfirmed, match='no confirm') as caught:
        producer.publish({}, routing_key='nowhere', timeout=0.3)
    assert caught.value.sent == 'unknown'
    proxy.heal()
    producer.publish({}, routing_key='nowhere', timeout=SOON)


def test_a_peer_that_stops_reading_is_lost_after_the_write_timeout(rig):
    small = rig.proxy(buffer_bytes=4096)
    connection = rig.connection(small, write_timeout=0.5)
    other = rig.connection()
    producer = connection.Producer()
    producer.publish({}, routing_key='nowhere')
    small.blackhole('up')
    error, _ = outcome(producer.publish, b'x' * 30_000_000, content_type='application/data',
                       routing_key='nowhere', timeout=SOON)
    assert isinstance(error, PublishUnconfirmed), repr(error)
    assert 'took nothing for 0.5 s' in str(error.__cause__)
    small.heal()
    other.Producer().publish({}, routing_key='nowhere')  # nobody else was kept
    wait_open(connection, 2)


def test_what_the_broker_closes_says_its_reason(rig, proxy, rabbitmq):
    connection = rig.connection(proxy)
    waiting = rig.spawn(outcome, connection.drain_events)
    rows = [row for row in rabbitmq.list_connections() if row['vhost'] == rig.vhost]
    assert len(rows) == 1
    rabbitmq.close_connection(rows[0]['pid'], 'because of the test')
    error, _ = waiting.get(timeout=SOON)
    assert isinstance(error, connection.recoverable_connection_errors), repr(error)
    assert 'because of the test' in str(error)
    wait_open(connection, 2)


def test_a_slow_way_is_no_loss(rig, proxy):
    connection = rig.connection(proxy, heartbeat=1)
    lost = rig.facts('lost')
    channel = connection.channel()
    channel.queue_declare('slow', exclusive=True)
    proxy.slow(100_000)
    body = b'x' * 250_000  # twice 2.5 s, more than two heartbeats
    connection.Producer().publish(body, content_type='application/data', routing_key='slow', timeout=SOON)
    assert channel.basic_get('slow', no_ack=True).body == body
    assert not lost['lost']
