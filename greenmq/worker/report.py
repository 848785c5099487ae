"""All that is told of a worker at one moment, whatever it is shown as."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from greenmq import pools

__all__ = ('Durations', 'Report', 'pool_figures')


class Durations:
    """How long things took, counted for a histogram.

    Attributes:
        buckets (tuple[float, ...]): upper bounds in seconds; above the last one is one bucket more.
        counts (list[int]): how many, for each bucket.
        seconds (float): all of them together.
    """

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.buckets = buckets
        self.counts = [0] * (len(buckets) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(self.buckets, seconds)] += 1
        self.seconds += seconds


@dataclass(frozen=True)
class Report:
    """One look at a worker.

    Attributes:
        name (str): the class.
        status (dict): as `ConsumerMixin.status` gives it.
        answer (float | None): seconds that the broker took to answer lately; None: it did not.
        seconds (float): how long it has been running.
        rate (float): callbacks a second, over the last half minute.
        lag (float), worst_lag (float): seconds that the hub was late at the last look, and at most.
        confirms (Durations): from a publish to the broker's confirm, since this is served.
        errors (list[tuple[float, str]]): seconds ago and text of the last ones, newest first; the last
            one of each consumer's callbacks among them.
    """

    name: str
    status: dict[str, Any]
    answer: float | None
    seconds: float
    rate: float
    lag: float
    worst_lag: float
    confirms: Durations
    errors: list[tuple[float, str]]

    @property
    def ready(self) -> bool:
        """Is there a consumer, does each one consume, and has the broker answered? (P25)"""
        consumers = self.status['consumers']
        if self.status['state'] != 'consuming' or not consumers or self.answer is None:
            return False
        return all(consumer['consuming'] for consumer in consumers)


def pool_figures() -> Iterator[tuple[str, str, int, int | None]]:
    """Of each pool of the process: its kind, its broker without password, how many are in use, its limit."""
    for kind, group in (('connections', pools.connections), ('producers', pools.producers)):
        for pool in list(group.values()):
            stats = pool.stats()
            yield kind, pool.label, stats.in_use, stats.limit
