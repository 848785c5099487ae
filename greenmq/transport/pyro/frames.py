"""Pyro's messages, cut from what a stream brings, and the serializers that are safe to read strangers by."""

from __future__ import annotations

from typing import Any

from Pyro5 import errors, protocol, serializers

from greenmq import runtime

__all__ = ('HEADER', 'MOST', 'Frames', 'frame', 'serializer_of')

#: Bytes of a message's head, and of the largest message that is read.
HEADER, MOST = 40, 256 * 1024 * 1024
#: marshal is not among them: it may be made to crash the interpreter.
_SAFE = ('json', 'serpent', 'msgpack')


def serializer_of(key: str | int) -> Any:
    """Return a serializer by its name or number.

    Raises:
        ProtocolError: there is none, or it is not safe.
    """
    for name in _SAFE:
        found = serializers.serializers.get(name)
        if found is not None and key in (name, found.serializer_id):
            return found
    raise errors.ProtocolError(f'serializer {key!r} is none of {", ".join(_SAFE)}')


def frame(kind: int, number: int, serializer: Any, data: bytes, flags: int = 0) -> bytes:
    """Return the bytes of a message."""
    return bytes(protocol.SendingMessage(kind, flags, number, serializer.serializer_id, data).data)


class Frames:
    """The messages that come on one stream."""

    def __init__(self, stream: runtime.Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._at = 0

    def next(self, deadline: Any = None) -> Any:
        """Return the next message, as Pyro's ReceivingMessage; None at the end of the stream.

        Raises:
            ProtocolError: the other side speaks something else, or too much.
        Switches: unless one is here.
        """
        while True:
            message = self._cut()
            if message is not None:
                return message
            data = self._stream.read(deadline=deadline)
            if not data:
                return None
            del self._buffer[: self._at]
            self._at = 0
            self._buffer += data

    def _cut(self) -> Any:
        here = len(self._buffer) - self._at
        if here < HEADER:
            if here >= 4:
                protocol.ReceivingMessage.validate(bytes(self._buffer[self._at : self._at + min(here, 6)]))
            return None
        message = protocol.ReceivingMessage(bytes(self._buffer[self._at : self._at + HEADER]))
        size = message.annotations_size + message.data_size
        if size > MOST:
            raise errors.ProtocolError(f'a message of {size} bytes is more than {MOST}')
        if here < HEADER + size:
            return None
        start = self._at + HEADER
        message.add_payload(bytes(self._buffer[start : start + size]))
        self._at = start + size
        return message
