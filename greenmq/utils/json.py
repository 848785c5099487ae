"""JSON with a few more types: dates and times, Decimal, UUID, bytes, lazy text, and what programs register.

Such a value travels as `{"__type__": marker, "__value__": plain value}`, as kombu writes it.

Nothing here switches, unless a function that the program passed in does.

Source: kombu.utils.json.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from json import encoder as _encoder
from typing import Any, TypeVar
from uuid import UUID

from greenmq.utils.functional import lazy

try:
    import msgspec
except ImportError:
    msgspec = None  # type: ignore[assignment]

T = TypeVar('T')
EncodedT = TypeVar('EncodedT')

EncoderT = Callable[[T], EncodedT]
DecoderT = Callable[[EncodedT], T]

#: Types written as their `str()`; Django's lazy text is recognised without being listed.
textual_types: tuple[type[Any], ...] = ()

# In the order of registration: a datetime is also a date, so the narrower type comes first.
_encoders: dict[type[Any], tuple[str | None, Callable[[Any], Any]]] = {}
_decoders: dict[str, Callable[[Any], Any]] = {}


class JSONEncoder(json.JSONEncoder):
    """The encoder of `dumps`. An object may have a `__json__()` method that returns something plain.

    Source: kombu.utils.json.JSONEncoder; differs: greenmq's `lazy` is computed and its value written.
    """

    def default(self, o: Any) -> Any:
        """Return something plain in place of the object.

        Raises:
            TypeError: nothing is known about this type.
        """
        reducer = getattr(o, '__json__', None)
        if reducer is not None:
            return reducer()
        known = _encoders.get(type(o)) or _inherited(o)
        if known is not None:
            marker, encode = known
            return encode(o) if marker is None else _marked(marker, encode(o))
        if isinstance(o, bytes):
            return _bytes(o)
        if isinstance(o, lazy):
            return o.evaluate()
        if isinstance(o, (bytearray, memoryview)):
            return _bytes(bytes(o))
        if isinstance(o, textual_types) or _is_django_promise(o):
            return str(o)
        return super().default(o)


def _inherited(o: Any) -> tuple[str | None, Callable[[Any], Any]] | None:
    # The nearest class; what is only registered with an ABC comes in the order of registration.
    for parent in type(o).__mro__:
        if parent in _encoders:
            return _encoders[parent]
    return next((known for t, known in _encoders.items() if isinstance(o, t)), None)


def _refuse_lookalikes(o: Any) -> None:
    """Raise ValueError if a mapping of the caller's would be read as a marked value: as another object."""
    seen: set[int] = set()
    pending = [o]
    while pending:
        value = pending.pop()
        if id(value) in seen or not isinstance(value, (dict, list, tuple)):
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            if len(value) == 2 and '__type__' in value and '__value__' in value:
                raise ValueError(
                    'a mapping of __type__ and __value__ is how JSON carries other types: '
                    f'it would be read as {str(value["__type__"])[:40]!r}'
                )
            pending.extend(value.values())
        else:
            pending.extend(value)


def _marked(marker: str, value: Any) -> dict[str, Any]:
    return {'__type__': marker, '__value__': value}


def _bytes(o: bytes) -> dict[str, Any]:
    try:
        return _marked('bytes', o.decode('utf-8'))
    except UnicodeDecodeError:
        return _marked('base64', base64.b64encode(o).decode('ascii'))


def _is_django_promise(o: Any) -> bool:
    # Only a program that has imported Django can hold such an object: it is never imported for this.
    django = sys.modules.get('django.utils.functional')
    return django is not None and isinstance(o, django.Promise)


def _one_shot() -> Callable[[Any], str]:
    # json.JSONEncoder builds a new C encoder for every call, which costs more than encoding a small message
    # does. This one is built once; without the table of containers it keeps no state between calls.
    plain = JSONEncoder()
    make = getattr(_encoder, 'c_make_encoder', None)
    if make is None:
        return plain.encode
    try:
        write = make(
            None, plain.default, _encoder.encode_basestring_ascii, None, ': ', ', ', False, False, True
        )
        write({'probe': [1, 'x', None]}, 0)
    except TypeError:  # another Python, another signature: the public way is right everywhere
        return plain.encode

    def fast(o: Any) -> str:
        """`dumps` without options; what an object is made of, and what is refused, is as there."""
        try:
            text = ''.join(write(o, 0))
        except RecursionError:
            return plain.encode(o)  # tells a circle (ValueError) from mere depth
        if '"__type__"' in text:
            _refuse_lookalikes(o)
        return text

    return fast


#: `dumps` without options: object → text. What the json serializer calls.
encode = _one_shot()


