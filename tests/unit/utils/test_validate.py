import datetime
from decimal import Decimal
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenmq.exceptions import InvalidArgument
from greenmq.utils import validate


@given(st.text())
def test_a_short_string_is_accepted_up_to_255_bytes(text):
    size = len(text.encode())
    if size <= 255:
        assert validate.short_string('key', text) == text
    else:
        with pytest.raises(InvalidArgument, match=f'{size} bytes'):
            validate.short_string('key', text)


@pytest.mark.parametrize('value', [None, b'x', 5, '\udc80'])
def test_what_is_no_short_string(value):
    with pytest.raises(InvalidArgument, match='key'):
        validate.short_string('key', value)


@pytest.mark.parametrize('value', [-1, 11, 1.0, '1', True, None])
def test_whole_numbers(value):
    assert validate.whole_number('n', 10, 0, 10) == 10
    with pytest.raises(InvalidArgument, match='n is'):
        validate.whole_number('n', value, 0, 10)


@given(st.floats(min_value=0, max_value=4_000_000))
def test_expirations_are_whole_milliseconds(seconds):
    assert int(validate.expiration_ms(seconds)) == int(seconds * 1000)


@pytest.mark.parametrize('value', [-0.1, float('inf'), float('nan'), 'soon', None, [], 5_000_000])
def test_what_is_no_expiration(value):
    with pytest.raises(InvalidArgument, match='expiration'):
        validate.expiration_ms(value)


def test_numeric_text_is_a_number_as_in_kombu():
    assert validate.expiration_ms('1.5') == '1500'


def test_headers_hold_what_a_field_table_can():
    validate.headers(
        {
            'str': 'x', 'int': 1, 'float': 1.5, 'none': None, 'bytes': b'x', 'bool': True,
            'when': datetime.datetime(2026, 1, 1), 'decimal': Decimal('1.5'), 'uuid': uuid4(),
            'list': [1, ('a', None), {'deep': [b'x']}],
        }
    )  # fmt: skip


def cycle():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    'headers, words',
    [
        ('text', 'headers is of type str'),
        ({1: 'x'}, 'is of type int, a str'),
        ({'x': {'y': object()}}, r"headers\['x'\]\['y'\] is of type object"),
        ({'x': {1, 2}}, 'of type set'),
        ({'k' * 256: 1}, '256 bytes'),
        ({'x': cycle()}, 'nested more than'),
    ],
)
def test_bad_headers_are_named(headers, words):
    with pytest.raises(InvalidArgument, match=words):
        validate.headers(headers)
