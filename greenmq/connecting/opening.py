"""Opening a connection, losing it and closing it, with any number of greenlets at it.

Each change of state is one stretch without a switch: whoever comes next finds either the whole connection or
none, and slow farewells are said by a task of their own, within a bound.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from greenmq import events, runtime
from greenmq.abstract import is_closed
from greenmq.connecting.attempt import SharedAttempt
from greenmq.connecting.retrying import DAEMON_JITTER, JITTER, LibraryErrors, Policy, reconnect
from greenmq.connecting.threads import ThreadConnections
from greenmq.core.retry import turn_seconds
from greenmq.exceptions import ConnectionClosed, ConnectionLost, WrongHub
from greenmq.log import get_logger, outage_over, tell_notices
from greenmq.transport.base import Transport as BaseTransport

if TYPE_CHECKING:
    from greenmq.connection import Connection

logger = get_logger('greenmq.connection')

CLOSE_TIMEOUT = 5.0  # seconds: what close() waits for the other side at most
EXIT_SLACK = 0.5  # seconds: so much later than close() itself its caller at the exit gives up
RETRY_TIMEOUT = 30.0  # seconds: what an implicit connect (default_channel) tries at most after a loss

_RETRY_OPTIONS = ('max_retries', 'interval_start', 'interval_step', 'interval_max', 'errback', 'callback')


class Opener:
    """The life of one Connection: what is open, and how it is opened, lost and closed.

    Its `state` is one of

    * *new*: never opened, or let go of by `collect`; its next use opens it;
    * *open*: there is a connection of the transport (`connected` asks whether it still works);
    * *lost*: it was open and failed; its next use opens it again, and that is told;
    * *closed*: the program closed it; only `connect` and `ensure_connection` open it again.

    Arguments:
        owner (Connection): held weakly: it holds us.
    Attributes:
        transport (Transport | None): made when first asked for.
        connection (object): the transport's own connection; None while there is none.
        default_channel (object): a channel of it; None until it is asked for.
        closed (bool), lost (bool): see `state`.
        dial (SharedAttempt | None): the attempt that all who need it share; None in a new or closed one.
        connect_deadline (Deadline | None): of the attempt under way.
        epoch (int): how often it was opened.
        misses (int): how often another host's turn came since then.
    """

    def __init__(self, owner: Connection) -> None:
        self._owner = weakref.ref(owner)
        self.transport: Any = None
        self.connection: Any = None
        self.default_channel: Any = None
        self.closed = False
        self.lost = False
        self.dial: SharedAttempt[Any] | None = None
        self.connect_deadline: runtime.Deadline | None = None
        self.epoch = self.misses = 0
        self._hub: Callable[[], Any] | None = None
        self._switch_due = False
        self._fork_hooked = False

    @property
    def owner(self) -> Connection:
        """The Connection. Whoever calls us holds it."""
        owner = self._owner()
        if owner is None:
            raise ConnectionClosed('the Connection is gone')
        return owner

    @property
    def state(self) -> str:
        """One word of those above."""
        if self.closed:
            return 'closed'
        if self.connection is not None:
            return 'open'
        return 'lost' if self.lost else 'new'

    @property
    def connected(self) -> bool:
        """Is it open, as far as the transport knows?"""
        found = self.connection
        return found is not None and not self.closed and bool(self.transport.verify_connection(found))

    # ------------------------------------------------------------------------------------------- opening

    def ensure(
        self,
        errback: Callable[[BaseException, float], Any] | None = None,
        max_retries: int | None = None,
        interval_start: float | None = None,
        interval_step: float | None = None,
        interval_max: float | None = None,
        callback: Callable[[], Any] | None = None,
        reraise_as_library_errors: bool = True,
        timeout: runtime.Deadline | float | None = None,
        patience: runtime.Deadline = runtime.NEVER,
    ) -> Any:
        """See `Connection.ensure_connection`. Switches: yes, unless it is open."""
        if self.connected:
            self.enter()
            return self.connection
        owner = self.owner
        start, step, most = _pauses(owner)
        policy = Policy(
            errback,
            max_retries,
            start if interval_start is None else interval_start,
            step if interval_step is None else interval_step,
            most if interval_max is None else interval_max,
            callback=callback,
            jitter=DAEMON_JITTER if owner.paced_by_transport else JITTER,
        )
        deadline = runtime.Deadline.of(timeout)
        if not reraise_as_library_errors:
            return reconnect(owner, self.enter(), policy, deadline, patience=patience)
        with LibraryErrors(owner):
            return reconnect(owner, self.enter(), policy, deadline, patience=patience)

    def wait_open(
        self, deadline: runtime.Deadline | float | None, policy: Mapping[str, Any] | None
    ) -> None:
        """Open the connection, trying again.

        How often and how long, say `policy` and below it the transport options of the same names:
        max_retries, interval_start, interval_step, interval_max, errback, callback. One that was not open
        before is given up when all hosts were tried and connect_retries_timeout (a transport option; default:
        `connect_timeout`) has passed: a wrong address is told in seconds. One that was lost is worth waiting
        for: 30 seconds, or connect_retries_timeout.
        Switches: yes, unless it is open.
        """
        if self.connected:
            self.enter()
            return
        owner = self.owner
        options = owner.transport_options
        given = {**options, **(policy or {})}
        retries = {name: given[name] for name in _RETRY_OPTIONS if given.get(name) is not None}
        patience = options.get('connect_retries_timeout')
        if self.connection is None and not self.lost:
            patience = owner.connect_timeout if patience is None else patience
            first = runtime.Deadline.after(patience or None)
        else:
            first = runtime.NEVER
        if deadline is None and first is runtime.NEVER:
            deadline = runtime.Deadline.after(RETRY_TIMEOUT if patience is None else patience)
        self.ensure(**retries, timeout=deadline, patience=first)

    def live(self) -> Any:
        """The transport's connection; opened if need be, but not again once it was closed.

        Switches: yes, unless it is open.
        """
        if self.closed:
            raise ConnectionClosed(f'{self._owner()!r} is closed')
        if not self.connected:
            self.owner.connect()
        else:
            self.check_hub()
        return self.connection

    def enter(self) -> SharedAttempt[Any]:
        """The dial of this hub; from now on the connection is this hub's."""
        dial = self.dial
        if dial is None:
            # weakly: a connection must not keep the hub of a thread that has ended
            self._hub = weakref.ref(runtime.hub_id())
            runtime.end_hub_with_thread()
            dial = self.dial = SharedAttempt(self.owner.as_uri())
            if not self._fork_hooked:
                self._fork_hooked = True
                runtime.after_fork(self.after_fork)
        else:
            self.check_hub()
        self.closed = False
        return dial

    def check_hub(self) -> None:
        """Belong to the calling thread, if it is another one's and nobody waits for anything there.

        Raises:
            WrongHub: somebody does.
        """
        if self._hub is not None and not runtime.is_here(self._hub()):
            self._move_here()

    def _move_here(self) -> None:
        dial, transport, connection, owner = self.dial, self.transport, self.connection, self.owner
        if self.closed or (dial is not None and dial.in_use):
            raise WrongHub(repr(owner))
        if connection is not None:
            move = getattr(transport, 'move_here', None)
            if move is None:
                raise WrongHub(repr(owner))
            move(connection)
        self._hub = weakref.ref(runtime.hub_id())
        runtime.end_hub_with_thread()
        self._close_at_exit()

    def _close_at_exit(self) -> None:
        runtime.at_exit(self.owner, _close, self.close_seconds + EXIT_SLACK)

    def attempt(self, dial: SharedAttempt[Any], deadline: runtime.Deadline, fair: float | None) -> Any:
        """Open it once, or share an attempt under way. Switches: yes, unless it is open.

        Arguments:
            fair (float): seconds of a whole attempt, see `SharedAttempt.run`.
        """
        return dial.run(self._ready, self._dial_once, deadline, fair)

    def turn(self, deadline: runtime.Deadline) -> runtime.Deadline:
        """Until when the host that is tried now may be silent, for transports that recover.

        Arguments:
            deadline (Deadline): of the whole try; with one host it is that.
        """
        owner, seconds = self.owner, deadline.remaining()
        if owner.cycle is None or seconds is None:
            return deadline
        return deadline.within(turn_seconds(self.misses, len(owner.address.hosts), seconds))

    @property
    def recovers(self) -> bool:
        """Was it open, and opens again by itself, over all hosts?"""
        return self.connection is not None and bool(getattr(self.transport, 'keeps_channels', False))

    def _ready(self) -> Any:
        return self.connection if self.connected else None

    def _dial_once(self, deadline: runtime.Deadline) -> Any:
        owner = self.owner
        if self._switch_due:
            # Not when the last attempt failed but now: error handlers want to name the host that failed.
            self._switch_due = False
            self._next_host()
        transport: Any = owner.transport
        dial, lost = self.dial, self.connection
        recovers = self.recovers
        self.connect_deadline = deadline
        try:
            if recovers:
                found = transport.recover_connection(lost, deadline)
            else:
                self.drop()
                transport = owner.transport
                found = owner.establish()
        except Exception:
            # a connection that recovers by itself walks the hosts by itself
            self._switch_due = len(owner.address.hosts) > 1 and not recovers
            raise
        except BaseException:
            if self.dial is dial and not recovers:
                self.transport = None  # cut in the middle: the next attempt starts with a fresh one
            raise
        finally:
            self.connect_deadline = None
        if self.dial is not dial:
            _shut(transport, found, CLOSE_TIMEOUT, runtime.hub_id(), wait=False)
            raise ConnectionClosed(f'{owner!r} was closed while it was being opened')
        if found is not lost:
            away = outage_over(owner.host)
            if away is not None:
                logger.warning('%s: connected again after %.0f s', owner.as_uri(), away)
            self.connection = found
            owner.begin_epoch()
            if self.lost:
                self.lost = False
                events.emit('recovered', owner, epoch=self.epoch)
        return found

    def begin_epoch(self) -> None:
        """See `Connection.begin_epoch`."""
        self.epoch += 1
        self.misses = 0
        tell_notices(logger)
        self.owner.declared_entities.clear()
        if not getattr(self.transport, 'keeps_channels', False):
            self.default_channel = None
        self._close_at_exit()

    # ------------------------------------------------------------------------------------------ channels

    def open_default_channel(self, deadline: runtime.Deadline | None) -> Any:
        """The default channel, opened if there is none. Switches: yes."""
        owner = self.owner
        owner.wait_open(deadline)
        if self.default_channel is None or is_closed(self.default_channel):
            opened = owner.channel()
            if self.default_channel is None or is_closed(self.default_channel):
                self.default_channel = opened
            else:
                owner.maybe_close_channel(opened)  # another greenlet was faster
        return self.default_channel

    def channel_for(self, obj: Any, deadline: runtime.Deadline) -> Any:
        """The channel to revive `obj` with, now that the connection is open again. Switches: yes."""
        if getattr(self.transport, 'keeps_channels', False):
            kept = getattr(obj, 'channel', None)
            if kept is not None and not callable(kept):
                return kept
        return self.open_default_channel(deadline)

    def owns(self, channel: Any) -> bool:
        """Is a channel of the connection as it is now?"""
        parent = getattr(channel, 'connection', None)
        return parent is None or parent in (self.connection, self.transport)

    # ------------------------------------------------------------------------------------------- closing

    @property
    def close_seconds(self) -> float:
        """What `close` takes at most."""
        timeout = self.owner.transport_options.get('close_timeout')
        return CLOSE_TIMEOUT if timeout is None else float(timeout)

    def close(self) -> None:
        """See `Connection.close`. Switches: yes, if it was open."""
        self.closed = True
        self.part_with(self.close_seconds)

    def part_with(self, timeout: float) -> None:
        """Let go of the connection, and wait so many seconds for its end. Switches: yes, if it was open."""
        # no switch up to the last line: whoever comes next finds a connection that is not open
        dial, hub = self.dial, self._hub() if self._hub is not None else None
        self.dial = self._hub = None
        parts = self._take()
        if dial is not None:
            if hub is runtime.hub_id():
                dial.close()
            elif hub is not None:
                runtime.post(hub, dial.close)
        threads = self.__dict__.pop('_threads', None)
        if threads is not None:
            threads.close()
        if parts is not None:
            _shut(*parts, timeout or CLOSE_TIMEOUT, hub, wait=timeout > 0)

    def sibling(self) -> Any:
        """See `Connection.sibling`."""
        owner = self.owner
        if self.closed:
            raise ConnectionClosed(f'{owner!r} is closed')
        # Two threads may be the first: only one of them sets it.
        known = self.__dict__.get('_threads') or self.__dict__.setdefault('_threads', ThreadConnections())
        return known.of(owner)

    def _take(self) -> tuple[Any, Any] | None:
        parts = self.transport, self.connection
        self.transport = self.connection = self.default_channel = None
        self.owner.declared_entities.clear()
        return None if parts[1] is None else parts

    def drop(self, error: BaseException | None = None) -> None:
        """Let go of a connection that is lost; those who wait for the next one go on waiting."""
        owner = self.owner
        if self.connection is None:
            # Nothing was open: the transport has seen nothing, and what the program has set on it stays.
            self.default_channel = None
            owner.declared_entities.clear()
            return
        parts = self._take()
        if parts is not None:
            self.lost = True
            events.emit('lost', owner, epoch=self.epoch, error=error)
            _shut(*parts, CLOSE_TIMEOUT, self._hub() if self._hub else None, wait=False)

    def drop_if_lost(self, exc: BaseException) -> None:
        """The same, if an error means that it is."""
        transport, connection = self.transport, self.connection
        if connection is None or getattr(transport, 'keeps_channels', False):
            return
        told = isinstance(exc, ConnectionLost)
        # A transport that can't tell answers "alive" always: then its error must be believed.
        blind = type(transport).verify_connection is BaseTransport.verify_connection
        if told or blind or not transport.verify_connection(connection):
            self.drop(exc)

    def after_fork(self) -> None:
        """Be new in a forked child."""
        # The parent goes on using all this. The socket itself was closed by runtime, without a byte sent.
        self.dial = self._hub = None
        self.__dict__.pop('_threads', None)
        owner = self._owner()
        if owner is not None:
            owner.declared_entities.clear()
        if not getattr(self.transport, 'keeps_channels', False):
            self.transport = self.connection = self.default_channel = None
        self.connect_deadline = None

    def _next_host(self) -> None:
        owner = self.owner
        if owner.cycle is not None:
            self.drop()
            self.transport = None
            owner.next_host()


