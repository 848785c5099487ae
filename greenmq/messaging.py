"""Sending and receiving: `Producer` and `Consumer`, with the entities they work on.

Their code is in `greenmq.publishing` and `greenmq.consuming`.
"""

from __future__ import annotations

from greenmq.common import maybe_declare
from greenmq.consuming.consumer import Consumer
from greenmq.entity import Exchange, Queue, maybe_delivery_mode
from greenmq.publishing.batch import DEFAULT_BATCH_SIZE
from greenmq.publishing.later import ConfirmLater
from greenmq.publishing.producer import Producer

__all__ = (
    'DEFAULT_BATCH_SIZE', 'ConfirmLater', 'Consumer', 'Exchange', 'Producer', 'Queue', 'maybe_declare',
    'maybe_delivery_mode',
)  # fmt: skip
