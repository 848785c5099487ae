"""User and password of who provides them anew for each dial."""

from __future__ import annotations

from typing import Any

__all__ = ('provided',)


def provided(provider: Any) -> tuple[str | None, str | None]:
    """Ask a `credential_provider` for user and password.

    Arguments:
        provider (object): a callable, or redis-py's kind, which has `get_credentials`; it returns a pair, or
            the password alone.
    Returns:
        tuple[str | None, str | None]: the user, None if it names none; the password.
    """
    found = provider.get_credentials() if hasattr(provider, 'get_credentials') else provider()
    if not isinstance(found, (tuple, list)):
        return None, found
    return (None, found[0]) if len(found) == 1 else (found[0], found[1])
