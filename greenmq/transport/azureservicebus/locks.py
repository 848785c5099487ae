"""What a queue's own node for requests does: renew locks, and settle what came over a link that has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from greenmq import runtime
from greenmq.exceptions import AccessRefused, OperationalError
from greenmq.transport.amqp10 import Connection
from greenmq.transport.amqp10 import message as sections
from greenmq.transport.amqp10.codec import Array, Sized
from greenmq.transport.amqp10.links import Receiver, Sender
from greenmq.transport.amqp10.requests import Requests
from greenmq.transport.azureservicebus.tokens import Admission, answer_of, request_links
from greenmq.utils.text import printable

__all__ = ('Locks',)

#: Lock tokens that one request may carry.
TOKENS = 100
#: Seconds that the service may take for a request.
LONGEST = 60.0
#: The lock is lost; the message or the session is not there.
_GONE = (404, 410)


class Locks:
    """The locks of one connection's deliveries.

    Arguments:
        connection (Connection), admission (Admission): over which, and who is let in.
    """

    def __init__(self, connection: Connection, admission: Admission) -> None:
        self._connection = connection
        self._admission = admission
        self._nodes: dict[str, Requests] = {}
        self.calls = 0

    def renew(self, entity: str, tokens: Sequence[UUID], deadline: runtime.Deadline) -> list[UUID]:
        """Renew locks, many in one request.

        Returns:
            list[UUID]: those that were lost.
        Raises:
            OperationalError: the service would not. ConnectionLost, TimeoutError.
        Switches: yes.
        """
        lost: list[UUID] = []
        for at in range(0, len(tokens), TOKENS):
            lost += self._each('renew-lock', entity, list(tokens[at : at + TOKENS]), {}, deadline)
        return lost

    def settle(
        self, entity: str, tokens: Sequence[UUID], status: str, facts: dict[str, Any],
        deadline: runtime.Deadline,
    ) -> list[UUID]:  # fmt: skip
        """Settle deliveries whose link has ended, while their locks last. Returns, raises as `renew`.

        Arguments:
            status (str): 'completed', 'abandoned', 'suspended' (to the dead letters).
        """
        lost: list[UUID] = []
        for at in range(0, len(tokens), TOKENS):
            body = {'disposition-status': status, **facts}
            part = list(tokens[at : at + TOKENS])
            lost += self._each('update-disposition', entity, part, body, deadline)
        return lost

    def renew_session(self, entity: str, session: str, deadline: runtime.Deadline) -> bool:
        """Renew the lock of a session; False if it is lost. Raises as `renew`. Switches: yes."""
        return self._ask('renew-session-lock', entity, {'session-id': session}, deadline)

    def _each(
        self, operation: str, entity: str, tokens: list[UUID], body: dict[str, Any],
        deadline: runtime.Deadline,
    ) -> list[UUID]:  # fmt: skip
        # One lost lock has the whole request refused: by halves it is found out which.
        if self._ask(operation, entity, {**body, 'lock-tokens': Array('uuid', list(tokens))}, deadline):
            return []
        if len(tokens) == 1:
            return tokens
        half = len(tokens) // 2
        return [
            *self._each(operation, entity, tokens[:half], body, deadline),
            *self._each(operation, entity, tokens[half:], body, deadline),
        ]

    def _ask(self, operation: str, entity: str, body: dict[str, Any], deadline: runtime.Deadline) -> bool:
        self._admission.ensure(entity, deadline)
        left = deadline.remaining()
        program = {
            'operation': f'com.microsoft:{operation}',
            'com.microsoft:server-timeout': Sized('uint', int(min(left or LONGEST, LONGEST) * 1000)),
        }

        def payload(number: str, reply_to: str) -> bytes:
            named = {'message_id': number, 'reply_to': self._connection.engine.container}
            return sections.write_value(body, named, program)

        self.calls += 1
        what = f'{operation} of {entity!r}'
        status, text, condition = self._node(entity).call(payload, what, deadline)
        if status in (200, 202, 204):
            return True
        if status in _GONE or condition.endswith(('lock-lost', 'message-not-found')):
            return False
        if status in (401, 403):
            raise AccessRefused(f'ACCESS_REFUSED - {what}: {text}', None, 'Azure', 403)
        raise OperationalError(f'{what}: {status} {condition} {text}')

    def _node(self, entity: str) -> Requests:
        node = self._nodes.get(entity)
        if node is None:

            def links(name: str, listener: Any) -> tuple[Sender, Receiver]:
                return request_links(f'{entity}/$management', name, listener)

            node = self._nodes[entity] = Requests(self._connection, links, _answer)
        return node

    def forget(self, entity: str) -> None:
        """The entity is to be deleted."""
        node = self._nodes.pop(entity, None)
        if node is not None:
            node.close()


def _answer(found: sections.Sections) -> tuple[str, tuple[int, str, str]]:
    number, (status, text) = answer_of(found, 'statusCode', 'statusDescription')
    return number, (status, text, printable(str(found.program.get('errorCondition') or ''), 120))
