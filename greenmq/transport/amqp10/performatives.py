"""What frames say: each body a tuple of named fields, its types read from the annotations.

An annotation is the name that the specification has for the type, with `| None` where the field may be
missing. So one line a field is all there is, and what comes from a peer has the types it says.
"""

from __future__ import annotations

import functools
import struct
from typing import Any, NamedTuple
from uuid import UUID

from greenmq.exceptions import EncodeError
from greenmq.transport.amqp10.codec import Array, Described, Symbol, decode_described, encode, encode_as
from greenmq.transport.amqp10.errors import Malformed

__all__ = (
    'OUTCOMES', 'Accepted', 'Attach', 'Begin', 'Close', 'Detach', 'Disposition', 'End', 'Error', 'Flow',
    'Init', 'Mechanisms', 'Modified', 'Open', 'Outcome', 'Received', 'Rejected', 'Released', 'Source',
    'Target', 'Transfer', 'pack', 'unpack',
)  # fmt: skip

boolean = bool
ubyte = int
ushort = int
uint = int
ulong = int
string = str
symbol = str
binary = bytes
symbols = tuple[str, ...]
mapping = dict[Any, Any]
anything = Any


class Error(NamedTuple):
    """Why something ended."""

    condition: symbol
    description: string | None = None
    info: mapping | None = None


class Open(NamedTuple):
    container_id: string
    hostname: string | None = None
    max_frame_size: uint | None = None
    channel_max: ushort | None = None
    idle_time_out: uint | None = None
    outgoing_locales: symbols | None = None
    incoming_locales: symbols | None = None
    offered_capabilities: symbols | None = None
    desired_capabilities: symbols | None = None
    properties: mapping | None = None


class Begin(NamedTuple):
    remote_channel: ushort | None
    next_outgoing_id: uint
    incoming_window: uint
    outgoing_window: uint
    handle_max: uint | None = None
    offered_capabilities: symbols | None = None
    desired_capabilities: symbols | None = None
    properties: mapping | None = None


class Attach(NamedTuple):
    name: string
    handle: uint
    role: boolean
    snd_settle_mode: ubyte | None = None
    rcv_settle_mode: ubyte | None = None
    source: anything | None = None
    target: anything | None = None
    unsettled: anything | None = None
    incomplete_unsettled: boolean | None = None
    initial_delivery_count: uint | None = None
    max_message_size: ulong | None = None
    offered_capabilities: symbols | None = None
    desired_capabilities: symbols | None = None
    properties: mapping | None = None


class Flow(NamedTuple):
    next_incoming_id: uint | None
    incoming_window: uint
    next_outgoing_id: uint
    outgoing_window: uint
    handle: uint | None = None
    delivery_count: uint | None = None
    link_credit: uint | None = None
    available: uint | None = None
    drain: boolean | None = None
    echo: boolean | None = None
    properties: mapping | None = None


class Transfer(NamedTuple):
    handle: uint
    delivery_id: uint | None = None
    delivery_tag: binary | None = None
    message_format: uint | None = None
    settled: boolean | None = None
    more: boolean | None = None
    rcv_settle_mode: ubyte | None = None
    state: anything | None = None
    resume: boolean | None = None
    aborted: boolean | None = None
    batchable: boolean | None = None


class Disposition(NamedTuple):
    role: boolean
    first: uint
    last: uint | None = None
    settled: boolean | None = None
    state: anything | None = None
    batchable: boolean | None = None


class Detach(NamedTuple):
    handle: uint
    closed: boolean | None = None
    error: anything | None = None


class End(NamedTuple):
    error: anything | None = None


class Close(NamedTuple):
    error: anything | None = None


class Source(NamedTuple):
    address: anything | None = None
    durable: uint | None = None
    expiry_policy: symbol | None = None
    timeout: uint | None = None
    dynamic: boolean | None = None
    dynamic_node_properties: mapping | None = None
    distribution_mode: symbol | None = None
    filter: mapping | None = None
    default_outcome: anything | None = None
    outcomes: symbols | None = None
    capabilities: symbols | None = None


class Target(NamedTuple):
    address: anything | None = None
    durable: uint | None = None
    expiry_policy: symbol | None = None
    timeout: uint | None = None
    dynamic: boolean | None = None
    dynamic_node_properties: mapping | None = None
    capabilities: symbols | None = None


class Received(NamedTuple):
    section_number: uint
    section_offset: ulong


class Accepted(NamedTuple):
    pass


class Rejected(NamedTuple):
    error: anything | None = None


class Released(NamedTuple):
    pass


