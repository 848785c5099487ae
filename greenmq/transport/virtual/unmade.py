"""What a queue gave and no Message can be made of: it is settled and told once, and stops nobody (P40).

Raising would end the fetch or the drain, and giving it back would bring it again.
"""

from __future__ import annotations

from typing import Any

from greenmq import events
from greenmq.log import get_logger
from greenmq.utils.text import printable

__all__ = ('settle_unmade', 'tell_unmade')

logger = get_logger('greenmq.transport.virtual')


def settle_unmade(channel: Any, raw: Any, queue: str, error: Exception) -> None:
    """Settle it, and tell of it by an ERROR and the event 'decode_error', whose `message` is None.

    A channel whose broker can keep it has `_keep_unmade(raw, queue)`, which returns a sentence.

    Arguments:
        raw (object): as the channel's `_get` gave it.
        error (Exception): why it is no message.
    """
    keep = getattr(channel, '_keep_unmade', None)
    try:
        fate = _reject(channel, raw) if keep is None else keep(raw, queue)
    except Exception as failure:  # of what the channel does: the next message follows all the same
        fate = f'It could not be settled: {failure!r}.'
    tell_unmade(channel, queue, error, fate)


def tell_unmade(channel: Any, queue: str, error: Exception, fate: str) -> None:
    """The same of one that is settled.

    Arguments:
        fate (str): a sentence about what became of it.
    """
    why = printable(f'{type(error).__name__}: {error}', 300)
    logger.error('queue %r gave what is no message (%s). %s', queue, why, fate)
    events.emit('decode_error', source=channel, message=None, queue=queue, error=error)


def _reject(channel: Any, raw: Any) -> str:
    properties = raw.get('properties') if isinstance(raw, dict) else None
    tag = properties.get('delivery_tag') if isinstance(properties, dict) else None
    if tag is None or not channel.adapter.settles:
        return 'It is dropped.'
    channel.settling.reject(tag, False)
    return 'It is rejected.'
