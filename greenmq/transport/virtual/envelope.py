"""A message on its way through a broker that knows no message properties: a dict, its body encoded if it must
be text.

The dict is kombu's, so both libraries read each other's: body, content-type, content-encoding, headers,
properties (with delivery_tag, delivery_info {exchange, routing_key}, priority, body_encoding, delivery_mode,
…), and `redelivered` on one that was given back. The number of times it was given back stands in the header
`x-delivery-count`, as quorum queues of RabbitMQ have it.
"""

from __future__ import annotations

import base64
from binascii import a2b_base64
from typing import Any

from greenmq.exceptions import DecodeError
from greenmq.message import Message as BaseMessage
from greenmq.utils.encoding import bytes_to_str, str_to_bytes

__all__ = ('DELIVERY_COUNT', 'Base64', 'Message', 'given_back', 'prepare_message')

#: Header: how often the message was given back to its queue.
DELIVERY_COUNT = 'x-delivery-count'


class Base64:
    """Bytes as text.

    Source: kombu virtual.Base64.
    """

    def encode(self, s: Any) -> str:
        """Return base64 text of bytes or str."""
        return base64.b64encode(str_to_bytes(s)).decode('ascii')

    def decode(self, s: Any) -> bytes:
        """Return the bytes of base64 text."""
        # What base64.b64decode comes to, without the three calls it takes for each message.
        return a2b_base64(s)


#: Codecs of bodies, by name.
CODECS: dict[str, Any] = {'base64': Base64()}


def encode_body(self: Any, body: Any, encoding: str | None = None) -> tuple[Any, str | None]:
    """Return a body as the named codec encodes it, and the name. A method of channels."""
    if encoding and encoding.lower() != 'utf-8':
        return self.codecs[encoding].encode(body), encoding
    return body, encoding


def decode_body(self: Any, body: Any, encoding: str | None = None) -> Any:
    """Undo `encode_body`. A method of channels."""
    if encoding and encoding.lower() != 'utf-8':
        return self.codecs[encoding].decode(body)
    return body


class Message(BaseMessage):
    """One delivery of a virtual channel.

    Arguments:
        payload (dict[str, object]): as it came from the broker; kept, and given back just so.
        channel (Channel): where it is settled.
    Attributes:
        queue (str | None): the queue it was taken from, the only one it is given back to.
    Source: kombu virtual.Message; differs: knows its queue.
    """

    __slots__ = ('_raw', 'place', 'queue')

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any) -> None:
        self._raw = payload
        self.queue: str | None = None
        self.place: Any = None  # where in the queue it stood, for a broker that can put it back there
        properties = payload['properties']
        info = dict(properties.get('delivery_info') or ())
        info['redelivered'] = bool(payload.get('redelivered'))
        body = payload.get('body')
        failure: Exception | None = None
        if body:
            try:
                body = channel.decode_body(body, properties.get('body_encoding'))
            except (ValueError, KeyError) as error:
                # Text that is no base64, or an encoding nobody knows: a matter for `decode`, not for who
                # fetches.
                failure = DecodeError(
                    f'the body is not encoded as {properties.get("body_encoding")!r}: {error}'
                )
        super().__init__(
            body=body,
            channel=channel,
            delivery_tag=properties.get('delivery_tag'),
            content_type=payload.get('content-type'),
            content_encoding=payload.get('content-encoding'),
            headers=payload.get('headers'),
            properties=properties,
            delivery_info=info,
            postencode='utf-8',
            **kwargs,
        )
        if failure is not None:
            self._record(failure)

    @property
    def raw(self) -> dict[str, Any]:
        """The payload as it came."""
        return self._raw

    def serializable(self) -> dict[str, Any]:
        """Return the payload as it came, to be given back."""
        raw = self._raw
        return {
            'body': bytes_to_str(raw.get('body'))
            if self.properties.get('body_encoding')
            else raw.get('body'),
            'properties': raw['properties'],
            'content-type': raw.get('content-type'),
            'content-encoding': raw.get('content-encoding'),
            'headers': dict(raw.get('headers') or ()),
        }


