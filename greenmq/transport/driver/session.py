"""One driver over all its lives, and what the channels of all its connections share.

There is one session for a process, a hub and a URL. States: *new*, *open*, *lost* (a task opens the
driver again, at once and then after growing pauses, walking the hosts), *closing*, *closed*. Calls made
meanwhile wait within their deadline. A forked child has none of the parent's sessions: they are *foreign*
there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from greenmq import runtime
from greenmq.core.retry import RetrySchedule
from greenmq.exceptions import ConnectionClosed, ConnectionLost, Unroutable, WrongHub
from greenmq.log import get_logger, outage_level
from greenmq.transport.driver.arrival import Arrival
from greenmq.transport.driver.closing import Ending, close_driver
from greenmq.transport.driver.contract import UNSEEN, Driver, Place, Taken
from greenmq.transport.driver.errors import bounded, is_loss, translate
from greenmq.transport.driver.intake import Intake
from greenmq.transport.driver.leases import Leases
from greenmq.transport.driver.publisher import Publisher
from greenmq.transport.driver.router import Router
from greenmq.transport.driver.settler import Settler
from greenmq.transport.pause import Pause
from greenmq.transport.virtual.state import BrokerState
from greenmq.transport.waiters import WaitingLine

__all__ = ('Session', 'session_of')

logger = get_logger('greenmq.transport.driver')

#: Seconds for one attempt to recover, and for what is declared again after it.
ATTEMPT, RESTORING = 5.0, 30.0

#: (id of the hub, what tells URLs apart) → session. A session keeps its hub alive, so the number is its own.
_sessions: weakref.WeakValueDictionary[Any, Session] = weakref.WeakValueDictionary()
#: What tells URLs apart → what was declared there, by all threads of this process.
_states: weakref.WeakValueDictionary[Any, BrokerState] = weakref.WeakValueDictionary()


class _Told:
    """What a driver tells the base; knows the session weakly, so that a driver keeps nothing alive."""

    __slots__ = ('_session',)

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)

    def arrived(self, takens: Iterable[Taken]) -> None:
        session = self._session()
        if session is not None:
            session.intake.arrived(takens, session)

    def refused(self, taken: Taken, reason: str) -> None:
        session = self._session()
        if session is not None:
            session.arrival.refused(session, taken, reason)

    def look(self, queue: str | None = None) -> None:
        session = self._session()
        if session is not None:
            session.intake.kick(queue)

    def changed(self, exchange: str | None = None) -> None:
        session = self._session()
        if session is not None:
            session.router.changed(exchange)

    def lost(self, error: Exception) -> None:
        session = self._session()
        if session is not None:
            ours = translate(session.driver, error)[0]
            session.lost(ours if is_loss(ours) else ConnectionLost(str(error)))

    def next_host(self) -> None:
        session = self._session()
        if session is not None:
            session.next_host()

    def turn(self, deadline: runtime.Deadline) -> runtime.Deadline:
        session = self._session()
        return deadline if session is None else session.turn(deadline)


class Session:
    """One driver, shared by the connections of a hub to one URL.

    Arguments:
        driver_cls (Callable[..., Driver]): what to make.
        place (Place), settings (dict): for it.
        name (str): for texts; holds no password.
        state (BrokerState): what was declared there; a new one if None.
    Attributes:
        driver, settler, leases, router, publisher, intake, arrival: its parts.
        state (str): one word of those above.
        epoch (int): how often it was opened.
        failure (Exception | None): why it is lost.
    """

    #: The parts that a transport may have its own of, where its broker asks for other ways.
    Publisher: ClassVar[Any] = Publisher
    Settler: ClassVar[Any] = Settler
    Arrival: ClassVar[Any] = Arrival

    def __init__(
        self,
        driver_cls: Callable[..., Driver],
        place: Place,
        settings: dict[str, Any],
        name: str,
        state: BrokerState | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.state = 'new'
        self.epoch = 0
        self.failure: Exception | None = None
        self._hub = runtime.hub_id()
        self._users: weakref.WeakSet[Any] = weakref.WeakSet()
        self._waiting = WaitingLine()
        self._attempts = WaitingLine()
        self.pause = Pause()  # of the recovery, between two tries
        self._opening = runtime.Once()
        self._recovery: Any = None
        self._early: Exception | None = None  # a loss that the driver told of while it was being opened
        self._sweeper: Any = None
        self.driver = driver_cls(place, settings, _Told(self))
        driver = self.driver
        operation = settings['operation_timeout'] or 30.0
        if settings.get('wait_time_seconds') is not None:
            driver.wait_seconds = settings['wait_time_seconds']
        if settings.get('lease_timeout') is not None and driver.lease_seconds is not None:
            driver.lease_seconds = settings['lease_timeout']
        self.router = Router(self, BrokerState() if state is None else state, settings['deadletter_queue'])
        self.publisher = self.Publisher(self, driver, settings)
        self.settler = self.Settler(self, driver, operation)
        self.leases = Leases(driver)
        self.arrival = self.Arrival(driver, settings['max_deliveries'])
        self.intake = Intake(self, driver, settings)
        runtime.after_fork(self._after_fork)
        runtime.at_thread_end(self)

    # ---- lives

    def open(self, deadline: runtime.Deadline) -> None:
        """Open the driver for the first time, once for all who ask.

        Raises:
            ConnectionLost, OSError, TimeoutError: not reached. Others: refused.
        Switches: yes, unless it is open.
        """
        if self.state == 'new':
            self._opening.do('open', lambda: self._open(deadline), f'{self.name} was not opened', deadline)
        elif self.state == 'lost':
            self.wait_attempt(deadline)
        elif self.state != 'open':
            raise ConnectionClosed(f'{self.name} is closed')

    def _open(self, deadline: runtime.Deadline) -> None:
        driver = self.driver
        self._early = None
        try:
            bounded(f'open {self.name}', deadline, driver.open, deadline)
        except Exception as error:
            ours = translate(driver, error)[0]
            try:
                if ours is error:
                    raise
                raise ours from error
            finally:
                del ours  # its traceback knows this frame
        if self.state != 'new':
            close_driver(driver, deadline)
            raise ConnectionClosed(f'{self.name} was closed while it was being opened')
        self._opened()
        interval = self.settings['sweep_interval']
        if type(driver).sweep is not Driver.sweep and interval:
            self._sweeper = runtime.every(self, interval, _sweep, name='greenmq-sweep', jitter=0.5)
        self._lost_early()

    def _opened(self) -> None:  # no switch
        self.state = 'open'
        self.failure = None
        self.epoch += 1
        self._waiting.wake()
        self._attempts.wake()

    def lost(self, error: Exception, epoch: int | None = None) -> None:
        """The connection to the broker is gone: tell everybody, and open it again.

        Arguments:
            epoch (int): when the call began that met it: of an older connection it is no news. None: the
                driver tells of it.
        """
        if epoch is None and self.state in ('new', 'lost'):
            self._early = error
        if self.state != 'open' or epoch not in (None, self.epoch):
            return
        self.state = 'lost'
        self.failure = error
        logger.log(outage_level('lost', self.name), '%s: the connection was lost: %s', self.name, error)
        if not self.driver.survives_loss:
            for channel in self.channels:
                channel.lose()
            self.leases.end_all()
        self.router.changed()  # nobody tells of changes now
        self.settler.lost()
        self.intake.lost()
        for user in list(self._users):
            user.on_lost(error)
        self.begin_recovery()

    def _lost_early(self) -> None:
        # What a driver is told between the end of its `open` and ours, no call of ours may ever meet.
        error, self._early = self._early, None
        if error is not None:
            self.lost(error)

    def has_given_back(self, epoch: int) -> bool:
        """Did the broker give back what a call brought that began in this epoch?"""
        return not self.driver.survives_loss and (self.state == 'lost' or self.epoch != epoch)

    def begin_recovery(self) -> None:
        """Open the driver again, in a task, until it is open."""
        self._recovery = runtime.spawn(
            _recover, weakref.ref(self), name=f'greenmq-recovery {self.name}', owner=self
        )

    def recovered(self) -> None:
        """The driver is open again."""
        self._opened()
        logger.info('%s: the connection is back', self.name)
        for user in list(self._users):
            user.on_recovered()
        self.settler.flush()
        self.intake.recovered()

    def attempt_failed(self, error: Exception) -> None:
        """An attempt to recover failed."""
        self.failure = error
        self._attempts.fail(error)

    def next_host(self) -> None:
        """Go to the next host of a connection's list, if it has one."""
        for user in list(self._users):
            place = user.next_place()
            if place is not None:
                self.driver.place = place
                return

    def turn(self, deadline: runtime.Deadline) -> runtime.Deadline:
        """Until when the present host may be silent before the next one has its turn."""
        for user in self._users:
            if user.client is not None and user.client.cycle is not None:
                turn: runtime.Deadline = user.client.opener.turn(deadline)
                return turn
        return deadline

    def arrived_in(self, hub: Any) -> None:
        """Another thread goes on with the session."""
        self._hub = hub

    @property
    def is_here(self) -> bool:
        """Does it belong to this native thread?"""
        return runtime.is_here(self._hub)

    def check_here(self) -> None:
        """Refuse another native thread.

        Raises:
            WrongHub: the session belongs to another thread.
        """
        if not runtime.is_here(self._hub):
            raise WrongHub(repr(self))

    def wait_open(self, deadline: runtime.Deadline | None) -> None:
        """Wait until it is open.

        Raises:
            TimeoutError: not in time. ConnectionClosed: closed.
        Switches: only if it is not open.
        """
        self._wait(self._waiting, deadline)

    def wait_attempt(self, deadline: runtime.Deadline | None) -> None:
        """As `wait_open`, but no longer than to the end of the present attempt.

        Raises:
            Exception: what the attempt failed with.
        """
        self.pause.end()
        self._wait(self._attempts, deadline)

    def _wait(self, line: WaitingLine, deadline: runtime.Deadline | None) -> None:
        while self.state != 'open':
            self.check_here()
            if self.state in ('closing', 'closed', 'foreign'):
                raise ConnectionClosed(f'{self.name} is closed')
            line.wait(deadline, f'{self.name} is away ({self.failure}); it did not come back')

    # ---- the seam

    def call(
        self,
        what: str,
        deadline: runtime.Deadline,
        fun: Callable[..., Any],
        *args: Any,
        decline: Any = None,
        uncut: bool = False,
    ) -> Any:
        """Make one call of the driver, within a deadline that holds whatever the driver does.

        Arguments:
            decline (Callable), uncut (bool): as for `errors.bounded`.

        Raises:
            Exception: as `errors.translate` has it; a loss begins the recovery. TimeoutError: not in time.
        Switches: yes. Killed: the call is killed.
        """
        self.check_here()
        if self.state != 'open':
            self.wait_open(deadline)
        epoch = self.epoch
        try:
            if self.driver.keeps_deadline:
                return fun(*args)
            return bounded(what, deadline, fun, *args, decline=decline, uncut=uncut)
        except Exception as error:
            ours, _ = translate(self.driver, error)
            if is_loss(ours):
                self.lost(ours, epoch)
            if ours is error:
                raise
            raise ours from error

    def publish_again(self, message: dict[str, Any], exchange: str, key: str) -> None:
        """Publish a message that was decoded, e.g. to a dead-letter exchange. Switches: yes."""
        deadline = runtime.Deadline.after(self.settings['operation_timeout'])
        properties = dict(message['properties'])
        body, encoding = message.get('body'), properties.pop('body_encoding', None)
        if encoding == 'base64' and body:
            body = self.publisher.decoded(body)
        fresh = {**message, 'body': body, 'properties': properties}
        self.publish(fresh, exchange, key, False, deadline)

    def publish(
        self, message: dict[str, Any], exchange: str, key: str, mandatory: bool, deadline: runtime.Deadline
    ) -> None:
        """Route a message and put it; see `publisher`. Switches: yes."""
        native = bool(exchange) and self.router.is_native(exchange)
        queues = [''] if native else self.router.targets(exchange, key, message, mandatory, deadline)
        if queues:
            items = self.publisher.items(message, exchange, key, queues, self.router.arguments)
            try:
                self.publisher.put(items, deadline)
            except Unroutable:
                if mandatory or not native:
                    raise
            if self.driver.delivery == 'poll':
                for queue in queues:
                    self.intake.kick(queue)

    def give_back(self, takens: Iterable[Taken]) -> None:
        """Nobody wants these: as if they had never been taken."""
        for taken in takens:
            self.settler.back(taken, UNSEEN)

    def report(self, error: Exception) -> None:
        """Something in the background failed, and is tried again: the drains learn of it."""
        for user in list(self._users):
            user.report(error)

    def ping(self, deadline: runtime.Deadline) -> None:
        """Have the broker answer. Switches: yes."""
        self.call('ping', deadline, self.driver.ping, deadline)

    # ---- users

    def join(self, user: Any) -> None:
        """A connection uses the session."""
        self._users.add(user)

    def leave(self, user: Any, deadline: runtime.Deadline) -> None:
        """A connection is done with the session; the last one closes it. Switches: yes, if it is the last."""
        self._users.discard(user)
        if not self._users:
            self.close(deadline)

    @property
    def users(self) -> list[Any]:
        """The connections that use it."""
        return list(self._users)

    @property
    def channels(self) -> list[Any]:
        """The channels of all its connections."""
        return [channel for user in self._users for channel in user.channels]

    def consumers(self, queue: str) -> int:
        """How many consumers of a queue there are in this session."""
        return sum(channel.books.consumers(queue) for channel in self.channels)

    def has_exclusive(self, queue: str) -> bool:
        """Does one of them have the queue for itself?"""
        return any(channel.books.exclusive(queue) for channel in self.channels)

    def close(self, deadline: runtime.Deadline) -> None:
        """Settle what is to be settled, and let go of the broker. Idempotent. Switches: yes."""
        if self.state == 'open':
            self.arrival.wait(deadline)
        if self.state in ('closing', 'closed', 'foreign'):
            return
        opened = self.state == 'open'
        self._drop_out()
        error = ConnectionClosed(f'{self.name} is closed')
        self.state = 'closing' if opened else 'closed'
        for task in (self._recovery, self._sweeper):
            if task is not None:
                task.kill()
        self._waiting.fail(error)
        self._attempts.fail(error)
        flying: list[Any] = []
        try:
            flying = self.intake.close(deadline)
            self._shut(flying, opened, error, deadline)
        except BaseException:
            # Killed: a task goes on from the start, and what is done already is done again.
            runtime.spawn(self._shut, flying, opened, error, deadline, name='greenmq-close')
            raise

    def _shut(self, flying: list[Any], opened: bool, error: Exception, deadline: runtime.Deadline) -> None:
        self.publisher.closed(error)
        if opened and not self.settler.wait(deadline):
            logger.warning(
                '%s: %d settlements could not be sent: their messages will be delivered again',
                self.name, self.settler.pending,
            )  # fmt: skip
        self.state = 'closed'
        self.leases.stop()
        if flying:
            # Takes that must not be cut: the driver is closed when they have ended.
            Ending(flying, self.driver).begin()
        else:
            close_driver(self.driver, deadline)

    def _drop_out(self) -> None:
        for key, session in list(_sessions.items()):
            if session is self:
                del _sessions[key]

    def thread_ended(self) -> None:
        """See `runtime.at_thread_end`."""
        self.close(runtime.Deadline.after(1.0))

    def _after_fork(self) -> None:
        # The parent goes on using the broker; nothing of its deliveries is ours.
        self._drop_out()
        self.state = 'foreign'
        for channel in self.channels:
            channel.lose()
            channel.closed = True
        self.leases.stop()
        self.driver.forget()

    def stats(self) -> dict[str, Any]:
        """Numbers for the health page and metrics."""
        return {
            'state': self.state,
            'epoch': self.epoch,
            'last_error': None if self.failure is None else str(self.failure),
            'published': self.publisher.published,
            'put_calls': self.publisher.calls,
            'publishes_waiting': self.publisher.waiting,
            'taken': self.intake.taken,
            'take_calls': self.intake.calls,
            'settled': self.settler.settled,
            'settle_calls': self.settler.calls,
            'settlements_waiting': self.settler.pending,
            'leases': len(self.leases),
            'lease_renewals': self.leases.renewals,
            **self.driver.stats(),
        }

    def __repr__(self) -> str:
        return f'<Session {self.name}: {self.state}, epoch {self.epoch}>'


