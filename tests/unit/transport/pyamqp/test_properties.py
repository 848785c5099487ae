"""Field tables: what comes back, what is refused before it leaves, and what a stranger may have written."""

from __future__ import annotations

import datetime
import struct
import uuid
from decimal import Decimal

import pytest
from amqp.serialization import dumps, loads
from hypothesis import given, settings
from hypothesis import strategies as st

from greenmq.exceptions import DecodeError, InvalidArgument
from greenmq.transport.pyamqp import methods
from greenmq.transport.pyamqp.properties import (
    MAX_DEPTH,
    decode_properties,
    encode_properties,
    encode_table,
    short_string,
)

pytestmark = pytest.mark.once

HEADERS = 1 << 13


def read(table):
    """The headers whose bytes these are."""
    return decode_properties(HEADERS.to_bytes(2, 'big') + table, 0)['application_headers']


def field(kind, raw):
    body = b'\x01k' + kind.encode() + raw
    return len(body).to_bytes(4, 'big') + body


def nested(depth, kind=b'F'):
    inner = b''
    for _ in range(depth):
        inner = (b'\x01a' if kind == b'F' else b'') + kind + struct.pack('>I', len(inner)) + inner
    if kind != b'F':
        inner = b'\x01a' + inner
    return struct.pack('>I', len(inner)) + inner


PLAIN = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False)
)  # fmt: skip
NAMES = st.text(max_size=20)
TABLES = st.dictionaries(
    NAMES,
    st.recursive(
        PLAIN, lambda deeper: st.lists(deeper, max_size=4) | st.dictionaries(NAMES, deeper, max_size=4)
    ),
    max_size=6,
)


@settings(deadline=None)
@given(TABLES)
def test_what_is_written_is_read_here_and_by_py_amqp(table):
    raw = encode_table('headers', table)
    assert read(raw) == table
    assert loads('F', raw, 0)[0] == [table]


@settings(deadline=None)
@given(TABLES)
def test_what_py_amqp_writes_is_read(table):
    assert read(dumps('F', [table])) == table


def test_values_that_come_back_as_another_type():
    some = uuid.UUID(int=7)
    table = {
        'uuid': some, 'bytes': b'\xff\x00', 'text': b'abc', 'array': bytearray(b'\xff'), 'tuple': (1, 2),
        'view': memoryview(b'\xfe'), 'decimal': Decimal('-1.50'), 'big': Decimal('1E2'),
        'when': datetime.datetime(2026, 1, 2, 3, 4, 5),
    }  # fmt: skip
    assert read(encode_table('headers', table)) == {
        **table, 'uuid': str(some), 'text': 'abc', 'array': b'\xff', 'tuple': [1, 2], 'view': b'\xfe',
        'big': Decimal(100),
    }  # fmt: skip


