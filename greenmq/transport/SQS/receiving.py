"""Messages from queues: polls that are never cut, one of each group at a time, delays that SQS can't keep."""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import ceil
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, TimeoutError
from greenmq.log import get_logger
from greenmq.transport import http
from greenmq.transport.driver import Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.SQS import envelope
from greenmq.transport.SQS.exceptions import ServiceError, Throttled
from greenmq.transport.SQS.fifo import Groups
from greenmq.transport.SQS.queues import Queues
from greenmq.transport.SQS.sending import ENTRIES, LONGEST_DELAY, Sending
from greenmq.transport.SQS.settling import Settling
from greenmq.utils.uuid import uuid

__all__ = ('LONGEST_WAIT', 'Receiving')

logger = get_logger('greenmq.transport.SQS')

#: Seconds that a poll waits at SQS at most.
LONGEST_WAIT = 20
#: Seconds after its wait in which a poll must be answered.
LATE = 5.0
#: Seconds in which a poll that failed is made again before the base is told.
PATIENCE = 3.0
#: Seconds that messages of a FIFO queue wait here for a consumer before they go back.
UNWANTED = 1.0


class _Poll:
    """A poll of a FIFO queue on its way."""

    __slots__ = ('changed', 'done', 'error')

    def __init__(self) -> None:
        self.changed = runtime.Event()
        self.done = False
        self.error: Exception | None = None


