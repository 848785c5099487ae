"""What one channel consumes, holds and may still take. Pure bookkeeping: nothing here waits or switches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from greenmq.core.ledger import DeliveryLedger

__all__ = ('Books', 'Subscription')


class Subscription:
    """One consumer of one queue.

    Attributes:
        waiting (int): its deliveries that no callback has had yet.
        cancelled (bool): it has ended.
    """

    __slots__ = ('arguments', 'callback', 'cancelled', 'exclusive', 'no_ack', 'queue', 'tag', 'waiting')

    def __init__(
        self,
        tag: str,
        queue: str,
        no_ack: bool,
        callback: Callable[[Any], Any],
        exclusive: bool = False,
        arguments: Any = None,
    ) -> None:
        self.tag = tag
        self.queue = queue
        self.no_ack = no_ack
        self.callback = callback
        self.exclusive = exclusive
        self.arguments = arguments
        self.waiting = 0
        self.cancelled = False

    def __repr__(self) -> str:
        return f'<Subscription {self.tag} to {self.queue}: {self.waiting} waiting>'


class Books:
    """The subscriptions and the unsettled deliveries of one channel.

    Room is *reserved* when a fetch starts and released when it ends, so that any number of fetches together
    never bring more than the prefetch allows.

    Arguments:
        fetch_ahead (int): deliveries that may wait for a callback where no prefetch is set.
    Attributes:
        prefetch_count (int): deliveries that may be unsettled; 0 for any number.
        flowing (bool): False between `flow(False)` and `flow(True)`.
        unsettled (DeliveryLedger): tag → message.
        subscriptions (dict[str, Subscription]): by tag.
        waiting (int): deliveries that no callback has had yet.
        reserved (int): what fetches under way may bring.
        starved (bool): a fetch found no room here: it is to be told when there is some.
    """

    def __init__(self, fetch_ahead: int) -> None:
        self.fetch_ahead = fetch_ahead
        self.prefetch_count = 0
        self.flowing = True
        self.unsettled: DeliveryLedger[Any] = DeliveryLedger()
        self.subscriptions: dict[str, Subscription] = {}
        self.waiting = 0
        self.reserved = 0
        self.starved = False
        self._takers: dict[str, deque[Subscription]] = {}
        self._acking = 0  # subscriptions that acknowledge
        self._number = 0

    # ---- who consumes

    @property
    def queues(self) -> list[str]:
        """The queues that are consumed."""
        return list(self._takers)

    def consumers(self, queue: str) -> int:
        """How many subscriptions a queue has here."""
        return len(self._takers.get(queue, ()))

    def exclusive(self, queue: str) -> bool:
        """Does a subscription have a queue for itself?"""
        return any(sub.exclusive for sub in self._takers.get(queue, ()))

    def takes(self, queue: str) -> bool:
        """Is there a consumer of this queue?"""
        return queue in self._takers

    def add(self, sub: Subscription) -> None:
        """Begin a subscription."""
        self.subscriptions[sub.tag] = sub
        self._takers.setdefault(sub.queue, deque()).append(sub)
        self._acking += not sub.no_ack

    def remove(self, tag: str) -> Subscription | None:
        """End a subscription; None if there is none of this tag."""
        sub = self.subscriptions.pop(tag, None)
        if sub is None:
            return None
        sub.cancelled = True
        takers = self._takers[sub.queue]
        takers.remove(sub)
        if not takers:
            del self._takers[sub.queue]
        self._acking -= not sub.no_ack
        return sub

    def next_taker(self, queue: str, release: int = 0) -> Subscription | None:
        """Whose turn it is to get a message of this queue; None if nobody consumes it.

        Arguments:
            release (int): room to give back with it, see `release`.
        """
        takers = self._takers.get(queue)
        if not takers:
            return None
        self.reserved -= release
        sub = takers[0]
        if len(takers) > 1:
            takers.rotate(-1)
        return sub

    # ---- room

    def room(self) -> int:
        """How many more deliveries may be asked for, beyond those asked for already; 0 or more."""
        if not self.flowing:
            return 0
        if self.prefetch_count and self._acking:
            return max(self.prefetch_count - len(self.unsettled) - self.reserved, 0)
        return max(self.fetch_ahead - self.waiting - self.reserved, 0)

    @property
    def share(self) -> int:
        """Of what may come, the part of one queue; 0 if there is less than one for each."""
        capacity = self.prefetch_count if self.prefetch_count and self._acking else self.fetch_ahead
        return capacity // max(len(self._takers), 1)

    def low(self) -> bool:
        """Is it time to ask again? At half of what may wait, since a fetch costs the same for one or many."""
        limit = self.prefetch_count or self.fetch_ahead
        return self.waiting * 2 <= limit

    def reserve(self, n: int) -> None:
        """A fetch that may bring n messages starts."""
        self.reserved += n

    def release(self, n: int) -> None:
        """It has ended."""
        self.reserved -= n

    # ---- deliveries

    def next_tag(self) -> int:
        """A number for the next delivery, larger than all before."""
        self._number += 1
        return self._number

    def handed(self, sub: Subscription) -> None:
        """A waiting message left the line: its callback begins, or it goes back."""
        sub.waiting -= 1
        self.waiting -= 1

    def settle(self, tag: Any, multiple: bool = False) -> list[Any]:
        """Take one delivery out, or all up to one; what is unknown is none.

        Returns:
            list[Message]: oldest first.
        """
        if not multiple:
            try:
                return [self.unsettled.pop(tag)]
            except KeyError:
                return []
        if tag not in self.unsettled and tag != 0:
            return []
        return [message for _, message in self.unsettled.settle(tag, multiple=True)]

    def drain(self) -> list[Any]:
        """Take all unsettled deliveries out, oldest first."""
        return [message for _, message in self.unsettled.drain()]

    def __repr__(self) -> str:
        limit = self.prefetch_count or 'any'
        return (
            f'<Books: {len(self.subscriptions)} consumers, {len(self.unsettled)} unsettled of {limit}, '
            f'{self.waiting} waiting, {self.reserved} asked for>'
        )