def _close(connection: Connection) -> None:
    connection.opener.close()


def _pauses(connection: Connection) -> Any:
    # interval_start, interval_step, interval_max where the caller gives none
    if not connection.paced_by_transport:
        return 2, 2, 30
    return getattr(connection.transport, 'recovery_pauses', None) or BaseTransport.recovery_pauses


def _shut(transport: Any, connection: Any, timeout: float, hub: Any, wait: bool) -> None:
    """Close in a task of its own, which gets `timeout` seconds; wait for it or not.

    In a task, so that a kill of the closer does not leave a socket open, and a broker that is silent does
    not hold it.
    """
    if hub is not runtime.hub_id():
        if hub is None or not runtime.post(hub, _shut, transport, connection, timeout, hub, False):
            _farewell(transport, connection)  # its thread is gone: nobody else uses it
        return
    task = runtime.spawn(
        _farewell, transport, connection, name='greenmq.connection closer',
        on_exit=lambda task, error: timer.cancel(),
    )  # fmt: skip
    timer = runtime.call_later(timeout, _give_up, task, connection)
    if wait and not runtime.in_hub():
        task.join()


def _farewell(transport: Any, connection: Any) -> None:
    # Not its channels one by one: each would wait for an answer that a dead broker does not give.
    try:
        transport.close_connection(connection)
    except Exception as exc:  # what is closed may be gone already, and says so in any way it likes
        logger.debug('closing %r: %r', connection, exc)
    finally:
        transport.client = None


def _give_up(task: runtime.Task, connection: Any) -> None:
    if not task.done:
        logger.warning('%r did not close in time; it is abandoned, the broker will notice later', connection)
        task.kill()
