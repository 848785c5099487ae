"""Heartbeats go by themselves, and a stall of our own is not the broker's death (P10–P13)."""
from __future__ import annotations

import logging
import time

import gevent
import pytest

from greenmq import Connection, Consumer
from greenmq.exceptions import ConnectionLost
from greenmq.lag import watch_lag
from tests.faults.conftest import SOAK, SOON, Consuming, outcome, queue, wait_open
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.green_timeout(400 if SOAK else 60)]

HEARTBEAT = 1
#: Long enough for a broker to hang up on a client that says nothing (after 2 to 3 heartbeats).
LONG = 60 if SOAK else 4


def burn(seconds):
    """Compute, and let nobody else run."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def missed(rabbitmq):
    return 'missed heartbeats' in rabbitmq.new_output()


def test_idle_publishing_and_consuming_connections_miss_no_heartbeat(rig, rabbitmq):
    rabbitmq.new_output()
    facts = rig.facts('lost')
    idle, publishing, consuming, busy = (rig.connection(heartbeat=HEARTBEAT) for _ in range(4))
    assert idle.get_heartbeat_interval() == HEARTBEAT
    running, bound = [1], queue('beats')
    consumer = Consuming(rig, consuming, bound)
    slow = queue('slow')
    held = []

    def on_message(body, message):
        gevent.sleep(LONG)  # a callback that takes its time
        message.ack()
        held.append(message.delivery_info['redelivered'])

    with Consumer(busy, [slow], callbacks=[on_message], accept=['json']):
        def publish():
            producer = publishing.Producer()
            producer.publish({'id': 0}, exchange=slow.exchange, routing_key='slow', declare=[slow])
            number = 0
            while running:
                producer.publish({'id': number}, exchange=bound.exchange, routing_key='beats')
                number += 1
                gevent.sleep(0.01)

        publisher = rig.spawn(publish)
        while not held:
            busy.drain_events(timeout=SOON)
    running.clear()
    publisher.get(timeout=SOON)
    assert held == [False]
    assert consumer.seen
    assert all(each.connected for each in (idle, publishing, consuming, busy))
    assert not facts['lost']
    assert not missed(rabbitmq)


def test_the_brokers_proposal_is_taken_and_zero_disables(rig):
    assert rig.connection(heartbeat=None).get_heartbeat_interval() == 60
    assert rig.connection(heartbeat=0).get_heartbeat_interval() == 0


def test_a_stall_that_the_broker_does_not_tolerate_gives_one_error_and_names_the_culprit(rig, caplog):
    connection = rig.connection(heartbeat=HEARTBEAT)
    facts = rig.facts('lost', 'lag')
    watchdog = watch_lag(0.5)
    draining = rig.spawn(outcome, connection.drain_events)
    gevent.sleep(0.1)
    with caplog.at_level(logging.WARNING):
        burn(5)
        end = time.monotonic()
        error, _ = draining.get(timeout=SOON)
        wait_open(connection.connection, 2)
        recovered = time.monotonic()
    watchdog.cancel()
    assert type(error) is ConnectionLost
    assert recovered - end < 2
    assert len(facts.wait('lost')) == 1
    assert 'in burn' in facts.wait('lag')[0]['stack']
    assert 'in burn' in caplog.text


@pytest.mark.parametrize('tls', [False, True])
def test_a_heartbeat_thread_beats_while_we_compute(rig, rabbitmq, certificates, tls):
    rabbitmq.new_output()
    options = {'heartbeat': HEARTBEAT, 'heartbeat_thread': True}
    if tls:
        connection = Connection(rabbitmq.tls_url(rig.vhost), ssl=certificates.client_options(),
                                login_method='PLAIN', heartbeat=HEARTBEAT,
                                transport_options={'heartbeat_thread': True, 'close_timeout': 1.0})
        rig._open.callback(connection.close)
        connection.connect()
    else:
        connection = rig.connection(**options)
    facts = rig.facts('lost')
    # The broker goes on, so we must: what we did not read in these five heartbeats is not its silence.
    burn(5)
    wait_until(lambda: connection.connected, SOON, 'a look at it')
    gevent.sleep(0.1)  # what the kernel holds is read
    assert not facts['lost']
    assert not missed(rabbitmq)
    # Between two beats of the thread, whole messages of any size went over the same stream.
    producer = connection.Producer()
    for _ in range(20):
        producer.publish(b'x' * 300_000, content_type='application/data', routing_key='nowhere')
        burn(0.05)
    assert not facts['lost']


def test_a_frozen_broker_is_noticed_by_its_silence(rig, rabbitmq):
    connection = rig.connection(heartbeat=HEARTBEAT, close_timeout=0.2)
    draining = rig.spawn(outcome, connection.drain_events)
    gevent.sleep(0)
    rabbitmq.pause()
    try:
        error, _ = draining.get(timeout=SOON)
        assert type(error) is ConnectionLost and 'nothing from the broker' in str(error)
    finally:
        rabbitmq.resume()
    wait_open(connection.connection, 2)
