"""Queues with `x-expires`: they go, with their messages and bindings, when nobody has used them for so long.

Use is declaring, consuming and getting, as in RabbitMQ; publishing is none. The lists get a time to live at
the server, as kombu gives them, so messages go whoever is left. What else there is of a queue is removed by
the look for dead consumers (see `leases`), within one `sweep_interval` if anybody consumes from the database.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

from greenmq import runtime
from greenmq.exceptions import AMQPError, ConnectionClosed, OperationalError
from greenmq.log import get_logger
from greenmq.transport.redis.bindings import Bindings, split_binding
from greenmq.transport.redis.keys import Home, Keys
from greenmq.transport.redis.replies import TEXTS
from greenmq.transport.redis.scripts import EXPIRE, USE
from greenmq.transport.redis.server import Server
from greenmq.transport.redis.watches import Wakeup
from greenmq.transport.virtual.state import BrokerState

__all__ = ('Expiry',)

logger = get_logger('greenmq.transport.redis')

#: Seconds for one call.
PATIENCE = 10.0
#: How often within its `x-expires` a queue that is consumed is said to be in use.
TIMES = 3


class Expiry:
    """The expiring queues that one session uses.

    Arguments:
        server (Server), keys (Keys): where they are.
        bindings (Bindings): those of a queue that has expired go too.
        declared (BrokerState): what this client declared.
    Attributes:
        used (dict[str, float]): queue → when it was last said to be in use.
        changed (Wakeup): tells the task that the consumers have changed.
    """

    def __init__(self, server: Server, keys: Keys, bindings: Bindings, declared: BrokerState) -> None:
        self.used: dict[str, float] = {}
        self._server = server
        self._keys = keys
        self._bindings = bindings
        self._declared = declared
        self._consumed: Callable[[], Iterable[str]] = tuple
        self._task: runtime.Task | None = None
        self.changed = Wakeup()

    def of(self, queue: str) -> int | None:
        """The `x-expires` that this client declared a queue with, in ms."""
        declared = self._declared.queues.get(queue)
        expires = declared['arguments'].get('x-expires') if declared else None
        return int(expires) if expires is not None else None

    def use(self, queue: str, ms: int | None, deadline: runtime.Deadline) -> int:
        """Note that a queue is used now.

        Arguments:
            ms (int): its `x-expires`; None: what its declarer said.
        Returns:
            int: its `x-expires`; 0 if it has none.
        Raises, Switches: as `Session.run`.
        """
        keys = self._keys
        home: Home = keys.home(queue)
        words = (queue, '' if ms is None else ms)
        self.used[queue] = runtime.monotonic()
        names = (home.expires, home.expiring, *keys.lists(queue))
        return int(self._server.run(USE, names, words, deadline))

    def got(self, queue: str, deadline: runtime.Deadline) -> None:
        """A message was asked for, with `basic_get`. Switches: now and then, if the queue expires."""
        ms = self.of(queue)
        if ms is not None and runtime.monotonic() - self.used.get(queue, 0.0) > ms / 1000 / TIMES:
            self.use(queue, ms, deadline)

    def start(self, consumed: Callable[[], Iterable[str]]) -> None:
        """The consumers have changed: see to it that their queues live.

        Arguments:
            consumed (Callable): returns the names of the queues that are consumed; keeps nothing alive.
        """
        self._consumed = consumed
        self.changed.hit()
        if self._task is None or self._task.done:
            self._task = runtime.spawn(_use, weakref.ref(self), name='redis-expiry', owner=self)

    def stop(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.kill()
            self._task = None
            self.changed = Wakeup()  # the next may be in another thread, and this one not have ended yet

    def use_consumed(self) -> float | None:
        """Note all queues that are consumed; the seconds until that is due again, None if none expires."""
        self.changed.clear()
        shortest = 0
        for queue in set(self._consumed()):
            ms = self.use(queue, self.of(queue), runtime.Deadline.after(PATIENCE))
            shortest = min(ms, shortest or ms) if ms else shortest
        return shortest / 1000 / TIMES if shortest else None

    def expire(self, queue: str) -> None:
        """Delete a queue that is overdue, unless it was used meanwhile. Switches: yes."""
        server, keys, deadline = self._server, self._keys, runtime.Deadline.after(PATIENCE)
        home, lists = keys.home(queue), keys.lists(queue)
        if not server.run(EXPIRE, (home.expires, home.expiring, *lists), (queue,), deadline):
            return
        self._declared.queue_bindings_delete(queue)
        self._declared.queues.pop(queue, None)
        server.execute(('HDEL', keys.queues, queue), keys.queues, deadline)
        bound = keys.bound(queue)
        for member in server.execute(('SMEMBERS', bound), bound, deadline, TEXTS):
            exchange, _, binding = member.partition(keys.sep.encode())
            entry = split_binding(binding, keys.sep)
            if entry is not None:
                name = exchange.decode(errors='replace')
                self._bindings.remove(name, entry[0], entry[1], queue, deadline)
        server.execute(('DEL', bound), bound, deadline)
        logger.info('redis %s: queue %r was not used and expired', server.name, queue)

    def forget(self, queue: str, deadline: runtime.Deadline) -> None:
        """The queue is deleted. Switches: yes."""
        self.used.pop(queue, None)
        home, bound = self._keys.home(queue), self._keys.bound(queue)
        commands = [('ZREM', home.expiring, queue), ('HDEL', home.expires, queue)]
        self._server.execute_many(commands, home.expiring, deadline)
        self._server.execute(('DEL', bound), bound, deadline)


def _use(ref: weakref.ref[Expiry]) -> None:
    while True:
        expiry = ref()
        if expiry is None:
            return
        try:
            pause = expiry.use_consumed()
        except ConnectionClosed:
            return
        except (AMQPError, OperationalError, OSError) as error:
            logger.debug('queues that expire: %s', error)
            pause = 0.1
        changed = expiry.changed
        if pause is None and not changed.happened:
            return
        del expiry
        changed.wait(pause)
