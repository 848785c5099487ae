"""The numbers of a pool, and the text that tells who has everything when nothing is free."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from greenmq import runtime
from greenmq.pooling.lease import Lease

_NAMED = 5  # how many holders the text names: the oldest ones


class PoolStats(NamedTuple):
    """What a pool has, and has done since it was made. Waits are in seconds, of the last 1,024 that had to
    wait. ``discarded`` counts by cause: dead, failed, replaced, orphaned, idle, old, shrunk, closed.
    """

    limit: int | None
    size: int
    in_use: int
    free: int
    opening: int
    waiting: int
    opened: int
    discarded: dict[str, int]
    wait_p50: float
    wait_p99: float


def percentile(values: Iterable[float], percent: int) -> float:
    """The value that `percent` of a hundred do not exceed; 0.0 of none."""
    ordered = sorted(values)
    return ordered[len(ordered) * percent // 100] if ordered else 0.0


def nothing_free(name: str, limit: int | None, leases: Collection[Lease], waited: float | None) -> str:
    """The text of LimitExceeded."""
    now = runtime.monotonic()
    oldest = sorted(leases, key=lambda lease: lease.since)[:_NAMED]
    held = ', '.join(f'{lease.holder()} for {now - lease.since:.1f} s' for lease in oldest)
    more = len(leases) - len(oldest)
    text = f'pool {name} ({len(leases)} of {limit} in use): nothing free'
    if waited is not None:
        text += f' within {waited:g} s'
    if held:
        text += f'; held by {held}' + (f' and {more} more' if more > 0 else '')
    return text
