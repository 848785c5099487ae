"""Serializers, what is refused, and what kombu wrote or would read."""

from __future__ import annotations

import pickle
import sys
from datetime import datetime

import pytest

from greenmq import serialization
from greenmq.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    SerializerNotInstalled,
)
from greenmq.serialization import (
    SerializerRegistry,
    disable_insecure_serializers,
    dumps,
    enable_insecure_serializers,
    loads,
    prepare_accept_content,
    registry,
)
from greenmq.utils.encoding import bytes_to_str

pytestmark = pytest.mark.once

PICKLE = 'application/x-python-serialize'
JSON = 'application/json'


@pytest.fixture(autouse=True)
def _registry_as_it_was(monkeypatch):
    registry._load_plugins()
    for name in ('_encoders', '_decoders', 'type_to_name', 'name_to_type', '_disabled_content_types'):
        monkeypatch.setattr(registry, name, type(getattr(registry, name))(getattr(registry, name)))
    for name in ('_default_encode', '_default_content_type', '_default_content_encoding'):
        monkeypatch.setattr(registry, name, getattr(registry, name))


class Strange:
    pass


class TestDumps:
    @pytest.mark.parametrize(
        ('data', 'serializer', 'expected'),
        [
            # What kombu 5.7 writes for the same calls.
            ({'a': 1}, 'json', (JSON, 'utf-8', '{"a": 1}')),
            ({'a': 1}, None, (JSON, 'utf-8', '{"a": 1}')),
            ('é', 'json', (JSON, 'utf-8', '"\\u00e9"')),
            ('é', None, ('text/plain', 'utf-8', b'\xc3\xa9')),
            (b'b', None, ('application/data', 'binary', b'b')),
            ({'a': 1}, 'yaml', ('application/x-yaml', 'utf-8', 'a: 1\n')),
            ({'a': b'b'}, 'msgpack', ('application/x-msgpack', 'binary', b'\x81\xa1a\xc4\x01b')),
            ('é', 'raw', ('application/data', 'utf-8', b'\xc3\xa9')),
            (b'b', 'raw', ('application/data', 'binary', b'b')),
            (memoryview(b'b'), 'raw', ('application/data', 'binary', b'b')),
            (
                {'a': 1},
                'pickle',
                (PICKLE, 'binary', b'\x80\x04\x95\n\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.'),
            ),
        ],
    )
    def test_writes_what_kombu_writes(self, monkeypatch, data, serializer, expected):
        monkeypatch.setattr(serialization, 'pickle_protocol', 4)
        assert dumps(data, serializer) == expected

    @pytest.mark.parametrize('serializer', ['json', 'yaml', 'msgpack', 'raw', None])
    def test_what_it_cannot_encode_names_serializer_and_type(self, serializer):
        with pytest.raises(EncodeError, match=f'{serializer or "json"}.*Strange'):
            dumps(Strange(), serializer)

    @pytest.mark.parametrize('serializer', ['json', 'yaml', 'msgpack'])
    def test_also_deep_inside(self, serializer):
        with pytest.raises(EncodeError, match=f'{serializer} cannot encode this dict'):
            dumps({'deep': [Strange()]}, serializer)

    @pytest.mark.parametrize('serializer', ['json', 'msgpack'])
    def test_a_circle(self, serializer):
        circle = []
        circle.append(circle)
        with pytest.raises(EncodeError, match='list'):
            dumps(circle, serializer)

    @pytest.mark.parametrize('serializer', [None, 'raw', 'msgpack'])
    def test_text_that_is_no_utf8(self, serializer):
        with pytest.raises(EncodeError, match='surrogates'):
            dumps('\ud800', serializer)

    @pytest.mark.parametrize('serializer', ['nope', JSON, 3])
    def test_unknown_names_what_is_known(self, serializer):
        with pytest.raises(
            SerializerNotInstalled, match=f'{serializer}: known are json, msgpack, pickle, yaml'
        ):
            dumps({}, serializer)

    def test_a_package_that_is_not_installed(self, monkeypatch):
        serialization._module.cache_clear()
        monkeypatch.setitem(sys.modules, 'msgpack', None)
        with pytest.raises(SerializerNotInstalled, match=r'greenmq\[msgpack\]'):
            dumps({}, 'msgpack')

    def test_an_error_that_is_no_Exception_passes(self):
        class Kill(BaseException):
            pass

        def encode(obj):
            raise Kill

        registry.register('killing', encode, None, 'application/x-kill')
        with pytest.raises(Kill):
            dumps({}, 'killing')


