"""Compressions: both ways, what kombu wrote, damage, and bombs."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tracemalloc
import zlib
from importlib import util

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from greenmq import compression
from greenmq.compression import (
    compress,
    decompress,
    encoders,
    get_decoder,
    get_encoder,
    register,
)
from greenmq.exceptions import DecodeError, DecompressionLimit, InvalidArgument

NAMES = {
    'gzip': 'application/x-gzip',
    'zlib': 'application/x-gzip',
    'bzip2': 'application/x-bz2',
    'bzip': 'application/x-bz2',
    'lzma': 'application/x-lzma',
    'xz': 'application/x-lzma',
    'brotli': 'application/x-brotli',
    'zstd': 'application/zstd',
    'zstandard': 'application/zstd',
}
TYPES = sorted(set(NAMES.values()))

#: What kombu 5.7 wrote for b'hello' * 10.
RECORDED = {
    'gzip': b'x\x9c\xcbH\xcd\xc9\xc9\xcf \x85\x00\x00\x11j\x14\xc9',
    'bzip2': b'BZh91AY&SY\xfb\x18\xf3\x1d\x00\x00\t\x81\x00\x02D\xa0\x00 \xa5\x00'
    b'\xcd4\xc4\xe4\xd4\xe2x\xbb\x92)\xc2\x84\x87\xd8\xc7\x98\xe8',
    'lzma': b'\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x02\x00!\x01\x16\x00\x00\x00t/\xe5\xa3\xe0\x001\x00'
    b"\x0b]\x004\x19I\xee\x8e\x9a2p\x80\x00\x00\x00\x00pV\x10\x900\xfaQ\xfe\x00\x01'2\xceV\x942\x1f\xb6\xf3}\x01\x00\x00\x00\x00\x04YZ",
}


@pytest.fixture(autouse=True)
def _registered_as_it_was(monkeypatch):
    for name in ('_aliases', '_encoders', '_decoders', '_bounded', '_absent'):
        monkeypatch.setattr(compression, name, dict(getattr(compression, name)))


@pytest.mark.parametrize(('name', 'content_type'), NAMES.items())
def test_both_ways_by_name_and_content_type(name, content_type):
    body, found = compress('é' * 100, name)
    assert found == content_type
    assert len(body) < 200
    assert decompress(body, name) == decompress(body, content_type) == ('é' * 100).encode()
    encode, _ = get_encoder(content_type)
    assert get_decoder(content_type)(encode(b'x')) == b'x'


@pytest.mark.parametrize('name', RECORDED)
def test_reads_and_writes_what_kombu_writes(name):
    assert decompress(RECORDED[name], NAMES[name]) == b'hello' * 10
    assert zlib.compress(b'hello' * 10) == compress(b'hello' * 10, 'gzip')[0]


@pytest.mark.parametrize('content_type', TYPES)
@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=5000))
def test_round_trip(content_type, body):
    assert decompress(compress(body, content_type)[0], content_type) == body


def test_real_gzip_as_other_languages_write_it():
    assert decompress(gzip.compress(b'a') + gzip.compress(b'b'), 'gzip') == b'ab'


@pytest.mark.parametrize('content_type', TYPES)
def test_cut_short_anywhere(content_type):
    whole = compress(bytes(range(256)) * 20, content_type)[0]
    for cut in {0, 1, 2, len(whole) // 2, len(whole) - 2, len(whole) - 1}:
        with pytest.raises(DecodeError, match=content_type):
            decompress(whole[:cut], content_type)


#: What `_collect` does: several streams one after another.
JOINED = ['application/x-gzip', 'application/x-bz2', 'application/x-lzma']


@pytest.mark.parametrize('content_type', JOINED)
def test_streams_that_follow_one_another(content_type):
    parts = [bytes([number]) * 3000 for number in range(50)]
    body = b''.join(compress(part, content_type)[0] for part in parts)
    assert decompress(body, content_type) == b''.join(parts)
    large = compress(bytes(range(256)) * 4096, content_type)[0]
    assert decompress(large + body, content_type) == bytes(range(256)) * 4096 + b''.join(parts)
    with pytest.raises(DecodeError):
        decompress(body + b'behind', content_type)


@pytest.mark.parametrize('content_type', JOINED)
def test_streams_without_end_are_refused(content_type):
    empty = compress(b'', content_type)[0]
    assert decompress(empty * 1000, content_type) == b''
    with pytest.raises(DecodeError, match='more than 1000 streams'):
        decompress(empty * 1001, content_type)


@pytest.mark.parametrize('content_type', JOINED)
def test_what_decoders_are_given_grows_with_the_body(content_type, monkeypatch):
    """Bytes given and given back, for bodies of many streams: twice as many, twice the bytes, and no more."""
    part = compress(bytes(range(256)) * 40, content_type)[0]

    def cost(streams):
        body, counts = part * streams, {'given': 0, 'made': 0}
        original = compression._collect

        def collect(make, body, most, cut):
            def counting():
                counts['made'] += 1
                return Counting(make(), counts)

            return original(counting, body, most, cut)

        with monkeypatch.context() as patch:
            patch.setattr(compression, '_collect', collect)
            decompress(body, content_type)
        assert counts['made'] == streams
        return counts['given'] / streams

    assert cost(900) <= compression._STEP + len(part) >= cost(450)


class Counting:
    def __init__(self, stream, counts):
        self._stream, self._counts = stream, counts

    def decompress(self, data, room):
        self._counts['given'] += len(data)
        return self._stream.decompress(data, room)

    def __getattr__(self, name):
        return getattr(self._stream, name)


@pytest.mark.parametrize('content_type', TYPES)
def test_garbage(content_type):
    with pytest.raises(DecodeError, match='cannot decompress 11 bytes'):
        decompress(b'not at all!', content_type)


@pytest.mark.parametrize('content_type', TYPES)
def test_just_within_and_just_beyond_the_limit(content_type):
    body = compress(b'x' * 1000, content_type)[0]
    assert len(decompress(body, content_type, limit=1000)) == 1000
    assert len(decompress(body, content_type, limit=float('inf'))) == 1000
    for limit in (999, 1, 0):
        with pytest.raises(DecompressionLimit, match=f'{content_type}.*{limit} bytes'):
            decompress(body, content_type, limit=limit)


@pytest.mark.parametrize('content_type', TYPES)
def test_the_limit_that_holds_by_default(content_type, monkeypatch):
    body = compress(b'x' * 1001, content_type)[0]
    assert compression.max_decoded_bytes == 64 * 1024 * 1024
    monkeypatch.setattr(compression, 'max_decoded_bytes', 1000)
    with pytest.raises(DecompressionLimit):
        decompress(body, content_type)
    with pytest.raises(DecompressionLimit):
        get_decoder(content_type)(body)


#: Quick rather than small: making them is most of the test.
BOMBS = {
    'application/x-gzip': lambda b: zlib.compress(b, 1),
    'application/x-bz2': lambda b: bz2.compress(b, 1),
    'application/x-lzma': lambda b: lzma.compress(b, preset=0),
    'application/x-brotli': lambda b: brotli.compress(b, quality=1),
    'application/zstd': lambda b: zstandard.ZstdCompressor(level=1).compress(b),
}


@pytest.mark.parametrize('content_type', TYPES)
def test_a_bomb_is_stopped_while_it_is_small(content_type):
    bomb = BOMBS[content_type](bytes(32 * 1024 * 1024))
    tracemalloc.start()
    try:
        with pytest.raises(DecompressionLimit):
            decompress(bomb, content_type, limit=100_000)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < 6 * 1024 * 1024


def test_a_header_that_asks_for_a_dictionary_of_gigabytes():
    body = bytearray(lzma.compress(b'x' * 100, format=lzma.FORMAT_ALONE))
    body[1:5] = (0xFFFFFFFF).to_bytes(4, 'little')
    with pytest.raises(DecodeError, match='[Mm]emory'):
        decompress(bytes(body), 'lzma')


@pytest.mark.parametrize('name', ['nope', 'bz2', None])
def test_unknown_names_what_is_known(name):
    with pytest.raises(InvalidArgument, match='known are gzip, zlib') as caught:
        compress(b'x', name)
    assert repr(name) in str(caught.value)
    with pytest.raises(DecodeError, match=f'known are gzip.*{name}'):
        decompress(b'x', name)


@pytest.mark.parametrize('name', ['zstd', 'application/zstd'])
def test_a_package_that_is_not_installed(monkeypatch, name):
    for table in ('_aliases', '_encoders', '_decoders', '_bounded'):
        monkeypatch.setattr(compression, table, {})
    monkeypatch.setattr(compression, 'find_spec', lambda module: None)
    compression._register_ours('zstandard', None, None, 'application/zstd', ('zstd',), 'zstd')
    with pytest.raises(InvalidArgument, match=r'greenmq\[zstd\]'):
        compress(b'x', name)
    with pytest.raises(DecodeError, match=r'greenmq\[zstd\]'):
        decompress(b'x', name)


class TestRegister:
    def test_own(self):
        register(lambda b: b[::-1], lambda b: b[::-1], 'application/x-mirror', ['mirror'])
        assert compress(b'ab', 'mirror') == (b'ba', 'application/x-mirror')
        assert decompress(b'ba', 'application/x-mirror') == b'ab'
        assert 'application/x-mirror' in encoders()
        assert get_decoder('mirror')(b'xy') == b'yx'

    def test_own_is_held_to_the_limit_too(self):
        register(bytes, lambda b: b * 1000, 'application/x-grow')
        with pytest.raises(DecompressionLimit):
            decompress(b'ab', 'application/x-grow', limit=1999)
        assert len(decompress(b'ab', 'application/x-grow', limit=2000)) == 2000

    def test_own_errors_become_ours(self):
        def decode(body):
            raise KeyError('inside')

        register(bytes, decode, 'application/x-bad')
        with pytest.raises(DecodeError, match='inside'):
            decompress(b'x', 'application/x-bad')

    def test_in_place_of_one_of_ours(self):
        register(bytes, lambda b: b'mine', 'application/x-gzip')
        assert decompress(b'whatever', 'gzip') == b'mine'


def test_every_type_is_there():
    assert all(util.find_spec(module) for module in ('brotli', 'zstandard'))
    assert sorted(encoders()) == TYPES
