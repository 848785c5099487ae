"""The prefetch of a channel, as kombu's programs look at it."""

from __future__ import annotations

from typing import Any

from greenmq.transport.driver.books import Books

__all__ = ('QoS',)


class QoS:
    """The prefetch and the unsettled deliveries of a channel, as kombu's programs look at them.

    Source: kombu virtual.QoS.
    """

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self._books: Books = channel.books

    @property
    def prefetch_count(self) -> int:
        """What `basic_qos` set last; 0 is unlimited."""
        return self._books.prefetch_count

    def can_consume(self) -> bool:
        """Tell whether another message may be delivered."""
        limit = self._books.prefetch_count
        return not limit or len(self._books.unsettled) < limit

    def can_consume_max_estimate(self) -> int | None:
        """Return how many more messages may be delivered; None for any number."""
        limit = self._books.prefetch_count
        return self._books.unsettled.free(limit) if limit else None

    def __repr__(self) -> str:
        return f'<QoS: {self._books!r}>'
