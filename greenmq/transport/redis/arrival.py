"""What is looked at when a message comes, in the words of Redis: see `driver.arrival`."""

from __future__ import annotations

import time
from typing import Any

from greenmq import events
from greenmq.exceptions import DecodeError
from greenmq.log import get_logger
from greenmq.transport.driver.arrival import EXPIRES_AT, Arrival
from greenmq.transport.driver.contract import DEAD, Taken
from greenmq.transport.redis.envelope import opened
from greenmq.transport.redis.settling import OURS
from greenmq.transport.virtual.envelope import delivery_count
from greenmq.utils.text import printable

__all__ = ('RedisArrival',)

logger = get_logger('greenmq.transport.redis')


class RedisArrival(Arrival):
    """The checks of one session: the usual message passes in one call."""

    def envelope(self, taken: Taken, session: Any) -> dict[str, Any] | None:
        """See `Arrival.envelope`."""
        try:
            message = opened(taken.payload, taken.receipt)
        except DecodeError as error:
            self._put_aside(session, taken, error)
            return None
        if EXPIRES_AT in message['properties'] or self.max_deliveries:
            reason = self._ended(message)
            if reason:
                self.refuse(session, self.dead_letter, taken, message, reason)
                return None
        return message

    def _ended(self, message: dict[str, Any]) -> str:
        expires_at = message['properties'].get(EXPIRES_AT)
        # Strangers write it, too: what is no number is no expiry.
        if type(expires_at) in (int, float) and time.time() * 1000 >= expires_at:
            return 'expired'
        if self.max_deliveries and delivery_count(message.get('headers')) >= self.max_deliveries:
            return 'delivery_limit'
        return ''

    def settle_dead(self, session: Any, taken: Taken, reason: str) -> None:
        """See `Arrival.settle_dead`: nothing but a list tells of what no consumer survives."""
        if reason == 'delivery_limit':
            session.settler.back(taken, DEAD)
        else:
            session.settler.done(taken)

    def _put_aside(self, session: Any, taken: Taken, error: DecodeError) -> None:
        # Told once, and kept where it stops nobody (P40): given back, it would only come again.
        if taken.receipt.startswith(OURS):
            session.settler.back(taken, DEAD)
            fate = f'It is kept in the list {session.driver.keys.dead(taken.queue)!r}.'
        else:
            fate = 'It was heard on a fanout exchange, and is dropped.'
        why = printable(f'{type(error).__name__}: {error}', 300)
        logger.error('queue %r gave what is no message (%s). %s', taken.queue, why, fate)
        events.emit('decode_error', source=session, message=None, queue=taken.queue, error=error)
