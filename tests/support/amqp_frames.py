"""Frames as a broker sends them, built without the code under test."""
from __future__ import annotations

import struct

from amqp import spec
from amqp.serialization import dumps

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
NAMES = {getattr(cls, name): f'{cls.__name__}.{name}' for cls in (
    spec.Connection, spec.Channel, spec.Exchange, spec.Queue, spec.Basic, spec.Confirm, spec.Tx)
    for name in vars(cls) if isinstance(getattr(cls, name), tuple)}


def frame(kind, channel, payload):
    return struct.pack('>BHI', kind, channel, len(payload)) + payload + b'\xce'


def method(channel, signature, types='', arguments=()):
    """One method frame: `method(1, spec.Basic.Ack, 'Lb', (1, False))`."""
    return frame(METHOD, channel, struct.pack('>HH', *signature) + dumps(types, arguments))


def content(channel, body, properties=b'\x00\x00', piece=4000):
    """Header and body frames of one message."""
    head = frame(HEADER, channel, struct.pack('>HHQ', 60, 0, len(body)) + properties)
    return head + b''.join(frame(BODY, channel, body[at:at + piece]) for at in range(0, len(body), piece))
