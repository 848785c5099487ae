"""Publishes that wait for the broker's answer: sequence numbers, acks and nacks in any order, returns."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

__all__ = ('ConfirmLedger',)

Waiter = TypeVar('Waiter')


class ConfirmLedger(Generic[Waiter]):
    """Who waits for which confirm, on one wire channel in confirm mode.

    The broker counts the publishes of a channel from 1 and so do we. It answers in any order, one number or
    all up to one; each waiter comes out of exactly one call (`confirm`, `forget` or `fail_all`), however
    often the broker repeats itself. Every operation costs O(1) a message.
    """

    # `_low`: every number below it is answered, so a multiple confirm looks at each number once in the
    # ledger's life. A number above it may be answered too; then it is not in `_waiting`.
    __slots__ = ('_keys', '_low', '_next', '_open', '_returns', '_waiting')

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._waiting: dict[int, Waiter] = {}
        self._next = 1
        self._low = 1
        # Only publishes that may come back (mandatory) have a key; the others must not pay for these three:
        # the key of each, how many of a key wait, and what came back and was not confirmed yet.
        self._keys: dict[int, Hashable] = {}
        self._open: dict[Hashable, int] = {}
        self._returns: dict[Hashable, deque[Any]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, seq: object) -> bool:
        return seq in self._waiting

    def __repr__(self) -> str:
        return f'<ConfirmLedger: {len(self._waiting)} of {self._next - 1} unconfirmed>'

    @property
    def outstanding(self) -> int:
        """How many publishes wait for their confirm."""
        return len(self._waiting)

    @property
    def published(self) -> int:
        """The number of the last publish, 0 before the first."""
        return self._next - 1

    def publish(self, waiter: Waiter, key: Hashable = None) -> int:
        """Enter a publish: called without a switch between this and the message entering the out-buffer.

        Arguments:
            waiter: whatever `confirm` shall give back.
            key (Hashable): for a mandatory message, what a basic.return of it will be recognised by. Best
                unique; under equal keys the publish that is confirmed next is taken to be the returned one,
                and of several that are confirmed as one the last. None: it can't come back.
        Returns:
            int: the sequence number the broker will confirm.
        Source: RabbitMQ, confirm.select: counting begins at 1 after confirm.select-ok.
        """
        seq = self._next
        self._next = seq + 1
        self._waiting[seq] = waiter
        if key is not None:
            self._keys[seq] = key
            self._open[key] = self._open.get(key, 0) + 1
        return seq

    def returned(self, key: Hashable, info: Any) -> bool:
        """Note that a message came back; its confirm, which the broker sends later, has `info` as outcome.

        Arguments:
            key (Hashable): as given to `publish`.
            info: anything but a bool.
        Returns:
            bool: False if no unconfirmed publish has that key (any more).
        Source: RabbitMQ confirms: basic.return is sent before the basic.ack of an unroutable mandatory
        message, which waits for no queue and so overtakes the acks of equal ones that were routed.
        """
        returns = self._returns.get(key)
        if len(returns or ()) >= self._open.get(key, 0):
            return False
        if returns is None:
            self._returns[key] = deque((info,))
        else:
            returns.append(info)
        return True

    def confirm(self, seq: int, multiple: bool = False, ack: bool = True) -> list[tuple[Waiter, Any]]:
        """Resolve the publish `seq`, or all up to it.

        What was resolved before, or was never published, is passed over: repeating a confirm changes nothing.

        Arguments:
            seq (int): the number that the broker sent. With `multiple`, 0 means all.
            multiple (bool): also all before it that are not resolved.
            ack (bool): False for a nack.
        Returns:
            list[tuple[waiter, outcome]]: in the order of publishing. The outcome is True (acked), False
                (nacked), or the `info` of `returned` if the message came back.
        """
        waiting = self._waiting
        if not multiple:
            if seq not in waiting:
                return []
            if seq == self._low:
                self._low = seq + 1
            waiter = waiting.pop(seq)
            return [(waiter, self._outcome(seq, ack) if self._keys else ack)]
        last = self._next - 1
        if seq == 0 or seq > last:
            seq = last
        return self._confirm_up_to(seq, ack)

    def keys(self) -> list[Hashable]:
        """List the keys of the publishes that may still come back, oldest first. O(n): for the odd case."""
        returns = self._returns
        return [key for key in self._keys.values() if len(returns.get(key, ())) < self._open[key]]

    def forget(self, seq: int) -> bool:
        """Take a waiter out that has given up. The broker's answer, if it comes, finds nobody.

        Returns:
            bool: False if it was resolved already.
        """
        if seq not in self._waiting:
            return False
        del self._waiting[seq]
        if self._keys:
            self._outcome(seq, False)
        return True

    def fail_all(self) -> list[Waiter]:
        """Take all waiters out, in the order of publishing: the wire channel is gone, the outcome unknown.

        The ledger is as new after it: the next wire channel counts from 1 again.
        """
        waiters = list(self._waiting.values())
        self._reset()
        return waiters

    def _confirm_up_to(self, seq: int, ack: bool) -> list[tuple[Waiter, Any]]:
        waiting, low = self._waiting, self._low
        if seq < low:
            return []
        self._low = seq + 1
        if seq == self._next - 1 and not self._keys:
            # All of it, which is what a broker that keeps up says: no look-up by number, a dict has an order.
            everything = [(waiter, ack) for waiter in waiting.values()]
            waiting.clear()
            return everything
        numbers = [number for number in range(low, seq + 1) if number in waiting]
        if not self._keys:
            return [(waiting.pop(number), ack) for number in numbers]
        # From the end: of equal messages those come back, mostly, that were published after their queue went.
        resolved = [(waiting.pop(number), self._outcome(number, ack, True)) for number in reversed(numbers)]
        resolved.reverse()
        return resolved

    def _outcome(self, seq: int, ack: bool, last: bool = False) -> Any:
        # Called once for each number that leaves `_waiting` while keys are about; drops what is kept for it.
        key = self._keys.pop(seq, None)
        if key is None:
            return ack
        left = self._open[key] - 1
        if left:
            self._open[key] = left
        else:
            del self._open[key]
        returns = self._returns.get(key)
        # What was refused, or nobody waits for, was routed: unless all of that key came back.
        if returns is None or not (ack or len(returns) > left):
            return ack
        info = returns.pop() if last else returns.popleft()
        if not returns:
            del self._returns[key]
        return info
