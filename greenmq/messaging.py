"""Sending and receiving: `Producer` and `Consumer`, with the entities they work on.

Their code is in `greenmq.producer` and `greenmq.consumer`.
"""

from __future__ import annotations

from greenmq.batch import DEFAULT_BATCH_SIZE
from greenmq.common import maybe_declare
from greenmq.consumer import Consumer
from greenmq.entity import Exchange, Queue, maybe_delivery_mode
from greenmq.producer import Producer

__all__ = (
    'DEFAULT_BATCH_SIZE', 'Consumer', 'Exchange', 'Producer', 'Queue', 'maybe_declare', 'maybe_delivery_mode',
)  # fmt: skip
