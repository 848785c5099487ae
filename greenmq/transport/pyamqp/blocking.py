"""What a program is told while the broker takes no publishes: connection.blocked, and the end of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenmq import events, runtime

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ('tell_blocked',)


def tell_blocked(connection: Connection, reason: str | None) -> None:
    """Tell the log, the events and the options of a connection.

    Arguments:
        reason (str | None): the broker's; None: it takes publishes again, or the link that it blocked is
            gone. What a broker means for the next link it says there, and whoever stopped its producers has
            to hear of an end to each beginning.
    Switches: no.
    """
    connection.log.warning(
        '%s: %s', connection.name, f'blocked by the broker: {reason}' if reason else 'no longer blocked'
    )
    options = connection.settings.__dict__
    if reason is None:
        events.emit('unblocked', connection.source)
        _call_back(connection, options.get('on_unblocked'))
    else:
        events.emit('blocked', connection.source, reason=reason)
        _call_back(connection, options.get('on_blocked'), reason)


def _call_back(connection: Connection, callback: Callable[..., Any] | None, *args: Any) -> None:
    # The program's own code has no business in the reader: a task of its own may take its time.
    if callback is not None:
        runtime.spawn(callback, *args, name=f'amqp-callback {connection.name}')
