"""What is looked at when a message comes, before any callback sees it.

In this order: is there a message in the payload at all; has it expired; was it delivered too often by
consumers that died. What fails goes where the dead letters of its queue go, and is settled; consuming
goes on.
"""

from __future__ import annotations

import time
from typing import Any

from greenmq import events, runtime
from greenmq.exceptions import DecodeError
from greenmq.log import get_logger
from greenmq.transport.driver.contract import DEAD, UNSEEN, Driver, Taken
from greenmq.transport.virtual.envelope import DELIVERY_COUNT, Message, delivery_count

__all__ = ('EXPIRES_AT', 'Arrival', 'DriverMessage')

logger = get_logger('greenmq.transport.driver')

#: Property: when the message expires, in ms since 1970.
EXPIRES_AT = 'expires_at'


class DriverMessage(Message):
    """A delivery of a driver; `place` is its `Taken`."""

    __slots__ = ()


class Arrival:
    """The checks of one session.

    Arguments:
        driver (Driver): whose `decode` reads payloads.
        max_deliveries (int): 0 for any number.
    """

    def __init__(self, driver: Driver, max_deliveries: int) -> None:
        self._driver = driver
        self.max_deliveries = max_deliveries
        self._leaving: set[runtime.Task] = set()  # of messages on their way to the dead letters

    def envelope(self, taken: Taken, session: Any) -> dict[str, Any] | None:
        """Return the message in a payload, its delivery count up to date; None if nobody is to see it.

        Switches: no; what becomes of a refused one is done by a task.
        """
        try:
            message = self._driver.decode(taken)
            properties = message['properties']
            headers = message['headers'] = dict(message.get('headers') or ())
            expires_at = properties.get(EXPIRES_AT)
            count = taken.deliveries or 0
            if DELIVERY_COUNT in headers:
                count = max(count, delivery_count(headers))
        except Exception as error:  # whatever a driver's decode trips over is this message's fault
            self.unreadable(session, taken, error)
            return None
        if count:
            headers[DELIVERY_COUNT] = count
            message['redelivered'] = True
        # Strangers write it, too: what is no number is no expiry.
        if isinstance(expires_at, (int, float)) and time.time() * 1000 >= expires_at:
            self.refuse(session, self.dead_letter, taken, message, 'expired')
            return None
        if self.max_deliveries and count >= self.max_deliveries:
            self.refuse(session, self.dead_letter, taken, message, 'delivery_limit')
            return None
        return message

    def too_often(self, taken: Taken, headers: Any) -> bool:
        """Would one more delivery be one too many?"""
        count = max(taken.deliveries or 0, delivery_count(headers))
        return bool(self.max_deliveries) and count + 1 >= self.max_deliveries

    def refused(self, session: Any, taken: Taken, reason: str) -> None:
        """The broker gave a message for the dead letters of its queue, and for nobody else."""
        try:
            message = self._driver.decode(taken)
        except Exception as error:  # it is no message, and goes there all the same
            self.unreadable(session, taken, error)
        else:
            self.refuse(session, self.dead_letter, taken, message, reason)

    def unreadable(self, session: Any, taken: Taken, error: Exception) -> None:
        """A payload is no message: it is put aside, whole."""
        self.refuse(session, self._bury_payload, taken, error)

    def refuse(self, session: Any, way: Any, *args: Any) -> None:
        """Have a task dead-letter what nobody is to see; a close waits for it."""
        task = runtime.spawn(way, session, *args, name='greenmq-refuse', on_exit=self._left)
        self._leaving.add(task)

    def _left(self, task: runtime.Task, error: BaseException | None) -> None:
        self._leaving.discard(task)

    def wait(self, deadline: runtime.Deadline) -> None:
        """Wait until what was refused is among the dead letters: a close must not give it back as well.

        Switches: if there is anything.
        """
        for task in list(self._leaving):
            task.join(deadline)

    def bury(self, session: Any, taken: Taken, message: dict[str, Any], reason: str) -> None:
        """A message was refused: have it dead-lettered, or settle it."""
        if session.router.arguments(taken.queue).get('x-dead-letter-exchange') is None:
            self.settle_dead(session, taken, reason)
        else:
            self.refuse(session, self.dead_letter, taken, message, reason)

    def dead_letter(self, session: Any, taken: Taken, message: dict[str, Any], reason: str) -> None:
        """Send a message to the dead letters of its queue, if there are any, and settle it.

        Switches: yes, if its queue has a dead-letter exchange.
        """
        if taken.lost:
            return  # somebody else has it
        try:
            kept = session.router.dead_letter(taken.queue, message, reason)
        except Exception as error:  # not lost: it is delivered again
            logger.warning('%r could not be dead-lettered, it is delivered again: %s', taken, error)
            session.settler.back(taken, UNSEEN)
            return
        if kept:
            session.settler.done(taken)
        else:
            self.settle_dead(session, taken, reason)

    def settle_dead(self, session: Any, taken: Taken, reason: str) -> None:
        """Settle a refused message whose queue has no dead-letter exchange."""
        session.settler.back(taken, DEAD)

    def _bury_payload(self, session: Any, taken: Taken, error: Exception) -> None:
        failure = DecodeError(f'queue {taken.queue!r} gave what is no message: {error!r}')
        failure.__cause__ = error
        kept = session.router.has_dead_letter(taken.queue)
        logger.error('%s. It is %s: %.200r', failure, 'dead-lettered' if kept else 'put aside', taken.payload)
        events.emit('decode_error', source=session, message=taken, error=failure, dead_letter=kept)
        payload = taken.payload
        body = payload if isinstance(payload, (bytes, str)) else repr(payload)
        message = {
            'body': body.encode() if isinstance(body, str) else body,
            'content-type': 'application/octet-stream',
            'content-encoding': 'binary',
            'headers': {},
            'properties': {'delivery_info': {}, 'delivery_mode': 2},
        }
        self.dead_letter(session, taken, message, 'undecodable')
