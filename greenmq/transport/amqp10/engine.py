"""One AMQP 1.0 connection from its first byte to its last, as books: bytes go in, bytes and news come out.

Nothing here waits or switches; whoever owns the socket feeds what it reads and writes what `send` gets. What
may come in each state stands in `_STATES`: *login* (our header is out), *mechanisms*, *outcome*, *header*,
*opening*, *open*, *closing*, *ended*.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

from greenmq.exceptions import ConnectionClosed, ConnectionLost, ResourceError
from greenmq.transport.amqp10 import sasl
from greenmq.transport.amqp10.errors import Malformed, PeerFault, error_of
from greenmq.transport.amqp10.frames import AMQP, EMPTY, HEADER, MIN_FRAME, SASL, SASL_HEADER, Parser, frame
from greenmq.transport.amqp10.performatives import (
    Begin,
    Close,
    Error,
    Init,
    Mechanisms,
    Open,
    Outcome,
    unpack,
)
from greenmq.transport.amqp10.session import Session
from greenmq.utils.text import printable

__all__ = ('Engine', 'Limits', 'Owner')


class Limits(NamedTuple):
    """What we take from a peer, told to it when the connection is opened.

    Attributes:
        max_frame (int): bytes of a frame.
        max_message (int): bytes of a message.
        channels (int): the highest number of a session.
        handles (int): the highest number of a link in a session.
        window (int): frames of messages under way in a session.
        idle_timeout (float): seconds of silence after which the peer is dead; 0 for any time.
    """

    max_frame: int = 64 * 1024
    max_message: int = 128 * 1024 * 1024
    channels: int = 8191
    handles: int = 8191
    window: int = 4096
    idle_timeout: float = 60.0


class Owner(Protocol):
    """Who is told what happens to the connection. Nothing here may switch."""

    def send(self, data: bytes) -> None:
        """Whole frames to be written."""

    def on_open(self) -> None:
        """The peer agreed."""

    def on_close(self, error: Exception) -> None:
        """The connection has ended: by us, or as the peer said."""


class _Nobody:
    # The owner of an engine that has ended: the real one holds the engine, and the two would keep each other.

    def send(self, data: bytes) -> None:
        pass

    def on_open(self) -> None:
        pass

    def on_close(self, error: Exception) -> None:
        pass


_NOBODY = _Nobody()


class Engine:
    """The books of one connection.

    Arguments:
        name (str): for texts. owner (Owner): until the end. login (Login): as whom.
        hostname (str): what the peer is told of where we want to go.
        limits (Limits), properties (dict): what it is told of us.
    Attributes:
        peer (Open | None): what the peer said of itself.
        fault (PeerFault | None): what is wrong with that; it may still say a better reason as it closes.
        max_frame_out (int): bytes of a frame that it takes.
        sessions (dict[int, Session]): by our channel.
    """

    def __init__(
        self,
        name: str,
        owner: Owner,
        login: sasl.Login,
        hostname: str,
        limits: Limits,
        properties: dict[Any, Any] | None = None,
    ) -> None:
        self.name = name
        self.owner: Owner = owner
        self.limits = limits
        self.container = f'greenmq-{secrets.token_hex(8)}'
        self.peer: Open | None = None
        self.fault: PeerFault | None = None
        self.max_frame_out = MIN_FRAME
        self.sessions: dict[int, Session] = {}
        self.state = 'new'
        self.send = owner.send
        self._login = login
        self._hostname = hostname
        self._properties = properties
        self._remote: dict[int, Session] = {}
        self._parser = Parser(limits.max_frame)
        self._links = 0
        self._free: list[int] = []

    def __repr__(self) -> str:
        return f'<Engine {self.name}: {self.state}, {len(self.sessions)} sessions>'

    # ---- saying

    def start(self) -> None:
        """Ask to log in.

        Raises:
            InvalidArgument: there is no such login.
        """
        sasl.wanted(self._login)
        self.state = 'login'
        self.send(SASL_HEADER)

    def session(self) -> Session:
        """Begin a session.

        Raises:
            ConnectionClosed: there is no connection. ResourceError: there are as many as the peer takes.
        """
        if self.state != 'open' or self.peer is None:
            raise ConnectionClosed(f'{self.name} is not open')
        if len(self.sessions) > self._most:
            text = f'{self.name} has the {self._most + 1} sessions that it may have'
            raise ResourceError(text, (0, 0), '', 506)
        channel = self._free.pop() if self._free else len(self.sessions)
        session = self.sessions[channel] = Session(self, channel, self.limits.window)
        session.begin()
        return session

    def may_begin(self) -> bool:
        """Is there room for one more session, and for some that are needed later?"""
        return len(self.sessions) + 4 < self._most

    @property
    def _most(self) -> int:
        theirs = self.peer.channel_max if self.peer is not None else None
        return min(self.limits.channels, 65535 if theirs is None else theirs)

    def link_name(self) -> str:
        """A name that no other link of this connection has."""
        self._links += 1
        return f'{self.container}-{self._links}'

    def close(self, error: Error | None = None) -> None:
        """Say goodbye. The peer's answer ends the connection."""
        if self.state in ('opening', 'open'):
            self.state = 'closing'
            self.send(frame(0, Close(error)))

    def beat(self) -> None:
        """Say that we are alive."""
        if self.state == 'open':
            self.send(EMPTY)

    def take_fault(self) -> PeerFault | None:
        """Return `fault`, and keep it no longer."""
        fault, self.fault = self.fault, None
        return fault

    @property
    def peer_timeout(self) -> float:
        """Seconds of our silence that the peer bears; 0 for any number."""
        return ((self.peer.idle_time_out or 0) / 1000) if self.peer is not None else 0.0

    def product(self) -> tuple[str, str]:
        """What the peer calls itself, and its version."""
        said = (self.peer.properties or {}) if self.peer is not None else {}
        return printable(str(said.get('product', '')), 80), printable(str(said.get('version', '')), 40)

    # ---- hearing

    def feed(self, data: bytes) -> int:
        """Bytes have come.

        Returns:
            int: frames that were whole.
        Raises:
            PeerFault, LoginRefused: the connection is of no more use. What we have to say of it was sent.
        """
        self._parser.feed(data)
        count = 0
        try:
            while self.state != 'ended' and self._STATES[self.state](self):
                count += 1
        except Malformed as error:
            raise self._fault(PeerFault(f'{self.name}: {error}')) from None
        except PeerFault as error:
            raise self._fault(error) from None
        return count

    def _fault(self, error: PeerFault) -> PeerFault:
        self.close(Error(error.condition, printable(str(error), 200)))
        return error

    def _header(self) -> bytes | None:
        header = self._parser.header()
        if header is not None and not header.startswith(b'AMQP'):
            raise PeerFault(f'{self.name} does not speak AMQP: it says {printable(header)!r}')
        return header

    def _on_login(self) -> bool:
        header = self._header()
        if header is None:
            return False
        if header != SASL_HEADER:
            spoken = '.'.join(str(number) for number in header[5:])
            hint = ' (its plugin for AMQP 1.0 is not on?)' if header[4:] == b'\0\0\x09\1' else ''
            raise PeerFault(f'{self.name} does not speak AMQP 1.0 with a login, but AMQP {spoken}{hint}')
        self.state = 'mechanisms'
        return True

    def _sasl(self, wanted: Any) -> Any:
        found = self._parser.frame()
        if found is None:
            return None
        kind, _, body = found
        said = unpack(body)[0] if kind == SASL and body else None
        if not isinstance(said, wanted):
            raise PeerFault(f'{self.name} said {type(said).__name__} while we logged in')
        return said

    def _on_mechanisms(self) -> bool:
        said = self._sasl(Mechanisms)
        if said is None:
            return False
        mechanism, first = sasl.choose(self._login, said.sasl_server_mechanisms, self.name)
        self.send(frame(0, Init(mechanism, first, self._hostname), kind=SASL))
        self.state = 'outcome'
        return True

    def _on_outcome(self) -> bool:
        said = self._sasl(Outcome)
        if said is None:
            return False
        if said.code != sasl.OK:
            raise sasl.refusal(said.code, self._login, self.name)
        self.state = 'header'
        self.send(HEADER)
        return True

    def _on_header(self) -> bool:
        header = self._header()
        if header is None:
            return False
        if header != HEADER:
            raise PeerFault(f'{self.name} speaks another version than AMQP 1.0: {header[4:].hex()}')
        self.state = 'opening'
        limits = self.limits
        # Half of what we bear: so says the specification, and so much a peer may be late.
        idle = round(limits.idle_timeout * 500) or None
        self.send(
            frame(0, Open(self.container, self._hostname, limits.max_frame, limits.channels, idle,
                          properties=self._properties))
        )  # fmt: skip
        return True

    def _on_frame(self) -> bool:
        found = self._parser.frame()
        if found is None:
            return False
        kind, channel, data = found
        if kind != AMQP:
            raise PeerFault(f'{self.name} sent a frame of the kind {kind}')
        if not data:
            return True  # it is alive
        body, at = unpack(data)
        handler = self._handlers.get(type(body))
        if handler is not None:
            handler(self, channel, body)
            return True
        session = self._remote.get(channel)
        if session is None or self.state == 'opening':
            if self.state == 'closing':
                return True  # it had not heard of it yet
            raise PeerFault(f'{self.name} said {type(body).__name__} in a session that there is not')
        session.on_frame(body, data[at:])
        return True

    def _on_open(self, channel: int, said: Open) -> None:
        if self.state != 'opening':
            if self.state == 'closing':
                return
            raise PeerFault(f'{self.name} opened twice', 'amqp:illegal-state')
        self.peer = said
        size = self.limits.max_frame if said.max_frame_size is None else said.max_frame_size
        if size < MIN_FRAME:
            # Broker-J says 0 where it has to open to say why it closes: that is the reason then.
            text = f'{self.name} takes frames of {size} bytes, where each peer must take {MIN_FRAME}'
            self.fault = self._fault(PeerFault(text, 'amqp:invalid-field'))
            return
        self.max_frame_out = min(size, 1024 * 1024)
        self.state = 'open'
        self.owner.on_open()

    def _on_begin(self, channel: int, said: Begin) -> None:
        session = self.sessions.get(-1 if said.remote_channel is None else said.remote_channel)
        if session is None or channel in self._remote:
            if self.state == 'closing':
                return
            raise PeerFault(f'{self.name} began a session of its own', 'amqp:not-implemented')
        self._remote[channel] = session
        session.on_begin(said)

    def _on_close(self, channel: int, said: Close) -> None:
        asked = self.state == 'closing'
        if not asked:
            self.send(frame(0, Close()))
        error: Exception
        if said.error is not None:
            error = ConnectionLost(str(error_of(said.error, f'{self.name} closed the connection')))
        elif self.fault is not None:
            error = self.fault
        elif asked:
            error = ConnectionClosed(f'{self.name} was closed')
        else:
            error = ConnectionLost(f'{self.name} closed the connection')
        owner = self.owner
        self.ended(error)
        owner.on_close(error)

    def session_ended(self, session: Session, error: Exception | None) -> None:
        """A session has ended."""
        self.sessions.pop(session.channel, None)
        self._free.append(session.channel)
        for channel in [number for number, each in self._remote.items() if each is session]:
            del self._remote[channel]
        session.ended(error)

    def ended(self, error: Exception) -> None:
        """The connection has ended, in whatever way: so have its sessions and links."""
        if self.state == 'ended':
            return
        self.state = 'ended'
        sessions, self.sessions = list(self.sessions.values()), {}
        self._remote.clear()
        for session in sessions:
            session.ended(error)
        self.owner = _NOBODY
        self.send = _NOBODY.send

    _handlers: ClassVar[dict[type, Callable[[Engine, int, Any], None]]] = {
        Open: _on_open, Begin: _on_begin, Close: _on_close,
    }  # fmt: skip
    #: State → what the next bytes mean; False if there are not enough of them.
    _STATES: ClassVar[dict[str, Callable[[Engine], bool]]] = {
        'login': _on_login, 'mechanisms': _on_mechanisms, 'outcome': _on_outcome, 'header': _on_header,
        'opening': _on_frame, 'open': _on_frame, 'closing': _on_frame,
    }  # fmt: skip
