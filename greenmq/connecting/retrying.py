"""Trying again: reconnect under a schedule, and repeat an operation until it went through on a live
connection.

Which errors are worth another try the transport says by its tuples. What NEVER_RETRIED names passes
untouched, save a publish that went unconfirmed because its link was lost: that is a loss like any other, and
what became of the first try is told if no other succeeds. Nothing here closes a connection that still works:
others may be using it (P24).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from greenmq import runtime
from greenmq.core.retry import RetrySchedule, turn_seconds
from greenmq.exceptions import (
    NEVER_RETRIED,
    ConnectionBlocked,
    KombuError,
    OperationalError,
    PublishNacked,
    PublishUnconfirmed,
    TimeoutError,
)
from greenmq.transport.base import names_errors_only

if TYPE_CHECKING:
    from types import TracebackType

    from greenmq.connecting.attempt import SharedAttempt
    from greenmq.connection import Connection

Errback = Callable[[BaseException, float], Any]


#: The part of a pause that chance takes away at most: the clients of a broker that went down must not all
#: come back in one moment.
JITTER = 0.1
#: The same for a daemon: its fellows were all cut off in the same moment.
DAEMON_JITTER = 0.5


class Policy(NamedTuple):
    """How often and how long to try; the arguments of Connection.ensure. Durations in seconds."""

    errback: Errback | None = None
    max_retries: int | None = None
    interval_start: float = 1
    interval_step: float = 1
    interval_max: float = 1
    on_revive: Callable[[Any], Any] | None = None
    retry_errors: tuple[type[BaseException], ...] = ()
    callback: Callable[[], Any] | None = None
    jitter: float = JITTER

    def schedule(self, retries: int = 0) -> RetrySchedule:
        """The delays that are left after `retries`; at least one more attempt to connect, as in kombu."""
        left = None if self.max_retries is None else self.max_retries
        if left is not None and retries:
            left = max(left - retries, 1)
        return RetrySchedule(left, self.interval_start, self.interval_step, self.interval_max)


class LibraryErrors:
    """Context manager: the transport's recoverable errors come out as the given classes, with their cause.

    A class and not a generator: it stands round every publish.
    """

    __slots__ = ('_channel_class', '_class', '_connection')

    def __init__(
        self,
        connection: Connection,
        connection_class: type[Exception] = OperationalError,
        channel_class: type[Exception] = OperationalError,
    ) -> None:
        self._connection = connection
        self._class = connection_class
        self._channel_class = channel_class

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # KombuErrors are the library's already, and say more than OperationalError would
        if exc is None or isinstance(exc, (KombuError, self._class, self._channel_class, *NEVER_RETRIED)):
            return
        if isinstance(exc, self._connection.recoverable_connection_errors):
            raise self._class(str(exc)) from exc
        if isinstance(exc, self._connection.recoverable_channel_errors):
            raise self._channel_class(str(exc)) from exc


def reconnect(
    connection: Connection,
    dial: SharedAttempt[Any],
    policy: Policy,
    deadline: runtime.Deadline,
    retries: int = 0,
    patience: runtime.Deadline = runtime.NEVER,
) -> Any:
    """Open `connection`, again and again as `policy` says, over all its hosts.

    Arguments:
        dial (SharedAttempt): the one that was there when the caller came; when it is closed, recovery ends.
        deadline (Deadline): ends an attempt and a pause under way.
        patience (Deadline): ends neither, but after it no further round of hosts begins.
    A host that was silent when the next one had its turn has not had a whole try: it does not count as one of
    the policy's, and the next round follows at once.
    Returns:
        object: the transport's connection.
    Raises:
        whatever the last attempt raised: no more retries, or the deadline has passed.
        ConnectionClosed: it was closed while we tried.
    Switches: yes. Killed: others that wait go on trying.
    """
    schedule = policy.schedule(retries)
    attempts = rounds = 0  # how many have failed
    turns = _Turns(connection, deadline)
    while True:
        try:
            return connection.opener.attempt(dial, deadline, turns.next())
        except NEVER_RETRIED:
            raise
        except connection.recoverable_connection_errors as exc:
            if not turns.passed_over():
                attempts += 1
            if schedule.gives_up(attempts) or deadline.expired():
                raise
            interval = 0.0
            # hosts not yet tried in this round are tried at once
            if connection.completes_cycle(turns.tries - 1):
                if patience.expired():
                    raise
                if not turns.some_passed_over:
                    rounds += 1
                    interval = schedule.delay(rounds)
            if policy.errback is not None:
                policy.errback(exc, interval)
            _pause(dial, _jittered(interval, policy.jitter), deadline, policy.callback)
            if deadline.expired():
                raise


class _Turns:
    """Whose turn it is among several hosts, and how long; see `core.retry.turn_seconds`.

    Attributes:
        tries (int): hosts that had a turn in vain.
        some_passed_over (bool): hosts of this round were silent to the end of their share.
    """

    def __init__(self, connection: Connection, deadline: runtime.Deadline) -> None:
        self.tries = 0
        self.some_passed_over = False
        self._connection = connection
        self._deadline = deadline
        self._round = self._turn = deadline
        self._shared = False

    def next(self) -> float | None:
        """The seconds of the try that begins now; None: no limit but the caller's deadline."""
        connection = self._connection
        seconds = connection.connect_timeout
        whole = self._deadline if seconds is None else self._deadline.within(seconds)
        hosts, left = len(connection.address.hosts), whole.remaining()
        if self.tries % hosts == 0:
            self._round, self.some_passed_over = whole, False
        self._turn, self._shared = whole, False
        # A connection that recovers by itself walks the hosts by itself.
        if left is not None and not connection.opener.recovers:
            share = turn_seconds(self.tries, hosts, left, self._round.remaining())
            self._shared = share < left
            if self._shared:
                self._turn = whole.within(share)
        return self._turn.seconds

    def passed_over(self) -> bool:
        """The try has failed: was it that the host was silent to the end of a share?"""
        self.tries += 1
        passed = self._shared and self._turn.expired()
        self.some_passed_over |= passed
        return passed


