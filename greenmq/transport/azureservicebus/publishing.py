"""How messages reach the service: many under way at once, each until it is known what became of it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from greenmq import runtime
from greenmq.exceptions import (
    AccessRefused,
    ConnectionBlocked,
    ConnectionLost,
    NotFound,
    PublishNacked,
    PublishUnconfirmed,
)
from greenmq.transport.amqp10.errors import error_of
from greenmq.transport.amqp10.performatives import Rejected
from greenmq.transport.amqp10.sending import outcome, unsent
from greenmq.transport.azureservicebus import envelope
from greenmq.transport.azureservicebus.known import Known
from greenmq.transport.azureservicebus.lines import BUSY, Line, Lines
from greenmq.transport.driver import Put

__all__ = ('Publishing',)

#: Seconds after which a message is sent once more whose queue knows it again.
AGAIN = 0.1


class Publishing:
    """The publishes of one driver.

    Arguments:
        lines (Lines), known (Known): over what, and what queues are like. host (str): for texts.
    Attributes:
        apart (bool): not over the connection that is consumed from.
    """

    def __init__(self, lines: Lines, known: Known, host: str) -> None:
        self._lines = lines
        self._known = known
        self._host = host
        self.apart = False

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None]:
        """See `Driver.put`."""
        found: list[Any] = []
        for item in items:
            try:
                found.append(self._start(item, deadline))
            except Exception as error:  # that one's, and not the others'
                found.append(error)
        for at, each in enumerate(found):
            if each.__class__ is runtime.Waiter:
                each = self._judge(items[at], each, deadline)
            found[at] = None if each is None else self._outcome(items[at], each, deadline)
        return found

    def _start(self, item: Put, deadline: runtime.Deadline) -> runtime.Waiter:
        known, queue = self._known, item.queue
        entity = known.names.of(queue or item.exchange)
        payload = envelope.wrapped(item, queue in known.sessionful, queue in known.expiring)
        pause = AGAIN
        while True:
            apart = self.apart
            try:
                return self._start_over(self._lines.out(apart, deadline), entity, payload, deadline)
            except (ConnectionLost, OSError) as error:
                # Nothing of it was sent. The main connection's end is the session's, which comes back.
                if not apart:
                    raise unsent(error) from error
                left = deadline.remaining()
                if left is not None and left <= pause:
                    raise PublishUnconfirmed(str(error), sent='no') from error
            runtime.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _start_over(
        self, line: Line, entity: str, payload: bytes, deadline: runtime.Deadline
    ) -> runtime.Waiter:
        if not line.admission.holds(entity):
            line.admission.ensure(entity, deadline)
        try:
            return line.sending.start(entity, payload, deadline)
        except AccessRefused:
            # A token that had ended while we were not looking: once more with another one.
            line.admission.show(entity, deadline)
            return line.sending.start(entity, payload, deadline)

    def _outcome(self, item: Put, error: Exception, deadline: runtime.Deadline) -> Exception | None:
        # What a failed message comes to: some are sent again.
        while True:
            pause = self._pause_after(item, error)
            if pause is None:
                return error
            left = deadline.remaining()
            if left is not None and left <= pause:
                if _busy(error):
                    return ConnectionBlocked(f'{self._host}: {error}', 'the service is too busy')
                return error
            runtime.sleep(pause)
            try:
                result = self._judge(item, self._start(item, deadline), deadline)
            except Exception as failure:  # judged in the next round
                result = failure
            if result is None:
                return None
            error = result

    def _pause_after(self, item: Put, error: Exception) -> float | None:
        """Seconds after which a message is sent again; None if it is not."""
        if _busy(error):
            return _busy(error) * (1 + random.random() / 4)
        if item.queue in self._known.distinct and isinstance(error, (PublishUnconfirmed, ConnectionLost)):
            return AGAIN  # the queue drops what it has already
        return None

    def _judge(self, item: Put, waiter: runtime.Waiter, deadline: runtime.Deadline) -> Exception | None:
        try:
            state = outcome(waiter, deadline)
        except Exception as error:  # told to whoever published it
            return error
        if state is None:
            return None
        what = f'{self._host} refused a message for {item.queue or item.exchange!r}'
        if isinstance(state, Rejected):
            reason = error_of(state.error, what)
            if isinstance(reason, (NotFound, AccessRefused)) or _busy(reason):
                return reason
            what = str(reason)
        return PublishNacked(what, item.exchange, item.routing_key)


def _busy(error: Exception) -> float:
    """Seconds for which the service wants to be left alone; 0 if that is not what it says."""
    return BUSY.get(getattr(error, 'condition', ''), 0.0)
