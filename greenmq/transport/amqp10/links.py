"""The books of one link: what may be sent over it or asked for, and what is half here.

Nothing here waits or switches. A link tells its *listener* what happens to it, and its session carries what
it says. States: *new*, *attaching*, *attached*, *detaching* (we said so, and await the answer), *detached*.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from greenmq.exceptions import InvalidArgument
from greenmq.transport.amqp10.codec import uint
from greenmq.transport.amqp10.errors import PeerFault, error_of
from greenmq.transport.amqp10.frames import raw_frame
from greenmq.transport.amqp10.performatives import Attach, Detach, Error, Flow, Source, Target, Transfer

if TYPE_CHECKING:
    from greenmq.transport.amqp10.session import Session

__all__ = ('Delivery', 'Link', 'Listener', 'Receiver', 'Sender')

#: Serial numbers go round (RFC 1982).
ROUND = 0xFFFFFFFF
#: Messages beyond its credit that a peer may send: some miscount when credit is taken back and given again.
OVERRUN = 100
#: Bytes of a transfer's frame beside its payload, at most.
_OVERHEAD = 64

_new = tuple.__new__

SENDER, RECEIVER = False, True
UNSETTLED, SETTLED = 0, 1


class Delivery(NamedTuple):
    """One message that came.

    Attributes:
        id (int): its number in the session; by it it is settled.
        payload (bytes): its sections.
        settled (bool): the peer wants to hear no more of it.
    """

    id: int
    tag: bytes
    payload: bytes
    settled: bool
    format: int = 0


class Listener(Protocol):
    """Who is told what happens to a link, from the connection's reader: nothing here may switch."""

    def on_attached(self, link: Any) -> None:
        """The peer agreed."""

    def on_detached(self, link: Any, error: Exception | None) -> None:
        """The link has ended: by the peer or with its session, with an error, or as we asked, with None."""

    def on_flow(self, link: Any) -> None:
        """The peer said how it stands with credit: more may be sent; or all is drained; or our echo."""

    def on_message(self, link: Any, delivery: Delivery) -> None:
        """A receiver: a message is whole."""

    def on_outcome(self, link: Any, delivery_id: int, state: Any) -> None:
        """A sender: what became of a message."""


class _Nobody:
    # The listener of a link that has ended: the real one holds the link, and the two would keep each other.

    def on_attached(self, link: Any) -> None:
        pass

    def on_detached(self, link: Any, error: Exception | None) -> None:
        pass

    def on_flow(self, link: Any) -> None:
        pass

    def on_message(self, link: Any, delivery: Delivery) -> None:
        pass

    def on_outcome(self, link: Any, delivery_id: int, state: Any) -> None:
        pass


_NOBODY = _Nobody()