def _jittered(seconds: float, jitter: float) -> float:
    return seconds * (1 - jitter * random.random())


def _pause(
    dial: SharedAttempt[Any], seconds: float, deadline: runtime.Deadline, callback: Callable[[], Any] | None
) -> None:
    if callback is None:
        dial.pause(seconds, deadline)
        return
    # A caller that gave a callback wants it each second (kombu: to notice a shutdown, by raising).
    end = runtime.monotonic() + seconds
    while not deadline.expired():
        callback()
        left = end - runtime.monotonic()
        if left <= 0 or dial.pause(min(left, 1.0), deadline):
            return


def ensured_call(
    connection: Connection,
    obj: Any,
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    policy: Policy,
    deadline: runtime.Deadline,
) -> Any:
    """Call `fun` until it went through, reviving `obj` after each loss of the connection.

    Arguments:
        obj: gets ``revive(channel)`` when the connection is a new one; None or without `revive`: nothing is
            revived.
        policy (Policy): when to stop.
        deadline (Deadline): when to stop at the latest; `fun` bounds itself.
    Raises:
        OperationalError: given up; the transport's error is its cause.
    Switches: yes.
    """
    with LibraryErrors(connection):
        retries = 0
        recovered = False
        unknown: PublishUnconfirmed | None = None
        while True:
            epoch, dial = connection.epoch, connection.opener.dial
            try:
                return fun(*args, **kwargs)
            except Exception as exc:
                lost = _tells_of_a_loss(connection, exc)
                told = lost or _is_worth_a_try(connection, exc)
                if not told and (isinstance(exc, NEVER_RETRIED) or not isinstance(exc, policy.retry_errors)):
                    if unknown is not None and isinstance(exc, (PublishUnconfirmed, ConnectionBlocked)):
                        raise unknown from exc  # nor is that the last try was not sent
                    raise
                if lost and recovered and names_errors_only(connection.transport):
                    raise  # it cannot tell what a new connection helps against, and that one did not
                if isinstance(exc, PublishUnconfirmed) and exc.sent != 'no':
                    unknown = exc
                dial = dial or connection.opener.enter()
                try:
                    dial.pause(_next_try(exc, policy, retries, deadline, told), deadline)
                    if lost:
                        _recover(connection, dial, obj, exc, epoch, policy, retries, deadline)
                        recovered = True
                except connection.recoverable_connection_errors as final:
                    if unknown is None or final is unknown:
                        raise
                    # That no broker could be reached since is not what became of the message.
                    raise unknown from final
            retries += 1


