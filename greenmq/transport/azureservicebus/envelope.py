"""kombu's envelope in a message of the service, and back.

The envelope is JSON in one data section. Beside it go what the service reads itself: the message's id, by
which queues with duplicate detection know it again, its session, when it is due and when it ends.

Nothing here switches.
"""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from greenmq.exceptions import DecodeError, InvalidArgument
from greenmq.transport.amqp10 import message as sections
from greenmq.transport.amqp10.codec import Symbol, Timestamp
from greenmq.transport.amqp10.codec import decode as decode_value
from greenmq.transport.amqp10.errors import Malformed
from greenmq.transport.amqp10.performatives import plain
from greenmq.transport.driver import Put, strangers
from greenmq.utils.encoding import bytes_to_str
from greenmq.utils.json import dumps, loads
from greenmq.utils.json import encode as to_json

__all__ = ('AzureMessage', 'decode', 'encode', 'glance', 'message_id', 'wrapped')

#: Letters of a message's id and of a session's.
LONGEST = 128
#: The session of a message that names none, in a queue that takes sessions only.
NO_SESSION = 'default'

#: What deliveries say of themselves here, and messages do not.
OURS = ('azure_message', 'azure_queue_name')

_SCHEDULED = 'x-opt-scheduled-enqueue-time'
_LOCKED, _NUMBER, _ENQUEUED = (
    Symbol('x-opt-locked-until'), Symbol('x-opt-sequence-number'), Symbol('x-opt-enqueued-time'),
)  # fmt: skip
_MOST_TTL = (1 << 32) - 1
#: How compounds and binaries begin, with a size of one byte, of four, and none.
_SHORT, _LONG, _EMPTY = frozenset((0xC0, 0xC1, 0xA0)), frozenset((0xD0, 0xD1, 0xB0)), 0x45
_HEADER, _DATA = 0x70, 0x75


class AzureMessage:
    """What the service says of a delivery. May be pickled.

    Arguments:
        raw (bytes): the message as it came. tag (bytes): of the delivery, which is the token of its lock.
    """

    __slots__ = ('_found', '_raw', '_tag')

    def __init__(self, raw: bytes, tag: bytes) -> None:
        self._raw = raw
        self._tag = tag
        self._found: sections.Sections | None = None

    def read(self) -> sections.Sections:
        """All its sections, taken apart when somebody asks.

        Raises:
            Malformed: it is no message.
        """
        found = self._found
        if found is None:
            found = self._found = sections.read(self._raw)
        return found

    @property
    def lock_token(self) -> UUID | None:
        """The service's name for the delivery."""
        return UUID(bytes_le=self._tag) if len(self._tag) == 16 else None

    @property
    def header(self) -> Mapping[str, Any]:
        """The header section."""
        return self.read().header

    @property
    def annotations(self) -> Mapping[Any, Any]:
        """The message annotations."""
        return self.read().annotations

    @property
    def properties(self) -> Mapping[str, Any]:
        """The properties, by the names of their fields."""
        return self.read().properties

    @property
    def application_properties(self) -> Mapping[Any, Any]:
        """The application properties."""
        return self.read().program

    def __reduce__(self) -> Any:
        return AzureMessage, (self._raw, self._tag)

    @property
    def delivery_count(self) -> int:
        """How often it was delivered before, and came back."""
        count = self.header.get('delivery_count')
        return count if isinstance(count, int) else 0

    @property
    def sequence_number(self) -> int | None:
        """Its number in the queue."""
        return self.annotations.get(_NUMBER)

    @property
    def locked_until_utc(self) -> datetime.datetime | None:
        """When its lock ended, had it not been renewed since."""
        return sections.moment(self.annotations.get(_LOCKED))  # type: ignore[no-any-return]

    @property
    def enqueued_time_utc(self) -> datetime.datetime | None:
        """When it came into the queue."""
        return sections.moment(self.annotations.get(_ENQUEUED))  # type: ignore[no-any-return]

    @property
    def message_id(self) -> Any:
        """Its publisher's name for it."""
        return self.properties.get('message_id')

    @property
    def session_id(self) -> str | None:
        """Its session."""
        return self.properties.get('group_id')

    @property
    def lock_seconds(self) -> float | None:
        """Seconds that its lock lasts, at most; None if it has none.

        By the service's clock alone from when it came into the queue, or by ours as well where that tells
        less: a clock of ours that is wrong makes it shorter, never longer.
        """
        until, entered = self.annotations.get(_LOCKED), self.annotations.get(_ENQUEUED)
        if not isinstance(until, int):
            return None
        found = until / 1000 - time.time()
        if isinstance(entered, int):
            found = min(found, (until - entered) / 1000)
        return found

    def __repr__(self) -> str:
        return f'<AzureMessage {self.sequence_number}, lock {self.lock_token}>'


def encode(message: dict[str, Any]) -> bytes:
    """A message as the text that goes into the data section."""
    info = message['properties'].get('delivery_info')
    if info and OURS[0] in info:  # of a delivery, on its way to the dead letters
        info = {name: value for name, value in info.items() if name not in OURS}
        message = {**message, 'properties': {**message['properties'], 'delivery_info': info}}
    return to_json(message).encode()


def message_id(item: Put) -> str:
    """The id of a message: what its publisher gave it, else the envelope's own, the same in each try."""
    properties = item.message['properties']
    given = properties.get('message_id')
    return str(properties['delivery_tag'] if given is None else given)


