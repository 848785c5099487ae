"""A message of ours as the sections of AMQP 1.0, so that other clients of the broker can read it, and back.

The body is a data section, as it is. Headers are application properties; what AMQP has no type for there
(maps, lists), and properties that it has no place for, go as JSON text in one of them, `JSON`. The routing
key is the subject.

Nothing here switches.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from greenmq.exceptions import DecodeError, InvalidArgument
from greenmq.transport.amqp10 import message as sections
from greenmq.transport.amqp10.codec import Array, Described, Symbol, Timestamp
from greenmq.transport.amqp10.performatives import plain
from greenmq.transport.virtual.envelope import DELIVERY_COUNT, Base64
from greenmq.utils.json import dumps, loads

__all__ = ('JSON', 'decode', 'encode')

#: Application property: what has no other place.
JSON = 'greenmq-json'

#: Properties that both have, and that may be other than text.
_NAMES = ('message_id', 'correlation_id', 'reply_to')
#: Properties that are said elsewhere, or mean nothing to the next one.
_SAID = frozenset(
    ('body_encoding', 'delivery_info', 'delivery_mode', 'delivery_tag', 'priority', 'expiration', *_NAMES)
)
#: Annotations in which brokers tell where a message was published.
_EXCHANGES = ('x-exchange',)
_KEYS = ('x-routing-key',)
_PLAIN = frozenset((str, bytes, float, bool, type(None)))
_TEXT = frozenset((str, type(None)))
_SIMPLE = (str, bytes, float, UUID, datetime.datetime)
_MOST = (1 << 63) - 1

_base64 = Base64()


def _fits(value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return -_MOST <= value <= _MOST
    return isinstance(value, _SIMPLE)


def _raw(body: Any, encoding: str | None) -> bytes:
    if body is None:
        return b''
    if encoding == 'base64':
        return _base64.decode(body)
    return body.encode() if isinstance(body, str) else bytes(body)


def encode(message: dict[str, Any], to: Callable[[str, str], str | None] | None = None) -> bytes:
    """Put a message together.

    Arguments:
        to (Callable): exchange, routing key → what the message says of where it goes.

    Raises:
        InvalidArgument: a property that AMQP can't say.
    """
    properties = message['properties']
    info = properties.get('delivery_info') or {}
    exchange, key = info.get('exchange') or '', info.get('routing_key') or ''
    # Said always: one that is not said is 4 to AMQP, so that 1 would come after what has none.
    priority = min(max(int(properties.get('priority') or 0), 0), 255)
    header = (properties.get('delivery_mode', 2) != 1, priority, _milliseconds(properties.get('expiration')))
    name, answers = _name(properties.get('message_id')), _name(properties.get('correlation_id'))
    reply_to = _name(properties.get('reply_to'))
    kind, charset = message.get('content-type'), message.get('content-encoding')
    named = (name, None, to and to(exchange, key), key, reply_to, answers, kind, charset)
    # Names are new in each message. Without one it begins as the last one did.
    recurs = name is answers is reply_to is None and type(kind) in _TEXT and type(charset) in _TEXT
    first = sections.recurring_front(header, named) if recurs else sections.front(header, named)
    program: dict[str, Any] = {}
    rest: dict[str, dict[str, Any]] = {}
    for each, value in (message.get('headers') or {}).items():
        if isinstance(each, str) and (type(value) in _PLAIN or _fits(value)):
            program[each] = value
        else:
            rest.setdefault('headers', {})[str(each)] = value
    for each, value in properties.items():
        if each not in _SAID and value is not None:
            rest.setdefault('properties', {})[each] = value
    if exchange:
        rest.setdefault('properties', {})['exchange'] = exchange
    if rest:
        program[JSON] = dumps(rest)
    return sections.write_after(first, _raw(message.get('body'), properties.get('body_encoding')), program)


def _milliseconds(ttl: Any) -> int | None:
    if ttl is None:
        return None
    milliseconds = int(ttl)
    if not 0 <= milliseconds < 1 << 32:
        raise InvalidArgument('expiration', ttl, 'is more than AMQP can say: 49 days')
    return milliseconds


def _name(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, bytes, UUID)) else str(value)


def decode(payload: bytes, queue: str) -> dict[str, Any]:
    """Take a message apart, ours or a stranger's.

    Raises:
        DecodeError: it is none.
    """
    found = sections.read(payload)
    if not found.is_data and isinstance(found.body, dict) and 'properties' in found.body:
        return _of_kombu(found.body)
    header, named = found.header, found.properties
    headers: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    if found.program:
        headers = {
            name: value if type(value) in _PLAIN else _pythonic(value)
            for name, value in found.program.items() if isinstance(name, str) and name != JSON
        }  # fmt: skip
        rest = _rest(found.program.get(JSON))
        headers.update(rest.get('headers') or {})
        properties.update(rest.get('properties') or {})
    for name in _NAMES:
        value = named.get(name)
        if value is not None:
            properties[name] = value if type(value) is str else plain(value)
    properties['delivery_mode'] = 2 if header.get('durable') else 1
    properties['priority'] = header.get('priority', 0)
    annotations = found.annotations
    exchange = properties.pop('exchange', None) or (annotations and _first(annotations, _EXCHANGES)) or ''
    key = named.get('subject') or (annotations and _first(annotations, _KEYS)) or queue
    properties['delivery_info'] = {'exchange': exchange, 'routing_key': key}
    body, kind, charset = found.body, named.get('content_type'), named.get('content_encoding')
    if not found.is_data:
        body, kind, charset = _body_of(found.body, kind, charset)
    count = header.get('delivery_count')
    if isinstance(count, int) and count > 0:
        headers[DELIVERY_COUNT] = count
    return {
        'body': body,
        'content-type': None if kind is None else str(kind),
        'content-encoding': None if charset is None else str(charset),
        'headers': headers,
        'properties': properties,
        'redelivered': bool(count) or header.get('first_acquirer') is False,
    }


def _first(annotations: Mapping[Any, Any], names: tuple[str, ...]) -> str:
    for name in names:
        value = annotations.get(Symbol(name))
        if isinstance(value, str):
            return str(value)
    return ''


def _rest(text: Any) -> dict[str, Any]:
    if not isinstance(text, str):
        return {}
    try:
        rest = loads(text)
    except ValueError as error:
        raise DecodeError(f'its {JSON} is no JSON: {error}') from None
    if not isinstance(rest, dict) or not all(isinstance(part, dict) for part in rest.values()):
        raise DecodeError(f'its {JSON} is no map of maps')
    return rest


def _pythonic(value: Any) -> Any:
    if isinstance(value, Timestamp):
        return sections.moment(value)
    return plain(value) if isinstance(value, (Symbol, Array, Described)) else value


def _body_of(value: Any, kind: Any, charset: Any) -> tuple[Any, Any, Any]:
    # A stranger's body that is no bytes: text stays text, anything else becomes JSON.
    if isinstance(value, bytes):
        return value, kind, charset
    if isinstance(value, str):
        return value.encode(), kind or 'text/plain', 'utf-8'
    if value is None:
        return b'', kind, charset
    return dumps(plain(value)).encode(), 'application/json', 'utf-8'


def _of_kombu(body: dict[Any, Any]) -> dict[str, Any]:
    # What kombu's transport of Python 2 wrote: read if it is met, written by nobody.
    message = plain(body)
    for name in ('headers', 'properties'):
        if not isinstance(message.get(name) or {}, dict):
            raise DecodeError(f'its {name} are no map')
    message.setdefault('headers', {})
    info = message['properties'].setdefault('delivery_info', {})
    if not isinstance(info, dict):
        raise DecodeError('its delivery_info is no map')
    return dict(message)
