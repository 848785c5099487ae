"""Tokens of Microsoft Entra ID, for the services of Azure: fetched in a thread, once for all who ask."""

from __future__ import annotations

import time
from typing import Any

from greenmq import runtime
from greenmq.exceptions import AccessRefused, KombuError
from greenmq.log import get_logger

__all__ = ('IDENTITIES', 'Entra')

logger = get_logger('greenmq.transport.entra')

#: Words that stand in place of a key in URLs: the classes of azure-identity that find an identity.
IDENTITIES = {
    'defaultazurecredential': 'DefaultAzureCredential',
    'managedidentitycredential': 'ManagedIdentityCredential',
}
#: Seconds before the end of a token in which it is renewed in the background; and in which a call waits.
RENEW_EARLY, RENEW_LATE = 300.0, 5.0


class Entra:
    """Tokens for one service, renewed before they end.

    Arguments:
        credential (object | str): what has azure-core's `get_token(*scopes)`, which may block; or the name of
            a class of azure-identity, whose object is made in the thread as well.
        scope (str): what the tokens are for.
        extra (str): of greenmq, which brings azure-identity.
    """

    def __init__(self, credential: Any, scope: str, extra: str) -> None:
        self._credential = credential
        self._scope = scope
        self._extra = extra
        self._token = ''
        self._until = 0.0  # seconds since 1970
        self._once = runtime.Once((AccessRefused,))
        self._renewing: Any = None

    def token(self, deadline: runtime.Deadline) -> tuple[str, float]:
        """Return a token and when it ends, in seconds since 1970. Switches: if one must be waited for.

        Raises:
            AccessRefused: there is none. TimeoutError: not in time.
        """
        left = self._until - time.time()
        if left < RENEW_LATE:
            self.renew(deadline)
        elif left < RENEW_EARLY and (self._renewing is None or self._renewing.done):
            self._renewing = runtime.spawn(_renew_early, self, name='greenmq-credentials')
        return self._token, self._until

    def renew(self, deadline: runtime.Deadline) -> None:
        """Fetch a token, once for all who ask. Switches: yes. Raises as `token`."""
        self._once.do('renew', lambda: self._renew(deadline), 'no token of Entra ID', deadline)

    def _renew(self, deadline: runtime.Deadline) -> None:
        self._credential, token, until = runtime.offload(
            _fetch, self._credential, self._scope, self._extra, deadline=deadline
        )
        self._token, self._until = token, until

    def __repr__(self) -> str:
        return f'<Entra of {type(self._credential).__name__}>'


def _renew_early(entra: Entra) -> None:
    try:
        entra.renew(runtime.Deadline.after(RENEW_EARLY / 2))
    except Exception as error:  # the one that we have is still good; a call tries again
        logger.warning('the token of Entra ID could not be renewed yet: %s', error)


def _fetch(credential: Any, scope: str, extra: str) -> tuple[Any, str, float]:
    # In a thread: imports and reads files, and asks the network.
    try:
        if isinstance(credential, str):
            credential = _identity(credential, extra)
        token = credential.get_token(scope)
    except KombuError:
        raise
    except Exception as error:  # a dozen libraries may raise their own here
        raise AccessRefused(f'ACCESS_REFUSED - no token of Entra ID: {error}', None, 'Azure', 403) from error
    return credential, token.token, float(token.expires_on)


def _identity(name: str, extra: str) -> Any:
    try:
        import azure.identity
    except ImportError as error:
        text = f'{name} needs azure-identity: pip install greenmq[{extra}]'
        raise ImportError(text, name='azure.identity') from error
    return getattr(azure.identity, name)()
