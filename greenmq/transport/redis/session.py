"""What the channels of one Redis connection share: a session of `driver.session` with parts of its own.

Not shared by connections, as other sessions are: each has a server link of its own, which connects again by
itself, and may go on in another thread.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from greenmq import runtime
from greenmq.exceptions import AMQPError, OperationalError
from greenmq.log import get_logger
from greenmq.transport.driver import session as base
from greenmq.transport.driver.contract import Place
from greenmq.transport.redis.arrival import RedisArrival
from greenmq.transport.redis.driver import RedisDriver
from greenmq.transport.redis.publishing import Publisher
from greenmq.transport.redis.server import Server
from greenmq.transport.virtual.state import BrokerState

__all__ = ('RedisSession',)

logger = get_logger('greenmq.transport.redis')

#: Seconds to look whether what we declared is still there, after a loss.
RESTORING = 30.0


def _settler(session: Any, driver: RedisDriver, seconds: float) -> Any:
    return driver.settler


class RedisSession(base.Session):
    """One Redis database, as one connection uses it."""

    driver: RedisDriver
    Publisher: ClassVar[Any] = Publisher
    Settler: ClassVar[Any] = staticmethod(_settler)
    Arrival: ClassVar[Any] = RedisArrival

    def __init__(
        self, driver_cls: type[RedisDriver], place: Place, settings: dict[str, Any], name: str
    ) -> None:
        declared = BrokerState()
        super().__init__(partial(driver_cls, declared=declared), place, settings, name, declared)
        self.name = self.driver.server.name  # as the link has it: so an outage is told once
        self.driver.serve(self)
        # A call less for each message: what only hands on is bound once.
        self.publish = self.publisher.publish  # type: ignore[method-assign]
        self.check_here = self.driver.server.check_here  # type: ignore[method-assign]

    # ---- calls: the driver keeps deadlines, waits for its link and speaks our errors

    def call(
        self, what: str, deadline: runtime.Deadline, fun: Callable[..., Any], *args: Any,
        decline: Any = None, uncut: bool = False,
    ) -> Any:  # fmt: skip
        """See `Session.call`."""
        return fun(*args)

    def wait_attempt(self, deadline: runtime.Deadline | None) -> None:
        """See `Session.wait_attempt`."""
        self.driver.server.wait_attempt(deadline)

    # ---- losses: the server link tells of them, and comes back by itself

    def lost(self, error: Exception, epoch: int | None = None) -> None:
        """A call met a loss: the server tells of it, once."""

    def begin_recovery(self) -> None:
        """The server's link has begun to recover already."""

    def on_lost(self, server: Server, error: BaseException) -> None:
        """See `ServerOwner`."""
        if server.connected:
            for user in self.users:  # other nodes of a cluster are there
                user.on_lost(error)
        else:
            super().lost(error, self.epoch)  # type: ignore[arg-type]

    def on_recovered(self, server: Server) -> None:
        """See `ServerOwner`."""
        if self.state == 'lost':
            self.recovered()
        else:
            for user in self.users:
                user.on_recovered()
        self.driver.settler.recovered()
        runtime.spawn(_reconcile, weakref.ref(self), name='redis-reconcile', owner=self)

    def on_pushed(self, server: Server, push: Any) -> None:
        """See `ServerOwner`: somebody emptied the database."""
        if push[0] == b'invalidate':
            runtime.spawn(_reconcile, weakref.ref(self), name='redis-reconcile', owner=self)

    def close(self, deadline: runtime.Deadline) -> None:
        """See `Session.close`: whatever that met, no link stays open."""
        try:
            super().close(deadline)
        finally:
            self.driver.shut()

    # ---- threads

    def thread_ended(self) -> None:
        """See `runtime.at_thread_end`: the link ends with its thread; another thread may go on."""

    def move_here(self, connection: Any) -> None:
        """Have the connection go on in this thread. Raises: WrongHub: it is in use in its own."""
        for user in self.users:
            user.move_here(user)

    @property
    def in_use(self) -> bool:
        """Does a greenlet of the program wait for a reply, or for the server?"""
        return self.driver.server.in_use

    def leave_here(self) -> None:
        """Let go of what belongs to this thread's hub."""
        self.intake.leave()
        self.driver.leave()

    def arrive_here(self) -> None:
        """Go on in the calling thread."""
        self.arrived_in(runtime.hub_id())
        self.driver.arrive()
        for channel in self.channels:
            channel.arrived_here()
            self.intake.refresh(channel)
        if self.consumes_any:
            self.start_keeping()

    # ---- what is ours

    def start_keeping(self) -> None:
        """Something is consumed: keep the lease and its queues, and look for dead consumers."""
        self.driver.lease.start()
        ref = weakref.ref(self)

        def consumed() -> list[str]:
            session = ref()
            channels = [] if session is None else session.channels
            return [queue for channel in channels for queue in channel.books.queues]

        self.driver.expiry.start(consumed)

    def known_tags(self) -> set[Any]:
        """The tags of all that is held here, or is to be settled."""
        known: set[Any] = self.driver.settler.tags()
        for channel in self.channels:
            known.update(channel.deliveries.tags())
        return known

    @property
    def holds_any(self) -> bool:
        """Is anything unsettled?"""
        return bool(self.driver.settler.pending) or any(channel.books.unsettled for channel in self.channels)

    @property
    def consumes_any(self) -> bool:
        """Does anybody consume, or hold anything?"""
        return any(channel.books.subscriptions or channel.books.unsettled for channel in self.channels)


def _reconcile(ref: weakref.ref[RedisSession]) -> None:
    session = ref()
    if session is None or session.state == 'closed':
        return
    driver = session.driver
    try:
        driver.restore(runtime.Deadline.after(RESTORING))
        driver.lease.renew()
        driver.lease.reconcile()
    except (AMQPError, OperationalError, OSError) as error:
        logger.debug('%s: reconcile: %s', session.name, error)  # the next recovery does it again
