"""Transports for brokers that only know queues: the AMQP model, done by the client.

`channel` says how to write one.
"""

from __future__ import annotations

from greenmq.transport.virtual.base import (
    AbstractChannel,
    Base64,
    BrokerState,
    Channel,
    Empty,
    Management,
    Message,
    NotEquivalentError,
    QoS,
    Transport,
    UndeliverableWarning,
    binding_key_t,
    queue_binding_t,
)

__all__ = (
    'AbstractChannel', 'Base64', 'BrokerState', 'Channel', 'Empty', 'Management', 'Message',
    'NotEquivalentError', 'QoS', 'Transport', 'UndeliverableWarning', 'binding_key_t', 'queue_binding_t',
)  # fmt: skip
