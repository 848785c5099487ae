"""How messages reach the broker: one deadline a publish, concurrent ones gathered into batches.

While fewer than `max_puts` calls of a group are under way, a publish leaves at once; those that come
meanwhile gather and leave together as the next call. So one publisher never lingers, and a hundred fill
the batches. Each publisher learns of its own message only. It waits no longer than its own deadline and
then knows whether anything of it may have left the process.
"""

from __future__ import annotations

import time
import weakref
from binascii import b2a_base64
from collections.abc import Callable
from functools import partial
from typing import Any

from greenmq import runtime
from greenmq.exceptions import (
    ConnectionBlocked,
    ConnectionClosed,
    InvalidArgument,
    NotFound,
    PublishUnconfirmed,
    TimeoutError,
)
from greenmq.log import get_logger
from greenmq.transport.driver.arrival import EXPIRES_AT
from greenmq.transport.driver.contract import Driver, Put
from greenmq.transport.driver.errors import is_loss, translate
from greenmq.transport.virtual.envelope import Base64
from greenmq.utils.uuid import uuid

__all__ = ('DELAY_HEADER', 'Publisher')

logger = get_logger('greenmq.transport.driver')

#: Header that holds a message back for so many ms, as RabbitMQ's plugin for delayed messages has it.
DELAY_HEADER = 'x-delay'

#: Seconds that a driver may be late before its call is ended. Its publishers have given up by then.
SLACK = 0.5

_base64 = Base64()
_new = tuple.__new__


class _Job:
    """One message of one publisher, until its outcome is known."""

    __slots__ = ('deadline', 'item', 'sent', 'waiter')

    def __init__(self, item: Put, deadline: runtime.Deadline) -> None:
        self.item = item
        self.deadline = deadline
        self.sent = False  # in a call to the driver, or it was
        self.waiter = runtime.Waiter()


class _Line:
    """Messages of one group that wait for a call, and the calls under way."""

    __slots__ = ('busy', 'calls', 'jobs', 'key')

    def __init__(self, key: str) -> None:
        self.key = key
        self.jobs: list[_Job] = []
        self.calls = 0
        self.busy = 0  # of `calls`, those that have messages under way; the others are about to take some