class Modified(NamedTuple):
    delivery_failed: boolean | None = None
    undeliverable_here: boolean | None = None
    message_annotations: mapping | None = None


#: What a source says that may become of its messages: any of these.
OUTCOMES = ('amqp:accepted:list', 'amqp:rejected:list', 'amqp:released:list', 'amqp:modified:list')


class Mechanisms(NamedTuple):
    sasl_server_mechanisms: symbols


class Init(NamedTuple):
    mechanism: symbol
    initial_response: binary | None = None
    hostname: string | None = None


class Outcome(NamedTuple):
    code: ubyte
    additional_data: binary | None = None


#: Number in the specification → class. The name goes with it: descriptors may be either.
CODES: dict[int, Any] = {
    0x10: Open, 0x11: Begin, 0x12: Attach, 0x13: Flow, 0x14: Transfer, 0x15: Disposition, 0x16: Detach,
    0x17: End, 0x18: Close, 0x1D: Error, 0x23: Received, 0x24: Accepted, 0x25: Rejected, 0x26: Released,
    0x27: Modified, 0x28: Source, 0x29: Target, 0x40: Mechanisms, 0x41: Init, 0x44: Outcome,
}  # fmt: skip
_SASL = (Mechanisms, Init, Outcome)
_BY_SYMBOL = {
    f'amqp:{"sasl-" if cls in _SASL else ""}{cls.__name__.lower()}:list': cls for cls in CODES.values()
}

#: Type in an annotation → what a value read from a peer is.
_KINDS: dict[str, tuple[type, ...]] = {
    'boolean': (bool,), 'ubyte': (int,), 'ushort': (int,), 'uint': (int,), 'ulong': (int,),
    'string': (str,), 'symbol': (str,), 'binary': (bytes,), 'mapping': (dict,),
    'symbols': (str, Array, tuple), 'anything': (object,),
}  # fmt: skip
_TOP = {'ubyte': 1 << 8, 'ushort': 1 << 16, 'uint': 1 << 32, 'ulong': 1 << 64}


class _Field(NamedTuple):
    name: str
    kind: str
    needed: bool
    exact: Any  # type; a value of it needs no further look, but at `top`
    top: int


_new = tuple.__new__


def _fields(cls: Any) -> tuple[_Field, ...]:
    found = []
    for name, annotation in cls.__annotations__.items():
        kind = annotation if isinstance(annotation, str) else annotation.__forward_arg__
        kind, _, optional = kind.partition(' | ')
        exact = _KINDS[kind][0] if kind not in ('anything', 'symbols') else None
        found.append(_Field(name, kind, not optional, exact, _TOP.get(kind, 0)))
    return tuple(found)


_FIELDS: dict[Any, tuple[_Field, ...]] = {cls: _fields(cls) for cls in CODES.values()}
#: What each field of a body is looked at for; how many fields it must have; and one without any.
_LOOKS: dict[Any, tuple[Any, int, Any]] = {
    cls: (
        [(field.needed, field.exact, field.top) for field in fields],
        max((at for at, field in enumerate(fields, 1) if field.needed), default=0),
        _new(cls, [None] * len(fields)),
    )
    for cls, fields in _FIELDS.items()
}  # fmt: skip
_HEADS: dict[Any, bytes] = {cls: b'\x00\x53' + bytes((code,)) for code, cls in CODES.items()}

def pack(body: Any) -> bytes:
    """Write a body.

    Raises:
        EncodeError: a field is out of range.
    """
    parts: list[bytes] = []
    last = 0
    for field, value in zip(_FIELDS[type(body)], body, strict=True):
        parts.append(_packed(field.kind, value))
        if value is not None:
            last = len(parts)
        elif field.needed:
            raise EncodeError(f'{type(body).__name__} lacks {field.name}')
    del parts[last:]
    head = _HEADS[type(body)]
    if not parts:
        return head + b'E'
    whole = b''.join(parts)
    size = len(whole)
    if size < 255:
        return head + b'\xc0' + bytes((size + 1, len(parts))) + whole
    return head + b'\xd0' + (size + 4).to_bytes(4, 'big') + len(parts).to_bytes(4, 'big') + whole


def _packed(kind: str, value: Any) -> bytes:
    if value is None:
        return b'@'
    if kind == 'anything':
        return pack(value) if type(value) in _FIELDS else encode(value)
    if kind == 'symbols':
        return encode(Array('symbol', list(value)))
    if kind == 'mapping':
        return encode(value)
    return encode_as(kind, value)


