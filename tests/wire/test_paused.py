"""Consumers without a limit whose deliveries are paused while too much waits here, and asked for again."""

from __future__ import annotations

from amqp import spec

from tests.support.amqp_frames import content, method
from tests.wire.conftest import SOON, Doing
from tests.wire.test_cuts import start_consumer, start_second

LIMIT = 20_000  # bytes that wait before a consumer is paused
LARGE = bytes(LIMIT)


def delivery(wire, tag, body=LARGE, consumer='t'):
    return method(wire, spec.Basic.Deliver, 'sLbss', (consumer, tag, False, 'e', 'k')) + content(wire, body)


def flooded(talk):
    """A consumer without acks that was paused: its first message waits, and fills the room."""
    channel, broker = talk(max_waiting_bytes=LIMIT)
    seen = []
    start_consumer(channel, broker, lambda each: seen.append(each.body), no_ack=True)
    broker.write(delivery(1, 1))
    assert broker.recv(spec.Basic.Cancel).read('sb') == ['t', True]
    return channel, broker, seen


def start_another(channel, broker, seen):
    """One more on a channel of its own, paused too with its first message, which has been handled."""
    other = channel.connection.channel()
    starting = Doing(
        other.basic_consume, 'q2', consumer_tag='u', no_ack=True, callback=lambda each: seen.append(each.body)
    )
    wire = broker.open_channel()
    assert broker.recv(spec.Basic.Consume).channel == wire
    broker.write(method(wire, spec.Basic.ConsumeOk, 's', ('u',)) + delivery(wire, 1, b'small', 'u'))
    starting.result()
    assert broker.recv(spec.Basic.Cancel).read('sb') == ['u', True]
    waiting = Doing(channel.connection.drain_events, SOON, channel=other)
    waiting.result()
    assert seen == [b'small']
    return other, wire


def is_asked_again(broker, wire, tag='u'):
    found = broker.recv(spec.Basic.Consume)
    assert (found.channel, found.read('Bss')[2]) == (wire, tag)


def test_one_that_is_paused_by_what_comes_with_the_answer_is_asked_for_again(talk):
    """Given more than there is room for, when the broker closes the channel, and sends with its answer to the
    new basic.consume the next message, then the consumer is paused, and goes on once there is room."""
    channel, broker, seen = flooded(talk)
    broker.close_channel(1, 541, 'INTERNAL_ERROR', (0, 0))
    wire = broker.open_channel()
    assert broker.recv(spec.Basic.Consume).channel == wire
    broker.write(method(wire, spec.Basic.ConsumeOk, 's', ('t',)) + delivery(wire, 1))
    assert broker.recv(spec.Basic.Cancel).read('sb') == ['t', True]
    while len(seen) < 2:
        channel.connection.drain_events(timeout=SOON)
    is_asked_again(broker, wire, 't')
    broker.write(delivery(wire, 2, b'at last'))
    channel.connection.drain_events(timeout=SOON)
    assert seen[-1] == b'at last'


def test_the_end_of_a_consumer_gives_its_room_to_the_others(talk):
    channel, broker, seen = flooded(talk)
    _, wire = start_another(channel, broker, seen)
    channel.basic_cancel('t')
    is_asked_again(broker, wire)


def test_the_end_of_a_channel_gives_its_room_to_the_others(talk):
    channel, broker, seen = flooded(talk)
    _, wire = start_another(channel, broker, seen)
    closing = Doing(channel.close)
    assert broker.recv(spec.Channel.Close).channel == 1
    broker.send(1, spec.Channel.CloseOk)
    closing.result()
    is_asked_again(broker, wire)


def test_it_is_asked_for_once_while_its_channel_is_set_up(talk):
    """Given a paused consumer, and room while another consumer of its channel is being started again, then
    only the setting up asks for it: the broker ends a connection that asks for a tag twice."""
    channel, broker, seen = flooded(talk)
    control = start_second(channel, broker, seen.append, no_ack=True)
    broker.write(delivery(1, 2, b'small', 'u'))
    assert broker.recv(spec.Basic.Cancel).read('sb') == ['u', True]
    broker.close_channel(1, 541, 'INTERNAL_ERROR', (0, 0))
    wire = broker.open_channel()
    assert broker.recv(spec.Basic.Consume).read('Bss')[2] == 't'
    for _ in range(2):
        channel.connection.drain_events(timeout=SOON)  # room again, before u had its turn
    broker.send(wire, spec.Basic.ConsumeOk, 's', ('t',))
    is_asked_again(broker, wire)
    broker.send(wire, spec.Basic.ConsumeOk, 's', ('u',))
    purging = Doing(channel.queue_purge, 'q')
    assert broker.recv().signature == spec.Queue.Purge
    broker.send(control, spec.Queue.PurgeOk, 'l', (0,))
    assert purging.result() == 0
