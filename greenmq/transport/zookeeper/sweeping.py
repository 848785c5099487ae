"""What the dead leave behind: messages that go back, queues that end. One process sees to it at a time."""

from __future__ import annotations

from kazoo.exceptions import NodeExistsError, NoNodeError

from greenmq import runtime
from greenmq.exceptions import TimeoutError
from greenmq.log import get_logger
from greenmq.transport.driver import REQUEUE, Taken
from greenmq.transport.zookeeper.layout import Claim
from greenmq.transport.zookeeper.nodes import Nodes, first_failure
from greenmq.transport.zookeeper.queues import Queues
from greenmq.transport.zookeeper.taking import FLIGHT, Taking
from greenmq.transport.zookeeper.waiting import Waiting

__all__ = ('Sweeping',)

logger = get_logger('greenmq.transport.zookeeper')

#: Tries to become who sweeps, and seconds between them: who sweeps now may have looked too early.
_TURNS, _PAUSE = 5, 0.1


class Sweeping:
    """The sweeps of one driver."""

    def __init__(self, nodes: Nodes, queues: Queues, taking: Taking, waiting: Waiting) -> None:
        self._nodes = nodes
        self._queues = queues
        self._taking = taking
        self._waiting = waiting
        self._turn = runtime.Lock()

    def sweep(self, deadline: runtime.Deadline) -> None:
        """See `Driver.sweep`. Switches: yes."""
        if not self._turn.acquire(deadline):
            raise TimeoutError('another sweep of ours did not end')
        try:
            self._sweep(deadline)
        finally:
            self._turn.release()

    def _sweep(self, deadline: runtime.Deadline) -> None:
        self._waiting.unwatch_idle()
        nodes, mark = self._nodes, self._nodes.layout.sweeper
        for _ in range(_TURNS):
            try:
                nodes.client.create_async(mark, b'', ephemeral=True).get(timeout=deadline)
            except NodeExistsError:
                if not self._is_ours(mark, deadline):
                    runtime.sleep(_PAUSE)
                    continue
            try:
                self._give_back(deadline)
                now = nodes.stat(mark, deadline)
                alive = set(nodes.children(nodes.layout.owners, deadline))
                used = [queue for queue in self._queues.ending(deadline) if self._waiting.waited(queue)]
                if now is not None:
                    self._queues.end_those_that_are_over(used, alive, now.ctime, deadline)
            finally:
                if nodes.present is not None:
                    nodes.client.delete_async(mark)
            return

    def _is_ours(self, mark: str, deadline: runtime.Deadline) -> bool:
        # Left by a sweep that a lost connection or a kill cut: it stays for as long as our session lives, and
        # nobody else could sweep.
        session, _ = self._nodes.client.client_id
        stat = self._nodes.stat(mark, deadline)
        return stat is not None and stat.ephemeralOwner == session

    def _give_back(self, deadline: runtime.Deadline) -> None:
        # Who lives is asked after the claims were listed: no claim is older than its owner's node.
        nodes, layout = self._nodes, self._nodes.layout
        claims = [
            claim for folder in nodes.children(layout.claims, deadline)
            for node in nodes.children(f'{layout.claims}/{folder}', deadline)
            if (claim := layout.claim_of(folder, node)) is not None
        ]  # fmt: skip
        if not claims:
            return
        alive = set(nodes.children(layout.owners, deadline))
        dead = [claim for claim in claims if claim.owner not in alive]
        for at in range(0, len(dead), FLIGHT):
            self._move_back(dead[at : at + FLIGHT], deadline)
        if dead:
            logger.warning('%d messages of dead consumers went back to their queues', len(dead))

    def _move_back(self, claims: list[Claim], deadline: runtime.Deadline) -> None:
        nodes = self._nodes
        moves = []
        for claim, read in [(claim, nodes.client.get_async(claim.path)) for claim in claims]:
            try:
                data, _ = read.get(timeout=deadline)
            except NoNodeError:
                continue  # another one was faster
            again = self._taking.payload(Taken(claim.queue, data, claim), REQUEUE)
            moves.append((claim, self._taking.back(claim, again)))
        for claim, move in moves:
            failure = first_failure(move.get(timeout=deadline))
            if failure is None or failure[0] == 0:
                continue  # done, or another one was faster
            if isinstance(failure[1], NoNodeError):
                nodes.remove([claim.path], deadline)  # its queue is gone
            else:
                logger.warning('%s could not go back to its queue: %r', claim.path, failure[1])
