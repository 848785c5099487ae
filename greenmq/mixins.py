"""Daemons: a class that says what it consumes gets a loop that consumes it, and comes back after a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import count
from typing import Any

from greenmq import runtime
from greenmq.common import ignore_errors
from greenmq.exceptions import TimeoutError
from greenmq.log import get_logger
from greenmq.message import settle_undecodable
from greenmq.messaging import Consumer, Producer
from greenmq.utils.limits import TokenBucket
from greenmq.utils.objects import cached_property

__all__ = ('ConsumerMixin', 'ConsumerProducerMixin')

logger = get_logger('greenmq.mixins')
debug, info, warn, error = logger.debug, logger.info, logger.warning, logger.error

W_CONN_LOST = 'Connection to broker lost, trying to connect again ...'
W_CONN_ERROR = 'Broker connection error, trying again in %s seconds: %r.'


class ConsumerMixin:
    """A program that consumes. Give it an attribute `connection`, define `get_consumers`, call `run`.

    The Connection is never used itself: the loop opens a clone of it and shares it with nobody.

    Example::

        class Worker(ConsumerMixin):
            def __init__(self, connection):
                self.connection = connection

            def get_consumers(self, Consumer, channel):
                return [Consumer(queues=[Queue('tasks')], callbacks=[self.on_task])]

            def on_task(self, body, message):
                message.ack()

    Source: kombu.mixins.ConsumerMixin.
    """

    connection: Any

    #: How often to try when the broker can't be reached; None: for ever.
    connect_max_retries: int | None = None

    #: The loop ends when this is true: an attribute, or a property, looked at each `safety_interval`.
    should_stop: Any = False

    # --------------------------------------------------------------------------------- what users define

    def get_consumers(self, Consumer: Callable[..., Any], channel: Any) -> Any:
        """Make the consumers; called after each connect.

        Arguments:
            Consumer (Callable): makes one on `channel`; takes what `greenmq.Consumer` takes after it.
            channel: of the loop's connection; ``channel.connection.client`` gives more of them.
        Returns:
            Sequence[Consumer]: all of them consume while the loop runs.
        Source: kombu ConsumerMixin.get_consumers.
        """
        raise NotImplementedError('Subclass responsibility')

    @contextmanager
    def extra_context(self, connection: Any, channel: Any) -> Iterator[None]:
        """Context manager that is entered when all consumers consume.

        Source: kombu ConsumerMixin.extra_context.
        """
        yield

    def on_connection_revived(self) -> None:
        """Called after each connect, the first included.

        Source: kombu ConsumerMixin.on_connection_revived.
        """

    def on_consume_ready(self, connection: Any, channel: Any, consumers: Any, **kwargs: Any) -> None:
        """Called when messages may come; `kwargs` are those of `run` or `consume`.

        Source: kombu ConsumerMixin.on_consume_ready.
        """

    def on_consume_end(self, connection: Any, channel: Any) -> None:
        """Called when the loop has ended without an error and the consumers are cancelled.

        Source: kombu ConsumerMixin.on_consume_end.
        """

    def on_iteration(self) -> None:
        """Called before each wait for an event.

        Source: kombu ConsumerMixin.on_iteration.
        """

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Called for a message whose body can't be decoded. Settle it, or it comes again.

        By default it is logged and acknowledged; if its queue has somewhere for it (a dead-letter exchange
        or list), it is rejected instead and goes there.

        Switches: yes.
        Source: kombu ConsumerMixin.on_decode_error; differs: dead letters.
        """
        settle_undecodable(message, exc)

    def on_connection_error(self, exc: BaseException, interval: float) -> None:
        """Called when the broker could not be reached; the next try is in `interval` seconds.

        Source: kombu ConsumerMixin.on_connection_error.
        """
        warn(W_CONN_ERROR, interval, exc, exc_info=exc)

    # -------------------------------------------------------------------------------------------- the loop

    def run(self, _tokens: int = 1, **kwargs: Any) -> None:
        """Consume until `should_stop`. A lost connection is opened again, at most once a second.

        Arguments:
            kwargs: for `consume` and `on_consume_ready`.
        Raises:
            OperationalError: the broker could not be reached within `connect_max_retries`.
            whatever a callback raises that is no error of the connection: it ends the loop, logged.
        Switches: yes. Killed: the consumers are cancelled and the connection is closed.
        Source: kombu ConsumerMixin.run.
        """
        bucket = self.restart_limit
        try:
            while not self.should_stop:
                try:
                    if bucket.can_consume(_tokens):
                        for _ in self.consume(limit=None, **kwargs):
                            pass  # what there is to do was done by the callbacks
                    else:
                        runtime.sleep(bucket.expected_time(_tokens))
                except self.connection_errors:
                    warn(W_CONN_LOST, exc_info=True)
        except Exception:
            # Daemons run in greenlets of their own, where an error that nobody logs is never seen.
            logger.exception('%r ends: an error that no reconnect can help', self)
            raise
        finally:
            self._after_run()

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
                if self.should_stop:
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
            if not self.should_stop:
                raise
            return False  # whoever told us to stop has also closed the connection
        return True

    @contextmanager
    def consumer_context(self, **kwargs: Any) -> Iterator[tuple[Any, Any, Any]]:
        """Context manager: (connection, channel, consumers), consuming, within `extra_context`.

        Switches: yes.
        Source: kombu ConsumerMixin.consumer_context.
        """
        with self.Consumer() as (connection, channel, consumers):
            with self.extra_context(connection, channel):
                self.on_consume_ready(connection, channel, consumers, **kwargs)
                yield connection, channel, consumers

    @contextmanager
    def Consumer(self) -> Iterator[tuple[Any, Any, Any]]:
        """Context manager: (connection, channel, consumers), connected and consuming.

        Switches: yes.
        Source: kombu ConsumerMixin.Consumer.
        """
        with self.establish_connection() as connection:
            self.on_connection_revived()
            info('Connected to %s', connection.as_uri())
            channel = connection.default_channel
            make = partial(Consumer, channel, on_decode_error=self.on_decode_error)
            with ExitStack() as stack:
                yield connection, channel, [
                    stack.enter_context(consumer) for consumer in self.get_consumers(make, channel)
                ]
            debug('Consumers canceled')
            self.on_consume_end(connection, channel)
        debug('Connection closed')

    @contextmanager
    def establish_connection(self) -> Iterator[Any]:
        """Context manager: a connection of the loop's own, open.

        Raises:
            OperationalError: not within `connect_max_retries`.
        Switches: yes.
        Source: kombu ConsumerMixin.establish_connection.
        """
        with self.create_connection() as connection:
            connection.ensure_connection(self.on_connection_error, self.connect_max_retries)
            yield connection

    def create_connection(self) -> Any:
        """The loop's connection, not yet open.

        Source: kombu ConsumerMixin.create_connection.
        """
        return self.connection.clone()

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
        return self.connection.connection_errors  # type: ignore[no-any-return]

    @property
    def channel_errors(self) -> tuple[type[BaseException], ...]:
        """What means that the channel is broken."""
        return self.connection.channel_errors  # type: ignore[no-any-return]


def _from_callback(exc: BaseException) -> bool:
    """True if a callback raised it, e.g. for a web server that did not answer: that is no idle broker."""
    traceback = exc.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_globals.get('__name__') == Consumer.__module__:
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

    def on_consume_end(self, connection: Any, channel: Any) -> None:
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
    def producer_connection(self) -> Any:
        """The producer's connection, open."""
        if self._producer_connection is None:
            # kept before it is open: callbacks that need it at once must share it
            self._producer_connection = self.connection.clone()
        return self._producer_connection.ensure_connection(self.on_connection_error, self.connect_max_retries)