def prepare_message(
    self: Any,
    body: Any,
    priority: int | None = None,
    content_type: str | None = None,
    content_encoding: str | None = None,
    headers: dict[str, Any] | None = None,
    properties: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the payload of a message; nothing given is changed later. A method of channels.

    Source: kombu virtual.Channel.prepare_message.
    """
    properties = dict(properties) if properties else {}
    properties['delivery_info'] = dict(properties.get('delivery_info') or ())
    properties.setdefault('priority', priority or self.default_priority)
    return {
        'body': body,
        'content-encoding': content_encoding,
        'content-type': content_type,
        'headers': dict(headers) if headers else {},
        'properties': properties,
    }


#: Fields of a payload → what they may hold. A map that lacks one is a message all the same.
_FIELDS: dict[str, tuple[type, ...]] = {
    'body': (str, bytes, bytearray, memoryview, type(None)),
    'content-type': (str, type(None)),
    'content-encoding': (str, type(None)),
    'headers': (dict, type(None)),
    'properties': (dict,),
}
_IN_PROPERTIES: dict[str, tuple[type, ...]] = {
    'body_encoding': (str, type(None)),
    'delivery_info': (dict, type(None)),
}
_IN_DELIVERY_INFO: dict[str, tuple[type, ...]] = {
    'exchange': (str, type(None)),
    'routing_key': (str, type(None)),
}


def check_payload(payload: Any) -> None:
    """Check that what a queue of text held is a message: fields of the right kinds.

    Raises:
        DecodeError: it names the field.
    """
    if not isinstance(payload, dict):
        raise DecodeError(f'it is no message but of type {type(payload).__name__}')
    if _is_usual(payload):
        return
    _check_fields(payload, _FIELDS)
    properties = payload.get('properties')
    if properties is None:
        raise DecodeError('it is no message: it has no properties')
    _check_fields(properties, _IN_PROPERTIES)
    _check_fields(properties.get('delivery_info') or {}, _IN_DELIVERY_INFO)


#: What JSON makes of a text that may be missing, and of a map that may be.
_TEXT = frozenset((str, type(None)))
_MAP = frozenset((dict, type(None)))


def _is_usual(payload: dict[str, Any]) -> bool:
    # What nearly every message passes, in one look: the loops below are for naming what is wrong.
    get = payload.get
    properties = get('properties')
    if properties.__class__ is not dict:
        return False
    info = properties.get('delivery_info')
    return (
        get('body').__class__ in _TEXT
        and get('content-type').__class__ in _TEXT
        and get('content-encoding').__class__ in _TEXT
        and get('headers').__class__ in _MAP
        and properties.get('body_encoding').__class__ in _TEXT
        and info.__class__ is dict
        and info.get('exchange').__class__ in _TEXT
        and info.get('routing_key').__class__ in _TEXT
    )


def _check_fields(fields: dict[str, Any], kinds: dict[str, tuple[type, ...]]) -> None:
    for name, allowed in kinds.items():
        value = fields.get(name)
        if value is not None and not isinstance(value, allowed):
            raise DecodeError(f'its {name} is of type {type(value).__name__}')


def given_back(message: Any) -> dict[str, Any]:
    """Return the payload of a delivery as it goes back to its queue: marked, and counted once more."""
    payload: dict[str, Any] = message.serializable()
    if getattr(message, 'unseen', False):
        # It waited for a callback that never came: as new. Else a prefetched message could die of cancels.
        payload['redelivered'] = bool(message.delivery_info.get('redelivered'))
        return payload
    headers = payload['headers'] = dict(payload.get('headers') or ())
    headers[DELIVERY_COUNT] = delivery_count(headers) + 1
    payload['redelivered'] = True
    return payload


def delivery_count(headers: Any) -> int:
    """Return how often a message with these headers was given back."""
    count = (headers or {}).get(DELIVERY_COUNT, 0)
    return count if isinstance(count, int) and count > 0 else 0
