"""Flipped, lost and made-up bytes: a typed error or a wait, never a hang or memory without end."""

from __future__ import annotations

import contextlib
import random

import pytest
from amqp import spec
from amqp.exceptions import AMQPError, FrameError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenmq.exceptions import ConnectionError, DecodeError, TimeoutError
from tests.support.amqp_frames import content, frame, method
from tests.support.census import rss_bytes
from tests.wire.conftest import EXAMPLES, Doing
from tests.wire.test_cuts import start_consumer

#: For the examples of a soak.
pytestmark = pytest.mark.green_timeout(600)

FRAME_MAX = 4096


def deliveries(count, wire=1):
    for tag in range(1, count + 1):
        arguments = ('t', tag, False, 'e', 'k')
        yield method(wire, spec.Basic.Deliver, 'sLbss', arguments) + content(wire, b'x' * tag)


STREAM = b''.join(deliveries(9)) + b''.join((
    method(1, spec.Basic.Ack, 'Lb', (3, True)),
    method(1, spec.Basic.Cancel, 'sb', ('u', True)),
    method(0, spec.Connection.Blocked, 's', ('memory',)),
    method(0, spec.Connection.Unblocked),
    method(1, spec.Channel.Flow, 'b', (True,)),
    method(1, spec.Basic.Return, 'Bsss', (312, 'NO_ROUTE', '', 'q')) + content(1, b'returned'),
    frame(8, 0, b''),
))  # fmt: skip


def endure(channel, broker, data, portion):
    """Feed the client; it must end with a typed error or wait for more, and hold no more than a frame."""
    connection = channel.connection
    link = connection.link
    with contextlib.suppress(OSError):  # it may have ended the connection at the first bad byte already
        broker.write(data, *range(portion, len(data), portion))
        broker.sock.shutdown(1)
    while link.error is None:
        try:
            connection.drain_events(timeout=2)
        except DecodeError:
            continue  # of a callback that looks at properties that are none
        except (AMQPError, ConnectionError) as exc:
            assert not isinstance(exc, TimeoutError), 'the end of the stream went unnoticed'
    assert 'ended:' not in str(link.error), 'the reader died of it'
    assert link._parser.pending <= FRAME_MAX + 8
    link.stream.abandon()


def started(opened):
    connection, broker = opened({'frame_max': FRAME_MAX})
    channel = connection.channel()
    opening = Doing(channel.open)
    broker.open_channel()
    opening.result()
    start_consumer(channel, broker, lambda delivery: delivery.properties)
    return connection, channel, broker


FUZZ = settings(
    deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(position=st.integers(0, len(STREAM) - 1), bit=st.integers(0, 7), portion=st.integers(20, 4096))
def test_one_flipped_bit(opened, position, bit, portion):
    connection, channel, broker = started(opened)
    data = bytearray(STREAM)
    data[position] ^= 1 << bit
    endure(channel, broker, bytes(data), portion)


@FUZZ
@given(start=st.integers(0, len(STREAM) - 1), length=st.integers(1, 40), put=st.binary(max_size=40))
def test_bytes_lost_and_others_put_in_their_place(opened, start, length, put):
    connection, channel, broker = started(opened)
    endure(channel, broker, STREAM[:start] + put + STREAM[start + length :], 300)


@FUZZ
@given(noise=st.binary(min_size=1, max_size=300))
def test_noise(opened, noise):
    connection, channel, broker = started(opened)
    endure(channel, broker, STREAM + noise, 1000)


@FUZZ
@given(
    signature=st.sampled_from([
        spec.Basic.Deliver, spec.Basic.Return, spec.Basic.GetOk, spec.Basic.Ack, spec.Basic.Nack,
        spec.Basic.Cancel, spec.Channel.Close, spec.Channel.Flow, spec.Channel.CloseOk, spec.Queue.DeclareOk,
        spec.Connection.Close, spec.Connection.Blocked, spec.Connection.Unblocked, (10, 71), (77, 7),
    ]),
    channel_id=st.sampled_from([0, 1, 5]),
    payload=st.binary(max_size=12),
    properties=st.binary(max_size=8),
)  # fmt: skip
def test_methods_with_arguments_that_are_none(opened, signature, channel_id, payload, properties):
    """The frame is sound, what is in it is not."""
    connection, channel, broker = started(opened)
    data = frame(1, channel_id, bytes((0, signature[0], 0, signature[1])) + payload)
    data += content(channel_id, b'x', properties)
    endure(channel, broker, data, 1000)


def test_random_megabytes(opened):
    rng = random.Random(3)
    for _ in range(5):
        connection, channel, broker = started(opened)
        broker.guard = 10
        with contextlib.suppress(OSError):
            broker.write(rng.randbytes(1 << 20))
        with pytest.raises((AMQPError, ConnectionError)):
            while True:
                connection.drain_events(timeout=2)


def test_a_frame_over_frame_max_is_refused_at_its_head(opened):
    connection, channel, broker = started(opened)
    link = connection.connection.link
    broker.write(b'\x03\x00\x01' + (FRAME_MAX - 7).to_bytes(4, 'big') + b'x')
    with pytest.raises(FrameError, match='4089 bytes, at most 4088'):
        connection.drain_events(timeout=2)
    assert link._parser.pending == 8


def test_empty_body_frames_without_end_cost_nothing(opened):
    connection, channel, broker = started(opened)
    broker.guard = 10
    broker.write(
        method(1, spec.Basic.Deliver, 'sLbss', ('t', 1, False, 'e', 'k'))
        + frame(2, 1, b'\x00\x3c\x00\x00' + (2).to_bytes(8, 'big') + b'\x00\x00')
    )
    before = rss_bytes()
    for _ in range(40):
        broker.write(frame(3, 1, b'') * 16_384)
    broker.write(frame(3, 1, b'xx'))
    connection.drain_events(timeout=5)
    assert rss_bytes() - before < 16 << 20
