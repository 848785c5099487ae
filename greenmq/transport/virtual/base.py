"""kombu's names of the virtual transport; what they are is in the modules beside this one."""

from __future__ import annotations

from greenmq.transport.virtual.channel import (
    UNDELIVERABLE_FMT,
    AbstractChannel,
    Channel,
    Empty,
    UndeliverableWarning,
)
from greenmq.transport.virtual.entities import NOT_EQUIVALENT_FMT, NotEquivalentError
from greenmq.transport.virtual.envelope import Base64, Message
from greenmq.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES
from greenmq.transport.virtual.qos import RESTORE_PANIC_FMT, RESTORING_FMT, QoS
from greenmq.transport.virtual.state import BrokerState, binding_key_t, queue_binding_t, queue_declare_ok_t
from greenmq.transport.virtual.transport import W_NO_CONSUMERS, Management, Transport

__all__ = (
    'ARRAY_TYPE_H', 'NOT_EQUIVALENT_FMT', 'RESTORE_PANIC_FMT', 'RESTORING_FMT', 'STANDARD_EXCHANGE_TYPES',
    'UNDELIVERABLE_FMT', 'W_NO_CONSUMERS', 'AbstractChannel', 'Base64', 'BrokerState', 'Channel', 'Empty',
    'Management', 'Message', 'NotEquivalentError', 'QoS', 'Transport', 'UndeliverableWarning',
    'binding_key_t', 'queue_binding_t', 'queue_declare_ok_t',
)  # fmt: skip

#: Type code of an array of channel numbers. Kept for programs that import it.
ARRAY_TYPE_H = 'H'
