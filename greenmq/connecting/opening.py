"""Opening a connection, losing it and closing it, with any number of greenlets at it.

Each change of state is one stretch without a switch: whoever comes next finds either the whole connection or
none, and slow farewells are said by a task of their own, within a bound.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from greenmq import events, runtime
from greenmq.connecting.address import Addressed
from greenmq.connecting.attempt import SharedAttempt
from greenmq.connecting.retrying import DAEMON_JITTER, JITTER, LibraryErrors, Policy, reconnect
from greenmq.connecting.threads import ThreadConnections
from greenmq.exceptions import ConnectionClosed, ConnectionLost, WrongHub
from greenmq.log import get_logger, outage_over, tell_notices
from greenmq.transport.base import Transport as BaseTransport

if TYPE_CHECKING:
    from greenmq.connection import Connection

logger = get_logger('greenmq.connection')

OpeningT = TypeVar('OpeningT', bound='Opening')

CLOSE_TIMEOUT = 5.0  # seconds: what close() waits for the other side at most
EXIT_SLACK = 0.5  # seconds: so much later than close() itself its caller at the exit gives up


class Opening(Addressed):
    """The half of a Connection that is opened, lost and closed."""

    #: How often this connection was opened. A transport that recovers by itself counts on with `begin_epoch`.
    epoch = 0
    #: The deadline of the attempt under way, for `Transport.establish_connection`; None outside of one.
    connect_deadline: runtime.Deadline | None = None

    #: `ensure_connection` makes the pauses that the transport makes between its own tries to recover, unless
    #: it is told others: for daemons, which shall be back when the broker is.
    paced_by_transport = False

    _connection: Any = None
    _default_channel: Any = None
    _dial: SharedAttempt[Any] | None = None
    _hub: Callable[[], Any] | None = None
    _closed = False
    _switch_due = False
    _lost = False
    _fork_hooked = False
    _thread_connections: ThreadConnections | None = None  # never None in the instance: see `sibling`

    def connect(self: OpeningT) -> OpeningT:
        """Open the connection now; each host is tried, and a single host twice.

        Returns:
            Connection: itself.
        Raises:
            ConnectionLost and whatever else the transport raises when a broker can't be reached.
        Switches: yes. Killed: the next greenlet that waits for this connection tries on.
        Source: kombu Connection.connect; differs: returns the Connection.
        """
        hosts = len(self._hosts)
        limit = None if self.connect_timeout is None else self.connect_timeout * hosts
        self._ensure_connection(
            max_retries=max(1, hosts - 1), reraise_as_library_errors=False, timeout=limit
        )
        return self

    def ensure_connection(self: OpeningT, *args: Any, **kwargs: Any) -> OpeningT:
        """Open the connection, trying again until it is open.

        Arguments:
            errback (Callable[[Exception, float], None]): called before each pause, with its seconds.
            max_retries (int): None tries for ever, within `timeout`.
            interval_start, interval_step, interval_max (float): seconds between tries: 2, then 2 more each
                time, up to 30.
            callback (Callable[[], None]): called each second of a pause.
            reraise_as_library_errors (bool): False lets the transport's own error out.
            timeout (float): seconds for all of it; None: no limit.
        Returns:
            Connection: itself, also for a ``with``, which closes it.
        Raises:
            OperationalError: given up; the transport's error is its cause.
            ConnectionClosed: it was closed while we tried.
        Switches: yes, unless it is open.
        Source: kombu Connection.ensure_connection.
        """
        self._ensure_connection(*args, **kwargs)
        return self

    def _ensure_connection(
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
        if self.connected:
            self._enter()
            return self._connection
        start, step, most = _pauses(self)
        policy = Policy(
            errback,
            max_retries,
            start if interval_start is None else interval_start,
            step if interval_step is None else interval_step,
            most if interval_max is None else interval_max,
            callback=callback,
            jitter=DAEMON_JITTER if self.paced_by_transport else JITTER,
        )
        deadline = runtime.Deadline.of(timeout)
        whole = cast('Connection', self)
        if not reraise_as_library_errors:
            return reconnect(whole, self._enter(), policy, deadline, patience=patience)
        with LibraryErrors(whole):
            return reconnect(whole, self._enter(), policy, deadline, patience=patience)

    def _enter(self) -> SharedAttempt[Any]:
        """The dial of this hub; from now on the connection is this hub's."""
        dial = self._dial
        if dial is None:
            # weakly: a connection must not keep the hub of a thread that has ended
            self._hub = weakref.ref(runtime.hub_id())
            runtime.end_hub_with_thread()
            dial = self._dial = SharedAttempt(self.as_uri())
            if not self._fork_hooked:
                self._fork_hooked = True
                runtime.after_fork(self._after_fork)
        else:
            self._check_hub()
        self._closed = False
        return dial

    def _check_hub(self) -> None:
        if self._hub is not None and not runtime.is_here(self._hub()):
            self._move_here()

    def _move_here(self) -> None:
        """Belong to the calling thread from now on, if nobody waits for anything in the other one."""
        dial, transport, connection = self._dial, self._transport, self._connection
        if self._closed or (dial is not None and dial.in_use):
            raise WrongHub(repr(self))
        if connection is not None:
            move = getattr(transport, 'move_here', None)
            if move is None:
                raise WrongHub(repr(self))
            move(connection)
        self._hub = weakref.ref(runtime.hub_id())
        runtime.end_hub_with_thread()
        runtime.at_exit(self, Opening.close, self._close_seconds + EXIT_SLACK)

    def _open(self, dial: SharedAttempt[Any], deadline: runtime.Deadline) -> Any:
        return dial.run(self._ready, self._dial_once, deadline, self.connect_timeout)

    def _ready(self) -> Any:
        return self._connection if self.connected else None

    def _dial_once(self, deadline: runtime.Deadline) -> Any:
        if self._switch_due:
            # Not when the last attempt failed but now: error handlers want to name the host that failed.
            self._switch_due = False
            self._next_host()
        transport: Any = self.transport
        dial, lost = self._dial, self._connection
        recovers = lost is not None and getattr(transport, 'keeps_channels', False)
        self.connect_deadline = deadline
        try:
            if recovers:
                found = transport.recover_connection(lost, deadline)
            else:
                self._drop()
                transport = self.transport
                found = self._establish_connection()
        except Exception:
            # a connection that recovers by itself walks the hosts by itself
            self._switch_due = len(self._hosts) > 1 and not recovers
            raise
        except BaseException:
            if self._dial is dial and not recovers:
                self._transport = None  # cut in the middle: the next attempt starts with a fresh one
            raise
        finally:
            self.connect_deadline = None
        if self._dial is not dial:
            _shut(transport, found, CLOSE_TIMEOUT, runtime.hub_id(), wait=False)
            raise ConnectionClosed(f'{self!r} was closed while it was being opened')
        if found is not lost:
            away = outage_over(self.host)
            if away is not None:
                logger.warning('%s: connected again after %.0f s', self.as_uri(), away)
            self._connection = found
            self.begin_epoch()
            if self._lost:
                self._lost = False
                events.emit('recovered', self, epoch=self.epoch)
        return found

    def _establish_connection(self) -> Any:
        # kombu's name and place: programs that test what they do without a broker let this fail
        return self.transport.establish_connection()

    def begin_epoch(self) -> None:
        """Note that the connection was opened anew: what was declared on it must be looked at again.

        For transports whose connection recovers by itself; others need not call it.
        """
        self.epoch += 1
        tell_notices(logger)
        self.declared_entities.clear()
        if not getattr(self._transport, 'keeps_channels', False):
            self._default_channel = None
        runtime.at_exit(self, Opening.close, self._close_seconds + EXIT_SLACK)

    # ------------------------------------------------------------------------------------------ closing

    def close(self) -> None:
        """Close the connection; who waits in `drain_events` or for it to open gets ConnectionClosed.

        Any greenlet may call it at any time, any number of times; the next `connect()` opens it again. It
        takes at most the option `close_timeout` (5 s); what is not closed by then is abandoned.

        Switches: yes, if it was open. Killed: closing goes on in the background.
        Source: kombu Connection.close.
        """
        self._closed = True
        self._part_with(self._close_seconds)

    @property
    def _close_seconds(self) -> float:
        timeout = self.transport_options.get('close_timeout')
        return CLOSE_TIMEOUT if timeout is None else float(timeout)

    def release(self) -> None:
        """Close the connection; one that came from a pool goes back there instead.

        Switches: yes.
        Source: kombu Connection.release.
        """
        self.close()

    def collect(self, socket_timeout: float | None = None) -> None:
        """Let go of the connection without much ado; it opens again when it is needed.

        Arguments:
            socket_timeout (float): seconds to wait for the other side; 0 does not wait, None means 5.
        Switches: yes, if it was open.
        Source: kombu Connection.collect; differs: no process-wide socket timeout is changed.
        """
        self._part_with(CLOSE_TIMEOUT if socket_timeout is None else socket_timeout)

    def _part_with(self, timeout: float) -> None:
        # no switch up to the last line: whoever comes next finds a connection that is not open
        dial, hub = self._dial, self._hub() if self._hub is not None else None
        self._dial = self._hub = None
        parts = self._take()
        if dial is not None:
            if hub is runtime.hub_id():
                dial.close()
            elif hub is not None:
                runtime.post(hub, dial.close)
        thread_connections = self.__dict__.pop('_thread_connections', None)
        if thread_connections is not None:
            thread_connections.close()
        if parts is not None:
            _shut(*parts, timeout or CLOSE_TIMEOUT, hub, wait=timeout > 0)

    def sibling(self: OpeningT) -> OpeningT:
        """The connection with which this native thread publishes what it is told to publish on this one.

        One a thread, closed with this one or when the thread ends.

        Returns:
            Connection: with the same settings; opened by its first use.
        Raises:
            ConnectionClosed: this one was closed.
        """
        if self._closed:
            raise ConnectionClosed(f'{self!r} is closed')
        # two threads may be the first
        known = self._thread_connections
        if known is None:
            known = self.__dict__.setdefault('_thread_connections', ThreadConnections())  # two may race
        return cast('OpeningT', known.of(self))

    def _take(self) -> tuple[Any, Any] | None:
        parts = self._transport, self._connection
        self._transport = self._connection = self._default_channel = None
        self.declared_entities.clear()
        return None if parts[1] is None else parts[:2]

    def _drop(self, error: BaseException | None = None) -> None:
        """Let go of a connection that is lost; those who wait for the next one go on waiting."""
        if self._connection is None:
            # Nothing was open: the transport has seen nothing, and what the program has set on it stays.
            self._default_channel = None
            self.declared_entities.clear()
            return
        parts = self._take()
        if parts is not None:
            self._lost = True
            events.emit('lost', self, epoch=self.epoch, error=error)
            _shut(*parts, CLOSE_TIMEOUT, self._hub() if self._hub else None, wait=False)

    def _drop_if_lost(self, exc: BaseException) -> None:
        transport, connection = self._transport, self._connection
        if connection is None or getattr(transport, 'keeps_channels', False):
            return
        told = isinstance(exc, ConnectionLost)
        # A transport that can't tell answers "alive" always: then its error must be believed.
        blind = type(transport).verify_connection is BaseTransport.verify_connection
        if told or blind or not transport.verify_connection(connection):
            self._drop(exc)

    def _after_fork(self) -> None:
        # The parent goes on using all this. The socket itself was closed by runtime, without a byte sent.
        self._dial = self._hub = None
        self.__dict__.pop('_thread_connections', None)
        self.declared_entities.clear()
        if not getattr(self._transport, 'keeps_channels', False):
            self._transport = self._connection = self._default_channel = None
        self.connect_deadline = None

    def switch(self, conn_str: str) -> None:
        """Close, and go to another URL or host from now on; does not connect.

        Switches: yes, if it was open.
        Source: kombu Connection.switch.
        """
        self.close()
        self._closed = False
        self._apply(conn_str)

    def maybe_switch_next(self) -> None:
        """Switch to the next URL of the failover strategy, if there is one.

        Switches: yes, if it was open.
        Source: kombu Connection.maybe_switch_next.
        """
        if self.cycle is not None:
            self.switch(next(self.cycle))

    def _next_host(self) -> None:
        if self.cycle is not None:
            self._drop()
            self._transport = None
            self._apply(next(self.cycle))

    @property
    def connection(self) -> Any:
        """The transport's own connection object, opened if need be; None once it was closed."""
        return None if self._closed else self._live()

    @property
    def connected(self) -> bool:
        """True if the connection is open, as far as we know."""
        found = self._connection
        return found is not None and not self._closed and bool(self._transport.verify_connection(found))

    @property
    def recovering(self) -> bool:
        """True if it was lost and comes back by itself, in the background."""
        found, ask = self._connection, getattr(self._transport, 'recovering', None)
        return found is not None and not self._closed and ask is not None and bool(ask(found))

    def _live(self) -> Any:
        """The transport's connection; opened if need be, but not again once it was closed."""
        if self._closed:
            raise ConnectionClosed(f'{self!r} is closed')
        if not self.connected:
            self.connect()
        else:
            self._check_hub()
        return self._connection


def _pauses(connection: Opening) -> Any:
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
