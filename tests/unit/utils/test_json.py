"""JSON with more types. What kombu 5.7 wrote is recorded here: both libraries must read each other."""

from __future__ import annotations

import json as stdlib
import subprocess
import sys
import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenmq.utils import json
from greenmq.utils.functional import lazy

pytestmark = pytest.mark.once

#: (value, what kombu writes for it).
RECORDED = [
    (
        datetime(2020, 1, 2, 3, 4, 5, 6),
        '{"__type__": "datetime", "__value__": "2020-01-02T03:04:05.000006"}',
    ),
    (
        datetime(2020, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        '{"__type__": "datetime", "__value__": "2020-01-02T03:04:05+00:00"}',
    ),
    (
        datetime(2020, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2))),
        '{"__type__": "datetime", "__value__": "2020-01-02T03:04:05+02:00"}',
    ),
    (date(2020, 1, 2), '{"__type__": "date", "__value__": "2020-01-02"}'),
    (time(1, 2, 3, 4), '{"__type__": "time", "__value__": "01:02:03.000004"}'),
    (time(1, 2), '{"__type__": "time", "__value__": "01:02:00"}'),
    (Decimal('1.10'), '{"__type__": "decimal", "__value__": "1.10"}'),
    (
        uuid.UUID('09642017-28e8-4ad9-80c9-e869506b43a9'),
        '{"__type__": "uuid", "__value__": {"hex": "0964201728e84ad980c9e869506b43a9"}}',
    ),
    (b'abc', '{"__type__": "bytes", "__value__": "abc"}'),
    (b'\xff\x00', '{"__type__": "base64", "__value__": "/wA="}'),
    ('é', '"\\u00e9"'),
    ({'a': 1, 'b': [None, True, 1.5]}, '{"a": 1, "b": [null, true, 1.5]}'),
]


@pytest.mark.parametrize(('value', 'text'), RECORDED)
def test_writes_what_kombu_writes(value, text):
    assert json.dumps(value) == text
    assert json.dumps({'deep': [value]}) == f'{{"deep": [{text}]}}'


@pytest.mark.parametrize(('value', 'text'), RECORDED)
@pytest.mark.parametrize(
    'form', [str, str.encode, lambda t: bytearray(t.encode()), lambda t: memoryview(t.encode())]
)
def test_reads_what_kombu_writes(value, text, form):
    read = json.loads(form(text))
    assert read == value
    assert type(read) is type(value)


def test_a_nan_decimal():
    assert json.loads(json.dumps(Decimal('NaN'))).is_nan()


def test_z_means_utc():
    text = '{"__type__": "datetime", "__value__": "2020-01-02T03:04:05Z"}'
    assert json.loads(text) == datetime(2020, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(timezone.utc))
    | st.times()
    | st.uuids()
    | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(values)
def test_round_trip(value):
    text = json.dumps(value)
    assert json.loads(text) == json.loads(text.encode()) == value


@settings(max_examples=40, deadline=None)
@given(values)
def test_the_quick_way_writes_what_the_library_does(value):
    assert json.dumps(value) == stdlib.dumps(value, cls=json.JSONEncoder)


@pytest.mark.parametrize('text', [' [1]', '[1] ', '\n{"a": 1}\t', '"x"', '1', 'NaN', '[1]\r\n'])
def test_the_quick_way_reads_what_the_library_does(text):
    assert repr(json.loads(text)) == repr(stdlib.loads(text))


numbers = st.from_regex(r'\A-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,4})?\Z')
texts = st.one_of(
    values.map(json.dumps),
    values.map(lambda value: stdlib.dumps(value, cls=json.JSONEncoder, ensure_ascii=False)),
    numbers,
    st.lists(numbers).map(lambda parts: '[' + ', '.join(parts) + ']'),
    st.text(alphabet='[]{}:,"\\\\/bfnrtu0123456789aeEINdlsy.+- \t\n\x00\x1f\x7fé€😀', max_size=24),
)


def outcome(read, text):
    try:
        return repr(read(text))
    except Exception as exc:
        return type(exc), str(exc)


@settings(max_examples=600, deadline=None)
@given(texts, st.lists(st.tuples(st.integers(0, 99), st.integers(0, 1), st.binary(max_size=1)), max_size=2))
def test_msgspec_reads_and_refuses_what_the_library_does(text, changes):
    """Whole, and with a byte put in, taken out or exchanged."""
    body = bytearray(text.encode())
    for at, length, new in changes:
        body[at : at + length] = new
    for form in (text, bytes(body)):
        assert outcome(json._decode_by_msgspec, form) == outcome(json._decode, form)


@pytest.mark.parametrize(
    'text', ['"\\ud800"', 'NaN', '[-Infinity]', '1e999', '-0', '-0.0', '18446744073709551616', '[' * 100_000]
)
def test_what_msgspec_may_refuse_is_read_as_the_library_reads_it(text):
    assert outcome(json._decode_by_msgspec, text) == outcome(json._decode, text)


def test_without_msgspec_the_library_reads():
    program = (
        'import sys; sys.modules["msgspec"] = None\n'
        'from greenmq.utils import json\n'
        'assert json.decode is json._decode and json.loads(\'{"a": [1]}\') == {"a": [1]}'
    )
    command = [sys.executable, '-W', 'ignore::DeprecationWarning', '-c', program]
    subprocess.run(command, check=True, timeout=60)


def test_an_escaped_marker_counts():
    assert json.loads('{"\\u005f_type__": "bytes", "__v\\u0061lue__": "x"}') == b'x'


