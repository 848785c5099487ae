"""One virtual host inside this process: queues, where messages go, what becomes of those that nobody wants.

Every method takes the lock for the stretch in which two native threads could meet, and hands messages to
consumers after it, so nothing that belongs to a connection is ever touched under the lock. Nothing here
switches.
"""

from __future__ import annotations

import heapq
from typing import Any

from greenmq import runtime
from greenmq.exceptions import InvalidArgument, PublishNacked, ResourceLocked
from greenmq.transport.memory.queue import LocalQueue, Record
from greenmq.transport.virtual.consumers import Board
from greenmq.transport.virtual.deaths import died
from greenmq.transport.virtual.state import MAX_ROUTES, BrokerState

__all__ = ('DEFAULT_QUEUES', 'DEFAULT_STATE', 'LocalBroker', 'broker', 'reset')

_brokers: dict[str, LocalBroker] = {}

#: kombu has the broker's state as class attributes: these are those of the virtual host '/'.
DEFAULT_QUEUES: dict[str, LocalQueue] = {}
DEFAULT_STATE = BrokerState()


def broker(virtual_host: str | None = None) -> LocalBroker:
    """Return the broker of a virtual host, made at first use; '/' if none is named."""
    name = virtual_host or '/'
    found = _brokers.get(name)
    if found is None:
        fresh = LocalBroker(name, DEFAULT_STATE, DEFAULT_QUEUES) if name == '/' else LocalBroker(name)
        found = _brokers.setdefault(name, fresh)
    return found


def reset(virtual_host: str | None = None) -> None:
    """Empty the broker of a virtual host, or of all: queues, exchanges, consumers. For tests.

    Connections stay usable; what they had consumed and not settled is gone.
    """
    for name in [virtual_host] if virtual_host is not None else list(_brokers):
        if name in _brokers:
            _brokers[name].clear()


