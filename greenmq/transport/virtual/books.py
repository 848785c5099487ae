"""What one channel consumes, and what waits for room. Pure bookkeeping: nothing here waits or switches."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

__all__ = ('Books',)


class Books:
    """The consumers of one channel.

    Attributes:
        subscriptions (dict[str, Subscription]): by tag.
        queue_of (dict[str, str]): tag → its queue.
        queues (list[str]): the queue of each subscription.
        no_ack (set[str]): the tags of those that need no ack.
        takers (dict[str, deque[Subscription]]): those of each queue, in turn.
        starved (OrderedDict[object, None]): queues, or groups of a fetcher, whose consumers had no room; the
            longest waiting first.
        flowing (bool): False between `flow(False)` and `flow(True)`.
        qos (QoS | None): what is unsettled and the prefetch; None until it is asked for.
    """

    __slots__ = ('flowing', 'no_ack', 'qos', 'queue_of', 'queues', 'starved', 'subscriptions', 'takers')

    def __init__(self) -> None:
        self.subscriptions: dict[str, Any] = {}
        self.queue_of: dict[str, str] = {}
        self.queues: list[str] = []
        self.no_ack: set[str] = set()
        self.takers: dict[str, deque[Any]] = {}
        self.starved: OrderedDict[Any, None] = OrderedDict()
        self.flowing = True
        self.qos: Any = None

    @property
    def prefetch_count(self) -> int:
        """The prefetch; 0 is unlimited."""
        qos = self.qos
        return qos.prefetch_count or 0 if qos is not None else 0

    def add(self, sub: Any) -> None:
        """Begin a subscription."""
        self.subscriptions[sub.tag] = sub
        self.queue_of[sub.tag] = sub.queue
        self.queues.append(sub.queue)
        if sub.no_ack:
            self.no_ack.add(sub.tag)
        self.takers.setdefault(sub.queue, deque()).append(sub)

    def remove(self, tag: str) -> Any:
        """End a subscription, and return it; None if there is none of this tag."""
        sub = self.subscriptions.pop(tag, None)
        if sub is None:
            return None
        sub.cancelled = True
        self.queue_of.pop(tag, None)
        self.no_ack.discard(tag)
        if sub.queue in self.queues:
            self.queues.remove(sub.queue)
        takers = self.takers.get(sub.queue)
        if takers is not None:
            takers.remove(sub)
            if not takers:
                del self.takers[sub.queue]
        return sub

    def next_taker(self, queue: str) -> Any:
        """Whose turn it is to get a message of this queue. Raises `KeyError` if nobody consumes it."""
        takers = self.takers[queue]
        sub = takers[0]
        takers.rotate(-1)
        return sub

    def waiting(self) -> int:
        """How many deliveries no callback has begun."""
        return sum(sub.waiting for sub in self.subscriptions.values())

    def below_half(self, limit: int) -> bool:
        """Does some consumer have less than half of what may wait?"""
        return any(sub.waiting * 2 <= limit for sub in self.subscriptions.values())
