"""AMQP 0-9-1 on RabbitMQ; kombu's names of the transport.

Read in this order: `frames` (bytes), `handshake`, `link` (one socket's life: reader, writer, heartbeat),
`wirechannel` (calls and replies), `publishing`, `settling` and `consuming` (the two sides of a channel),
`sharedwire` (what leases publish together), `channel` (what users hold), `connection` (what outlives a
link: recovery), `transport` (options and hosts).
"""

from __future__ import annotations

from .channel import Channel
from .connection import Connection
from .message import Message
from .transport import DEFAULT_PORT, DEFAULT_SSL_PORT, SSLTransport, Transport

__all__ = [
    'DEFAULT_PORT',
    'DEFAULT_SSL_PORT',
    'Channel',
    'Connection',
    'Message',
    'SSLTransport',
    'Transport',
]
