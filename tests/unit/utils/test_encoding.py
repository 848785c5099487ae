"""Conversions between text and bytes."""

from __future__ import annotations

import sys

import pytest

from greenmq.utils import encoding


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
