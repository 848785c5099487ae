"""One life (epoch) of a socket to the broker: who reads, who writes, what waits to leave.

Theory of operation. Only two tasks touch the stream: the reader parses whatever a read brought and hands
it on, the writer sends what was queued (`send`, see `outbox`). Both tasks hold the link, and the link holds
its connection weakly, so an abandoned connection can be collected while they run.

A link ends once, in `_end`: everybody who waits for it learns the same error at the same moment.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from amqp import spec
from amqp.exceptions import AMQPError, FrameSyntaxError, error_for_code

from greenmq import runtime
from greenmq.exceptions import (
    ConnectionBlocked,
    ConnectionClosed,
    ConnectionError,
    ConnectionLost,
    LimitExceeded,
    PublishUnconfirmed,
    TimeoutError,
)
from greenmq.transport.outbox import Outbox
from greenmq.transport.waiters import WaitingLine
from greenmq.utils.text import printable

from . import frames
from .handshake import Terms

if TYPE_CHECKING:
    from .wirechannel import WireChannel

__all__ = ['Link', 'LinkOwner']

log = logging.getLogger('greenmq.transport.pyamqp')

#: Bytes asked for in one read; a large body under way is read to where it belongs, in any size. Above 128 KiB
#: an allocator may map fresh pages for each: tried, twice the CPU.
READ_SIZE = 64 * 1024
#: After this much was queued without a turn of the writer, a publisher gives it one: the broker works
#: meanwhile.
YIELD_BYTES = 64 * 1024
#: How many pieces of large messages the kernel is given at once; it takes 1,024.
PIECES = 256

#: What a broker has for its answer to the goodbye of a connection that nobody uses any more.
PARTING_SECONDS = 5.0

_GOODBYE_ANSWERED = frames.method_frame(0, spec.Connection.CloseOk)
_GOODBYE = frames.method_frame(0, spec.Connection.Close, b'\x00\xc8\x00\x00\x00\x00\x00')


class LinkOwner(Protocol):
    """What a link tells its connection, from inside its own tasks: nothing here may switch."""

    def on_link_lost(self, link: Link, error: BaseException) -> None: ...

    def on_blocked(self, link: Link, reason: str | None) -> None: ...


class Link(Outbox):
    """One epoch of a connection.

    Attributes:
        epoch (int): number of this life, counted by the connection.
        error (BaseException | None): why it ended; None while it lives.
        blocked (str | None): the broker's reason while it refuses publishes, else None.
        bytes_in, bytes_out (int): what went over the wire.
    """

    def __init__(
        self,
        stream: runtime.Stream,
        terms: Terms,
        epoch: int,
        owner: LinkOwner,
        *,
        name: str,
        high_water: int,
        write_timeout: float,
        max_body: int = frames.MAX_BODY_BYTES,
    ) -> None:
        super().__init__()
        self.stream = stream
        self.terms = terms
        self.epoch = epoch
        self.name = name
        self.frame_max = terms.frame_max
        self.heartbeat = terms.heartbeat
        self.high_water = high_water
        self.write_timeout = write_timeout
        self.blocked: str | None = None
        self._unasked = 0  # methods that mean nothing here
        self.wires: dict[int, WireChannel] = {}
        self.bytes_in = self.bytes_out = 0
        self._owner = weakref.ref(owner, _orphaned(weakref.ref(self), weakref.ref(runtime.hub_id())))
        self._parted = False  # pieces of large messages are among them
        self._room = WaitingLine()
        self._close_ok: runtime.Waiter | None = None
        self._secrets: list[runtime.Waiter] = []  # for update-secret-ok, in the order of asking
        self._free_ids: deque[int] = deque()
        self._next_id = 1
        self._last_in = runtime.monotonic()
        self._beaten_at = -1
        self._ticker: runtime.Ticker | None = None
        self._parting: runtime.Timer | None = None
        self._parser = frames.Parser(terms.frame_max, max_body)
        self._tasks: list[runtime.Task] = []

    def __repr__(self) -> str:
        state = 'open' if self.error is None else f'ended: {self.error!s}'
        numbers = f'{len(self.wires)} channels, {self.out_bytes} bytes out'
        return f'<Link {self.name} epoch {self.epoch}: {state}, {numbers}>'

    # ---- life

    def start(self) -> None:
        """Start reader, writer and heartbeat; from here on the link is theirs."""
        spawn = runtime.spawn
        runtime.at_thread_end(self, first=True)  # before the stream is told
        self._tasks = [
            spawn(self._read, name=f'amqp-reader {self.name}', owner=self, on_exit=self._task_ended),
            spawn(self._write, name=f'amqp-writer {self.name}', owner=self, on_exit=self._task_ended),
        ]
        if self.heartbeat:
            self._tasks.append(
                spawn(self._beat, name=f'amqp-heartbeat {self.name}', owner=self, on_exit=self._task_ended)
            )
            if isinstance(self.stream, runtime.SharedStream):
                self._ticker = runtime.Ticker(self.heartbeat / 2, self._beat_from_thread)

    def _task_ended(self, task: runtime.Task, error: BaseException | None) -> None:
        if self.error is None:
            self._end(ConnectionLost(f'{task.name} ended: {error!r}'))

    def lose(self, error: BaseException) -> None:
        """End the link because the other side or the network did. No switch."""
        runtime.forget_traces(error)
        if self.error is None:
            if not isinstance(error, (ConnectionError, AMQPError)):
                lost = ConnectionLost(f'{self.name}: {error}')
                lost.__cause__ = error
                error = lost
            self._end(error)

    def _end(self, error: BaseException) -> None:  # no switch
        if self.error is not None:
            return
        self.error = error
        self._put_away()
        self._end_wires(error)
        self._room.wake()
        if self._close_ok is not None:
            self._close_ok.wake()
        while self._secrets:
            self._secrets.pop(0).fail(error)
        owner = self._owner()
        if owner is not None:
            owner.on_link_lost(self, error)

    def _put_away(self) -> None:  # in our hub
        if self._ticker is not None:
            self._ticker.stop()
        if self._parting is not None:
            self._parting.cancel()
        self.stream.close()
        self._empty()
        for task in self._tasks[2:]:
            task.kill()

    def _end_wires(self, error: BaseException) -> None:
        wires, self.wires = list(self.wires.values()), {}
        for channel in wires:
            channel.end(error)

    @property
    def in_use(self) -> bool:
        """Does a greenlet wait for something here?"""
        if len(self._room) or self._secrets or self._close_ok is not None:
            return True
        return any(channel.in_use for channel in self.wires.values())

    def leave(self, error: BaseException, hub: Any) -> None:
        """Say goodbye because the connection goes on in another thread: acks first, as far as they go at
        once.

        Called in the hub the link belongs to, or in another thread while that hub does not run. Nobody may
        wait here (`in_use`), and the owner is not told.
        """
        if self.error is not None:
            return
        idle, self._idle = self._idle, None  # the writer is not ours to wake
        self.flush()
        last, self._out = b''.join([*self._out, _GOODBYE]), []
        self._idle = idle
        self.error = error
        self._end_wires(error)
        self.stream.hang_up(last, _GOODBYE_ANSWERED)
        if runtime.is_here(hub):
            self._put_away()
        else:
            runtime.post(hub, self._put_away)  # or never: then its thread has ended, and closed the stream

    def thread_ended(self) -> None:
        """Nobody runs our tasks any more: what was acknowledged leaves."""
        self.leave(ConnectionLost(f'{self.name}: the thread it belonged to has ended'), runtime.hub_id())

    def abandon(self) -> None:
        """Let go of the socket without a byte (after a fork, or when nobody is left to close it)."""
        if self.error is None:
            self.stream.abandon()
            self._end(ConnectionClosed(f'{self.name} was abandoned'))

    def part(self) -> None:
        """Say goodbye because nobody uses the connection any more. No switch."""
        if self.error is None:
            self.flush()
            self.send(_GOODBYE)
            self._parting = runtime.call_later(PARTING_SECONDS, self.abandon)

    def close(self, deadline: runtime.Deadline) -> None:
        """Say goodbye: flush what is queued, connection.close, wait for the answer until the deadline.

        Switches: yes. Killed or timed out: the socket is closed all the same.
        """
        if self.error is not None:
            return
        self._close_ok = runtime.Waiter()
        try:
            self.flush()
            self.send(_GOODBYE)
            self._close_ok.wait(deadline)
        except TimeoutError:
            log.warning(
                '%s: no answer to connection.close within %s s; the socket is closed without it',
                self.name,
                deadline.seconds,
            )
        finally:
            if self.error is None:
                self._end(ConnectionClosed(f'{self.name} was closed'))

    # ---- out

    def send(self, frames: bytes | memoryview) -> None:
        """Queue whole frames. Never switches.

        Raises:
            ConnectionLost, ConnectionClosed: the link ended.
        """
        if self.error is not None:
            raise runtime.again(self.error)
        self._out.append(frames)
        self.out_bytes += len(frames)
        idle = self._idle
        if idle is not None:
            self._idle = None
            idle.wake()

    def send_parts(self, parts: list[bytes | memoryview]) -> None:
        """Queue whole frames in pieces, which must never change. Otherwise as `send`."""
        if not self.stream.gathers:
            self.send(b''.join(parts))
            return
        first, *others = parts
        self.send(first)
        self._out += others
        self._parted = True
        self.out_bytes += sum(map(len, others))

    def wait_room(self, deadline: runtime.Deadline) -> None:
        """Wait until a publish may be queued: the broker is not blocked and the buffer is below its mark.

        Raises:
            ConnectionBlocked: the broker was blocked until the deadline; nothing of this publish was sent.
            PublishUnconfirmed: the buffer stayed full until the deadline; nothing of this publish was sent.
        """
        while self.error is None and (self.blocked is not None or self.out_bytes > self.high_water):
            try:
                self._room.wait(deadline)
            except TimeoutError:
                if self.blocked is not None:
                    raise self.blocked_error(deadline) from None
                raise PublishUnconfirmed(
                    f'{self.name}: {self.out_bytes} bytes wait to be sent (mark {self.high_water}), no room '
                    f'within {deadline.seconds} s',
                    sent='no',
                ) from None
        if self.error is not None:
            raise runtime.again(self.error)
        if self.out_bytes > YIELD_BYTES:
            runtime.sleep(0)

    def blocked_error(self, deadline: runtime.Deadline) -> ConnectionBlocked:
        """The error of a publish that the blocked broker did not take in time."""
        reason = self.blocked or 'unblocked meanwhile'
        return ConnectionBlocked(
            f'{self.name}: the broker takes no publishes ({reason}), not within {deadline.seconds} s', reason
        )

    def has_room(self) -> bool:
        """May a publish be queued without waiting?"""
        return self.blocked is None and self.out_bytes <= self.high_water

    def _send_out(self, out: list[Any]) -> None:
        if self._parted:
            self._parted = False
            self._send_parts(out)
        else:
            self._send_all(out[0] if len(out) == 1 else b''.join(out))

    def _send_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view and self.error is None:
            view = view[self._offer(self.stream.write_some, view) :]

    def _send_parts(self, parts: list[bytes | memoryview]) -> None:
        position = 0
        while position < len(parts) and self.error is None:
            sent = self._offer(self.stream.write_parts, parts[position : position + PIECES])
            while sent:
                size = len(parts[position])
                if sent < size:
                    parts[position] = memoryview(parts[position])[sent:]
                    break
                sent -= size
                parts[position] = b''  # the body is not held longer than it has to be
                position += 1

    def _offer(self, write: Callable[..., int], data: Any) -> int:
        unsent = self.stream.unsent
        try:
            sent = write(data, runtime.Deadline.after(self.write_timeout))
        except TimeoutError:
            # A blocked broker reads nothing: that is not its death. Nor is a peer dead that takes a large
            # write slowly.
            if self.blocked is None and self.stream.unsent == unsent:
                self.lose(ConnectionLost(f'{self.name}: the peer took nothing for {self.write_timeout} s'))
            return 0
        except (OSError, ConnectionError) as exc:
            self.lose(exc)
            return 0
        self.bytes_out += sent
        self.out_bytes -= sent
        if self.out_bytes <= self.high_water // 2 and self.blocked is None:
            self._room.wake()
        return sent

    # ---- in

    def _read(self) -> None:
        try:
            stream, parser = self.stream, self._parser
            scatters = stream.scatters
            if self.terms.leftover:
                parser.feed(self.terms.leftover, self)
            while self.error is None:
                wanted = parser.wanted() if scatters else None
                if wanted is None:
                    data = stream.read(READ_SIZE)
                    size = len(data)
                else:
                    size = stream.read_into(wanted)
                if not size:
                    self.lose(ConnectionLost(f'{self.name}: the broker closed the connection'))
                    return
                self._last_in = runtime.monotonic()
                self.bytes_in += size
                if wanted is None:
                    count = parser.feed(data, self)
                else:
                    count = parser.filled(size, self)
                if count and size > 16384:
                    # A full socket would keep the reader busy for ever: let those work who were handed
                    # something.
                    runtime.sleep(0)
        except (AMQPError, OSError, ConnectionError) as exc:
            self.lose(exc)
        except (IndexError, ValueError) as exc:
            # Arguments cut short, a delivery tag that is out already: sound frames, and nonsense in them.
            bad = FrameSyntaxError(f'{self.name}: senseless method of the broker: {exc!r}')
            bad.__cause__ = exc
            self.lose(bad)

    def on_method(self, channel_id: int, signature: tuple[int, int], payload: bytes) -> None:
        if channel_id:
            channel = self.wires.get(channel_id)
            if channel is not None:
                channel.on_method(signature, payload)
        else:
            handler = self._connection_methods.get(signature)
            if handler is None:
                raise error_for_code(
                    540, f'unexpected method {signature} on channel 0', signature, ConnectionError
                )
            handler(self, payload)

    def on_content(self, channel_id: int, content: frames.Content) -> None:
        channel = self.wires.get(channel_id)
        if channel is not None:
            channel.on_content(content)

    def unasked(self, channel: WireChannel, signature: tuple[int, int]) -> None:
        """A method came that means nothing where it came: said once a link, or a peer could fill the log."""
        self._unasked += 1
        level = logging.WARNING if self._unasked == 1 else logging.DEBUG
        log.log(level, '%r: method %s that nobody asked for (number %d)', channel, signature, self._unasked)

    def _on_close(self, payload: bytes) -> None:
        code, text, class_id, method_id = frames.read_arguments('BsBB', payload)
        if self._idle is not None:  # the writer is out of the stream: the answer is ours to send
            try:
                self.stream.write_some(
                    frames.method_frame(0, spec.Connection.CloseOk), runtime.Deadline.after(1.0)
                )
            except (OSError, ConnectionError) as exc:
                log.debug('%s: could not answer connection.close: %r', self.name, exc)
        error = error_for_code(code, printable(text), (class_id, method_id), ConnectionError)
        self.lose(error)

    def _on_close_ok(self, payload: bytes) -> None:
        self._end(ConnectionClosed(f'{self.name} was closed'))

    def _on_blocked(self, payload: bytes) -> None:
        self._set_blocked(printable(frames.read_arguments('s', payload)[0]) or 'no reason given')

    def _on_unblocked(self, payload: bytes) -> None:
        self._set_blocked(None)

    def _set_blocked(self, reason: str | None) -> None:
        self.blocked = reason
        if reason is None:
            self._room.wake()
        owner = self._owner()
        if owner is not None:
            owner.on_blocked(self, reason)

    def _on_update_secret_ok(self, payload: bytes) -> None:
        if self._secrets:
            self._secrets.pop(0).wake()

    _connection_methods: ClassVar[dict[tuple[int, int], Callable[[Link, bytes], None]]] = {
        spec.Connection.Close: _on_close,
        spec.Connection.CloseOk: _on_close_ok,
        spec.Connection.Blocked: _on_blocked,
        spec.Connection.Unblocked: _on_unblocked,
        (10, 71): _on_update_secret_ok,
    }

    def update_secret(self, secret: str, reason: str, deadline: runtime.Deadline) -> None:
        """connection.update-secret: give the broker a fresh credential on the living connection.

        Raises:
            ConnectionLost: the connection ended meanwhile; it does if the broker refuses the secret.
            TimeoutError: no answer within the deadline.
        Switches: yes. Killed: the answer finds nobody.
        """
        waiter = runtime.Waiter(f'{self.name}: update-secret not answered')
        raw, text = secret.encode(), reason.encode()[:255]
        arguments = len(raw).to_bytes(4, 'big') + raw + bytes((len(text),)) + text
        self.send(frames.method_frame(0, (10, 70), arguments))
        self._secrets.append(waiter)
        waiter.wait(deadline)

    # ---- heartbeats

    def _beat(self) -> None:
        half = self.heartbeat / 2
        sent_before = -1
        due = runtime.monotonic() + half
        while self.error is None:
            runtime.sleep(max(0.0, due - runtime.monotonic()))
            now = runtime.monotonic()
            if self.bytes_out == sent_before and not self._out:
                self.send(frames.HEARTBEAT)
            sent_before = self.bytes_out
            # After a stall of our own the kernel may hold what we did not read: the next beat judges, not
            # this one.
            stalled = now - due > half
            # A broker that blocks us reads nothing, and beats: its silence is as good as any other's.
            if not stalled and now - self._last_in > 2 * self.heartbeat:
                self.lose(
                    ConnectionLost(
                        f'{self.name}: nothing from the broker for {now - self._last_in:.1f} s '
                        f'(heartbeat {self.heartbeat} s)'
                    )
                )
            due = now + half

    def _beat_from_thread(self) -> None:
        # In a native thread: nothing was written for half a heartbeat, perhaps as our hub does not run (P13).
        stream = self.stream
        if self.bytes_out == self._beaten_at and isinstance(stream, runtime.SharedStream):
            stream.beat(frames.HEARTBEAT)
        self._beaten_at = self.bytes_out

    # ---- channels

    def allocate(self) -> int:
        """A free channel id, in O(1)."""
        if self._free_ids:
            return self._free_ids.popleft()
        if self._next_id > self.terms.channel_max:
            raise LimitExceeded(
                self.terms.channel_max,
                f'{self.name}: all {self.terms.channel_max} channels of the connection are open',
            )
        self._next_id += 1
        return self._next_id - 1

    def release(self, channel_id: int) -> None:
        """Take the id of a channel back that the broker knows to be closed."""
        self.wires.pop(channel_id, None)
        self._parser.forget(channel_id)
        self._free_ids.append(channel_id)

    def info(self) -> dict[str, Any]:
        """Numbers for `repr`, logs and metrics."""
        return {
            'epoch': self.epoch,
            'bytes_in': self.bytes_in,
            'bytes_out': self.bytes_out,
            'out_bytes': self.out_bytes,
            'channels': len(self.wires),
            'heartbeat': self.heartbeat,
            'blocked': self.blocked,
        }


def _orphaned(link: weakref.ref[Link], hub: weakref.ref[Any]) -> Callable[[object], None]:
    """What to do when the owner of a link is collected, in whatever thread that happens to be."""

    def part() -> None:
        found = link()
        if found is not None:
            found.part()

    def orphaned(_: object) -> None:
        found = hub()
        if found is not None:
            runtime.post(found, part)

    return orphaned