def dumps(
    s: Any,
    _dumps: Callable[..., str] = json.dumps,
    cls: type[json.JSONEncoder] = JSONEncoder,
    default_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> str:
    """Write an object as JSON text.

    Arguments:
        cls (type): the encoder class.
        default_kwargs (dict[str, Any]): options of `json.dumps`, below those in `kwargs`.
    Raises:
        TypeError: an object inside has a type that is not known.
        ValueError: an object contains itself, or a mapping would be read as a marked value.
    Source: kombu.utils.json.dumps; differs: kombu writes such a mapping, and reads another object.
    """
    if not kwargs and not default_kwargs and cls is JSONEncoder and _dumps is json.dumps:
        return encode(s)
    text = _dumps(s, cls=cls, **{**(default_kwargs or {}), **kwargs})
    if '"__type__"' in text:
        _refuse_lookalikes(s)
    return text


def object_hook(o: dict[str, Any]) -> Any:
    """Turn a marked value back into its object; other mappings come back as they are.

    Raises:
        ValueError: nobody has registered the marker.
    Source: kombu.utils.json.object_hook.
    """
    if len(o) != 2 or '__type__' not in o or '__value__' not in o:
        return o
    marker = o['__type__']
    decode = _decoders.get(marker) if isinstance(marker, str) else None
    if decode is None:
        raise ValueError(f'unsupported type marker {marker!r}: known are {", ".join(sorted(_decoders))}')
    return decode(o['__value__'])


_hooked: Any = json.JSONDecoder(object_hook=object_hook)
_plain: Any = json.JSONDecoder()


def loads(
    s: Any,
    _loads: Callable[..., Any] = json.loads,
    decode_bytes: bool = True,
    object_hook: Callable[[dict[str, Any]], Any] | None = object_hook,
) -> Any:
    """Read JSON text, or UTF-8 bytes of it.

    Arguments:
        s (str or bytes): bytearray and memoryview do as well.
        object_hook (Callable): called for each mapping, returns what takes its place.
    Raises:
        ValueError: that is no JSON, a marker is unknown or its value is wrong.
        UnicodeDecodeError: the bytes are not UTF-8 (a ValueError).
    Source: kombu.utils.json.loads.
    """
    if _loads is json.loads and object_hook is _default_hook and decode_bytes:
        return decode(s)
    if isinstance(s, memoryview):
        s = s.tobytes()
    if isinstance(s, (bytes, bytearray)) and decode_bytes:
        s = s.decode('utf-8')
    return _loads(s, object_hook=object_hook)


_default_hook = object_hook


def _decode(s: Any) -> Any:
    """Read JSON as `loads` without options does. What the json serializer calls."""
    if s.__class__ is bytes:
        s = str(s, 'utf-8')
    elif not isinstance(s, str):
        s = _utf8(s)
    # A Python call for each mapping is most of the work, and few messages need it. A backslash-u escape of
    # Latin-1 could spell the marker, so its presence takes the full way too.
    decoder = _plain if '__type__' not in s and '\\u00' not in s else _hooked
    try:
        value, end = decoder.scan_once(s, 0)
    except StopIteration:
        return decoder.decode(s)  # leading white space, or an error that it words well
    return value if end == len(s) else decoder.decode(s)


def _decode_by_msgspec(s: Any) -> Any:
    """Read JSON as `loads` without options does, by msgspec. What the json serializer calls."""
    if s.__class__ is str:
        plain = '__type__' not in s and '\\u00' not in s
    else:
        plain = s.__class__ is bytes and b'__type__' not in s and b'\\u00' not in s
    if not plain:
        return _decode(s)
    try:
        return _read(s)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _decode(s)  # NaN, half a pair of surrogates, a float beyond a double; and errors are ours


# msgspec reads what the standard library reads, to the same values, or it refuses. It does not write here: it
# knows types by itself that travel as marked values.
decode = _decode if msgspec is None else _decode_by_msgspec
_read = None if msgspec is None else msgspec.json.Decoder().decode


def _utf8(s: Any) -> str:
    if not isinstance(s, (bytes, bytearray, memoryview)):
        raise TypeError(f'the JSON object must be str, bytes or bytearray, not {type(s).__name__}')
    return str(s, 'utf-8')


def register_type(
    t: type[Any],
    marker: str | None,
    encoder: Callable[[Any], Any],
    decoder: Callable[[Any], Any] | None = lambda d: d,
) -> None:
    """Teach JSON a type (and its subclasses), in this process.

    Arguments:
        marker (str): names the type on the wire; None writes the encoder's result bare, and nothing turns
            it back.
        encoder (Callable): object → something that JSON knows.
        decoder (Callable): the way back.
    Source: kombu.utils.json.register_type.
    """
    _encoders[t] = (marker, encoder)
    if marker is not None and decoder is not None:
        _decoders[marker] = decoder


def _datetime(text: str) -> datetime:
    # Python 3.10 does not read the Z that JavaScript clients write.
    return datetime.fromisoformat(text[:-1] + '+00:00' if text.endswith('Z') else text)


def _decimal(text: Any) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError as exc:
        raise ValueError(f'not a decimal number: {text!r}') from exc


def _uuid(value: Any) -> UUID:
    return UUID(str(value['hex'] if isinstance(value, dict) else value))


def _register_default_types() -> None:
    register_type(datetime, 'datetime', datetime.isoformat, _datetime)
    register_type(date, 'date', date.isoformat, lambda o: _datetime(o).date())
    register_type(time, 'time', time.isoformat, time.fromisoformat)
    register_type(Decimal, 'decimal', str, _decimal)
    register_type(UUID, 'uuid', lambda o: {'hex': o.hex}, _uuid)
    _decoders['bytes'] = lambda o: o.encode('utf-8')
    _decoders['base64'] = lambda o: base64.b64decode(o.encode('utf-8'))


_register_default_types()
