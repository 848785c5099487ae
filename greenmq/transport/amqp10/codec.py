"""The types of AMQP 1.0: from bytes to Python values and back, each by one row of a table.

What Python has no type for has one here: `Symbol`, `Timestamp`, `Described`, `Array`, and numbers of a given
width, `Sized`. Whole numbers are read as int, whatever their width.

A peer's bytes can make us keep no more than about their own size: compounds are as long as they say, nest no
deeper than `DEPTH`, and arrays of values that take no bytes are short.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from greenmq.exceptions import EncodeError
from greenmq.transport.amqp10.errors import Malformed

__all__ = ('Array', 'Described', 'Sized', 'Symbol', 'Timestamp', 'decode', 'encode', 'encode_as', 'uint')

#: How deep values may nest.
DEPTH = 32
_TOO_DEEP = f'values nest deeper than {DEPTH}'
#: Elements of an array whose elements take no bytes.
EMPTY_ELEMENTS = 1024

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


class Symbol(str):
    """A name out of an agreed set: ASCII."""

    __slots__ = ()


class Timestamp(int):
    """Milliseconds since 1970."""

    __slots__ = ()

    def moment(self) -> datetime.datetime:
        """The same as a datetime in UTC.

        Raises:
            OverflowError: it lies outside what a datetime can say.
        """
        return _EPOCH + datetime.timedelta(milliseconds=int(self))


class Described(NamedTuple):
    """A value and what it means: a number or a symbol."""

    descriptor: Any
    value: Any


class Array(NamedTuple):
    """Values of one type, named as in `WRITERS`."""

    type: str
    values: list[Any]


class Sized(NamedTuple):
    """A value to be written as one type, named as in `WRITERS`."""

    type: str
    value: Any


# ------------------------------------------------------------------ reading

_Reader = Callable[[bytes, int, int], 'tuple[Any, int]']

_U2, _U4, _U8 = struct.Struct('>H'), struct.Struct('>I'), struct.Struct('>Q')
_uint_at = _U4.unpack_from
_SHORT = 'the value is cut short'


def decode(data: bytes, at: int = 0, depth: int = 0) -> tuple[Any, int]:
    """Read one value.

    Arguments:
        at (int): where it begins.
    Returns:
        tuple[object, int]: the value, and where the next one begins.
    Raises:
        Malformed: there is none.
    """
    try:
        return _READERS[data[at]](data, at + 1, depth)
    except _UNREADABLE as error:
        raise _malformed(error) from None


def decode_described(data: bytes, at: int = 0) -> tuple[Any, Any, int]:
    """Read one described value, as frames and sections are, and do not make a `Described` of it.

    Returns:
        tuple[object, object, int]: its descriptor, None if it has none; the value; where the next begins.
    Raises:
        Malformed: there is none.
    """
    try:
        if data[at] or data[at + 1] != 0x53:
            value, end = decode(data, at)
            if not isinstance(value, Described):
                return None, value, end
            return value.descriptor, value.value, end
        if data[at + 3] == 0xC0:
            value, end = _sequence(data, at + 4, 1, False)
        else:
            value, end = _READERS[data[at + 3]](data, at + 4, 1)
    except _UNREADABLE as error:
        raise _malformed(error) from None
    return data[at + 2], value, end


#: What readers meet where a peer's bytes are wrong, beside what they look for.
_UNREADABLE = (IndexError, struct.error, UnicodeDecodeError)


def _malformed(error: Exception) -> Malformed:
    return Malformed(f'a text is none: {error}' if isinstance(error, UnicodeDecodeError) else _SHORT)


def _unknown(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    raise Malformed(f'no type has the code {data[at - 1]:#04x}')


def _constant(value: Any) -> _Reader:
    def read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        return value, at

    return read


def _fixed(form: str, make: Callable[[Any], Any] | None = None) -> _Reader:
    layout = struct.Struct('>' + form)
    unpack, size = layout.unpack_from, layout.size

    def read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        return unpack(data, at)[0], at + size

    def read_made(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        return make(unpack(data, at)[0]), at + size  # type: ignore[misc]

    return read if make is None else read_made


def _byte(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    return data[at], at + 1


def _truth(value: int) -> bool:
    if value > 1:
        raise Malformed(f'no boolean is {value:#04x}')
    return bool(value)


def _char(value: int) -> str:
    try:
        return chr(value)
    except (ValueError, OverflowError):
        raise Malformed(f'no character has the number {value:#x}') from None


def _uuid(value: bytes) -> UUID:
    return UUID(bytes=value)


def _decimal_width(size: int) -> _Reader:
    # Of no use to anybody here; kept as its bytes, so that a message that has one can be read.
    def read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        if at + size > len(data):
            raise Malformed(_SHORT)
        return data[at : at + size], at + size

    return read


def _text(raw: bytes) -> str:
    return str(raw, 'utf-8')


def _symbol(raw: bytes) -> Symbol:
    return Symbol(str(raw, 'ascii'))


def _variable(wide: bool, make: Callable[[bytes], Any]) -> _Reader:
    def read8(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        end = at + 1 + data[at]
        if end > len(data):
            raise Malformed(_SHORT)
        return make(data[at + 1 : end]), end

    def read32(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        end = at + 4 + _U4.unpack_from(data, at)[0]
        if end > len(data):
            raise Malformed(_SHORT)
        return make(data[at + 4 : end]), end

    return read32 if wide else read8


def _head(data: bytes, at: int, depth: int, wide: bool) -> tuple[int, int, int]:
    # Of a compound: the number of its elements, where they begin, where it ends.
    if depth >= DEPTH:
        raise Malformed(_TOO_DEEP)
    if wide:
        size, count, start = _U4.unpack_from(data, at)[0], _U4.unpack_from(data, at + 4)[0], at + 8
        end = at + 4 + size
    else:
        size, count, start = data[at], data[at + 1], at + 2
        end = at + 1 + size
    if end > len(data) or start > end:
        raise Malformed(_SHORT)
    return count, start, end


def _sequence(data: bytes, at: int, depth: int, wide: bool) -> tuple[list[Any], int]:
    if wide or depth >= DEPTH:
        count, at, end = _head(data, at, depth, wide)
    else:  # as there, without a call
        count, end, at = data[at + 1], at + 1 + data[at], at + 2
        if end > len(data) or at > end:
            raise Malformed(_SHORT)
    if count > end - at:
        raise Malformed(f'{count} values in {end - at} bytes')
    values: list[Any] = []
    add = values.append
    readers, constants, texts, depth = _READERS, _CONSTANTS, _TEXTS, depth + 1
    for _ in range(count):
        code = data[at]
        # What most fields are is read here, without a call.
        if code in constants:
            add(constants[code])
            at += 1
        elif code == 0x52:
            add(data[at + 1])
            at += 2
        elif code == 0xA1 or code in texts:
            stop = at + 2 + data[at + 1]
            if stop > end:
                raise Malformed(_SHORT)
            raw = data[at + 2 : stop]
            add(str(raw, 'utf-8') if code == 0xA1 else texts[code](raw))
            at = stop
        elif code == 0x70:
            add(_uint_at(data, at + 1)[0])
            at += 5
        else:
            value, at = readers[code](data, at + 1, depth)
            add(value)
    if at != end:
        raise Malformed('a compound is longer or shorter than it says')
    return values, end


def _list8(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    return _sequence(data, at, depth, False)


def _list32(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    return _sequence(data, at, depth, True)


def _map(wide: bool) -> _Reader:
    def read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        values, end = _sequence(data, at, depth, wide)
        if len(values) % 2:
            raise Malformed('a map has a key without a value')
        try:
            pairs = iter(values)
            return dict(zip(pairs, pairs, strict=True)), end
        except TypeError:
            raise Malformed('a map has a key that is a list, a map or an array') from None

    return read


def _array(wide: bool) -> _Reader:
    def read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        count, at, end = _head(data, at, depth, wide)
        if not count and at == end:
            return Array('null', []), end
        code, descriptor = data[at], None
        at += 1
        if not code:
            descriptor, at = decode(data, at, depth + 1)
            code = data[at]
            at += 1
        reader = _READERS[code]
        if count > max(end - at, EMPTY_ELEMENTS if code in _NO_BYTES else 0):
            raise Malformed(f'{count} values in {end - at} bytes')
        values = []
        for _ in range(count):
            value, at = reader(data, at, depth + 1)
            values.append(value if descriptor is None else Described(descriptor, value))
        if at != end:
            raise Malformed('an array is longer or shorter than it says')
        return Array(_NAMES.get(code, 'null'), values), end

    return read


def _described(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth >= DEPTH:
        raise Malformed(_TOO_DEEP)
    descriptor, at = _READERS[data[at]](data, at + 1, depth + 1)
    value, at = _READERS[data[at]](data, at + 1, depth + 1)
    return Described(descriptor, value), at


#: Bytes and symbols with a size of one byte.
_TEXTS: dict[int, Callable[[bytes], Any]] = {0xA0: bytes, 0xA3: _symbol}
#: What takes no bytes beside its code.
_CONSTANTS: dict[int, Any] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0}
_READERS: list[_Reader] = [_unknown] * 256
for _code, _reader in {
    0x00: _described,
    0x40: _constant(None), 0x41: _constant(True), 0x42: _constant(False), 0x56: _fixed('B', _truth),
    0x43: _constant(0), 0x44: _constant(0), 0x50: _byte, 0x52: _byte, 0x53: _byte, 0x60: _fixed('H'),
    0x70: _fixed('I'), 0x80: _fixed('Q'), 0x51: _fixed('b'), 0x54: _fixed('b'), 0x55: _fixed('b'),
    0x61: _fixed('h'), 0x71: _fixed('i'), 0x81: _fixed('q'), 0x72: _fixed('f'), 0x82: _fixed('d'),
    0x74: _decimal_width(4), 0x84: _decimal_width(8), 0x94: _decimal_width(16),
    0x73: _fixed('I', _char), 0x83: _fixed('q', Timestamp), 0x98: _fixed('16s', _uuid),
    0xA0: _variable(False, bytes), 0xB0: _variable(True, bytes), 0xA1: _variable(False, _text),
    0xB1: _variable(True, _text), 0xA3: _variable(False, _symbol), 0xB3: _variable(True, _symbol),
    0xC0: _list8, 0xD0: _list32, 0xC1: _map(False), 0xD1: _map(True), 0xE0: _array(False),
    0xF0: _array(True),
}.items():  # fmt: skip
    _READERS[_code] = _reader
_NEW_LIST = 0x45


def _list0(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    return [], at


_READERS[_NEW_LIST] = _list0
_NO_BYTES = frozenset((0x40, 0x41, 0x42, 0x43, 0x44, 0x45))
_NAMES = {
    0x41: 'boolean', 0x42: 'boolean', 0x56: 'boolean', 0x50: 'ubyte', 0x60: 'ushort', 0x43: 'uint',
    0x52: 'uint', 0x70: 'uint', 0x44: 'ulong', 0x53: 'ulong', 0x80: 'ulong', 0x51: 'byte', 0x61: 'short',
    0x54: 'int', 0x71: 'int', 0x55: 'long', 0x81: 'long', 0x72: 'float', 0x82: 'double', 0x73: 'char',
    0x83: 'timestamp', 0x98: 'uuid', 0xA0: 'binary', 0xB0: 'binary', 0xA1: 'string', 0xB1: 'string',
    0xA3: 'symbol', 0xB3: 'symbol', 0x45: 'list', 0xC0: 'list', 0xD0: 'list', 0xC1: 'map', 0xD1: 'map',
    0xE0: 'array', 0xF0: 'array',
}  # fmt: skip

# ------------------------------------------------------------------ writing


def uint(value: int) -> bytes:
    """Write a uint."""
    if value < 256:
        return (b'R' + value.to_bytes(1, 'big')) if value else b'C'
    return b'p' + _U4.pack(value)


def _ulong(value: int) -> bytes:
    if value < 256:
        return (b'S' + value.to_bytes(1, 'big')) if value else b'D'
    return b'\x80' + _U8.pack(value)


def _packer(code: bytes, form: str) -> Callable[[Any], bytes]:
    pack = struct.Struct('>' + form).pack

    def write(value: Any) -> bytes:
        return code + pack(value)

    return write


def _int(value: int) -> bytes:
    return struct.pack('>Bb', 0x54, value) if -128 <= value < 128 else struct.pack('>Bi', 0x71, value)


def _long(value: int) -> bytes:
    return struct.pack('>Bb', 0x55, value) if -128 <= value < 128 else struct.pack('>Bq', 0x81, value)


def _binary(value: Any, depth: int = 0) -> bytes:
    size = len(raw := bytes(value))
    return _BINARY[size] + raw if size < 256 else b'\xb0' + _U4.pack(size) + raw


def _string(value: str, depth: int = 0) -> bytes:
    size = len(raw := value.encode('utf-8'))
    return _STRING[size] + raw if size < 256 else b'\xb1' + _U4.pack(size) + raw


def _symbol_out(value: str, depth: int = 0) -> bytes:
    size = len(raw := value.encode('ascii'))
    return _SYMBOL[size] + raw if size < 256 else b'\xb3' + _U4.pack(size) + raw


#: Code and size of what is shorter than 256 bytes.
_BINARY, _STRING, _SYMBOL = (
    [code + bytes((size,)) for size in range(256)] for code in (b'\xa0', b'\xa1', b'\xa3')
)


def _boolean(value: Any, depth: int = 0) -> bytes:
    return b'A' if value else b'B'


def _compound(short: bytes, wide: bytes, parts: list[bytes]) -> bytes:
    body = b''.join(parts)
    size, count = len(body), len(parts)
    if size < 255 and count < 256:
        return short + bytes((size + 1, count)) + body
    return wide + struct.pack('>II', size + 4, count) + body


def _list(values: Any, depth: int = 0) -> bytes:
    parts = [encode(value, depth + 1) for value in values]
    return _compound(b'\xc0', b'\xd0', parts) if parts else b'E'


#: Names in maps are few, and written again and again.
_name = functools.lru_cache(1024)(_string)
_LONG_NAME = 64


def _map_out(value: Mapping[Any, Any], depth: int = 0) -> bytes:
    parts = []
    known, depth = _BY_CLASS.get, depth + 1
    if depth > DEPTH and value:
        raise EncodeError(_TOO_DEEP)
    for key, each in value.items():
        # As `encode` does, without a call where it can be: most of what is written are such maps.
        short = type(key) is str and len(key) <= _LONG_NAME
        parts.append(_name(key) if short else encode(key, depth))
        write = known(type(each))
        parts.append(encode(each, depth) if write is None else write(each, depth))
    return _compound(b'\xc1', b'\xd1', parts)


def _array_out(value: Array) -> bytes:
    if not value.values:
        return b'\xe0\x02\x00' + _ARRAY_CODES[value.type]
    code = _ARRAY_CODES[value.type]
    wide = _WIDE[value.type]
    body = code + b''.join(wide(each) for each in value.values)
    return b'\xf0' + struct.pack('>II', len(body) + 4, len(value.values)) + body


def _raw32(raw: bytes) -> bytes:
    return _U4.pack(len(raw)) + raw


#: How the elements of an array are written: without their code, all alike.
_WIDE: dict[str, Callable[[Any], bytes]] = {
    'symbol': lambda value: _raw32(value.encode('ascii')),
    'string': lambda value: _raw32(value.encode('utf-8')),
    'binary': lambda value: _raw32(bytes(value)),
    'uint': _U4.pack, 'ulong': _U8.pack, 'int': struct.Struct('>i').pack, 'long': struct.Struct('>q').pack,
    'timestamp': struct.Struct('>q').pack, 'double': struct.Struct('>d').pack,
    'boolean': lambda value: b'\x01' if value else b'\x00', 'uuid': lambda value: bytes(value.bytes),
}  # fmt: skip
_ARRAY_CODES = {
    'symbol': b'\xb3', 'string': b'\xb1', 'binary': b'\xb0', 'uint': b'\x70', 'ulong': b'\x80',
    'int': b'\x71', 'long': b'\x81', 'timestamp': b'\x83', 'double': b'\x82', 'boolean': b'\x56',
    'uuid': b'\x98', 'null': b'\x40',
}  # fmt: skip


def _moment(value: datetime.datetime) -> bytes:
    aware = value if value.tzinfo is not None else value.replace(tzinfo=datetime.timezone.utc)
    return _TIMESTAMP(round((aware - _EPOCH).total_seconds() * 1000))


_TIMESTAMP = _packer(b'\x83', 'q')

#: What a writer raises for a value that is not of its type.
UNWRITABLE = (UnicodeEncodeError, struct.error, OverflowError, AttributeError, TypeError)

#: Type by its name in the specification → what writes a value so.
WRITERS: dict[str, Callable[[Any], bytes]] = {
    'boolean': _boolean, 'ubyte': _packer(b'\x50', 'B'), 'ushort': _packer(b'\x60', 'H'), 'uint': uint,
    'ulong': _ulong, 'byte': _packer(b'\x51', 'b'), 'short': _packer(b'\x61', 'h'), 'int': _int,
    'long': _long, 'float': _packer(b'\x72', 'f'), 'double': _packer(b'\x82', 'd'),
    'char': lambda value: b'\x73' + _U4.pack(ord(value)), 'timestamp': _TIMESTAMP,
    'uuid': lambda value: b'\x98' + value.bytes, 'binary': _binary, 'string': _string,
    'symbol': _symbol_out, 'list': _list, 'map': _map_out, 'array': _array_out,
}  # fmt: skip


def _integer(value: int, depth: int) -> bytes:
    if -(1 << 63) <= value < 1 << 63:
        return _long(value)
    if 0 <= value < 1 << 64:
        return _ulong(value)
    raise EncodeError(f'{value} has more than 64 bits: AMQP has no number of that size')


def _put_described(value: Described, depth: int) -> bytes:
    descriptor = value.descriptor
    head = _ulong(descriptor) if isinstance(descriptor, int) else encode(descriptor, depth + 1)
    return b'\x00' + head + encode(value.value, depth + 1)


#: Type of Python → what writes it. Found by the class itself, then by its bases.
_BY_CLASS: dict[type, Callable[[Any, int], bytes]] = {
    type(None): lambda value, depth: b'@',
    bool: _boolean,
    int: _integer,
    float: lambda value, depth: WRITERS['double'](value),
    str: _string,
    bytes: _binary,
    bytearray: _binary,
    memoryview: _binary,
    Symbol: _symbol_out,
    Timestamp: lambda value, depth: _TIMESTAMP(value),
    UUID: lambda value, depth: WRITERS['uuid'](value),
    datetime.datetime: lambda value, depth: _moment(value),
    decimal.Decimal: lambda value, depth: _string(str(value)),
    dict: _map_out,
    list: _list,
    tuple: _list,
    Described: _put_described,
    Array: lambda value, depth: _array_out(value),
    Sized: lambda value, depth: encode_as(value.type, value.value),
}


def encode(value: Any, depth: int = 0) -> bytes:
    """Write one value.

    Raises:
        EncodeError: AMQP has no type for it, or its number is too large; or it nests without an end.
    """
    if depth > DEPTH:
        raise EncodeError(_TOO_DEEP)
    write = _BY_CLASS.get(type(value))
    if write is None:
        for cls in type(value).__mro__[1:]:
            write = _BY_CLASS.get(cls)
            if write is not None:
                break
        else:
            raise EncodeError(f'AMQP has no type for {type(value).__name__}')
    try:
        return write(value, depth)
    except UnicodeEncodeError as error:
        raise EncodeError(f'a text cannot be written: {error}') from None
    except struct.error as error:
        raise EncodeError(f'{value!r:.80} is out of range: {error}') from None


def encode_as(kind: str, value: Any) -> bytes:
    """Write a value as a given type, named as in `WRITERS`; None as null.

    Raises:
        EncodeError: it is out of range there.
    """
    if value is None:
        return b'@'
    try:
        return WRITERS[kind](value)
    except UNWRITABLE as error:
        raise EncodeError(f'{value!r:.80} is no {kind}: {error}') from None
