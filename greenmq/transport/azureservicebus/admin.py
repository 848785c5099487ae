"""How the service is told to make, count and delete queues and topics: Atom entries over HTTPS.

All of it takes the claim Manage, or a role such as "Azure Service Bus Data Owner".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from greenmq import runtime
from greenmq.exceptions import AccessRefused, ConnectionLost, NotFound
from greenmq.transport import http
from greenmq.transport.azureservicebus.tokens import Tokens

__all__ = ('Admin', 'duration')

API_VERSION = '2021-05'
#: Entries that one page of a list has.
PAGE = 100
#: Letters of a subscription's name.
LONGEST = 50

_ATOM = 'http://www.w3.org/2005/Atom'
_SB = 'http://schemas.microsoft.com/netservices/2010/10/servicebus/connect'
_COUNTS = 'http://schemas.microsoft.com/netservices/2011/06/servicebus'


class Admin:
    """The queues and topics of one namespace.

    Arguments:
        client (http.Client): our HTTP. url (str): where, without a slash at the end.
        host (str): of the namespace, as tokens and forwarding name it.
    """

    def __init__(self, client: http.Client, url: str, host: str, tokens: Tokens) -> None:
        self._http = client
        self._url = url
        self._host = host
        self._tokens = tokens
        self._pace = http.Pace()
        self.calls = 0

    def make_queue(self, entity: str, facts: Mapping[str, str], deadline: runtime.Deadline) -> bool:
        """Make a queue; False if it is there.

        Arguments:
            facts (Mapping[str, str]): elements of its description, in the service's order.
        Raises:
            AccessRefused: Manage is missing. http.ServiceError. Others: as `http.call`.
        Switches: yes.
        """
        return self._make(entity, 'QueueDescription', facts, deadline)

    def _make(self, path: str, kind: str, facts: Mapping[str, str], deadline: runtime.Deadline) -> bool:
        inner = ''.join(f'<{name}>{escape(value)}</{name}>' for name, value in facts.items())
        body = (
            f'<entry xmlns="{_ATOM}"><content type="application/xml"><{kind} xmlns="{_SB}">{inner}</{kind}>'
            '</content></entry>'
        )
        try:
            self._call('PUT', path, deadline, body.encode())
        except http.ServiceError as error:
            if error.status != 409:
                raise
            return False
        return True

    def count(self, entity: str, deadline: runtime.Deadline) -> int | None:
        """Return how many messages are active in a queue; None if there is no such queue. Switches: yes."""
        found = _xml(self._call('GET', entity, deadline).body)
        if found.find(f'.//{{{_SB}}}QueueDescription') is None:
            return None
        return _number(found, 'ActiveMessageCount')

    def delete(self, path: str, deadline: runtime.Deadline) -> None:
        """Delete a queue, topic or subscription; none is fine. Switches: yes."""
        try:
            self._call('DELETE', path, deadline)
        except NotFound:
            return

    def queues(self, deadline: runtime.Deadline) -> Iterator[tuple[str, int, int]]:
        """Give each queue: its name, messages active and scheduled. Switches: yes."""
        skip = 0
        while True:
            query = f'&$skip={skip}&$top={PAGE}'
            page = _xml(self._call('GET', '$Resources/queues', deadline, query=query).body)
            entries = page.findall(f'{{{_ATOM}}}entry')
            for each in entries:
                name = each.findtext(f'{{{_ATOM}}}title') or ''
                yield name, _number(each, 'ActiveMessageCount'), _number(each, 'ScheduledMessageCount')
            if len(entries) < PAGE:
                return
            skip += PAGE

    # ---- topics

    def make_topic(self, topic: str, deadline: runtime.Deadline) -> None:
        """Make a topic; one that is there stays. Switches: yes."""
        self._make(topic, 'TopicDescription', {}, deadline)

    def forward(self, topic: str, entity: str, most: int | None, deadline: runtime.Deadline) -> None:
        """Have a queue get what a topic gets. Switches: yes."""
        facts = {'MaxDeliveryCount': str(most)} if most else {}
        facts['ForwardTo'] = f'sb://{self._host}/{entity}'
        path = f'{topic}/Subscriptions/{subscription(entity)}'
        self._make(path, 'SubscriptionDescription', facts, deadline)

    def forward_no_more(self, topic: str, entity: str, deadline: runtime.Deadline) -> None:
        """Undo `forward`; none like it is fine. Switches: yes."""
        self.delete(f'{topic}/Subscriptions/{subscription(entity)}', deadline)

    # ---- one call

    def _call(
        self, method: str, path: str, deadline: runtime.Deadline, body: bytes = b'', query: str = ''
    ) -> http.Response:
        place = quote(path, safe='/$')
        resource = f'https://{self._host}/{place}'

        def once(deadline: runtime.Deadline) -> http.Response:
            headers = {'Authorization': self._tokens.header(resource, deadline)}
            if body:
                headers['Content-Type'] = 'application/atom+xml;type=entry;charset=utf-8'
            target = f'{self._url}/{place}?api-version={API_VERSION}{query}'
            answer = self._http.request(method, target, headers, body, deadline)
            self.calls += 1
            if answer.status // 100 == 2:
                return answer
            raise _refusal(answer, f'{method} {path}')

        result: http.Response = http.call(once, deadline, self._pace)
        return result


def subscription(entity: str) -> str:
    """What the subscription of a queue is called: its name, cut and hashed where it is too long."""
    if len(entity) <= LONGEST:
        return entity
    return f'{entity[: LONGEST - 9]}-{hashlib.sha256(entity.encode()).hexdigest()[:8]}'


def duration(seconds: float) -> str:
    """Some seconds as the service reads them."""
    return f'PT{seconds:g}S' if seconds < 1e6 else f'P{seconds / 86400:.0f}D'


def _refusal(answer: http.Response, what: str) -> Exception:
    status = answer.status
    detail = _detail(answer.body)
    text = f'{what}: {status} {detail or answer.reason}'
    if status in (401, 403):
        why = 'it takes the claim Manage, or the role "Azure Service Bus Data Owner"'
        return AccessRefused(f'ACCESS_REFUSED - {text}: {why}', None, 'Azure', 403)
    if status == 404:
        return NotFound(f'NOT_FOUND - {text}', None, 'Azure', 404)
    return http.refusal(answer, text)


def _detail(body: bytes) -> str:
    try:
        return (ElementTree.fromstring(body).findtext('Detail') or '')[:300]
    except ElementTree.ParseError:
        return ''


def _xml(body: bytes) -> Any:
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise ConnectionLost(f'the answer is no XML: {error}') from error


def _number(found: Any, name: str) -> int:
    return int(found.findtext(f'.//{{{_COUNTS}}}{name}') or 0)
