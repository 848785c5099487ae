"""The connection that hears notifications, and knows whether it does.

A notification reaches only who listens at that moment, and some poolers take a LISTEN and deliver nothing.
So after each LISTEN, and now and then, a word of our own is sent through the database: only while that
arrives, in time, the listener is *live*. Whoever waits looks by itself while it is not, and looks once when
it is again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.core.retry import RetrySchedule
from greenmq.exceptions import ConnectionLost
from greenmq.log import get_logger
from greenmq.transport.postgresql.connection import Line
from greenmq.transport.postgresql.pool import Pool, abandon

__all__ = ('Listener',)

logger = get_logger('greenmq.transport.postgresql')

#: Seconds for a connect and its LISTEN, and for a word of our own to come back.
CONNECT, ECHO = 5.0, 5.0
#: Seconds until it is tried again to listen where nothing arrived.
AGAIN = 30.0


class Listener:
    """Listens on some channels, connecting again for as long as it lives.

    Arguments:
        pool (Pool): makes its connection, and sends the words of our own.
        channels (list[str]): what to listen on.
        own (str): the channel of our own words.
        told (Callable[[str | None, str], Any]): called in this hub with (channel, payload), and with
            (None, '') when something may have been missed. Held weakly if it is a method.
    Attributes:
        live (bool): do notifications arrive?
        connects (int): how often it began to listen.
        closed (bool): it listens no more.
    """

    def __init__(
        self, pool: Pool, channels: list[str], own: str, told: Callable[[str | None, str], Any]
    ) -> None:
        self._pool = pool
        self._channels = list(channels)
        self._more: list[str] = []
        self._own = own
        self._told = weakref.WeakMethod(told) if hasattr(told, '__self__') else lambda: told
        self._line: Line | None = None
        self._echo: Any = None
        self.live = False
        self.connects = 0
        self._deaf_told = False
        self.closed = False
        self._task = runtime.spawn(_listen, weakref.ref(self), name='postgresql-listener', owner=self)

    def add(self, channel: str) -> None:
        """Listen on one more channel, from the next notification on."""
        self._channels.append(channel)
        self._more.append(channel)

    def begin_more(self, line: Line) -> None:
        """Listen on what was added meanwhile. Switches: yes, if anything was."""
        more, self._more = self._more, []
        for name in more:
            line.run(f'LISTEN "{name}"', deadline=runtime.Deadline.after(CONNECT))
        if more:
            self.tell(None, '')  # what came before is to be looked for

    def tell(self, channel: str | None, payload: str) -> None:
        """Give a word to whom it is for."""
        if channel == self._own:
            self._heard()
            return
        told = self._told()
        if told is not None:
            told(channel, payload)

    # ---- are we heard?

    def expect_echo(self) -> None:
        """A word of our own was sent: it must be heard in time."""
        if self._echo is None and self._line is not None:
            self._echo = runtime.call_later(ECHO, _not_heard, weakref.ref(self))

    def _heard(self) -> None:
        if self._echo is not None:
            self._echo.cancel()
            self._echo = None
        if not self.live:
            self.live = True
            self._deaf_told = False
            self.tell(None, '')

    def not_heard(self) -> None:
        """Our own word did not come: begin anew."""
        self.ended()  # nobody listens until then: a word of ours that is sent meanwhile cannot be heard
        self.went_deaf('what was sent did not arrive, as behind a pooler')
        task, self._task = self._task, runtime.spawn(
            _listen, weakref.ref(self), AGAIN, name='postgresql-listener', owner=self
        )
        task.kill()

    def went_deaf(self, why: str) -> None:
        """No notification arrives any more."""
        if not self._deaf_told:
            self._deaf_told = True
            logger.warning('no notifications from PostgreSQL, looking now and then instead: %s', why)
        if self.live:
            self.live = False
            self.tell(None, '')

    # ---- listening

    def begin(self, deadline: runtime.Deadline) -> Line:
        """Connect, listen, and send a word of our own. Switches: yes."""
        line = self._pool.connect(deadline)
        try:
            self._more.clear()
            for name in (*self._channels, self._own):
                line.run(f'LISTEN "{name}"', deadline=deadline)
            self._line = line
            self.connects += 1
            self.expect_echo()
            self._pool.run('SELECT pg_notify($1, $2)', self._own, 'hello', deadline=deadline)
        except BaseException:
            line.discard()
            self.ended()
            raise
        return line

    def ended(self) -> None:
        """The connection is gone."""
        if self._echo is not None:
            self._echo.cancel()
            self._echo = None
        self._line = None

    def close(self) -> None:
        """Listen no more."""
        self.closed = True  # its task may run on until it is killed, and find the pool closed
        self._task.kill()  # which closes its connection
        self.ended()
        self.live = False

    def forget(self) -> None:
        """See `Pool.forget`."""
        if self._line is not None:
            abandon(self._line)


def _listen(ref: Callable[[], Listener | None], pause: float = 0.0) -> None:
    # Holds the listener only while something is done with it.
    retry = RetrySchedule(None, 0.1, 0.2, 1.0, jitter=0.5)
    failures = 0
    if pause:
        runtime.sleep(pause)
    while True:
        listener = ref()
        if listener is None:
            return
        line = None
        try:
            line = listener.begin(runtime.Deadline.after(CONNECT))
            failures = 0
            del listener
            _hear(ref, line)
        except Exception as error:  # told, and tried again
            listener = ref()
            if listener is None or listener.closed:
                return
            listener.went_deaf(str(error).strip() or type(error).__name__)
        finally:
            if line is not None:
                line.discard()
        listener = ref()
        if listener is None:
            return
        listener.ended()
        del listener
        failures += 1
        runtime.sleep(retry.delay(failures))


def _hear(ref: Callable[[], Listener | None], line: Line) -> None:
    pgconn = line.pgconn
    while True:
        while (notice := pgconn.notifies()) is not None:
            listener = ref()
            if listener is None:
                return
            listener.tell(notice.relname.decode(), notice.extra.decode())
            listener.begin_more(line)
            del listener
        runtime.wait_ready(pgconn.socket)
        pgconn.consume_input()
        if line.closed:
            raise ConnectionLost('the connection that listens was closed')


def _not_heard(ref: Callable[[], Listener | None]) -> None:
    listener = ref()
    if listener is not None:
        listener.not_heard()
