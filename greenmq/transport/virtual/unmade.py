"""What a queue gave and no Message can be made of: it is settled and told once, and stops nobody (P40).

Raising would end the fetch or the drain, and giving it back would bring it again.
"""

from __future__ import annotations

from typing import Any

from greenmq import events
from greenmq.log import get_logger
from greenmq.utils.text import printable

__all__ = ('tell_unmade',)

logger = get_logger('greenmq.transport.virtual')


def tell_unmade(channel: Any, queue: str, error: Exception, fate: str) -> None:
    """Tell of it, once it is settled, by an ERROR and the event 'decode_error', whose `message` is None.

    Arguments:
        error (Exception): why it is no message.
        fate (str): a sentence about what became of it.
    """
    why = printable(f'{type(error).__name__}: {error}', 300)
    logger.error('queue %r gave what is no message (%s). %s', queue, why, fate)
    events.emit('decode_error', source=channel, message=None, queue=queue, error=error)
