"""Settlements of all channels of a session: collected, sent together, and kept until the server has them.

An ack is an append to a list. The link asks for what was collected before its next command leaves, so acks go
out in batches and in order with everything else (a requeue is done before the fetch that follows it), and no
task can be killed in between. What was on its way when the link was lost is sent again: settling twice does
no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, TryAgainError

from greenmq import events, runtime
from greenmq.exceptions import AMQPError, ConnectionClosed, TimeoutError
from greenmq.log import get_logger
from greenmq.transport.driver.contract import DEAD, REQUEUE, Taken
from greenmq.transport.redis import resp
from greenmq.transport.redis.errors import translate
from greenmq.transport.redis.keys import Home, Keys
from greenmq.transport.redis.link import Link
from greenmq.transport.redis.replies import expect, fits
from greenmq.transport.redis.scripts import SETTLE
from greenmq.transport.redis.server import Server
from greenmq.transport.waiters import WaitingLine

__all__ = ('AGAIN', 'UNTOUCHED', 'Settler')

logger = get_logger('greenmq.transport.redis')

#: Begins the tags of deliveries that are registered in Redis.
OURS = 'gm:'
#: What becomes of a delivery that is given back: counted as delivered, or as if nobody had seen it.
AGAIN, UNTOUCHED = 'r', 'u'

#: Deliveries settled by one call of the script.
CHUNK = 1000


class _Pending:
    """What is to be settled in one home."""

    __slots__ = ('acks', 'again', 'back', 'flushing', 'home', 'spare')

    def __init__(self, home: Home) -> None:
        self.home = home
        self.acks: list[str] = []
        self.again = False  # some were sent before, and may have come
        self.back: list[tuple[int, str, str]] = []
        self.flushing: Link | None = None  # it will ask for them
        self.spare = 0  # so many more acks, and it shall ask at once


class Settler:
    """The settlements of one session, as `driver.settler` says what they are.

    Arguments:
        server (Server), keys (Keys): where and how.
    Attributes:
        source (Callable): returns what 'stale_ack' events name.
        calls (int), settled (int): batches and settlements that the server has confirmed.
    """

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server = server
        self._keys = keys
        self.source: Callable[[], Any] = _nobody
        self.calls = self.settled = 0
        self._homes: dict[Home, _Pending] = {}
        #: Where all queues have one home, as everywhere but in a cluster: what is pending there.
        self._only = None if keys.cluster else self._of_queue('')
        self._flying = 0
        self._waiting = WaitingLine()

    @property
    def pending(self) -> int:
        """Settlements that the server has not confirmed."""
        return self._flying + sum(len(pending.acks) + len(pending.back) for pending in self._homes.values())

    def done(self, taken: Taken, more: int = 0) -> None:
        """This one is done with. The server is told with the acks that follow soon, if there will be any.

        Arguments:
            more (int): how many more deliveries the channel has for its callbacks.
        """
        tag = taken.receipt
        if not tag.startswith(OURS):
            return  # of a fanout: it is in no other place than here
        pending = self._only or self._of_queue(taken.queue)
        pending.acks.append(tag)
        link = pending.flushing
        if link is None:
            self._tell(pending, more // 2)
        else:
            pending.spare -= 1
            if pending.spare == 0:
                link.hurry()

    def back(self, taken: Taken, fate: str) -> None:
        """This one goes back: `contract.REQUEUE`, UNSEEN, or DEAD to the list of the queue's dead letters."""
        tag = taken.receipt
        if not tag.startswith(OURS):
            taken.again(fate)  # type: ignore[attr-defined]
        elif fate == DEAD:
            self.give_back(taken.queue, tag, f'd{self._keys.dead(taken.queue)}')
        else:
            self.give_back(taken.queue, tag, AGAIN if fate == REQUEUE else UNTOUCHED)

    def give_back(self, queue: str, tag: str, fate: str = AGAIN) -> None:
        """This one goes back to the front of its queue."""
        pending = self._of_queue(queue)
        pending.back.append((int(tag.split(':')[2]), tag, fate))
        self._tell_now(pending)

    def give_back_home(self, home: Home, tag: str, fate: str) -> None:
        """As `give_back`, where the home is known and the queue is not."""
        pending = self._of_home(home)
        pending.back.append((int(tag.split(':')[2]), tag, fate))
        self._tell_now(pending)

    def tags(self) -> set[str]:
        """All that is to be settled and not on its way."""
        found: set[str] = set()
        for pending in self._homes.values():
            found.update(pending.acks)
            found.update(tag for _, tag, _ in pending.back)
        return found

    def _of_queue(self, queue: str) -> _Pending:
        return self._of_home(self._keys.home(queue))

    def _of_home(self, home: Home) -> _Pending:
        pending = self._homes.get(home)
        if pending is None:
            pending = self._homes[home] = _Pending(home)
        return pending

    def _tell(self, pending: _Pending, spare: int = 0) -> None:
        # Without a link all is sent on recovery.
        link = pending.flushing = self._server.link_for(pending.home.unacked)
        if link is not None:
            pending.spare = spare
            if spare:
                link.flush_later(self)
            else:
                link.flush_soon(self)

    def _tell_now(self, pending: _Pending) -> None:
        if pending.flushing is None:
            self._tell(pending)
        else:
            pending.flushing.hurry()

    def flush(self) -> None:
        """Send what was collected."""
        for pending in self._homes.values():
            pending.flushing = None
            while pending.acks or pending.back:
                acks, pending.acks = pending.acks[:CHUNK], pending.acks[CHUNK:]
                # The newest first: each goes before the last one, so the oldest ends in front.
                back, pending.back = sorted(pending.back, reverse=True), []
                if not self._send(_Batch(self, pending, acks, back)):
                    return
            pending.again = False

    def lost(self) -> None:
        """The link is lost: what was on its way is kept, and sent by `recovered`."""

    def recovered(self) -> None:
        """There is a new link: send what the old one did not confirm."""
        for pending in self._homes.values():
            pending.flushing = None
        self.flush()

    def _send(self, batch: _Batch, load: bool = False) -> bool:
        home = batch.pending.home
        keys = self._keys
        words: list[Any] = ['EVAL', SETTLE.text] if load else ['EVALSHA', SETTLE.digest]
        words += [4, home.unacked, home.times, home.own, home.expires]
        words += [keys.head, keys.tail, keys.sep, len(batch.acks)]
        words += batch.acks
        for _, tag, fate in batch.back:
            words += (tag, fate)
        self._flying += batch.size
        try:
            self._server.post(resp.pack(tuple(words)), home.unacked, batch.take)
        except AMQPError:
            self._flying -= batch.size
            batch.keep()
            return False
        return True

    def _answered(self, batch: _Batch, reply: Any) -> None:
        self._flying -= batch.size
        if isinstance(reply, NoScriptError):
            self._send(batch, load=True)
            return
        if isinstance(reply, ConnectionClosed):
            self._waiting.wake()
            return
        if isinstance(reply, (MovedError, AskError, TryAgainError, ClusterDownError)):
            self._server.moved(reply)
            batch.keep()
            runtime.call_later(0.05, self.flush)
            return
        if isinstance(reply, Exception):
            error = translate(reply, self._server.name)
            if isinstance(reply, AMQPError) or isinstance(error, AMQPError) and not self._server.connected:
                batch.pending.again = True
                batch.keep()
            else:
                logger.error(
                    '%s: %d settlements were refused; their messages will be delivered again: %s',
                    self._server.name,
                    batch.size,
                    error,
                )
            self._waiting.wake()
            return
        if not fits(reply, _is_settled):
            batch.again = True
            batch.keep()
            expect(reply, _is_settled, self._server.name)
        self.calls += 1
        self.settled += batch.size
        gone = len(batch.acks) - reply[0]
        if gone > 0 and not batch.again:
            # We were silent for longer than our lease, and others have them now (P36).
            events.emit('stale_ack', source=self.source(), count=gone)
            logger.warning(
                '%s: %d acknowledgements came after the lease had ended; those messages were delivered again',
                self._server.name,
                gone,
            )
        if not self.pending:
            self._waiting.wake()

    def wait_for(self, queue: str, deadline: runtime.Deadline) -> None:
        """What goes back to a queue is there before anything that is asked after this."""

    def wait(self, deadline: Any) -> bool:
        """Send all, and wait until the server has it.

        Arguments:
            deadline (Deadline | float).
        Returns:
            bool: False if it was not in time; it will still be sent if the server comes back.
        Switches: only if something is on its way.
        """
        deadline = runtime.Deadline.of(deadline)
        self.flush()
        while self.pending and not self._server.closed:
            try:
                self._waiting.wait(deadline, 'settlements were not confirmed')
                if self.pending and not self._server.connected:
                    self._server.wait_open(deadline)
            except (TimeoutError, ConnectionClosed):
                return False
        return not self.pending


def _nobody() -> None:
    return None


def _is_settled(reply: Any) -> bool:
    # How many were acknowledged, how many given back.
    return reply.__class__ is list and list(map(type, reply)) == [int, int]


class _Batch:
    """Settlements on their way to the server together."""

    __slots__ = ('acks', 'again', 'back', 'pending', 'settler')

    def __init__(
        self, settler: Settler, pending: _Pending, acks: list[str], back: list[tuple[int, str, str]]
    ) -> None:
        self.settler = settler
        self.pending = pending
        self.acks = acks
        self.back = back
        self.again = pending.again

    @property
    def size(self) -> int:
        return len(self.acks) + len(self.back)

    def take(self, reply: Any) -> None:
        self.settler._answered(self, reply)

    def keep(self) -> None:
        self.pending.acks[:0] = self.acks
        self.pending.back[:0] = self.back