@pytest.mark.parametrize(
    'text',
    [
        '',
        '{"a"',
        '[1] x',
        '\ufeff[1]',
        '{"__type__": "nope", "__value__": 1}',
        '{"__type__": null, "__value__": 1}',
        '{"__type__": ["a"], "__value__": 1}',
        '{"__type__": "datetime", "__value__": "yesterday"}',
        '{"__type__": "decimal", "__value__": "x"}',
        '{"__type__": "uuid", "__value__": {"hex": "zz"}}',
        b'\xff',
        b'"\xc3"',
    ],
)
def test_what_is_wrong_is_a_value_error(text):
    with pytest.raises(ValueError):
        json.loads(text)


def test_an_unknown_marker_is_named():
    with pytest.raises(ValueError, match="'nope'.*datetime"):
        json.loads('{"__type__": "nope", "__value__": 1}')


@pytest.mark.parametrize('value', [None, 3, []])
def test_only_text_and_bytes_are_read(value):
    with pytest.raises(TypeError):
        json.loads(value)


@pytest.mark.parametrize(
    'text',
    ['{"__type__": "date"}', '{"__type__": "date", "__value__": "2020-01-01", "x": 1}', '{"__value__": 1}'],
)
def test_a_mapping_that_only_looks_alike_stays(text):
    assert json.loads(text) == stdlib.loads(text)


@pytest.mark.parametrize('value', [bytearray(b'x\xff'), memoryview(b'x\xff'), bytearray(b'x')])
def test_what_holds_bytes_travels_as_bytes(value):
    assert json.loads(json.dumps(value)) == bytes(value)


@pytest.mark.parametrize('value', [{1, 2}, object(), timedelta(1), {(1,): 2}, {b'a': 1}])
def test_unknown_types(value):
    with pytest.raises(TypeError):
        json.dumps(value)
    with pytest.raises(TypeError):
        json.dumps(value, indent=1)


def test_a_circle_is_told_and_later_calls_work():
    circle = []
    circle.append(circle)
    for _ in range(2):
        with pytest.raises(ValueError, match='[Cc]ircular'):
            json.dumps(circle)
    assert json.dumps([1]) == '[1]'


def test_too_deep():
    with pytest.raises(RecursionError):
        json.loads('[' * 200_000)


def test_keys():
    assert json.dumps({1: 2, None: 3, False: 4}) == '{"1": 2, "null": 3, "false": 4}'


def test_lazy_values_are_computed():
    assert json.dumps({'a': lazy(lambda: [b'x'])}) == '{"a": [{"__type__": "bytes", "__value__": "x"}]}'


def test_own_method():
    class Plain:
        def __json__(self):
            return {'a': date(2020, 1, 1)}

    assert json.dumps(Plain()) == '{"a": {"__type__": "date", "__value__": "2020-01-01"}}'


def test_textual_types(monkeypatch):
    class Text:
        def __str__(self):
            return 'text'

    monkeypatch.setattr(json, 'textual_types', (Text,))
    assert json.dumps([Text()]) == '["text"]'


def test_django_text_without_importing_django(monkeypatch):
    django = ModuleType('django.utils.functional')

    class Promise:
        def __str__(self):
            return 'translated'

    django.Promise = Promise
    monkeypatch.setitem(sys.modules, 'django.utils.functional', django)
    assert json.dumps([Promise()]) == '["translated"]'


def test_options():
    assert json.dumps({'a': 1}, indent=1) == '{\n "a": 1\n}'
    assert json.dumps({'b': 1, 'a': 2}, sort_keys=True) == '{"a": 2, "b": 1}'
    assert json.dumps({'a': 1}, default_kwargs={'indent': 2}, indent=1) == '{\n "a": 1\n}'
    assert json.dumps(b'x', _dumps=lambda s, cls: (s, cls)) == (b'x', json.JSONEncoder)
    assert json.dumps([1], cls=stdlib.JSONEncoder) == '[1]'
    assert json.loads('{"a": 1}', object_hook=lambda o: list(o)) == ['a']
    assert json.loads('[1]', _loads=lambda s, object_hook: (s, object_hook)) == ('[1]', json.object_hook)
    assert json.loads(b'[1]', decode_bytes=False) == [1]


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return self.x == other.x


class NarrowPoint(Point):
    pass


class TestRegisterType:
    @pytest.fixture(autouse=True)
    def _restored(self, monkeypatch):
        monkeypatch.setattr(json, '_encoders', dict(json._encoders))
        monkeypatch.setattr(json, '_decoders', dict(json._decoders))

    def test_both_ways(self):
        json.register_type(Point, 'point', lambda p: {'x': p.x}, lambda d: Point(**d))
        text = json.dumps([Point(date(2020, 1, 1))])
        assert '"__type__": "point"' in text
        assert json.loads(text) == [Point(date(2020, 1, 1))]

    def test_subclasses(self):
        json.register_type(Point, 'point', lambda p: p.x, Point)
        assert json.loads(json.dumps(NarrowPoint(1))) == Point(1)
        json.register_type(NarrowPoint, 'narrow', lambda p: p.x)
        assert json.loads(json.dumps(NarrowPoint(1))) == 1

    def test_without_a_marker(self):
        json.register_type(Point, None, lambda p: p.x)
        assert json.dumps(Point('bare')) == '"bare"'


def test_the_nearest_registered_class_is_taken(monkeypatch):
    class When(datetime):
        pass

    class Sooner(When):
        pass

    monkeypatch.setattr(json, '_encoders', dict(json._encoders))
    monkeypatch.setattr(json, '_decoders', dict(json._decoders))
    json.register_type(When, 'when', lambda value: value.year, lambda year: When(year, 1, 1))
    assert json.loads(json.dumps([Sooner(2020, 1, 1), datetime(2020, 1, 1)])) == [
        When(2020, 1, 1), datetime(2020, 1, 1),
    ]  # fmt: skip
    assert '"when"' in json.dumps(Sooner(2020, 1, 1))
