"""connection.blocked and connection.unblocked, with the reason (P18)."""

from __future__ import annotations

import pytest
from amqp import spec

from greenmq import events
from greenmq.exceptions import ConnectionBlocked, ConnectionLost
from tests.support import green
from tests.support.switches import assert_no_switch
from tests.wire.conftest import SOON, Doing
from tests.wire.test_cuts import start_consumer
from tests.wire.test_ends import deliver


def block(channel, broker, reason='low on memory'):
    broker.send(0, spec.Connection.Blocked, 's', (reason,))
    while channel.connection.blocked is None:
        green.idle()


def unblock(broker):
    broker.send(0, spec.Connection.Unblocked)


def test_a_publish_ends_at_its_deadline_with_the_brokers_reason(talk, publishers):
    channel, broker = talk()
    crowd = publishers(channel, broker)
    (sent,), _ = crowd.publish([b'sent before'])
    block(channel, broker)
    with pytest.raises(ConnectionBlocked, match='low on memory') as caught:
        channel.basic_publish(channel.prepare_message(b'x'), '', 'q', timeout=0.02)
    assert caught.value.reason == 'low on memory'
    unblock(broker)
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (1, False))
    assert sent.error() is None
    (after,), found = crowd.publish([b'after'])
    assert found[0].body == b'after', 'what was refused has been sent'
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (2, False))
    assert after.error() is None


def test_waiting_publishes_leave_when_it_is_unblocked(talk, publishers):
    channel, broker = talk()
    crowd = publishers(channel, broker)
    (first,), _ = crowd.publish([b'first'])
    block(channel, broker)
    doing = [
        Doing(channel.basic_publish, channel.prepare_message(b'%d' % number), '', 'q') for number in range(20)
    ]
    with assert_no_switch():
        future = channel.basic_publish_nowait(channel.prepare_message(b'nowait'), '', 'q')
    green.idle()
    assert not any(each.done for each in doing) and not future.done()
    unblock(broker)
    bodies = {broker.recv(spec.Basic.Publish).body for _ in range(21)}
    assert bodies == {b'nowait', *(b'%d' % number for number in range(20))}
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (22, True))
    assert [each.error() for each in [first, *doing]] == [None] * 21
    assert future.result(SOON) is None


def test_all_that_does_not_wait_ends_in_its_own_time(talk):
    """And not each in the time that begins when the one before it has ended: the last of a thousand would be
    answered after hours."""
    channel, broker = talk(publish_timeout=0.3)
    block(channel, broker)
    futures = [channel.basic_publish_nowait(channel.prepare_message(b'x'), '', 'q') for _ in range(20)]
    broker.open_confirms()
    with green.Timeout(SOON):
        assert all(isinstance(each.exception(), ConnectionBlocked) for each in futures)


def test_acks_and_calls_go_on(talk):
    channel, broker = talk()
    seen = []
    start_consumer(channel, broker, seen.append)
    block(channel, broker)
    deliver(broker, 1, 1)
    channel.connection.drain_events(timeout=SOON)
    channel.basic_ack(seen[0].delivery_tag)
    assert broker.recv(spec.Basic.Ack).read('Lb') == [1, False]
    calling = Doing(channel.queue_purge, 'q')
    control = broker.open_channel()
    broker.recv(spec.Queue.Purge)
    broker.send(control, spec.Queue.PurgeOk, 'l', (0,))
    assert calling.result() == 0


def test_events_tell_both(talk):
    channel, broker = talk()
    told = []
    subscriptions = [
        events.subscribe(name, lambda event, name=name: told.append((name, event.facts.get('reason'))))
        for name in ('blocked', 'unblocked')
    ]
    block(channel, broker, '')
    unblock(broker)
    with green.Timeout(SOON):
        while len(told) < 2:
            green.idle()
    assert told == [('blocked', 'no reason given'), ('unblocked', None)]
    for each in subscriptions:
        each.cancel()


def test_the_options_on_blocked_and_on_unblocked_are_called_in_a_task_that_may_wait(talk):
    told = []

    def note(*arguments):
        green.idle()
        told.append(arguments)

    channel, broker = talk(on_blocked=note, on_unblocked=note)
    block(channel, broker)
    unblock(broker)
    with green.Timeout(SOON):
        while len(told) < 2:
            green.idle()
    assert told == [('low on memory',), ()]


def test_the_loss_of_a_blocked_connection_is_the_end_of_it(talk, publishers):
    """Whoever stopped its producers when it was blocked starts them again: the next link knows of nothing."""
    told = []
    channel, broker = talk(on_blocked=told.append, on_unblocked=lambda: told.append(None))
    block(channel, broker)
    broker.reset()
    with green.Timeout(SOON):
        while len(told) < 2:
            green.idle()
    assert told == ['low on memory', None]
    assert channel.connection.blocked is None


def test_a_broker_that_falls_silent_while_it_blocks_is_lost(talk):
    """One that blocks reads nothing, and beats all the same: who waits for its deliveries must not wait for
    ever on a host that is gone."""
    channel, broker = talk({'heartbeat': 1}, heartbeat=1)
    block(channel, broker)
    draining = Doing(channel.connection.drain_events)
    error = draining.error(5)
    assert isinstance(error, ConnectionLost) and 'nothing from the broker' in str(error)


def test_closing_a_blocked_connection_tells_nobody(talk):
    told = []
    channel, broker = talk(on_unblocked=lambda: told.append(None))
    block(channel, broker)
    connection = channel.connection
    closing = Doing(connection.close)
    broker.recv(spec.Connection.Close)
    broker.send(0, spec.Connection.CloseOk)
    closing.result()
    green.idle()
    assert told == []
