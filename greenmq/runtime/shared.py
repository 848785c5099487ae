"""A stream on which a native thread may add a few bytes between two writes, while the hub does not run.

Conditions that hold beyond those of `net`:

1. Every touch of the socket for writing, of the TLS codec and of the bytes that wait stands under one
   original lock, which is never held across a switch.
2. A write is taken as a whole: what the kernel does not take at once waits here, and nothing but its own
   rest can follow it. So whatever stands between two writes is a boundary of whatever was written.
"""

from __future__ import annotations

from typing import Any

from greenmq.exceptions import Forked
from greenmq.runtime.clock import Timeoutish, post
from greenmq.runtime.net import Stream
from greenmq.runtime.sync import NativeLock
from greenmq.runtime.tls import TLSCodec

__all__ = ('SharedStream',)


class SharedStream(Stream):
    """A stream that also takes bytes from a native thread. Made of a fresh stream, which it uses up.

    Arguments:
        stream (Stream): from `dial`, unused since.
    """

    __slots__ = ('_guard',)

    def __init__(self, stream: Stream) -> None:
        sock, tls = stream.detach()
        super().__init__(sock, stream.name)
        self._tls = tls
        self._guard: Any = NativeLock()

    def beat(self, data: bytes) -> bool:
        """Send bytes from another thread: after the write under way, if that can be finished without waiting.

        Returns:
            bool: False if the other side takes nothing, or the stream has ended.
        Switches: no; in a native thread. Waits for no more than the lock.
        """
        with self._guard:
            if self._sock is None or self._write_error is not None or not self._push_guarded():
                return False
            if self._tls is not None:
                self._tls.encrypt(data)
                data = self._tls.outgoing()
            self._pending = data
            if self._push_guarded():
                return True
        post(self._hub, self._go_on)  # the rest goes as soon as the hub runs again
        return True

    def _go_on(self) -> None:
        # In the hub.
        if self._sock is not None and self._pending and self._write_error is None:
            self._watch(True).start(self._on_writable)

    def write_some(self, data: bytes | bytearray | memoryview, deadline: Timeoutish = None) -> int:
        """As `Stream.write_some`, but takes everything: what does not go at once is sent by the hub."""
        self.flush(deadline)
        with self._guard:
            self._check_writable()
            rest: bytes | bytearray | memoryview = data
            if self._tls is not None:
                self._tls.encrypt(data)
                rest = self._tls.outgoing()
            self._queue_guarded(rest)
        return len(data)

    @property
    def gathers(self) -> bool:
        """False: what does not go at once is kept for the hub in one piece."""
        return False

    def _decrypt(self, tls: TLSCodec, n: int) -> bytes | None:
        with self._guard:
            self._check_open()
            try:
                plain = tls.decrypt(n)
            except OSError as exc:
                raise self._lost(exc) from exc
            answer = tls.outgoing()
            if answer:
                self._queue_guarded(answer)
        return plain

    def _feed(self, tls: TLSCodec, data: bytes) -> None:
        with self._guard:
            tls.feed(data)

    def _push(self) -> bool:
        with self._guard:
            return self._push_guarded()

    def _push_guarded(self) -> bool:
        view = memoryview(self._pending)
        sock = self._sock
        try:
            while view and sock is not None:
                view = view[sock.send(view) :]
        except BlockingIOError:
            self._pending = bytes(view)
            return False
        except OSError as exc:
            self._write_failed(exc)
        self._pending = b''
        return True

    def _queue_guarded(self, data: bytes | bytearray | memoryview) -> None:
        self._pending = self._pending + data if self._pending else bytes(data)
        if not self._push_guarded() and self._write_error is None:
            self._watch(True).start(self._on_writable)

    def _end(self, error: BaseException) -> None:
        if isinstance(error, Forked):
            self._guard = NativeLock()  # the thread that held the old one does not exist in the child
        with self._guard:
            super()._end(error)

    def close(self) -> None:
        """As `Stream.close`."""
        with self._guard:
            if self._sock is not None and self._tls is not None and self._write_error is None:
                self._tls.say_goodbye()
                self._pending = bytes(self._pending) + self._tls.outgoing()
                self._push_guarded()
        super().abandon()
