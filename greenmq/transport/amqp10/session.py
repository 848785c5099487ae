"""The books of one session: windows both ways, the numbers of deliveries, the links.

Nothing here waits or switches. States: *beginning*, *begun*, *ending*, *ended*.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from greenmq.exceptions import ConnectionClosed, ConnectionError, ResourceError
from greenmq.transport.amqp10.codec import uint
from greenmq.transport.amqp10.errors import PeerFault, SessionEnded, error_of
from greenmq.transport.amqp10.frames import raw_frame
from greenmq.transport.amqp10.links import RECEIVER, ROUND, Link, Receiver, Sender
from greenmq.transport.amqp10.performatives import (
    Accepted,
    Attach,
    Begin,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Modified,
    Rejected,
    Released,
    Transfer,
    pack,
)

if TYPE_CHECKING:
    from greenmq.transport.amqp10.engine import Engine

__all__ = ('Session',)

_OUTCOMES = (Accepted, Rejected, Released, Modified)


class Session:
    """One session of a connection.

    Arguments:
        engine (Engine): of the connection. channel (int): our number for it.
        window (int): frames of messages that may be on their way to us.
    Attributes:
        links (dict[int, Link]): by our handle.
        held (deque[bytes]): frames of messages that wait for the peer's window.
        unsettled_in (dict[int, Receiver]): deliveries that came and are ours to settle.
    """

    def __init__(self, engine: Engine, channel: int, window: int) -> None:
        self.engine = engine
        self.channel = channel
        self.state = 'beginning'
        self._answered = False  # the peer agreed to it
        self.links: dict[int, Link] = {}
        self.held: deque[bytes] = deque()
        self.unsettled_in: dict[int, Receiver] = {}
        self.max_frame = engine.max_frame_out
        self._unsettled_out: dict[int, Sender] = {}
        self._remote: dict[int, Link] = {}
        self._names: dict[tuple[str, bool], Link] = {}
        self._waiting: list[Link] = []  # links that were attached before the peer had agreed to the session
        self._window = window
        self._room = window  # frames that the peer may still send
        self._next_in = 0
        self._next_out = 0  # of frames
        self._next_delivery = 0
        self._peer_room = 0  # frames that we may still send
        self._free: list[int] = []
        self._handle_max = ROUND

    def __repr__(self) -> str:
        return (
            f'<Session {self.channel}: {self.state}, {len(self.links)} links, '
            f'{len(self._unsettled_out)} sent and {len(self.unsettled_in)} received unsettled>'
        )

    # ---- saying

    def send(self, body: Any) -> None:
        """Say something in this session; nothing after its end."""
        if self.state in ('beginning', 'begun'):
            self.engine.send(raw_frame(self.channel, pack(body)))

    def usable(self) -> bool:
        """May one more link begin in it?"""
        return self.state in ('beginning', 'begun') and not self.full

    def begin(self) -> None:
        """Open it."""
        self.send(Begin(None, self._next_out, self._window, self._window, self.engine.limits.handles))

    def end(self) -> None:
        """End it, with all its links."""
        if self.state == 'begun':
            self.send(End())
        if self.state in ('beginning', 'begun'):
            self.state = 'ending'  # said when the peer has agreed to the session: not before it knows of it
            self.unsettled_in.clear()  # the peer has them again
            self.held.clear()
            for link in self.links.values():
                link.end()

    def send_flow(self, **link: Any) -> None:
        """Say how we stand: of the session, and of a link."""
        self._room = self._window
        self.send(
            Flow(self._next_in, self._window, self._next_out, self._window, **{
                name: value for name, value in link.items() if value is not False
            })
        )  # fmt: skip

    def next_delivery(self, link: Sender, settled: bool) -> int:
        """A number for a message that is sent now."""
        number = self._next_delivery
        self._next_delivery = (number + 1) & ROUND
        if not settled:
            self._unsettled_out[number] = link
        return number

    def send_transfer(self, frame: bytes) -> None:
        """Send a frame of a message, as soon as the peer's window has room for it."""
        if self.state != 'begun':
            return
        if self.held or self._peer_room <= 0:
            self.held.append(frame)
            return
        self._peer_room -= 1
        self._next_out = (self._next_out + 1) & ROUND
        self.engine.send(frame)

    def settle(self, numbers: Iterable[int], state: Any) -> int:
        """Settle deliveries that came, each run of numbers in one frame.

        Arguments:
            numbers (Iterable[int]): of `Delivery.id`; those that are settled already are left out.
        Returns:
            int: how many frames it took.
        """
        wanted = sorted(number for number in numbers if self.unsettled_in.pop(number, None) is not None)
        if self.state != 'begun':
            return 0  # the peer has them again
        packed, frames, at = pack(state), 0, 0
        while at < len(wanted):
            first = last = wanted[at]
            at += 1
            while at < len(wanted) and wanted[at] == last + 1:
                last = wanted[at]
                at += 1
            fields = b'A' + uint(first) + uint(last) + b'A' + packed
            body = b'\x00\x53\x15\xd0' + (len(fields) + 4).to_bytes(4, 'big') + b'\0\0\0\x05' + fields
            self.engine.send(raw_frame(self.channel, body))
            frames += 1
        return frames

    # ---- links

    @property
    def full(self) -> bool:
        """Has it as many links as it may?"""
        return not self._free and len(self.links) > min(self._handle_max, self.engine.limits.handles)

    def attach(self, link: Link) -> None:
        """Begin a link in this session.

        Raises:
            ConnectionClosed: the session has ended. ResourceError: there are as many as the peer takes.
        """
        if self.state not in ('beginning', 'begun'):
            raise ConnectionClosed(f'{self.engine.name}: a session has ended')
        if self.full:
            raise ResourceError(f'{self!r} has as many links as it may', (0, 0), '', 506)
        handle = self._free.pop() if self._free else len(self.links)
        link.session, link.handle, link.state = self, handle, 'attaching'
        self.links[handle] = link
        self._names[link.name, link.role] = link
        if self.state == 'begun':
            self.send(link.attach_frame())
        else:
            self._waiting.append(link)

    def forget(self, link: Link) -> None:
        """A link has ended, and its handle is free."""
        if self.links.get(link.handle) is not link:
            return
        del self.links[link.handle]
        self._free.append(link.handle)
        self._names.pop((link.name, link.role), None)
        for handle in [handle for handle, each in self._remote.items() if each is link]:
            del self._remote[handle]
        for number in [number for number, each in self.unsettled_in.items() if each is link]:
            del self.unsettled_in[number]
        for number in [number for number, each in self._unsettled_out.items() if each is link]:
            del self._unsettled_out[number]

    def ended(self, error: Exception | None) -> None:
        """The session, or its connection, has ended: so have its links."""
        self.state = 'ended'
        self.held.clear()
        links, self.links = list(self.links.values()), {}
        for books in (self._remote, self._names, self.unsettled_in, self._unsettled_out):
            books.clear()
        # Some brokers end a session for the fault of the one link that begins: the others are not to blame.
        guilty = [link for link in links if link.state == 'attaching']
        spared: Exception | None = error
        if guilty and error is not None and not isinstance(error, ConnectionError):
            spared = SessionEnded(f'{self.engine.name}: a session was ended for the fault of another link')
        for link in links:
            reason = error if link in guilty else spared
            link.ended(reason or ConnectionClosed(f'{self.engine.name}: a session has ended'))

    # ---- hearing

    def on_begin(self, begin: Begin) -> None:
        """The peer agreed."""
        if self._answered:
            raise PeerFault(f'{self!r} began twice', 'amqp:illegal-state')
        self._answered = True
        if self.state == 'ending':
            self.engine.send(raw_frame(self.channel, pack(End())))
            return
        self.state = 'begun'
        self._next_in = begin.next_outgoing_id
        self._peer_room = begin.incoming_window
        self._handle_max = ROUND if begin.handle_max is None else begin.handle_max
        waiting, self._waiting = self._waiting, []
        for link in waiting:
            if link.state == 'attaching':
                self.send(link.attach_frame())

    def on_frame(self, body: Any, payload: bytes) -> None:
        """Something was said in this session.

        Raises:
            PeerFault: it breaks a rule.
        """
        handler = self._handlers.get(type(body))
        if handler is None or self.state == 'beginning':
            raise PeerFault(f'{type(body).__name__} where it means nothing', 'amqp:illegal-state')
        handler(self, body, payload)

    def _on_attach(self, attach: Attach, payload: bytes) -> None:
        link = self._names.get((attach.name, not attach.role))
        if link is None:
            # Nobody here is to be attached to.
            handle = max(self.links, default=-1) + 1
            self.send(Attach(attach.name, handle, not attach.role, initial_delivery_count=0))
            error = Error('amqp:not-allowed', 'this end makes its links by itself')
            self.send(Detach(handle, True, error))
            return
        if link.peer is not None or attach.handle in self._remote:
            raise PeerFault(f'{link!r} was attached twice', 'amqp:session:handle-in-use')
        self._remote[attach.handle] = link
        if link.state == 'attaching':
            link.answered(attach)

    def _on_detach(self, detach: Detach, payload: bytes) -> None:
        link = self._remote.get(detach.handle) or self._unanswered(detach.handle)
        if link is not None:
            link.on_detach(detach)
            self.forget(link)

    def _unanswered(self, handle: int) -> Link | None:
        # Some peers refuse a link by a detach alone, with the number that we gave it.
        link = self.links.get(handle)
        return link if link is not None and link.peer is None else None

    def _on_flow(self, flow: Flow, payload: bytes) -> None:
        seen = 0 if flow.next_incoming_id is None else flow.next_incoming_id
        room = (seen + flow.incoming_window - self._next_out) & ROUND
        self._peer_room = room if room < 1 << 31 else 0
        while self.held and self._peer_room > 0:
            self._peer_room -= 1
            self._next_out = (self._next_out + 1) & ROUND
            self.engine.send(self.held.popleft())
        if flow.handle is None:
            if flow.echo:
                self.send_flow()
            return
        link = self._remote.get(flow.handle)
        if link is not None and link.state == 'attached':
            link.on_flow(flow)

    def _on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        self._next_in = (self._next_in + 1) & ROUND
        self._room -= 1
        if self._room < 0:
            raise PeerFault(f'{self!r} got more frames than its window has', 'amqp:session:window-violation')
        link = self._remote.get(transfer.handle)
        if isinstance(link, Receiver):
            if link.state in ('attached', 'detaching'):
                link.on_transfer(transfer, payload)
        elif link is not None:
            raise PeerFault(f'{link!r} got a message', 'amqp:not-allowed')
        if self._room < self._window // 2:
            self.send_flow()

    def _on_disposition(self, said: Disposition, payload: bytes) -> None:
        if said.role is not RECEIVER:
            if said.settled:
                for number in _within(said, self.unsettled_in):
                    del self.unsettled_in[number]
            return
        final = isinstance(said.state, _OUTCOMES)
        if not final and not said.settled:
            return
        numbers = _within(said, self._unsettled_out)
        for number in numbers:
            link = self._unsettled_out.pop(number)
            link.listener.on_outcome(link, number, said.state)
        if numbers and not said.settled:
            self.send(Disposition(False, said.first, said.last, True, said.state))

    def _on_end(self, end: End, payload: bytes) -> None:
        if self.state != 'ending':
            self.send(End())
        what = f'{self.engine.name}: a session was ended by the peer'
        error = error_of(end.error, what) if end.error is not None else None
        self.engine.session_ended(self, error)

    _handlers: ClassVar[dict[type, Callable[[Session, Any, bytes], None]]] = {
        Attach: _on_attach, Detach: _on_detach, Flow: _on_flow, Transfer: _on_transfer,
        Disposition: _on_disposition, End: _on_end,
    }  # fmt: skip


def _within(said: Disposition, books: dict[int, Any]) -> list[int]:
    # The numbers of a range that are in the books: a peer may name four billion.
    first, last = said.first, said.first if said.last is None else said.last
    count = ((last - first) & ROUND) + 1
    if count == 1:
        return [first] if first in books else []
    if count > len(books):
        return sorted(number for number in books if (number - first) & ROUND < count)
    return [number for each in range(count) if (number := (first + each) & ROUND) in books]