class Receiving:
    """The polls of one driver.

    Arguments:
        queues (Queues), sending (Sending), settling (Settling): its other parts.
        settings (Mapping): of the driver. owner (Owner): the base.
        asks_some (bool): a poll that does not wait asks some of the servers only, as Amazon's own do.
    """

    def __init__(
        self, queues: Queues, sending: Sending, settling: Settling, settings: Mapping[str, Any], owner: Owner,
        asks_some: bool,
    ) -> None:  # fmt: skip
        self._queues = queues
        self._sending = sending
        self._settling = settling
        self._owner = owner
        self._asks_some = asks_some
        self._later: bool = settings['delay_beyond']
        self._pause: float = settings['polling_interval'] or 1.0
        self._operation: float = settings['operation_timeout'] or 30.0
        self._system, self._custom = _attribute_names(settings['fetch_message_attributes'])
        self._polls: dict[str, _Poll] = {}
        self._full: set[str] = set()  # queues whose last receive brought as many as it could

    def take(self, queue: str, n: int, seconds: float, lease: float, patient: bool) -> list[Taken]:
        """Take up to n messages, waiting some seconds for the first.

        Arguments:
            lease (float): seconds that they shall be ours.
            patient (bool): a consumer polls: with a wait of 0, pause after what brought nothing.
        Switches: yes. Must not be killed.
        """
        wait, hide = min(ceil(seconds), LONGEST_WAIT), ceil(lease)
        if self._queues.is_fifo(queue):
            return self._take_in_order(queue, min(n, ENTRIES), wait, hide)
        takens = self._take_many(queue, n, hide) if n > ENTRIES and queue in self._full else []
        if not takens:
            takens = self._poll(queue, min(n, ENTRIES), wait, hide)
            if len(takens) == ENTRIES:
                self._full.add(queue)
        if not takens and not wait:
            if self._asks_some:
                takens = self._poll(queue, n, 1, hide)
            elif patient:
                runtime.sleep(self._pause)
        return self._due_now(queue, takens) if self._later else takens

    def _take_many(self, queue: str, n: int, hide: int) -> list[Taken]:
        # There were many messages a moment ago: several receives at once, of which none waits.
        rooms = [min(n - at, ENTRIES) for at in range(0, n, ENTRIES)]
        answers = http.side_by_side(
            lambda room: self.receive(queue, room, 0, hide), rooms, len(rooms), 'greenmq-poll'
        )
        found: list[Taken] = []
        for answer in answers:
            if isinstance(answer, Exception):
                logger.info('one of several receives of %r failed: %s', queue, answer)  # the next poll tells
            else:
                found += answer
        if len(found) < n:
            self._full.discard(queue)
        return found

    def _poll(self, queue: str, n: int, wait: int, hide: int) -> list[Taken]:
        # A second time where the first try had no answer.
        began = runtime.monotonic()
        failures = 0
        # By it SQS knows a poll whose answer was lost, and gives the same messages; on FIFO queues alone.
        attempt = uuid() if self._queues.is_fifo(queue) else ''
        while True:
            try:
                return self.receive(queue, n, wait, hide, attempt)
            except (ConnectionLost, TimeoutError, ServiceError) as error:
                failures += 1
                too_many = isinstance(error, Throttled)
                if isinstance(error, ServiceError) and not too_many and error.status < 500:
                    raise
                logger.info('a poll of %r failed, and is made again: %s', queue, error)
                if failures > 2 or runtime.monotonic() - began > PATIENCE:
                    if too_many:
                        return []  # too many calls: there is nothing to repair, and the pace is slower by now
                    # What ends a connection is what programs expect, and recovery waits for the service.
                    raise ConnectionLost(f'a poll was not answered: {error}') from error
                runtime.sleep(http.pause_before(failures + 2))

    def receive(self, queue: str, n: int, wait: int, hide: int, attempt: str = '') -> list[Taken]:
        """Make one call. Switches: yes."""
        deadline = runtime.Deadline.after(wait + LATE)
        params: dict[str, Any] = {
            'MaxNumberOfMessages': n, 'WaitTimeSeconds': wait, 'VisibilityTimeout': hide,
            'AttributeNames': self._system,
        }  # fmt: skip
        if attempt:
            params['ReceiveRequestAttemptId'] = attempt
        if self._custom:
            params['MessageAttributeNames'] = self._custom
        answer = self._queues.call(queue, 'receive_message', deadline, False, 1, wait + LATE, **params)
        return [self._taken(queue, raw) for raw in answer.get('Messages') or ()]

    def _taken(self, queue: str, raw: dict[str, Any]) -> Taken:
        count = (raw.get('Attributes') or {}).get('ApproximateReceiveCount')
        seen = int(count) - 1 - self._settling.unseen.count(raw['MessageId']) if count else None
        return Taken(queue, raw, raw['ReceiptHandle'], seen if seen is None else max(seen, 0))

    # ---- delays that SQS can't keep

    def _due_now(self, queue: str, takens: list[Taken]) -> list[Taken]:
        """Send those again that are not due yet, for the rest of their delay."""
        now = time.time()
        due: list[Taken] = []
        early: list[tuple[Taken, float]] = []
        for taken in takens:
            at = envelope.due_at(taken.payload)
            if at > now:
                early.append((taken, at))
            else:
                due.append(taken)
        if early:
            deadline = runtime.Deadline.after(self._operation)
            entries = [
                {
                    'Id': str(number),
                    'MessageBody': taken.payload['Body'],
                    'DelaySeconds': min(ceil(at - now), LONGEST_DELAY),
                }
                for number, (taken, at) in enumerate(early)
            ]
            failed: set[str] = set()
            for at in range(0, len(entries), ENTRIES):
                answer = self._sending.send(queue, entries[at : at + ENTRIES], deadline)
                failed.update(entry['Id'] for entry in answer.get('Failed') or ())
            # What could not be sent again comes back when its lease ends.
            sent = [taken for number, (taken, _) in enumerate(early) if str(number) not in failed]
            self._settling.delete(queue, sent, deadline)
        return due

    # ---- FIFO queues

    def _take_in_order(self, queue: str, n: int, wait: int, hide: int) -> list[Taken]:
        groups = self._settling.groups.setdefault(queue, Groups())
        if not groups.ready:
            self._wait_in_order(queue, groups, n, wait, hide)
        found: list[Taken] = []
        while groups.ready and len(found) < n:
            found.append(groups.ready.popleft())
        if groups.ready:
            runtime.call_later(UNWANTED, self._unwanted, queue)
        return found

    def _wait_in_order(self, queue: str, groups: Groups, n: int, wait: int, hide: int) -> None:
        poll = self._polls.get(queue)
        if poll is None:
            poll = self._polls[queue] = _Poll()
            # In a task of its own: the next of a group may be ready before a poll ends.
            runtime.spawn(self._poll_into, queue, groups, poll, n, wait, hide, name='greenmq-poll')
        while not groups.ready and not poll.done:
            poll.changed.clear()
            poll.changed.wait()
        if poll.error is not None and not groups.ready:
            raise runtime.again(poll.error)

    def _poll_into(self, queue: str, groups: Groups, poll: _Poll, n: int, wait: int, hide: int) -> None:
        try:
            groups.came(self._poll(queue, n, wait, hide))
        except Exception as error:  # raised to who takes
            poll.error = error
        finally:
            poll.done = True
            self._polls.pop(queue, None)
            poll.changed.set()
        if groups.ready:
            runtime.call_later(UNWANTED, self._unwanted, queue)

    def next_is_ready(self, queue: str) -> None:
        """The first of a group is settled: another may be taken."""
        poll = self._polls.get(queue)
        if poll is not None:
            poll.changed.set()
        else:
            self._owner.look(queue)
        runtime.call_later(UNWANTED, self._unwanted, queue)

    def _unwanted(self, queue: str) -> None:
        # In the hub: what nobody took in a second goes back, with those behind it.
        groups = self._settling.groups.get(queue)
        if groups is not None and groups.ready:
            runtime.spawn(self._give_back_ready, queue, groups, name='greenmq-unwanted')

    def _give_back_ready(self, queue: str, groups: Groups) -> None:
        takens = [each for first in list(groups.ready) for each in [*groups.behind(first), first]]
        groups.drop(takens)
        try:
            self._settling.give_back(queue, takens, runtime.Deadline.after(10.0))
        except Exception as error:  # their leases end
            logger.warning('%d messages of %r could not be given back: %s', len(takens), queue, error)

    def forget(self) -> None:
        """In a forked child: these polls are the parent's."""
        self._polls.clear()
        self._full.clear()
        self._settling.groups.clear()


def _attribute_names(given: Any) -> tuple[list[str], list[str]]:
    """The names of system attributes and of others that deliveries carry."""
    system, custom = ['ApproximateReceiveCount', 'MessageGroupId'], []
    if isinstance(given, Mapping):
        system += given.get('MessageSystemAttributeNames') or ()
        custom = list(given.get('MessageAttributeNames') or ())
    elif isinstance(given, (list, tuple)):
        system += given
    return (['All'] if 'All' in system or 'ALL' in system else list(dict.fromkeys(system))), custom
