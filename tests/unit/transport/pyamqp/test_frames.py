"""Frames out and in: whole, byte by byte, cut anywhere, and broken on purpose."""

from __future__ import annotations

import datetime
import tracemalloc

import pytest
from amqp import spec
from amqp.basic_message import Message
from amqp.exceptions import AMQPError, FrameError, FrameSyntaxError, UnexpectedFrame
from amqp.serialization import dumps
from hypothesis import given, settings
from hypothesis import strategies as st

from greenmq.exceptions import DecodeError
from greenmq.transport.pyamqp import frames, properties

pytestmark = pytest.mark.once

FRAME_MAX = 4096
PROPERTIES = properties.encode_properties({'content_type': 'text/plain', 'delivery_mode': 2})


class Recorder:
    """A sink that notes what came."""

    def __init__(self):
        self.seen = []

    def on_method(self, channel_id, signature, payload):
        self.seen.append((channel_id, signature, payload[4:]))

    def on_content(self, channel_id, content):
        self.seen.append((channel_id, content.signature, content.header[12:], content.body))


def delivery(channel_id, body, frame_max=FRAME_MAX, properties=PROPERTIES):
    arguments = dumps('sLbss', ('tag', 7, False, 'exchange', 'key'))
    return frames.method_frame(channel_id, frames.DELIVER, arguments) + frames.content_frames(
        channel_id, properties, body, frame_max
    )


def feed(portions, frame_max=FRAME_MAX, **options):
    parser, sink = frames.Parser(frame_max, **options), Recorder()
    for portion in portions:
        parser.feed(portion, sink)
    return parser, sink.seen


