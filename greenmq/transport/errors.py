"""What the errors of a broker's client mean: tables {theirs: ours}, read at one seam of a base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from greenmq.exceptions import RecoverableConnectionError

__all__ = ('Fault', 'again', 'forget_traces', 'is_loss', 'meaning')


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


def forget_traces(error: BaseException | None) -> None:
    """Drop the tracebacks of an error that is kept by what it ended, and of its causes.

    They refer to frames, these to the connection and its stream, and those keep the error: only the collector
    would ever free them.
    """
    for _ in range(10):  # no chain is longer; one that leads back to itself must not hold us
        if error is None:
            return
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def again(error: BaseException) -> BaseException:
    """Return a copy of an error that is kept, to be raised: the one that is kept must not learn of the frames
    that it is raised through, or they would keep each other until the collector comes.
    """
    found = error.__class__.__new__(error.__class__, *error.args)
    found.__dict__.update(error.__dict__)
    found.__cause__ = error.__cause__
    return found
