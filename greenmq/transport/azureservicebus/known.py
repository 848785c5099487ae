"""What is known of queues: how they are called at the service, and what they were declared with here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenmq.transport.azureservicebus.admin import duration
from greenmq.transport.azureservicebus.names import Names

__all__ = ('Known',)

#: Seconds that the service waits at least before it deletes a queue that nobody uses.
SHORTEST_LIFE = 300.0


class Known:
    """The queues of one driver.

    Arguments:
        settings (Mapping): of the driver.
    Attributes:
        names (Names): what they are called.
        sessionful (set[str]): take messages of sessions only. distinct (set[str]): know a message again by
            its id. expiring (set[str]): whose expired messages are dead-lettered by who gets them.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self.names = Names(settings['queue_name_prefix'] or '', settings['dots'])
        self.sessionful: set[str] = set()
        self.distinct: set[str] = set()
        self.expiring: set[str] = set()

    def learn(self, queue: str, arguments: Mapping[str, Any]) -> None:
        """It is declared with these arguments."""
        for name, books in (
            ('x-sessions', self.sessionful), ('x-duplicate-detection', self.distinct),
            ('x-dead-letter-exchange', self.expiring),
        ):  # fmt: skip
            if arguments.get(name) not in (None, False):
                books.add(queue)

    def forget(self, queue: str) -> None:
        """It is deleted."""
        for books in (self.sessionful, self.distinct, self.expiring):
            books.discard(queue)

    def description(self, arguments: Mapping[str, Any]) -> dict[str, str]:
        """What a queue is made with at the service, in the order that it asks for."""
        settings = self._settings
        found = {'LockDuration': duration(settings['peek_lock_seconds'])}
        window = arguments.get('x-duplicate-detection')
        if window:
            found['RequiresDuplicateDetection'] = 'true'
        if arguments.get('x-sessions'):
            found['RequiresSession'] = 'true'
        if window and window is not True:
            found['DuplicateDetectionHistoryTimeWindow'] = duration(float(window))
        most = arguments.get('x-delivery-limit') or settings['max_delivery_count']
        if most:
            found['MaxDeliveryCount'] = str(int(most))
        expires = arguments.get('x-expires')
        if expires:
            found['AutoDeleteOnIdle'] = duration(max(int(expires) / 1000, SHORTEST_LIFE))
        return found
