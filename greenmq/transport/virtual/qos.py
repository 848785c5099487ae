"""What a virtual channel has delivered and nobody has settled yet, and how much more it may take."""

from __future__ import annotations

import sys
from typing import IO, Any, Protocol

from greenmq.utils.div import emergency_dump_state

__all__ = ('RESTORE_PANIC_FMT', 'RESTORING_FMT', 'QoS')

RESTORING_FMT = 'Giving back {0!r} unacknowledged message(s)'
RESTORE_PANIC_FMT = 'CANNOT GIVE BACK {0} MESSAGES: {1}'


class Finalizer:
    """Stands where kombu has one, for those who cancel it."""

    def cancel(self) -> None:
        """Nothing is to be done: who closes the channel, or ends the process, gives back."""


class Restoring(Protocol):
    """What a QoS asks of its channel, by kombu's names."""

    do_restore: bool
    restores_in_front: bool

    def _restore_at_beginning(self, message: Any) -> None:
        """Give a message back."""


class QoS:
    """The unsettled deliveries of one channel, oldest first, and its prefetch.

    Transports that keep the unacknowledged at the broker override `append`, `ack` and `reject`, and call
    these.

    Arguments:
        channel (Restoring): whose `_restore_at_beginning` gives a message back.
        prefetch_count (int): unsettled messages allowed; 0 for any number.
    No method switches, unless the channel's restoring does.
    Source: kombu virtual.QoS.
    """

    #: Unsettled messages allowed; 0 for any number.
    prefetch_count = 0
    #: kombu's finalizer, which programs cancel; at the end of the process `runtime` gives back here.
    _on_collect = Finalizer()
    #: Give back what is unsettled when the channel closes.
    restore_at_shutdown = True

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        self.channel: Any = channel
        self.prefetch_count = prefetch_count or 0
        #: delivery tag → message, in order of delivery.
        self._delivered: dict[Any, Any] = {}
        #: Tags settled but not yet taken out. Ours are taken out at once; subclasses may collect here.
        self._dirty: set[Any] = set()

    @property
    def unsettled(self) -> dict[Any, Any]:
        """Delivery tag → message, in order of delivery."""
        return self._delivered

    def can_consume(self) -> bool:
        """Tell whether another message may be taken."""
        limit = self.prefetch_count
        return not limit or len(self._delivered) - len(self._dirty) < limit

    def can_consume_max_estimate(self) -> int | None:
        """Return how many more messages may be taken; None for any number."""
        limit = self.prefetch_count
        return max(limit - (len(self._delivered) - len(self._dirty)), 0) if limit else None

    def append(self, message: Any, delivery_tag: Any) -> None:
        """Count a delivery as unsettled."""
        if self._dirty:
            self._flush()
        self._delivered[delivery_tag] = message

    def get(self, delivery_tag: Any) -> Any:
        """Return an unsettled message.

        Raises:
            KeyError: there is none of this tag.
        """
        return self._delivered[delivery_tag]

    def up_to(self, delivery_tag: Any) -> list[Any]:
        """Return the tags of all unsettled deliveries up to one; itself alone if it isn't one."""
        if delivery_tag not in self._delivered:
            return [delivery_tag]
        tags = []
        for tag in self._delivered:
            tags.append(tag)
            if tag == delivery_tag:
                break
        return tags

    def ack(self, delivery_tag: Any) -> None:
        """Take a message out for good; an unknown tag is fine."""
        self._delivered.pop(delivery_tag, None)
        self._dirty.discard(delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Take a message out and, with `requeue`, give it back to the front of its queue."""
        if requeue and delivery_tag in self._delivered:
            self.channel._restore_at_beginning(self._delivered[delivery_tag])
        self.ack(delivery_tag)

    def restore_unacked(self) -> list[tuple[Exception, Any]]:
        """Give back all that is unsettled, in such an order that the oldest comes first again.

        Returns:
            list[tuple[Exception, object]]: (error, message) of those that could not be given back.
        """
        self._flush()
        failed: list[tuple[Exception, Any]] = []
        tags = list(self._delivered)
        for tag in reversed(tags) if self.channel.restores_in_front else tags:
            message = self._delivered.pop(tag, None)
            if message is None:
                continue
            try:
                self.channel._restore_at_beginning(message)
            except BaseException as error:
                if not isinstance(error, Exception):
                    self._delivered[tag] = message  # killed: whoever closes next gives it back
                    raise
                failed.append((error, message))
        return failed

    def restore_unacked_once(self, stderr: IO[str] | None = None) -> None:
        """As `restore_unacked`, when the channel closes: what can't be given back is dumped to a file, not
        lost.
        """
        self._flush()
        if not self.restore_at_shutdown or not self.channel.do_restore or not self._delivered:
            return
        stderr = sys.stderr if stderr is None else stderr
        failed = self.restore_unacked()
        if failed:
            errors, messages = zip(*failed, strict=True)
            print(RESTORE_PANIC_FMT.format(len(errors), errors), file=stderr)
            emergency_dump_state(messages, stderr=stderr)

    def restore_visible(self, *args: Any, **kwargs: Any) -> Any:
        """Give back what others left unsettled for too long: for brokers with a visibility timeout. Here:
        nothing.
        """

    def _flush(self) -> None:
        dirty, delivered = self._dirty, self._delivered
        while dirty:
            delivered.pop(dirty.pop(), None)

    def __repr__(self) -> str:
        limit = self.prefetch_count or 'any'
        return f'<{type(self).__name__}: {len(self._delivered) - len(self._dirty)} unsettled of {limit}>'
