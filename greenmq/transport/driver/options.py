"""The transport options that every driver has, and how they become settings: one table, read once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenmq.transport.options import COMMON_OPTIONS, EXPIRY_OPTIONS, Option, seconds, whole

__all__ = ('OPTIONS', 'settings_of')

OPTIONS: dict[str, Option] = {
    **EXPIRY_OPTIONS,
    'fetch_ahead': Option(whole, 100, 'messages that may wait here while the program sets no prefetch'),
    'fetch_bytes': Option(whole, 32 * 1024 * 1024, 'bytes of payloads that one fetch asks for, about'),
    'max_deliveries': Option(whole, 0, 'deliveries of a message before it is dead-lettered; 0 is unlimited'),
    'deadletter_queue': Option(None, None, 'where messages go that no queue is bound for'),
    'body_encoding': Option(
        None, None, "how bodies are written: base64, or none for text; default: the transport's own"
    ),
    'polling_interval': Option(
        seconds, 1.0, 'longest pause in seconds between two looks, where the broker can only be polled'
    ),
    'wait_time_seconds': Option(seconds, None, 'seconds that one fetch waits at the broker'),
    'lease_timeout': Option(seconds, None, 'seconds that a delivery is ours without a renewal'),
    'sweep_interval': Option(seconds, 15.0, 'seconds between two looks for what dead consumers hold'),
    'operation_timeout': Option(
        seconds, 30.0, 'deadline in seconds of what names none: declaring, counting, settling'
    ),
}


def settings_of(table: Mapping[str, Option], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the value of every option: what was given, else its default."""
    settings = {name: option.default for name, option in {**COMMON_OPTIONS, **OPTIONS, **table}.items()}
    settings.update((name, value) for name, value in (given or {}).items() if value is not None)
    return settings
