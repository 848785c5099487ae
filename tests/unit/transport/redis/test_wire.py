"""Replies: whole, byte by byte, cut anywhere, with what follows; hiredis and the plain parser say the
same.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse, NoScriptError, OutOfMemoryError, ResponseError

from greenmq.transport.redis import wire

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
    return wire.PlainParser()


PARSERS = [pytest.param(plain, id='plain'), pytest.param(wire.make_parser, id='installed')]


def replies(parser):
    return list(iter(parser.gets, wire.MORE))


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
    assert wire.is_push(push) and list(push) == [b'invalidate', [b'q']]
    assert not wire.is_push(reply)


@pytest.mark.parametrize('make', PARSERS)
def test_what_is_no_resp_is_refused(make):
    parser = make()
    parser.feed(b'HTTP/1.1 400 Bad Request\r\n')
    with pytest.raises(InvalidResponse):
        parser.gets()


def test_commands_are_packed_the_same_with_and_without_hiredis():
    command = ('LPUSH', 'grün', b'\x00\xff', 7, 1.5)
    expected = b'*5\r\n$5\r\nLPUSH\r\n$5\r\ngr\xc3\xbcn\r\n$2\r\n\x00\xff\r\n$1\r\n7\r\n$3\r\n1.5\r\n'
    assert wire._pack(command) == wire.pack(command) == expected
    assert wire.pack_many([command, ('PING',)]) == expected + b'*1\r\n$4\r\nPING\r\n'
