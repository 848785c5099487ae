"""Publishes whose confirms are awaited together: a `ConfirmLater` block. Public in `greenmq.messaging`.

In the block `Producer.publish` returns when the message is on its way. Nothing of what it promises is given
up, only put off: `flush`, and the end of the block, wait for every confirm, send again what `retry` would
have sent again, and raise what went wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from greenmq import runtime
from greenmq.exceptions import BufferFull, InvalidArgument, PublishUnconfirmed
from greenmq.log import get_logger

if TYPE_CHECKING:
    from types import TracebackType

    from greenmq.publishing.arguments import PublishArguments

__all__ = ('ConfirmLater', 'Unconfirmed', 'blocks', 'later_of', 'sender')

logger = get_logger('greenmq.publishing')

#: Messages that may wait for their confirm; the next one waits until half of them have it.
LIMIT = 10_000
#: Seconds that `flush` waits at most.
FLUSH_SECONDS = 30.0
#: Seconds that a block which an error leaves waits, if the connection does not say (`close_timeout`).
LEAVE_SECONDS = 5.0

#: By greenlet, the block that it is in. Empty nearly always, and looked at before any call is made.
blocks: dict[Any, ConfirmLater] = {}


class Unconfirmed(NamedTuple):
    """A message that the broker is not known to have.

    `arguments` are those of its publish, checked and the body encoded: `exchange`, `routing_key`, `headers`,
    `properties`, `body`, …; of a task of Celery `headers['id']` is the id.
    """

    arguments: PublishArguments
    error: Exception


class _Sent(NamedTuple):
    """On its way: what will be told of it, what it was, and how to send it again if the caller wants that."""

    future: runtime.Future
    arguments: PublishArguments
    again: Callable[[runtime.Deadline], Any] | None


class ConfirmLater:
    """Context manager: what this greenlet publishes inside is confirmed at `flush` and at the end.

    Outside of it, and in other greenlets, nothing changes. What must be done before a message can be sent
    (connecting, declaring, finding the exchange) is done by each publish as always, with its errors.

    Arguments:
        limit (int): messages that may wait for their confirm; the next publish waits until half of them have
            it, within its own deadline.
    Attributes:
        failures (list[Unconfirmed]): what the broker does not have, or may not have; of all flushes.
    Raises:
        InvalidArgument: a limit below 1.
    Source: greenmq's own.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidArgument('limit', limit, 'must be a positive integer')
        self.limit = limit
        self.failures: list[Unconfirmed] = []
        self._sent: deque[_Sent] = deque()
        self._refused: list[_Sent] = []
        self._client: Any = None  # of the publish that was last
        self._task: Any = None
        self._outer: ConfirmLater | None = None

    def __len__(self) -> int:
        """How many messages nobody has looked after yet: no confirm has come, or an error has."""
        self._look()
        return len(self._sent) + len(self._refused)

    def __enter__(self) -> ConfirmLater:
        if self._task is not None:
            raise RuntimeError('this ConfirmLater is entered already')
        task = self._task = runtime.current()
        self._outer = blocks.get(task)
        blocks[task] = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()
        if exc is None:
            self.flush()
            return
        if isinstance(exc, (Exception, SystemExit)):
            options = getattr(self._client, 'transport_options', None) or {}
            self._settle(runtime.Deadline.of(options.get('close_timeout', LEAVE_SECONDS)))
        # The first error counts, and a kill waits for nothing: but what is not known to have arrived is told.
        left = len(self.failures) + len(self)
        if left:
            logger.error(
                'a ConfirmLater was left by %r: %d messages are not confirmed%s', exc, left,
                f'; the first: {self.failures[0].error}' if self.failures else '',
            )  # fmt: skip

    def _leave(self) -> None:  # no switch
        if self._outer is None:
            blocks.pop(self._task, None)
        else:
            blocks[self._task] = self._outer
        self._task = self._outer = None

    def flush(self, timeout: float | None = FLUSH_SECONDS) -> None:
        """Wait until the broker has all that was published so far.

        What was published with `retry` and went down with its connection, or was refused for now, is sent
        again first, as that publish would have done; so it may come twice, and after later ones.

        Arguments:
            timeout (float): seconds for all of it; None: no limit.
        Raises:
            Unroutable, PublishNacked, …: what became of the message, if it is one.
            PublishUnconfirmed: it is one whose confirm did not come; or several failed, in whatever way:
                `failures` tells of each.
        Switches: yes, unless all are confirmed. Killed: the rest is left to the next flush.
        """
        known = len(self.failures)
        self._settle(runtime.Deadline.of(timeout))
        failures = self.failures[known:]
        if len(failures) == 1:
            try:
                raise failures[0].error
            finally:
                del failures  # with its traceback, the error holds this frame
        if failures:
            unknown = [each for each in failures if getattr(each.error, 'sent', 'no') != 'no']
            raise PublishUnconfirmed(
                f'{len(failures)} publishes failed; the first: {failures[0].error}',
                sent='unknown' if unknown else 'no',
            ) from failures[0].error

    def _settle(self, deadline: runtime.Deadline) -> None:
        while self._sent:
            if not self._sent[0].future.waited(deadline):
                break
            self._look()
        task = runtime.current()
        block = blocks.pop(task, None)  # what is sent again waits for its confirm
        try:
            while self._refused:
                self._once_more(self._refused[0], deadline)
                self._refused.pop(0)
        finally:
            if block is not None:
                blocks[task] = block
        while self._sent:
            sent = self._sent.popleft()
            name, key = sent.arguments.exchange, sent.arguments.routing_key
            where = f'exchange {name!r}, routing key {key!r}'
            late = PublishUnconfirmed(f'publish to {where}: no confirm within {deadline.seconds} s')
            self.failures.append(Unconfirmed(sent.arguments, late))

    def _once_more(self, sent: _Sent, deadline: runtime.Deadline) -> None:
        error: Any = sent.future.exception()
        if sent.again is not None and not deadline.expired():
            try:
                sent.again(deadline)
                return
            except Exception as exc:
                # That it could not be sent again is not what became of it; that it may have come, is.
                if getattr(error, 'sent', 'no') == 'no' and getattr(exc, 'sent', 'no') != 'no':
                    error = exc
        self.failures.append(Unconfirmed(sent.arguments, error))

    def _look(self) -> None:  # no switch
        sent = self._sent
        while sent and sent[0].future.done():
            done = sent.popleft()
            if done.future.exception() is not None:
                self._refused.append(done)

    # ---- for Producer

    def make_room(self, deadline: runtime.Deadline) -> None:
        """Wait until another message may be sent. Raises PublishUnconfirmed, with sent='no': not in time."""
        self._look()
        if len(self._sent) < self.limit:
            return
        while len(self._sent) > self.limit // 2:
            if not self._sent[0].future.waited(deadline):
                text = f'{len(self._sent)} publishes wait for their confirm, and the limit is {self.limit}'
                raise PublishUnconfirmed(str(deadline.error(text)), sent='no')
            self._look()

    def keep(
        self, result: Any, arguments: PublishArguments, client: Any,
        again: Callable[[runtime.Deadline], Any] | None,
    ) -> None:  # fmt: skip
        """A message is on its way, if `result` is a future; else it is dealt with."""
        if isinstance(result, runtime.Future):
            self._client = client
            self._sent.append(_Sent(result, arguments, again))


def later_of() -> ConfirmLater | None:
    """The block that this greenlet is in."""
    return blocks.get(runtime.current())


def sender(channel: Any) -> Callable[..., Any]:
    """What to publish with in the place of `channel.basic_publish`, in a block."""
    send = getattr(channel, 'basic_publish_nowait', None)
    if send is None or getattr(channel, 'transactional', False):
        return channel.basic_publish  # type: ignore[no-any-return]

    def publish(message: Any, timeout: Any = None, confirm_timeout: Any = None, **place: Any) -> Any:
        try:
            return send(message, **place)
        except BufferFull:  # this one waits as any other publish does
            return channel.basic_publish(message, timeout=timeout, confirm_timeout=confirm_timeout, **place)

    return publish