class Publisher:
    """The publishes of one session.

    Arguments:
        session (Session): held weakly.
        driver (Driver): whose `put` is called.
        settings (Mapping): `body_encoding`, `drop_expired`, `operation_timeout`.
    """

    def __init__(self, session: Any, driver: Driver, settings: Any) -> None:
        self._session = weakref.ref(session)
        self._driver = driver
        encoding = settings.get('body_encoding')
        self.body_encoding = driver.body_encoding if encoding is None else encoding
        self._drop_expired: bool = settings['drop_expired']
        self._lines: dict[str, _Line] = {}
        self._crowded = False  # the last call had several messages: the next one shall wait for company
        self.epoch = 0  # in which a publish found the connection last
        self.calls = 0
        self.published = 0

    # ---- what is put

    def items(
        self, message: dict[str, Any], exchange: str, key: str, queues: list[str], arguments: Any
    ) -> list[Put]:
        """Return what to put for a message that was routed to some queues.

        Arguments:
            message (dict): as `prepare_message` made it; not changed.
            arguments (Callable): queue → the arguments it was declared with.
        Raises:
            InvalidArgument: what this broker can't take, before anything is sent.
        """
        whole = {**message}
        properties = whole['properties'] = {**message['properties']}
        properties['delivery_info'] = {
            **(properties.get('delivery_info') or {}), 'exchange': exchange, 'routing_key': key,
        }  # fmt: skip
        properties['body_encoding'] = None
        if not self._driver.own_envelope:
            properties['delivery_tag'] = uuid()
            whole['body'], properties['body_encoding'] = self._encoded(message['body'])
        headers = message.get('headers')
        delay = self._delay(headers[DELAY_HEADER]) if headers and DELAY_HEADER in headers else 0.0
        given = properties.get('priority')
        priority = min(max(int(given), 0), 9) if given else 0
        return [
            self._item(whole, queue, exchange, key, delay, priority, arguments(queue)) for queue in queues
        ]

    def _encoded(self, body: Any) -> tuple[Any, str | None]:
        encoding = self.body_encoding
        if encoding == 'base64' and body.__class__ is bytes:
            # What `Base64.encode` comes to, without the calls: most bodies are so.
            return str(b2a_base64(body, newline=False), 'ascii'), encoding
        if encoding and encoding.lower() == 'base64':
            return _base64.encode(body if body is not None else b''), 'base64'
        if isinstance(body, (bytes, bytearray, memoryview)):
            try:
                return bytes(body).decode('utf-8'), None
            except UnicodeDecodeError:
                return _base64.encode(bytes(body)), 'base64'
        return body, None

    def decoded(self, body: Any) -> bytes:
        """Undo the base64 of a body."""
        return _base64.decode(body)

    def _delay(self, given: Any) -> float:
        if not given:
            return 0.0
        try:
            delay = int(given) / 1000
        except (TypeError, ValueError):
            raise InvalidArgument(DELAY_HEADER, given, 'is no number of milliseconds') from None
        limit = self._driver.max_delay
        if limit is not None and delay > limit:
            raise InvalidArgument(
                DELAY_HEADER, given, f'is more than the {limit:g} s that this broker delays'
            )
        return max(delay, 0.0)

    def _item(
        self, message: dict[str, Any], queue: str, exchange: str, key: str, delay: float, priority: int,
        arguments: Any,
    ) -> Put:  # fmt: skip
        properties = message['properties']
        expiration = properties.get('expiration') if self._drop_expired else None
        longest = arguments.get('x-message-ttl') if arguments else None
        expires = None
        if expiration is not None or longest is not None:
            expires = time.time() + min(int(ttl) for ttl in (expiration, longest) if ttl is not None) / 1000
            properties = {**properties, EXPIRES_AT: int(expires * 1000)}
            message = {**message, 'properties': properties}
        payload = self._driver.encode(message)
        limit = self._driver.max_payload
        if limit is not None and isinstance(payload, (str, bytes)):
            size = len(payload if isinstance(payload, bytes) or payload.isascii() else payload.encode())
            if size > limit:
                raise InvalidArgument(
                    'message', f'{size} bytes', f'is more than the {limit} bytes that this broker takes'
                )
        # Made as a tuple is: a NamedTuple's own constructor is one more call for each message.
        return _new(Put, (queue, exchange, key, payload, message, delay, priority, expires))

    # ---- putting

    def put(self, items: list[Put], deadline: runtime.Deadline) -> None:
        """Put messages, and wait until the broker has them.

        Raises:
            PublishUnconfirmed: not in time, or cut; `sent` says whether any may have arrived.
            ConnectionClosed: the session ended. Others: what the broker refuses.
        Switches: yes. Killed: each message is put whole or not at all.
        """
        made = False
        while items:
            epoch = self._wait_open(deadline)
            try:
                if self._driver.put_direct:
                    self._put_direct(items, deadline, epoch)
                else:
                    self._put_gathered(items, deadline, epoch)
                return
            except _Again as error:
                # Surely nothing of these arrived: tried again, once there is a connection, or the queue.
                items = error.items
                if error.missing:
                    if made:
                        raise error.cause from None
                    made = True
                    self._make({item.queue for item in items}, deadline)
                elif deadline.expired():
                    raise PublishUnconfirmed(str(error.cause), sent='no') from error.cause
                else:
                    runtime.sleep(0.01)

    def _make(self, queues: set[str], deadline: runtime.Deadline) -> None:
        # kombu's brokers make a queue that is published to; these may have lost one that we know.
        session = self._session()
        if session is not None:
            for queue in queues:
                session.router.make_queue(queue, session.router.facts(queue), deadline)

    def _wait_open(self, deadline: runtime.Deadline) -> int:
        """Wait for the connection; return its epoch."""
        session = self._session()
        if session is None:
            raise ConnectionClosed('nobody uses the connection any more')
        if session.state != 'open':
            try:
                session.wait_open(deadline)
            except TimeoutError as error:
                raise PublishUnconfirmed(str(error), sent='no') from session.failure
        self.epoch = session.epoch
        return self.epoch

    def _put_direct(self, items: list[Put], deadline: runtime.Deadline, epoch: int) -> None:
        try:
            outcomes = list(self._driver.put(items, deadline) or ())
        except Exception as error:  # translated, and raised
            raise self._failure(error, items, epoch)  # noqa: B904 - its cause is set
        self.calls += 1
        self.published += len(items)
        for outcome in outcomes:
            if outcome is not None:
                try:
                    _raise_any(self._failures(items, outcomes, epoch))
                finally:
                    del outcome, outcomes  # their tracebacks will know this frame

    def _failures(
        self, items: list[Put], outcomes: list[Exception | None], epoch: int
    ) -> list[Exception]:
        failures = []
        for item, outcome in zip(items, outcomes, strict=False):
            if outcome is not None:
                outcome.__traceback__ = None  # the call's, which has the outcomes, too
                failures.append(self._failure(outcome, [item], epoch))
        return failures

    def _failure(self, error: Exception, items: list[Put], epoch: int) -> Exception:
        ours, sent = translate(self._driver, error)
        session = self._session()
        if is_loss(ours):
            if session is not None:
                session.lost(ours, epoch)
            if sent == 'no':
                return _Again(items, ours)
            unconfirmed = PublishUnconfirmed(str(ours), sent='unknown')
            unconfirmed.__cause__ = ours
            return unconfirmed
        if isinstance(ours, NotFound):
            return _Again(items, ours, missing=True)
        if isinstance(ours, TimeoutError) and not isinstance(ours, (PublishUnconfirmed, ConnectionBlocked)):
            unconfirmed = PublishUnconfirmed(str(ours), sent=sent)
            unconfirmed.__cause__ = ours
            return unconfirmed
        return ours

    def _put_gathered(self, items: list[Put], deadline: runtime.Deadline, epoch: int) -> None:
        each = self._driver.groups == 'each'
        if self._driver.keeps_deadline and len(items) == 1 and not self._crowded:
            line = self._line(items[0].queue if each else '')
            if not line.calls and not line.jobs:
                line.calls += 1
                line.busy += 1
                try:
                    self._put_direct(items, deadline, epoch)
                finally:
                    line.busy -= 1
                    self.ended(line)
                return
        jobs = [_Job(item, deadline) for item in items]
        for job in jobs:
            line = self._line(job.item.queue if each else '')
            line.jobs.append(job)
            self._start_if_needed(line)
        failures: list[Exception] = []
        for job in jobs:
            try:
                job.waiter.wait(deadline)
            except Exception as error:  # raised when all are known
                failures.append(self._judge(error, job, jobs))
            except BaseException:
                self._withdraw(jobs)  # killed: what has not left stays here
                raise
        if failures:
            try:
                _raise_any(failures)
            finally:
                del failures, job, jobs  # each knows an error, whose traceback knows this frame

    def _line(self, key: str) -> _Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(key)
        return line

    def _judge(self, error: Exception, job: _Job, jobs: list[_Job]) -> Exception:
        if not job.waiter.expired:
            return error
        self._withdraw([job])
        sent = 'unknown' if any(each.sent for each in jobs) else 'no'
        late = job.deadline.error(f'a message for {job.item.queue or job.item.exchange!r} was not confirmed')
        return PublishUnconfirmed(str(late), sent=sent)

    def _withdraw(self, jobs: list[_Job]) -> None:
        for job in jobs:
            line = self._lines.get(job.item.queue if self._driver.groups == 'each' else '')
            if line is not None and not job.sent and job in line.jobs:
                line.jobs.remove(job)

    def _start_if_needed(self, line: _Line) -> None:
        # Those that are about to take some take what gathers until then.
        room = (line.calls - line.busy) * max(self._driver.put_batch, 1)
        if line.calls >= self._driver.max_puts or len(line.jobs) <= room:
            return
        line.calls += 1
        call = _Call()
        call.task = runtime.spawn(
            _put, weakref.ref(self), line, call, self._driver, name='greenmq-put', owner=self._session(),
            on_exit=partial(_put_ended, weakref.ref(self), line),
        )  # fmt: skip

    def next_batch(self, line: _Line) -> list[_Job]:
        """Take the messages of the next call out of their line."""
        batch: list[_Job] = []
        while line.jobs and len(batch) < max(self._driver.put_batch, 1):
            job = line.jobs.pop(0)
            if job.waiter.pending:
                job.sent = True
                batch.append(job)
        if batch:
            self._crowded = len(batch) > 1
        return batch

    def answered(self, batch: list[_Job], outcomes: list[Exception | None], epoch: int) -> None:
        """A call returned: tell each publisher."""
        self.calls += 1
        self.published += len(batch)
        for at, job in enumerate(batch):
            outcome = outcomes[at] if at < len(outcomes) else None
            if outcome is None:
                job.waiter.wake()
            else:
                job.waiter.fail(self._failure(outcome, [job.item], epoch))

    def failed(self, batch: list[_Job], error: Exception, epoch: int) -> None:
        """A call failed: tell each publisher."""
        for job in batch:
            job.waiter.fail(self._failure(error, [job.item], epoch))

    def ended(self, line: _Line) -> None:
        """A call's task has ended."""
        line.calls -= 1
        if line.jobs:
            self._start_if_needed(line)
        elif not line.calls:
            self._lines.pop(line.key, None)

    def closed(self, error: Exception) -> None:
        """The session ends: whoever waits is told."""
        for line in self._lines.values():
            jobs, line.jobs = line.jobs, []
            for job in jobs:
                job.waiter.fail(error)

    @property
    def waiting(self) -> int:
        """Messages that wait for a call."""
        return sum(len(line.jobs) for line in self._lines.values())

    def __repr__(self) -> str:
        return f'<Publisher: {self.published} put in {self.calls} calls, {self.waiting} waiting>'