class TestLoads:
    @pytest.mark.parametrize(
        ('data', 'content_type', 'encoding', 'expected'),
        [
            (b'{"a":1}', JSON, 'utf-8', {'a': 1}),
            ('{"a":1}', JSON, None, {'a': 1}),
            (bytearray(b'[1]'), JSON, 'binary', [1]),
            (memoryview(b'[1]'), JSON, 'utf-8', [1]),
            (b'abc', 'application/data', 'binary', b'abc'),
            (b'abc', 'application/data', 'ASCII-8BIT', b'abc'),
            (b'x', None, None, 'x'),
            (b'\xe9', 'text/plain', 'latin-1', 'é'),
            ('é', 'text/plain', 'utf-8', 'é'),
            (b'x', 'application/x-unheard-of', 'utf-8', 'x'),
            (b'{"a":1}', b'application/json', 'utf-8', {'a': 1}),
            (b'', JSON, 'utf-8', b''),
            (None, JSON, 'utf-8', None),
        ],
    )
    def test_reads(self, data, content_type, encoding, expected):
        assert loads(data, content_type, encoding) == expected

    @pytest.mark.parametrize(
        ('data', 'content_type', 'encoding'),
        [
            (b'{"a"', JSON, 'utf-8'),
            (b'\xff', JSON, 'utf-8'),
            (b'[' * 200_000, JSON, 'utf-8'),
            (3, JSON, 'utf-8'),
            (b'{"__type__": "nope", "__value__": 1}', JSON, 'utf-8'),
            (b'\xff', 'text/plain', 'utf-8'),
            (b'x', 'text/plain', 'no-such-encoding'),
            # A codec that makes gigabytes of a few bytes must not be reached by a header.
            (b'x\x9c\x03\x00\x00\x00\x00\x01', 'text/plain', 'zip'),
            (b'61', 'text/plain', 'hex'),
        ],
    )
    def test_a_bad_body(self, data, content_type, encoding):
        with pytest.raises(DecodeError, match=content_type):
            loads(data, content_type, encoding)

    @pytest.mark.parametrize(
        ('data', 'content_type'),
        [
            (b'a: [', 'application/x-yaml'),
            (b'!!python/object/apply:os.getcwd []', 'application/x-yaml'),
            (b'\x81', 'application/x-msgpack'),
            (b'', 'application/x-msgpack'),
            (b'garbage', PICKLE),
        ],
    )
    def test_a_bad_body_of_an_accepted_type(self, data, content_type):
        enable_insecure_serializers()
        if data:
            with pytest.raises(DecodeError, match=content_type):
                loads(data, content_type, 'binary', accept={content_type})
        else:
            assert loads(data, content_type, 'binary', accept={content_type}) == b''

    @pytest.mark.parametrize('name', ['json', 'yaml', 'msgpack'])
    def test_round_trip(self, name):
        body = {'a': [1, 'é', None, {'b': 1.5}]}
        content_type, encoding, data = dumps(body, name)
        assert loads(data, content_type, encoding, accept={content_type}) == body
        if isinstance(data, str):
            assert loads(data.encode(), content_type, encoding, accept={content_type}) == body

    def test_an_error_that_is_no_Exception_passes(self):
        class Kill(BaseException):
            pass

        def decode(body):
            raise Kill

        registry.register('killing', None, decode, 'application/x-kill')
        with pytest.raises(Kill):
            loads(b'x', 'application/x-kill', 'utf-8')


