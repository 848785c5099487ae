"""Basic properties and field tables: values → bytes, refused before they are sent; bytes → values, or a
`DecodeError` of the one message that they came with.

Written are py-amqp's type letters; read are RabbitMQ's, whatever version of py-amqp is installed.
"""

from __future__ import annotations

import struct
from calendar import timegm
from collections.abc import Mapping
from datetime import datetime, timezone
from decimal import Decimal
from math import isfinite
from typing import Any
from uuid import UUID

from greenmq.exceptions import DecodeError, InvalidArgument
from greenmq.utils.text import printable

__all__ = ['decode_properties', 'encode_properties', 'encode_table', 'short_string']

#: How deep tables and lists may lie in one another, in what is sent and what is read.
MAX_DEPTH = 64

#: The basic properties in the order of their flag bits (section 4.2.6.1 of the specification).
_PROPERTIES: tuple[tuple[str, int, str], ...] = (
    ('content_type', 1 << 15, 's'),
    ('content_encoding', 1 << 14, 's'),
    ('application_headers', 1 << 13, 'F'),
    ('delivery_mode', 1 << 12, 'o'),
    ('priority', 1 << 11, 'o'),
    ('correlation_id', 1 << 10, 's'),
    ('reply_to', 1 << 9, 's'),
    ('expiration', 1 << 8, 's'),
    ('message_id', 1 << 7, 's'),
    ('timestamp', 1 << 6, 'L'),
    ('type', 1 << 5, 's'),
    ('user_id', 1 << 4, 's'),
    ('app_id', 1 << 3, 's'),
    ('cluster_id', 1 << 2, 's'),
)
#: Flag bits that no property has: more flags follow, and one that is reserved.
_NO_PROPERTY = 0b11
#: Properties whose values repeat from message to message: only they make a cache worth its memory.
_REPEATING = frozenset(
    ['content_type', 'content_encoding', 'delivery_mode', 'priority', 'type', 'user_id', 'app_id']
)


# ---------------------------------------------------------------- out

_cache: dict[tuple[Any, ...], bytes] = {}
_int = struct.Struct('>ci')
_long = struct.Struct('>cq')
_double = struct.Struct('>cd')
_decimal = struct.Struct('>cBi')
_time = struct.Struct('>cQ')
_head = struct.Struct('>cI')


class _Refused(Exception):
    # A value that a table cannot hold: where it lies, itself, and what is wrong with it.

    def __init__(self, value: object, limit: str) -> None:
        super().__init__(limit)
        self.path = ''
        self.value = value
        self.limit = limit

    def within(self, name: object) -> _Refused:
        self.path = f'[{printable(repr(name), 40)}]{self.path}'
        return self


def encode_properties(properties: Mapping[str, Any]) -> bytes:
    """The property flags and values of one message; names the protocol does not know are left out.

    Raises:
        InvalidArgument: a value that AMQP, or RabbitMQ, cannot carry.
    """
    if not _REPEATING.issuperset(properties):
        return _encode_properties(properties)
    # With the types: 1 and True are equal, and are not the same property.
    key = (*properties.items(), *map(type, properties.values()))
    try:
        found = _cache.get(key)
    except TypeError:  # a value that is no text and no number
        return _encode_properties(properties)
    if found is None:
        found = _encode_properties(properties)
        if len(_cache) > 1024:  # values that do not repeat after all must not fill the memory
            _cache.clear()
        _cache[key] = found
    return found


def _encode_properties(properties: Mapping[str, Any]) -> bytes:
    flags, parts = 0, [b'']
    for name, bit, kind in _PROPERTIES:
        value = properties.get(name)
        if value is None or (kind == 'F' and not value):
            continue
        flags |= bit
        if kind == 's':
            parts.append(short_string(name, value if isinstance(value, (str, bytes)) else str(value)))
        elif kind == 'F':
            parts.append(encode_table('headers', value))
        elif kind == 'o':
            parts.append(_octet(name, value))
        else:
            parts.append(_seconds(name, value))
    parts[0] = flags.to_bytes(2, 'big')
    return b''.join(parts)


def short_string(what: str, value: Any) -> bytes:
    """A short string with its length: text, or UTF-8 already, of at most 255 bytes.

    Raises:
        InvalidArgument: anything else.
    """
    try:
        raw = value.encode() if isinstance(value, str) else value
        size = len(raw)
        if raw is value:
            str(raw, 'utf-8')
    except UnicodeError:
        raise InvalidArgument(what, value, 'is no text that UTF-8 can encode') from None
    except TypeError:
        raise InvalidArgument(what, value, f'is of type {type(value).__name__}, a str is needed') from None
    if size > 255:
        raise InvalidArgument(what, value, f'is {size} bytes long, at most 255 allowed')
    return bytes((size,)) + raw


