"""When acks leave: together while more deliveries wait for their callbacks, else at once."""

from __future__ import annotations

import pytest
from amqp import spec

from greenmq.transport.pyamqp import frames
from tests.support import green
from tests.wire.conftest import SOON, Doing
from tests.wire.test_cuts import start_consumer
from tests.wire.test_noise import deliveries


@pytest.fixture
def patient(monkeypatch):
    """What may wait for company waits for ever."""
    monkeypatch.setattr('greenmq.transport.outbox.HOLD_SECONDS', 3600.0)


@pytest.fixture
def ten(talk):
    """Ten messages are delivered on a channel: gives what acks the next one, and the broker's side."""
    channel, broker = talk()
    seen = []
    start_consumer(channel, broker, seen.append)
    broker.write(b''.join(deliveries(10)))

    def ack():
        channel.connection.drain_events(timeout=SOON)
        channel.basic_ack(seen[-1].delivery_tag)
        green.idle()  # the writer could have had its turn

    ack.channel = channel
    return ack, broker


def test_the_acks_of_half_of_what_is_here_leave_as_one(patient, ten):
    ack, broker = ten
    for _ in range(5):
        ack()
    assert broker.recv(spec.Basic.Ack).read('Lb') == [5, True]


def test_the_last_ack_leaves_at_once_with_those_before_it(patient, ten):
    ack, broker = ten
    for _ in range(10):
        ack()
    told = 0
    while told < 10:
        told, multiple = broker.recv(spec.Basic.Ack).read('Lb')
    assert told == 10


def test_the_ack_of_what_alone_is_out_is_queued_with_the_call(patient, talk):
    channel, broker = talk()
    seen = []
    start_consumer(channel, broker, seen.append)
    broker.write(b''.join(deliveries(1)))
    channel.connection.drain_events(timeout=SOON)
    link = channel.consuming.wire.link
    assert link.out_bytes == 0
    channel.basic_ack(seen[-1].delivery_tag)
    assert link.out_bytes == len(frames.ack_frame(1, 1, False))
    assert broker.recv(spec.Basic.Ack).read('Lb') == [1, False]


def test_an_ack_waits_only_a_little(ten):
    ack, broker = ten
    ack()
    assert broker.recv(spec.Basic.Ack).read('Lb') == [1, False]


def test_whatever_is_written_takes_the_acks_along(patient, ten):
    ack, broker = ten
    ack()
    ack()
    ack.channel.basic_reject(3, requeue=False)
    said = [broker.recv(spec.Basic.Reject, spec.Basic.Ack) for _ in range(2)]
    assert {each.signature: each.read('Lb') for each in said} == {
        spec.Basic.Reject: [3, False], spec.Basic.Ack: [2, True],
    }  # fmt: skip


def test_a_method_comes_after_the_acks_that_were_given_before_it(patient, ten):
    ack, broker = ten
    ack()
    closing = Doing(ack.channel.close)
    assert broker.recv(spec.Basic.Ack).read('Lb') == [1, False]
    broker.recv(spec.Channel.Close)
    broker.send(1, spec.Channel.CloseOk)
    assert closing.error() is None


def test_the_acks_come_before_the_goodbye_of_a_connection_that_nobody_uses_any_more(patient, ten):
    ack, broker = ten
    ack()
    ack.channel.connection.link.part()
    assert broker.recv(spec.Basic.Ack).read('Lb') == [1, False]
    broker.recv(spec.Connection.Close)


@pytest.mark.parametrize('up_to', [4, 0])
def test_what_is_refused_together_is_not_acked_with_what_was_acked_before(patient, ten, up_to):
    """Given acks of the second and third delivery that are held back, when all up to the fourth (or all) are
    refused, then the broker hears of these two acks one by one: told as all up to the third, the first
    delivery, which shall go back to its queue, would be lost."""
    ack, broker = ten
    channel = ack.channel
    for _ in range(4):
        channel.connection.drain_events(timeout=SOON)
    channel.basic_ack(2)
    channel.basic_ack(3)
    channel.basic_nack(up_to, multiple=True, requeue=True)
    assert broker.recv(spec.Basic.Ack).read('Lb') == [2, False]
    assert broker.recv(spec.Basic.Ack).read('Lb') == [3, False]
    assert broker.recv(spec.Basic.Nack).read('Lbb') == [up_to, True, True]
