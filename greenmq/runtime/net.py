"""The stream: bytes to and from one socket, plain or TLS.

Conditions that hold throughout:

1. One task reads and one writes at a time; they may be two. Anybody may close.
2. Bytes leave the socket only in the step that also returns or keeps them: no wait lies between, so a kill or
   a timeout can lose none. Deadlines end waits and never touch the stream of bytes.
3. A watcher is stopped before its descriptor is closed: the number may belong to another file a moment later.
4. What is encrypted must be sent, in order and whole, whatever becomes of the task that wrote it. So
   ciphertext that the kernel does not take at once is sent by the hub.
"""

from __future__ import annotations

import weakref
from _socket import SHUT_WR, dup
from _socket import socket as Socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from greenmq.exceptions import (
    ConnectionClosed,
    ConnectionLost,
    Forked,
    TimeoutError,
    WrongHub,
)
from greenmq.runtime.clock import Deadline, Timeoutish, logger
from greenmq.runtime.errors import again
from greenmq.runtime.losses import DialError, meaning
from greenmq.runtime.offload import start_thread
from greenmq.runtime.seam import Watcher, library
from greenmq.runtime.strangers import speaks
from greenmq.runtime.threadend import at_thread_end
from greenmq.runtime.tls import TLSCodec
from greenmq.runtime.waiter import Waiter, sleep

__all__ = ('Stream',)

# One recv; also how much is encrypted at once, which bounds what the hub may have to send by itself.
_CHUNK = 65536
_TLS_RECORDS = range(20, 25)  # the first byte of everything that TLS sends
_BURST = 32  # reads without a wait before others get a turn: a fast peer must not own the hub

#: Seconds that we wait for the answer to our last bytes before the connection ends.
_ANSWER_SECONDS = 5.0

Taken = TypeVar('Taken')  # what a way to receive gives

_streams: weakref.WeakSet[Stream] = weakref.WeakSet()
# Of streams that hung up, until the other side has answered.
_hung_up: set[Socket] = set()


