"""What the channels of lost connections consume in place of Consumers that the program has let go of.

A channel that outlives a loss starts its consumers again. A program written for kombu does so too: it makes a
new Consumer after each loss, and forgets the old one, which nobody could cancel any more. So that they do not
pile up, one that was started before the loss and that nobody holds gives way when its queue is consumed again
on its channel; when anything is, if its queue lives no longer than its consumer or connection. Until then it
goes on: a program may have dropped its Consumer in the belief that it is restored.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from greenmq.log import get_logger

if TYPE_CHECKING:
    from greenmq.connection import Connection

__all__ = ('StandIns', 'keeper')

logger = get_logger('greenmq.messaging')


class Started(NamedTuple):
    """One tag that a Consumer has started."""

    consumer: weakref.ref[Any]
    queue: str
    temporary: bool
    epoch: int


class StandIns:
    """The tags that Consumers have started on channels which outlive a loss."""

    def __init__(self) -> None:
        self._of: weakref.WeakKeyDictionary[Any, dict[str, Started]] = weakref.WeakKeyDictionary()

    def started(self, consumer: Any, queue: Any, tag: str, connection: Connection) -> None:
        """Note a tag, and let those go whose place it takes.

        Arguments:
            queue (Queue): what it takes from, bound to its channel.
            connection (Connection): the channel's, that restores its consumers.
        Switches: if any goes.
        """
        channel = queue.channel
        tags = self._of.setdefault(channel, {})
        temporary = bool(queue.exclusive or queue.auto_delete)
        tags[tag] = Started(weakref.ref(consumer), queue.name, temporary, connection.epoch)
        for old, each in list(tags.items()):
            if each.epoch == connection.epoch or each.consumer() is not None:
                continue
            if each.temporary or each.queue == queue.name:
                logger.info('%r: consumer %s of %r gives way to %s', channel, old, each.queue, tag)
                try:
                    self.cancel(channel, old)
                except (*connection.connection_errors, *connection.channel_errors) as error:
                    logger.debug('cancelling %s: %r', old, error)  # it ended with its connection

    def cancel(self, channel: Any, tag: str) -> None:
        """End a consumer, noted or not. Switches: yes."""
        tags = self._of.get(channel)
        if tags is not None:
            tags.pop(tag, None)
        channel.basic_cancel(tag)


def keeper(channel: Any) -> Connection | None:
    """The Connection of a channel that starts its consumers again after a loss; None if it doesn't."""
    client = getattr(getattr(channel, 'connection', None), 'client', None)
    if getattr(getattr(client, 'transport', None), 'keeps_channels', False) is True:
        return client
    return None
