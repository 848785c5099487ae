"""Requests that the service lets in: signed with the account's key, with a SAS token, or with a token of
Entra ID.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import b64decode, b64encode
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from greenmq import runtime
from greenmq.exceptions import AccessRefused, KombuError
from greenmq.log import get_logger
from greenmq.transport.azurestoragequeues.account import Account

__all__ = ('Signer', 'signer_of')

logger = get_logger('greenmq.transport.azurestoragequeues')

#: Of the service: the oldest that has all that is used here, since servers keep what they once had.
API_VERSION = '2021-02-12'
#: What tokens of Entra ID are for.
SCOPE = 'https://storage.azure.com/.default'
#: Seconds before the end of a token in which it is renewed in the background; and in which a call waits.
RENEW_EARLY, RENEW_LATE = 300.0, 5.0

Params = Sequence[tuple[str, str]]


class Signer(Protocol):
    """What makes a request one that is let in."""

    def sign(
        self, method: str, path: str, params: Params, size: int, deadline: runtime.Deadline
    ) -> tuple[str, dict[str, str]]:
        """Return the query and the headers of a request.

        Arguments:
            path (str): of the URL. size (int): bytes of its body, which is XML if there is one.
        Switches: where credentials must be fetched first.
        """


def _headers(size: int) -> dict[str, str]:
    headers = {'x-ms-date': formatdate(usegmt=True), 'x-ms-version': API_VERSION}
    if size:
        headers['Content-Type'] = 'application/xml'
    return headers


def _query(params: Params) -> str:
    return '&'.join(f'{name}={quote(value, safe="")}' for name, value in params)


class SharedKey:
    """Signs with the key of an account."""

    def __init__(self, name: str, key: str) -> None:
        self._name = name
        self._key = b64decode(key)

    def sign(
        self, method: str, path: str, params: Params, size: int, deadline: runtime.Deadline
    ) -> tuple[str, dict[str, str]]:
        """See `Signer`."""
        headers = _headers(size)
        length, kind = (str(size), headers['Content-Type']) if size else ('', '')
        lines = [
            method, '', '', length, '', kind, '', '', '', '', '', '',
            f'x-ms-date:{headers["x-ms-date"]}', f'x-ms-version:{headers["x-ms-version"]}',
            f'/{self._name}{path}', *(f'{name}:{value}' for name, value in sorted(params)),
        ]  # fmt: skip
        digest = hmac.new(self._key, '\n'.join(lines).encode(), hashlib.sha256).digest()
        headers['Authorization'] = f'SharedKey {self._name}:{b64encode(digest).decode()}'
        return _query(params), headers


class SharedAccess:
    """Shows a SAS token, which is a part of the query."""

    def __init__(self, token: str) -> None:
        self._token = token

    def sign(
        self, method: str, path: str, params: Params, size: int, deadline: runtime.Deadline
    ) -> tuple[str, dict[str, str]]:
        """See `Signer`."""
        query = _query(params)
        return (f'{query}&{self._token}' if query else self._token), _headers(size)


class Bearer:
    """Shows a token of Entra ID: fetched in a native thread, once for all who ask, renewed before it ends.

    Arguments:
        credential (object | str): what has azure-core's `get_token(*scopes)`, which may block; or the name of
            a class of azure-identity, whose object is made in the thread as well.
    """

    def __init__(self, credential: Any) -> None:
        self._credential = credential
        self._token = ''
        self._until = 0.0  # seconds since 1970
        self._once = runtime.Once()
        self._renewing: Any = None

    def sign(
        self, method: str, path: str, params: Params, size: int, deadline: runtime.Deadline
    ) -> tuple[str, dict[str, str]]:
        """See `Signer`. Switches: if a token must be waited for.

        Raises:
            AccessRefused: there is none. TimeoutError: not in time.
        """
        left = self._until - time.time()
        if left < RENEW_LATE:
            self.renew(deadline)
        elif left < RENEW_EARLY and (self._renewing is None or self._renewing.done):
            self._renewing = runtime.spawn(_renew_early, self, name='greenmq-credentials')
        return _query(params), {**_headers(size), 'Authorization': f'Bearer {self._token}'}

    def renew(self, deadline: runtime.Deadline) -> None:
        """Fetch a token, once for all who ask. Switches: yes."""
        self._once.do('renew', lambda: self._renew(deadline), 'no token of Entra ID', deadline)

    def _renew(self, deadline: runtime.Deadline) -> None:
        self._credential, token, until = runtime.offload(_fetch, self._credential, deadline=deadline)
        self._token, self._until = token, until

    def __repr__(self) -> str:
        return f'<Bearer of {type(self._credential).__name__}>'


def _renew_early(bearer: Bearer) -> None:
    try:
        bearer.renew(runtime.Deadline.after(RENEW_EARLY / 2))
    except Exception as error:  # the one that we have is still good; a call tries again
        logger.warning('the token of Entra ID could not be renewed yet: %s', error)


def _fetch(credential: Any) -> tuple[Any, str, float]:
    # In a thread: imports and reads files, and asks the network.
    try:
        if isinstance(credential, str):
            credential = _identity(credential)
        token = credential.get_token(SCOPE)
    except KombuError:
        raise
    except Exception as error:  # a dozen libraries may raise their own here
        raise AccessRefused(f'ACCESS_REFUSED - no token of Entra ID: {error}', None, 'Azure', 403) from error
    return credential, token.token, float(token.expires_on)


def _identity(name: str) -> Any:
    try:
        import azure.identity
    except ImportError as error:
        text = f'{name} needs azure-identity: pip install greenmq[azurestoragequeues]'
        raise ImportError(text, name='azure.identity') from error
    return getattr(azure.identity, name)()


def signer_of(account: Account, credential: Any) -> Signer:
    """Return what signs for an account.

    Arguments:
        credential (object | None): the program's own, with `get_token`.
    """
    if account.kind == 'key':
        return SharedKey(account.name, account.secret)
    if account.kind == 'sas':
        return SharedAccess(account.secret)
    return Bearer(credential if account.kind == 'given' else account.secret)


def path_of(url: str) -> str:
    """Return the path of a URL as it is signed."""
    return urlsplit(url).path or '/'