class Stream:
    """A connected socket. Made by `dial` and `dial_unix`.

    Arguments:
        sock (_socket.socket): connected and non-blocking; belongs to the stream from now on.
        name (str): for texts, e.g. "localhost:5672".
    Attributes:
        peername (object): the other side's address as the system gives it.
    Source: greenmq's own; the narrow seam is httpcore's.
    """

    __slots__ = (
        '__weakref__', '_burst', '_error', '_hub', '_pending', '_read_what', '_reader', '_sock', '_tls',
        '_watchers', '_write_error', '_write_what', '_writer', 'name', 'peername',
    )  # fmt: skip

    def __init__(self, sock: Socket, name: str) -> None:
        self.name = name
        self._sock: Socket | None = sock
        self._hub = library.get_hub()
        self._tls: TLSCodec | None = None
        self._watchers: list[Watcher | None] = [None, None]  # to read, to write; made when first needed
        self._reader: Waiter | None = None
        self._writer: Waiter | None = None
        self._pending = b''  # ciphertext that the kernel has not taken yet
        self._error: BaseException | None = None  # why it is closed
        self._write_error: BaseException | None = None  # why nothing more can be written although it is open
        self._read_what = f'{name}: nothing to read'
        self._write_what = f'{name}: the other side took no data'
        self._burst = 0
        try:
            self.peername: Any = sock.getpeername()
        except OSError:
            self.peername = None  # gone again already; the first read will say so
        _streams.add(self)
        at_thread_end(self)

    # reading

    def read(self, n: int = _CHUNK, deadline: Timeoutish = None) -> bytes:
        """Take what is there, at least one byte, waiting for it if need be.

        Arguments:
            n (int): at most so many bytes.
            deadline (Deadline | float): of the wait; no limit if None.
        Returns:
            bytes: b'' when the other side has ended the stream.
        Raises:
            TimeoutError: nothing came in time. The stream is as it was.
            ConnectionLost: the network or the other side broke it.
            ConnectionClosed: we closed it, now or earlier.
            Forked: it belongs to the parent process.
        Switches: only if nothing is there, and now and then if there always is. Killed while waiting: no byte
            is lost.
        """
        if self._tls is None:
            return self._receive(Socket.recv, n, deadline)
        while True:
            plain = self._decrypt(self._tls, n)
            if plain is not None:
                return plain
            self._feed(self._tls, self._receive(Socket.recv, _CHUNK, deadline))

    def read_into(self, places: Sequence[memoryview], deadline: Timeoutish = None) -> int:
        """As `read`, into memory that is there: in this order, each whole before the next; `scatters` says
        where.

        Arguments:
            places (Sequence[memoryview]): at most some hundred, with room for a byte at least.
        Returns:
            int: how many bytes came, 0 when the other side has ended the stream.
        """
        return self._receive(Socket.recvmsg_into, places, deadline)[0]

    def _feed(self, tls: TLSCodec, data: bytes) -> None:
        tls.feed(data)

    def _decrypt(self, tls: TLSCodec, n: int) -> bytes | None:
        self._check_open()
        try:
            plain = tls.decrypt(n)
        except OSError as exc:
            raise self._lost(exc) from exc
        answer = tls.outgoing()  # to a request for new keys
        if answer:
            self._send_ciphertext(answer)
        return plain

    def _receive(self, take: Callable[[Socket, Any], Taken], what: Any, deadline: Timeoutish) -> Taken:
        self._burst += 1
        if self._burst > _BURST:
            self._burst = 0
            sleep(0)
        late = False
        while True:
            sock = self._check_open()
            try:
                return take(sock, what)
            except BlockingIOError:
                if late:
                    raise Deadline.of(deadline).error(self._read_what) from None
                self._burst = 0
                # Out of time is judged by one more look: was our own hub late, the data may be there (P13).
                late = not self._wait_readable(deadline)
            except OSError as exc:
                raise self._lost(exc) from exc

    def _wait_readable(self, deadline: Timeoutish) -> bool:
        # False when the deadline has passed.
        if self._reader is not None:
            raise RuntimeError(f'{self!r} is read by two tasks at once')
        waiter = self._reader = Waiter(self._read_what)
        watcher = self._watch(False)
        watcher.start(waiter.ready)
        try:
            waiter.wait(deadline, hold=False)
        except TimeoutError:
            if not waiter.expired:
                raise
            return False
        finally:
            self._reader = None
            watcher.stop()
        return True

    def watch_idle(self, callback: Callable[[], Any]) -> None:
        """While nobody reads: have something called from the hub when there is something to read.

        For a connection that lies unused: bytes that nobody asked for, or the other side's end. It is called
        until `unwatch_idle` or the end of the stream, so it must do one of the two.
        """
        self._check_open()
        self._watch(False).start(callback)

    def unwatch_idle(self) -> None:
        """Undo `watch_idle`. Nothing happens if it was not called, or the stream has ended."""
        watcher = self._watchers[False]
        if watcher is not None:
            watcher.stop()

    # writing

    def write(self, data: bytes | bytearray | memoryview, deadline: Timeoutish = None) -> None:
        """Write all of it.

        Arguments:
            data (bytes): must not change until this returns.
            deadline (Deadline | float): of the whole; no limit if None.
        Raises:
            TimeoutError: not all was taken in time.
            ConnectionLost, ConnectionClosed, Forked: as for `read`.
        Switches: only if the system's buffer is full. Killed or timed out after a part was taken: the stream
            is closed, because nothing can follow half of something. Before that it is as it was.
        """
        deadline = None if deadline is None else Deadline.of(deadline)
        sent = self.write_some(data, deadline)
        total = len(data)
        if sent < total:
            view = memoryview(data)
            try:
                while sent < total:
                    sent += self.write_some(view[sent:], deadline)
            except BaseException:
                self._end(ConnectionLost(f'{self.name}: a write was cut short after {sent} of {total} bytes'))
                raise
        if self._pending:
            self.flush(deadline)

    def write_some(self, data: bytes | bytearray | memoryview, deadline: Timeoutish = None) -> int:
        """Write the beginning of it, as much as goes, waiting only until something goes.

        Arguments:
            data (bytes): not empty; need not stay unchanged after the call.
            deadline (Deadline | float): of the wait; no limit if None.
        Returns:
            int: how many bytes were taken. With TLS some may still be on their way through the hub, see
            `flush`.
        Raises:
            TimeoutError: nothing could be written in time.
            ConnectionLost, ConnectionClosed, Forked: as for `read`.
        Switches: only if the system's buffer is full. Killed or timed out: nothing was taken.
        """
        if self._tls is not None:
            self.flush(deadline)
            part = data[:_CHUNK]
            self._tls.encrypt(part)
            self._send_ciphertext(self._tls.outgoing())
            return len(part)
        return self._transmit(Socket.send, data, deadline)

    def write_parts(self, parts: Sequence[bytes | memoryview], deadline: Timeoutish = None) -> int:
        """As `write_some`, of pieces that follow each other and need not be joined; `gathers` says where.

        Arguments:
            parts (Sequence[bytes | memoryview]): at most some hundred, none of them empty.
        """
        return self._transmit(Socket.sendmsg, parts, deadline)

    def _transmit(self, send: Callable[[Socket, Any], int], data: Any, deadline: Timeoutish) -> int:
        while True:
            sock = self._check_writable()
            try:
                return send(sock, data)
            except BlockingIOError:
                self._wait_writable(deadline, own=True)
            except OSError as exc:
                raise self._write_failed(exc) from exc

    def flush(self, deadline: Timeoutish = None) -> None:
        """Wait until all that was written is with the system. Without TLS it always is.

        Raises:
            TimeoutError: not in time; the hub goes on sending.
            ConnectionLost, ConnectionClosed, Forked: as for `read`.
        Switches: only if something is left. Killed while waiting: the hub goes on sending.
        """
        while True:
            self._check_writable()
            if not self._pending:
                return
            self._wait_writable(deadline, own=False)

    def _wait_writable(self, deadline: Timeoutish, own: bool) -> None:
        # own: the watcher runs for this wait. Otherwise the hub runs it, and wakes us when all is sent.
        if self._writer is not None:
            raise RuntimeError(f'{self!r} is written by two tasks at once')
        waiter = self._writer = Waiter(self._write_what)
        watcher = self._watch(True)
        if own:
            watcher.start(waiter.ready)
        try:
            waiter.wait(deadline, hold=False)
        finally:
            self._writer = None
            if own:
                watcher.stop()

    def _send_ciphertext(self, ciphertext: bytes) -> None:
        # no switch
        idle = not self._pending
        self._pending += ciphertext
        if idle and not self._push() and self._write_error is None:
            self._watch(True).start(self._on_writable)

    def _push(self) -> bool:
        # Sends what the kernel takes; True when that was all.
        sock = self._check_open()
        try:
            while self._pending:
                self._pending = self._pending[sock.send(self._pending) :]
        except BlockingIOError:
            return False
        except OSError as exc:
            self._pending = b''
            self._write_failed(exc)
        return True

    def _on_writable(self) -> None:
        # In the hub.
        if self._sock is None or self._push():
            watcher = self._watchers[True]
            if watcher is not None:
                watcher.stop()
            if self._writer is not None:
                self._writer.ready()

    # ending

    def close(self) -> None:
        """End the stream; with TLS say so, if that goes without waiting. Any number of times, by any task.

        Who reads or writes gets ConnectionClosed. What was written but is not with the system yet is lost:
        `flush`.
        """
        if self._sock is not None and self._tls is not None and self._write_error is None:
            self._tls.say_goodbye()
            self._pending += self._tls.outgoing()
            self._push()
        self._end(ConnectionClosed(f'{self.name}: we closed the connection'))

    def abandon(self) -> None:
        """Close the descriptor without another byte, not even an alert. Otherwise as `close`."""
        self._end(ConnectionClosed(f'{self.name}: we abandoned the connection'))

    def hang_up(self, last: bytes, answer: bytes = b'') -> None:
        """Send the last bytes as far as they go at once, and tell the other side that no more will come.

        From any thread, if the one we belong to does not run its hub meanwhile: that one has to close us.
        Where a write is under way, nothing can follow its first half, and the bytes are not sent.

        Arguments:
            answer (bytes): what the other side says last when it has come to the end of ours. It drops the
                rest when it sees our end before, so the socket stays open until the answer, for 5 s at most;
                nothing can be read here any more.
        """
        sock = self._sock
        if sock is None:
            return
        sent = False
        try:
            if self._writer is None and not self._pending and self._write_error is None:
                if self._tls is not None:
                    self._tls.encrypt(last)
                    last = self._tls.outgoing()
                while last:
                    last = last[sock.send(last) :]
                sent = True
        except OSError as exc:  # full, or broken: who reads learns of it by the end
            logger.debug('%s: %d last bytes were not sent: %r', self.name, len(last), exc)
        try:
            if sent and answer:
                self._error = self._write_error = ConnectionClosed(f'{self.name}: we hung up')
                _close_when_answered(Socket(fileno=dup(sock.fileno())), self._tls, answer)
            else:
                sock.shutdown(SHUT_WR)
        except OSError as exc:
            logger.debug('%s: hanging up: %r', self.name, exc)

    def _end(self, error: BaseException) -> None:
        # no switch
        sock = self._sock
        if sock is None:
            return
        if (self._reader or self._writer) and library.peek_hub() is not self._hub:
            raise WrongHub(repr(self))
        self._sock = None
        self._error = error
        self._pending = b''
        for watcher in self._watchers:
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._watchers = [None, None]
        sock.close()
        for waiter in (self._reader, self._writer):
            if waiter is not None:
                waiter.fail(error)

    def thread_ended(self) -> None:
        """The thread ends: as `abandon`, since nobody can read it any more."""
        self.abandon()

    def __del__(self) -> None:
        # Nobody waits, or we would be alive: so no watcher runs, and only the descriptor is left to be
        # closed. Perhaps in another thread, or after our hub was destroyed: the watchers must not be touched
        # any more.
        sock = getattr(self, '_sock', None)
        if sock is not None:
            sock.close()

    # what both sides use

    def fileno(self) -> int:
        """The descriptor, -1 when closed.

        Source: socket.socket.fileno.
        """
        return -1 if self._sock is None else self._sock.fileno()

    @property
    def closed(self) -> bool:
        """True when it was ended on this side."""
        return self._sock is None

    @property
    def unsent(self) -> int:
        """Bytes that were written and wait for the kernel to take them; without TLS a write waits for it."""
        return len(self._pending)

    @property
    def tls(self) -> bool:
        """True if it speaks TLS."""
        return self._tls is not None

    @property
    def gathers(self) -> bool:
        """True if it sends pieces from where they are: what TLS encrypts is a copy anyway."""
        return self._tls is None and hasattr(Socket, 'sendmsg')

    @property
    def scatters(self) -> bool:
        """True if it reads into places that are there: what TLS decrypts is new memory anyway."""
        return self._tls is None and hasattr(Socket, 'recvmsg_into')

    def start_tls(self, codec: TLSCodec, deadline: Timeoutish = None) -> None:
        """Make the handshake and speak TLS from now on.

        Raises:
            DialError: the other side, or its certificate, was refused.
            TimeoutError: not in time.
        Switches: yes. Killed or failed: the stream is closed.
        """
        deadline = Deadline.of(deadline)
        heard = b''
        try:
            while not self._handshake_step(codec, deadline):
                deadline.check(f'{self.name}: the TLS handshake did not end')  # however much there is to read
                data = self._receive(Socket.recv, _CHUNK, deadline)
                if not data:
                    raise DialError(f'{self.name}: the other side hung up during the TLS handshake')
                heard = heard or data
                codec.feed(data)
        except (TimeoutError, ConnectionLost) as exc:
            self.abandon()
            told = _no_tls(exc, heard)
            if told is None:
                raise
            raise told from exc
        except BaseException:
            self.abandon()
            raise
        self._tls = codec

    @property
    def encrypted(self) -> bool:
        """Does it speak TLS?"""
        return self._tls is not None

    def _handshake_step(self, codec: TLSCodec, deadline: Deadline) -> bool:
        try:
            done = codec.handshake()
        except OSError as exc:
            self._send_alert(codec)
            raise DialError(f'{self.name}: TLS failed: {meaning(exc)}', exc.errno) from exc
        outgoing = codec.outgoing()
        if outgoing:
            self.write(outgoing, deadline)
        return done

    def _send_alert(self, codec: TLSCodec) -> None:
        # So that the broker's log says why. If it does not go at once it does not matter.
        self._pending = codec.outgoing()
        self._push()

    def _watch(self, write: bool) -> Watcher:
        watcher = self._watchers[write]
        if watcher is None:
            watcher = self._watchers[write] = library.watch(self._hub, self.fileno(), write)
        return watcher

    def detach(self) -> tuple[Socket, Any]:
        """Give up the socket, and what encrypts it: another stream takes them over. Raises as a read does."""
        sock, self._sock = self._check_open(), None
        return sock, self._tls

    def _check_open(self) -> Socket:
        sock = self._sock
        if self._error is not None:
            raise again(self._error)
        if sock is None:
            raise ConnectionClosed(f'{self.name}: closed')
        return sock

    def _check_writable(self) -> Socket:
        if self._write_error is not None:
            raise again(self._write_error)
        return self._check_open()

    def _lost(self, error: OSError) -> ConnectionLost:
        # Its traceback knows this stream, and the stream will know the error: nothing that such a circle
        # reaches, the program's own frames among it, would be freed before the collector comes.
        error.__traceback__ = None
        return ConnectionLost(f'{self.name}: {meaning(error)}')

    def _write_failed(self, error: OSError) -> BaseException:
        # Only this direction: the broker may have said why before it closed, and the reader shall get that.
        if self._write_error is None:
            self._write_error = self._lost(error)
            self._write_error.__cause__ = error
        return self._write_error

    def __repr__(self) -> str:
        state = 'closed' if self._sock is None else f'fd {self.fileno()}'
        return f'<Stream {self.name} {state}{", TLS" if self._tls else ""}>'


