"""Which messages wait in a queue, as far as the watches have told."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from greenmq import runtime
from greenmq.transport.zookeeper.layout import ENTRY

__all__ = ('Known',)


class Known:
    """The names of the entries of one queue, the next one first.

    Arguments:
        path (str): of the queue's node.
    Attributes:
        watched (bool): every change is told, and the names are complete.
        used (float): when somebody looked last, by `runtime.monotonic`.
    """

    __slots__ = ('_heap', '_names', 'path', 'used', 'watched')

    def __init__(self, path: str) -> None:
        self.path = path
        self.watched = False
        self.used = runtime.monotonic()
        self._names: set[str] = set()
        self._heap: list[str] = []

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str) -> bool:
        """An entry is there; False if that is none."""
        if not ENTRY.match(name):
            return False
        if name not in self._names:
            self._names.add(name)
            heappush(self._heap, name)
        return True

    def discard(self, name: str) -> None:
        """An entry is gone."""
        self._names.discard(name)

    def replace(self, names: Iterable[str]) -> None:
        """These are all."""
        self._names = {name for name in names if ENTRY.match(name)}
        self._heap = list(self._names)
        heapify(self._heap)

    def pick(self, n: int) -> list[str]:
        """Remove and return the next ones."""
        found: list[str] = []
        while self._heap and len(found) < n:
            name = heappop(self._heap)
            if name in self._names:
                self._names.discard(name)
                found.append(name)
        return found
