"""Calls side by side, for services that take one message a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from greenmq import runtime

__all__ = ('side_by_side',)


def side_by_side(fun: Callable[[Any], Any], items: Iterable[Any], width: int, name: str) -> list[Any]:
    """Call `fun` with each item, several at a time, begun in their order.

    Arguments:
        width (int): calls under way at most.
        name (str): of the tasks.
    Returns:
        list[object]: of each what it returned; or the exception that it raised.
    Switches: as `fun`. Killed: no further call is begun, and those under way are killed.
    """
    work = list(items)
    found: list[Any] = [None] * len(work)
    left = iter(enumerate(work))
    if len(work) == 1:
        _run(fun, left, found)
        return found
    tasks: list[runtime.Task] = []
    try:
        for _ in range(min(width, len(work))):
            tasks.append(runtime.spawn(_run, fun, left, found, name=name))
        for task in tasks:
            task.join()
    finally:
        for task in tasks:
            task.kill()
    return found


def _run(fun: Callable[[Any], Any], left: Iterator[tuple[int, Any]], found: list[Any]) -> None:
    for at, item in left:
        try:
            found[at] = fun(item)
        except Exception as error:  # told to who asked for all of them
            found[at] = error