class _Again(Exception):
    """The broker surely has nothing of these: the connection was lost before, or a queue is missing."""

    def __init__(self, items: list[Put], cause: Exception, missing: bool = False) -> None:
        super().__init__(str(cause))
        self.items = items
        self.cause = cause
        self.missing = missing


def _raise_any(failures: list[Exception]) -> None:
    if not failures:
        return
    again: list[_Again] = []
    try:
        for error in failures:
            if not isinstance(error, _Again):
                raise error
            again.append(error)
        items = [item for error in again for item in error.items]
        raise _Again(items, again[0].cause, any(error.missing for error in again))
    finally:
        del failures, again, error  # their tracebacks will know this frame


class _Call:
    """A task that makes calls, and may have to be ended: the driver does not keep its deadline."""

    __slots__ = ('task', 'timer')

    def __init__(self) -> None:
        self.task: Any = None
        self.timer: Any = None

    def begins(self, deadline: runtime.Deadline) -> None:
        left = deadline.remaining()
        if left is not None:
            self.timer = runtime.call_later(left + SLACK, self.task.kill)


def _put(ref: Callable[[], Publisher | None], line: _Line, call: _Call, driver: Driver) -> None:
    while True:
        publisher = ref()
        if publisher is None:
            return
        batch, epoch = publisher.next_batch(line), publisher.epoch
        del publisher
        if not batch:
            return
        # The latest of them: nobody's short deadline cuts the message of another.
        deadline = batch[0].deadline if len(batch) == 1 else max((job.deadline for job in batch), key=_at)
        call.begins(deadline)
        line.busy += 1
        try:
            outcomes = list(driver.put([job.item for job in batch], deadline) or ())
        except Exception as error:  # told to those whose messages they were
            publisher = ref()
            if publisher is not None:
                publisher.failed(batch, error, epoch)
        except BaseException:
            for job in batch:
                job.waiter.fail(ConnectionClosed('the connection was closed'))
            raise
        else:
            publisher = ref()
            if publisher is not None:
                publisher.answered(batch, outcomes, epoch)
        finally:
            line.busy -= 1
            if call.timer is not None:
                call.timer.cancel()
                call.timer = None
        del publisher


def _at(deadline: runtime.Deadline) -> float:
    return deadline.at


def _put_ended(
    ref: Callable[[], Publisher | None], line: _Line, task: runtime.Task, error: BaseException | None
) -> None:
    publisher = ref()
    if publisher is not None:
        publisher.ended(line)