def unpack(data: bytes, at: int = 0) -> tuple[Any, int]:
    """Read a body.

    Returns:
        tuple[object, int]: the body, and where the payload of the frame begins.
    Raises:
        Malformed: it is none, or a field has another type than it must have.
    """
    if not at and data[:4] == _SHORT_TRANSFER:
        transfer = _usual_transfer(data)
        if transfer is not None:
            return transfer, 5 + data[4]
    descriptor, values, end = decode_described(data, at)
    cls = CODES.get(descriptor) if descriptor.__class__ is int else _class_of(descriptor)
    if cls is None:
        if descriptor is None:
            raise Malformed('a frame begins with what is no performative')
        raise Malformed(f'no performative is {descriptor!r:.80}')
    return _filled(cls, values), end


#: How a transfer begins, where it is short.
_SHORT_TRANSFER = b'\x00\x53\x14\xc0'
_uint = struct.Struct('>I').unpack_from


def _usual_transfer(data: bytes) -> Transfer | None:
    # As peers write it: a handle, a number and a tag, which vary, and then what recurs. None: it is not so,
    # and read field by field, which also tells what is wrong with it.
    if len(data) < 16:
        return None
    end, count, at = 5 + data[4], data[5], 7
    handle = 0
    if data[6] == 0x52:
        handle, at = data[7], 8
    elif data[6] != 0x43:
        return None
    if data[at] == 0x70:
        number, at = _uint(data, at + 1)[0], at + 5
    elif data[at] == 0x52:
        number, at = data[at + 1], at + 2
    else:
        return None
    if end > len(data) or at + 2 > end or data[at] != 0xA0:
        return None
    stop = at + 2 + data[at + 1]
    if stop > end:
        return None
    return _new(Transfer, (handle, number, data[at + 2 : stop], *_transfer_ends(count, data[stop:end])))


@functools.lru_cache(64)
def _transfer_ends(count: int, fields: bytes) -> tuple[Any, ...]:
    # What follows the tag, read with another handle, number and tag before it.
    whole = b'%b%c%cCC\xa0\x00%b' % (_SHORT_TRANSFER, len(fields) + 5, count, fields)
    descriptor, values, _ = decode_described(whole)
    return tuple(_filled(CODES[descriptor], values)[3:])


def _class_of(descriptor: Any) -> Any:
    if isinstance(descriptor, int):
        return CODES.get(descriptor)
    return _BY_SYMBOL.get(descriptor) if isinstance(descriptor, Symbol) else None


def understood(value: Any) -> Any:
    """A described list that has a class here, as that; anything else as it is.

    Raises:
        Malformed: a field has another type than it must have.
    """
    if not isinstance(value, Described):
        return value
    cls = _class_of(value.descriptor)
    return value if cls is None else _filled(cls, value.value)


def _filled(cls: Any, values: Any) -> Any:
    looks, least, empty = _LOOKS[cls]
    if not isinstance(values, list) or len(values) > len(looks):
        raise Malformed(f'{cls.__name__} has no list of its fields')
    if len(values) < least:
        raise Malformed(f'{cls.__name__} lacks a field that it must have')
    if not values:
        return empty  # as what becomes of most messages
    at = 0
    for (needed, exact, top), each in zip(looks, values, strict=False):
        if each is None:
            if needed:
                raise Malformed(f'{cls.__name__} lacks {_FIELDS[cls][at].name}')
        elif type(each) is not exact or (top and not 0 <= each < top):
            values[at] = _checked(cls, _FIELDS[cls][at], each)
        at += 1
    values += empty[at:]
    # Made as a tuple is: a NamedTuple's own constructor is one more call for each frame.
    return _new(cls, values)


def _checked(cls: Any, field: _Field, value: Any) -> Any:
    kind = field.kind
    if kind == 'anything':
        return understood(value)
    fits = isinstance(value, _KINDS[kind]) and (kind == 'boolean' or not isinstance(value, bool))
    if not fits:
        raise Malformed(f'{cls.__name__}.{field.name} is of type {type(value).__name__}, and no {kind}')
    if field.top and not 0 <= value < field.top:
        raise Malformed(f'{cls.__name__}.{field.name} is {value}, and no {kind}')
    if kind == 'symbols':
        if isinstance(value, str):
            return (value,)
        names = list(value.values if isinstance(value, Array) else value)
        if not all(isinstance(name, str) for name in names):
            raise Malformed(f'{cls.__name__}.{field.name} holds what is no symbol')
        return tuple(names)
    return value


def plain(value: Any) -> Any:
    """A value as programs and JSON have it: symbols as str, arrays as lists, UUIDs as str."""
    if isinstance(value, Symbol):
        return str(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Array):
        return [plain(each) for each in value.values]
    if isinstance(value, Described):
        return plain(value.value)
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items()}
    return value
