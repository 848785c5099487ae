"""AMQP 1.0 for the transports that speak it: `qpid`, and whatever broker has its own names for queues.

`codec.py` has the types, `performatives.py` the frames' bodies and `frames.py` the frames; `sasl.py` logs in,
`message.py` has the sections of a message. `engine.py`, `session.py` and `links.py` keep the books of one
connection without a wait, `connection.py` is its reader, its writer, and whoever waits for an answer.
"""

from __future__ import annotations

from greenmq.transport.amqp10.connection import Connection
from greenmq.transport.amqp10.engine import Limits

__all__ = ('Connection', 'Limits')
