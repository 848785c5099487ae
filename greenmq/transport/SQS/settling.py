"""What becomes of deliveries: deleted, shown again, or hidden for longer; ten a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

from greenmq import runtime
from greenmq.transport.driver import DEAD, REQUEUE, UNSEEN, Taken
from greenmq.transport.driver.unseen import Unseen
from greenmq.transport.SQS import envelope, predefined
from greenmq.transport.SQS.aws import refusal
from greenmq.transport.SQS.exceptions import DoesNotExistQueueException
from greenmq.transport.SQS.fifo import Groups
from greenmq.transport.SQS.queues import Queues

__all__ = ('LONGEST_LEASE', 'Failed', 'Settling')

ENTRIES = 10
#: Seconds that SQS hides a message at most.
LONGEST_LEASE = 12 * 3600

#: Names of errors that mean: somebody else has it by now, or nobody any more.
_GONE = frozenset((
    'ReceiptHandleIsInvalid', 'InvalidReceiptHandle', 'MessageNotInflight', 'InvalidParameterValue',
    'InvalidIdFormat',
))  # fmt: skip

Failed = list[tuple[Taken, 'Exception | None']]


class Settling:
    """The settlements of one driver.

    Arguments:
        queues (Queues): of which. settings (Mapping): of the driver.
    Attributes:
        groups (dict[str, Groups]): FIFO queue → what this process holds of it.
        unseen (Unseen): what went back that no callback had seen; the service counts that as received.
    """

    def __init__(self, queues: Queues, settings: Mapping[str, Any]) -> None:
        self.groups: dict[str, Groups] = {}
        self._queues = queues
        self._requeue_delay: int = settings['requeue_delay']
        self.unseen = Unseen()

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> tuple[Failed, bool]:
        """Delete what is done, and show the rest again.

        Returns:
            tuple[Failed, bool]: as `Driver.settle`; and whether the next of a group has become ready.
        Switches: yes.
        """
        queue = (done or [back[0][0]])[0].queue
        shown: list[tuple[Taken, int]] = []
        done = list(done)
        for taken, fate in back:
            pause = self._pause(queue, taken, fate, deadline)
            if pause is None:
                done.append(taken)
            else:
                shown.append((taken, pause))
        groups = self.groups.get(queue)
        failed: Failed = []
        try:
            if done:
                failed += self.delete(queue, done, deadline)
            if shown:
                if groups is not None:
                    # Those of a group that are held here first, the last of them before the others.
                    behind = [(each, 0) for taken, _ in shown for each in groups.behind(taken)]
                    shown = [*behind, *shown]
                failed += self.show(queue, shown, deadline)
        except DoesNotExistQueueException:
            return [(taken, None) for taken in (*done, *(taken for taken, _ in shown))], False
        for taken, fate in back:
            if fate == UNSEEN:
                self.unseen.gave_back(taken.payload['MessageId'])
        if groups is None:
            return failed, False
        unsettled = {id(taken) for taken, error in failed if error is not None}
        ready = [groups.settled(taken) for taken in done if id(taken) not in unsettled]
        return failed, any(ready)

    def _pause(self, queue: str, taken: Taken, fate: str, deadline: runtime.Deadline) -> int | None:
        """Seconds until what goes back may be seen; None if it is to be deleted."""
        if fate != DEAD:
            return self._requeue_delay if fate == REQUEUE else 0
        facts = self._queues.facts(queue)
        if facts is not None and facts.get('backoff_tasks'):
            message = envelope.decode(taken.payload, '')
            task = (message.get('headers') or {}).get('task')
            pause = predefined.pause_of(facts, task, (taken.deliveries or 0) + 1)
            if pause is not None:
                return min(pause, LONGEST_LEASE)
        # With a policy the service counts, and moves it to the queue of the dead.
        return 0 if 'RedrivePolicy' in self._queues.attributes(queue, deadline) else None

    def give_back(self, queue: str, takens: list[Taken], deadline: runtime.Deadline) -> None:
        """Show messages again that nobody had. Switches: if there are any."""
        if takens:
            self.show(queue, [(taken, 0) for taken in takens], deadline)
            for taken in takens:
                self.unseen.gave_back(taken.payload['MessageId'])

    def delete(self, queue: str, takens: list[Taken], deadline: runtime.Deadline) -> Failed:
        """Delete deliveries; return what could not be, as `Driver.settle`. Switches: yes."""
        failed: Failed = []
        for part in _tens(takens):
            entries = [{'Id': str(at), 'ReceiptHandle': taken.receipt} for at, taken in enumerate(part)]
            answer = self._queues.call(queue, 'delete_message_batch', deadline, Entries=entries)
            failed += _failed(part, answer)
        return failed

    def show(self, queue: str, shown: list[tuple[Taken, int]], deadline: runtime.Deadline) -> Failed:
        """Have deliveries be seen after some seconds; return what could not be. Switches: yes."""
        failed: Failed = []
        for part in _tens(shown):
            entries = [
                {'Id': str(at), 'ReceiptHandle': taken.receipt, 'VisibilityTimeout': pause}
                for at, (taken, pause) in enumerate(part)
            ]
            answer = self._queues.call(queue, 'change_message_visibility_batch', deadline, Entries=entries)
            failed += _failed([taken for taken, _ in part], answer)
        return failed

    def extend(self, takens: list[Taken], seconds: float, deadline: runtime.Deadline) -> list[Taken]:
        """Renew leases, of what is held here for the sake of the order as well. Switches: yes."""
        gone: list[Taken] = []
        by_queue: dict[str, list[Taken]] = {}
        for taken in takens:
            by_queue.setdefault(taken.queue, []).append(taken)
        for queue, part in by_queue.items():
            groups = self.groups.get(queue)
            held = groups.due(seconds / 4) if groups is not None else []
            began = runtime.monotonic()
            failed = self.show(queue, [(taken, ceil(seconds)) for taken in (*part, *held)], deadline)
            lost = {id(taken) for taken, error in failed if error is None}
            for taken in held:
                taken.renewed = began
            gone += [taken for taken in part if id(taken) in lost]
            if groups is not None and lost:
                groups.drop([taken for taken in (*part, *held) if id(taken) in lost])
        return gone


def _tens(items: list[Any]) -> Iterator[list[Any]]:
    for at in range(0, len(items), ENTRIES):
        yield items[at : at + ENTRIES]


def _failed(takens: list[Taken], answer: Mapping[str, Any]) -> Failed:
    found: Failed = []
    for entry in answer.get('Failed') or ():
        code = str(entry.get('Code') or '').rpartition('.')[2].rpartition('#')[2]
        error = None if code in _GONE else refusal(code, f'{entry.get("Message")} ({code})')
        found.append((takens[int(entry['Id'])], error))
    return found
