"""The states of connections and channels: what each promises, and which may follow which.

The two tables below are the whole truth; a transition that is not in them raises, because it means that two
parts of the program disagree about what is going on, and going on with that loses messages.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ('CHANNEL', 'CONNECTION', 'ChannelState', 'ConnectionState', 'IllegalTransition', 'Lifecycle')


class ConnectionState:
    """What a program may assume of a connection in each state.

    NEW: never opened. Nothing is on the wire; the first use opens it.
    CONNECTING: a dial or handshake is under way. Calls wait for it, within their deadlines.
    OPEN: everything works.
    BLOCKED: as OPEN, but the broker has stopped reading what we publish. Publishes wait within their
        deadlines.
    LOST: the other side ended it. Who waited has been told; recovery goes on; later calls wait for it.
        Tags, consumers and declarations of the old epoch mean nothing any more.
    CLOSING: we are ending it. New calls are refused, what is buffered is sent, within a bound.
    CLOSED: we ended it. Calls are refused until somebody opens it again, as kombu allows.
    """

    NEW = 'new'
    CONNECTING = 'connecting'
    OPEN = 'open'
    BLOCKED = 'blocked'
    LOST = 'lost'
    CLOSING = 'closing'
    CLOSED = 'closed'


class ChannelState:
    """What a program may assume of a channel in each state.

    NEW: no wire channel yet; the first use opens one.
    OPENING: channel.open was sent. Calls wait.
    OPEN: everything works.
    LOST: the broker closed the wire channel, or the connection was lost. The object lives on and is opened
    again. CLOSING: we are ending it.
    CLOSED: we ended it. Final: a program asks its connection for another one.
    """

    NEW = 'new'
    OPENING = 'opening'
    OPEN = 'open'
    LOST = 'lost'
    CLOSING = 'closing'
    CLOSED = 'closed'


#: Connection states: from -> to.
CONNECTION: Mapping[str, frozenset[str]] = {
    ConnectionState.NEW: frozenset({ConnectionState.CONNECTING, ConnectionState.CLOSED}),
    # Back to NEW: the first dial failed and nobody asked for recovery. To LOST: a dial of recovery failed.
    ConnectionState.CONNECTING: frozenset(
        {
            ConnectionState.OPEN,
            ConnectionState.NEW,
            ConnectionState.LOST,
            ConnectionState.CLOSING,
            ConnectionState.CLOSED,
        }
    ),
    ConnectionState.OPEN: frozenset(
        {ConnectionState.BLOCKED, ConnectionState.LOST, ConnectionState.CLOSING, ConnectionState.CLOSED}
    ),
    ConnectionState.BLOCKED: frozenset(
        {ConnectionState.OPEN, ConnectionState.LOST, ConnectionState.CLOSING, ConnectionState.CLOSED}
    ),
    ConnectionState.LOST: frozenset(
        {ConnectionState.CONNECTING, ConnectionState.CLOSING, ConnectionState.CLOSED}
    ),
    # Never to LOST: an end that we have begun is ours, however the socket ends meanwhile.
    ConnectionState.CLOSING: frozenset({ConnectionState.CLOSED}),
    ConnectionState.CLOSED: frozenset({ConnectionState.CONNECTING}),
}

#: Channel states: from -> to.
CHANNEL: Mapping[str, frozenset[str]] = {
    ChannelState.NEW: frozenset({ChannelState.OPENING, ChannelState.CLOSED}),
    ChannelState.OPENING: frozenset(
        {ChannelState.OPEN, ChannelState.LOST, ChannelState.CLOSING, ChannelState.CLOSED}
    ),
    ChannelState.OPEN: frozenset({ChannelState.LOST, ChannelState.CLOSING, ChannelState.CLOSED}),
    ChannelState.LOST: frozenset({ChannelState.OPENING, ChannelState.CLOSED}),
    ChannelState.CLOSING: frozenset({ChannelState.CLOSED}),
    ChannelState.CLOSED: frozenset(),
}


class IllegalTransition(RuntimeError):
    """A state was to be followed by one that its table does not allow: a bug in greenmq."""


class Lifecycle:
    """The present state of one thing, moved only as its table allows.

    Arguments:
        table (Mapping[str, frozenset[str]]): `CONNECTION` or `CHANNEL`.
        start (str): the first state.
        what (str): the thing's name for the error text.
    Attributes:
        state (str): the present state; read it, never set it.
    """

    __slots__ = ('_table', 'state', 'what')

    def __init__(self, table: Mapping[str, frozenset[str]], start: str, what: str = '') -> None:
        if start not in table:
            raise IllegalTransition(f'{what or "lifecycle"} can not start as {start!r}: no such state')
        self._table = table
        self.state = start
        self.what = what

    def __repr__(self) -> str:
        return f'<Lifecycle {self.what or "of nothing named"}: {self.state}>'

    def may(self, new: str) -> bool:
        """Ask whether `new` may follow the present state."""
        return new in self._table[self.state]

    def to(self, new: str) -> str:
        """Go to the state `new`.

        Returns:
            str: the state before.
        Raises:
            IllegalTransition: the table does not allow it; the state has not changed.
        Switches: no.
        """
        old = self.state
        if new not in self._table[old]:
            raise IllegalTransition(f'{self.what or "lifecycle"} is {old}: it can not become {new}')
        self.state = new
        return old
