"""The types: what we write Proton reads as the same, and the reverse; and no bytes hurt."""

import datetime
import struct
import uuid

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from greenmq.exceptions import EncodeError
from greenmq.transport.amqp10.codec import (
    DEPTH,
    Array,
    Described,
    Sized,
    Symbol,
    Timestamp,
    decode,
    encode,
    encode_as,
)
from greenmq.transport.amqp10.errors import Malformed
from tests.support.amqp10_proton import need_proton, proton

pytestmark = pytest.mark.once

QUICK = settings(max_examples=60, deadline=None)

ascii_text = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=300)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2 ** 63), 2 ** 63 - 1), st.floats(allow_nan=False),
    st.text(max_size=300), st.binary(max_size=300), st.uuids(), ascii_text.map(Symbol),
    st.integers(-(2 ** 60), 2 ** 60).map(Timestamp),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(st.text(max_size=20), ascii_text.map(Symbol)), inner, max_size=5),
        # Proton's get_object loses what comes after one that describes another, of its own bytes too.
        st.tuples(st.integers(0, 2 ** 40), inner.filter(lambda value: not isinstance(value, Described)))
        .map(lambda pair: Described(*pair)),
        st.lists(ascii_text.map(Symbol), max_size=5).map(lambda names: Array('symbol', names)),
        st.lists(st.integers(0, 2 ** 32 - 1), max_size=5).map(lambda numbers: Array('uint', numbers)),
    ),
    max_leaves=20,
)


def like_ours(value):
    """What Proton reads, in our types."""
    if isinstance(value, proton.Described):
        return Described(like_ours(value.descriptor), like_ours(value.value))
    if isinstance(value, proton.Array):
        kinds = {proton.Data.SYMBOL: 'symbol', proton.Data.UINT: 'uint', proton.Data.NULL: 'null'}
        return Array(kinds[value.type], [like_ours(each) for each in value.elements])
    if isinstance(value, proton.symbol):
        return Symbol(value)
    if isinstance(value, proton.timestamp):
        return Timestamp(value)
    if isinstance(value, proton.char):
        return str(value)
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, dict):
        return {like_ours(key): like_ours(each) for key, each in value.items()}
    if isinstance(value, list):
        return [like_ours(each) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value


def like_theirs(value):
    """What we were given, in Proton's types."""
    if isinstance(value, Described):
        return proton.Described(proton.ulong(value.descriptor), like_theirs(value.value))
    if isinstance(value, Array):
        kind = {'symbol': proton.Data.SYMBOL, 'uint': proton.Data.UINT}[value.type]
        make = {'symbol': proton.symbol, 'uint': proton.uint}[value.type]
        return proton.Array(proton.UNDESCRIBED, kind, *map(make, value.values))
    if isinstance(value, Symbol):
        return proton.symbol(value)
    if isinstance(value, Timestamp):
        return proton.timestamp(value)
    if isinstance(value, dict):
        return {like_theirs(key): like_theirs(each) for key, each in value.items()}
    if isinstance(value, list):
        return [like_theirs(each) for each in value]
    return value


def typed(value):
    """So that 1, True and 1.0 are told apart, and a Symbol from a str."""
    if isinstance(value, (list, Array)):
        inner = value.values if isinstance(value, Array) else value
        return (type(value), [typed(each) for each in inner])
    if isinstance(value, Described):
        return (Described, typed(value.descriptor), typed(value.value))
    if isinstance(value, dict):
        return (dict, {(type(key), key): typed(each) for key, each in value.items()})
    return (type(value), value)


@given(values)
@example([Described(0, Described(0, None)), None])
@QUICK
def test_what_is_written_is_read_as_it_was(value):
    data = encode(value)
    found, end = decode(data)
    assert end == len(data)
    assert typed(found) == typed(value)


@given(values)
@QUICK
def test_proton_reads_what_we_write(value):
    need_proton()
    data = encode(value)
    theirs = proton.Data()
    assert theirs.decode(data) == len(data)
    theirs.rewind()
    theirs.next()
    assert typed(like_ours(theirs.get_object())) == typed(value)


@given(values)
@QUICK
def test_we_read_what_proton_writes(value):
    need_proton()
    theirs = proton.Data()
    theirs.put_object(like_theirs(value))
    data = theirs.encode()
    found, end = decode(data)
    assert end == len(data)
    assert typed(found) == typed(value)


@given(values)
@settings(max_examples=20, deadline=None)
def test_a_value_that_is_cut_short_is_none(value):
    data = encode(value)
    for cut in range(len(data)):
        with pytest.raises(Malformed):
            decode(data[:cut])


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
@example(b'\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40')
@example(b'\xd0\x00\x00\x00\x04\xff\xff\xff\xff')
@example(b'\xb0\xff\xff\xff\xffx')
@example(b'\x00' * 100)
@example(b'\xc1\x04\x02\x45\x45\x40')
@example(b'\x73\xff\xff\xff\xff')
@example(b'\xe0\x02\x00\x00')
def test_no_bytes_do_more_than_to_be_refused(data):
    try:
        decode(data)
    except Malformed as error:
        assert len(str(error)) < 200


def test_values_nest_so_deep_and_no_deeper():
    deep = encode('x')
    for _ in range(DEPTH + 1):
        deep = b'\xc0' + bytes((len(deep) + 1, 1)) + deep
    with pytest.raises(Malformed, match='nest'):
        decode(deep)
    value = []
    for _ in range(DEPTH + 2):
        value = [value]
    with pytest.raises(EncodeError, match='nest'):
        encode(value)


def test_an_array_of_nothing_is_short():
    # Given four billion nulls in ten bytes; then they are refused before any is made
    with pytest.raises(Malformed, match='4294967295 values'):
        decode(b'\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40')


@pytest.mark.parametrize('kind, value, data', [
    ('uint', 0, b'\x43'), ('uint', 255, b'\x52\xff'), ('uint', 256, b'\x70\0\0\1\0'),
    ('ulong', 0, b'\x44'), ('ulong', 2 ** 64 - 1, b'\x80' + b'\xff' * 8), ('boolean', True, b'\x41'),
    ('int', -1, b'\x54\xff'), ('int', 128, b'\x71\0\0\0\x80'), ('long', -1, b'\x55\xff'),
    ('symbol', 'a', b'\xa3\x01a'), ('binary', b'\x01', b'\xa0\x01\x01'), ('string', None, b'@'),
    ('timestamp', 1, b'\x83' + struct.pack('>q', 1)), ('ubyte', 7, b'\x50\x07'), ('ushort', 7, b'\x60\0\x07'),
    ('char', 'ä', b'\x73\0\0\0\xe4'),
])
def test_numbers_take_the_shortest_form(kind, value, data):
    assert encode_as(kind, value) == data
    assert encode(Sized(kind, value)) == data


@pytest.mark.parametrize('value', [2 ** 64, -(2 ** 63) - 1, object(), {1, 2}, '\ud800', Sized('ubyte', 256),
                                   Sized('uint', -1), Sized('symbol', 'ä')], ids=repr)
def test_what_amqp_has_no_type_for_is_refused_before_anything_is_sent(value):
    with pytest.raises(EncodeError):
        encode(value)


def test_moments_and_uuids_go_both_ways():
    moment = datetime.datetime(2024, 2, 29, 12, 30, 15, 250000, tzinfo=datetime.timezone.utc)
    assert decode(encode(moment))[0].moment() == moment
    name = uuid.uuid4()
    assert decode(encode(name))[0] == name
    with pytest.raises(OverflowError):
        Timestamp(2 ** 62).moment()
