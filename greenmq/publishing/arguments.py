"""What one publish is made of, once its values are checked."""

from __future__ import annotations

from typing import Any, NamedTuple

from greenmq import runtime
from greenmq.entity import DELIVERY_MODES, Queue, maybe_delivery_mode
from greenmq.exceptions import InvalidArgument

__all__ = ('PublishArguments', 'checked_delivery_mode', 'name_reply_queue')


class PublishArguments(NamedTuple):
    """What `Producer._publish` takes, in its order: a publish, checked and its body encoded."""

    body: Any
    priority: Any
    content_type: str
    content_encoding: str
    headers: dict[str, Any]
    properties: dict[str, Any]
    routing_key: str
    mandatory: bool
    immediate: bool
    exchange: str
    declare: Any
    deadline: runtime.Deadline
    confirm_timeout: float | None


def name_reply_queue(properties: dict[str, Any]) -> None:
    """Put the name in the place of a Queue in `reply_to`. Raises InvalidArgument if it has none."""
    reply_to = properties['reply_to']
    if isinstance(reply_to, Queue):
        if not reply_to.name:  # the broker has not named it yet: nobody could reply
            raise InvalidArgument('reply_to', reply_to, 'is a queue without a name: declare it first')
        properties['reply_to'] = reply_to.name


def checked_delivery_mode(mode: Any) -> int:
    """1 or 2, from a number or a word. Raises InvalidArgument for anything else."""
    if mode.__class__ is int:
        if mode in (1, 2):
            return int(mode)
    elif mode in DELIVERY_MODES:
        return int(maybe_delivery_mode(mode))
    raise InvalidArgument('delivery_mode', mode, "is not one of 1, 2, 'transient', 'persistent'")