def session_of(driver_cls: type[Driver], place: Place, settings: dict[str, Any], name: str) -> Session:
    """Return the session of this hub to a place, made if there is none."""
    there = (driver_cls, repr(place), repr(sorted(settings.items(), key=_first)))
    key = (id(runtime.hub_id()), there)
    session = _sessions.get(key)
    if session is None or session.state not in ('new', 'open', 'lost'):
        declared = _states.get(there)
        if declared is None:
            declared = _states.setdefault(there, BrokerState())
        session = _sessions[key] = Session(driver_cls, place, settings, name, declared)
    return session


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _recover(ref: Callable[[], Session | None]) -> None:
    retry = RetrySchedule(None, 0.05, 0.2, 5.0, jitter=0.5)
    failures = 0
    while True:
        session = ref()
        if session is None or session.state != 'lost':
            return
        driver = session.driver
        deadline = session.turn(
            runtime.Deadline.after(session.settings.get('connect_timeout') or ATTEMPT)
        )
        session._early = None
        del session  # not kept alive by a task that opens or sleeps
        try:
            bounded('open again', deadline, driver.open, deadline)
        except Exception as error:  # told to who waits for the attempt; the next one follows
            failures += 1
            session = ref()
            if session is None:
                return
            session.attempt_failed(translate(driver, error)[0])
            session.next_host()
            pause = session.pause
            del session
            pause.make(retry.delay(failures))
            continue
        session = ref()
        if session is None or session.state != 'lost':
            return
        session.recovered()
        runtime.spawn(_restore, ref, name='greenmq-restore', owner=session)
        session._lost_early()
        return


def _restore(ref: Callable[[], Session | None]) -> None:
    session = ref()
    if session is not None:
        try:
            session.router.restore(runtime.Deadline.after(RESTORING))
        except Exception as error:  # the next declaration or recovery does it
            logger.warning('%s: what was declared could not be declared again: %s', session.name, error)


def _sweep(session: Session) -> None:
    if session.state == 'open':
        deadline, epoch = runtime.Deadline.after(session.settings['operation_timeout'] or 30.0), session.epoch
        try:
            bounded('sweep', deadline, session.driver.sweep, deadline)
        except Exception as error:  # the next round may succeed
            ours = translate(session.driver, error)[0]
            logger.warning('%s: a sweep failed: %s', session.name, ours)
            if is_loss(ours):
                session.lost(ours, epoch)
