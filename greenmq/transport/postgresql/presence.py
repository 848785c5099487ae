"""A session among those that share some tables: its row, who waits here, and the listener that wakes them."""

from __future__ import annotations

import _socket
import os
from collections.abc import Callable
from typing import TypeVar

from greenmq import runtime
from greenmq.transport.driver.contract import Owner
from greenmq.transport.postgresql.listener import Listener
from greenmq.transport.postgresql.pool import Pool
from greenmq.transport.postgresql.side_tables import SideStatements
from greenmq.transport.waiters import Waiters

__all__ = ('Presence',)

#: Seconds for what the base gives no deadline.
_OPERATION = 30.0
#: Seconds between two looks while no notification can come; it doubles up to the longest pause.
_FIRST_PAUSE = 0.1
#: Seconds for which it is believed that somebody publishes who tells nobody, as kombu does.
_SILENT = 600.0
#: Seconds after which a queue on which nobody waited is not listed any more.
_FORGOTTEN = 60.0

T = TypeVar('T')


class Presence:
    """What the others can see of one session, and what it hears of them.

    Arguments:
        sql (SideStatements): for the tables that they share.
        owner (Owner): told of bindings that changed.
        lease (float): seconds that its row lives without being renewed.
        longest_pause (float): seconds between two looks while no notification can come, at most.
        also (Callable[[str], str | None]): the channel of others' words about a queue, to be heard as well.
    Attributes:
        lease (float): as given.
        me (int): its row; 0 before it has one, and the same from then on.
        waiters (Waiters): who waits here.
        listener (Listener | None): hears notifications, if that is wanted.
        renewed (float): `runtime.monotonic()` before the row was renewed last.
        silent_until (float): until then who waits looks now and then, even if notifications come.
    """

    def __init__(
        self, sql: SideStatements, owner: Owner, lease: float, longest_pause: float,
        also: Callable[[str], str | None] = lambda queue: None,
    ) -> None:  # fmt: skip
        self._sql = sql
        self._owner = owner
        self.lease = lease
        self._longest_pause = longest_pause
        self._also = also
        self._host = f'{_socket.gethostname()}:{os.getpid()}'
        self.me = 0
        self.waiters = Waiters()
        self.listener: Listener | None = None
        self.renewed = 0.0
        self.silent_until = 0.0
        self._pool: Pool | None = None
        self._waited: dict[str, float] = {}  # queues on which somebody waited here, and when
        self._listed: tuple[str, ...] = ()  # those of them that the others know of
        self._channels: dict[str, str] = {}  # others' channels → the queues that they are about

    def open(self, pool: Pool, listens: bool, deadline: runtime.Deadline) -> None:
        """Make or renew the row, and listen. Switches: yes."""
        if self.me:
            self.renew(deadline, pool)
        else:
            began = runtime.monotonic()
            self.me = pool.run(self._sql.enlist, self.lease, self._host, deadline=deadline)[0][0]
            self.renewed = began
        self._pool = pool
        if listens:
            own = f'{self._sql.channel}_{self.me}'
            self.listener = Listener(pool, [self._sql.channel, *self._channels], own, self._told)

    def leave(self) -> None:
        """Listen no more; the row stays until its lease ends, or somebody deletes it."""
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.close()
        self._pool = None
        self._listed = ()

    def forget(self) -> None:
        """In a forked child."""
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.forget()
        self._pool = None

    def keep(self, deadline: runtime.Deadline) -> None:
        """Renew the row, and see whether our own word comes back. Switches: yes."""
        self.renew(deadline)
        if self.listener is not None:
            self.listener.expect_echo()

    def renew(self, deadline: runtime.Deadline, pool: Pool | None = None) -> None:
        """Renew the row, and say who waits here. Switches: yes."""
        pool = self._pool if pool is None else pool
        if pool is None:
            return
        began = runtime.monotonic()
        self._waited.update((queue, began) for queue in self.waiters)
        for queue in [queue for queue, at in self._waited.items() if began - at > _FORGOTTEN]:
            del self._waited[queue]
        queues = tuple(sorted(self._waited))
        if self.listener is not None:
            for queue in queues:
                channel = self._also(queue)
                if channel is not None and channel not in self._channels:
                    self._channels[channel] = queue
                    self.listener.add(channel)  # our own word, which the renewal sends, has it done
        pool.run(
            self._sql.renew, self.me, self.lease, self._host, list(queues),
            self.listener is not None, deadline=deadline,
        )  # fmt: skip
        self.renewed = began
        self._listed = queues

    def renew_if_late(self) -> None:
        """Renew the row before more is taken in its name, if that is due for long. Switches: perhaps."""
        if runtime.monotonic() - self.renewed > self.lease / 2:
            self.renew(runtime.Deadline.after(_OPERATION))

    @property
    def live(self) -> bool:
        """Do notifications arrive?"""
        return self.listener is not None and self.listener.live

    def _told(self, channel: str | None, payload: str) -> None:
        # In the hub's tasks: a notification, or (None, '') when some may have been missed.
        if channel is None:
            self._owner.changed()
            self.waiters.wake(None)
        elif channel in self._channels:
            self.waiters.wake({self._channels[channel]})
        elif payload[:1] == 'b':
            self._owner.changed(payload[1:])
        else:
            self.waiters.wake({payload[1:]})

    def take(
        self, queues: list[str], seconds: float, claim: Callable[[], list[T]],
        due: Callable[[], float | None] = lambda: None,
    ) -> list[T]:  # fmt: skip
        """Claim until something is there, or some seconds have passed.

        Arguments:
            due (Callable[[], float | None]): the seconds after which something is there that was put long
                ago; None for never.
        Switches: yes.
        """
        pause, expected = _FIRST_PAUSE, False

        def look(woken: bool) -> tuple[list[T], float | None]:
            nonlocal pause, expected
            if seconds and self.listener is not None and not set(queues) <= set(self._listed):
                self.renew(runtime.Deadline.after(_OPERATION))
            taken = claim()
            if taken:
                if not (woken or expected) and self.live:
                    # Nobody told us: somebody publishes who tells nobody.
                    self.silent_until = runtime.monotonic() + _SILENT
                return taken, None
            if not seconds:
                return taken, None
            told = self.live and runtime.monotonic() > self.silent_until
            again = None if told else pause
            pause = min(pause * 2, self._longest_pause)
            at = due()
            expected = at is not None and (again is None or at <= again)
            return taken, at if expected else again

        return self.waiters.take(queues, seconds, look)
