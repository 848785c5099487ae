"""What the errors of a broker's client mean: tables {theirs: ours}, read at one seam of a base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from greenmq.exceptions import RecoverableConnectionError

__all__ = ('Fault', 'is_loss', 'meaning')


class Fault(NamedTuple):
    """What an error of the client means.

    Attributes:
        error (type): the class of ours to raise; a `ConnectionLost` begins a recovery.
        sent (str): of a put that fails so: 'no' if the broker surely has no message of it, else 'unknown'.
    """

    error: Callable[[str], Exception]
    sent: str = 'unknown'

    def of(self, error: Exception) -> Exception:
        """Return ours, with theirs as its cause."""
        ours = self.error(str(error) or type(error).__name__)
        ours.__cause__ = error
        return ours


def meaning(table: Mapping[Any, Any], error: Exception) -> Fault | None:
    """Return what a table says of an error, None if nothing fits.

    Arguments:
        table (Mapping): class of theirs, or a predicate → class of ours, or a `Fault`. The first that fits.
    """
    for key, found in table.items():
        if isinstance(error, key) if isinstance(key, type) else key(error):
            return found if isinstance(found, Fault) else Fault(found)
    return None


def is_loss(error: BaseException) -> bool:
    """Does it mean that the connection is gone?"""
    return isinstance(error, RecoverableConnectionError)