class Link:
    """One end of a link.

    Attributes:
        listener (Listener): until its end.
        session (Session): None until it is attached there.
        name (str): its own in the connection.
        source (Source), target (Target): as asked for.
        peer (Attach | None): what the peer answered.
        credit (int): messages that may come or go.
        count (int): messages that came or went, as both sides count them.
    """

    role = SENDER

    def __init__(
        self,
        name: str,
        listener: Listener,
        source: Source,
        target: Target,
        *,
        snd_settle_mode: int = UNSETTLED,
        rcv_settle_mode: int = 0,
        max_message: int = 0,
        properties: dict[Any, Any] | None = None,
    ) -> None:
        self.name = name
        self.listener: Listener = listener
        self.source = source
        self.target = target
        self.snd_settle_mode = snd_settle_mode
        self.rcv_settle_mode = rcv_settle_mode
        self.max_message = max_message
        self.properties = properties
        self.session: Session = None  # type: ignore[assignment]
        self.state = 'new'
        self.handle = 0
        self.peer: Attach | None = None
        self.credit = 0
        self.count = 0

    def __repr__(self) -> str:
        where = self.target if self.role is SENDER else self.source
        return f'<{type(self).__name__} {self.name} {where.address!r}: {self.state}, credit {self.credit}>'

    @property
    def what(self) -> str:
        """For texts."""
        name = self.session.engine.name
        where, way = (self.target, 'to') if self.role is SENDER else (self.source, 'from')
        return f'{name}: the link {way} {where.address!r}'

    def attach_frame(self) -> Attach:
        """What begins the link."""
        return Attach(
            self.name, self.handle, self.role, self.snd_settle_mode, self.rcv_settle_mode, self.source,
            self.target, initial_delivery_count=None if self.role is RECEIVER else self.count,
            max_message_size=self.max_message or None, properties=self.properties,
        )  # fmt: skip

    def answered(self, attach: Attach) -> None:
        """The peer agreed, or said that it will not: then its end of the link has no terminus, and a detach
        follows.
        """
        self.peer = attach
        terminus = attach.target if self.role is SENDER else attach.source
        if terminus is None:
            return
        if self.role is RECEIVER:
            self.count = attach.initial_delivery_count or 0
        self.state = 'attached'
        self.listener.on_attached(self)

    def refused(self) -> bool:
        """Has the peer answered that there is no such terminus?"""
        return self.peer is not None and self.state == 'attaching'

    def detach(self) -> None:
        """End the link. Whatever is under way over it may still come."""
        if self.state in ('attaching', 'attached'):
            self.end()
            self.session.send(Detach(self.handle, True))

    def end(self) -> None:
        """We end its session."""
        if self.state in ('attaching', 'attached'):
            self.state = 'detaching'

    def ended(self, error: Exception | None) -> None:
        """It has ended, in whatever way."""
        if self.state != 'detached':
            self.state = 'detached'
            self.credit = 0
            listener, self.listener = self.listener, _NOBODY
            listener.on_detached(self, error)

    def on_detach(self, detach: Detach) -> None:
        """The peer ends the link, or agrees to its end."""
        asked = self.state in ('detaching', 'detached')
        if not asked:
            self.session.send(Detach(self.handle, True))
        error: Exception | None = None
        if detach.error is not None or not asked:
            error = error_of(detach.error, f'{self.what} was ended by the peer')
        self.ended(error)

    def on_flow(self, flow: Flow) -> None:
        """The peer says how it stands."""
        raise NotImplementedError

    def flow(self, *, drain: bool = False, echo: bool = False) -> None:
        """Say how we stand."""
        self.session.send_flow(
            handle=self.handle, delivery_count=self.count & ROUND, link_credit=self.credit, drain=drain,
            echo=echo,
        )  # fmt: skip


class Sender(Link):
    """The sending end: one message for each credit of the peer."""

    role = SENDER

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = b''  # of a message in one frame: what follows its size, up to its number
        self._write = struct.Struct('').pack

    def answered(self, attach: Attach) -> None:
        handle = uint(self.handle) + b'\x70'
        start = b'\x02\x00' + self.session.channel.to_bytes(2, 'big') + b'\x00\x53\x14\xc0'
        head = self._head = start + bytes((len(handle) + 13, 5)) + handle
        self._write = struct.Struct(f'>I{len(head)}sI2sI2s').pack
        super().answered(attach)

    def send(self, payload: bytes, settled: bool = False, tag: bytes | None = None, form: int = 0) -> int:
        """Send a message, in as many frames as it takes. There must be credit.

        Returns:
            int: its number in the session.
        Raises:
            InvalidArgument: it is larger than the peer takes; nothing was sent.
        """
        size = len(payload)
        limit = self.peer.max_message_size if self.peer is not None else 0
        if limit and size > limit:
            raise InvalidArgument(
                'message', f'{size} bytes', f'is more than the {limit} bytes that the broker takes'
            )
        session = self.session
        number = session.next_delivery(self, settled)
        self.credit -= 1
        self.count = (self.count + 1) & ROUND
        if tag is None and not form and not settled and size <= session.max_frame - _OVERHEAD:
            # Most are so: what varies is of one width.
            head = self._head
            start = self._write(size + len(head) + 16, head, number, b'\xa0\x04', number, b'CB')
            session.send_transfer(start + payload)
            return number
        head = uint(self.handle) + uint(number)
        name = number.to_bytes(4, 'big') if tag is None else tag
        rest = b'\xa0' + bytes((len(name),)) + name + uint(form) + (b'A' if settled else b'B')
        room = session.max_frame - _OVERHEAD
        if len(payload) <= room:
            session.send_transfer(raw_frame(session.channel, _list(head + rest, 5), payload))
            return number
        at = 0
        while at < len(payload):
            part = payload[at : at + room]
            at += len(part)
            more = b'A' if at < len(payload) else b'B'
            packed = _list(head + rest + more, 6) if at == len(part) else _list(head + b'@@@' + more, 6)
            session.send_transfer(raw_frame(session.channel, packed, part))
        return number

    def on_flow(self, flow: Flow) -> None:
        if flow.link_credit is None:
            return
        seen = flow.delivery_count or 0
        credit = (seen + flow.link_credit - self.count) & ROUND
        # What the peer had not seen yet when it wrote may be more than what it gave.
        self.credit = credit if credit < 1 << 31 else 0
        if flow.drain and self.credit and not self.session.held:
            self.count = (self.count + self.credit) & ROUND
            self.credit = 0
            self.flow(drain=True)
        elif flow.echo:
            self.flow()
        self.listener.on_flow(self)