class LocalBroker:
    """A broker in memory.

    Arguments:
        name (str): the virtual host.
        state (BrokerState), queues (dict[str, LocalQueue]): to be used instead of new ones.
    Attributes:
        queues (dict[str, LocalQueue]): by name.
        state (BrokerState): exchanges and bindings; `state.board` has the consumers.
    """

    def __init__(
        self, name: str, state: BrokerState | None = None, queues: dict[str, LocalQueue] | None = None
    ) -> None:
        self.name = name
        self.queues = {} if queues is None else queues
        self.state = BrokerState() if state is None else state
        self.board = self.state.board = Board()  # type: ignore[attr-defined]
        self._lock = runtime.NativeLock()
        self._dues: list[tuple[float, int, LocalQueue]] = []
        self._serial = 0
        self._timers: dict[Any, tuple[float, Any]] = {}
        runtime.after_fork(self._forked)

    def _forked(self) -> None:
        # What is in here is the parent's: with the copies both would work on one message. Its lock may be
        # held by a thread that the child doesn't have.
        self._lock = runtime.NativeLock()
        self._timers = {}
        self.clear()

    def clear(self) -> None:
        """Forget everything: queues, exchanges, consumers. Connections stay open and find an empty broker."""
        with self._lock:
            self.queues.clear()
            self.state.clear()
            self.board.rings.clear()
            self._dues.clear()
            timers, self._timers = self._timers, {}
        timer = timers.pop(runtime.hub_id(), None) if timers else None
        if timer is not None:
            timer[1].cancel()  # those of other threads fire once and find nothing to do

    # ---------------------------------------------------------------- queues

    def declare(self, name: str, user: object, **kwargs: Any) -> LocalQueue:
        """Return the queue, made if it isn't there. The first declaration counts.

        Raises:
            ResourceLocked: it is exclusive to another connection.
            InvalidArgument: an argument that it can't have.
        """
        queue = self.queues.get(name)
        if queue is None:
            queue = LocalQueue(
                name,
                kwargs.get('arguments'),
                bool(kwargs.get('durable', True)),
                bool(kwargs.get('auto_delete')),
                user if kwargs.get('exclusive') else None,
                bool(kwargs.get('locked', True)),
            )
            queue = self.queues.setdefault(name, queue)
            self.state.changed()
        self.check(queue, user)
        if queue.owner is not None and kwargs.get('exclusive'):
            queue.owner = user  # not locked: it goes with the connection that wanted it last
        self.used(queue)
        return queue

    def check(self, queue: LocalQueue, user: object) -> None:
        """Refuse a user that the queue isn't for.

        Raises:
            ResourceLocked: it is exclusive to another connection.
        """
        if queue.locked and queue.owner is not None and queue.owner is not user:
            raise ResourceLocked(
                f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue.name}' in vhost "
                f"'{self.name}'",
                (50, 10),
                'Channel.queue_declare',
                405,
            )

    def delete(self, name: str) -> int:
        """Delete a queue with its messages and bindings; return how many messages it had."""
        with self._lock:
            queue = self.queues.pop(name, None)
            self.state.changed()
            count = len(queue.clear()) if queue is not None else 0
            bound = {binding.exchange for binding in self.state.queue_bindings(name)}
            self.state.queue_bindings_delete(name)
            self.state.queues.pop(name, None)
            for exchange in bound:
                self._unbound(exchange, name)
        if queue is not None:
            self.board.lost(name)
        return count

    def _unbound(self, exchange: str, queue: str) -> None:
        record = self.state.exchanges.get(exchange)
        if record is None:
            return
        record['table'] = [entry for entry in record['table'] if entry[2] != queue]
        self.exchange_unused(exchange)

    def exchange_unused(self, exchange: str) -> None:
        """Delete an auto_delete exchange if nothing is bound to it any more."""
        record = self.state.exchanges.get(exchange)
        if record is not None and record['auto_delete'] and not self.state.in_use(exchange):
            self.state.exchange_delete(exchange)

    def purge(self, name: str) -> int:
        """Delete the messages of a queue; return how many."""
        queue = self.queues.get(name)
        if queue is None:
            return 0
        with self._lock:
            return len(queue.clear())

    def connection_closed(self, user: object) -> None:
        """Delete the queues that were exclusive to a connection."""
        for queue in [queue for queue in self.queues.values() if queue.owner is user]:
            self.delete(queue.name)

    def consumer_gone(self, name: str) -> None:
        """The last consumer of a queue went: delete it if it was declared so."""
        queue = self.queues.get(name)
        if queue is not None:
            if queue.auto_delete:
                self.delete(name)
            else:
                self.used(queue)

    def used(self, queue: LocalQueue) -> None:
        """A queue was used: what it lives unused begins anew."""
        if queue.expires is not None:
            queue.used_at = runtime.monotonic()
            self._schedule(queue, queue.used_at + queue.expires)

    # -------------------------------------------------------------- messages

    def plan(self, exchange: str, routing_key: str) -> tuple[LocalQueue, ...] | None:
        """Return the queues that a plain publish goes to, if that is known from an earlier one."""
        return self.state.plans.get((exchange, routing_key))

    def remember_plan(self, exchange: str, routing_key: str, names: list[str]) -> tuple[LocalQueue, ...]:
        """Return the queues of these names, and know them until a binding or a queue changes."""
        plan = tuple(self.queues[name] for name in names if name in self.queues)
        plans = self.state.plans
        if len(plans) >= MAX_ROUTES:
            plans.clear()
        plans[exchange, routing_key] = plan
        return plan

    def publish(
        self, queues: tuple[LocalQueue, ...], message: dict[str, Any], exchange: str, routing_key: str,
        drop_expired: bool = True,
    ) -> None:  # fmt: skip
        """Put a message into queues and hand it to those who wait.

        Arguments:
            drop_expired (bool): its own `expiration` counts.
        Raises:
            PublishNacked: a queue is full and refuses; the others have it.
            InvalidArgument: priority or expiration are no numbers; nobody has it.
        """
        properties = message['properties']
        priority = properties.get('priority') or 0
        expiration = properties.get('expiration') if drop_expired else None
        if priority.__class__ is not int or priority < 0 or expiration is not None:
            priority, expiration = _whole('priority', priority), _whole('expiration', expiration)
        touched: list[str] = []
        refused = None
        with self._lock:
            for queue in queues:
                record = Record(message, exchange, routing_key, queue)
                if priority:
                    record.priority = priority
                if queue.plain and expiration is None:
                    queue.append(record)
                    touched.append(queue.name)
                elif not self._store(queue, record, expiration, touched):
                    refused = queue.name
        rings = self.board.rings
        for name in touched:
            if name in rings:
                self.board.notify(name)
        if refused is not None:
            raise PublishNacked(f'queue {refused!r} is full and refuses messages', exchange, routing_key)

    def take(self, queue: LocalQueue) -> Record | None:
        """Take the first message of a queue."""
        if queue.times:
            self.expire(queue)
        with self._lock:
            return queue.take()

    def put_back(self, records: list[Record], seen: bool, limit: int = 0) -> None:
        """Put messages back to their places, and hand them to those who wait.

        Arguments:
            seen (bool): a consumer had them: they count as redelivered.
            limit (int): dead-letter what was delivered so often; 0 for any number.
        """
        touched: list[str] = []
        with self._lock:
            for record in records:
                queue = record.queue
                if self.queues.get(queue.name) is not queue or record.stored:
                    continue  # deleted meanwhile, and its messages with it
                if seen:
                    record.redelivered = True
                    record.count += 1
                    if limit and record.count >= limit:
                        self._dead_letter(record, 'delivery_limit', touched)
                        continue
                queue.put_back(record)
                if record.due is not None:
                    self._schedule(queue, record.due)
                touched.append(queue.name)
        for name in dict.fromkeys(touched):
            self.board.notify(name)

    def dead_letter(self, record: Record, reason: str) -> None:
        """Send a message that its queue gives up to the queue's dead-letter exchange, if it has one."""
        touched: list[str] = []
        with self._lock:
            self._dead_letter(record, reason, touched)
        for name in touched:
            self.board.notify(name)

    def expire(self, queue: LocalQueue) -> None:
        """Give up what has outlived its time in a queue."""
        touched: list[str] = []
        with self._lock:
            for record in queue.expire(runtime.monotonic()):
                self._dead_letter(record, 'expired', touched)
        for name in touched:
            self.board.notify(name)

    def _store(self, queue: LocalQueue, record: Record, expiration: int | None, touched: list[str]) -> bool:
        record.size = len(record.message['body'] or b'')
        if queue.limited and queue.overflow != 'drop-head' and not queue.has_room(record.size):
            if queue.overflow == 'reject-publish-dlx':
                self._dead_letter(record, 'maxlen', touched)
            return False
        times = [
            seconds
            for seconds in (queue.ttl, None if expiration is None else expiration / 1000)
            if seconds is not None
        ]
        if times:
            record.due = runtime.monotonic() + min(times)
        queue.append(record)
        touched.append(queue.name)
        if record.due is not None:
            self._schedule(queue, record.due)
        while queue.limited and queue.overfull():
            head = queue.take()
            if head is None:
                break
            self._dead_letter(head, 'maxlen', touched)
        return True

    def _dead_letter(self, record: Record, reason: str, touched: list[str]) -> None:
        arguments = record.queue.arguments
        exchange = arguments.get('x-dead-letter-exchange')
        if exchange is None:
            return
        message = _dead(record, reason)
        key = arguments.get('x-dead-letter-routing-key')
        key = record.routing_key if key is None else key
        names = self.state.route(exchange, key, message['headers']) if exchange else [key]
        for name in names:
            queue = self.queues.get(name)
            if queue is None or _goes_round(message['headers'], name):
                continue
            dead = Record(message, exchange, key, queue)
            dead.priority = record.priority
            self._store(queue, dead, None, touched)

    # ----------------------------------------------------------------- times

    def _schedule(self, queue: LocalQueue, due: float) -> None:
        # One entry a queue, for what comes first: a million messages with a long time to live need one timer.
        if queue.scheduled is None or due < queue.scheduled:
            queue.scheduled = due
            self._serial += 1
            heapq.heappush(self._dues, (due, self._serial, queue))
        self._arm(self._dues[0][0])

    def _arm(self, due: float) -> None:
        here = runtime.hub_id()
        known = self._timers.get(here)
        if known is not None:
            if known[0] <= due:
                return
            known[1].cancel()
        delay = max(due - runtime.monotonic(), 0)
        self._timers[here] = (due, runtime.call_later(delay, self._tick))

    def _tick(self) -> None:
        self._timers.pop(runtime.hub_id(), None)
        now = runtime.monotonic()
        queues: dict[LocalQueue, None] = {}
        with self._lock:
            while self._dues and (self._dues[0][0] <= now or self._gone(self._dues[0][2])):
                queues[heapq.heappop(self._dues)[2]] = None
        for queue in queues:
            if not self._gone(queue):
                self._overdue(queue, now)
        if self._dues:
            self._arm(self._dues[0][0])

    def _gone(self, queue: LocalQueue) -> bool:
        return self.queues.get(queue.name) is not queue

    def _overdue(self, queue: LocalQueue, now: float) -> None:
        queue.scheduled = None
        self.expire(queue)
        due = queue.next_due()
        if queue.expires is not None and not self.board.rings.get(queue.name):
            end = queue.used_at + queue.expires
            if end <= now:
                self.delete(queue.name)
                return
            due = end if due is None else min(due, end)
        if due is not None:
            self._schedule(queue, due)

    def __repr__(self) -> str:
        ready = sum(queue.ready for queue in list(self.queues.values()))
        return f'<LocalBroker {self.name}: {len(self.queues)} queues, {ready} messages>'


def _whole(what: str, value: Any) -> Any:
    if value is None:
        return None
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise InvalidArgument(what, value, 'is not a whole number') from None
    if number < 0:
        raise InvalidArgument(what, value, 'is negative')
    return number


def _dead(record: Record, reason: str) -> dict[str, Any]:
    message = record.message
    headers, properties = died(
        message['headers'], message['properties'], record.queue.name, reason, record.exchange,
        record.routing_key,
    )  # fmt: skip
    return {**message, 'headers': headers, 'properties': properties}


def _goes_round(headers: dict[str, Any], queue: str) -> bool:
    # A message that comes back to a queue it died in, without anybody having rejected it, would do so for
    # ever.
    deaths = headers['x-death']
    return any(entry.get('queue') == queue for entry in deaths) and all(
        entry.get('reason') != 'rejected' for entry in deaths
    )
