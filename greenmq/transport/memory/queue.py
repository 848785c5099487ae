"""One queue inside this process: order, priorities, limits and times to live. Knows neither exchanges nor
consumers.

Messages stand in a deque for each priority, in the order of their numbers. A message that goes away in the
middle (its time is over) only loses its mark `stored`; the dead one is dropped when the head passes it, or
when half are dead.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Any

from greenmq.transport.limits import QueueLimits

__all__ = ('LocalQueue', 'Record')

#: Priorities without x-max-priority: kombu's.
MAX_PRIORITY = 9


class Record:
    """One message in one queue, or on its way to a consumer of that queue.

    Attributes:
        message (dict[str, object]): the payload; shared between queues, never changed.
        number (int): its place: a message that comes back goes in front of all with a higher one.
        due (float | None): the monotonic time at which it expires.
        count (int): how often it was given back after a consumer had it.
        stored (bool): it is in its queue now.
    """

    # Class attributes, because hardly any message differs from them and one is made for each.
    count = 0
    due: float | None = None
    number = 0
    priority = 0
    redelivered = False
    size = 0
    stored = False

    def __init__(self, message: dict[str, Any], exchange: str, routing_key: str, queue: LocalQueue) -> None:
        self.message = message
        self.exchange = exchange
        self.routing_key = routing_key
        self.queue = queue


class LocalQueue:
    """The messages of one queue.

    Arguments:
        name (str): for errors and reprs.
        arguments (dict[str, object]): x-message-ttl, x-expires (ms), x-max-length, x-max-length-bytes,
            x-overflow, x-max-priority, x-dead-letter-exchange, x-dead-letter-routing-key.
        owner (object): the connection that it goes with, or None.
        locked (bool): nobody but the owner may use it.
    Attributes:
        plain (bool): no limit, no time to live: nothing to look at when a message comes.
        ready (int), ready_bytes (int): what is in it.
        used_at (float): when it was last declared, asked or consumed.
        times (list): what expires, a heap of (due, number, record).
        scheduled (float | None): when the broker looks at it next, for what is over by then.
    Raises:
        InvalidArgument: an argument of the wrong kind.
    No method switches.
    Source: RabbitMQ "Queues", "TTL", "Queue Length Limit", "Priority Queue".
    """

    def __init__(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        durable: bool = True,
        auto_delete: bool = False,
        owner: object = None,
        locked: bool = True,
    ) -> None:
        self.name = name
        self.arguments = dict(arguments or {})
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        self.locked = locked
        limits = QueueLimits.of(self.arguments)
        self.ttl = limits.ttl
        self.expires = limits.expires
        self.max_length = limits.max_length
        self.max_bytes = limits.max_bytes
        self.max_priority = limits.max_priority
        self.overflow = limits.overflow
        self.limited = limits.limited
        self.plain = not self.limited and self.ttl is None
        self.ready = 0
        self.ready_bytes = 0
        self.used_at = 0.0
        self.scheduled: float | None = None
        self._number = 0
        self._zero: deque[Record] = deque()
        self._levels: dict[int, deque[Record]] = {0: self._zero}
        self._sorted: list[deque[Record]] = [self._zero]
        self._dead = 0
        self.times: list[tuple[float, int, Record]] = []

    # --------------------------------------------------------------- put, take

    def append(self, record: Record) -> None:
        """Put a message behind all others of its priority."""
        self._number = record.number = self._number + 1
        record.stored = True
        self.ready += 1
        if record.priority:
            self._level(record).append(record)
        else:
            self._zero.append(record)
        if not self.plain:
            self.ready_bytes += record.size
        if record.due is not None:
            self._watch(record, record.due)

    def put_back(self, record: Record) -> None:
        """Put a message back to its place."""
        record.stored = True
        self.ready += 1
        self.ready_bytes += record.size
        level = self._level(record) if record.priority else self._zero
        if not level or record.number < level[0].number:
            level.appendleft(record)
        else:
            # Few were given back before it, so the place is near the front.
            place = next((i for i, other in enumerate(level) if other.number > record.number), len(level))
            level.insert(place, record)
        if record.due is not None:
            self._watch(record, record.due)

    def take(self) -> Record | None:
        """Take the first message: the highest priority, then the oldest."""
        for level in self._sorted:
            while level:
                record = level.popleft()
                if record.stored:
                    record.stored = False
                    self.ready -= 1
                    self.ready_bytes -= record.size
                    return record
                self._dead -= 1
        return None

    def overfull(self) -> bool:
        """Tell whether there is more in it than its limits allow."""
        return (self.max_length is not None and self.ready > self.max_length) or (
            self.max_bytes is not None and self.ready_bytes > self.max_bytes
        )

    def has_room(self, size: int) -> bool:
        """Tell whether a message of `size` bytes fits."""
        return (self.max_length is None or self.ready < self.max_length) and (
            self.max_bytes is None or self.ready_bytes + size <= self.max_bytes
        )

    def clear(self) -> list[Record]:
        """Take out all messages, first one first."""
        records = list(self)
        for record in records:
            record.stored = False
        for level in self._sorted:
            level.clear()
        self.times.clear()
        self.ready = self.ready_bytes = self._dead = 0
        return records

    def _level(self, record: Record) -> deque[Record]:
        most = MAX_PRIORITY if self.max_priority is None else self.max_priority
        priority = record.priority = min(record.priority, most)
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = deque()
            self._sorted = [self._levels[each] for each in sorted(self._levels, reverse=True)]
        return level

    def _gone(self, record: Record) -> None:
        record.stored = False
        self.ready -= 1
        self.ready_bytes -= record.size

    # ------------------------------------------------------------ time to live

    def _watch(self, record: Record, due: float) -> None:
        heap = self.times
        if len(heap) > 64 and len(heap) > 2 * self.ready:
            # Most of them were consumed long before their time; they'd hold their messages in memory till
            # then.
            self.times = heap = [entry for entry in heap if entry[2].stored and entry[2] is not record]
            heapq.heapify(heap)
        heapq.heappush(heap, (due, record.number, record))

    def next_due(self) -> float | None:
        """Return when the next message expires, or None."""
        heap = self.times
        while heap and not heap[0][2].stored:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def expire(self, now: float) -> list[Record]:
        """Take out what has expired, oldest first."""
        heap = self.times
        expired = []
        while heap and (heap[0][0] <= now or not heap[0][2].stored):
            record = heapq.heappop(heap)[2]
            if record.stored:
                self._gone(record)
                self._dead += 1
                expired.append(record)
        if expired:
            self._sweep()
        return expired

    def _sweep(self) -> None:
        for level in self._sorted:
            while level and not level[0].stored:
                level.popleft()
                self._dead -= 1
        if self._dead > 64 and self._dead > self.ready:
            for level in self._sorted:
                living = [record for record in level if record.stored]
                level.clear()
                level.extend(living)
            self._dead = 0

    def __iter__(self) -> Iterator[Record]:
        return (record for level in self._sorted for record in level if record.stored)

    def __len__(self) -> int:
        return self.ready

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f'<LocalQueue {self.name}: {self.ready} messages>'
