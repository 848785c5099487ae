"""The calls of the service's REST interface: one message a call, but for getting them.

Each is made again within its deadline where the service is too busy, fails, or gives no answer. A put whose
answer is lost may so arrive twice: the service knows no way to tell.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from greenmq import runtime
from greenmq.exceptions import (
    ConnectionLost,
    InvalidArgument,
    PreconditionFailed,
    TimeoutError,
)
from greenmq.transport import http
from greenmq.transport.azurestoragequeues.account import Account
from greenmq.transport.azurestoragequeues.exceptions import (
    AccessDenied,
    Gone,
    QueueNotFound,
)
from greenmq.transport.azurestoragequeues.signing import Signer

__all__ = ('Got', 'Service')

#: Messages that one call may bring.
MOST = 32
#: Seconds by which clocks may differ before the service refuses a signature.
SKEW = 15 * 60

_DENIED = {
    'AuthenticationFailed': 'the key, or the token or its time, is wrong',
    'AuthorizationFailure': 'a rule of the network or of the account forbids it',
    'AuthorizationPermissionMismatch': 'the SAS token or the identity lacks the right',
    'AuthorizationProtocolMismatch': 'the SAS token is for https only',
    'AuthorizationResourceTypeMismatch': 'the SAS token is for other kinds of resources',
    'AuthorizationServiceMismatch': 'the SAS token is for another service',
    'AuthorizationSourceIPMismatch': 'the SAS token is for other addresses',
    'InsufficientAccountPermissions': 'the account may not do this',
    'InvalidAuthenticationInfo': 'what was shown to be let in is malformed',
    'NoAuthenticationInformation': 'nothing was shown to be let in',
}
#: Of these a connection learns at once: no call would succeed.
STRANGERS = frozenset((
    'AuthenticationFailed', 'AuthorizationFailure', 'AuthorizationProtocolMismatch',
    'AuthorizationServiceMismatch', 'AuthorizationSourceIPMismatch', 'InvalidAuthenticationInfo',
    'NoAuthenticationInformation',
))  # fmt: skip
_GONE = frozenset(('MessageNotFound', 'PopReceiptMismatch', 'InvalidQueryParameterValue'))


class Got(NamedTuple):
    """A message as the service gave it.

    Attributes:
        got (int): how often it was got, this time included.
    """

    id: str
    receipt: str
    got: int
    text: str


class Service:
    """The queues of one account.

    Arguments:
        client (http.Client): our HTTP.
        account (Account): where, and for whom `signer` signs.
    Attributes:
        calls (int), throttles (int): requests that were answered, and refused as too many.
    """

    def __init__(self, client: http.Client, account: Account, signer: Signer) -> None:
        self.account = account
        self.signer = signer
        self.calls = 0
        self.throttles = 0
        self._http = client
        self._pace = http.Pace()
        self._root = urlsplit(account.url).path

    # ---- messages

    def put(self, queue: str, text: str, ttl: int, hidden: int, deadline: runtime.Deadline) -> None:
        """Put a message.

        Arguments:
            ttl (int): seconds until it is gone; -1 for never. hidden (int): seconds until it may be got.
        Raises:
            QueueNotFound, InvalidArgument, AccessDenied, http.ServiceError. Others: as `http.call`.
        Switches: yes.
        """
        body = f'<QueueMessage><MessageText>{escape(text)}</MessageText></QueueMessage>'.encode()
        params = [('messagettl', str(ttl))]
        if hidden:
            params.append(('visibilitytimeout', str(hidden)))
        self.call('POST', f'/{queue}/messages', params, deadline, body)

    def get(self, queue: str, n: int, hidden: int, deadline: runtime.Deadline) -> list[Got]:
        """Get messages that nobody else has, up to 32. Raises as `put`. Switches: yes."""
        params = [('numofmessages', str(min(n, MOST))), ('visibilitytimeout', str(hidden))]
        # Made again if its answer is lost: what that brought is hidden until its lease ends, either way.
        answer = self.call('GET', f'/{queue}/messages', params, deadline)
        return [_got(each) for each in _xml(answer.body).iter('QueueMessage')]

    def hide(self, queue: str, message: str, receipt: str, seconds: int, deadline: runtime.Deadline) -> str:
        """Hide a message for some seconds from now, 0 to give it back; return its new receipt.

        Raises:
            Gone: it is not ours. Others: as `put`.
        Switches: yes.
        """
        params = [('popreceipt', receipt), ('visibilitytimeout', str(seconds))]
        answer = self.call('PUT', f'/{queue}/messages/{quote(message)}', params, deadline)
        return answer.headers.get('x-ms-popreceipt', receipt)

    def delete(self, queue: str, message: str, receipt: str, deadline: runtime.Deadline) -> None:
        """Delete a message. Raises as `hide`. Switches: yes."""
        self.call('DELETE', f'/{queue}/messages/{quote(message)}', [('popreceipt', receipt)], deadline)

    # ---- queues

    def count(self, queue: str, deadline: runtime.Deadline) -> int:
        """Return how many messages are in a queue, hidden ones included, about. Raises as `put`.

        Switches: yes.
        """
        answer = self.call('GET', f'/{queue}', [('comp', 'metadata')], deadline)
        return int(answer.headers.get('x-ms-approximate-messages-count') or 0)

    def create(self, queue: str, deadline: runtime.Deadline) -> bool:
        """Make a queue; False if it is there. Waits while one of that name is deleted. Switches: yes."""
        while True:
            try:
                return bool(self.call('PUT', f'/{queue}', [], deadline).status == 201)
            except http.ServiceError as error:
                if error.code == 'QueueAlreadyExists':
                    return False  # with other metadata
                left = deadline.remaining()
                if error.code != 'QueueBeingDeleted' or (left is not None and left < 2.0):
                    raise
                runtime.sleep(1.0)  # the service takes half a minute

    def clear(self, queue: str, deadline: runtime.Deadline) -> None:
        """Delete all messages of a queue, whoever has them. Raises as `put`. Switches: yes."""
        self.call('DELETE', f'/{queue}/messages', [], deadline)

    def remove(self, queue: str, deadline: runtime.Deadline) -> None:
        """Delete a queue. Raises as `put`. Switches: yes."""
        self.call('DELETE', f'/{queue}', [], deadline)

    def names(self, prefix: str, deadline: runtime.Deadline) -> Iterator[str]:
        """Return the names of all queues that begin so. Raises as `put`. Switches: yes."""
        marker = ''
        while True:
            params = [('comp', 'list')]
            params += [(name, value) for name, value in (('prefix', prefix), ('marker', marker)) if value]
            found = _xml(self.call('GET', '/', params, deadline).body)
            for each in found.iter('Queue'):
                yield each.findtext('Name') or ''
            marker = found.findtext('NextMarker') or ''
            if not marker:
                return

    # ---- one call

    def call(
        self, method: str, path: str, params: list[tuple[str, str]], deadline: runtime.Deadline,
        body: bytes = b'',
    ) -> http.Response:  # fmt: skip
        """Make a call, again and again within its deadline while that may help. Switches: yes."""

        lost = False  # an answer that may have said that it was done

        def once(deadline: runtime.Deadline) -> http.Response:
            nonlocal lost
            url = self.account.url + path
            query, headers = self.signer.sign(method, self._root + path, params, len(body), deadline)
            target = f'{url}?{query}' if query else url
            try:
                # One that is made again here is told of: it may have been done the first time.
                answer = self._http.request(method, target, headers, body, deadline)
            except (ConnectionLost, TimeoutError) as error:
                lost = lost or getattr(error, 'sent', 'no') != 'no'
                raise
            self.calls += 1
            if answer.status // 100 == 2:
                if 'x-ms-request-id' not in answer.headers:
                    # Of a proxy, or a page to log in at: taken for the service's, it would confirm a message.
                    lost = True
                    raise http.NoAnswer(f'{method} {path}: {answer.status} is not of the service', begun=True)
                return answer
            raise self._refusal(answer, f'{method} {path}', lost)

        result: http.Response = http.call(once, deadline, self._pace)
        return result

    def _refusal(self, answer: http.Response, what: str, lost: bool) -> Exception:
        code = answer.headers.get('x-ms-error-code') or _code_of(answer.body)
        status = answer.status
        text = f'{what}: {status} {code or answer.reason}'
        if status in (429, 503):
            self.throttles += 1
        if status in (401, 403):
            return _denied(code, text, answer.headers)
        if code in _GONE:
            return Gone(text, lost)
        if status == 404:
            return QueueNotFound(f'NOT_FOUND - {text}', (50, 10), 'Azure', 404)
        if status == 413:
            return InvalidArgument('message', what, 'is more than the 64 KiB that the service takes')
        if status == 412:
            return PreconditionFailed(f'PRECONDITION_FAILED - {text}', (50, 10), 'Azure', 412)
        return http.refusal(answer, text, code)


def _denied(code: str, text: str, headers: Mapping[str, str]) -> AccessDenied:
    why = _DENIED.get(code, 'it is not allowed')
    if code == 'AuthenticationFailed':
        try:
            off = time.time() - parsedate_to_datetime(headers.get('date', '')).timestamp()
        except (TypeError, ValueError):
            off = 0.0
        if abs(off) > SKEW / 2:
            why = f'the clock of this machine is {off:+.0f} s off'
    found = AccessDenied(f'ACCESS_REFUSED - {text}: {why}', None, 'Azure', 403)
    found.azure_code = code
    return found


def _xml(body: bytes) -> Any:
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise http.NoAnswer(f'the answer is no XML: {error}', begun=True) from error


def _code_of(body: bytes) -> str:
    try:
        return ElementTree.fromstring(body).findtext('Code') or ''
    except ElementTree.ParseError:
        return ''


def _got(each: Any) -> Got:
    return Got(
        each.findtext('MessageId') or '', each.findtext('PopReceipt') or '',
        int(each.findtext('DequeueCount') or 0), each.findtext('MessageText') or '',
    )  # fmt: skip