class TestWhatIsWrittenCanBeRead:
    @pytest.mark.parametrize('encoding', ['latin-1', 'ISO-8859-1', 'utf-16'])
    @pytest.mark.parametrize('name', ['json', 'yaml'])
    def test_text_is_read_in_its_charset(self, name, encoding):
        content_type, text = registry.name_to_type[name], '["é"]'
        assert loads(text.encode(encoding), content_type, encoding, accept={content_type}) == ['é']

    @pytest.mark.parametrize('encoding', ['gzip', 'identity', '8bit', 'zip', None, 'binary', 'UTF8'])
    def test_a_content_encoding_that_is_no_charset_is_not_looked_at(self, encoding):
        assert loads('["é"]'.encode(), JSON, encoding) == ['é']

    def test_what_nobody_calls_text_may_be_bytes(self):
        assert loads(b'\xff', None, None) == b'\xff' and loads(b'a', None, None) == 'a'
        with pytest.raises(DecodeError):
            loads(b'\xff', None, 'utf-8')

    @pytest.mark.parametrize(
        'body', [{1: 'a'}, {None: 1}, {1.5: {True: [1]}}, {(1, (2, 'x')): {b'k': 1}}, {b'a': [{2: 3}]}]
    )
    def test_whatever_may_be_a_key_of_msgpack_comes_back(self, body):
        content_type, encoding, data = dumps(body, 'msgpack')
        assert loads(data, content_type, encoding, accept={content_type}) == body

    def test_yaml_refuses_a_key_that_it_cannot_read(self):
        with pytest.raises(EncodeError):
            dumps({(1, 2): 'a'}, 'yaml')
        content_type, encoding, data = dumps({'q': '? - x ? [a]'}, 'yaml')
        assert loads(data, content_type, encoding, accept={content_type}) == {'q': '? - x ? [a]'}

    @pytest.mark.parametrize(
        'body', [
            {'__type__': 'user', '__value__': 1}, [{'a': ({'__type__': 'bytes', '__value__': 'abc'},)}],
            {'__type__': None, '__value__': 1},
        ],
    )  # fmt: skip
    def test_data_that_look_like_a_marked_value_are_refused(self, body):
        with pytest.raises(EncodeError, match='a mapping of __type__ and __value__'):
            dumps(body)

    @pytest.mark.parametrize(
        'body', [
            ['__type__'], {'__type__': 1}, [b'"__type__"', 2], {'__type__': 1, '__value__': 2, 'more': 3},
            {'"__type__"': [datetime(2020, 1, 2)]},
        ],
    )  # fmt: skip
    def test_data_that_only_speak_of_it_pass(self, body):
        content_type, encoding, data = dumps(body)
        assert loads(data, content_type, encoding) == body


class TestAccept:
    @pytest.mark.parametrize(
        'content_type', ['text/plain', 'application/x-unheard-of', 'json', 'application/jsonx; a=b']
    )
    def test_refuses_the_rest(self, content_type):
        with pytest.raises(ContentDisallowed, match=f'{content_type}.*accepted: application/json'):
            loads(b'x', content_type, 'utf-8', accept={JSON})

    @pytest.mark.parametrize(
        'content_type', ['APPLICATION/JSON', 'application/json; charset=utf-8', ' Application/Json;a=b']
    )
    def test_case_and_parameters_make_no_other_type(self, content_type):
        assert loads(b'[1]', content_type, 'utf-8', accept={JSON}) == [1]
        assert loads(b'[1]', content_type, 'utf-8', accept=prepare_accept_content([content_type])) == [1]
        assert loads(b'[1]', content_type, 'utf-8') == [1]
        registry.disable('json')
        with pytest.raises(ContentDisallowed):
            loads(b'[1]', content_type, 'utf-8')

    @pytest.mark.parametrize('accept', [set(), [], frozenset()])
    def test_nothing_is_accepted(self, accept):
        with pytest.raises(ContentDisallowed, match='accepted: nothing'):
            loads(b'1', JSON, 'utf-8', accept=accept)

    @pytest.mark.parametrize('content_type', [None, 'application/data', 'application/text'])
    def test_what_is_only_text_is_always_accepted(self, content_type):
        assert loads(b'x', content_type, 'utf-8', accept={JSON}) == 'x'

    @pytest.mark.parametrize('name', ['yaml', 'msgpack', 'pickle'])
    def test_off_by_default(self, name):
        content_type, encoding, data = dumps([1], name)
        with pytest.raises(ContentDisallowed, match=f'disabled content of type {name}'):
            loads(data, content_type, encoding)
        assert loads(data, content_type, encoding, force=True) == [1]

    @pytest.mark.parametrize('name', ['yaml', 'msgpack'])
    def test_enabled_for_all(self, name):
        enable_insecure_serializers([name])
        content_type, encoding, data = dumps([1], name)
        assert loads(data, content_type, encoding) == [1]
        disable_insecure_serializers()
        with pytest.raises(ContentDisallowed):
            loads(data, content_type, encoding)

    def test_prepare(self):
        assert prepare_accept_content(None) is None
        assert prepare_accept_content([]) == set()
        assert prepare_accept_content(['json', 'application/x-foo', 'pickle']) == {
            JSON,
            'application/x-foo',
            PICKLE,
        }
        assert prepare_accept_content('json') == {JSON}
        assert prepare_accept_content(['short'], {'short': 'a/b'}) == {'a/b'}
        for table in (None, {}):
            with pytest.raises(SerializerNotInstalled, match='jsno: known are json'):
                prepare_accept_content(['jsno'], table)

    def test_switching_all_off(self):
        disable_insecure_serializers(None)
        with pytest.raises(ContentDisallowed):
            loads(b'1', JSON, 'utf-8')
        disable_insecure_serializers(['json', 'application/x-yaml'])
        assert loads(b'1', JSON, 'utf-8') == loads(b'1', 'application/x-yaml', 'utf-8') == 1

    @pytest.mark.parametrize('switch', [enable_insecure_serializers, disable_insecure_serializers])
    def test_a_name_that_is_not_known(self, switch):
        with pytest.raises(SerializerNotInstalled, match='pikle: known are'):
            switch(['pikle'])


