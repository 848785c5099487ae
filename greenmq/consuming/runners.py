"""The greenlets of a running ConsumerMixin: one for each channel it consumes on, and what they count.

Theory of operation
-------------------
A `ChannelRunner` serves one channel: its greenlet takes the events of that channel and runs the callbacks,
so a slow callback holds up its own runner and nothing else. With a `concurrency` above one it hands each
message to a worker of its pool instead, and takes no message for which no worker is free.

A runner that waits can be killed at any time: no event is in its hands then. One that runs a callback is left
to finish it. When the connection is lost, those callbacks go on; the runner of the same number on the next
connection waits for them, so that a consumer's messages stay in order and no message is worked on twice at
once.

A callback that fails costs its message (see `settle_failed`), never the runner. What is no Exception, and
what the drain itself raises, is told to the greenlet that called `run`.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from greenmq import runtime
from greenmq.consuming.status import Counts
from greenmq.exceptions import ConnectionClosed, TimeoutError
from greenmq.log import get_logger
from greenmq.messaging import Consumer

__all__ = ('RunnerGroup', 'ChannelRunner', 'consumes', 'listed', 'settle_failed')

logger = get_logger('greenmq.mixins')


# Seconds that a runner may go on without letting the others run.
SLICE = 0.002
# Seconds for callbacks that were killed at the end of their time.
DYING = 0.5


class _Turn:
    """How long the greenlets of a runner have kept the hub for themselves."""

    __slots__ = ('_since',)

    def __init__(self) -> None:
        self._since: float | None = None  # when `rest` was first called since the hub last ran

    def rest(self) -> None:
        """Let others run, if they had to wait for `SLICE`. Switches: only then."""
        if self._since is None:
            self._since = runtime.monotonic()
            runtime.run_soon(self._over)
        elif runtime.monotonic() - self._since > SLICE:
            runtime.sleep(0)

    def _over(self) -> None:
        self._since = None


class ChannelRunner:
    """The consumers of one channel, and the greenlet that serves them.

    Attributes:
        busy (int): callbacks that run now.
        counts (Counts): what they came to, those of earlier connections included.
    """

    def __init__(self, group: RunnerGroup, number: int, channel: Any, consumers: list[Consumer]) -> None:
        self.group = group
        self.number = number
        self.channel = channel
        self.consumers = consumers
        self.concurrency = max(1, int(group.worker.concurrency))
        self.counts = group.counts.setdefault(number, Counts())
        self.busy = 0
        self.turn = _Turn()
        self.task: runtime.Task | None = None
        self.context: contextvars.Context | None = None
        self._waiting_for: list[runtime.Task] = []
        self._pool: _Pool | None = None

    # ---------------------------------------------------------------------------------- from outside

    def prepare(self) -> None:
        """Have the messages of the consumers come here, and as many as can be worked on. Switches: yes."""
        if self.concurrency > 1:
            self._pool = _Pool(self)
            wanted = self.channel.prefetch_count or 2 * self.concurrency
            self._set_prefetch(max(wanted, self.concurrency))
        for consumer in self.consumers:
            consumer.runner = self._work if self._pool is None else self._pool.put

    def _set_prefetch(self, count: int) -> None:
        if self.channel.prefetch_count != count:
            self.channel.basic_qos(0, count, False)

    def start(self, context: contextvars.Context, waiting_for: list[runtime.Task]) -> None:
        """Begin to take messages, when the tasks have ended that still work on earlier ones."""
        self.context = context
        self._waiting_for = waiting_for
        self.task = runtime.spawn(
            self._main, name=f'greenmq.consumer {self.name}', on_exit=self.group.task_ended
        )

    @property
    def name(self) -> str:
        """The queues it serves."""
        return ', '.join(self.queues) or f'no queue, {self.number}'

    @property
    def queues(self) -> list[str]:
        """Names of the queues it serves."""
        return [queue.name for consumer in self.consumers for queue in consumer.queues]

    @property
    def state(self) -> str:
        """'starting', 'waiting' (for callbacks of the lost connection), 'consuming', 'ending' or 'ended'."""
        if self.task is None:
            return 'starting'
        if self.task.done:
            return 'ended'
        if self._waiting_for:
            return 'waiting'
        return 'ending' if self.group.stopping else 'consuming'

    @property
    def consuming(self) -> bool:
        """Proof of consuming (P25): every queue has a consumer that the channel knows, and somebody takes."""
        if self.state != 'consuming' or not self.group.connection.connected:
            return False
        return all(map(consumes, self.consumers))

    def tasks(self) -> list[runtime.Task]:
        """Those that have not ended."""
        workers = list(self._pool.tasks) if self._pool is not None else ()
        return [task for task in (self.task, *workers) if task is not None and not task.done]

    def dismiss(self) -> None:
        """End what waits for a message; callbacks go on."""
        if self._pool is not None:
            self._pool.dismiss()
        if self.task is not None and (self._pool is not None or not self.busy):
            self.task.kill()

    def status(self) -> dict[str, Any]:
        """What there is to say about it, as numbers and words."""
        return {
            'queues': self.queues,
            'state': self.state,
            'consuming': self.consuming,
            'concurrency': self.concurrency,
            'prefetch': self.channel.prefetch_count,
            'busy': self.busy,
            **self.counts.snapshot(),
        }

    # ---------------------------------------------------------------------------------- in its greenlet

    def _main(self) -> None:
        assert self.context is not None
        try:
            self.context.run(self._serve)
        except BaseException as exc:  # for the greenlet that called `run`, which raises it there
            self.group.fail(exc)

    def _serve(self) -> None:
        for task in self._waiting_for:
            task.join()
        self._waiting_for = []
        group, channel, pool = self.group, self.channel, self._pool
        drain_events = group.connection.drain_events
        while not group.ends():
            if pool is not None:
                pool.wait_free()
            if channel.closed:  # by a callback: nothing comes over it any more, so begin anew
                raise ConnectionClosed(f'{channel!r} was closed while it consumed')
            drain_events(channel=channel)
            self.turn.rest()  # or a runner that always finds a message would keep the hub for itself

    def _work(self, consumer: Consumer, message: Any) -> None:
        if self.group.ends() and self.group.hand_back(message):
            return
        started = runtime.monotonic()
        self.busy += 1
        try:
            consumer.process_message(message)
        except Exception as exc:
            self.counts.add_failure(exc)
            self.group.give_up(message, exc)
        except BaseException as exc:
            if not self.group.stopping:  # then it is our own kill
                logger.error('The callback for message %s raised %r, which is no Exception: that ends run()',
                             describe(message), exc, exc_info=exc)  # fmt: skip
            raise
        finally:
            self.busy -= 1
            self.counts.add(message, runtime.monotonic() - started)
            self.group.handled()


class _Pool:
    """The workers of a runner: greenlets, made when there is work for them, that wait for more.

    One that is done takes the next message itself if that is here already: two switches less than by way of
    the runner's greenlet, which waits for messages, and gives them out while there are idle workers.
    """

    def __init__(self, runner: ChannelRunner) -> None:
        self.runner = runner
        self.tasks: set[runtime.Task] = set()
        self._idle = runtime.Handoff('no message')
        self._free = runtime.Semaphore(runner.concurrency)
        self._held = False  # the runner has taken a place for the message that comes next
        self._taking = False  # a worker asks for a message, which is then put into `_taken`
        self._taken: tuple[Consumer, Any] | None = None

    def wait_free(self) -> None:
        """Wait until a worker could take a message. Switches: only if none can."""
        if not self._held:
            self._free.acquire()
            self._held = True

    def put(self, consumer: Consumer, message: Any) -> None:
        """Have a worker run the callbacks."""
        if self._taking:
            self._taken = (consumer, message)
            return
        self._held = False
        if not self._idle.give((consumer, message)):
            self._hire((consumer, message))

    def dismiss(self) -> None:
        """End the workers that wait."""
        self._idle.fail_all(runtime.TaskExit())

    def _hire(self, item: tuple[Consumer, Any]) -> None:
        assert self.runner.context is not None
        task = runtime.spawn(
            self._main, self.runner.context.copy(), item,
            name=f'greenmq.worker {self.runner.name}', on_exit=self._left,
        )  # fmt: skip
        self.tasks.add(task)

    def _left(self, task: runtime.Task, error: BaseException | None) -> None:
        self.tasks.discard(task)
        self.runner.group.task_ended(task, error)

    def _main(self, context: contextvars.Context, item: tuple[Consumer, Any]) -> None:
        try:
            while True:
                # A copy each, as if each message had a greenlet of its own.
                context.copy().run(self.runner._work, *item)
                self.runner.turn.rest()
                following = self._take()
                if following is None:
                    self._free.release()
                    if self.runner.group.stopping:
                        return
                    following = self._idle.wait(None, self._hire)
                item = following
        except BaseException as exc:  # as in a runner
            self.runner.group.fail(exc)

    def _take(self) -> tuple[Consumer, Any] | None:
        channel = self.runner.channel
        if self.runner.group.ends() or channel.closed:
            return None
        try:
            while self._taken is None:  # what it handles may be no message
                self._taking = True
                if not channel.connection.drain_waiting(channel):
                    return None
            taken, self._taken = self._taken, None
            return taken
        finally:
            self._taking = False


class RunnerGroup:
    """All runners of one connection.

    Arguments:
        worker (ConsumerMixin): whose callbacks they run.
        bell (Event): of the greenlet that supervises; rung when there is something to look at.
        connection (Connection): open.
        channel (Channel): of its first consumer.
        counts (dict[int, Counts]): by the runner's number; kept from group to group.
        left (dict[int, list[Task]]): what still runs of the group before, by the runner's number.
    Attributes:
        failure (BaseException | None): what ends it.
        stopping (bool): nothing is taken any more.
    """

    def __init__(
        self,
        worker: Any,
        bell: Any,
        connection: Any,
        channel: Any,
        counts: dict[int, Counts],
        left: dict[int, list[runtime.Task]],
    ) -> None:
        self.worker = worker
        self.connection = connection
        self.channel = channel
        self.runners: list[ChannelRunner] = []
        self.failure: BaseException | None = None
        self.stopping = False
        self.total = 0
        self.overdue = 0  # callbacks that were ended because they took too long
        self.counts = counts
        self.bell = bell
        self._left = left
        self._consumers: list[Consumer] = []
        self._made: list[Any] = []
        self._rings = False

    # ------------------------------------------------------------------------------------- consumers

    def make(self, *args: Any, **kwargs: Any) -> Consumer:
        """A Consumer: the first on the group's channel, each later one on a channel of its own.

        Switches: yes.
        """
        channel = self.connection.channel() if self._made else self.channel
        self._made.append(channel)
        kwargs.setdefault('on_decode_error', self.worker.on_decode_error)
        return Consumer(channel, *args, **kwargs)

    @contextmanager
    def consuming(self, consumers: Iterable[Consumer]) -> Iterator[list[Consumer]]:
        """Context manager: the consumers consume; at its end they don't, and nobody waits for messages.

        Switches: yes.
        """
        self._consumers = listed(self.worker, consumers)
        lost = tuple(self.connection.connection_errors)
        try:
            self._sort()
            for consumer in self._consumers:
                consumer.consume()
            yield self._consumers
        except BaseException as exc:
            self._disband()
            # On a connection that was lost nothing is left to cancel, and callbacks go on.
            if not isinstance(exc, lost):
                self._kill(self.tasks())
                self._cancel()
            raise
        self._disband()
        self._cancel()  # nothing is left to cancel, unless somebody consumed again

    def _sort(self) -> None:
        prefetch = self.channel.prefetch_count
        by_channel: dict[Any, list[Consumer]] = {}
        for consumer in self._consumers:
            by_channel.setdefault(consumer.channel, []).append(consumer)
        for number, (channel, consumers) in enumerate(by_channel.items()):
            if prefetch and channel in self._made and not channel.prefetch_count:
                channel.basic_qos(0, prefetch, False)  # what was set on the one channel was meant for all
            runner = ChannelRunner(self, number, channel, consumers)
            runner.prepare()
            self.runners.append(runner)

    def start(self, rings: bool) -> None:
        """Begin to take messages.

        Arguments:
            rings (bool): wake the supervisor after each message.
        """
        self._rings = rings
        context = contextvars.copy_context()
        for runner in self.runners:
            runner.start(context.copy(), self._left.pop(runner.number, []))

    # ------------------------------------------------------------------------ what the runners tell

    def ends(self) -> bool:
        """Whether runners shall take no more."""
        return self.stopping or self.worker.is_ending()

    def fail(self, error: BaseException) -> None:
        """A runner ended by an error."""
        if not self.stopping and self.failure is None:
            self.failure = error
            self.bell.set()

    def give_up(self, message: Any, error: Exception) -> None:
        """A callback failed: settle its message as the worker wants it. Switches: as its handler."""
        try:
            self.worker.on_callback_error(message, error)
        except Exception:
            logger.exception('on_callback_error of %r failed for message %s', self.worker, describe(message))

    def handled(self) -> None:
        """A callback ended."""
        self.total += 1
        if self._rings:
            self.bell.set()

    # --------------------------------------------------------------------------------------- the end

    def finish(self) -> None:
        """Drain: take nothing more, cancel the consumers, wait for callbacks; at the worker's deadline end
        them.

        Switches: yes.
        """
        self._disband()
        canceller = runtime.spawn(self._cancel, name='greenmq.cancel', on_exit=self.task_ended)
        runtime.sleep(0)  # those that only waited end now, also where no time is given
        while True:
            self.bell.clear()
            late = self.tasks()
            if not late and canceller.done:
                return
            deadline = self.worker.stop_deadline()  # each time: a second `stop` may have brought it nearer
            if deadline.expired():
                break
            self.bell.wait(deadline.remaining())
        self.overdue = len(late)
        if late:
            logger.warning(
                '%d callbacks did not end in %s s; they are ended, their messages are delivered again: %s',
                len(late), deadline.seconds, ', '.join(task.name for task in late),
            )  # fmt: skip
        self._kill([*late, canceller])

    def task_ended(self, task: runtime.Task, error: BaseException | None) -> None:
        """See `runtime.spawn`."""
        self.bell.set()

    def hand_back(self, message: Any) -> bool:
        """Give a message back that came after the end had begun; False if it can't be."""
        if _needs_no_ack(message):
            return False
        try:
            message.requeue()
        except Exception as exc:  # the connection is gone, and the message back already
            logger.debug('giving back %s: %r', describe(message), exc)
        return True

    def tasks(self) -> list[runtime.Task]:
        """All that have not ended, those left over from the group before included."""
        found = [task for runner in self.runners for task in runner.tasks()]
        return found + [task for tasks in self._left.values() for task in tasks if not task.done]

    @property
    def busy(self) -> int:
        """Callbacks that run now."""
        return sum(runner.busy for runner in self.runners)

    def left(self) -> dict[int, list[runtime.Task]]:
        """What still runs, by the number of its runner: for the next group."""
        running = {number: [task for task in tasks if not task.done] for number, tasks in self._left.items()}
        for runner in self.runners:
            running[runner.number] = running.get(runner.number, []) + runner.tasks()
        return {number: tasks for number, tasks in running.items() if tasks}

    def _disband(self) -> None:
        self.stopping = True
        for runner in self.runners:
            runner.dismiss()

    def _kill(self, tasks: list[runtime.Task]) -> None:
        for task in tasks:
            task.kill()
        dying = runtime.Deadline.after(DYING)
        for task in tasks:
            task.join(dying)

    def _cancel(self) -> None:
        ignored = (*self.connection.connection_errors, *self.connection.channel_errors, TimeoutError)
        for consumer in self._consumers:
            try:
                consumer.cancel()
            except ignored as exc:
                logger.debug('cancelling %r: %r', consumer, exc)


