"""The numbers of the channels of one connection: the smallest that is free, at most so many."""

from __future__ import annotations

import heapq

from greenmq.exceptions import ResourceError

__all__ = ('ChannelNumbers',)


class ChannelNumbers:
    """The numbers of one connection.

    Attributes:
        used (set[int]): those of open channels.
    """

    def __init__(self) -> None:
        self.used: set[int] = set()
        self._free: list[int] = []

    def take(self, most: int) -> int:
        """A number for a new channel.

        Arguments:
            most (int): channels that may be open at once.
        Raises:
            ResourceError: so many are.
        """
        used = self.used
        if len(used) >= most:
            raise ResourceError(f'No free channel ids, current={len(used)}, channel_max={most}', (20, 10))
        number = heapq.heappop(self._free) if self._free else len(used) + 1
        used.add(number)
        return number

    def give_back(self, number: int) -> None:
        """The channel of a number is closed; one that isn't in use is fine."""
        if number in self.used:
            self.used.discard(number)
            heapq.heappush(self._free, number)