def pieces(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


STREAM = (
    frames.method_frame(0, (10, 30), b'\x07\xff\x00\x02\x00\x00\x00\x3c')
    + frames.HEARTBEAT
    + delivery(1, b'')
    + delivery(1, b'one')
    + delivery(2, b'x' * 10_000)
    + frames.method_frame(3, (60, 80), b'\x00' * 8 + b'\x01')
    + delivery(1, b'last')
)


@pytest.mark.parametrize('size', [1, 2, 7, 8, 9, 63, 4096, len(STREAM)])
def test_any_portions_give_the_same_events(size):
    parser, seen = feed(pieces(STREAM, size))
    assert seen == feed([STREAM])[1]
    delivered = [event[-1] for event in seen if event[1] == frames.DELIVER]
    assert delivered == [b'', b'one', b'x' * 10_000, b'last']
    assert parser.pending == 0


def test_every_cut_leaves_the_rest_waiting():
    whole = feed([STREAM])[1]
    for cut in range(len(STREAM)):
        parser, sink = frames.Parser(FRAME_MAX), Recorder()
        parser.feed(STREAM[:cut], sink)
        parser.feed(STREAM[cut:], sink)
        assert sink.seen == whole, cut


@pytest.mark.parametrize('tag', [1, 2**63])
@pytest.mark.parametrize('multiple', [False, True])
def test_an_ack_is_the_frame_of_its_method(tag, multiple):
    frame = frames.method_frame(7, spec.Basic.Ack, dumps('Lb', (tag, multiple)))
    assert frames.ack_frame(7, tag, multiple) == frame


def test_channels_interleave_between_frames_but_not_a_channel_with_itself():
    first, second = delivery(1, b'a' * 5000), delivery(2, b'b')
    head = len(frames.method_frame(1, frames.DELIVER, dumps('sLbss', ('tag', 7, False, 'exchange', 'key'))))
    _, seen = feed([first[:head] + second + first[head:]])
    assert [(event[0], event[-1]) for event in seen] == [(2, b'b'), (1, b'a' * 5000)]
    with pytest.raises(UnexpectedFrame, match='middle of a message'):
        feed([first[:head] + delivery(1, b'b')])


@pytest.mark.parametrize(
    ('sent', 'error'),
    [
        (b'\x07\x00\x01\x00\x00\x00\x00\xce', UnexpectedFrame),
        (b'i\x00\x01\x00\x00\x00\x00\xce', UnexpectedFrame),
        (frames.HEARTBEAT[:-1] + b'\x69', FrameError),
        (b'\x01\x00\x01\x00\x00\x00\x02\x00\x3c\xce', FrameSyntaxError),
        (frames.content_frames(1, b'\x00\x00', b'body', FRAME_MAX), UnexpectedFrame),
        (b'\x03\x00\x01\x00\x00\x00\x01x\xce', UnexpectedFrame),
    ],
)
def test_what_the_protocol_forbids_is_a_typed_error(sent, error):
    with pytest.raises(error):
        feed([sent])
    with pytest.raises(error):
        feed(pieces(sent, 1))


def test_a_frame_over_the_negotiated_size_is_refused_before_it_is_buffered():
    parser, sink = frames.Parser(FRAME_MAX), Recorder()
    with pytest.raises(FrameError, match='4089 bytes, at most 4088'):
        parser.feed(b'\x03\x00\x01' + (FRAME_MAX - 7).to_bytes(4, 'big') + b'x', sink)
    assert feed([delivery(1, b'x' * (FRAME_MAX - 8))])[1][0][-1] == b'x' * (FRAME_MAX - 8)


def test_a_message_over_the_limit_is_refused_at_its_header():
    with pytest.raises(FrameError, match='message of 11 bytes, at most 10'):
        feed(pieces(delivery(1, b'x' * 11), 5), max_body=10)
    with pytest.raises(FrameError, match='message of 11 bytes, at most 10'):
        feed([delivery(1, b'x' * 11)], max_body=10)
    assert feed([delivery(1, b'x' * 10)], max_body=10)[1][0][-1] == b'x' * 10


def test_more_body_than_announced_is_refused():
    sent = bytearray(delivery(1, b'four'))
    position = sent.index(b'\x00\x3c\x00\x00' + (4).to_bytes(8, 'big'))
    sent[position + 4 : position + 12] = (3).to_bytes(8, 'big')
    with pytest.raises(UnexpectedFrame, match='more than the header announced'):
        feed([bytes(sent)])


@settings(deadline=None, max_examples=150)
@given(
    bodies=st.lists(st.binary(max_size=9000), max_size=6), cuts=st.lists(st.integers(1, 5000), max_size=12)
)
def test_bodies_of_any_size_survive_any_cuts(bodies, cuts):
    data = b''.join(delivery(number % 3 + 1, body) for number, body in enumerate(bodies))
    portions, rest = [], data
    for cut in cuts:
        portions.append(rest[:cut])
        rest = rest[cut:]
    _, seen = feed([*portions, rest])
    assert [event[-1] for event in seen] == bodies


def test_large_frames_keep_to_their_borders_whatever_the_reads():
    bodies = [b'a' * 60_000, b'b' * 5_000, b'', b'c' * 3_000]
    data = b''.join(delivery(number + 1, body, 131072) for number, body in enumerate(bodies))
    for size in (1, 100, 1999, 2049, 65536):
        parser, seen = feed(pieces(data, size), 131072)
        assert [event[-1] for event in seen] == bodies and parser.pending == 0
    damaged = bytearray(data)
    damaged[data.index(b'a\xce') + 1] = 0
    for size in (1, 1999, len(data)):
        with pytest.raises(FrameError, match='ends with 0x00'):
            feed(pieces(bytes(damaged), size), 131072)


def test_a_large_frame_on_its_way_counts_and_small_pieces_are_joined():
    parser, sink = frames.Parser(131072), Recorder()
    sent = delivery(1, b'x' * 100_000, 131072)
    for piece in pieces(sent[:-2], 1):
        parser.feed(piece, sink)
    assert parser.pending == 100_000 + 6
    assert len(parser._gathered.view) <= 100_000 + 1024 * 1024
    parser.forget(1)  # its channel is closed: the rest of the frame is nobody's
    parser.feed(sent[-2:] + delivery(2, b'next'), sink)
    assert [event[-1] for event in sink.seen] == [b'next'] and parser.pending == 0


def receive(parser, sink, data, sizes):
    """As a link does: what the parser wants somewhere is put there, a read of each of the sizes in turns.

    Returns the number of reads, and how many bytes they brought at places that the parser gave.
    """
    position = reads = placed = 0
    while position < len(data):
        size = sizes[reads % len(sizes)]
        places = parser.wanted()
        if places is None:
            parser.feed(data[position : position + size], sink)
            came = min(size, len(data) - position)
        else:
            came = 0
            for place in places:
                part = data[position + came : position + min(size, came + len(place))]
                place[: len(part)] = part
                came += len(part)
            assert came, 'a read without room: it would seem to be the end'
            parser.filled(came, sink)
            placed += came
        position += came
        reads += 1
    return reads, placed


@pytest.fixture(autouse=True, scope='module')
def smaller_bodies_too():
    """Those of some ten kilobytes are read to where they belong as well: so many cuts of them cost less."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, 'DIRECT_BYTES', 32 * 1024)
        yield


def test_bodies_are_put_in_place_whatever_the_reads_and_whoever_interleaves():
    def pattern(size):
        return bytes(range(251)) * (size // 251 + 1)

    first, second = delivery(1, pattern(90_000)), delivery(2, pattern(70_000))
    between = first.index(b'\xce\x03\x00\x01', 40_000) + 1  # where a frame ends
    data = first[:between] + second + first[between:] + delivery(3, pattern(50_000), 3000)
    data += delivery(1, b'small') + delivery(2, pattern(200_000)) + frames.HEARTBEAT
    whole, in_place = feed([data])[1], 0
    assert len(whole) == 5
    for sizes in ([65536], [9000, 1 << 20], [1], [4096], [4095, 1, 8], [7, 100_000], [33_000, 9], [8, 4088]):
        parser, sink = frames.Parser(FRAME_MAX), Recorder()
        _, placed = receive(parser, sink, data, sizes)
        assert sink.seen == whole and parser.pending == 0, sizes
        in_place += placed
    assert in_place > 1_000_000


def test_every_cut_of_what_is_put_in_place():
    data = delivery(1, bytes(range(256)) * 200) + delivery(2, b'next')
    whole = feed([data])[1]
    for cut in range(1, len(data), 3):
        parser, sink = frames.Parser(FRAME_MAX), Recorder()
        receive(parser, sink, data, [6000, cut, 1, 1, 1 << 20])
        assert sink.seen == whole and parser.pending == 0, cut


@settings(deadline=None, max_examples=150)
@given(
    sizes=st.lists(st.integers(0, 120_000), max_size=5),
    reads=st.lists(st.integers(1, 70_000), min_size=1, max_size=8),
    frame_max=st.sampled_from([4096, 5000, 131072]),
)
def test_large_bodies_survive_any_reads(sizes, reads, frame_max):
    bodies = [bytes([number]) * size for number, size in enumerate(sizes)]
    data = b''.join(delivery(1, body, frame_max) for body in bodies)
    parser, sink = frames.Parser(131072), Recorder()
    receive(parser, sink, data, reads)
    assert [event[-1] for event in sink.seen] == bodies and parser.pending == 0


def test_a_damaged_frame_is_noticed_where_it_was_put_in_place():
    data = bytearray(delivery(1, b'a' * 100_000))
    data[data.index(b'a\xce', 50_000) + 1] = 0
    for size in (1000, 4096, 1 << 20):
        with pytest.raises(FrameError, match='ends with 0x00'):
            receive(frames.Parser(FRAME_MAX), Recorder(), bytes(data), [size])


def test_a_channel_closed_in_the_middle_of_a_body_takes_its_rest_with_it():
    parser, sink = frames.Parser(131072), Recorder()
    sent = delivery(1, b'x' * 100_000, 131072)
    receive(parser, sink, sent[:50_000], [4096])
    parser.wanted()  # a reader waits
    parser.forget(1)
    parser.filled(0, sink)
    receive(parser, sink, sent[50_000:] + delivery(2, b'next'), [1 << 20])
    assert [event[-1] for event in sink.seen] == [b'next'] and parser.pending == 0


def test_a_megabyte_that_is_there_takes_two_reads():
    body = bytes(1_000_000)
    data = delivery(1, body, 131072) * 3
    sink = Recorder()
    reads, placed = receive(frames.Parser(131072), sink, data, [65536] + [1 << 21] * 10)
    assert [event[-1] for event in sink.seen] == [body] * 3
    # The first ones bring a beginning; what follows comes with the heads that it needs.
    assert reads <= 4 and placed > 2_900_000


def peak_bytes(work):
    """The most memory that work allocated and held at once, without what was there before."""
    tracemalloc.start()
    try:
        kept = work()
        return tracemalloc.get_traced_memory()[1], kept
    finally:
        tracemalloc.stop()


def test_a_body_that_is_announced_and_does_not_come_costs_no_memory():
    size = frames.MAX_BODY_BYTES
    frame = frames.method_frame(1, frames.DELIVER, dumps('sLbss', ('tag', 7, False, 'exchange', 'key')))
    frame += frames.content_frames(1, PROPERTIES, b'', FRAME_MAX)
    header = frame.replace(bytes(8) + PROPERTIES, size.to_bytes(8, 'big') + PROPERTIES)
    assert header != frame

    def announce(parser, channel_id, more):
        own = channel_id.to_bytes(2, 'big')
        parts = header.split(b'\xce')[:-1]
        parser.feed(b''.join(part[:1] + own + part[3:] + b'\xce' for part in parts) + more(own), Recorder())
        parser.wanted()
        return parser

    def nothing(own):
        return b''

    def a_beginning(own):
        return b'\x03' + own + (131064).to_bytes(4, 'big') + b'x' * 100 if own[1] == 1 else b''

    def small_frames(own):
        return (b'\x03' + own + (100).to_bytes(4, 'big') + b'x' * 100 + b'\xce') * 2

    def on_many(more):
        parser = frames.Parser(131072)
        for channel_id in range(200, 0, -1):
            announce(parser, channel_id, more)
        return parser

    assert peak_bytes(lambda: on_many(nothing))[0] < 500_000
    assert peak_bytes(lambda: on_many(a_beginning))[0] < 2_000_000
    # Each has a little room, as long as all of them have not got much.
    assert peak_bytes(lambda: on_many(small_frames))[0] < frames.SPARE_BYTES + 6_000_000


@pytest.mark.parametrize(('size', 'most'), [(900_000, 1.35), (20_000_000, 2)])
def test_a_body_is_put_together_without_a_second_one(size, most):
    # A larger one grows on the way: what has come is copied then, and a third of it at most all in all.
    data = delivery(1, bytes(size), 131072)
    sink = Recorder()
    peak, _ = peak_bytes(lambda: receive(frames.Parser(131072), sink, data, [65536]))
    assert len(sink.seen[0][-1]) == size
    assert peak < most * size + 200_000


def test_a_part_of_a_large_body_is_nothing_that_anybody_hears_of():
    parser, sink = frames.Parser(4096), Recorder()
    body = bytes(range(256)) * 40
    counts = [parser.feed(piece, sink) for piece in pieces(delivery(1, body), 3000)]
    assert counts == [2, 0, 0, 1] and [event[-1] for event in sink.seen] == [body]


@pytest.mark.parametrize('size', [0, 1, 4087, 4088, 4089, 20_000])
def test_the_pieces_of_a_message_are_its_frames(size):
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    parts = frames.content_parts(3, PROPERTIES, body, FRAME_MAX)
    method = frames.method_frame(3, frames.DELIVER, dumps('sLbss', ('tag', 7, False, 'exchange', 'key')))
    ((_, _, _, found),) = feed([method + b''.join(parts)])[1]
    assert found == body and b''.join(parts) == frames.content_frames(3, PROPERTIES, body, FRAME_MAX)
    assert all(parts), 'an empty piece'


@settings(deadline=None, max_examples=300)
@given(
    position=st.integers(0, len(STREAM) - 1),
    replacement=st.binary(max_size=6),
    size=st.integers(1, 4096),
    removed=st.integers(0, 12),
)
def test_broken_bytes_end_in_a_typed_error_or_a_wait(position, replacement, size, removed):
    broken = STREAM[:position] + replacement + STREAM[position + removed :]
    parser, sink = frames.Parser(FRAME_MAX), Recorder()
    try:
        for portion in pieces(broken, size):
            parser.feed(portion, sink)
    except AMQPError:
        return
    assert parser.pending <= FRAME_MAX


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=400))
def test_noise_ends_in_a_typed_error_or_a_wait(data):
    try:
        parser, _ = feed(pieces(data, 3))
    except AMQPError:
        return
    assert parser.pending <= FRAME_MAX


VALUES = {
    'content_type': 'application/json',
    'content_encoding': 'utf-8',
    'delivery_mode': 2,
    'priority': 9,
    'correlation_id': 'c' * 255,
    'reply_to': 'r',
    'expiration': '1000',
    'message_id': 'm',
    'timestamp': 1767312000,
    'type': 't',
    'user_id': 'guest',
    'app_id': 'a',
    'application_headers': {'n': 1, 'deep': {'list': [1, 'two', None]}},
}


@settings(deadline=None)
@given(names=st.sets(st.sampled_from(sorted(VALUES))))
def test_properties_are_encoded_as_py_amqp_does(names):
    chosen = {name: VALUES[name] for name in VALUES if name in names}
    assert properties.encode_properties(chosen) == Message('', **chosen)._serialize_properties()
    assert properties.encode_properties(chosen) == properties.encode_properties(chosen)
    assert properties.decode_properties(b'\x00' * 12 + properties.encode_properties(chosen)) == chosen


def test_a_timestamp_may_be_a_datetime():
    moment = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    encode = properties.encode_properties
    assert encode({'timestamp': moment}) == encode({'timestamp': 1767312000})


def test_decoded_properties_belong_to_the_caller():
    header = b'\x00' * 12 + PROPERTIES
    properties.decode_properties(header)['content_type'] = 'changed'
    assert properties.decode_properties(header)['content_type'] == 'text/plain'


def test_a_property_over_255_bytes_names_itself():
    with pytest.raises(ValueError, match='correlation_id is 300 bytes long, at most 255'):
        properties.encode_properties({'correlation_id': 'x' * 300})


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=60))
def test_undecodable_properties_are_the_messages_fault_and_arguments_the_peers(data):
    for call, fault in (
        (lambda: properties.decode_properties(b'\x00' * 12 + data), DecodeError),
        (lambda: frames.read_arguments('sLbssF', data, 0), FrameSyntaxError),
    ):
        try:
            call()
        except fault:
            continue