def _octet(what: str, value: Any) -> bytes:
    try:
        return bytes((int(value),))
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgument(what, value, 'is no whole number from 0 to 255') from None


def _seconds(what: str, value: Any) -> bytes:
    """Seconds since the epoch, of a number or a datetime."""
    try:
        return int(value.timestamp() if hasattr(value, 'timestamp') else value).to_bytes(8, 'big')
    except (TypeError, ValueError, OverflowError, OSError):
        raise InvalidArgument(
            what, value, 'is neither a datetime nor seconds since 1970, 0 to 2^64 - 1'
        ) from None


def encode_table(what: str, table: Any) -> bytes:
    """A field table with its length.

    Arguments:
        what (str): the argument's name, for the error; the place within the table is added.
        table (Mapping[str, object]): of str, bytes, numbers, datetimes, UUIDs (as text), None, and lists and
            tables of these.
    Raises:
        InvalidArgument: a name or value that AMQP has no room or RabbitMQ no taste for.
    """
    try:
        if not isinstance(table, Mapping):
            raise _Refused(table, f'is of type {type(table).__name__}, a mapping of str is needed')
        return _table(table, 1)
    except _Refused as exc:
        raise InvalidArgument(f'{what}{exc.path}', exc.value, exc.limit) from None
    except RecursionError:  # the caller's own stack is nearly full
        raise InvalidArgument(what, type(table), 'is nested too deep') from None


