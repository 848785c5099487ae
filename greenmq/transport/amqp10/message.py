"""The sections of a message: header, annotations, properties, the program's own properties, and the body.

Nothing here switches.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from greenmq.exceptions import EncodeError
from greenmq.transport.amqp10.codec import (
    UNWRITABLE,
    WRITERS,
    Symbol,
    Timestamp,
    decode_described,
    encode,
)
from greenmq.transport.amqp10.errors import Malformed

__all__ = ('Sections', 'front', 'read', 'recurring_front', 'write', 'write_after', 'write_value')

#: Fields of the header section, with their types.
HEADER = (
    ('durable', 'boolean'), ('priority', 'ubyte'), ('ttl', 'uint'), ('first_acquirer', 'boolean'),
    ('delivery_count', 'uint'),
)  # fmt: skip
#: Fields of the properties section. The type None: what AMQP has for the value.
PROPERTIES = (
    ('message_id', None), ('user_id', 'binary'), ('to', None), ('subject', 'string'), ('reply_to', None),
    ('correlation_id', None), ('content_type', 'symbol'), ('content_encoding', 'symbol'),
    ('absolute_expiry_time', 'timestamp'), ('creation_time', 'timestamp'), ('group_id', 'string'),
    ('group_sequence', 'uint'), ('reply_to_group_id', 'string'),
)  # fmt: skip

_HEADER, _DELIVERY, _ANNOTATIONS, _PROPERTIES, _PROGRAM, _DATA, _SEQUENCE, _VALUE, _FOOTER = range(0x70, 0x79)
_NAMES = {
    'amqp:header:list': _HEADER, 'amqp:delivery-annotations:map': _DELIVERY,
    'amqp:message-annotations:map': _ANNOTATIONS, 'amqp:properties:list': _PROPERTIES,
    'amqp:application-properties:map': _PROGRAM, 'amqp:data:binary': _DATA,
    'amqp:amqp-sequence:list': _SEQUENCE, 'amqp:amqp-value:*': _VALUE, 'amqp:footer:map': _FOOTER,
}  # fmt: skip
#: How they begin, where they are short.
_SHORT_HEADER, _SHORT_PROPERTIES = b'\x00\x53\x70\xc0', b'\x00\x53\x73\xc0'
_EMPTY: dict[str, Any] = {}
_new = tuple.__new__


class Sections(NamedTuple):
    """A message, taken apart.

    Attributes:
        header, properties (dict): by the names of their fields; those that are missing are not there.
        annotations (dict), program (dict): message annotations and application properties.
        body (bytes | object): of data sections, joined; else the value, or the list of a sequence.
        is_data (bool): which of the two.
    """

    header: Mapping[str, Any]
    annotations: Mapping[Any, Any]
    properties: Mapping[str, Any]
    program: Mapping[Any, Any]
    body: Any
    is_data: bool


#: Section → what writes each of its fields.
_FIELDS = {
    code: [(kind, encode if kind is None else WRITERS[kind]) for _, kind in fields]
    for code, fields in ((_HEADER, HEADER), (_PROPERTIES, PROPERTIES))
}


def _listed(code: int, values: Iterable[Any]) -> bytes:
    parts: list[bytes] = []
    last = 0
    try:
        for (_, put), value in zip(_FIELDS[code], values, strict=False):
            if value is None:
                parts.append(b'@')
            else:
                parts.append(put(value))
                last = len(parts)
    except UNWRITABLE as error:
        kind, _ = _FIELDS[code][len(parts)]
        raise EncodeError(f'{value!r:.80} is no {kind}: {error}') from None
    if not last:
        return b''
    whole = b''.join(parts[:last])
    head = b'\x00\x53' + bytes((code,))
    if len(whole) < 255:
        return head + b'\xc0' + bytes((len(whole) + 1, last)) + whole
    return head + b'\xd0' + (len(whole) + 4).to_bytes(4, 'big') + last.to_bytes(4, 'big') + whole


def _in_order(fields: Any, values: Mapping[str, Any]) -> Iterable[Any]:
    return [values.get(name) for name, _ in fields]


def front(header: Iterable[Any], properties: Iterable[Any]) -> bytes:
    """The first sections of a message: header and properties, by the order of their fields.

    Raises:
        EncodeError: AMQP has no type for a value.
    """
    return _listed(_HEADER, header) + _listed(_PROPERTIES, properties)


#: The same, remembered: for tuples of values that the next message has as well.
recurring_front = functools.lru_cache(512)(front)


def write(
    body: bytes,
    header: Mapping[str, Any] = _EMPTY,
    properties: Mapping[str, Any] = _EMPTY,
    program: Mapping[str, Any] = _EMPTY,
    annotations: Mapping[str, Any] = _EMPTY,
) -> bytes:
    """Put a message together, its body as one data section.

    Raises:
        EncodeError: AMQP has no type for a value.
    """
    first = _listed(_HEADER, _in_order(HEADER, header)) if header else b''
    if annotations:
        named = {Symbol(name): value for name, value in annotations.items()}
        first += b'\x00\x53\x72' + encode(named)
    if properties:
        first += _listed(_PROPERTIES, _in_order(PROPERTIES, properties))
    return write_after(first, body, program)


def write_after(first: bytes, body: bytes, program: Mapping[str, Any] = _EMPTY) -> bytes:
    """Put a message together of its first sections, see `front`, and its body as one data section.

    Raises:
        EncodeError: AMQP has no type for a value.
    """
    if program:
        first += b'\x00\x53\x74' + encode(program)
    size = len(body)
    kind, width = (b'\x00\x53\x75\xa0', 1) if size < 256 else (b'\x00\x53\x75\xb0', 4)
    return b''.join((first, kind, size.to_bytes(width, 'big'), body))


def write_value(value: Any, properties: Mapping[str, Any], program: Mapping[str, Any] = _EMPTY) -> bytes:
    """Put a message together whose body is one value: what management nodes are told.

    Raises:
        EncodeError: AMQP has no type for a value.
    """
    named = b'\x00\x53\x74' + encode(program) if program else b''
    first = _listed(_PROPERTIES, _in_order(PROPERTIES, properties))
    return first + named + b'\x00\x53\x77' + encode(value)


def read(payload: bytes) -> Sections:
    """Take a message apart.

    Raises:
        Malformed: it is none.
    """
    header: Mapping[str, Any] = _EMPTY
    properties: Mapping[str, Any] = _EMPTY
    annotations = program = _EMPTY
    body: Any = None
    data: list[bytes] = []
    sequence: list[Any] = []
    kind, at, end = 0, 0, len(payload)
    while at < end:
        # What recurs from message to message: the header, and properties that begin with no name.
        head = payload[at : at + 4]
        if head == _SHORT_HEADER or (head == _SHORT_PROPERTIES and payload[at + 6 : at + 7] == b'@'):
            stop = at + 5 + payload[at + 4] if at + 4 < end else end
            if head == _SHORT_HEADER:
                header = _recurring(payload[at:stop])
            else:
                properties = _recurring(payload[at:stop])
            at = stop
            continue
        code, value, at = decode_described(payload, at)
        if code is None:
            raise Malformed('a message holds what is no section')
        if isinstance(code, Symbol):
            code = _NAMES.get(code)
        if code == _DATA and isinstance(value, bytes):
            data.append(value)
            kind = _DATA
        elif code == _HEADER:
            header = _named(HEADER, value)
        elif code == _PROPERTIES:
            properties = _named(PROPERTIES, value)
        elif code == _PROGRAM:
            program = _mapping(value)
        elif code == _ANNOTATIONS:
            annotations = _mapping(value)
        elif code == _VALUE:
            kind, body = _VALUE, value
        elif code == _SEQUENCE and isinstance(value, list):
            kind = _SEQUENCE
            sequence += value
        elif code not in (_DELIVERY, _FOOTER):
            raise Malformed(f'a message has a section {code!r:.40}')
    if kind == _DATA:
        body = data[0] if len(data) == 1 else b''.join(data)
    elif kind == _SEQUENCE:
        body = sequence
    elif not kind and not payload:
        raise Malformed('a message of no bytes')
    return _new(Sections, (header, annotations, properties, program, body, kind == _DATA))


#: Sections that recurred, or may: what they say by their bytes.
_RECURRING: dict[bytes, Mapping[str, Any]] = {}


def _recurring(section: bytes) -> Mapping[str, Any]:
    # Of many messages: nobody may change it.
    found = _RECURRING.get(section)
    if found is None:
        code, values, _ = decode_described(section)
        found = MappingProxyType(_named(HEADER if code == _HEADER else PROPERTIES, values))
        if 'correlation_id' not in found:  # an answer's, which no other message has
            if len(_RECURRING) >= 512:
                _RECURRING.clear()
            _RECURRING[section] = found
    return found


def _named(fields: Any, values: Any) -> dict[str, Any]:
    if not isinstance(values, list) or len(values) > len(fields):
        raise Malformed('a section has no list of its fields')
    return {field[0]: value for field, value in zip(fields, values, strict=False) if value is not None}


def _mapping(value: Any) -> dict[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Malformed('a section has no map')
    return value


def moment(value: Any) -> Any:
    """A timestamp as a datetime, where a datetime can say it."""
    if isinstance(value, Timestamp):
        try:
            return value.moment()
        except OverflowError:
            return int(value)
    return value
