"""What kazoo waits with: its handler, on `greenmq.runtime`.

kazoo asks its handler for tasks, locks, results, sockets and `select`, so that it may run on anything. Ours
gives it streams of `runtime.dial`: names are looked up, connections made and TLS spoken without blocking the
hub, alike on gevent and eventlet, patched or not. What one turn of kazoo's loop writes leaves as one write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.exceptions import AMQPError, TimeoutError
from greenmq.log import get_logger

__all__ = ('AsyncResult', 'Handler')

logger = get_logger('greenmq.transport.zookeeper')

#: Bytes that are collected before they are written although more is to come.
_FULL = 64 * 1024


class AsyncResult:
    """A result that comes later.

    Source: kazoo.interfaces.IAsyncResult.
    """

    __slots__ = ('_callbacks', '_future', 'exception', 'value')

    def __init__(self) -> None:
        self._future = runtime.Future()
        self._callbacks: list[Callable[[Any], Any]] = []
        self.value: Any = None
        self.exception: BaseException | None = None

    def ready(self) -> bool:
        """Is there a value or an error?"""
        return self._future.done()

    def successful(self) -> bool:
        """Is there a value?"""
        return self._future.done() and self.exception is None

    def set(self, value: Any = None) -> None:
        """Set the value."""
        self.value = value
        self._future.set_result(value)
        self._tell()

    def set_exception(self, exception: BaseException) -> None:
        """Set the error."""
        if not self._future.done():
            self.exception = exception
            self._future.set_exception(exception)
            self._tell()

    def get(self, block: bool = True, timeout: Any = None) -> Any:
        """Wait for the value.

        Raises:
            TimeoutError: not in time. Others: what was set.
        Switches: only if it is not there.
        """
        return self._future.result(timeout if block else 0)

    def get_nowait(self) -> Any:
        """The value that is there."""
        return self.get(block=False)

    def wait(self, timeout: Any = None) -> bool:
        """Wait until it is ready; False if not in time. Switches: only if it is not."""
        return self._future.waited(timeout)

    def rawlink(self, callback: Callable[[Any], Any]) -> None:
        """Have something called with this when it is ready."""
        if self.ready():
            callback(self)
        else:
            self._callbacks.append(callback)

    def unlink(self, callback: Callable[[Any], Any]) -> None:
        """Undo `rawlink`."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def _tell(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)


class _Bell:
    """What wakes kazoo's loop, which alone waits for it."""

    __slots__ = ('waiter',)

    def __init__(self) -> None:
        self.waiter: runtime.Waiter | None = None

    def ring(self) -> None:
        if self.waiter is not None:
            self.waiter.wake()


class _Pipe:
    """Both ends of the pipe by which kazoo tells its loop of requests; bytes are counted, not kept."""

    __slots__ = ('_bell', 'count')

    def __init__(self, bell: _Bell) -> None:
        self._bell = bell
        self.count = 0

    @property
    def readable(self) -> bool:
        return self.count > 0

    def send(self, data: bytes) -> int:
        self.count += len(data)
        self._bell.ring()
        return len(data)

    def recv(self, n: int) -> bytes:
        if not self.count:
            raise BlockingIOError('nothing was sent')
        n = min(n, self.count)
        self.count -= n
        return b'\0' * n

    def close(self) -> None:
        self._bell.ring()

    def flush(self, deadline: Any) -> None:
        pass  # nothing is ever on its way


class _Wire:
    """A connection as kazoo uses a socket: what came is read ahead, what goes is collected."""

    __slots__ = ('_at', '_bell', '_error', '_received', '_task', '_unsent', 'stream')

    def __init__(self, stream: runtime.Stream, bell: _Bell) -> None:
        self.stream = stream
        self._bell = bell
        self._received = b''
        self._at = 0
        self._unsent = bytearray()
        self._error: Exception | None = None
        self._task = runtime.spawn(self._read, name=f'zookeeper-reader {stream.name}')

    def _read(self) -> None:
        try:
            while data := self.stream.read():
                self._received = self._received[self._at :] + data
                self._at = 0
                self._bell.ring()
            self._error = EOFError(f'{self.stream.name}: the server ended the connection')
        except (OSError, AMQPError) as error:  # kazoo's loop meets it when it reads
            self._error = error.with_traceback(None)  # which would lead back to us
        self._bell.ring()

    @property
    def readable(self) -> bool:
        return self._at < len(self._received) or self._error is not None

    def setblocking(self, blocking: Any) -> None:
        """kazoo wants no blocking sockets; this one never blocks."""

    def recv(self, n: int) -> bytes:
        found = self._received[self._at : self._at + n]
        self._at += len(found)
        if not found:
            if isinstance(self._error, EOFError):
                return b''
            raise OSError(str(self._error or f'{self.stream.name}: nothing to read'))
        return found

    def send(self, data: Any) -> int:
        self._unsent += data
        return len(data)

    def flush(self, deadline: Any) -> None:
        if self._unsent:
            data, self._unsent = bytes(self._unsent), bytearray()
            try:
                self.stream.write(data, deadline)
            except AMQPError as error:
                raise OSError(str(error)) from error

    @property
    def full(self) -> bool:
        return len(self._unsent) >= _FULL

    def close(self) -> None:
        self._task.kill()
        self.stream.close()


