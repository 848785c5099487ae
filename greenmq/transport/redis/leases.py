"""Leases: this consumer says that it lives, and looks for others that do not any more.

Three kinds of work, each a task that knows the session weakly:

* *keeper*: while anything is unsettled, renews the lease at a third of `lease_timeout`, and four times in
  `visibility_timeout` the times by which kombu's workers judge our deliveries;
* *sweeper*: while anything is consumed, asks every `sweep_interval` for the messages of dead consumers. A
  lock in Redis makes that one look for all workers together, however many there are;
* *reconcile*: after a loss, what a fetch has taken for us and whose reply was lost with the link goes back.
"""

from __future__ import annotations

import json
import weakref
from typing import Any

from greenmq import runtime
from greenmq.exceptions import AMQPError, ConnectionClosed, OperationalError
from greenmq.log import get_logger
from greenmq.transport.redis.expiry import Expiry
from greenmq.transport.redis.fetching import Fetching
from greenmq.transport.redis.keys import Home, Keys
from greenmq.transport.redis.replies import TEXTS
from greenmq.transport.redis.scripts import ADOPT, RENEW, SWEEP
from greenmq.transport.redis.server import Server
from greenmq.transport.redis.settling import UNTOUCHED, Settler
from greenmq.utils.text import printable

__all__ = ('ConsumerLease',)

logger = get_logger('greenmq.transport.redis')

#: Messages that one call of the sweep gives back at most.
SWEEP_LIMIT = 500
#: Tags that are asked for at once.
PAGE = 10_000
#: Seconds for one call.
PATIENCE = 10.0

FAILURES = (AMQPError, OperationalError, OSError)

#: By server: the leases of connections of this process that were closed while it was away, and until when
#: each lasts by itself. Whoever looks for the dead ends them first, so that nobody waits for that.
_left: dict[str, dict[str, float]] = {}