_ran = []


def detonate(how):
    _ran.append(how)


class Malicious:
    def __reduce__(self):
        return detonate, ('reduced',)


class TestPickleNeverRunsUnasked:
    """P41: only the consumer's accept turns it on; no message, no default and no enabling does."""

    BODY = pickle.dumps(Malicious())
    ALIASES = (
        PICKLE,
        PICKLE.encode(),
        PICKLE.upper(),
        f' {PICKLE}',
        f'{PICKLE} ',
        f'{PICKLE};charset=binary',
        'pickle',
        'application/pickle',
        'application/x-pickle',
        'application/python-pickle',
        'application/octet-stream',
        'application/data',
        'application/text',
        'text/plain',
        JSON,
        'application/x-yaml',
        'application/x-msgpack',
        '',
        None,
    )

    @pytest.fixture
    def ran(self):
        _ran.clear()
        return _ran

    def test_it_would_run(self, ran):
        pickle.loads(self.BODY)
        assert ran == ['reduced']

    def attempt(self, content_type, encoding, accept):
        try:
            return loads(self.BODY, content_type, encoding, accept=accept)
        except (ContentDisallowed, DecodeError) as exc:
            return exc

    @pytest.mark.parametrize('encoding', ['binary', 'utf-8', 'pickle', None])
    @pytest.mark.parametrize('content_type', ALIASES)
    def test_not_accepted(self, ran, content_type, encoding):
        for accept in (None, set(), {JSON}, {'application/x-yaml', 'application/x-msgpack', 'pickle'}):
            self.attempt(content_type, encoding, accept)
        assert ran == []

    @pytest.mark.parametrize('encoding', ['binary', 'utf-8', 'pickle', None])
    @pytest.mark.parametrize('content_type', ALIASES)
    def test_accepted_and_not_enabled(self, ran, content_type, encoding):
        # Only what says that it is a pickle (RFC 9110: in any case, with any parameters) is read as one.
        named = bytes_to_str(content_type or '').partition(';')[0].strip().lower() == PICKLE
        for accept in ({PICKLE}, {JSON, PICKLE}):
            self.attempt(content_type, encoding, accept)
            assert ran == ['reduced'] * named
            ran.clear()
        if not named:
            self.attempt(content_type, encoding, {content_type})
            assert ran == []

    @pytest.mark.parametrize('content_type', ALIASES)
    def test_enabled_but_not_accepted(self, ran, content_type):
        enable_insecure_serializers()
        for accept in (None, set(), {JSON}, {'application/x-yaml', 'application/x-msgpack', 'pickle'}):
            self.attempt(content_type, 'binary', accept)
        assert ran == []

    def test_the_refusal_says_what_it_takes(self):
        for accept in (None, {JSON}):
            with pytest.raises(ContentDisallowed, match='only a consumer that names it in `accept` does'):
                loads(self.BODY, PICKLE, 'binary', accept=accept)

    @pytest.mark.parametrize('enabled', [False, True])
    def test_accepted(self, enabled):
        if enabled:
            enable_insecure_serializers(['pickle'])
        else:
            disable_insecure_serializers()
        data = pickle.dumps({'a': 1})
        assert loads(data, PICKLE, 'binary', accept={PICKLE}) == {'a': 1}
        with pytest.raises(ContentDisallowed):
            loads(data, PICKLE, 'binary')


