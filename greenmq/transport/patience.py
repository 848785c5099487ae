"""Patience with what seems to be over, by a clock that may jump: who lives has time to say so."""

from __future__ import annotations

from collections.abc import Iterable

from greenmq import runtime

__all__ = ('Patience',)


class Patience:
    """Names of what seems to be over, and since when, as long as each look finds it so."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def look(self, names: Iterable[str]) -> None:
        """These seem to be over now, and no others."""
        now = runtime.monotonic()
        self._since = {name: self._since.get(name, now) for name in names}

    def ended(self, seconds: float) -> list[str]:
        """Return those that have seemed so for this many seconds, by the clock that does not jump."""
        now = runtime.monotonic()
        return [name for name, since in self._since.items() if now - since >= seconds]
