"""Replies: whole, byte by byte, cut anywhere, with what follows; hiredis reads the same. What is too long,
too deep or damaged ends the parser in time and at once; each byte is looked at once, which is counted.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis._parsers.base import BaseParser
from redis.exceptions import InvalidResponse, NoScriptError, OutOfMemoryError, ResponseError

from greenmq.transport.redis import resp

pytestmark = pytest.mark.once

REPLIES = [
    (b'+OK\r\n', b'OK'),
    (b':-42\r\n', -42),
    (b'$5\r\nhe\r\no\r\n', b'he\r\no'),
    (b'$0\r\n\r\n', b''),
    (b'$-1\r\n', None),
    (b'*-1\r\n', None),
    (b'_\r\n', None),
    (b'#t\r\n', True),
    (b'#f\r\n', False),
    (b',1.5\r\n', 1.5),
    (b'*0\r\n', []),
    (b'*3\r\n:1\r\n*1\r\n$1\r\na\r\n$-1\r\n', [1, [b'a'], None]),
    (b'%1\r\n$1\r\nk\r\n:1\r\n', {b'k': 1}),
]


def plain():
    return resp.make_parser()


def installed():
    """hiredis: the measure of what a reply means."""
    hiredis = pytest.importorskip('hiredis')
    return hiredis.Reader(
        protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=resp.MORE
    )


PARSERS = [pytest.param(plain, id='ours'), pytest.param(installed, id='hiredis')]


def replies(parser):
    return list(iter(parser.gets, resp.MORE))


@pytest.mark.parametrize('make', PARSERS)
@pytest.mark.parametrize(('raw', 'value'), REPLIES, ids=lambda value: repr(value)[:20])
def test_a_reply_whole_byte_by_byte_and_with_what_follows(make, raw, value):
    for pieces in ([raw], [raw[n : n + 1] for n in range(len(raw))], [raw + b':7\r\n']):
        parser = make()
        found = []
        for piece in pieces:
            parser.feed(piece)
            found += replies(parser)
        assert found[0] == value
        assert found[1:] == ([7] if pieces == [raw + b':7\r\n'] else [])


@given(st.lists(st.sampled_from(REPLIES), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_cut_anywhere(chosen, data):
    raw = b''.join(each for each, _ in chosen)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    parser, found = plain(), []
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        parser.feed(raw[start:end])
        found += replies(parser)
    assert found == [value for _, value in chosen]


@pytest.mark.parametrize('make', PARSERS)
def test_errors_are_values_of_the_drivers_classes(make):
    parser = make()
    parser.feed(b'-NOSCRIPT No matching script.\r\n-OOM command not allowed\r\n-ERR odd\r\n')
    found = replies(parser)
    assert [type(error) for error in found] == [NoScriptError, OutOfMemoryError, ResponseError]


@pytest.mark.parametrize('make', PARSERS)
def test_a_push_is_told_from_a_reply(make):
    parser = make()
    parser.feed(b'>2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nq\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n')
    push, reply = replies(parser)
    assert type(push) is not list and list(push) == [b'invalidate', [b'q']]
    assert type(reply) is list


@pytest.mark.parametrize('make', PARSERS)
def test_what_is_no_resp_is_refused(make):
    parser = make()
    parser.feed(b'HTTP/1.1 400 Bad Request\r\n')
    with pytest.raises(InvalidResponse):
        parser.gets()


def test_commands_are_packed_the_same_with_and_without_hiredis():
    command = ('LPUSH', 'grün', b'\x00\xff', 7, 1.5)
    expected = b'*5\r\n$5\r\nLPUSH\r\n$5\r\ngr\xc3\xbcn\r\n$2\r\n\x00\xff\r\n$1\r\n7\r\n$3\r\n1.5\r\n'
    assert resp._pack(command) == resp.pack(command) == expected
    assert resp.pack_many([command, ('PING',)]) == expected + b'*1\r\n$4\r\nPING\r\n'


# ---- what a stranger may send


def read(pieces, max_bytes=resp.MAX_BYTES):
    """The replies of some pieces, and why it ended."""
    parser, found = resp.make_parser(max_bytes), []
    for piece in pieces:
        found += parser.take(piece)
    return found, parser.failure


TOO_MUCH = {
    'items': b'*2000000000\r\n:1\r\n',
    'items within': b'*1\r\n*2000000000\r\n',
    'items together': b'*1048000\r\n*1048000\r\n:1\r\n',
    'pairs': b'%1048576\r\n',
    'attributes': b'|1048576\r\n',
    'bytes': b'$9999999999999\r\n',
    'bytes of an error': b'!9999999999999\r\n',
    'digits': b'$' + b'9' * 5000 + b'\r\n',
    'depth': b'*1\r\n' * 33,
    'depth of ten thousands': b'*1\r\n' * 50_000,
    'a line': b'+' + b'a' * 70_000,
    'a line of one megabyte': b'-' + b'a' * 2**20 + b'\r\n',
}
DAMAGED = {
    'no number': b':abc\r\n',
    'nothing': b'\r\n',
    'no size': b'$\r\n',
    'a negative size': b'$-2\r\n',
    'a null of no kind': b'%-1\r\n',
    'a bulk that goes on': b'$1\r\nabc\r\n',
    'a push within': b'*1\r\n>1\r\n:1\r\n',
    'a key that is a list': b'%1\r\n*0\r\n:1\r\n',
    'a wrong truth': b'#x\r\n',
    'a null with text': b'_x\r\n',
    'a number of other digits': ':\u0660'.encode() + b'\r\n',
    'too many digits': b':' + b'9' * 5000 + b'\r\n',
    'a double': b',one\r\n',
    'HTTP': b'HTTP/1.1 400\r\n',
    'TLS': b'\x15\x03\x01\r\n',
    'a number beyond 64 bits': b':' + b'9' * 400 + b'\r\n',
    'a big number beyond them': b'(-' + b'1' * 23 + b'\r\n',
    'a stream': b'$?\r\n',
    'no unicode': b'\xff\xfe\r\n',
}


@pytest.mark.parametrize('raw', [*TOO_MUCH.values(), *DAMAGED.values()], ids=[*TOO_MUCH, *DAMAGED])
@pytest.mark.parametrize('cut', [0, 1, 7])
def test_what_is_too_much_or_damaged_ends_it_and_keeps_what_came_before(raw, cut):
    whole = b'+before\r\n' + raw
    pieces = [whole[at : at + cut] for at in range(0, len(whole), cut)] if cut else [whole]
    found, failure = read(pieces)
    assert found == [b'before']
    assert isinstance(failure, InvalidResponse) and len(str(failure)) < 200
    parser = plain()
    parser.feed(whole + b'+behind\r\n')
    assert parser.gets() == b'before'
    for _ in range(2):
        with pytest.raises(InvalidResponse):
            parser.gets()


def test_the_limit_of_a_bulk_and_of_a_whole_reply():
    assert read([b'$10\r\n0123456789\r\n'], 10) == ([b'0123456789'], None)
    found, failure = read([b'$11\r\n'], 10)
    assert found == [] and 'max_message_bytes is 10' in str(failure)
    many = b'$1000\r\n' + b'a' * 1000 + b'\r\n'
    parser = resp.make_parser(1000)
    parser.take(b'*1000000\r\n')
    for _ in range(resp.MARGIN // len(many) // 50 + 2):
        parser.take(many * 50)
    assert 'a reply of more than' in str(parser.failure)
    # It begins anew with each reply.
    parser = resp.make_parser(1000)
    for _ in range(resp.MARGIN // len(many) // 50 + 2):
        assert len(parser.take(many * 50)) == 50
    assert parser.failure is None


@pytest.mark.parametrize('text', ['MOVED', 'MOVED x', 'ASK 1', 'MOVED 1 2', '', ' ', '\x1b[31m', 'ERR' * 999])
def test_an_error_of_any_text_is_a_value(text):
    for raw in (b'-%b\r\n' % text.encode(), b'!%d\r\n%b\r\n' % (len(text), text.encode())):
        found, failure = read([raw])
        assert failure is None and isinstance(found[0], ResponseError)


def test_attributes_are_passed_over_and_a_set_is_a_list():
    raw = b'*2\r\n|1\r\n+ttl\r\n:1\r\n:5\r\n~2\r\n:1\r\n|0\r\n:2\r\n=6\r\ntxt:ab\r\n(12345678901234567890\r\n'
    for pieces in ([raw], [raw[n : n + 1] for n in range(len(raw))]):
        assert read(pieces) == ([[5, [1, 2]], b'ab', 12345678901234567890], None)


class Counted(bytes):
    """Bytes that count which of them were looked at or copied."""

    looked = copied = 0

    def find(self, what, start=0):
        found = super().find(what, start)
        Counted.looked += (found if found >= 0 else len(self)) - start
        return found

    def __radd__(self, line):
        if isinstance(line, bytearray):
            return NotImplemented  # whole, and once
        Counted.copied += len(line) + len(self)
        return Counted(bytes(line) + bytes(self))

    def __getitem__(self, place):
        found = super().__getitem__(place)
        Counted.copied += len(found) if isinstance(found, bytes) else 1
        return found


def work(raw, piece):
    Counted.looked = Counted.copied = 0
    found, failure = read([Counted(raw[at : at + piece]) for at in range(0, len(raw), piece)])
    assert len(found) == 1 and failure is None
    return Counted.looked + Counted.copied


SHAPES = {
    'one long bulk': lambda n: b'*2\r\n:1\r\n$%d\r\n%b\r\n' % (n, b'a' * n),
    'many bulks': lambda n: b'*%d\r\n' % (n // 100) + b'$90\r\n%b\r\n' % (b'a' * 90) * (n // 100),
    'many numbers': lambda n: b'*%d\r\n' % (n // 10) + b':1234567\r\n' * (n // 10),
    'lists in a list': lambda n: b'*%d\r\n' % (n // 20) + b'*2\r\n:12345\r\n+abc\r\n' * (n // 20),
    'an error': lambda n: b'!%d\r\n%b\r\n' % (n, b'a' * n),
}


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize('piece', [1, 400, 65536])
def test_each_byte_is_looked_at_a_few_times_however_long_the_reply_is(shape, piece):
    size = 20_000 if piece == 1 else 400_000
    once, thrice = work(shape(size), piece), work(shape(3 * size), piece)
    assert once <= 8 * len(shape(size))
    assert thrice <= 3.5 * once  # not nine times
