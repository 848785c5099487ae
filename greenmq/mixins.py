"""Daemons: a class that says what it consumes gets greenlets that consume it, and comes back after a loss.

`run` gives each consumer a greenlet of its own (`consuming.runners`) and supervises them in its own.
`consume` is the single loop of kombu, for programs that step through it; a class that overrides one of its
parts is run by that loop.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from greenmq import runtime
from greenmq.common import ignore_errors
from greenmq.consuming.loop import Loop
from greenmq.consuming.runners import RunnerGroup, listed, settle_failed
from greenmq.consuming.status import Counts, StatusMixin, away
from greenmq.exceptions import ConnectionClosed, ConnectionLost, TimeoutError
from greenmq.log import get_logger, outage_level
from greenmq.message import settle_undecodable
from greenmq.messaging import Consumer, Producer
from greenmq.utils.limits import TokenBucket
from greenmq.utils.objects import cached_property

if TYPE_CHECKING:
    from collections.abc import Iterable

    from greenmq import messaging
    from greenmq.connection import Connection
    from greenmq.message import Message
    from greenmq.types import Channel

__all__ = ('ConsumerMixin', 'ConsumerProducerMixin')

logger = get_logger('greenmq.mixins')
debug, info, warn, error = logger.debug, logger.info, logger.warning, logger.error

W_CONN_LOST = 'Connection to broker lost (%s), trying to connect again ...'
W_CONN_ERROR = 'Broker connection error, trying again in %.2g seconds: %r.'


class _ShouldStop:
    # The attribute `should_stop`: as good as a plain one, and whoever waits for it is woken.
    def __init__(self, default: Any = False) -> None:
        self.default = default

    def __get__(self, worker: Any, owner: Any = None) -> Any:
        return self.default if worker is None else worker.__dict__.get('should_stop', self.default)

    def __set__(self, worker: Any, value: Any) -> None:
        worker.__dict__['should_stop'] = value
        if value:
            worker._ring()


class ConsumerMixin(StatusMixin):
    """A program that consumes. Give it an attribute `connection`, define `get_consumers`, call `run`.

    The Connection is never used itself: `run` opens a clone of it and shares it with nobody.

    Each consumer has a greenlet of its own, in which its callbacks run one after the other: a slow one
    holds up neither the other consumers nor the heartbeat. A callback that raises an Exception costs its
    message, see `on_callback_error`; anything else it raises ends `run`.

    Example:
        >>> class Worker(ConsumerMixin):
        ...     concurrency = 10
        ...
        ...     def __init__(self, connection):
        ...         self.connection = connection
        ...
        ...     def get_consumers(self, Consumer, channel):
        ...         return [Consumer([Queue('tasks')], callbacks=[self.on_task], prefetch_count=20)]
        ...
        ...     def on_task(self, body, message):
        ...         print('did', body)
        ...         message.ack()
        ...         self.should_stop = True  # one is enough for an example
        >>> with Connection('memory://localhost/example') as connection:
        ...     _ = connection.Producer().publish('this', routing_key='tasks', declare=[Queue('tasks')])
        ...     Worker(connection).run()
        did this

    Source: kombu.mixins.ConsumerMixin.
    """

    connection: Connection

    #: How often to try when the broker can't be reached; None: for ever.
    connect_max_retries: int | None = None

    #: `run` ends when this is true: an attribute, which is noticed at once, or a property, which is looked at
    #: each `safety_interval` and after each message. Callbacks that run are waited for, see `stop`.
    should_stop: Any = _ShouldStop()

    #: How many callbacks of a consumer may run at once; 1 keeps its messages in order. With more, the
    #: prefetch is at least this number.
    concurrency: int = 1

    _stopping: runtime.Deadline | None = None
    _hub: Any = None
    _loop_counts: Counts | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        stop = cls.__dict__.get('should_stop', None)
        if isinstance(stop, bool):  # said again with its default: that shall not make it deaf
            cls.should_stop = _ShouldStop(stop)

    # --------------------------------------------------------------------------------- what users define

    def get_consumers(
        self, Consumer: type[messaging.Consumer], channel: Channel
    ) -> Iterable[messaging.Consumer]:
        """Make the consumers; called after each connect.

        Arguments:
            Consumer (Callable): makes one; takes what `greenmq.Consumer` takes after the channel. The first
                is made on `channel`, each later one on a channel of its own with the same prefetch.
            channel: of the connection that `run` opened; ``channel.connection.client`` gives more of them.
                Consumers that you make on one channel yourself share a greenlet.
        Returns:
            Sequence[Consumer]: all of them consume while `run` runs.
        Source: kombu ConsumerMixin.get_consumers; differs: channels, greenlets.
        """
        name = type(self).__qualname__
        raise NotImplementedError(f'{name}.get_consumers(Consumer, channel) is missing')

    @contextmanager
    def extra_context(self, connection: Connection, channel: Channel) -> Iterator[None]:
        """Context manager that is entered when all consumers consume.

        Source: kombu ConsumerMixin.extra_context.
        """
        yield

    def on_connection_revived(self) -> None:
        """Called after each connect, the first included.

        Source: kombu ConsumerMixin.on_connection_revived.
        """

    def on_consume_ready(
        self, connection: Connection, channel: Channel, consumers: list[messaging.Consumer], **kwargs: Any
    ) -> None:
        """Called when messages may come; `kwargs` are those of `run` or `consume`.

        Source: kombu ConsumerMixin.on_consume_ready.
        """

    def on_consume_end(self, connection: Connection, channel: Channel) -> None:
        """Called when the loop has ended without an error and the consumers are cancelled.

        Source: kombu ConsumerMixin.on_consume_end.
        """

    def on_iteration(self) -> None:
        """Called each `safety_interval` and after messages, in the greenlet that called `run`.

        Source: kombu ConsumerMixin.on_iteration; differs: once for messages that came together.
        """

    def on_decode_error(self, message: Message, exc: BaseException) -> None:
        """Called for a message whose body can't be decoded. Settle it, or it comes again.

        By default it is logged and acknowledged; if its queue has somewhere for it (a dead-letter exchange
        or list), it is rejected instead and goes there.

        Switches: yes.
        Source: kombu ConsumerMixin.on_decode_error; differs: dead letters.
        """
        settle_undecodable(message, exc)

    def on_callback_error(self, message: Message, exc: Exception) -> None:
        """Called when a callback raised an Exception; the consumer goes on whatever this does.

        By default that is logged with the message's identity, and a message that is not settled is requeued
        the first time, then rejected: dead-lettered or discarded, as its queue is configured.

        Switches: yes.
        """
        settle_failed(message, exc)

    def on_connection_error(self, exc: BaseException, interval: float) -> None:
        """Called when the broker could not be reached; the next try is in `interval` seconds.

        Source: kombu ConsumerMixin.on_connection_error.
        """
        self._tell_outage(W_CONN_ERROR, interval, exc, error=exc)

    def _tell_outage(self, text: str, *arguments: Any, error: BaseException) -> None:
        # One line when it begins and one a minute, from all of the process that notice it. Who wants to know
        # where it was noticed sets the level to DEBUG.
        connection = self._target or self.connection
        level = outage_level('daemon', getattr(connection, 'host', None) or repr(connection))
        say = warn if level >= logging.WARNING else debug
        if logger.isEnabledFor(logging.DEBUG):
            say(text, *arguments, exc_info=error)
        else:
            say(text, *arguments)

    # -------------------------------------------------------------------------------------------- the loop

    def run(self, _tokens: int = 1, **kwargs: Any) -> None:
        """Consume until `should_stop` or `stop`. After a lost connection, and after an error of a channel
        that is no callback's (a queue that is not there, or not ours yet), it starts anew, at most once a
        second.

        Arguments:
            kwargs: for `consume` (timeout, safety_interval) and `on_consume_ready`.
        Raises:
            OperationalError: the broker could not be reached within `connect_max_retries`.
            TimeoutError: nothing came within `timeout`.
            BaseException: what a callback raised that is no Exception.
        Switches: yes. Killed: callbacks are killed, consumers cancelled, the connection closed.
        Source: kombu ConsumerMixin.run; differs: a greenlet for each consumer, see the class.
        """
        bucket = self.restart_limit
        self._hub, self._bell = runtime.hub_id(), runtime.Event()
        left: dict[int, list[runtime.Task]] = {}
        counts: dict[int, Counts] = {}
        try:
            while not self.is_ending():
                try:
                    if bucket.can_consume(_tokens):
                        if self._single_loop():
                            for _ in self.consume(limit=None, **kwargs):
                                pass  # what there is to do was done by the callbacks
                        else:
                            self._supervise(counts, left, **kwargs)
                    else:
                        self._bell.clear()
                        self._bell.wait(bucket.expected_time(_tokens))
                except (*self.connection_errors, *self.channel_errors) as exc:
                    # Of a channel too: the queue that is not there yet, or is held by the predecessor, may be
                    # free in a second.
                    if self.is_ending():
                        debug('the connection ended with the run: %r', exc)
                    else:
                        self._tell_outage(W_CONN_LOST, exc, error=exc)
            self._finish_left(left)
        except Exception:
            # Daemons run in greenlets of their own, where an error that nobody logs is never seen.
            logger.exception('%r ends: an error that no reconnect can help', self)
            raise
        finally:
            self._runner_group = self._bell = self._target = self._trouble = None
            self._away = ()
            for task in _running(left):
                task.kill()
            self._after_run()

    def stop(self, timeout: float | None = 30.0) -> None:
        """Have `run` end in good order: cancel the consumers, finish what is in hand, settle it, close.

        What no callback has begun goes back to its queue. May be called from any greenlet or thread and
        from a signal handler, before `run` and more than once: the last call says how much time is left.

        Arguments:
            timeout (float): seconds from now on for callbacks that run; those that take longer are ended, and
                their messages delivered again. None: no limit, as with `should_stop`.
        """
        self._stopping = runtime.Deadline.after(timeout)
        self._ring()

    def ping(self, timeout: float = 5.0) -> float:
        """Have the broker answer on the connection that consumes: proof that messages could come (P25).

        Arguments:
            timeout (float): seconds to wait for the answer.
        Returns:
            float: seconds it took.
        Raises:
            ConnectionLost: nothing consumes now, or not any more.
            TimeoutError: no answer in time.
        Switches: yes.
        """
        group = self._runner_group
        if group is None:
            raise ConnectionLost(f'{self!r} does not consume')
        return group.connection.ping(timeout)  # type: ignore[no-any-return]

    def _single_loop(self) -> bool:
        """Does the class bring a part of kombu's loop, or the transport know no channels apart?"""
        for name in ('consume', 'Consumer', 'consumer_context'):
            if getattr(type(self), name) is not getattr(ConsumerMixin, name) or name in self.__dict__:
                return True
        return not getattr(getattr(self.connection, 'transport', None), 'drains_channels', False)

    def _supervise(
        self,
        counts: dict[int, Counts],
        left: dict[int, list[runtime.Task]],
        timeout: float | None = None,
        safety_interval: float | None = 1,
        **kwargs: Any,
    ) -> None:
        with self.establish_connection() as connection:
            self._connects += 1
            self.on_connection_revived()
            info('Connected to %s', connection.as_uri())
            channel = connection.default_channel
            group = RunnerGroup(self, self._bell, connection, channel, counts, dict(left))
            self._runner_group = group
            make: Any = group.make  # takes what the class takes after the channel
            try:
                with group.consuming(self.get_consumers(make, channel)) as consumers:
                    with self.extra_context(connection, channel):
                        self.on_consume_ready(connection, channel, consumers, **kwargs)
                        overridden = type(self).on_iteration is not ConsumerMixin.on_iteration
                        group.start(rings=overridden or timeout is not None)
                        self._watch(group, safety_interval, timeout)
                        group.finish()
            finally:
                self._runner_group = None
                self._away = away(group)
                self._overdue += group.overdue
                left.clear()
                left.update(group.left())
            debug('Consumers canceled')
            self.on_consume_end(connection, channel)
        debug('Connection closed')

    def _watch(self, group: RunnerGroup, safety_interval: float | None, timeout: float | None) -> None:
        """Until the end of the run, or an error of the group."""
        idle = runtime.Deadline.after(timeout)
        seen = 0
        while not self.is_ending():
            self._bell.clear()
            self.on_iteration()
            waits = [seconds for seconds in (idle.remaining(), safety_interval) if seconds is not None]
            self._bell.wait(min(waits, default=None))
            if group.failure is not None:
                raise group.failure
            if group.total != seen or group.busy:
                seen, idle = group.total, runtime.Deadline.after(timeout)
            idle.check('no message')

    def _finish_left(self, left: dict[int, list[runtime.Task]]) -> None:
        """Wait for callbacks of a connection that was lost and did not come back before the end."""
        while late := _running(left):
            deadline = self.stop_deadline()
            if deadline.expired():
                self._overdue += len(late)
                warn('%d callbacks did not end in %s s; they are ended', len(late), deadline.seconds)
                return
            self._bell.clear()
            self._bell.wait(deadline.remaining())

    def _connect(self, connection: Any) -> None:
        """Open it, in a task, which the end of the run ends also where it waits for the next try."""
        errors: list[BaseException] = []

        def connect() -> None:
            try:
                connection.ensure_connection(self._on_error, self.connect_max_retries)
            except runtime.TaskExit:
                raise
            except BaseException as exc:  # raised below, in the greenlet that called `run`
                errors.append(exc)

        bell = self._bell
        task = runtime.spawn(
            contextvars.copy_context().run, connect,
            name='greenmq.connect', on_exit=lambda task, error: bell.set(),
        )  # fmt: skip
        try:
            while not task.done:
                if self.is_ending():
                    raise ConnectionClosed(f'{self!r} was told to end while it connected')
                bell.clear()
                bell.wait(1.0)  # `should_stop` may be a property
        finally:
            task.kill()
        if errors:
            raise errors[0]

    def is_ending(self) -> bool:
        """Is `run` to return?"""
        return self._stopping is not None or bool(self.should_stop)

    def stop_deadline(self) -> runtime.Deadline:
        """When it has to, at the latest."""
        return self._stopping if self._stopping is not None else runtime.NEVER

    def _ring(self) -> None:
        bell = self._bell
        if bell is not None:
            runtime.post(self._hub, bell.set)  # not at once: this may be another thread, or a signal handler

    def _after_run(self) -> None:
        """Called when `run` ends, however it ends."""

    def consume(
        self,
        limit: int | None = None,
        timeout: float | None = None,
        safety_interval: float | None = 1,
        **kwargs: Any,
    ) -> Iterator[None]:
        """Connect, consume, and yield after each event that was handled.

        Arguments:
            limit (int): how many iterations; None: no limit.
            timeout (float): seconds without an event after which it ends with TimeoutError; None: never.
            safety_interval (float): seconds of one wait, at least: `should_stop` is looked at after each.
            kwargs: for `on_consume_ready`.
        Switches: yes, at each step. Closed or killed: consumers are cancelled, the connection closed.
        Source: kombu ConsumerMixin.consume.
        """
        with self.consumer_context(**kwargs) as (connection, _channel, _consumers):
            idle = runtime.Deadline.after(timeout)
            for _ in range(limit) if limit else count():
                if self.is_ending():
                    break
                self.on_iteration()
                if self._drain_once(connection, safety_interval, idle):
                    yield
                    idle = runtime.Deadline.after(timeout)

    def _drain_once(self, connection: Any, interval: float | None, idle: runtime.Deadline) -> bool:
        """True if an event was handled within the interval."""
        left = idle.remaining()
        wait = interval if left is None else min(left, left if interval is None else interval)
        try:
            connection.drain_events(timeout=wait)
        except TimeoutError as exc:
            if _from_callback(exc):
                raise
            connection.heartbeat_check()
            if idle.expired():
                raise
            return False
        except OSError:
            if not self.is_ending():
                raise
            return False  # whoever told us to stop has also closed the connection
        return True

    @contextmanager
    def consumer_context(
        self, **kwargs: Any
    ) -> Iterator[tuple[Connection, Channel, list[messaging.Consumer]]]:
        """Context manager: (connection, channel, consumers), consuming, within `extra_context`.

        Switches: yes.
        Source: kombu ConsumerMixin.consumer_context.
        """
        with self.Consumer() as (connection, channel, consumers):
            self._connects += 1
            try:
                if isinstance(consumers, list) and all(isinstance(each, Consumer) for each in consumers):
                    self._loop_counts = self._loop_counts or Counts()
                    self._runner_group = Loop(connection, consumers, self._loop_counts)
                with self.extra_context(connection, channel):
                    self.on_consume_ready(connection, channel, consumers, **kwargs)
                    yield connection, channel, consumers
            finally:
                if self._runner_group is not None:
                    self._away = away(self._runner_group)
                self._runner_group = None

    @contextmanager
    def Consumer(self) -> Iterator[tuple[Connection, Channel, list[messaging.Consumer]]]:
        """Context manager: (connection, channel, consumers), connected and consuming.

        Switches: yes.
        Source: kombu ConsumerMixin.Consumer.
        """
        with self.establish_connection() as connection:
            self.on_connection_revived()
            info('Connected to %s', connection.as_uri())
            channel = connection.default_channel
            make: Any = partial(Consumer, channel, on_decode_error=self.on_decode_error)
            with ExitStack() as stack:
                yield connection, channel, [
                    stack.enter_context(each) for each in listed(self, self.get_consumers(make, channel))
                ]
            debug('Consumers canceled')
            self.on_consume_end(connection, channel)
        debug('Connection closed')

    @contextmanager
    def establish_connection(self) -> Iterator[Connection]:
        """Context manager: a connection of the loop's own, open.

        Raises:
            OperationalError: not within `connect_max_retries`.
        Switches: yes.
        Source: kombu ConsumerMixin.establish_connection.
        """
        with self.create_connection() as connection:
            self._target = connection
            connection.paced_by_transport = True
            if self._bell is None:
                connection.ensure_connection(self._on_error, self.connect_max_retries)
            else:
                self._connect(connection)
            self._trouble = None
            yield connection

    def create_connection(self) -> Connection:
        """The loop's connection, not yet open.

        Source: kombu ConsumerMixin.create_connection.
        """
        return self.connection.clone()  # type: ignore[no-any-return]

    def maybe_conn_error(self, fun: Callable[[], Any]) -> AbstractContextManager[None] | None:
        """Call `fun` and let errors of connection and channel pass; better use `common.ignore_errors`.

        Switches: as `fun`.
        Source: kombu ConsumerMixin.maybe_conn_error.
        """
        return ignore_errors(self, fun)  # type: ignore[no-any-return, unused-ignore]

    @cached_property
    def restart_limit(self) -> TokenBucket:
        """How often the loop may connect: a TokenBucket, once a second."""
        return TokenBucket(1)

    @property
    def connection_errors(self) -> tuple[type[BaseException], ...]:
        """What means that the connection is broken."""
        return self.connection.connection_errors

    @property
    def channel_errors(self) -> tuple[type[BaseException], ...]:
        """What means that the channel is broken."""
        return self.connection.channel_errors


