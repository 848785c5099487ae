"""Which messages were given back that no callback had seen, for brokers that count those takes as well."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ('Unseen',)

#: Messages of which it is remembered.
REMEMBERED = 10_000


class Unseen:
    """How often each message went back unseen, by the broker's id of it. The oldest are forgotten."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()

    def count(self, message_id: str) -> int:
        """How often a message was given back unseen, as far as it is remembered."""
        return self._counts.get(message_id, 0)

    def gave_back(self, message_id: str) -> None:
        """It goes back, and nobody has seen it."""
        self._counts[message_id] = self._counts.pop(message_id, 0) + 1
        while len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)

    def __repr__(self) -> str:
        return f'<Unseen: {len(self._counts)} messages>'
