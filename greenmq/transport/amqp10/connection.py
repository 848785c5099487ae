"""One life of a connection to an AMQP 1.0 peer: who reads, who writes, who waits.

Only two tasks touch the stream: the reader feeds the engine what a read brought, the writer sends what was
queued, see `outbox`. What the engine decides is told to listeners from inside the reader; whoever waits for
an answer waits here. A connection ends once, in `_end`: everybody learns the same error at the same moment.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, ConnectionError, ConnectionLost, TimeoutError
from greenmq.log import get_logger
from greenmq.transport.amqp10.engine import Engine, Limits
from greenmq.transport.amqp10.errors import LoginRefused, PeerFault
from greenmq.transport.amqp10.frames import EMPTY
from greenmq.transport.amqp10.sasl import Login
from greenmq.transport.amqp10.session import Session
from greenmq.transport.outbox import Outbox

__all__ = ('Connection', 'Lost')

logger = get_logger('greenmq.transport.amqp10')

#: Bytes asked for in one read.
READ_SIZE = 64 * 1024
#: Seconds that a peer may take nothing of what we write.
WRITE_TIMEOUT = 60.0
#: Seconds for the peer's answer to the goodbye of a connection that nobody uses any more.
PARTING_SECONDS = 5.0


class Lost(Protocol):
    """Who is told of the end of a connection. Must not switch."""

    def on_connection_lost(self, connection: Connection, error: Exception) -> None:
        """It ended, and not because we closed it."""


class Connection(Outbox):
    """One epoch of a connection.

    Arguments:
        stream (Stream): dialled, and used by nobody else.
        login (Login), hostname (str), limits (Limits), properties (dict): see `Engine`.
        owner (Lost): held weakly; when it is collected the connection says goodbye.
    Attributes:
        engine (Engine): its books.
        error (BaseException | None): why it ended; None while it lives.
        bytes_in, bytes_out (int): what went over the wire.
    """

    def __init__(
        self,
        stream: runtime.Stream,
        login: Login,
        hostname: str,
        limits: Limits,
        owner: Lost,
        properties: dict[Any, Any] | None = None,
    ) -> None:
        super().__init__()
        self.stream = stream
        self.name = stream.name
        self.engine = Engine(stream.name, self, login, hostname, limits, properties)
        self.bytes_in = self.bytes_out = 0
        self.heard_at = runtime.monotonic()
        self._owner = weakref.ref(owner, _orphaned(weakref.ref(self), weakref.ref(runtime.hub_id())))
        self._opened: runtime.Waiter | None = None
        self._closed: runtime.Waiter | None = None
        self._tasks: list[runtime.Task] = []
        self._ticker: runtime.Ticker | None = None
        self._parting: runtime.Timer | None = None
        self._beaten_at = -1
        self._writing = False  # the writer is in the stream
        self._after: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        state = self.engine.state if self.error is None else f'ended: {self.error}'
        return f'<Connection {self.name}: {state}, {len(self.engine.sessions)} sessions>'

    # ---- life

    def open(self, deadline: runtime.Deadline) -> None:
        """Log in and open.

        Raises:
            LoginRefused: refused. ConnectionLost: the peer ended it, or speaks something else.
            TimeoutError: no answer in time. InvalidArgument: no such login.
        Switches: yes. Killed or failed: the socket is closed.
        """
        spawn = runtime.spawn
        runtime.at_thread_end(self, first=True)
        waiter = self._opened = runtime.Waiter(f'{self.name}: the handshake did not end{self._hint()}')
        try:
            self.engine.start()
            self._tasks = [
                spawn(self._read, name=f'amqp10-reader {self.name}', owner=self, on_exit=self._task_ended),
                spawn(self._write, name=f'amqp10-writer {self.name}', owner=self, on_exit=self._task_ended),
            ]
            waiter.wait(deadline)
        except TimeoutError as error:
            self.abandon()
            raise (self.engine.take_fault() or error) from None
        except BaseException as error:
            self.abandon()
            if self.error is error:
                # Who opens it has it, and its traceback knows us: that circle only the collector would cut.
                self.error = ConnectionClosed(f'{self.name} was not opened')
                self.engine.take_fault()
            raise
        finally:
            self._opened = None
        if self.engine.limits.idle_timeout or self.engine.peer_timeout:
            self._tasks.append(
                spawn(self._beat, name=f'amqp10-heartbeat {self.name}', owner=self, on_exit=self._task_ended)
            )
        if self.engine.peer_timeout and isinstance(self.stream, runtime.SharedStream):
            self._ticker = runtime.Ticker(self.engine.peer_timeout / 2, self._beat_from_thread)

    def _hint(self) -> str:
        return '; does the port speak AMQP 1.0, and over TLS?' if not self.bytes_in else ''

    def _task_ended(self, task: runtime.Task, error: BaseException | None) -> None:
        if self.error is None:
            self._end(ConnectionLost(f'{task.name} ended: {error!r}'))

    def on_open(self) -> None:
        """See `engine.Owner`."""
        if self._opened is not None:
            self._opened.wake()

    def on_close(self, error: Exception) -> None:
        """See `engine.Owner`."""
        self._last_words()
        self._end(error)

    def lose(self, error: BaseException) -> None:
        """End it because the other side or the network did."""
        runtime.forget_traces(error)
        if self.error is None:
            if not isinstance(error, (ConnectionError, LoginRefused)):
                lost = ConnectionLost(f'{self.name}: {error}')
                lost.__cause__ = error
                error = lost
            self._end(error)

    def _end(self, error: Exception) -> None:  # no switch
        if self.error is not None:
            return
        self.error = error
        opening = self._opened is not None and self._opened.pending  # who opens it is told by that
        if self._ticker is not None:
            self._ticker.stop()
        if self._parting is not None:
            self._parting.cancel()
        self.stream.close()
        self._empty()
        for task in self._tasks[2:]:
            task.kill()
        self.engine.ended(error)
        if self._opened is not None:
            self._opened.fail(error)
        if self._closed is not None:
            self._closed.wake()  # not with the error, which would learn of us by its traceback
        owner = self._owner()
        if owner is not None and not opening and not isinstance(error, ConnectionClosed):
            owner.on_connection_lost(self, error)

    def thread_ended(self) -> None:
        """Nobody runs our tasks any more: what was settled leaves."""
        self.abandon()

    def abandon(self) -> None:
        """Let go of the socket without a byte."""
        if self.error is None:
            self.stream.abandon()
            self._end(ConnectionClosed(f'{self.name} was abandoned'))

    def part(self) -> None:
        """Say goodbye because nobody uses the connection any more."""
        if self.error is None:
            self.engine.close()
            self._parting = runtime.call_later(PARTING_SECONDS, self.abandon)

    def close(self, deadline: runtime.Deadline) -> None:
        """Say goodbye, after all that was queued, and wait for the answer.

        Switches: yes. Killed or timed out: the socket is closed all the same.
        """
        if self.error is not None:
            return
        self._closed = runtime.Waiter(f'{self.name}: close was not answered')
        try:
            self.engine.close()
            self._closed.wait(deadline)
        except TimeoutError as error:
            logger.debug('%s: %s; the socket is closed all the same', self.name, error)
        finally:
            self._closed = None
            self._end(ConnectionClosed(f'{self.name} was closed'))

    # ---- sessions

    def session(self) -> Session:
        """Begin a session; what is asked of it before the peer agreed waits there.

        Raises:
            ConnectionLost, ConnectionClosed: there is no connection.
        """
        self.check()
        return self.engine.session()

    def check(self) -> None:
        """Raise why the connection ended, if it has."""
        if self.error is not None:
            raise runtime.again(self.error)

    # ---- out

    def send(self, data: bytes) -> None:
        """Queue whole frames.

        Raises:
            ConnectionLost, ConnectionClosed: it has ended.
        """
        self.check()
        self._out.append(data)
        self.out_bytes += len(data)
        idle = self._idle
        if idle is not None:
            self._idle = None
            idle.wake()

    def _send_out(self, out: list[Any]) -> None:
        view = memoryview(out[0] if len(out) == 1 else b''.join(out))
        while view and self.error is None:
            unsent = self.stream.unsent
            self._writing = True
            try:
                sent = self.stream.write_some(view, runtime.Deadline.after(WRITE_TIMEOUT))
            except TimeoutError:
                if self.stream.unsent == unsent:
                    self.lose(ConnectionLost(f'{self.name}: the peer took nothing for {WRITE_TIMEOUT} s'))
                continue
            except (OSError, ConnectionError) as error:
                self.lose(error)
                return
            finally:
                self._writing = False
            self.bytes_out += sent
            self.out_bytes -= sent
            view = view[sent:]

    # ---- in

    def _read(self) -> None:
        try:
            while self.error is None:
                data = self.stream.read(READ_SIZE)
                if not data:
                    when = 'during the handshake' if self._opened is not None else ''
                    self.lose(ConnectionLost(f'{self.name}: the peer closed the connection {when}'.rstrip()))
                    return
                self.heard_at = runtime.monotonic()
                self.bytes_in += len(data)
                try:
                    count = self.engine.feed(data)
                finally:
                    after, self._after = self._after, []
                    for function in after:
                        function()
                if count and len(data) > 16384:
                    runtime.sleep(0)  # let those work who were handed something
        except PeerFault as error:
            self._last_words()
            self.lose(error)
        except (LoginRefused, OSError, ConnectionError) as error:
            self.lose(error)

    def after_read(self, function: Callable[[], None]) -> None:
        """Have something called when all that one read brought was heard. It must not switch."""
        self._after.append(function)

    def _last_words(self) -> None:
        # What is queued last says why. The writer would find a closed stream: it leaves from here, if it can.
        if self.error is None and self._out and not self._writing and not self.stream.unsent:
            out, self._out = b''.join(self._out), []
            try:
                self.stream.write_some(out, runtime.Deadline.after(1.0))
            except (OSError, ConnectionError) as failure:
                logger.debug('%s: could not say goodbye: %r', self.name, failure)

    # ---- heartbeats

    def _beat(self) -> None:
        heard, said = self.engine.limits.idle_timeout, self.engine.peer_timeout
        turn = min(each for each in (heard / 4, said / 3) if each)
        sent_before, due = -1, runtime.monotonic() + turn
        while self.error is None:
            runtime.sleep(max(0.0, due - runtime.monotonic()))
            now = runtime.monotonic()
            if said and self.bytes_out == sent_before and not self._out:
                self.engine.beat()
            sent_before = self.bytes_out
            # After a stall of our own the kernel may hold what we did not read: the next turn judges.
            if heard and now - due <= turn and now - self.heard_at > heard:
                self.lose(
                    ConnectionLost(
                        f'{self.name}: nothing from the peer for {now - self.heard_at:.1f} s '
                        f'(idle timeout {heard:g} s)'
                    )
                )
            due = now + turn

    def _beat_from_thread(self) -> None:
        # In a native thread: nothing was written for a while, perhaps as our hub does not run (P13).
        stream = self.stream
        if self.bytes_out == self._beaten_at and isinstance(stream, runtime.SharedStream):
            stream.beat(EMPTY)
        self._beaten_at = self.bytes_out


def _orphaned(connection: weakref.ref[Connection], hub: weakref.ref[Any]) -> Any:
    # What to do when the owner is collected, in whatever thread that happens to be.
    def part() -> None:
        found = connection()
        if found is not None:
            found.part()

    def orphaned(_: object) -> None:
        found = hub()
        if found is not None:
            runtime.post(found, part)

    return orphaned
