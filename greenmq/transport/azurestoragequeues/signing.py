"""Requests that the service lets in: signed with the account's key, with a SAS token, or with a token of
Entra ID.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any, Protocol
from urllib.parse import quote

from greenmq import runtime
from greenmq.transport.azurestoragequeues.account import Account
from greenmq.transport.entra import Entra

__all__ = ('Signer', 'signer_of')

#: Of the service: the oldest that has all that is used here, since servers keep what they once had.
API_VERSION = '2021-02-12'
#: What tokens of Entra ID are for.
SCOPE = 'https://storage.azure.com/.default'

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
    """Shows a token of Entra ID.

    Arguments:
        credential (object | str): see `Entra`.
    """

    def __init__(self, credential: Any) -> None:
        self._entra = Entra(credential, SCOPE, 'azurestoragequeues')

    def sign(
        self, method: str, path: str, params: Params, size: int, deadline: runtime.Deadline
    ) -> tuple[str, dict[str, str]]:
        """See `Signer`. Switches: if a token must be waited for. Raises as `Entra.token`."""
        token, _ = self._entra.token(deadline)
        return _query(params), {**_headers(size), 'Authorization': f'Bearer {token}'}

    def __repr__(self) -> str:
        return f'<Bearer, {self._entra!r}>'


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
