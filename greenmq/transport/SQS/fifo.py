"""One message of a group at a time, for FIFO queues.

A receive may bring several messages of one group, in order. If all of them were given to consumers, the
second could be handled while the first fails and goes back: the order of the group would be lost. So only the
first of a group is given out; the others are held here, under the same lease, until it is settled. If it goes
back, they go back before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from greenmq import runtime
from greenmq.transport.driver import Taken

__all__ = ('Groups',)


class Groups:
    """The messages of one FIFO queue that this process has.

    Attributes:
        ready (deque[Taken]): to be given out.
    """

    def __init__(self) -> None:
        self.ready: deque[Taken] = deque()
        self._first: dict[str, Taken] = {}  # given out, or ready
        self._held: dict[str, deque[Taken]] = {}

    def came(self, takens: Iterable[Taken]) -> None:
        """A receive brought these, in order."""
        for taken in takens:
            group = group_of(taken)
            first = self._first.get(group)
            if first is not None and first.lost:
                # Somebody else may have it by now, and those behind it as well.
                self._held.pop(group, None)
                first = None
            if first is None:
                self._first[group] = taken
                self.ready.append(taken)
            else:
                self._held.setdefault(group, deque()).append(taken)

    def settled(self, taken: Taken) -> bool:
        """One is done with: the next of its group is ready; True if there is one."""
        group = group_of(taken)
        if self._first.get(group) is not taken:
            return False
        del self._first[group]
        held = self._held.get(group)
        if not held:
            return False
        following = held.popleft()
        if not held:
            del self._held[group]
        self._first[group] = following
        self.ready.append(following)
        return True

    def behind(self, taken: Taken) -> list[Taken]:
        """One goes back: take out those of its group that are held, which go back before it; last first."""
        group = group_of(taken)
        if self._first.get(group) is not taken:
            return []
        del self._first[group]
        return list(reversed(self._held.pop(group, ())))

    def held(self) -> list[Taken]:
        """All that nobody was given yet."""
        return [*self.ready, *(taken for held in self._held.values() for taken in held)]

    def due(self, age: float) -> list[Taken]:
        """Those of them whose lease was renewed longer ago than some seconds."""
        now = runtime.monotonic()
        return [taken for taken in self.held() if now - taken.renewed > age]

    def drop(self, takens: Iterable[Taken]) -> None:
        """These are not ours any more, or go back: forget them."""
        gone = {id(taken) for taken in takens}
        self.ready = deque(taken for taken in self.ready if id(taken) not in gone)
        for group, held in list(self._held.items()):
            left = deque(taken for taken in held if id(taken) not in gone)
            if left:
                self._held[group] = left
            else:
                del self._held[group]
        for group, first in list(self._first.items()):
            if id(first) in gone:
                del self._first[group]

    def __len__(self) -> int:
        return len(self.ready) + sum(map(len, self._held.values()))


def group_of(taken: Taken) -> str:
    """The group of a message."""
    return str((taken.payload.get('Attributes') or {}).get('MessageGroupId', ''))
