"""Declaring what a publish needs, within its deadline, and forgetting what proved not to be there."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from greenmq import runtime
from greenmq.common import declare_within
from greenmq.entity import Exchange
from greenmq.exceptions import OperationalError, PublishUnconfirmed, TimeoutError

__all__ = ('declare_in_time', 'forget_declared')


def declare_in_time(deadline: runtime.Deadline, entity: Any, channel: Any) -> None:
    """Declare an entity on a channel.

    Raises:
        PublishUnconfirmed: not in time; the publish was not sent.
    Switches: yes.
    """
    # Channels of other people's transports may not know `within`.
    within = getattr(type(channel), 'within', None)
    try:
        with within(channel, deadline) if within is not None else nullcontext():
            declare_within(deadline, entity, channel)
    except TimeoutError as exc:
        if isinstance(exc, OperationalError) or not deadline.expired():
            raise
        raise PublishUnconfirmed(f'publish: {entity!r} was not declared in time: {exc}', sent='no') from exc


def forget_declared(channel: Any, declare: Any, exchange: str = '') -> bool:
    """Forget that these were declared; tells whether any was remembered."""
    declared = channel.connection.client.declared_entities
    before = len(declared)
    declared.difference_update([hash(entity) for entity in declare or ()])
    if exchange:
        declared.discard(hash(Exchange(exchange)))
    return len(declared) < before
