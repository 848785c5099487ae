"""What lets us in: tokens signed with the key of a policy, given ones, and those of Entra ID; and who has
shown which of them to a connection.

Each connection is shown a token for each queue that it uses, by a request to its node ``$cbs``, and another
one when two thirds of its life are over, whatever else is going on.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import b64encode
from typing import Any
from urllib.parse import parse_qsl, quote_plus

from greenmq import runtime
from greenmq.exceptions import AccessRefused, NotFound, OperationalError
from greenmq.log import get_logger
from greenmq.transport.amqp10 import Connection
from greenmq.transport.amqp10 import message as sections
from greenmq.transport.amqp10.codec import Timestamp
from greenmq.transport.amqp10.links import Receiver, Sender
from greenmq.transport.amqp10.performatives import Source, Target
from greenmq.transport.amqp10.requests import Requests
from greenmq.transport.azureservicebus.account import Account
from greenmq.transport.entra import Entra
from greenmq.utils.text import printable

__all__ = ('Admission', 'Tokens')

logger = get_logger('greenmq.transport.azureservicebus')

#: What tokens of Entra ID are for.
SCOPE = 'https://servicebus.azure.net/.default'
SAS, JWT = 'servicebus.windows.net:sastoken', 'jwt'
#: Seconds for a renewal in the background; after one that failed, the next one follows within so many.
RENEWAL, AGAIN = 30.0, 5.0
_NODE = '$cbs'


class Tokens:
    """The tokens of one namespace.

    Arguments:
        account (Account): whose.
        credential (object | None): the program's own, with azure-core's `get_token`.
        life (float): seconds that a token lasts which we sign.
    """

    def __init__(self, account: Account, credential: Any, life: float) -> None:
        self._account = account
        self._life = life
        self._entra: Entra | None = None
        if account.kind in ('identity', 'given'):
            what = credential if account.kind == 'given' else account.secret
            self._entra = Entra(what, SCOPE, 'azureservicebus')

    def of(self, resource: str, deadline: runtime.Deadline) -> tuple[str, str, float]:
        """Return a token for a resource: kind, text, and when it ends in seconds since 1970.

        Raises:
            AccessRefused: there is none. TimeoutError: not in time.
        Switches: if a token of Entra ID must be waited for.
        """
        if self._entra is not None:
            token, until = self._entra.token(deadline)
            return JWT, token, until
        if self._account.kind == 'sas':
            return SAS, self._account.secret, _end_of(self._account.secret)
        until = int(time.time() + self._life)
        return SAS, signed(resource, self._account.policy, self._account.secret, until), float(until)

    def header(self, resource: str, deadline: runtime.Deadline) -> str:
        """The same for HTTP: the value of `Authorization`."""
        kind, token, _ = self.of(resource, deadline)
        return f'Bearer {token}' if kind == JWT else token


def signed(resource: str, policy: str, key: str, until: int) -> str:
    """Return a SAS token: the right to a resource until some second since 1970, by a policy's key."""
    quoted = quote_plus(resource)
    digest = hmac.new(key.encode(), f'{quoted}\n{until}'.encode(), hashlib.sha256).digest()
    signature = quote_plus(b64encode(digest).decode())
    return f'SharedAccessSignature sr={quoted}&sig={signature}&se={until}&skn={quote_plus(policy)}'


def _end_of(token: str) -> float:
    facts = dict(parse_qsl(token.partition(' ')[2]))
    try:
        return float(facts.get('se', ''))
    except ValueError:
        return time.time() + 3600.0  # it does not tell; who refuses it does


