"""Random identifiers."""

from __future__ import annotations

from collections.abc import Callable
from os import urandom
from uuid import UUID, uuid4

__all__ = ('uuid',)


def uuid(_uuid: Callable[[], UUID] = uuid4) -> str:
    """Return a new random identifier, 36 characters long.

    Source: kombu.utils.uuid.uuid; RFC 4122 section 4.4 for the form of a random one.
    """
    if _uuid is not uuid4:
        return str(_uuid())
    # Every message carries one or two of these; building the text directly costs half of str(uuid4()).
    digits = urandom(16).hex()
    variant = '89ab'[int(digits[16], 16) & 3]
    return f'{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}'
