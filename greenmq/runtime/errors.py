"""Errors that outlive the frame that met them: kept by what they ended, and told to many."""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ('again', 'forget_traces')

E = TypeVar('E', bound=BaseException)


def again(error: E) -> E:
    """Copy an error that is kept, to be raised: each who is told of the end raises one of its own.

    The one that is kept must not learn of the frames that it is raised through: they would keep each other
    until the collector comes, and two tasks that are told at once would write into one traceback.

    Arguments:
        error (BaseException): the one that is kept. It is left as it is.
    Returns:
        BaseException: of the same class, with its arguments, attributes, cause and notes; no traceback.
    """
    kind = error.__class__
    # Asked of Python's own class below it: what the constructor and the pickling of a library's class take
    # may be anything, and fields such as errno or filename are not in the dictionary.
    native: Any = next(base for base in kind.__mro__ if base.__module__ == 'builtins')
    arguments, state = (*native.__reduce__(error)[1:], None)[:2]
    found = kind.__new__(kind, *arguments)
    native.__init__(found, *arguments)
    found.__setstate__(state)
    if '__notes__' in found.__dict__:
        found.__notes__ = list(found.__notes__)
    found.__cause__ = error.__cause__
    found.__context__ = error.__context__
    found.__suppress_context__ = error.__suppress_context__
    return found


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
