"""All that is told of a worker at one moment, whatever it is shown as."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from greenmq import pools

__all__ = ('Report', 'pool_figures')


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
        errors (list[str]): the last ones, oldest first, those of callbacks apart.
    """

    name: str
    status: dict[str, Any]
    answer: float | None
    seconds: float
    rate: float
    lag: float
    worst_lag: float
    errors: list[str]

    @property
    def ready(self) -> bool:
        """Is there a consumer, does each one consume, and has the broker answered? (P25)"""
        lanes = self.status['consumers']
        if self.status['state'] != 'consuming' or not lanes or self.answer is None:
            return False
        return all(lane['consuming'] for lane in lanes)


def pool_figures() -> Iterator[tuple[str, str, int, int | None]]:
    """Of each pool of the process: its kind, its broker without password, how many are in use, its limit.

    Switches: no.
    """
    for kind, group in (('connections', pools.connections), ('producers', pools.producers)):
        for pool in list(group.values()):
            stats = pool.stats()
            yield kind, pool._name(), stats.in_use, stats.limit