@pytest.mark.parametrize(
    ('value', 'limit'),
    [
        (float('nan'), 'not finite'),
        (float('inf'), 'not finite'),
        (Decimal('NaN'), 'not finite'),
        (Decimal('sNaN'), 'not finite'),
        (2**63, '64 bits'),
        (-(2**63) - 1, '64 bits'),
        (10**400, '64 bits'),
        (Decimal('12345678901.5'), '32 bits'),
        (Decimal('1e-300'), '32 bits'),
        (datetime.datetime(1969, 12, 31), '1970'),
        (datetime.date(2026, 1, 1), 'type date'),
        (datetime.timedelta(1), 'type timedelta'),
        ('\ud800', 'lone surrogate'),
        (object(), 'type object'),
        ({1, 2}, 'type set'),
        ({'x' * 256: 1}, '256 bytes'),
        ({1: 1}, 'type int'),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_a_table_cannot_hold_is_named_with_its_place(value, limit):
    for table, place in (
        ({'k': value}, "headers['k']"),
        ({'a': {'b': [0, value]}}, "headers['a']['b'][1]"),
    ):
        with pytest.raises(InvalidArgument, match=limit) as caught:
            encode_table('headers', table)
        assert str(caught.value).startswith(place)


@pytest.mark.parametrize('wrong', [['a'], 'text', 5, [('a', 1)]])
def test_a_table_is_a_mapping(wrong):
    with pytest.raises(InvalidArgument, match='^headers is of type'):
        encode_table('headers', wrong)


def test_how_deep_is_the_same_both_ways():
    table = {}
    for _ in range(MAX_DEPTH - 1):
        table = {'a': table}
    assert read(encode_table('headers', table)) == table
    with pytest.raises(InvalidArgument, match='more than 64 deep'):
        encode_table('headers', {'a': table})
    circle = {}
    circle['me'] = circle
    with pytest.raises(InvalidArgument, match='more than 64 deep'):
        encode_table('headers', circle)


#: RabbitMQ's letters (not those of the specification where these differ).
LETTERS = [
    ('b', b'\xff', -1), ('B', b'\xff', 255), ('s', b'\x00\x80', 128), ('s', b'\xff\xfe', -2),
    ('u', b'\xff\xff', 65535), ('U', b'\xff\xfe', -2), ('I', b'\xff\xff\xff\xfe', -2),
    ('i', b'\xff\xff\xff\xfe', 2**32 - 2), ('l', (-1000).to_bytes(8, 'big', signed=True), -1000),
    ('L', (-1000).to_bytes(8, 'big', signed=True), -1000), ('f', struct.pack('>f', 0.5), 0.5),
    ('d', struct.pack('>d', 0.1), 0.1), ('t', b'\x01', True), ('V', b'', None),
    ('x', b'\x00\x00\x00\x02ab', b'ab'), ('S', b'\x00\x00\x00\x02ab', 'ab'),
    ('S', b'\x00\x00\x00\x01\xff', b'\xff'), ('D', b'\x02\xff\xff\xff\x6a', Decimal('-1.50')),
    ('A', b'\x00\x00\x00\x04t\x00t\x01', [False, True]),
]  # fmt: skip


@pytest.mark.parametrize(('letter', 'raw', 'value'), LETTERS)
def test_every_type_of_rabbitmq(letter, raw, value):
    found = read(field(letter, raw))['k']
    assert found == value and type(found) is type(value)
    for cut in range(len(raw)):
        if letter != 'V':
            with pytest.raises(DecodeError):
                read(field(letter, raw[:cut]))


BAD = {
    'a time beyond all years': field('T', (2**63).to_bytes(8, 'big')),
    'a time beyond the platform': field('T', (2**62).to_bytes(8, 'big')),
    'a thousand tables': nested(1000),
    'a thousand lists': nested(1000, b'A'),
    'no such type': field('!', b''),
    'a name that is no text': b'\x00\x00\x00\x04\x02\xff\xfeV',
    'a length beyond the end': b'\x00\x00\x00\xff\x01kV',
    'a string beyond the end': field('S', b'\xff\xff\xff\xff'),
    'an array of 4 GB': field('A', b'\xff\xff\xff\xffV'),
}


@pytest.mark.parametrize('raw', BAD.values(), ids=BAD.keys())
def test_what_a_stranger_wrote_is_an_error_of_decode(raw):
    with pytest.raises(DecodeError, match='properties of the message cannot be read') as caught:
        read(raw)
    assert len(str(caught.value)) < 300
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize(
    'bit', [0x8000, 0x4000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010, 0x0008, 0x0004]
)
def test_a_property_that_is_no_text(bit):
    with pytest.raises(DecodeError):
        decode_properties(bit.to_bytes(2, 'big') + b'\x02\xff\xfe', 0)


@pytest.mark.parametrize(
    'raw', [b'', b'\x80', b'\x00\x01', b'\x00\x02', b'\x80\x00', b'\x80\x00\x05ab', b'\x00\x40\x00']
)
def test_properties_that_are_cut_short_or_have_flags_that_nobody_knows(raw):
    with pytest.raises(DecodeError):
        decode_properties(raw, 0)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('correlation_id', 'x' * 300), ('correlation_id', '\ud800'), ('reply_to', b'\xff'),
        ('message_id', '€' * 86),
        ('priority', 256), ('priority', -1), ('priority', 'high'), ('delivery_mode', []),
        ('timestamp', -1), ('timestamp', float('nan')), ('timestamp', 2**64), ('timestamp', 'now'),
        ('application_headers', ['x']),
    ],
)  # fmt: skip
def test_properties_that_cannot_travel(name, value):
    with pytest.raises(InvalidArgument, match='headers' if name == 'application_headers' else name):
        encode_properties({name: value})


def test_short_strings():
    assert short_string('queue', 'é') == b'\x02\xc3\xa9'
    assert short_string('queue', b'') == b'\x00'
    for wrong in (5, ['a'], 'x' * 256, '\ud800', b'\xff'):
        with pytest.raises(InvalidArgument, match='^queue '):
            short_string('queue', wrong)


ALL = [each for each in vars(methods).values() if isinstance(each, methods.Method) and each.arguments]
SAMPLE = {'B': 0, 'l': 7, 'L': 2**40, 's': 'näme', 'b': True, 'F': {'x-match': 'all', 'n': 2**40}}


@pytest.mark.parametrize('method', ALL, ids=lambda method: str(method.signature))
def test_methods_are_encoded_as_py_amqp_does(method):
    assert len(method.names) == len(method.arguments)
    arguments = tuple(SAMPLE[letter] for letter in method.arguments)
    assert methods.encode(method, arguments) == dumps(method.arguments, arguments)
    nothing = tuple(0 if letter in 'BlL' else None for letter in method.arguments)
    assert methods.encode(method, nothing) == dumps(method.arguments, nothing)


def test_an_argument_that_cannot_travel_is_named():
    with pytest.raises(InvalidArgument, match='^queue is 300 bytes long'):
        methods.encode(methods.QUEUE_PURGE, (0, 'a' * 300, False))
    with pytest.raises(InvalidArgument, match=r"^arguments\['a'\] needs more than the 64 bits"):
        methods.encode(methods.QUEUE_DECLARE, (0, 'q', 0, 0, 0, 0, 0, {'a': 2**63}))
    with pytest.raises(InvalidArgument, match='prefetch_count'):
        methods.encode(methods.BASIC_QOS, (0, 65536, False))


def test_equal_values_of_two_types_are_two_properties():
    for value in (1, True, 1.0):
        assert str(value).encode() in encode_properties({'type': value})
