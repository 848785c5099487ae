"""Messages to queues: calls of ten, each publisher told of its own, in order where SQS keeps one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any, NamedTuple

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, InvalidArgument
from greenmq.log import get_logger
from greenmq.transport import http
from greenmq.transport.driver import Put
from greenmq.transport.SQS import envelope
from greenmq.transport.SQS.aws import refusal
from greenmq.transport.SQS.exceptions import Throttled
from greenmq.transport.SQS.queues import Queues

__all__ = ('BYTES', 'ENTRIES', 'LONGEST_DELAY', 'Sending')

logger = get_logger('greenmq.transport.SQS')

#: What one call carries at most: entries, and bytes of them all. So large is a message at most, too.
ENTRIES, BYTES = 10, 1024 * 1024
#: Bytes up to which any queue takes a message that was not told otherwise; larger ones are looked up.
SURE_BYTES = 256 * 1024
#: Seconds that SQS delays a message at most.
LONGEST_DELAY = 900


class _Entry(NamedTuple):
    at: int  # which of the messages that are put
    entry: dict[str, Any]
    size: int


class Sending:
    """The sends of one driver.

    Arguments:
        queues (Queues): where to. settings (Mapping): of the driver.
    """

    def __init__(self, queues: Queues, settings: Mapping[str, Any]) -> None:
        self._queues = queues
        self._base64: bool = settings['sqs_base64_encoding']
        self._locks: dict[str, Any] = {}
        self._warned: set[str] = set()

    def put(self, items: list[Put], deadline: runtime.Deadline) -> list[Exception | None]:
        """Send messages to one queue.

        Returns:
            list[Exception | None]: what became of each.
        Switches: yes.
        """
        queue = items[0].queue
        outcomes: list[Exception | None] = [None] * len(items)
        entries: list[_Entry] = []
        for at, item in enumerate(items):
            entry = self._entry(item, at)
            body = entry['MessageBody']
            size = len(body if body.isascii() else body.encode()) + _size_of(entry.get('MessageAttributes'))
            outcomes[at] = self._too_large(queue, size, deadline)
            if outcomes[at] is None:
                entries.append(_Entry(at, entry, size))
        if not self._queues.is_fifo(queue):
            self._put(queue, entries, outcomes, deadline)
            return outcomes
        lock = self._locks.setdefault(queue, runtime.Lock())
        with lock:  # one batch after the other: the order of the groups
            self._put(queue, entries, outcomes, deadline)
        return outcomes

    def _too_large(self, queue: str, size: int, deadline: runtime.Deadline) -> Exception | None:
        known = self._queues.known(queue)
        if known is None and size > SURE_BYTES:
            known = self._queues.attributes(queue, deadline)
        limit = int((known or {}).get('MaximumMessageSize') or BYTES)
        if size <= limit:
            return None
        text = f'is more than the {limit} bytes that {queue!r} takes'
        return InvalidArgument('message', f'{size} bytes', text)

    def _entry(self, item: Put, at: int) -> dict[str, Any]:
        properties = item.message['properties']
        entry: dict[str, Any] = {'Id': str(at), 'MessageBody': item.payload}
        fifo = self._queues.is_fifo(item.queue)
        group = properties.get('MessageGroupId')
        if group or fifo:
            entry['MessageGroupId'] = group or 'default'
        if fifo:
            # Made once a publish, so that a try again is known as the same message.
            entry['MessageDeduplicationId'] = (
                properties.get('MessageDeduplicationId') or properties['delivery_tag']
            )
        delay = item.delay
        for name in ('DelaySeconds', 'delay_seconds'):
            if properties.get(name) is not None:
                delay = min(float(properties[name]), LONGEST_DELAY)
        if delay and fifo:
            if item.queue not in self._warned:
                self._warned.add(item.queue)
                logger.warning('%r is a FIFO queue: SQS delays no single message of it', item.queue)
        elif delay:
            entry['DelaySeconds'] = min(ceil(delay), LONGEST_DELAY)
            if delay > LONGEST_DELAY:
                due = {**properties, envelope.DUE: time.time() + delay}
                entry['MessageBody'] = envelope.encode({**item.message, 'properties': due}, self._base64)
        attributes = properties.get(envelope.ATTRIBUTES)
        if attributes:
            entry['MessageAttributes'] = attributes
        return entry

    def _put(
        self, queue: str, entries: list[_Entry], outcomes: list[Exception | None], deadline: runtime.Deadline
    ) -> None:
        attempt = 1
        while entries:
            left: list[_Entry] = []
            for part in _parts(entries):
                answer = self.send(queue, [each.entry for each in part], deadline)
                by_id = {each.entry['Id']: each for each in part}
                for failed in answer.get('Failed') or ():
                    each = by_id[failed['Id']]
                    text = f'{queue}: {failed.get("Message")} ({failed["Code"]})'
                    outcomes[each.at] = error = refusal(failed['Code'], text)
                    if not failed.get('SenderFault') or isinstance(error, Throttled):
                        left.append(each)
            attempt += 1
            pause, remaining = http.pause_before(attempt), deadline.remaining()
            if not left or (remaining is not None and pause >= remaining):
                return
            runtime.sleep(pause)
            for each in left:
                outcomes[each.at] = None
            entries = left

    def send(self, queue: str, entries: list[dict[str, Any]], deadline: runtime.Deadline) -> dict[str, Any]:
        """Make one call. Switches: yes."""
        try:
            return self._queues.call(queue, 'send_message_batch', deadline, Entries=entries)
        except ConnectionLost as error:
            if self._queues.is_fifo(queue):
                # It may have arrived: the same again does no harm, by its deduplication id.
                raise _SafeAgain(str(error)) from error
            raise


class _SafeAgain(ConnectionLost):
    """No answer, and the same call may be made again without harm."""

    sent = 'no'


def _size_of(attributes: Any) -> int:
    return sum(
        len(name) + sum(len(part) for part in value.values() if isinstance(part, (str, bytes)))
        for name, value in (attributes or {}).items()
    )


def _parts(entries: list[_Entry]) -> Iterator[list[_Entry]]:
    """Cut entries into what one call carries."""
    part: list[_Entry] = []
    size = 0
    for entry in entries:
        if part and (len(part) == ENTRIES or size + entry.size > BYTES):
            yield part
            part, size = [], 0
        part.append(entry)
        size += entry.size
    if part:
        yield part