def wrapped(item: Put, sessionful: bool, keeps_expired: bool) -> bytes:
    """Put a message together.

    Arguments:
        sessionful (bool): its queue takes messages of sessions only.
        keeps_expired (bool): the service must not drop it at its end: whoever gets it then dead-letters it.
    Raises:
        InvalidArgument: an id or a session that the service does not take.
    """
    properties = item.message['properties']
    name = _short('message_id', message_id(item))
    session = properties.get('session_id') or properties.get('group_id')
    if session is None and sessionful:
        session = NO_SESSION
    if session is None and not item.delay and item.expires is None:
        return _quick(name, item.payload)
    named: dict[str, Any] = {'message_id': name}
    if session is not None:
        named['group_id'] = _short('session_id', str(session))
    header: dict[str, Any] = {}
    now = time.time()
    if item.expires is not None and not keeps_expired:
        # The service counts from when the message is due.
        header['ttl'] = min(max(int((item.expires - now - item.delay) * 1000), 1), _MOST_TTL)
    annotations: dict[str, Any] = {}
    if item.delay:
        annotations[_SCHEDULED] = Timestamp(int((now + item.delay) * 1000))
    return sections.write(item.payload, header, named, annotations=annotations)


def _short(name: str, value: str) -> str:
    if len(value) > LONGEST:
        raise InvalidArgument(name, value[:40] + '…', f'is longer than the {LONGEST} letters of the service')
    return value


def _quick(name: str, body: bytes) -> bytes:
    # A section of properties with the id alone, and one of data: what most messages are.
    raw = name.encode()
    width = len(raw)
    if width > 250:
        return sections.write(body, properties={'message_id': name})
    return sections.write_after(b'\x00\x53\x73\xc0' + bytes((width + 3, 1, 0xA1, width)) + raw, body)


def glance(raw: bytes) -> tuple[int, bytes | None]:
    """How often a message was delivered before, and its body if that is one section of data.

    Steps over all other sections: most deliveries need no more of them.
    Raises:
        Malformed: it is no message.
    """
    count, body, at, end = 0, None, 0, len(raw)
    while at < end:
        if raw[at : at + 2] != b'\x00\x53' or at + 4 > end:
            return count, None  # descriptors in their long form: whoever reads it takes all apart
        code, form = raw[at + 2], raw[at + 3]
        if form in _SHORT:
            begin = at + 5
            size = raw[at + 4] if begin <= end else end
        elif form in _LONG:
            begin = at + 8
            size = int.from_bytes(raw[at + 4 : begin], 'big')
        elif form == _EMPTY:
            begin, size = at + 4, 0
        else:
            return count, None
        if begin + size > end:
            raise Malformed('a section is longer than its message')
        if code == _DATA:
            if body is not None:
                return count, None
            body = raw[begin : begin + size]
        elif code == _HEADER:
            count = _delivered(raw[at + 3 : begin + size])
        at = begin + size
    return count, body


@functools.lru_cache(256)
def _delivered(header: bytes) -> int:
    # Many messages have the same.
    fields, _ = decode_value(header)
    given = fields[4] if isinstance(fields, list) and len(fields) > 4 else 0
    return given if isinstance(given, int) else 0


def decode(raw: bytes | None, about: AzureMessage, entity: str) -> dict[str, Any]:
    """The message in what came: kombu's envelope, or a stranger's body as it is.

    Arguments:
        raw (bytes | None): its body, if that is one section of data.
    Raises:
        DecodeError: it is none.
    """
    message = (_envelope(raw) if raw is not None else None) or _stranger(about.read())
    info = message['properties'].get('delivery_info')
    if not isinstance(info, dict):
        info = message['properties']['delivery_info'] = {}
    info[OURS[0]], info[OURS[1]] = about, entity
    return message


def _envelope(body: bytes) -> dict[str, Any] | None:
    if body[:1] == b'{':
        try:
            message = loads(bytes_to_str(body))
        except ValueError:
            return None
        if isinstance(message, dict) and isinstance(message.get('properties'), dict):
            return message
    return None


def _stranger(found: sections.Sections) -> dict[str, Any]:
    body: Any = found.body
    kind = found.properties.get('content_type')
    headers = {str(name): plain(value) for name, value in found.program.items()}
    message: dict[str, Any]
    if body is None:
        raise DecodeError('a message without a body')
    message = (_envelope(body) if isinstance(body, bytes) else None) or {}
    if message:
        message.setdefault('headers', {})
    elif isinstance(body, (bytes, str)):
        try:
            message = strangers.message(body if isinstance(body, str) else body.decode())
        except UnicodeDecodeError:
            message = {'body': body, 'content-type': 'application/octet-stream', 'content-encoding': 'binary',
                       'properties': {'delivery_mode': 2}, 'headers': {}}
    else:
        message = {'body': dumps(plain(body)), 'content-type': 'application/json',
                   'content-encoding': 'utf-8', 'properties': {'delivery_mode': 2}, 'headers': {}}
    if kind:
        message['content-type'] = str(kind)
    if not isinstance(message.get('headers'), dict):
        message['headers'] = {}
    message['headers'] = {**headers, **message['headers']}
    _take_over(message['properties'], found.properties)
    return message


def _take_over(properties: dict[str, Any], named: Mapping[str, Any]) -> None:
    for name in ('message_id', 'correlation_id', 'reply_to'):
        value = named.get(name)
        if value is not None:
            properties.setdefault(name, plain(value))
    if named.get('group_id') is not None:
        properties.setdefault('session_id', named['group_id'])
