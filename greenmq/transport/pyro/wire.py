"""One connection to a Pyro object: calls that do not wait for each other, answered by number."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from Pyro5 import errors, protocol

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, ConnectionLost, NotFound
from greenmq.transport.pyro.frames import Frames, frame, serializer_of

__all__ = ('Wire',)

_NUMBERS = 0xFFFF  # of calls, in Pyro's head


class _Call:
    __slots__ = ('abandon', 'waiter')

    def __init__(self, what: str, abandon: Callable[[Any], Any] | None) -> None:
        self.waiter = runtime.Waiter(f'no answer of {what}')
        self.abandon = abandon


class Wire:
    """A connection, from `open` to `close`.

    Arguments:
        serializer (str): 'json', 'serpent' or 'msgpack'.
        owner (object): held weakly; when it is gone nobody reads any more.
        lost (Callable[[Exception], Any]): is told when it ends by itself; must not wait.
    """

    def __init__(self, serializer: str, owner: object, lost: Callable[[Exception], Any]) -> None:
        self._owner = weakref.ref(owner)
        self._serializer = serializer_of(serializer)
        self._lost = lost
        self._object = ''
        self._stream: runtime.Stream | None = None
        self._reader: runtime.Task | None = None
        self._calls: dict[int, _Call] = {}
        self._number = 0
        self._turn = runtime.Lock()
        self.sent = 0

    def open(self, host: str, port: int, name: str, deadline: runtime.Deadline) -> None:
        """Connect to an object.

        Raises:
            NotFound: the daemon has no such object. ConnectionLost, TimeoutError: not reached.
        Switches: yes. Failed or killed: nothing stays open.
        """
        self._object = name
        stream = runtime.dial(host, port, deadline)
        try:
            frames = Frames(stream)
            hello = self._serializer.dumps({'handshake': 'hello', 'object': name})
            stream.write(frame(protocol.MSG_CONNECT, 0, self._serializer, hello), deadline)
            answer = frames.next(deadline)
            if answer is None:
                raise ConnectionLost(f'{stream.name} ended the connection: is it a daemon of Pyro5?')
            if answer.type != protocol.MSG_CONNECTOK:
                raise NotFound(f'{stream.name}: {serializer_of(answer.serializer_id).loads(answer.data)}')
        except BaseException:
            stream.abandon()
            raise
        self._stream = stream
        self._reader = runtime.spawn(
            self._read, frames, name=f'pyro-reader {stream.name}', owner=self._owner()
        )

    def close(self) -> None:
        """End it."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.kill()
        if self._stream is not None:
            self._stream.close()
        self._end(ConnectionClosed('the connection to the Pyro daemon was closed'))

    def forget(self) -> None:
        """In a forked child."""
        self._stream = self._reader = None
        self._calls.clear()

    # ---- calls

    def call(
        self, method: str, *args: Any, deadline: runtime.Deadline,
        abandon: Callable[[Any], Any] | None = None,
    ) -> Any:  # fmt: skip
        """Call a method and wait for what it returns.

        Arguments:
            abandon (Callable): gets a result for which nobody waited any more. Must not wait.
        Raises:
            TimeoutError: not in time. ConnectionLost: cut. Others: what the method raised.
        Switches: yes. Killed: the result goes to `abandon`.
        """
        number, call = self._next(), _Call(method, abandon)
        self._calls[number] = call
        try:
            self._send(number, method, args, 0, deadline)
        except BaseException:
            self._calls.pop(number, None)
            raise
        try:
            return call.waiter.wait(deadline, abandon)
        except BaseException:
            if number in self._calls and method == 'fetch':
                self.tell('cancel', number)
            raise

    def tell(self, method: str, *args: Any) -> None:
        """Call a method and want no answer, nor know whether it came."""
        runtime.spawn(self._tell, method, args, name='pyro-tell')

    def _tell(self, method: str, args: Any) -> None:
        try:
            self._send(self._next(), method, args, protocol.FLAGS_ONEWAY, runtime.Deadline.after(5))
        except (ConnectionLost, ConnectionClosed, TimeoutError):
            return  # the daemon undoes it all when the connection ends

    def _next(self) -> int:
        while True:
            self._number = (self._number + 1) & _NUMBERS
            if self._number not in self._calls:
                return self._number

    def _send(self, number: int, method: str, args: Any, flags: int, deadline: runtime.Deadline) -> None:
        stream = self._stream
        if stream is None:
            raise ConnectionClosed('the connection to the Pyro daemon was closed')
        data = self._serializer.dumpsCall(self._object, method, args, {})
        message = frame(protocol.MSG_INVOKE, number, self._serializer, data, flags)
        self.sent += 1
        if not self._turn.acquire(deadline):
            raise deadline.error(f'{stream.name} takes no data')
        try:
            stream.write(message, deadline)
        finally:
            self._turn.release()

    # ---- answers

    def _read(self, frames: Frames) -> None:
        error: Exception
        try:
            while (message := frames.next()) is not None:
                self._answered(message)
            error = ConnectionLost('the Pyro daemon ended the connection')
        except (OSError, ConnectionLost, ConnectionClosed, errors.PyroError) as exc:
            error = ConnectionLost(f'the connection to the Pyro daemon: {exc}')
        self._reader = None
        self._end(error)
        self._lost(error)

    def _answered(self, message: Any) -> None:
        call = self._calls.pop(message.seq, None)
        if call is None or message.type != protocol.MSG_RESULT:
            return
        result = serializer_of(message.serializer_id).loads(message.data)
        if message.flags & protocol.FLAGS_EXCEPTION:
            known = isinstance(result, Exception)
            call.waiter.fail(result if known else errors.PyroError(str(result)))
        elif not call.waiter.wake(result) and call.abandon is not None:
            call.abandon(result)

    def _end(self, error: Exception) -> None:
        calls, self._calls = self._calls, {}
        if self._stream is not None:
            self._stream.close()
        for call in calls.values():
            call.waiter.fail(error)