def _table(table: Mapping[Any, Any], depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise _Refused(type(table), f'is nested more than {MAX_DEPTH} deep')
    parts = [b'']
    for name, value in table.items():
        try:
            parts.append(short_string('the name of a field', name))
            parts.append(_item(value, depth))
        except _Refused as exc:
            raise exc.within(name) from None
        except InvalidArgument as exc:
            raise _Refused(name, f'has a field whose name {exc.limit}') from None
    size = sum(map(len, parts))
    parts[0] = size.to_bytes(4, 'big')
    return b''.join(parts)


def _item(value: Any, depth: int) -> bytes:
    if isinstance(value, str):
        try:
            raw = value.encode()
        except UnicodeEncodeError:
            raise _Refused(value, 'holds a lone surrogate, which UTF-8 cannot encode') from None
        return _head.pack(b'S', len(raw)) + raw
    if value is None:
        return b'V'
    if isinstance(value, bool):
        return b't\x01' if value else b't\x00'
    if isinstance(value, int):
        if -(2**31) < value < 2**31:
            return _int.pack(b'I', value)
        if -(2**63) <= value < 2**63:
            return _long.pack(b'L', value)
        raise _Refused(value, 'needs more than the 64 bits of an integer in AMQP')
    if isinstance(value, float):
        if not isfinite(value):
            raise _Refused(value, 'is not finite: the broker would close the connection over it')
        return _double.pack(b'd', value)
    if isinstance(value, Mapping):
        return b'F' + _table(value, depth + 1)
    if isinstance(value, (list, tuple)):
        return _list(value, depth + 1)
    return _rare(value)


def _list(values: Any, depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise _Refused(type(values), f'is nested more than {MAX_DEPTH} deep')
    parts = []
    for index, value in enumerate(values):
        try:
            parts.append(_item(value, depth))
        except _Refused as exc:
            raise exc.within(index) from None
    body = b''.join(parts)
    return _head.pack(b'A', len(body)) + body


def _rare(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        return _head.pack(b'S', len(raw)) + raw
    if isinstance(value, UUID):
        return _head.pack(b'S', 36) + str(value).encode()
    if isinstance(value, datetime):
        seconds = timegm(value.utctimetuple())
        if seconds < 0:
            raise _Refused(value, 'lies before 1970, where the time of AMQP begins')
        return _time.pack(b'T', seconds)
    if isinstance(value, Decimal):
        return _of_decimal(value)
    raise _Refused(value, f'is of type {type(value).__name__}, which a table of AMQP cannot hold')


def _of_decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise _Refused(value, 'is not finite: the broker would close the connection over it')
    if -255 <= exponent <= 10 and len(digits) <= 10:
        number = int(''.join(map(str, digits))) * 10 ** max(exponent, 0)
        number = -number if sign else number
        if -(2**31) <= number < 2**31:
            return _decimal.pack(b'D', max(-exponent, 0), number)
    raise _Refused(value, 'needs more than the 32 bits and 255 decimal places of AMQP')


# ---------------------------------------------------------------- in

_decoded: dict[bytes, dict[str, Any]] = {}


def decode_properties(payload: bytes, offset: int = 12) -> dict[str, Any]:
    """The properties of a content header frame's payload, in a dict of the caller's own.

    Most messages of a program have the very same property bytes: those without headers or names of one
    message are decoded once.

    Raises:
        DecodeError: the bytes are no property list. The broker passes on what publishers wrote, so this is a
            matter of the one message.
    """
    encoded = payload[offset:]
    found = _decoded.get(encoded)
    if found is not None:
        return found.copy()
    try:
        properties = _decode_properties(encoded)
    except Exception as exc:  # whatever the decoder trips over, it is this message that is bad
        what = f'{type(exc).__name__}: {printable(exc, 200)}'
    else:
        if _REPEATING.issuperset(properties):
            if len(_decoded) > 1024:
                _decoded.clear()
            _decoded[encoded] = properties.copy()
        return properties
    # Raised here, so that it does not keep the frames of a table without a bottom.
    raise DecodeError(f'the properties of the message cannot be read: {what}')


def _decode_properties(data: bytes) -> dict[str, Any]:
    flags, offset = int.from_bytes(data[:2], 'big'), 2
    if flags & _NO_PROPERTY:
        raise ValueError(f'unknown flags {flags:#06x}')
    properties: dict[str, Any] = {}
    for name, bit, kind in _PROPERTIES:
        if not flags & bit:
            continue
        if kind == 's':
            end = offset + 1 + data[offset]
            properties[name] = str(data[offset + 1 : end], 'utf-8')
            offset = end
        elif kind == 'F':
            properties[name], offset = _read_table(data, offset, 1)
        elif kind == 'o':
            properties[name] = data[offset]
            offset += 1
        else:
            properties[name] = int.from_bytes(data[offset : offset + 8], 'big')
            offset += 8
    if offset > len(data):
        raise ValueError('cut short')
    return properties


def _read_table(data: bytes, offset: int, depth: int) -> tuple[dict[str, Any], int]:
    offset, limit = _inside(data, offset, depth)
    table: dict[str, Any] = {}
    while offset < limit:
        end = offset + 1 + data[offset]
        name = str(data[offset + 1 : end], 'utf-8')
        table[name], offset = _read_item(data, end, depth)
    if offset > limit:
        raise ValueError('a table that is cut short')
    return table, offset


def _read_list(data: bytes, offset: int, depth: int) -> tuple[list[Any], int]:
    offset, limit = _inside(data, offset, depth)
    values: list[Any] = []
    while offset < limit:
        value, offset = _read_item(data, offset, depth)
        values.append(value)
    if offset > limit:
        raise ValueError('a list that is cut short')
    return values, offset


def _inside(data: bytes, offset: int, depth: int) -> tuple[int, int]:
    if depth > MAX_DEPTH:
        raise ValueError(f'tables nested more than {MAX_DEPTH} deep')
    start = offset + 4
    limit = start + int.from_bytes(data[offset:start], 'big')
    if limit > len(data):
        raise ValueError('a length beyond the end')
    return start, limit


#: Type letter → how a value of fixed length is read.
_FIXED = {
    ord(letter): struct.Struct(f'>{code}')
    for letter, code in {
        'b': 'b', 'B': 'B', 's': 'h', 'U': 'h', 'u': 'H', 'I': 'i', 'i': 'I', 'l': 'q', 'L': 'q', 'f': 'f',
        'd': 'd', 't': '?',
    }.items()
}  # fmt: skip


def _read_item(data: bytes, offset: int, depth: int) -> tuple[Any, int]:
    kind = data[offset]
    offset += 1
    if kind == 0x53 or kind == 0x78:  # S, x
        start = offset + 4
        end = start + int.from_bytes(data[offset:start], 'big')
        raw = data[start:end]
        if kind == 0x78:
            return raw, end
        try:
            return str(raw, 'utf-8'), end
        except UnicodeDecodeError:
            return raw, end  # the one type that AMQP has for bytes, too
    fixed = _FIXED.get(kind)
    if fixed is not None:
        return fixed.unpack_from(data, offset)[0], offset + fixed.size
    if kind == 0x46:  # F
        return _read_table(data, offset, depth + 1)
    if kind == 0x41:  # A
        return _read_list(data, offset, depth + 1)
    if kind == 0x54:  # T
        seconds = int.from_bytes(data[offset : offset + 8], 'big')
        return datetime.fromtimestamp(seconds, tz=timezone.utc).replace(tzinfo=None), offset + 8
    if kind == 0x44:  # D
        places = data[offset]
        number = int.from_bytes(data[offset + 1 : offset + 5], 'big', signed=True)
        return Decimal(number).scaleb(-places), offset + 5
    if kind == 0x56:  # V
        return None, offset
    raise ValueError(f'no type of values is called {chr(kind)!r}')
