"""Queues and exchanges that the program names in the options, so that none is looked for or made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenmq.transport.SQS.exceptions import (
    InvalidQueueException,
    UndefinedExchangeException,
    UndefinedQueueException,
)
from greenmq.transport.SQS.names import is_fifo

__all__ = ('checked', 'exchange', 'pause_of', 'queue')


def checked(queues: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return predefined queues.

    Raises:
        InvalidQueueException: FIFO by name and not by URL, or the other way round.
    """
    for name, facts in queues.items():
        url = facts.get('url')
        if not url:
            raise InvalidQueueException(f'predefined queue {name!r} has no "url"')
        if is_fifo(url) != is_fifo(name):
            raise InvalidQueueException(
                f'predefined queue {name!r} has the URL {url!r}: both must end with .fifo, or none'
            )
    return queues


def queue(queues: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Return what is said of a queue; None if queues are not predefined.

    Raises:
        UndefinedQueueException: they are, and there is none of this name.
    """
    if not queues:
        return None
    found = queues.get(name)
    if found is None:
        raise UndefinedQueueException(f'queue {name!r} is not among the predefined_queues {sorted(queues)}')
    return found  # type: ignore[no-any-return]


def exchange(exchanges: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Return what is said of an exchange; None if exchanges are not predefined.

    Raises:
        UndefinedExchangeException: they are, and there is none of this name.
    """
    if not exchanges:
        return None
    found = exchanges.get(name)
    if found is None:
        known = sorted(exchanges)
        raise UndefinedExchangeException(f'exchange {name!r} is not among the predefined_exchanges {known}')
    return found  # type: ignore[no-any-return]


def pause_of(facts: Mapping[str, Any] | None, task: Any, receives: int) -> int | None:
    """Return the seconds after which a rejected task comes again, by its queue's `backoff_policy`; None if
    there is none for it.

    Arguments:
        task (object): the header `task`. receives (int): how often it was received.
    """
    if not facts:
        return None
    policy, tasks = facts.get('backoff_policy'), facts.get('backoff_tasks')
    if not policy or not tasks or task not in tasks:
        return None
    found = policy.get(receives)
    return None if found is None else int(found)
