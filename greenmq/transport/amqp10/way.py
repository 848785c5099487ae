"""How links are made and ended: what brokers of AMQP 1.0 do differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from greenmq.transport.amqp10.connection import Connection
from greenmq.transport.amqp10.links import UNSETTLED, Receiver, Sender
from greenmq.transport.amqp10.performatives import Source, Target
from greenmq.transport.amqp10.session import Session

__all__ = ('Way',)


class Way:
    """How links are made: what brokers do differently.

    Arguments:
        source (Callable): address → `Source`.
        own_sessions (bool): a session for each link, as the broker ends it for the fault of one link.
        drains (bool): it can drain. Those that cannot answer each flow.
        echoes (bool): it answers where it stands, when it is asked.
        max_message (int): bytes of a message that we take; 0 for any number.
        pauses (Mapping[str, float]): condition → seconds that it asks for before a link is made again.
    """

    def __init__(
        self, source: Callable[[str], Source], own_sessions: bool, drains: bool, echoes: bool,
        max_message: int, pauses: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.source = source
        self.own_sessions = own_sessions
        self.drains = drains
        self.echoes = echoes
        self.max_message = max_message
        self._pauses = pauses or {}

    def pause(self, error: Exception | None) -> float:
        """Seconds that the peer wants to be left alone for, as it ended a link with an error."""
        return self._pauses.get(getattr(error, 'condition', ''), 0.0)

    def attach(
        self, connection: Connection, shared: Session, address: str, listener: Any
    ) -> Receiver:
        """Begin a link."""
        engine = connection.engine
        source = self.source(address)
        link = Receiver(
            engine.link_name(), listener, source, Target(engine.container), snd_settle_mode=UNSETTLED,
            max_message=self.max_message,
        )  # fmt: skip
        link.answers_all = not self.drains
        self.session(connection, shared).attach(link)
        return link

    def session(self, connection: Connection, shared: Session) -> Session:
        """A session for one link: its own, while the peer takes so many."""
        if not self.own_sessions or not connection.engine.may_begin():
            return shared
        return connection.session()

    def end(self, link: Receiver | Sender, shared: Session | None) -> None:
        """End a link."""
        if link.session.engine.state != 'open':
            return
        if self.own_sessions and link.session is not shared:
            link.session.end()
        else:
            link.detach()
