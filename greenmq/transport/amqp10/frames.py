"""Frames of AMQP 1.0: cut out of a stream of bytes, and put together for it.

A connection begins with eight bytes that name the protocol, once for the login (`SASL_HEADER`) and once for
what follows (`HEADER`); then there are frames only.
"""

from __future__ import annotations

import struct
from typing import Any

from greenmq.transport.amqp10.errors import Malformed
from greenmq.transport.amqp10.performatives import pack

__all__ = ('EMPTY', 'HEADER', 'MIN_FRAME', 'SASL_HEADER', 'Parser', 'frame')

HEADER = b'AMQP\x00\x01\x00\x00'
SASL_HEADER = b'AMQP\x03\x01\x00\x00'
#: Says that we are alive.
EMPTY = b'\x00\x00\x00\x08\x02\x00\x00\x00'
#: Bytes that every peer takes in one frame, login included.
MIN_FRAME = 512

AMQP, SASL = 0, 1

_head = struct.Struct('>IBBH')


def frame(channel: int, body: Any, payload: bytes = b'', kind: int = AMQP) -> bytes:
    """Put a frame together.

    Arguments:
        body: one of `performatives`.
        payload (bytes): follows it: of a transfer.
    """
    packed = pack(body)
    return _head.pack(8 + len(packed) + len(payload), 2, kind, channel) + packed + payload


def raw_frame(channel: int, packed: bytes, payload: bytes = b'') -> bytes:
    """As `frame`, of a body that is packed already."""
    return _head.pack(8 + len(packed) + len(payload), 2, AMQP, channel) + packed + payload


class Parser:
    """Cuts what comes into protocol headers and frames, whatever the pieces it comes in.

    Arguments:
        max_frame (int): bytes of a frame that we take.
    """

    def __init__(self, max_frame: int) -> None:
        self.max_frame = max_frame
        self._buffer = b''
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Bytes have come."""
        rest = self._buffer[self._at :] if self._at else self._buffer
        self._buffer = rest + data if rest else data
        self._at = 0

    def header(self) -> bytes | None:
        """The next eight bytes, as a protocol header; None if they are not there yet."""
        if len(self._buffer) - self._at < 8:
            return None
        self._at += 8
        return self._buffer[self._at - 8 : self._at]

    def frame(self) -> tuple[int, int, bytes] | None:
        """The next frame; None if it is not there yet.

        Returns:
            tuple[int, int, bytes]: kind, channel, what it holds (nothing, of a heartbeat).
        Raises:
            Malformed: it is none, or longer than we said we take.
        """
        buffer, at = self._buffer, self._at
        if len(buffer) - at < 8:
            return None
        size, offset, kind, channel = _head.unpack_from(buffer, at)
        if size < 8 or offset < 2 or offset * 4 > size:
            raise Malformed(f'no frame: {size} bytes, its body after {offset} words')
        if size > self.max_frame:
            raise Malformed(f'a frame of {size} bytes, {self.max_frame} at most were agreed')
        if len(buffer) - at < size:
            return None
        self._at = at + size
        return kind, channel, buffer[at + offset * 4 : at + size]

    @property
    def waiting(self) -> int:
        """Bytes of what is not whole yet."""
        return len(self._buffer) - self._at
