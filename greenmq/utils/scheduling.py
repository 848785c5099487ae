"""In which order things get their turn.

Nothing here switches, unless a function that the program passed in does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from greenmq.utils.imports import symbol_by_name

__all__ = ('FairCycle', 'priority_cycle', 'round_robin_cycle', 'sorted_cycle')

#: Names for `cycle_by_name`.
CYCLE_ALIASES = {
    'priority': f'{__name__}:priority_cycle',
    'round_robin': f'{__name__}:round_robin_cycle',
    'sorted': f'{__name__}:sorted_cycle',
}


class FairCycle:
    """Ask resources in turn until one answers, going on behind it the next time.

    Arguments:
        fun (Callable): called with (resource, callback, and ``kwargs``); its result is the answer.
        resources (Sequence): may change between calls.
        predicate (type): the error that means "nothing here".

    Source: kombu.utils.scheduling.FairCycle.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        resources: Sequence[Any],
        predicate: type[BaseException] = Exception,
    ) -> None:
        self.fun = fun
        self.resources = resources
        self.predicate = predicate
        self.pos = 0

    def _next(self) -> Any:
        if not self.resources:
            raise self.predicate()
        if self.pos >= len(self.resources):
            self.pos = 0
        resource = self.resources[self.pos]
        self.pos += 1
        return resource

    def get(self, callback: Any, **kwargs: Any) -> Any:
        """Return the first answer of one round.

        Raises:
            predicate: nobody had one, or there are no resources.
        """
        tried = 0
        while True:
            resource = self._next()
            try:
                return self.fun(resource, callback, **kwargs)
            except self.predicate:
                tried += 1
                if tried >= len(self.resources):
                    raise

    def close(self) -> None:
        """Do nothing; there is nothing to close. Kept for programs that call it."""

    def __repr__(self) -> str:
        return f'<FairCycle: {self.pos}/{len(self.resources)} {self.resources}>'


class round_robin_cycle:
    """What had its turn goes to the end.

    Source: kombu.utils.scheduling.round_robin_cycle.
    """

    def __init__(self, it: Iterable[Any] | None = None) -> None:
        self.items: list[Any] = list(it if it is not None else ())

    def update(self, it: Iterable[Any]) -> None:
        """Replace the items."""
        self.items[:] = it

    def consume(self, n: int) -> list[Any]:
        """Return the next n items (fewer if there are not so many)."""
        return self.items[:n]

    def rotate(self, last_used: Any) -> Any:
        """Move an item to the end and return it; one that is not there (any more) changes nothing."""
        try:
            self.items.remove(last_used)
        except ValueError:  # its queue was deleted while it was being asked
            return last_used
        self.items.append(last_used)
        return last_used


class priority_cycle(round_robin_cycle):
    """The items keep their order: the first always comes first.

    Source: kombu.utils.scheduling.priority_cycle.
    """

    def rotate(self, last_used: Any) -> Any:
        """Do nothing."""


class sorted_cycle(priority_cycle):
    """The items come in sorted order.

    Source: kombu.utils.scheduling.sorted_cycle.
    """

    def consume(self, n: int) -> list[Any]:
        """Return the n smallest items, in order."""
        return sorted(self.items)[:n]


def cycle_by_name(name: Any) -> Any:
    """Return the class of a name in `CYCLE_ALIASES`, or of a dotted path; a class comes back as it is.

    Raises:
        ImportError: there is no such module.
    Source: kombu.utils.scheduling.cycle_by_name.
    """
    return symbol_by_name(name, CYCLE_ALIASES)
