"""The calls of the service: JSON over HTTPS, let in by a token that a user and a key are exchanged for."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from greenmq import runtime
from greenmq.exceptions import AccessRefused, KombuError, NotFound
from greenmq.transport import http
from greenmq.transport.driver import Place
from greenmq.utils.json import dumps, loads

__all__ = ('Service',)


class Denied(AccessRefused, KombuError):
    """The user or the key is wrong, or may not do this."""


class QueueNotFound(NotFound, KombuError):
    """There is no such queue, or message."""


class Service:
    """The queues of one account.

    Arguments:
        client (http.Client): our HTTP. place (Place): where, and as whom. secure (bool): https or http.
    Attributes:
        calls (int): requests that were answered.
    """

    def __init__(self, client: http.Client, place: Place, secure: bool) -> None:
        host = f'[{place.host}]' if ':' in place.host else place.host
        port = f':{place.port}' if place.port else ''
        account = quote(place.virtual_host, safe='')
        self._url = f'{"https" if secure else "http"}://{host}{port}/v1/{account}'
        self._login = {'X-Auth-User': place.userid or '', 'X-Auth-Key': place.password or ''}
        self._token = ''
        self._once = runtime.Once((AccessRefused,))
        self._http = client
        self._pace = http.Pace()
        self.calls = 0

    def log_in(self, deadline: runtime.Deadline, old: str = '') -> None:
        """Get a token, once for all who ask.

        Arguments:
            old (str): the one that is not good any more.
        Raises:
            Denied: the user or the key is wrong. Others: as `http.call`.
        Switches: if the token is the old one.
        """
        if self._token == old:
            self._once.do('log in', lambda: self._log_in(deadline), 'no token', deadline)

    def _log_in(self, deadline: runtime.Deadline) -> None:
        answer = self._call('POST', '/auth', self._login, b'', deadline)
        self._token = answer.headers.get('x-auth-token', '')
        if not self._token:
            raise http.NoAnswer('the answer to a log-in has no token', begun=True)

    def call(self, method: str, path: str, deadline: runtime.Deadline, body: Any = None) -> Any:
        """Make a call; return what it was answered, from JSON.

        Raises:
            QueueNotFound, Denied, http.ServiceError. Others: as `http.call`.
        Switches: yes.
        """
        data = b'' if body is None else dumps(body).encode()
        for again in (True, False):
            self.log_in(deadline)
            token = self._token
            headers = {'X-Auth-Token': token, 'Content-Type': 'application/json'}
            try:
                answer = self._call(method, path, headers, data, deadline)
                break
            except Denied:
                if not again:
                    raise
                self.log_in(deadline, token)  # a token ends at some time
        try:
            return loads(answer.body) if answer.body.strip() else {}
        except ValueError as error:
            raise http.NoAnswer(f'the answer is no JSON: {error}', begun=True) from error

    def _call(
        self, method: str, path: str, headers: dict[str, str], body: bytes, deadline: runtime.Deadline
    ) -> http.Response:
        def once(deadline: runtime.Deadline) -> http.Response:
            answer = self._http.request(method, self._url + path, headers, body, deadline)
            self.calls += 1
            if answer.status // 100 == 2:
                return answer
            raise _refusal(answer, f'{method} {path}')

        result: http.Response = http.call(once, deadline, self._pace)
        return result


def _refusal(answer: http.Response, what: str) -> Exception:
    text = f'{what}: {answer.status} {answer.reason}'
    if answer.status in (401, 403):
        return Denied(f'ACCESS_REFUSED - {text}', None, 'SLMQ', 403)
    if answer.status == 404:
        return QueueNotFound(f'NOT_FOUND - {text}', (50, 10), 'SLMQ', 404)
    return http.refusal(answer, text)