def _running(left: dict[int, list[runtime.Task]]) -> list[runtime.Task]:
    return [task for tasks in left.values() for task in tasks if not task.done]


def _from_callback(exc: BaseException) -> bool:
    """True if a callback raised it, e.g. for a web server that did not answer: that is no idle broker."""
    traceback = exc.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_globals.get('__name__') == Consumer.receive.__module__:
            return True
        traceback = traceback.tb_next
    return False


class ConsumerProducerMixin(ConsumerMixin):
    """A ConsumerMixin that also publishes, on a connection of its own: ``self.producer.publish(...)``.

    On its own, because a broker that blocks publishers (memory alarm) blocks their whole connection: what is
    consumed must not come over that one.

    Source: kombu.mixins.ConsumerProducerMixin.
    """

    _producer_connection: Any = None

    def on_consume_end(self, connection: Connection, channel: Channel) -> None:
        """Close the producer's connection. An override must call this one.

        Switches: yes.
        Source: kombu ConsumerProducerMixin.on_consume_end.
        """
        self._close_producer()

    def _after_run(self) -> None:
        self._close_producer()

    def _close_producer(self) -> None:
        # no switch before it is out of reach
        connection, self._producer_connection = self._producer_connection, None
        if connection is not None:
            connection.close()

    @property
    def producer(self) -> Producer:
        """A Producer on `producer_connection`."""
        return Producer(self.producer_connection)

    @property
    def producer_connection(self) -> Connection:
        """The producer's connection, open."""
        if self._producer_connection is None:
            # kept before it is open: callbacks that need it at once must share it
            self._producer_connection = self.connection.clone()
        return self._producer_connection.ensure_connection(  # type: ignore[no-any-return]
            self.on_connection_error, self.connect_max_retries
        )
