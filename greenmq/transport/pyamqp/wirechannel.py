"""A channel on the wire: calls and their replies, one epoch long.

A `Channel` (what users hold) lives as long as its connection; below it stand wire channels that end with a
link or with a channel-level error. Replies come in the order of the calls, so a call whose task was killed
leaves its place in the line: the reply is read, undone if it has to be (`on_abandoned`), and thrown away.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from amqp import spec
from amqp.exceptions import ChannelError, error_for_code

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, ConnectionError, TimeoutError

from . import wire

if TYPE_CHECKING:
    from .link import Link

__all__ = ['Call', 'Reply', 'WireChannel', 'WireOwner']

log = logging.getLogger('greenmq.transport.pyamqp')

#: A reply: its signature, its method frame's payload, and its content if it carries one.
Reply = tuple[tuple[int, int], bytes, 'wire.Content | None']


class WireOwner(Protocol):
    """What a wire channel tells its channel, from inside the reader: nothing here may switch."""

    def on_delivery(self, channel: WireChannel, content: wire.Content) -> None: ...

    def on_return(self, channel: WireChannel, content: wire.Content) -> None: ...

    def on_confirm(self, channel: WireChannel, tag: int, multiple: bool, ack: bool) -> None: ...

    def on_cancel(self, channel: WireChannel, consumer_tag: str) -> None: ...

    def on_wire_end(self, channel: WireChannel, error: BaseException) -> None: ...


class Call:
    """A method that was sent and waits for one of `replies`."""

    __slots__ = ('on_abandoned', 'replies', 'waiter')

    def __init__(
        self, replies: tuple[tuple[int, int], ...], on_abandoned: Callable[[Reply], None] | None = None
    ) -> None:
        self.replies = replies
        self.waiter: runtime.Waiter | None = runtime.Waiter()
        self.on_abandoned = on_abandoned

    def resolve(self, reply: Reply) -> None:
        if self.waiter is None or not self.waiter.wake(reply):
            self.undo(reply)

    def undo(self, reply: Reply) -> None:
        """The reply of a call nobody waits for any more: take back what it did."""
        if self.on_abandoned is not None:
            self.on_abandoned(reply)


class WireChannel:
    """One open channel of a link.

    Attributes:
        id (int): the channel number.
        error (BaseException | None): why it ended; None while it is open.
    """

    __slots__ = ('__weakref__', '_calls', '_lock', '_owner', 'base', 'confirming', 'error', 'id', 'link')

    def __init__(self, link: Link, owner: WireOwner) -> None:
        self.link = link
        self.id = link.allocate()
        link.wires[self.id] = self
        self.error: BaseException | None = None
        self.confirming = False
        #: What the channel adds to this wire's delivery tags, so that no two epochs share a tag.
        self.base = 0
        self._owner = weakref.ref(owner)
        self._calls: deque[Call] = deque()
        self._lock = runtime.Lock()

    def __repr__(self) -> str:
        return (
            f'<WireChannel {self.id} of {self.link.name}: {"open" if self.error is None else self.error!s}>'
        )

    @property
    def is_open(self) -> bool:
        return self.error is None

    # ---- out

    def open(self, deadline: runtime.Deadline) -> WireChannel:
        """channel.open. Killed or timed out: the channel is closed again once its answer is there."""
        self.call(spec.Channel.Open, b'\x00', (spec.Channel.OpenOk,), deadline, self._close_unused)
        return self

    def _close_unused(self, reply: Reply) -> None:
        if self.error is None:
            self._calls.append(Call((spec.Channel.CloseOk,), self._closed_unused))
            self.send(wire.method_frame(self.id, spec.Channel.Close, b'\x00\xc8\x00\x00\x00\x00\x00'))

    def _closed_unused(self, reply: Reply) -> None:
        self.end(ConnectionClosed(f'channel {self.id} was closed'))
        self.link.release(self.id)

    def send(self, frames: bytes) -> None:
        """Queue whole frames of this channel. Never switches."""
        if self.error is not None:
            raise self.error
        self.link.send(frames)

    def call(
        self,
        signature: tuple[int, int],
        arguments: bytes,
        replies: tuple[tuple[int, int], ...],
        deadline: runtime.Deadline,
        on_abandoned: Callable[[Reply], None] | None = None,
    ) -> Reply:
        """Send a synchronous method and wait for its reply; one at a time on a channel.

        Raises:
            ChannelError: the broker closed the channel over it.
            ConnectionLost: the connection ended meanwhile.
            TimeoutError: no reply within the deadline.
        Switches: yes. Killed: the reply is thrown away when it comes.
        """
        if not self._lock.acquire(deadline):
            raise TimeoutError(f'channel {self.id} of {self.link.name}: busy for {deadline.seconds} s')
        try:
            if self.error is not None:
                raise self.error
            self.link.flush()  # acks held back go first: the method may depend on them
            call = Call(replies, on_abandoned)
            self._calls.append(call)
            self.link.send(wire.method_frame(self.id, signature, arguments))
            assert call.waiter is not None
            try:
                return call.waiter.wait(deadline, decline=call.undo)  # type: ignore[no-any-return]
            except TimeoutError:
                raise TimeoutError(
                    f'channel {self.id} of {self.link.name}: no reply to method {signature} '
                    f'within {deadline.seconds} s'
                ) from None
            finally:
                call.waiter = None
        finally:
            self._lock.release()

    def close(self, deadline: runtime.Deadline) -> None:
        """channel.close, and the id is free again. Harmless on a channel that ended."""
        if self.error is not None:
            return
        try:
            self.call(
                spec.Channel.Close,
                b'\x00\xc8\x00\x00\x00\x00\x00',
                (spec.Channel.CloseOk,),
                deadline,
                self._closed_unused,
            )
        except (ChannelError, ConnectionError) as exc:
            if self.is_open:
                raise
            log.debug('%r ended while it was being closed: %r', self, exc)
        else:
            self._closed_unused((spec.Channel.CloseOk, b'', None))

    # ---- in (called by the reader: no switch)

    def on_method(self, signature: tuple[int, int], payload: bytes) -> None:
        calls = self._calls
        if calls and signature in calls[0].replies:
            calls.popleft().resolve((signature, payload, None))
            return
        handler = self._methods.get(signature)
        if handler is not None:
            handler(self, payload)
        else:
            log.warning('%r: method %s that nobody asked for', self, signature)

    def on_content(self, content: wire.Content) -> None:
        owner = self._owner()
        if content.signature == wire.DELIVER:
            if owner is not None:
                owner.on_delivery(self, content)
        elif content.signature == wire.GET_OK:
            if self._calls and wire.GET_OK in self._calls[0].replies:
                self._calls.popleft().resolve((wire.GET_OK, content.method, content))
        elif owner is not None:
            owner.on_return(self, content)

    def _on_ack(self, payload: bytes) -> None:
        self._confirm(payload, True)

    def _on_nack(self, payload: bytes) -> None:
        self._confirm(payload, False)

    def _confirm(self, payload: bytes, ack: bool) -> None:
        owner = self._owner()
        if owner is not None:
            owner.on_confirm(self, int.from_bytes(payload[4:12], 'big'), bool(payload[12] & 1), ack)

    def _on_cancel(self, payload: bytes) -> None:
        owner = self._owner()
        if owner is not None:
            owner.on_cancel(self, wire.read_arguments('s', payload)[0])

    def _on_close(self, payload: bytes) -> None:
        code, text, class_id, method_id = wire.read_arguments('BsBB', payload)
        self.link.send(wire.method_frame(self.id, spec.Channel.CloseOk))
        self.end(error_for_code(code, text, (class_id, method_id), ChannelError))
        self.link.release(self.id)

    def _on_flow(self, payload: bytes) -> None:
        self.link.send(wire.method_frame(self.id, spec.Channel.FlowOk, payload[4:5]))

    _methods: ClassVar[dict[tuple[int, int], Callable[[WireChannel, bytes], Any]]] = {
        spec.Basic.Ack: _on_ack,
        spec.Basic.Nack: _on_nack,
        spec.Basic.Cancel: _on_cancel,
        spec.Channel.Close: _on_close,
        spec.Channel.Flow: _on_flow,
    }

    def end(self, error: BaseException) -> None:
        """This channel is over: fail every call that waits, tell the owner. No switch."""
        if self.error is not None:
            return
        self.error = error
        calls, self._calls = self._calls, deque()
        for call in calls:
            if call.waiter is not None:
                call.waiter.fail(error)
        owner = self._owner()
        if owner is not None:
            owner.on_wire_end(self, error)
