"""How deliveries are settled, and kept ours meanwhile.

Over the link that they came by, many in a frame; or, when that has ended and their locks have not, by their
tokens.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from greenmq import runtime
from greenmq.transport.amqp10.codec import Symbol
from greenmq.transport.amqp10.links import Receiver
from greenmq.transport.amqp10.performatives import Accepted, Error, Modified, Rejected, Released
from greenmq.transport.azureservicebus.locks import Locks
from greenmq.transport.azureservicebus.names import is_dead_letters
from greenmq.transport.azureservicebus.sessions import SessionLink
from greenmq.transport.driver import DEAD, REQUEUE, UNSEEN, Taken

__all__ = ('Receipt', 'extend', 'settle')

#: What the dead letters of the service say of a message that a consumer rejected.
REASON, WORDS = 'rejected', 'a consumer rejected it'

_ACCEPTED, _RELEASED = Accepted(), Released()
_FAILED = Modified(delivery_failed=True, undeliverable_here=False)
_REJECTED = Rejected(
    Error(
        'com.microsoft:dead-letter', WORDS,
        {Symbol('DeadLetterReason'): REASON, Symbol('DeadLetterErrorDescription'): WORDS},
    )
)  # fmt: skip
_OUTCOMES: dict[str | None, Any] = {None: _ACCEPTED, REQUEUE: _FAILED, UNSEEN: _RELEASED, DEAD: _REJECTED}
#: Fate → what the node for requests calls it. Nothing there gives back without counting.
_STATUSES: dict[str | None, str] = {
    None: 'completed', REQUEUE: 'abandoned', UNSEEN: 'abandoned', DEAD: 'suspended',
}  # fmt: skip


class Receipt:
    """The service's names of one delivery.

    Attributes:
        link (Receiver), number (int): over which it came, and its number in the link's session.
        entity (str): its queue there. tag (bytes): of the delivery. token (UUID): of its lock.
        session (SessionLink | None): whose message it is, in a queue of sessions.
        done (bool): it was settled.
    """

    __slots__ = ('done', 'entity', 'link', 'number', 'session', 'tag')

    def __init__(
        self, link: Receiver, number: int, entity: str, tag: bytes, session: SessionLink | None = None
    ) -> None:
        self.link = link
        self.number = number
        self.entity = entity
        self.tag = tag
        self.session = session
        self.done = False

    @property
    def token(self) -> UUID:
        """The service's name for the lock."""
        return UUID(bytes_le=self.tag) if len(self.tag) == 16 else UUID(int=self.number)

    @property
    def reachable(self) -> bool:
        """May it be settled over its link?"""
        return self.link.session.unsettled_in.get(self.number) is self.link

    def settled(self) -> None:
        """It is: the next one of its session may come."""
        self.done = True
        if self.session is not None:
            self.session.settled()

    def __repr__(self) -> str:
        return f'<{self.token}>'


def settle(
    done: list[Taken], back: list[tuple[Taken, str]], locks: Locks, deadline: runtime.Deadline
) -> tuple[list[tuple[Taken, Exception | None]], list[Receipt]]:
    """Settle deliveries.

    Returns:
        tuple[list[tuple[Taken, Exception | None]], list[Receipt]]: those that are not ours any more, and
            those that could not be settled with why; what went back over its link: `settled` is to be called
            when the service has it.
    Switches: if there are some whose link has ended.
    """
    groups: dict[tuple[Any, type], tuple[Any, list[int]]] = {}
    late: dict[tuple[str, str], list[Taken]] = {}
    gone: list[tuple[Taken, Exception | None]] = []
    settled: list[Receipt] = []
    went_back: list[Receipt] = []
    works: list[tuple[Taken, str | None]] = [*((taken, None) for taken in done), *back]
    for taken, given in works:
        receipt: Receipt = taken.receipt
        if receipt.done:
            continue
        fate = None if given == DEAD and is_dead_letters(receipt.entity) else given
        if receipt.reachable:
            state = _OUTCOMES.get(fate, _RELEASED)
            # By the type: outcomes without fields are all equal.
            groups.setdefault((receipt.link.session, type(state)), (state, []))[1].append(receipt.number)
            receipt.done = True
            (settled if fate is None else went_back).append(receipt)
        elif receipt.session is not None:
            gone.append((taken, None))  # the session is another one's by now
            receipt.settled()
        else:
            late.setdefault((receipt.entity, _STATUSES.get(fate, 'abandoned')), []).append(taken)
    for (session, _), (state, numbers) in groups.items():
        session.settle(numbers, state)
    for receipt in settled:
        receipt.settled()
    for (entity, status), takens in late.items():
        gone += _settle_late(entity, status, takens, locks, deadline)
    return gone, went_back


def _settle_late(
    entity: str, status: str, takens: list[Taken], locks: Locks, deadline: runtime.Deadline
) -> list[tuple[Taken, Exception | None]]:
    facts = {'deadletter-reason': REASON, 'deadletter-description': WORDS} if status == 'suspended' else {}
    try:
        lost = set(locks.settle(entity, [taken.receipt.token for taken in takens], status, facts, deadline))
    except Exception as error:  # told for each of them, and tried again
        return [(taken, error) for taken in takens]
    for taken in takens:
        taken.receipt.settled()
    return [(taken, None) for taken in takens if taken.receipt.token in lost]


def extend(takens: list[Taken], locks: Locks, deadline: runtime.Deadline) -> list[Taken]:
    """Renew the locks of deliveries, of sessions that of the session; return those that were lost.

    Raises:
        OperationalError: the service would not. ConnectionLost, TimeoutError.
    Switches: yes.
    """
    gone: list[Taken] = []
    entities: dict[str, dict[UUID, Taken]] = {}
    sessions: dict[SessionLink, list[Taken]] = {}
    for taken in takens:
        receipt: Receipt = taken.receipt
        if receipt.session is not None:
            sessions.setdefault(receipt.session, []).append(taken)
        elif not receipt.done:
            entities.setdefault(receipt.entity, {})[receipt.token] = taken
    for entity, by_token in entities.items():
        lost = locks.renew(entity, list(by_token), deadline)
        gone += [by_token[token] for token in lost if not by_token[token].receipt.done]
    for session, held in sessions.items():
        entity = held[0].receipt.entity
        if not session.alive or not locks.renew_session(entity, session.session or '', deadline):
            gone += held
    return gone
