"""Texts about what a hub waits for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from greenmq.utils.eventio import ERR, READ, WRITE
from greenmq.utils.functional import reprcall

_MISSING = object()


def repr_flag(flag: int) -> str:
    """Return the letters of readiness flags: R, W and !."""
    return ('R' if flag & READ else '') + ('W' if flag & WRITE else '') + ('!' if flag & ERR else '')


def callback_for(h: Any, fd: int, flag: int, *default: Any) -> Any:
    """Return what a hub calls for a descriptor.

    Arguments:
        flag (int): READ, WRITE or ERR.
        default (object): returned if it calls nothing.
    Raises:
        KeyError: it calls nothing and there is no default.
    Source: kombu.asynchronous.debug.callback_for.
    """
    found = _MISSING
    if flag & READ:
        found = h.readers.get(fd, _MISSING)
    elif flag & WRITE:
        found = h.writers.get(fd, _MISSING)
    if found is _MISSING or found is None:
        if default:
            return default[0]
        raise KeyError(fd)
    return found[0]  # type: ignore[index]


def _lines(h: Any, watched: dict[int, Any], flag: int) -> list[str]:
    return [f'({fd}){repr_flag(flag)}->{_call(h, fd, flag)}' for fd in watched]


def _call(h: Any, fd: int, flag: int) -> str:
    callback = callback_for(h, fd, flag, None)
    if callback is None:
        return 'consolidated'
    watched = h.readers if flag & READ else h.writers
    return reprcall(getattr(callback, '__name__', repr(callback)), watched[fd][1])


def repr_readers(h: Any) -> list[str]:
    """Return a text for each descriptor that is waited for to be readable."""
    return _lines(h, h.readers, READ | ERR)


def repr_writers(h: Any) -> list[str]:
    """Return a text for each descriptor that is waited for to be writable."""
    return _lines(h, h.writers, WRITE)


def repr_active(h: Any) -> str:
    """Return all that a hub waits for, as one text."""
    return ', '.join(repr_readers(h) + repr_writers(h))


def repr_events(h: Any, events: Iterable[tuple[int, int]]) -> str:
    """Return events, pairs of descriptor and flags, as one text."""
    return ', '.join(f'({fd}){repr_flag(flag)}->{callback_for(h, fd, flag, "(GONE)")}' for fd, flag in events)