class TestRegistry:
    def test_register_and_unregister(self):
        registry.register('rot', lambda o: o[::-1], lambda s: s[::-1], 'application/x-rot', 'utf-8')
        assert dumps('ab', 'rot') == ('application/x-rot', 'utf-8', 'ba')
        assert loads('ba', 'application/x-rot', 'utf-8') == 'ab'
        registry.unregister('rot')
        with pytest.raises(SerializerNotInstalled):
            dumps('ab', 'rot')
        with pytest.raises(SerializerNotInstalled, match='rot'):
            registry.unregister('rot')
        assert 'application/x-rot' not in registry.type_to_name

    def test_one_without_a_name_does_not_spoil_the_error(self):
        registry.register(None, None, None, 'application/x-none')
        try:
            with pytest.raises(SerializerNotInstalled, match='rot'):
                registry.unregister('rot')
        finally:
            registry.unregister(None)

    def test_one_that_only_reads(self):
        registry.register('reader', None, lambda s: 'read', 'application/x-reader')
        assert loads(b'x', 'application/x-reader', 'utf-8') == 'read'
        with pytest.raises(SerializerNotInstalled):
            dumps('x', 'reader')

    def test_another_default(self):
        registry._set_default_serializer('msgpack')
        assert dumps({'a': 1})[0] == 'application/x-msgpack'
        with pytest.raises(SerializerNotInstalled, match='nope'):
            registry._set_default_serializer('nope')

    def test_no_default(self):
        with pytest.raises(SerializerNotInstalled):
            SerializerRegistry().dumps({})

    def test_celery_reads_the_encoders(self):
        assert registry._encoders['json'].content_type == JSON


class Point:
    """An entry point of an installed package."""

    def __init__(self, name, offered):
        self.name = name
        self.offered = offered

    def load(self):
        if isinstance(self.offered, Exception):
            raise self.offered
        return self.offered


class TestPlugins:
    INSTALLED = {
        'kombu.serializers': [
            Point('broken', ImportError('no such package')),
            Point('old', (str, str, 'application/x-old', 'utf-8')),
        ],
        'greenmq.serializers': [Point('json', (lambda o: 'mine', None, JSON, 'utf-8'))],
    }

    @pytest.fixture
    def asked(self, monkeypatch):
        asked = []

        def entry_points(group):
            asked.append(group)
            return self.INSTALLED[group]

        monkeypatch.setattr('importlib.metadata.entry_points', entry_points)
        return asked

    @pytest.fixture
    def fresh(self, asked):
        fresh = SerializerRegistry()
        fresh.register('json', str, str, JSON)
        fresh._plugins = ('kombu.serializers', 'greenmq.serializers')
        return fresh

    def test_loaded_once_at_the_first_use(self, fresh, asked):
        assert asked == []
        assert fresh.dumps(1, 'old') == ('application/x-old', 'utf-8', '1')
        assert fresh.dumps(1, 'json')[2] == 'mine'
        assert asked == ['kombu.serializers', 'greenmq.serializers']

    def test_off_until_asked_for(self, fresh):
        with pytest.raises(ContentDisallowed):
            fresh.loads(b'x', 'application/x-old', 'utf-8')
        assert fresh.loads('x', 'application/x-old', 'utf-8', accept={'application/x-old'}) == 'x'
        fresh.enable('old')
        assert fresh.loads('x', 'application/x-old', 'utf-8') == 'x'

    def test_one_in_place_of_ours_is_on(self, fresh):
        assert fresh.loads('x', JSON, 'utf-8') == 'x'

    def test_a_broken_one_stops_no_other(self, fresh, caplog):
        assert fresh.dumps(1, 'old')[2] == '1'
        assert "'broken'" in caplog.text
        assert 'no such package' in caplog.text


def test_small_ones():
    assert serialization.parenthesize_alias('a', 'b') == 'a (b)'
    assert serialization.parenthesize_alias('a', 'a') == 'a'
    assert serialization.unpickle(pickle.dumps(2)) == serialization.pickle_loads(pickle.dumps(2)) == 2
    assert serialization.TRUSTED_CONTENT == {'application/data', 'application/text'}
    assert serialization.SKIP_DECODE == {'binary', 'ascii-8bit'}


@pytest.mark.parametrize('encoding', ['punycode', 'idna', 'a\0b', 'hex', 'x' * 1000])
def test_text_in_what_is_no_encoding_of_text_is_an_error_of_decode(encoding):
    with pytest.raises(DecodeError, match='text does not travel as'):
        loads(b'a-b', 'text/plain', encoding)
