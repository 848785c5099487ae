"""Conversions between text and bytes."""

from __future__ import annotations

import codecs
import sys

import pytest

from greenmq.utils import encoding
from greenmq.utils.encoding import TEXT_ENCODINGS, text_encoding


@pytest.mark.parametrize('convert', [encoding.str_to_bytes, encoding.ensure_bytes])
def test_to_bytes(convert):
    assert convert('é') == b'\xc3\xa9'
    assert convert(b'\xff') == b'\xff'
    assert convert(None) is None
    assert convert(3) == 3
    with pytest.raises(UnicodeEncodeError):
        convert('\ud800')


def test_to_text():
    assert encoding.bytes_to_str(b'\xc3\xa9\xff') == 'é\ufffd'
    assert encoding.bytes_to_str('é') == 'é'
    assert encoding.bytes_to_str(None) is None


@pytest.mark.parametrize('convert', [encoding.from_utf8, encoding.default_encode])
def test_nothing_to_convert(convert):
    assert convert('é') == 'é'


def test_safe_str():
    assert encoding.safe_str('é') == 'é'
    assert encoding.safe_str(b'\xff') == '\ufffd'
    assert encoding.safe_str(b'\xff', errors='ignore') == ''
    assert encoding.safe_str(3) == '3'


class Hostile:
    def __repr__(self):
        raise KeyError('no repr')


class HostileError(Exception):
    def __str__(self):
        raise ValueError

    __repr__ = __str__


class VeryHostile:
    def __repr__(self):
        raise HostileError


def test_safe_repr_never_fails():
    text = encoding.safe_repr(Hostile())
    assert 'Hostile' in text
    assert "KeyError: 'no repr'" in text
    assert 'HostileError' in encoding.safe_str(VeryHostile())


def test_default_encoding(monkeypatch):
    class File:
        encoding = 'latin-1'

    assert encoding.default_encoding() == sys.getfilesystemencoding()
    assert encoding.default_encoding(File) == 'latin-1'
    monkeypatch.setattr(encoding, 'default_encoding_file', None)
    encoding.set_default_encoding_file(File)
    assert encoding.get_default_encoding_file() is File
    assert encoding.default_encoding() == 'latin-1'


@pytest.mark.parametrize(('name', 'codec'), [
    ('utf-8', 'utf_8'), ('UTF8', 'utf_8'), ('utf_8', 'utf_8'), ('US-ASCII', 'ascii'),
    ('ISO-8859-1', 'latin_1'), ('latin1', 'latin_1'), ('iso-8859-15', 'iso8859_15'),
    ('windows-1252', 'cp1252'), ('UTF-16LE', 'utf_16_le'), ('utf-32', 'utf_32'), ('koi8-r', 'koi8_r'),
    ('Shift_JIS', 'shift_jis'),
    ('gb18030', 'gb18030'),
])  # fmt: skip
def test_encodings_of_text_by_any_name(name, codec):
    assert text_encoding(name) == codec
    assert 'a'.encode(name) == 'a'.encode(codec)


@pytest.mark.parametrize(
    'name',
    [
        'punycode', 'idna', 'utf-7', 'zip', 'zlib', 'hex', 'base64', 'rot13', 'unicode_escape',
        'raw_unicode_escape', 'undefined', 'mbcs', 'a\0b', '../x', '', 'x' * 10_000,
        None, 5, b'utf-8', ['utf-8'],
    ],
)  # fmt: skip
def test_no_other_codec_is_for_text(name):
    import encodings

    before = dict(encodings._cache)
    with pytest.raises(LookupError, match='text does not travel as'):
        text_encoding(name)
    assert encodings._cache == before, 'Python remembers what a stranger asked for'


def test_every_encoding_of_text_is_one():
    for name in TEXT_ENCODINGS:
        assert codecs.lookup(name)._is_text_encoding
