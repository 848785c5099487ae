"""Queues with `x-expires`: they go, with their messages and bindings, when nobody has used them for so long.

Use is declaring, consuming and getting, as in RabbitMQ; publishing is none. The lists get a time to live at
the server, as kombu gives them, so messages go whoever is left. What else there is of a queue is removed by
the look for dead consumers (see `leases`), within one `sweep_interval` if anybody consumes from the database.
"""

from __future__ import annotations

import weakref
from typing import Any

from greenmq import runtime
from greenmq.exceptions import AMQPError, ConnectionClosed, OperationalError
from greenmq.log import get_logger
from greenmq.transport.redis.bindings import split_binding
from greenmq.transport.redis.keys import Home
from greenmq.transport.redis.replies import TEXTS
from greenmq.transport.redis.scripts import EXPIRE, USE
from greenmq.transport.redis.watches import Alarm

__all__ = ('Expiry',)

logger = get_logger('greenmq.transport.redis')

#: Seconds for one call.
PATIENCE = 10.0
#: How often within its `x-expires` a queue that is consumed is said to be in use.
TIMES = 3


class Expiry:
    """The expiring queues that one transport uses.

    Arguments:
        transport (Transport): held weakly.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = weakref.ref(transport)
        self._task: runtime.Task | None = None
        self._alarm = Alarm()
        self._used: dict[str, float] = {}

    def of(self, transport: Any, queue: str) -> int | None:
        """The `x-expires` that this client declared a queue with, in ms. Switches: no."""
        declared = transport.state.queues.get(queue)
        expires = declared['arguments'].get('x-expires') if declared else None
        return int(expires) if expires is not None else None

    def use(self, transport: Any, queue: str, ms: int | None, deadline: runtime.Deadline) -> int:
        """Note that a queue is used now.

        Arguments:
            ms (int): its `x-expires`; None: what its declarer said.
        Returns:
            int: its `x-expires`; 0 if it has none.
        Raises, Switches: as `Session.run`.
        """
        keys = transport.keys
        home: Home = keys.home(queue)
        words = (queue, '' if ms is None else ms)
        self._used[queue] = runtime.monotonic()
        return int(
            transport.session.run(USE, (home.expires, home.expiring, *keys.lists(queue)), words, deadline)
        )

    def got(self, queue: str, deadline: runtime.Deadline) -> None:
        """A message was asked for, with `basic_get`. Switches: now and then, if the queue expires."""
        transport = self._transport()
        ms = self.of(transport, queue) if transport is not None else None
        if ms is not None and runtime.monotonic() - self._used.get(queue, 0.0) > ms / 1000 / TIMES:
            self.use(transport, queue, ms, deadline)

    def start(self) -> None:
        """The consumers have changed: see to it that their queues live. Switches: no."""
        self._alarm.hit()
        if self._task is None or self._task.done:
            self._task = runtime.spawn(_use, weakref.ref(self), name='redis-expiry', owner=self)

    def stop(self) -> None:
        """End the task. Switches: no."""
        if self._task is not None:
            self._task.kill()
            self._task = None
            self._alarm = Alarm()  # the next may be in another thread, and this one not have ended yet

    def use_consumed(self, transport: Any) -> float | None:
        """Note all queues that are consumed; the seconds until that is due again, None if none expires."""
        self._alarm.set()
        shortest = 0
        for queue in {queue for channel in transport.channels for queue in channel._takers}:
            ms = self.use(transport, queue, self.of(transport, queue), runtime.Deadline.after(PATIENCE))
            shortest = min(ms, shortest or ms) if ms else shortest
        return shortest / 1000 / TIMES if shortest else None

    def expire(self, transport: Any, queue: str) -> None:
        """Delete a queue that is overdue, unless it was used meanwhile. Switches: yes."""
        session, keys, deadline = transport.session, transport.keys, runtime.Deadline.after(PATIENCE)
        home, lists = keys.home(queue), keys.lists(queue)
        if not session.run(EXPIRE, (home.expires, home.expiring, *lists), (queue,), deadline):
            return
        transport.state.queue_bindings_delete(queue)
        transport.state.queues.pop(queue, None)
        session.execute(('HDEL', keys.queues, queue), keys.queues, deadline)
        bound = keys.bound(queue)
        for member in session.execute(('SMEMBERS', bound), bound, deadline, TEXTS):
            exchange, _, binding = member.partition(keys.sep.encode())
            entry = split_binding(binding, keys.sep)
            if entry is not None:
                name = exchange.decode(errors='replace')
                transport.bindings.remove(name, entry[0], entry[1], queue, deadline)
        session.execute(('DEL', bound), bound, deadline)
        logger.info('redis %s: queue %r was not used and expired', session.name, queue)

    def forget(self, queue: str, deadline: runtime.Deadline) -> None:
        """The queue is deleted. Switches: yes."""
        transport = self._transport()
        if transport is None:
            return
        self._used.pop(queue, None)
        home, bound = transport.keys.home(queue), transport.keys.bound(queue)
        commands = [('ZREM', home.expiring, queue), ('HDEL', home.expires, queue)]
        transport.session.execute_many(commands, home.expiring, deadline)
        transport.session.execute(('DEL', bound), bound, deadline)


def _use(ref: weakref.ref[Expiry]) -> None:
    while True:
        expiry = ref()
        transport = expiry._transport() if expiry is not None else None
        if expiry is None or transport is None or transport.session.closed:
            return
        try:
            pause = expiry.use_consumed(transport)
        except ConnectionClosed:
            return
        except (AMQPError, OperationalError, OSError) as error:
            logger.debug('%s: queues that expire: %s', transport.session.name, error)
            pause = 0.1
        alarm = expiry._alarm
        if pause is None and not alarm.rung:
            return
        del expiry, transport
        alarm.wait(pause)