def consumes(consumer: Consumer) -> bool:
    """Whether all its queues are consumed, as far as its channel knows."""
    tags = list(consumer.active_tags.values())
    known = getattr(consumer.channel, 'consumes', bool)  # a channel of somebody else's transport may not tell
    return len(tags) == len(consumer.queues) and all(map(known, tags))


def listed(worker: Any, consumers: Any) -> list[Consumer]:
    """What `get_consumers` returned, as a list.

    Raises:
        TypeError: it is no collection of consumers.
    """
    if consumers is None or isinstance(consumers, Consumer):
        what = 'None (is its return missing?)' if consumers is None else 'one Consumer'
        name = type(worker).__qualname__
        raise TypeError(f'{name}.get_consumers() returned {what}, not a list of consumers')
    found = list(consumers)
    if not found:
        name = type(worker).__qualname__
        logger.warning('%s.get_consumers() returned no consumer: nothing will ever come', name)
    return found


def settle_failed(message: Any, error: Exception) -> None:
    """Log that the callback of a message failed, and refuse the message unless it is settled already.

    The first time it goes back to its queue. The next time it is rejected, which dead-letters or discards it
    as its queue is configured. The first time is told by the broker's delivery count where there is one, else
    by the `redelivered` mark.

    Switches: as `Message.reject`.
    """
    again = not _delivered_before(message)
    open_ = not (message.acknowledged or message.redelivery_expected or _needs_no_ack(message))
    fate = 'it stays as it is' if not open_ else 'requeued' if again else 'rejected'
    logger.error('The callback for message %s failed: %r; %s', describe(message), error, fate, exc_info=error)
    if open_ and again:
        message.requeue()
    elif open_:
        message.reject()


def describe(message: Any) -> str:
    """Say in one line which message it is."""
    info, properties = message.delivery_info, message.properties
    facts = {
        'queue': getattr(message, 'queue', None),
        'exchange': info.get('exchange'),
        'routing_key': info.get('routing_key'),
        'message_id': properties.get('message_id'),
        'correlation_id': properties.get('correlation_id'),
        'redelivered': info.get('redelivered'),
    }
    known = ', '.join(f'{name}={value}' for name, value in facts.items() if value)
    return f'{message.delivery_tag} ({known})'


def _delivered_before(message: Any) -> bool:
    count = (message.headers or {}).get('x-delivery-count')
    return count > 0 if isinstance(count, int) else bool(message.delivery_info.get('redelivered'))


def _needs_no_ack(message: Any) -> bool:
    known = getattr(message.channel, 'no_ack_consumers', None) or ()
    return message.channel is None or message.delivery_info.get('consumer_tag') in known