class Admission:
    """What one connection was shown.

    Arguments:
        connection (Connection): whose. tokens (Tokens): which. host (str): of the namespace.
    """

    def __init__(self, connection: Connection, tokens: Tokens, host: str) -> None:
        self._requests = Requests(connection, _links, _answer)
        self._connection = connection
        self._tokens = tokens
        self._host = host
        self._until: dict[str, float] = {}  # entity → when its token ends
        self._due: dict[str, float] = {}  # entity → when to show another one, by the same clock
        self._once = runtime.Once((AccessRefused, NotFound))
        self._timer: Any = None
        self.shown = 0

    def holds(self, entity: str) -> bool:
        """Has the connection a token for it that has not ended?"""
        return self._until.get(entity, 0.0) > time.time()

    def ensure(self, entity: str, deadline: runtime.Deadline) -> None:
        """Show a token for an entity, unless one is good.

        Raises:
            AccessRefused: refused, or there is none. NotFound: there is no such entity.
            OperationalError: the service would not. ConnectionLost, TimeoutError.
        Switches: yes, unless one is good.
        """
        if not self.holds(entity):
            self.show(entity, deadline)

    def show(self, entity: str, deadline: runtime.Deadline) -> None:
        """Show another token for an entity, once for all who ask. Raises, Switches: as `ensure`."""
        self._once.do(entity, lambda: self._show(entity, deadline), f'no token for {entity!r}', deadline)

    def _show(self, entity: str, deadline: runtime.Deadline) -> None:
        audience = f'sb://{self._host}/{entity}'
        kind, token, until = self._tokens.of(audience, deadline)
        program = {
            'operation': 'put-token', 'type': kind, 'name': audience,
            'expiration': Timestamp(int(until * 1000)),
        }  # fmt: skip

        def payload(number: str, reply_to: str) -> bytes:
            named = {'message_id': number, 'reply_to': self._connection.engine.container}
            return sections.write_value(token, named, program)

        code, text = self._requests.call(payload, f'a token for {entity!r}', deadline)
        self.shown += 1
        if code not in (200, 202):
            raise _refusal(code, text, entity)
        now = time.time()
        self._until[entity] = until
        self._due[entity] = now + max(until - now, 0.0) * 2 / 3
        self._plan()

    def forget(self, entity: str) -> None:
        """Nobody uses it any more."""
        self._until.pop(entity, None)
        self._due.pop(entity, None)

    # ---- renewal

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due and self._connection.error is None:
            wait = max(min(self._due.values()) - time.time(), 0.05)
            self._timer = runtime.call_later(wait, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._connection.error is None:
            runtime.spawn(_renew, self, name='greenmq-tokens', owner=self)

    def renew_due(self) -> None:
        """Show new tokens where two thirds of the old ones' lives are over. Switches: yes."""
        now = time.time()
        for entity in [entity for entity, due in self._due.items() if due <= now]:
            left = self._until.get(entity, 0.0) - now
            try:
                self.show(entity, runtime.Deadline.after(RENEWAL))
            except Exception as error:  # tried again; the links' ends tell whoever uses them
                if self._connection.error is not None:
                    return
                logger.warning('%s: the token for %r was not renewed: %s', self._host, entity, error)
                if entity in self._due:
                    self._due[entity] = time.time() + min(AGAIN, max(left / 4, 0.1))
        self._plan()

    def close(self) -> None:
        """Renew no more."""
        self._due.clear()
        self._plan()


def _renew(admission: Admission) -> None:
    admission.renew_due()


def _refusal(code: int, text: str, entity: str) -> Exception:
    if code in (401, 403):
        return AccessRefused(f'ACCESS_REFUSED - {entity}: {code} {text}', None, 'Azure', 403)
    if code == 404:
        return NotFound(f'NOT_FOUND - {entity}: {text}', None, 'Azure', 404)
    return OperationalError(f'a token for {entity!r} was not taken: {code} {text}')


def _links(name: str, listener: Any) -> tuple[Sender, Receiver]:
    return request_links(_NODE, name, listener)


def request_links(node: str, name: str, listener: Any) -> tuple[Sender, Receiver]:
    """The pair of links of a node that answers requests; answers come to where the receiver says."""
    container = name.rpartition('-')[0]
    return (
        Sender(f'{name}-out', listener, Source(container), Target(node)),
        Receiver(f'{name}-in', listener, Source(node), Target(container)),
    )


def _answer(found: sections.Sections) -> tuple[str, Any]:
    return answer_of(found, 'status-code', 'status-description')


def answer_of(found: sections.Sections, code: str, text: str) -> tuple[str, tuple[int, str]]:
    """The number of a request, and what was said of it: status and words."""
    number, words = found.program.get(code), found.program.get(text)
    status = number if isinstance(number, int) else 500
    return str(found.properties.get('correlation_id')), (status, printable(str(words or ''), 300))