class ConsumerLease:
    """The lease of one session, as a consumer, and its eye on the others'.

    Arguments:
        session (RedisSession): held weakly; says what it holds and consumes.
        driver (RedisDriver): whose parts are used.
        seconds (float): lease_timeout.
        interval (float): sweep_interval.
        visibility (float): visibility_timeout.
    """

    def __init__(self, session: Any, driver: Any, seconds: float, interval: float, visibility: float) -> None:
        self.session = weakref.ref(session)
        self.seconds = seconds
        self.interval = interval
        self.visibility = visibility
        self._server: Server = driver.server
        self._keys: Keys = driver.keys
        self._settler: Settler = driver.settler
        self._expiry: Expiry = driver.expiry
        self._fetching: Fetching = driver.fetching
        self._tasks: dict[str, runtime.Task] = {}
        self._refreshed = runtime.monotonic()

    def start(self) -> None:
        """Start the tasks, if they don't run."""
        for name, run in (('keeper', _keep), ('sweeper', _sweep)):
            task = self._tasks.get(name)
            if task is None or task.done:
                self._tasks[name] = runtime.spawn(
                    run, weakref.ref(self), name=f'redis-lease-{name}', owner=self
                )

    def stop(self) -> None:
        """End the tasks."""
        for task in self._tasks.values():
            task.kill()
        self._tasks.clear()

    @property
    def lock_ms(self) -> int:
        """How long one sweep serves all workers: a little less than the interval, or every other would be
        missed."""
        return max(int(self.interval * 900), 1)

    def leave(self) -> None:
        """The connection is closed and its server away: another of this process ends the lease. No switch."""
        until = runtime.monotonic() + self.seconds
        _left.setdefault(self._server.name, {}).update((home.lease, until) for home in self._keys.homes())

    # ------------------------------------------------------------------ ours

    def renew(self) -> None:
        """Renew the leases of all homes where something is unsettled. Switches: yes."""
        server, keys = self._server, self._keys
        refresh = runtime.monotonic() - self._refreshed >= self.visibility / 4
        for home in keys.homes():
            kept = server.run(
                RENEW,
                (home.lease, home.own, home.times, home.consumers),
                (int(self.seconds * 1000), keys.consumer, '1' if refresh else '0'),
                runtime.Deadline.after(PATIENCE),
            )
            if not kept:
                logger.warning(
                    '%s: the lease had ended (%g s): messages in work here may be delivered to others too',
                    server.name,
                    self.seconds,
                )
        if refresh:
            self._refreshed = runtime.monotonic()

    def reconcile(self) -> int:
        """Give back what the server has noted for us and we know nothing of. Returns how many.

        Switches: yes.
        """
        server, keys = self._server, self._keys
        limit = self._fetching.number  # what is fetched from now on is none of our business
        lost = 0
        for home in keys.homes():
            tags = self._noted(home)
            session = self.session()
            if session is None:
                break
            known = session.known_tags()
            for tag in tags:
                number = _number_of(tag)
                if number is not None and tag not in known and number < limit:
                    self._settler.give_back_home(home, tag, UNTOUCHED)
                    lost += 1
        if lost:
            logger.info(
                '%s: gave back %d messages whose delivery was lost with the connection', server.name, lost
            )
        return lost

    def _noted(self, home: Home) -> list[str]:
        tags: list[str] = []
        least = '-inf'
        while True:
            words = ('ZRANGEBYSCORE', home.own, least, '+inf', 'LIMIT', 0, PAGE)
            found = self._server.execute(words, home.own, runtime.Deadline.after(PATIENCE), TEXTS)
            tags += [tag.decode(errors='replace') for tag in found]
            last = _number_of(tags[-1]) if tags else None
            if len(found) < PAGE or last is None:
                return tags
            least = f'({last}'

    # ---------------------------------------------------------------- others'

    def sweep(self, force: bool = False) -> tuple[int, float]:
        """Look for messages of the dead once.

        Arguments:
            force (bool): also if somebody has looked just now.
        Returns:
            tuple[int, float]: messages given back; seconds until it is time to look again.
        Switches: yes.
        """
        server, keys = self._server, self._keys
        restored, wait = 0, self.interval
        self._end_left()
        for home in keys.homes():
            reply = server.run(
                SWEEP,
                (home.unacked, home.times, home.consumers, home.sweep, home.expiring, home.expires),
                (
                    keys.head, keys.tail, keys.sep, self.lock_ms, SWEEP_LIMIT, home.lease_of, home.tags_of,
                    self.visibility, 'force' if force else '',
                ),
                runtime.Deadline.after(PATIENCE),
                shape=_is_swept,
            )  # fmt: skip
            restored += reply[0]
            wait = min(wait, reply[1] / 1000)
            for at in range(2, len(reply), 2):
                if reply[at]:
                    restored += self._adopt(home, reply[at], reply[at + 1])
                else:
                    self._expiry.expire(reply[at + 1].decode(errors='replace'))
        if restored:
            logger.warning(
                '%s: %d messages of consumers that are gone went back to their queues', server.name, restored
            )
        return restored, wait

    def _end_left(self) -> None:
        left = _left.pop(self._server.name, {})
        while left:
            lease, until = left.popitem()
            if until <= runtime.monotonic():
                continue
            try:
                self._server.execute(('DEL', lease), lease, runtime.Deadline.after(PATIENCE))
            except FAILURES as error:
                if not self._server.connected:
                    _left.setdefault(self._server.name, {}).update({**left, lease: until})
                    raise
                # Not ours to end: it ends by itself, and keeps nobody from looking for the dead.
                logger.debug('%s: %r was not ended: %s', self._server.name, lease, error)

    def _adopt(self, home: Home, tag: Any, value: Any) -> int:
        """Give back an overdue message of a kombu worker, as kombu would: by its exchange and key."""
        try:
            text = value.decode()
            message, end = json.JSONDecoder().raw_decode(text, 1)
            exchange, routing_key = json.loads('[' + text[end:].lstrip()[1:])[:2]
            priority = int((message.get('properties') or {}).get('priority') or 0)
            if not isinstance(exchange, str) or not isinstance(routing_key, str):
                raise ValueError('no exchange and routing key')
        except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            # Kept elsewhere, or each look would find it again, and in the end nothing else.
            dead = f'{home.unacked}.dead'
            logger.error(
                '%s: %r is no delivery that could be restored (%s); it is kept in %r',
                home.unacked, printable(tag), printable(error, 200), dead,
            )  # fmt: skip
            commands = [('LPUSH', dead, value), ('HDEL', home.unacked, tag), ('ZREM', home.times, tag)]
            self._server.execute_many(commands, home.unacked, runtime.Deadline.after(PATIENCE))
            return 0
        raw = text[1:end]
        keys, queues = self._keys, [routing_key]
        if exchange:
            deadline = runtime.Deadline.after(PATIENCE)
            queues = self.session().router.route(exchange, routing_key, None, deadline)  # type: ignore[union-attr]
        lists = [keys.list_of(queue, keys.step(priority)) for queue in queues]
        return int(
            self._server.run(
                ADOPT, (home.unacked, home.times, *lists), (tag, raw), runtime.Deadline.after(PATIENCE)
            )
        )


def _number_of(tag: str) -> int | None:
    """The number in a tag of ours; None if a stranger wrote it."""
    parts = tag.split(':')
    return int(parts[2]) if len(parts) == 4 and parts[2].isascii() and parts[2].isdecimal() else None


def _is_swept(reply: Any) -> bool:
    # Two numbers, then pairs of texts.
    return (
        reply.__class__ is list
        and len(reply) >= 2
        and len(reply) % 2 == 0
        and set(map(type, reply[:2])) == {int}
        and set(map(type, reply[2:])) <= {bytes}
    )


def _keep(ref: weakref.ref[ConsumerLease]) -> None:
    while True:
        lease = ref()
        if lease is None:
            return
        pause = min(lease.seconds / 3, lease.visibility / 4)
        del lease
        runtime.sleep(pause)
        lease = ref()
        session = lease.session() if lease is not None else None
        if lease is None or session is None or session.state == 'closed':
            return
        if not session.holds_any:
            if not session.consumes_any:
                return
            continue
        try:
            lease.renew()
        except ConnectionClosed:
            return
        except FAILURES as error:
            logger.warning('%s: the lease was not renewed: %s', session.name, error)
        del session


def _sweep(ref: weakref.ref[ConsumerLease]) -> None:
    pause = 0.0
    while True:
        runtime.sleep(pause)
        lease = ref()
        session = lease.session() if lease is not None else None
        if lease is None or session is None or session.state == 'closed' or not session.consumes_any:
            return
        pause = lease.interval
        if session.state != 'open':
            del lease, session
            continue
        try:
            _, pause = lease.sweep()
        except ConnectionClosed:
            return
        except FAILURES as error:
            logger.warning('%s: could not look for dead consumers: %s', session.name, error)
        pause = min(max(pause, 0.01), lease.interval)
        del lease, session