def _tells_of_a_loss(connection: Connection, exc: Exception) -> bool:
    """Did the call fail because the connection was lost under it?"""
    if isinstance(exc, PublishUnconfirmed):
        # It says what became of the message; its cause says why: a loss, or that time was over.
        cause = exc.__cause__
        return isinstance(cause, connection.recoverable_connection_errors) and not isinstance(
            cause, (TimeoutError, *NEVER_RETRIED)
        )
    return isinstance(exc, connection.recoverable_connection_errors) and not isinstance(exc, NEVER_RETRIED)


def _is_worth_a_try(connection: Connection, exc: Exception) -> bool:
    """May the same call go through on the connection as it is?"""
    if isinstance(exc, NEVER_RETRIED):
        return False
    return isinstance(exc, (PublishNacked, *connection.recoverable_channel_errors))


def _next_try(
    exc: BaseException, policy: Policy, retries: int, deadline: runtime.Deadline, tell: bool = True
) -> float:
    """Seconds until the next try; raises `exc` when there is none."""
    given_up = policy.max_retries is not None and retries >= policy.max_retries
    if given_up or deadline.expired():
        try:
            raise exc
        finally:
            del exc  # its traceback holds this frame: each would keep the other until the collector comes
    # The first try again is immediate, as in kombu. After that an operation which kills its connection each
    # time must not become a loop that hammers the broker.
    delay = policy.schedule().delay(retries) if retries else 0.0
    if tell and policy.errback is not None:
        policy.errback(exc, delay)
    return delay


def _recover(
    connection: Connection,
    dial: SharedAttempt[Any],
    obj: Any,
    exc: BaseException,
    epoch: int,
    policy: Policy,
    retries: int,
    deadline: runtime.Deadline,
) -> None:
    # If the epoch has moved on, another greenlet met the same loss and has already reconnected.
    if connection.epoch == epoch:
        connection.opener.drop_if_lost(exc)
    if not connection.connected:
        reconnect(connection, dial, policy, deadline, retries)
    channel = connection.opener.channel_for(obj, deadline)
    revive = getattr(obj, 'revive', None)
    if revive is not None:
        revive(channel)
    if policy.on_revive is not None:
        policy.on_revive(channel)


class Ensured:
    """What Connection.ensure returns: call it like the function it stands for."""

    def __init__(
        self, connection: Connection, obj: Any, fun: Callable[..., Any], policy: Policy, timeout: Any
    ) -> None:
        self.connection = connection
        self.obj = obj
        self.fun = fun
        self.policy = policy
        self.timeout = timeout
        self.__name__ = f'{getattr(fun, "__name__", type(fun).__name__)}(ensured)'
        self.__doc__ = getattr(fun, '__doc__', None)
        self.__module__ = getattr(fun, '__module__', __name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; see Connection.ensure."""
        deadline = runtime.Deadline.of(self.timeout)
        if isinstance(self.obj, AutoRetry):
            self.obj.open()
        return ensured_call(self.connection, self.obj, self.fun, args, kwargs, self.policy, deadline)

    def __repr__(self) -> str:
        return f'<{self.__name__} on {self.connection!r}>'


class AutoRetry:
    """What Connection.autoretry makes `ensure` call and revive: a function and the channel it gets."""

    def __init__(
        self, connection: Connection, fun: Callable[..., Any], channel: Any, options: Mapping[str, Any]
    ) -> None:
        self.connection = connection
        self.fun = fun
        self.channel = channel
        self.options = options
        self.__name__ = getattr(fun, '__name__', type(fun).__name__)
        self.__doc__ = getattr(fun, '__doc__', None)

    def open(self) -> None:
        """Open the connection before the call, whose retries would multiply those of opening it.

        Raises:
            OperationalError: not within the retries that were asked for.
        Switches: yes, unless it is open.
        """
        if self.channel is None:
            self.connection.wait_open(self.options.get('timeout'), self.options)

    def revive(self, channel: Any) -> None:
        """Take this channel from now on."""
        self.channel = channel

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Call the function; returns what it returned, and the channel."""
        if self.channel is None:
            self.channel = self.connection.default_channel
        return self.fun(*args, channel=self.channel, **kwargs), self.channel
