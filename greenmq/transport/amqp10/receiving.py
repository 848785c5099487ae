"""The receiving links of one connection: one for each address that is consumed, its credit what is wanted.

A link that was ended is attached again after a growing pause, for as long as somebody wants its messages. One
that has credit and hears nothing for long is asked for a sign of life, and made anew without one: a broker
that forgot a consumer would leave it deaf for good (P25).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from greenmq import runtime
from greenmq.core.retry import RetrySchedule
from greenmq.exceptions import ConnectionClosed, ConnectionLost, TimeoutError
from greenmq.log import get_logger
from greenmq.transport.amqp10.connection import Connection
from greenmq.transport.amqp10.links import Delivery, Receiver
from greenmq.transport.amqp10.performatives import Released
from greenmq.transport.amqp10.session import Session
from greenmq.transport.amqp10.way import Way
from greenmq.transport.waiters import WaitingLine

__all__ = ('Came', 'Getter', 'Inlet', 'Receiving')

logger = get_logger('greenmq.transport.amqp10')

#: Address, link and delivery of a message that came.
Came = tuple[str, Receiver, Delivery]

#: Seconds without a word after which a link with credit is asked, and seconds that the answer may take.
PROOF, ANSWER = 30.0, 15.0
#: Seconds that a link stays which nobody wants messages of.
LINGER = 5.0
#: Seconds between two looks at a session that is to begin.
ROUND_SECONDS = 0.002
#: Seconds after which a drain that was not answered is asked for again, then twice that.
AGAIN = 0.1
#: Seconds for which an address that is not empty is looked into again, where a drain may end too soon.
HASTE = 1.0
#: Tells how many messages wait, and how many consumers hold.
Left = Callable[[runtime.Deadline], 'tuple[int, int]']
#: Links for single looks that are kept.
GETTERS = 16


class Inlet:
    """One receiving link, over all its lives in one connection.

    Arguments:
        receiving (Receiving): whose it is. address (str): what it receives from.
    """

    def __init__(self, receiving: Receiving, address: str) -> None:
        self._receiving = receiving
        self.address = address
        self.wanted = 0
        self.link: Receiver | None = None
        self.failures = 0
        self.heard_at = runtime.monotonic()
        self.asked_at: float | None = None
        self.error: Exception | None = None
        self._timer: Any = None

    def want(self, credit: int) -> None:
        """So many messages may come from now on."""
        self.wanted = credit
        link = self.link
        if link is None:
            if credit and self._timer is None:
                self.attach()
        elif link.state == 'attached' and (credit or link.credit):
            link.grant(credit)
        if credit:
            self.heard_at = max(self.heard_at, runtime.monotonic() - PROOF / 2)
        elif self._timer is None:
            self._linger()

    def attach(self) -> None:
        """Begin the link."""
        self._stop_timer()
        if self._receiving.is_away(self.address):
            return
        try:
            self.link = self._receiving.attach(self.address, self)
        except (ConnectionLost, ConnectionClosed):
            self.link = None  # the next connection has inlets of its own

    def retry(self) -> None:
        """There is a reason to try again now."""
        if self.link is None and self.wanted:
            self.attach()

    def _linger_ends(self) -> None:
        self._timer = None
        if self.link is not None and self.link.holds:
            self._linger()
        elif not self.wanted:
            self.end()
            self._receiving.forget(self)

    def _linger(self) -> None:
        self._timer = runtime.call_later(LINGER, self._linger_ends)

    def end(self) -> None:
        """End the link."""
        self._stop_timer()
        link, self.link = self.link, None
        if link is not None:
            self._receiving.end(link)

    def over(self) -> None:
        """Its connection has ended, or is let go of."""
        self._stop_timer()
        self.link = None

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    # ---- what the link tells

    def on_attached(self, link: Any) -> None:
        """See `Listener`."""
        if self.link is None or link is not self.link:
            return
        self.failures = 0
        self.error = None
        self.heard()
        if self.wanted:
            self.link.grant(self.wanted)

    def on_detached(self, link: Any, error: Exception | None) -> None:
        """See `Listener`."""
        self._receiving.said.wake()
        if self.link is None or link is not self.link:
            return
        self.link = None
        self.error = error
        if self._receiving.closed or not self.wanted:
            return
        self.failures += 1
        pause = RetrySchedule(None, 0.05, 0.2, 5.0, jitter=0.2).delay(self.failures)
        pause += self._receiving.way.pause(error)
        level = logger.warning if self.failures == 1 else logger.debug
        level('%s; attached again in %.2f s', error, pause)
        self._stop_timer()
        self._timer = runtime.call_later(pause, self._again)

    def _again(self) -> None:
        self._timer = None
        if self.wanted and not self._receiving.closed:
            self.attach()

    def on_flow(self, link: Any) -> None:
        """See `Listener`."""
        self.heard()
        self._receiving.said.wake()
        if self.link is not None and link is self.link and self.wanted and not link.credit:
            link.grant(self.wanted)  # it was drained, for a sign of life

    def on_message(self, link: Any, delivery: Delivery) -> None:
        """See `Listener`."""
        self.heard_at = runtime.monotonic()
        self.asked_at = None
        if link is self.link:
            self.wanted = max(self.wanted - 1, 0)
        self._receiving.came(self.address, link, delivery)

    def on_outcome(self, link: Any, number: int, state: Any) -> None:
        """See `Listener`: nothing is sent over a receiving link."""

    # ---- proof

    def heard(self) -> None:
        """It lives."""
        self.heard_at = runtime.monotonic()
        self.asked_at = None

    def prove(self, now: float) -> None:
        """Ask for a sign of life, if none came for long; make the link anew if none comes."""
        link = self.link
        if link is None or link.state != 'attached' or not link.credit:
            if link is not None and link.state == 'attaching' and now - self.heard_at > PROOF + ANSWER:
                self._renew('was not attached')
            return
        if self.asked_at is not None:
            if now - self.asked_at > ANSWER:
                self._renew('is deaf')
        elif now - self.heard_at > PROOF:
            self.asked_at = now
            if self._receiving.way.echoes:
                link.flow(echo=True)
            else:
                link.flow(drain=True)

    def _renew(self, why: str) -> None:
        logger.warning('%s %s: it is made anew', self.link and self.link.what, why)
        self.end()
        self.heard()
        self.attach()


class Getter:
    """A link for single looks into an address."""

    def __init__(self, said: WaitingLine) -> None:
        self.link: Receiver | None = None
        self.lock = runtime.Lock()
        self.taken: list[Delivery] = []
        self.open = False  # somebody takes what comes
        self.error: Exception | None = None
        self._said = said
        self._news = WaitingLine()

    @property
    def busy(self) -> bool:
        """Does somebody look, or hold what was found?"""
        return self.lock.locked() or (self.link is not None and self.link.holds)

    def on_attached(self, link: Any) -> None:
        """See `Listener`."""
        self._news.wake()

    def on_detached(self, link: Any, error: Exception | None) -> None:
        """See `Listener`."""
        self.error = error or ConnectionClosed('the link was ended')
        self._said.wake()
        self._news.wake()

    def on_flow(self, link: Any) -> None:
        """See `Listener`."""
        self._said.wake()
        self._news.wake()

    def on_message(self, link: Any, delivery: Delivery) -> None:
        """See `Listener`: what nobody takes goes back."""
        if self.open:
            self.taken.append(delivery)
            self._news.wake()
        else:
            link.session.settle([delivery.id], Released())

    def on_outcome(self, link: Any, number: int, state: Any) -> None:
        """See `Listener`: nothing is sent over it."""

    def wait(self, condition: Callable[[], bool], deadline: runtime.Deadline, what: str) -> None:
        """Wait until something holds.

        Raises:
            TimeoutError: not in time. Exception: why the link ended.
        Switches: yes, unless it holds.
        """
        while not condition():
            if self.error is not None:
                raise runtime.again(self.error)
            self._news.wait(deadline, what)

    def _drain(
        self, link: Receiver, count: int, left: Left | None, deadline: runtime.Deadline, what: str,
    ) -> None:  # fmt: skip
        # The credit is used up, or taken back. Artemis forgets a drain that it is asked for while it is at
        # one that a message overtook, and ends one although messages wait: it is asked again. What waits may
        # be another consumer's, or for later: so not for long. And a message that it takes from the queue
        # while it ends a drain stays with our link, and counts as held, until there is credit again: so once
        # more where any is held.
        pause, haste, once_more = AGAIN, None, True
        while True:
            link.grant(count, drain=True)
            while link.credit:
                try:
                    self.wait(lambda: not link.credit, deadline.within(pause), what)
                except TimeoutError:
                    deadline.check(what)
                    link.flow(drain=True)
                    pause *= 2
            haste = haste or deadline.within(HASTE)  # from the first answer on
            if self.taken or left is None or haste.expired():
                return
            waiting, held = left(deadline)
            if not waiting:
                if not held or not once_more:
                    return
                once_more = False

    def look(
        self, link: Receiver, count: int, way: Way, deadline: runtime.Deadline,
        left: Left | None = None,
    ) -> list[Delivery]:  # fmt: skip
        """Take up to some messages that are there now.

        Arguments:
            left (Left): for peers that may end a drain too soon.
        Returns:
            list[Delivery]: none if there are none; 0 for `count` only asks, see `Receiver.available`.
        Switches: yes. Killed: what came goes back.
        """
        self.taken, self.open = [], True
        drains, echoes = way.drains, way.echoes
        what = f'{link.what} did not answer'
        try:
            if not count and not link.answers_all and not echoes:
                return []  # it cannot be asked
            if drains and count:
                self._drain(link, count, left, deadline, what)
            else:
                link.grant(count, echo=True)
                owed = link.owed
                self.wait(lambda: link.flows >= owed or len(self.taken) >= count > 0, deadline, what)
            if not drains and count and len(self.taken) < min(count, link.available or 0):
                brief = runtime.Deadline.after(min(deadline.remaining() or 1.0, 1.0))
                try:
                    self.wait(
                        lambda: len(self.taken) >= min(count, link.available or 0), brief, what
                    )
                except TimeoutError:
                    pass  # another consumer has had it
            if link.credit and echoes:
                link.grant(0, echo=True)
                last = link.owed
                self.wait(lambda: link.flows >= last, deadline, what)
        except BaseException:
            self.open = False
            if link.state == 'attached':
                if link.credit:
                    link.grant(0)
                link.session.settle([each.id for each in self.taken], Released())
            raise
        self.open = False
        taken, self.taken = self.taken, []
        return taken


class Receiving:
    """The receiving links of one connection.

    Arguments:
        connection (Connection), way (Way): whose they are, and how they are made.
        arrived (Callable): (address, link, delivery) of all messages that one read brought.
    """

    def __init__(
        self,
        connection: Connection,
        way: Way,
        arrived: Callable[[list[Came]], None],
    ) -> None:
        self._connection = connection
        self.way = way
        self._arrived = arrived
        self._came: list[Came] = []
        self.closed = False
        self.said = WaitingLine()  # a link said how it stands
        self._session: Session | None = None
        self._inlets: dict[str, Inlet] = {}
        self._getters: dict[str, Getter] = {}
        self._ending: list[Receiver] = []  # links that the peer has not answered yet that they ended
        self._away: Counter[str] = Counter()  # addresses that are being deleted

    def end(self, link: Receiver) -> None:
        """End a link."""
        self._ending = [each for each in self._ending if each.state != 'detached']
        self._ending.append(link)
        self.way.end(link, self._session)

    def _shared(self) -> Session:
        if self._session is None or not self._session.usable():
            self._session = self._connection.session()
        return self._session

    def attach(self, address: str, listener: Any) -> Receiver:
        """Begin a link.

        Raises:
            ConnectionLost, ConnectionClosed: there is no connection.
        """
        return self.way.attach(self._connection, self._shared(), address, listener)

    def came(self, address: str, link: Receiver, delivery: Delivery) -> None:
        """A message came."""
        if not self._came:
            self._connection.after_read(self._hand_over)
        self._came.append((address, link, delivery))

    def _hand_over(self) -> None:
        came, self._came = self._came, []
        if self._connection.error is None:  # else they are the peer's again
            self._arrived(came)

    def want(self, address: str, credit: int) -> None:
        """So many messages may come from an address from now on."""
        inlet = self._inlets.get(address)
        if inlet is None:
            if not credit:
                return
            inlet = self._inlets[address] = Inlet(self, address)
        inlet.want(credit)

    def retry(self, address: str) -> None:
        """The address is there now, perhaps."""
        inlet = self._inlets.get(address)
        if inlet is not None:
            inlet.retry()

    def gone(self, address: str) -> None:
        """The address is to be deleted: nothing of ours shall hold it."""
        inlet = self._inlets.pop(address, None)
        if inlet is not None:
            inlet.wanted = 0
            inlet.end()
        getter = self._getters.pop(address, None)
        if getter is not None and getter.link is not None:
            self.end(getter.link)

    @contextlib.contextmanager
    def away(self, address: str, deadline: runtime.Deadline) -> Iterator[None]:
        """An address is to be deleted: nothing of ours holds it meanwhile, and the peer has answered so.

        Who looks into it waits, and so does who wants its messages; if it was not deleted they come again.

        Arguments:
            deadline (Deadline): for the answers. A peer that gives none is not waited for any longer.
        Switches: yes, unless nothing of ours was there.
        """
        self._away[address] += 1
        try:
            self.gone(address)
            ending = [link for link in self._ending if link.source.address == address]
            try:
                while any(link.state != 'detached' for link in ending):
                    self.said.wait(deadline, f'{self._connection.name} did not end the link from {address!r}')
            except TimeoutError as error:
                logger.debug('%s', error)
            yield
            self._inlets.pop(address, None)
        finally:
            self._away -= Counter((address,))
            self.said.wake()
            self.retry(address)

    def is_away(self, address: str) -> bool:
        """Is it to be deleted?"""
        return address in self._away

    def forget(self, inlet: Inlet) -> None:
        """Nobody wants its messages any more."""
        if self._inlets.get(inlet.address) is inlet:
            del self._inlets[inlet.address]

    def prove(self) -> None:
        """Look after links that are silent."""
        now = runtime.monotonic()
        for inlet in list(self._inlets.values()):
            inlet.prove(now)

    def look(
        self, address: str, count: int, deadline: runtime.Deadline,
        left: Left | None = None,
    ) -> tuple[Receiver, list[Delivery]]:  # fmt: skip
        """Take up to some messages that wait at an address now.

        Arguments:
            left (Left): see `Getter.look`.
        Raises:
            NotFound: there is no such address. TimeoutError: no answer.
        Switches: yes. Killed: what came goes back.
        """
        while self.is_away(address):
            self.said.wait(deadline, f'{address} is being deleted')
        getter = self._getters.get(address)
        if getter is None or getter.error is not None:
            self._end_idle_getters()
            getter = self._getters[address] = Getter(self.said)
        if not getter.lock.acquire(deadline):
            raise deadline.error(f'no turn to look into {address}')
        try:
            if getter.link is None:
                getter.link = self.attach(address, getter)
            link = getter.link
            getter.wait(lambda: link.state == 'attached', deadline, f'{link.what} was not attached')
            return link, getter.look(link, count, self.way, deadline, left)
        finally:
            getter.lock.release()

    def _end_idle_getters(self) -> None:
        idle = [address for address, getter in self._getters.items() if not getter.busy]
        for address in idle[: max(len(self._getters) - GETTERS + 1, 0)]:
            old = self._getters.pop(address)
            if old.link is not None:
                self.end(old.link)

    def sync(self, links: set[Receiver], deadline: runtime.Deadline) -> None:
        """Wait until the peer has done what was said over some links: it answers in order.

        Raises:
            TimeoutError: not in time.
        Switches: yes.
        """
        if not self.way.echoes:
            self.round(deadline)
            return
        asked: dict[Receiver, int] = {}
        for link in links:
            if link.state == 'attached':
                link.flow(echo=True)
                asked[link] = max(link.owed, link.flows + 1)
        while any(link.state == 'attached' and link.flows < owed for link, owed in asked.items()):
            self._connection.check()
            brief = runtime.Deadline.after(min(deadline.remaining() or 1.0, 1.0))
            try:
                self.said.wait(brief, 'settlements were not answered')
            except TimeoutError:
                deadline.check('settlements were not answered')

    def round(self, deadline: runtime.Deadline) -> None:
        """Begin and end a session, which changes nothing: the answer says that all before it was heard.

        Raises:
            TimeoutError: no answer in time.
        Switches: yes.
        """
        session = self._connection.session()
        try:
            while session.state == 'beginning':
                self._connection.check()
                deadline.check(f'{self._connection.name} did not answer')
                runtime.sleep(ROUND_SECONDS)
        finally:
            if self._connection.error is None:
                session.end()

    def quiet(self) -> None:
        """Nothing is wanted, nor attached again; what is on its way may still come."""
        self.closed = True
        for inlet in list(self._inlets.values()):
            inlet.want(0)

    def close(self) -> None:
        """End all links."""
        self.quiet()
        for inlet in list(self._inlets.values()):
            inlet.end()
        self.over()

    def over(self) -> None:
        """The connection has ended, or is let go of: nothing is said any more."""
        self.closed = True
        inlets, self._inlets = self._inlets, {}  # they know us
        for inlet in inlets.values():
            inlet.over()
        self._getters.clear()

    def __len__(self) -> int:
        return len(self._inlets)