def _close_when_answered(sock: Socket, tls: TLSCodec | None, answer: bytes) -> None:
    # In a thread of its own: the hub that knew the socket may be at its end.
    _hung_up.add(sock)
    try:
        start_thread(partial(_hear_answer, sock, tls, answer))
    except RuntimeError:  # the interpreter ends, and our socket with it
        _let_go(sock)


def _hear_answer(sock: Socket, tls: TLSCodec | None, answer: bytes) -> None:
    deadline = Deadline.after(_ANSWER_SECONDS)
    heard = b''
    try:
        while not heard.endswith(answer) and (left := deadline.remaining() or 0.0) > 0:
            sock.settimeout(left)
            data = sock.recv(_CHUNK)
            if not data:
                return
            if tls is None:
                heard += data
            else:
                tls.feed(data)
                while plain := tls.decrypt(_CHUNK):
                    heard += plain
            heard = heard[-len(answer) :]
    except OSError as exc:
        logger.debug('our last words were not answered: %r', exc)
    finally:
        _let_go(sock)


def _let_go(sock: Socket) -> None:
    _hung_up.discard(sock)
    sock.close()


def _no_tls(error: OSError | ConnectionLost, heard: bytes) -> Exception | None:
    """A better error if the handshake failed because no TLS is spoken there."""
    if not heard:
        text = f'{error}; nothing was heard during the TLS handshake: does that port speak TLS?'
        return type(error)(text) if isinstance(error, ConnectionLost) else TimeoutError(text)
    found = speaks(heard)
    if found == 'TLS' or (not found and heard[0] in _TLS_RECORDS):
        return None
    name = str(error).partition(': ')[0]
    what = f'it speaks {found}' if found else 'what it sends is something else'
    return DialError(f'{name}: TLS failed: that port does not speak TLS, {what}')


def forget_streams() -> None:
    """In a forked child: close all inherited descriptors without a byte; the parent's are untouched."""
    hub = library.peek_hub()
    for sock in list(_hung_up):
        _let_go(sock)
    for stream in list(_streams):
        # The waiters are told by the runtime, those of this thread; those of other threads exist no more.
        stream._reader = stream._writer = None
        if stream._hub is not hub:
            stream._watchers = [None, None]  # nor do their loops, which may have been destroyed before
        stream._end(Forked(stream.name))
