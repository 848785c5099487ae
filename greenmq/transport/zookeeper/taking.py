"""How messages are taken, each by a move of its own that happens once, and how they are settled.

A kill in the middle of a take leaves moves that nobody wants: what they bring goes back. A move or a
settlement whose reply was lost with the connection is asked about when the connection is back.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from kazoo.exceptions import NoNodeError

from greenmq import runtime
from greenmq.exceptions import TimeoutError
from greenmq.log import get_logger
from greenmq.transport.driver import UNSEEN, Taken
from greenmq.transport.zookeeper.layout import Claim
from greenmq.transport.zookeeper.nodes import OPERATION, PACKET, Nodes, first_failure
from greenmq.transport.zookeeper.waiting import Waiting

__all__ = ('FLIGHT', 'Taking')

logger = get_logger('greenmq.transport.zookeeper')

#: Messages that are read in one flight.
FLIGHT = 50


class _Move:
    """A message on its way from its queue to us."""

    __slots__ = ('moved', 'result', 'taken', 'wanted')

    def __init__(self, taken: Taken) -> None:
        self.taken = taken
        self.moved = False
        self.wanted = True
        self.result: Any = None


class Taking:
    """What one member takes and holds.

    Arguments:
        again (Callable[[Taken, str], bytes]): the payload to put back; `Driver.again`, held weakly.
    """

    def __init__(self, nodes: Nodes, waiting: Waiting, again: Callable[[Taken, str], Any]) -> None:
        self._nodes = nodes
        self._waiting = waiting
        self._again: Callable[[], Any] = weakref.WeakMethod(again)
        self._held: dict[str, Taken] = {}  # by the path of the claim
        self._strays: dict[str, tuple[Claim, bytes]] = {}  # moves that have to be undone, if they happened
        self._unsure: set[str] = set()  # paths of claims that may have been settled already
        self._folders: set[str] = set()  # queues whose claims have a place

    def __len__(self) -> int:
        return len(self._held)

    def drop(self) -> None:
        """What we held is not ours any more."""
        for taken in self._held.values():
            taken.lost = True
        for each in (self._held, self._strays, self._unsure, self._folders):
            each.clear()

    def forget_folder(self, queue: str) -> None:
        """A queue is deleted, with the place of its claims."""
        self._folders.discard(queue)

    # ---- taking

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> list[Taken]:
        """See `Driver.take`. Switches: yes."""
        deadline = runtime.Deadline.after(seconds)
        while True:
            waiter = runtime.Waiter()
            self._waiting.enter(queues, waiter)
            try:
                for queue in queues:
                    self._waiting.learn(queue, bool(seconds))
                takens = self._claim(queues, n, max_bytes)
                if takens or not seconds:
                    return takens
                if not self._waiting.has_any(queues):
                    waiter.wait(deadline)
            except TimeoutError:
                if not waiter.expired:
                    raise
                return []
            finally:
                self._waiting.leave(queues, waiter)

    def _claim(self, queues: list[str], n: int, max_bytes: int) -> list[Taken]:
        moves: list[_Move] = []
        picked: list[tuple[str, str]] = []
        deadline = runtime.Deadline.after(OPERATION)
        room = max_bytes
        try:
            while len(moves) < n and room > 0:
                picked = self._waiting.pick(queues, min(n - len(moves), FLIGHT))
                if not picked:
                    break
                reads = [self._read(queue, entry) for queue, entry in picked]
                while picked and room > 0:
                    try:
                        data, _ = reads.pop(0).get(timeout=deadline)
                    except NoNodeError:  # somebody else has it
                        picked.pop(0)
                        continue
                    self._give_a_place(picked[0][0], deadline)
                    queue, entry = picked.pop(0)
                    moves.append(self._move(queue, entry, data))
                    room -= len(data)
                self._waiting.unpick(picked)
                picked = []
            for move in moves:
                move.result.get(timeout=deadline)
        except BaseException:
            self._waiting.unpick(picked)
            for move in moves:
                self._unwanted(move)
            raise
        return [move.taken for move in moves if move.moved]

    def _read(self, queue: str, entry: str) -> Any:
        self._nodes.packets += 1
        return self._nodes.client.get_async(f'{self._nodes.layout.queue(queue)}/{entry}')

    def _give_a_place(self, queue: str, deadline: runtime.Deadline) -> None:
        if queue not in self._folders:
            path = self._nodes.layout.claim(queue, '', '').path.rpartition('/')[0]
            self._nodes.client.ensure_path_async(path).get(timeout=deadline)
            self._folders.add(queue)

    def _move(self, queue: str, entry: str, data: bytes) -> _Move:
        nodes = self._nodes
        claim = nodes.layout.claim(queue, entry, nodes.member.name)
        transaction = nodes.deleting([f'{nodes.layout.queue(queue)}/{entry}'])
        transaction.create(claim.path, data)
        move = _Move(Taken(queue, data, claim))
        move.result = nodes.commit(transaction)
        move.result.rawlink(partial(self._moved, move))
        return move

    def _moved(self, move: _Move, result: Any) -> None:
        # In kazoo's loop.
        claim: Claim = move.taken.receipt
        if result.exception is not None:
            self._strays[claim.path] = claim, move.taken.payload
            return
        failure = first_failure(result.value)
        if failure is None:
            move.moved = True
            self._held[claim.path] = move.taken
            if not move.wanted:
                self._unwanted(move)
        elif failure[0] == 1 and isinstance(failure[1], NoNodeError):
            self._folders.discard(claim.queue)  # the place of its claims was deleted
            self._waiting.unpick([(claim.queue, claim.entry)])

    def _unwanted(self, move: _Move) -> None:
        # A take was killed or failed: what it has taken, or is about to, goes back.
        move.wanted = False
        claim: Claim = move.taken.receipt
        if move.moved and self._held.pop(claim.path, None) is not None:
            self._release(claim, move.taken.payload)

    # ---- giving back

    def release_strays(self) -> None:
        """The connection is back: undo the moves whose replies were lost."""
        for claim, data in list(self._strays.values()):
            self._release(claim, data)

    def _release(self, claim: Claim, data: bytes) -> None:
        # Without waiting: what meets a lost connection is tried again after it.
        self._strays[claim.path] = claim, data
        self.back(claim, data).rawlink(partial(self._released, claim))

    def _released(self, claim: Claim, result: Any) -> None:
        if result.exception is None:
            self._strays.pop(claim.path, None)

    def back(self, claim: Claim, data: bytes) -> Any:
        """Move a message back to its place in its queue; return the result that comes."""
        transaction = self._nodes.deleting([claim.path])
        transaction.create(f'{self._nodes.layout.queue(claim.queue)}/{claim.entry}', data)
        return self._nodes.commit(transaction)

    def payload(self, taken: Taken, fate: str) -> bytes:
        """What to put back: counted, but for what nobody has seen."""
        if fate == UNSEEN:
            return bytes(taken.payload)
        try:
            return bytes(self._again()(taken, fate))
        except Exception as error:  # what is no message goes back as it is
            logger.debug('%r goes back unmarked: %r', taken, error)
            return bytes(taken.payload)

    # ---- settling

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> list[tuple[Taken, Exception | None]]:
        """See `Driver.settle`. Switches: yes."""
        nodes = self._nodes
        gone: list[tuple[Taken, Exception | None]] = []
        flights: list[tuple[list[Taken], Any]] = []
        for at in range(0, len(done), PACKET):
            part = done[at : at + PACKET]
            flights.append((part, nodes.commit(nodes.deleting(_paths(part)))))
        flights += [([taken], self.back(taken.receipt, self.payload(taken, fate))) for taken, fate in back]
        try:
            while flights:
                part, result = flights[0]
                failure = first_failure(result.get(timeout=deadline))
                flights.pop(0)
                if failure is None:
                    self._settled(part)
                elif len(part) > 1:
                    # One that is not ours any more undoes the others, too.
                    flights += [([taken], nodes.commit(nodes.deleting(_paths([taken])))) for taken in part]
                elif self._is_elsewhere(part[0], failure, deadline):
                    gone.append((part[0], None))
        finally:
            for part, _ in flights:  # their replies will not be read
                self._unsure.update(_paths(part))
        return gone

    def _settled(self, takens: list[Taken]) -> None:
        for path in _paths(takens):
            self._held.pop(path, None)
            self._unsure.discard(path)

    def _is_elsewhere(
        self, taken: Taken, failure: tuple[int, Exception], deadline: runtime.Deadline
    ) -> bool:
        # Did somebody else get it? Not if we have settled it before, or if its queue is gone.
        at, error = failure
        if not isinstance(error, NoNodeError):
            raise error
        claim: Claim = taken.receipt
        known, unsure = claim.path in self._held, claim.path in self._unsure
        self._settled([taken])
        if at == 1:  # there is no queue to go back to
            self._nodes.remove([claim.path], deadline)
            return False
        if unsure or not known:
            return False
        return self._nodes.stat(self._nodes.layout.queue(claim.queue), deadline) is not None


def _paths(takens: Iterable[Taken]) -> list[str]:
    return [taken.receipt.path for taken in takens]
