"""The connections to one namespace: one for what is consumed and all that is asked, and one for what is
published, made when both are done.

So a publisher that the service holds up never holds up a settlement. Who publishes only has one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from greenmq import runtime
from greenmq.exceptions import AccessRefused, ConnectionLost, NotFound, OperationalError
from greenmq.transport.amqp10 import Connection, Limits
from greenmq.transport.amqp10.codec import Symbol
from greenmq.transport.amqp10.performatives import OUTCOMES, Released, Source, Target
from greenmq.transport.amqp10.receiving import Came, Receiving
from greenmq.transport.amqp10.sasl import Login
from greenmq.transport.amqp10.sending import Sending
from greenmq.transport.amqp10.way import Way
from greenmq.transport.azureservicebus.account import Account
from greenmq.transport.azureservicebus.locks import Locks
from greenmq.transport.azureservicebus.tokens import Admission, Tokens

__all__ = ('BUSY', 'Line', 'Lines', 'LinesOwner')

#: What the service says when it wants to be left alone, and for how many seconds at least.
BUSY = {'com.microsoft:server-busy': 4.0, 'com.microsoft:timeout': 2.0}
#: Links of one session: the service takes 256.
HANDLES = 254
#: Seconds between two looks after links that are silent.
LOOK = 5.0


def _source(address: str) -> Source:
    return Source(address, outcomes=OUTCOMES)


class Line:
    """One connection, and what goes over it.

    Attributes:
        connection, admission, sending, receiving, locks: its parts. way (Way): how links are made.
    """

    def __init__(
        self, connection: Connection, way: Way, tokens: Tokens, host: str,
        arrived: Callable[[list[Came]], None],
    ) -> None:  # fmt: skip
        self.connection = connection
        self.way = way
        self.admission = Admission(connection, tokens, host)
        self.sending = Sending(connection, way, Target)
        self.receiving = Receiving(connection, way, arrived)
        self.locks = Locks(connection, self.admission)

    def over(self) -> None:
        """It has ended, or will."""
        self.receiving.over()
        self.admission.close()


class LinesOwner(Protocol):
    """Who is told what happens to the connections. Nothing here may switch."""

    def on_arrived(self, came: list[Came]) -> None:
        """Entity, link and delivery of all messages that one read brought."""

    def on_line_lost(self, main: bool, error: Exception) -> None:
        """One ended and not by us: the main one, or that for what is published."""


class Lines:
    """The connections to one namespace.

    Arguments:
        account (Account), tokens (Tokens): where to, and what lets us in. settings (Mapping): of the driver.
        owner (LinesOwner): held weakly: it holds us.
    """

    def __init__(
        self, account: Account, tokens: Tokens, settings: Mapping[str, Any], owner: LinesOwner
    ) -> None:
        self._account = account
        self._tokens = tokens
        self._settings = settings
        self._owner = weakref.ref(owner)
        self._main: Line | None = None
        self._out: Line | None = None
        self._tls: Any = None
        self._dialling = runtime.Once()
        self._prover: Any = None
        self._closing = False
        self.dials = 0

    def open(self, tls: Any, deadline: runtime.Deadline) -> None:
        """Connect the main one, and see that we are let in.

        Arguments:
            tls (TLSOptions | SSLContext | None): what the program says of it.
        Raises:
            AccessRefused: not let in. ConnectionLost, OSError, TimeoutError: not reached.
        Switches: yes. Killed: nothing is left.
        """
        self._tls = tls
        line = self._dial(deadline)
        try:
            # Not by a queue of anybody's: a wrong key is told now, whatever there is.
            line.admission.ensure(self._account.entity or 'greenmq', deadline)
        except (NotFound, OperationalError) as error:
            if isinstance(error, AccessRefused):
                line.connection.abandon()
                raise
        except BaseException:
            line.connection.abandon()
            raise
        line.admission.forget(self._account.entity or 'greenmq')
        line.connection.check()
        old, self._main = self._main, line
        if old is not None:
            old.over()
            old.connection.abandon()
        if self._prover is None:
            self._prover = runtime.every(self, LOOK, Lines._prove, name='amqp10-proof', jitter=0.2)

    def _dial(self, deadline: runtime.Deadline) -> Line:
        account, settings = self._account, self._settings
        idle = settings['idle_timeout'] or 0.0
        largest = settings['max_message_bytes']
        limits = Limits(idle_timeout=idle, max_message=largest, handles=HANDLES)
        tls = (self._tls or runtime.TLSOptions()) if account.tls else None
        stream = runtime.dial(account.host, account.port, deadline, tls=tls)
        if idle:
            stream = runtime.SharedStream(stream)
        login = Login(None, None, 'ANONYMOUS', account.tls)
        says = {Symbol('product'): 'greenmq', Symbol('platform'): 'Python'}
        connection = Connection(stream, login, account.host, limits, self, says)
        connection.open(deadline)
        self.dials += 1
        way = Way(_source, False, True, False, largest, BUSY)
        return Line(connection, way, self._tokens, account.host, self._came)

    def _came(self, came: list[Came]) -> None:
        owner = self._owner()
        if owner is not None and not self._closing:
            owner.on_arrived(came)
            return
        for _, link, delivery in came:
            link.session.settle([delivery.id], Released())

    def on_connection_lost(self, connection: Connection, error: Exception) -> None:
        """See `amqp10.connection.Lost`."""
        for line in (self._main, self._out):
            if line is not None and line.connection is connection:
                line.over()
                main = line is self._main
                if main:
                    self._main = None
                else:
                    self._out = None
                owner = self._owner()
                if owner is not None:
                    owner.on_line_lost(main, error)

    # ---- which

    def main(self) -> Line:
        """The main one.

        Raises:
            ConnectionLost: there is none.
        """
        if self._main is None:
            error = ConnectionLost(f'{self._account.host}: there is no connection')
            error.sent = 'no'  # type: ignore[attr-defined]
            raise error
        return self._main

    def main_or_none(self) -> Line | None:
        """The main one, if there is one."""
        return self._main

    def out(self, apart: bool, deadline: runtime.Deadline) -> Line:
        """The one to publish over.

        Arguments:
            apart (bool): not the main one.
        Raises:
            ConnectionLost, OSError, TimeoutError: not reached; nothing was sent.
        Switches: if it must be dialled.
        """
        if not apart:
            return self._main or self.main()
        while self._out is None:
            self._dialling.do('out', lambda: self._open_out(deadline), 'no connection to publish', deadline)
        return self._out

    def _open_out(self, deadline: runtime.Deadline) -> None:
        if self._out is not None:
            return
        line = self._dial(deadline)
        line.connection.check()
        if self._prover is None:  # closed meanwhile
            line.connection.abandon()
            raise ConnectionLost(f'{self._account.host}: the connection is being closed')
        self._out = line

    def _prove(self) -> None:
        if self._main is not None:
            self._main.receiving.prove()

    def gone(self, entity: str) -> None:
        """An entity is to be deleted: nothing of ours shall hold it."""
        for line in (self._main, self._out):
            if line is not None:
                line.receiving.gone(entity)
                line.sending.forget(entity)
                line.locks.forget(entity)
                line.admission.forget(entity)

    # ---- ends

    def close(self, deadline: runtime.Deadline) -> None:
        """Say goodbye; what still comes goes back. Switches: yes."""
        self._closing = True
        prover, self._prover = self._prover, None
        if prover is not None:
            prover.kill()
        main, out = self._main, self._out
        self._main = self._out = None
        for line in (main, out):
            if line is not None:
                line.admission.close()
        if main is not None:
            main.receiving.quiet()
            try:
                # By its answer all has come that was sent before the service heard that we want no more.
                main.receiving.round(deadline.within(1.0))
            except (ConnectionLost, TimeoutError):
                pass  # what it locks for us meanwhile comes back when the locks end
            main.receiving.close()
            main.connection.close(deadline)
        if out is not None:
            out.connection.close(deadline)

    def forget(self) -> None:
        """In a forked child: let go of the sockets."""
        main, out = self._main, self._out
        self._main = self._out = None
        for line in (main, out):
            if line is not None:
                line.over()
                line.connection.abandon()

    def stats(self) -> dict[str, Any]:
        """Numbers for the health page."""
        lines = [line for line in (self._main, self._out) if line is not None]
        return {
            'connections': len(lines), 'dials': self.dials,
            'bytes_in': sum(line.connection.bytes_in for line in lines),
            'bytes_out': sum(line.connection.bytes_out for line in lines),
            'receiving_links': sum(len(line.receiving) for line in lines),
            'sending_links': sum(len(line.sending) for line in lines),
            'tokens_shown': sum(line.admission.shown for line in lines),
            'lock_requests': sum(line.locks.calls for line in lines),
        }  # fmt: skip