class Handler:
    """kazoo's handler, for one client.

    Arguments:
        dial (Callable[[str, int, float], Stream]): connects to an address, given the seconds.
    Source: kazoo.interfaces.IHandler.
    """

    name = 'greenmq'
    sleep_func = staticmethod(runtime.sleep)
    timeout_exception = TimeoutError

    def __init__(self, dial: Callable[[str, int, Any], runtime.Stream]) -> None:
        self.running = False
        self._dial = dial
        self._bell = _Bell()
        self._tasks: list[runtime.Task] = []
        self._wires: list[_Wire] = []

    def start(self) -> None:
        """Begin to run callbacks."""
        self.running = True

    def stop(self) -> None:
        """Run no more callbacks."""
        self.running = False

    def abandon(self) -> None:
        """End all tasks and connections of the client without a word to the server."""
        self.running = False
        for task in self._tasks:
            task.kill()
        for wire in self._wires:
            wire.close()
        self._tasks, self._wires = [], []

    # ---- connections

    def create_connection(self, address: Any, timeout: Any = None, **tls: Any) -> _Wire:
        """Connect; how TLS is spoken is known to `dial`, not told by kazoo. Switches: yes.

        Raises:
            OSError: not reached.
        """
        host, port = address[:2]
        try:
            stream = self._dial(host, port, timeout)
        except AMQPError as error:
            raise OSError(str(error)) from error
        wire = _Wire(stream, self._bell)
        self._wires = [old for old in self._wires if not old.stream.closed]
        self._wires.append(wire)
        return wire

    def create_socket_pair(self) -> tuple[_Pipe, _Pipe]:
        """The ends of a pipe: one object is both."""
        pipe = _Pipe(self._bell)
        return pipe, pipe

    def select(self, readers: Any, writers: Any, broken: Any, timeout: Any = None) -> tuple[Any, Any, Any]:
        """Wait until one can be read; all can be written at any time.

        Switches: only if none can be read, or to write what was collected.
        """
        if writers:
            return [], writers, []
        found = [each for each in readers if each.readable]
        pipe_waits = any(isinstance(each, _Pipe) for each in found)
        for each in readers:
            # While requests wait in the pipe, the next turn of the loop collects another one.
            if not pipe_waits or (isinstance(each, _Wire) and each.full):
                each.flush(timeout)
        if found:
            return found, [], []
        deadline = runtime.Deadline.of(timeout)
        while not found and not deadline.expired():
            waiter = self._bell.waiter = runtime.Waiter('nothing to read')
            try:
                found = [each for each in readers if each.readable]
                if not found:
                    waiter.wait(deadline)
            except TimeoutError:
                if not waiter.expired:
                    raise
            finally:
                self._bell.waiter = None
            found = [each for each in readers if each.readable]
        return found, [], []

    # ---- tasks and waiting

    def spawn(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> runtime.Task:
        """Start a task."""
        task = runtime.spawn(lambda: func(*args, **kwargs), name='zookeeper-session')
        self._tasks = [old for old in self._tasks if not old.done]
        self._tasks.append(task)
        return task

    def dispatch_callback(self, callback: Any) -> None:
        """Call a watch, which must not wait."""
        try:
            callback.func(*callback.args)
        except Exception:  # one watch that fails must not end the session
            logger.exception('a watch failed: %r', callback.func)

    def async_result(self) -> AsyncResult:
        """Make a result that comes later."""
        return AsyncResult()

    def event_object(self) -> Any:
        """Make an event."""
        return runtime.Event()

    def lock_object(self) -> runtime.Lock:
        """Make a lock."""
        return runtime.Lock()

    def rlock_object(self) -> runtime.RLock:
        """Make a lock that its owner may take again."""
        return runtime.RLock()
