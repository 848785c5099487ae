"""A channel on the wire: calls and their replies, one epoch long.

A `Channel` (what users hold) lives as long as its connection; below it stand wire channels that end with a
link or with a channel-level error. Replies come in the order of the calls, so a call whose task was killed
leaves its place in the line: the reply is read, undone if it has to be (`on_abandoned`), and thrown away.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from amqp import spec
from amqp.exceptions import METHOD_NAME_MAP, ChannelError, error_for_code

from greenmq import runtime
from greenmq.core.confirms import ConfirmLedger
from greenmq.exceptions import ConnectionClosed, InvalidArgument, TimeoutError
from greenmq.utils.text import printable

from . import frames

if TYPE_CHECKING:
    from .link import Link

__all__ = ['Call', 'Control', 'NotSent', 'Reply', 'WireChannel', 'WireOwner']

#: A reply: its signature, its method frame's payload, and its content if it carries one.
Reply = tuple[tuple[int, int], bytes, 'frames.Content | None']

#: The only methods that mean something on a channel that has ended here.
_PARTING = (spec.Channel.Close, spec.Channel.CloseOk)


class WireOwner(Protocol):
    """What a wire channel tells its channel, from inside the reader: nothing here may switch."""

    def on_delivery(self, channel: WireChannel, content: frames.Content) -> None: ...

    def on_return(self, channel: WireChannel, content: frames.Content) -> None: ...

    def on_confirm(self, channel: WireChannel, tag: int, multiple: bool, ack: bool) -> None: ...

    def on_cancel(self, channel: WireChannel, consumer_tag: str) -> None: ...

    def on_wire_end(self, channel: WireChannel, error: BaseException) -> None: ...


class NotSent(Exception):
    """The wire channel had ended before a call was sent on it: open another and call again."""


class Call:
    """A method that was sent and waits for one of `replies`; it has the turn until that is there."""

    __slots__ = ('answered', 'on_abandoned', 'on_reply', 'replies', 'turn', 'waiter')

    def __init__(
        self,
        replies: tuple[tuple[int, int], ...],
        turn: runtime.Lock,
        on_reply: Callable[[Reply], None] | None,
        on_abandoned: Callable[[Reply], None] | None,
    ) -> None:
        self.replies = replies
        self.waiter: runtime.Waiter | None = runtime.Waiter()
        self.turn = turn
        self.on_reply = on_reply
        self.on_abandoned = on_abandoned
        self.answered = False

    def resolve(self, reply: Reply) -> None:
        self.answered = True
        if self.on_reply is not None:
            self.on_reply(reply)
        if self.waiter is None:
            self.undo(reply)
            self.turn.release()
        elif not self.waiter.wake(reply):
            self.undo(reply)

    def fail(self, error: BaseException) -> None:
        self.answered = True
        if self.waiter is None:
            self.turn.release()
        else:
            self.waiter.fail(error)

    def undo(self, reply: Reply) -> None:
        """The reply of a call nobody waits for any more: take back what it did."""
        if self.on_abandoned is not None:
            self.on_abandoned(reply)

    def leave(self) -> None:
        """The caller goes. If it goes early, the turn stays with the call: the next method must not
        overtake what its reply may have to be answered with."""
        self.waiter = None
        if self.answered:
            self.turn.release()


class WireChannel:
    """One open channel of a link.

    Attributes:
        id (int): the channel number.
        error (BaseException | None): why it ended; None while it is open.
        base (int): what is added to this wire's delivery tags, so that no two epochs share a tag.
        confirming (bool): the broker confirms what is published here.
        ledger (ConfirmLedger): the publishes that it has not confirmed.
        frames (dict): basic.publish frames for this channel number, by what they say.
    """

    __slots__ = (
        '__weakref__',
        '_calls',
        '_closed',
        '_owner',
        '_turn',
        'base',
        'confirming',
        'error',
        'frames',
        'id',
        'ledger',
        'link',
    )

    def __init__(self, link: Link, owner: WireOwner) -> None:
        if link.error is not None:
            raise runtime.again(link.error)
        self.link = link
        self.id = link.allocate()
        link.wires[self.id] = self
        self.error: BaseException | None = None
        self.base = 0
        self.confirming = False
        self.ledger: ConfirmLedger[Any] = ConfirmLedger()
        self.frames: dict[tuple[str, str, bool], bytes] = {}
        self._owner = weakref.ref(owner)
        self._calls: deque[Call] = deque()
        self._turn = runtime.Lock()
        self._closed: runtime.Waiter | None = None  # the answer to our channel.close

    def __repr__(self) -> str:
        return (
            f'<WireChannel {self.id} of {self.link.name}: {"open" if self.error is None else self.error!s}>'
        )

    @property
    def is_open(self) -> bool:
        return self.error is None

    @property
    def in_use(self) -> bool:
        """Does a greenlet wait for its turn, for a reply or for a confirm?"""
        if self._turn.locked() and not self._calls:
            return True
        return bool(len(self.ledger)) or any(call.waiter is not None for call in self._calls)

    @property
    def refused(self) -> bool:
        """True if the broker ended the channel, and not the connection: the class of the error does not tell,
        a channel may be closed with 541 and a connection with 403."""
        return self.error is not None and self.link.error is None and self._closed is None

    # ---- out

    def open(self, deadline: runtime.Deadline) -> WireChannel:
        """channel.open. Killed or timed out: the channel is closed again once its answer is there."""
        self.call(
            spec.Channel.Open,
            b'\x00',
            (spec.Channel.OpenOk,),
            deadline,
            on_abandoned=lambda reply: self.close_soon(),
        )
        return self

    def send(self, frames: bytes) -> None:
        """Queue whole frames of this channel. Never switches."""
        if self.error is not None:
            raise runtime.again(self.error)
        self.link.send(frames)

    def method(self, signature: tuple[int, int], arguments: bytes) -> bytes:
        """The frame of a method on this channel.

        Raises:
            InvalidArgument: it is larger than the broker agreed to take, and cannot be split. Sent, it would
                end the connection, which others use too.
        """
        size, most = len(arguments) + frames.METHOD_OVERHEAD, self.link.frame_max
        if size > most:
            name = METHOD_NAME_MAP.get(signature, signature)
            raise InvalidArgument(
                f'arguments of {name}',
                arguments,
                f'make a frame of {size} bytes, at most {most} agreed with the broker (frame_max)',
            )
        return frames.method_frame(self.id, signature, arguments)

    def send_method(self, signature: tuple[int, int], arguments: bytes) -> None:
        """Queue a method that nothing answers. Raises: as `method` and `send`."""
        self.send(self.method(signature, arguments))

    def take_turn(self, deadline: runtime.Deadline) -> None:
        """Wait until nobody else's method is under way here; `exchange` gives the turn back.

        Raises:
            NotSent: the channel ended meanwhile.
            TimeoutError: not within the deadline.
        """
        if not self._turn.acquire(deadline):
            raise TimeoutError(f'channel {self.id} of {self.link.name}: busy for {deadline.seconds} s')
        if self.error is not None:
            self._turn.release()
            raise NotSent(str(self.error))

    def give_turn(self) -> None:
        """Give the turn back unused."""
        self._turn.release()

    def exchange(
        self,
        signature: tuple[int, int],
        arguments: bytes,
        replies: tuple[tuple[int, int], ...],
        deadline: runtime.Deadline,
        on_reply: Callable[[Reply], None] | None = None,
        on_abandoned: Callable[[Reply], None] | None = None,
    ) -> Reply:
        """Send a method and wait for its reply, after `take_turn` and without a switch since.

        Arguments:
            on_reply: called in the reader when the reply is there, before anything behind it is read.
            on_abandoned: called with the reply if nobody waits for it any more; must not switch.
        Raises: as `call`, save NotSent.
        Switches: yes. Killed: the reply is thrown away when it comes.
        """
        call = Call(replies, self._turn, on_reply, on_abandoned)
        waiter = call.waiter
        assert waiter is not None
        try:
            frame = self.method(signature, arguments)
            self.link.flush()  # acks held back go first: the method may depend on them
            self.link.send(frame)
        except BaseException:
            self._turn.release()
            raise
        self._calls.append(call)
        try:
            return waiter.wait(deadline, decline=call.undo)  # type: ignore[no-any-return]
        except TimeoutError:
            if not waiter.expired:
                raise
            raise TimeoutError(
                f'channel {self.id} of {self.link.name}: no reply to method {signature} '
                f'within {deadline.seconds} s'
            ) from None
        finally:
            call.leave()

    def call(
        self,
        signature: tuple[int, int],
        arguments: bytes,
        replies: tuple[tuple[int, int], ...],
        deadline: runtime.Deadline,
        on_reply: Callable[[Reply], None] | None = None,
        on_abandoned: Callable[[Reply], None] | None = None,
    ) -> Reply:
        """Send a synchronous method and wait for its reply; one at a time on a channel.

        Raises:
            NotSent: the channel ended before it was this call's turn.
            ChannelError: the broker closed the channel over it.
            ConnectionLost: the connection ended meanwhile.
            TimeoutError: no reply within the deadline.
        Switches: yes. Killed: the reply is thrown away when it comes.
        """
        self.take_turn(deadline)
        return self.exchange(signature, arguments, replies, deadline, on_reply, on_abandoned)

    def close_soon(self) -> None:
        """Send channel.close and end here; the id is free again with the answer. No switch.

        Nothing may follow a channel.close on its channel (504, and the connection is gone), so whoever
        still waits for something here is told at once.
        """
        if self.error is not None:
            return
        self.link.flush()
        self.send(frames.method_frame(self.id, spec.Channel.Close, b'\x00\xc8\x00\x00\x00\x00\x00'))
        self._closed = runtime.Waiter()
        self.end(ConnectionClosed(f'channel {self.id} of {self.link.name} was closed'))

    def close(self, deadline: runtime.Deadline) -> None:
        """channel.close, and wait for the answer. Harmless on a channel that ended.

        Raises:
            TimeoutError: no answer within the deadline; the channel is closed here all the same.
        """
        self.close_soon()
        if self._closed is not None and self._closed.pending:
            self._closed.wait(deadline)

    # ---- in (called by the reader: no switch)

    def on_method(self, signature: tuple[int, int], payload: bytes) -> None:
        calls = self._calls
        if calls and signature in calls[0].replies:
            calls.popleft().resolve((signature, payload, None))
            return
        if self.error is not None and signature not in _PARTING:
            return  # said before the broker had read our channel.close
        handler = self._methods.get(signature)
        if handler is not None:
            handler(self, payload)
        else:
            self.link.unasked(self, signature)

    def on_content(self, content: frames.Content) -> None:
        if self.error is not None:
            return
        owner = self._owner()
        if content.signature == frames.DELIVER:
            if owner is not None:
                owner.on_delivery(self, content)
        elif content.signature == frames.GET_OK:
            if self._calls and frames.GET_OK in self._calls[0].replies:
                self._calls.popleft().resolve((frames.GET_OK, content.method, content))
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
            owner.on_cancel(self, frames.read_arguments('s', payload)[0])

    def _on_close(self, payload: bytes) -> None:
        code, text, class_id, method_id = frames.read_arguments('BsBB', payload)
        text = printable(text)
        self.link.send(frames.method_frame(self.id, spec.Channel.CloseOk))
        self.end(error_for_code(code, text, (class_id, method_id), ChannelError))
        # What was raised knows the frames it passed, and they know us: kept here, it would be a circle.
        self.error = error_for_code(code, text, (class_id, method_id), ChannelError)
        self._on_close_ok(payload)

    def _on_close_ok(self, payload: bytes) -> None:
        if self.error is None:
            self.link.unasked(self, spec.Channel.CloseOk)
            return
        self.link.release(self.id)
        if self._closed is not None:
            self._closed.wake()

    def _on_flow(self, payload: bytes) -> None:
        self.link.send(frames.method_frame(self.id, spec.Channel.FlowOk, payload[4:5]))

    _methods: ClassVar[dict[tuple[int, int], Callable[[WireChannel, bytes], Any]]] = {
        spec.Basic.Ack: _on_ack,
        spec.Basic.Nack: _on_nack,
        spec.Basic.Cancel: _on_cancel,
        spec.Channel.Close: _on_close,
        spec.Channel.CloseOk: _on_close_ok,
        spec.Channel.Flow: _on_flow,
    }

    def end(self, error: BaseException) -> None:
        """This channel is over: fail every call that waits, tell the owner. No switch."""
        if self.error is not None:
            if self._closed is not None:
                self._closed.wake()  # the link ended while its answer was due
            return
        self.error = error
        calls, self._calls = self._calls, deque()
        for call in calls:
            call.fail(error)
        owner = self._owner()
        if owner is not None:
            owner.on_wire_end(self, error)


class Control:
    """Owner of the wire channel for calls that may fail: nothing is consumed or published on it."""

    def on_delivery(self, channel: WireChannel, content: frames.Content) -> None: ...

    def on_return(self, channel: WireChannel, content: frames.Content) -> None: ...

    def on_confirm(self, channel: WireChannel, tag: int, multiple: bool, ack: bool) -> None: ...

    def on_cancel(self, channel: WireChannel, consumer_tag: str) -> None: ...

    def on_wire_end(self, channel: WireChannel, error: BaseException) -> None: ...
