"""The names of queues that the broker named: another one in each epoch, and the program knows the first."""

from __future__ import annotations

__all__ = ['QueueNames']


class QueueNames:
    """What a name that was told to the program, or is on a list of a recovery, means now."""

    __slots__ = ('_known_as', '_now')

    def __init__(self) -> None:
        self._now: dict[str, str] = {}
        #: Name now → the one that was declared, and the one just before.
        self._known_as: dict[str, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self._now)

    def now(self, name: str) -> str:
        """The name that the queue has now."""
        return self._now.get(name, name) if self._now else name

    def renamed(self, old: str, new: str) -> None:
        """The broker gave a queue another name. Those in between go: nobody was told them."""
        declared = self.forget(old)
        # Of just before: a recovery that goes on has it in its list of what is to be bound.
        self._now[declared] = self._now[old] = new
        self._known_as[new] = (declared, old)

    def forget(self, name: str) -> str:
        """The queue that has that name now is gone; returns the name it was declared by."""
        declared, before = self._known_as.pop(name, (name, name))
        self._now.pop(declared, None)
        self._now.pop(before, None)
        return declared

    def clear(self) -> None:
        """Forget all."""
        self._now.clear()
        self._known_as.clear()