class Receiver(Link):
    """The receiving end: as many messages come as there is credit."""

    role = RECEIVER

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._parts: list[bytes] = []
        self._size = 0
        self._first: Transfer | None = None
        self._most = 0  # how far the peer may count: what was granted once may be under way for long
        self.available: int | None = None  # messages at the peer, where it tells
        self.flows = 0  # how often the peer said how it stands
        self.owed = 0  # and how often it will have, when it has answered all that was asked so far
        self.answers_all = False  # it does so of its own accord, too

    def grant(self, credit: int, *, drain: bool = False, echo: bool = False) -> None:
        """Let so many messages come from now on, and no more."""
        self.credit = credit
        self._most = max(self._most, self.count + credit)
        self.flow(drain=drain, echo=echo)

    def flow(self, *, drain: bool = False, echo: bool = False) -> None:
        """See `Link`."""
        if echo or self.answers_all:
            self.owed += 1
        super().flow(drain=drain, echo=echo)

    @property
    def holds(self) -> bool:
        """Are there messages of it that nobody has settled? They go back where the link ends."""
        return any(link is self for link in self.session.unsettled_in.values())

    @property
    def partial(self) -> int:
        """Bytes of a message that is not whole yet."""
        return self._size

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        """A frame of a message came."""
        first = self._first
        if first is None:
            if transfer.delivery_id is None:
                raise PeerFault('the first frame of a message has no delivery-id', 'amqp:invalid-field')
            if self.count >= self._most + OVERRUN:
                raise PeerFault(
                    f'{self.what} got a message without credit', 'amqp:link:transfer-limit-exceeded'
                )
            first = transfer
        if transfer.aborted:
            self._clear()
            return
        size = self._size + len(payload)
        if self.max_message and size > self.max_message:
            self._too_large(size)
            return
        if transfer.more:
            self._first = first
            self._parts.append(payload)
            self._size = size
            return
        if self._first is not None:
            self._parts.append(payload)
            payload = b''.join(self._parts)
            self._clear()
        self.count += 1
        if self.credit:
            self.credit -= 1
        settled = bool(first.settled or transfer.settled)
        number = first.delivery_id or 0
        delivery = _new(
            Delivery, (number, first.delivery_tag or b'', payload, settled, first.message_format or 0)
        )
        if not settled:
            self.session.unsettled_in[number] = self
        self.listener.on_message(self, delivery)

    def _clear(self) -> None:
        self._parts = []
        self._size = 0
        self._first = None

    def _too_large(self, size: int) -> None:
        self._clear()
        text = f'a message of more than {self.max_message} bytes'
        if self.state == 'attached':
            error = Error('amqp:link:message-size-exceeded', text)
            self.session.send(Detach(self.handle, True, error))
            self.ended(error_of(error, f'{self.what} was ended by us'))

    def on_flow(self, flow: Flow) -> None:
        if flow.delivery_count is not None:
            ahead = (flow.delivery_count - self.count) & ROUND
            if 0 < ahead <= self.credit:  # drained: the peer had no more to send
                self.count += ahead
                self.credit -= ahead
        if flow.echo:
            self.flow()
        self.available = flow.available
        self.flows += 1
        self.listener.on_flow(self)


def _list(fields: bytes, count: int) -> bytes:
    # Of a transfer: short ever.
    return b'\x00\x53\x14\xc0' + bytes((len(fields) + 1, count)) + fields
