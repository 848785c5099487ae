"""Publishes collected by one greenlet and flushed together, on transports that can."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenmq import runtime
from greenmq.exceptions import InvalidArgument
from greenmq.log import get_logger

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ('DEFAULT_BATCH_SIZE', 'BatchState', 'ProducerBatch')

logger = get_logger('greenmq.batch')

#: Messages that `Producer.batch()` collects before it flushes by itself.
DEFAULT_BATCH_SIZE = 1000


class BatchState:
    """What the nested batches of one greenlet on one producer share: the transport's batch, made by the
    first publish.
    """

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.channel: Any = None
        self.batch: Any = None
        #: An exception left a block: nothing more is collected or sent, also not by the blocks around it.
        self.aborted = False

    def publisher(self, channel: Any) -> Callable[..., Any]:
        """Give what to publish with instead of `channel.basic_publish`.

        Raises:
            RuntimeError: the producer has another channel than the messages collected so far, or a block
                inside was left by an exception.
        """
        self._check()
        if self.channel is None:
            if not can_batch(channel):
                return channel.basic_publish  # type: ignore[no-any-return]
            self.channel = channel
            self.batch = channel.create_publish_batch(max_size=self.max_size)
        elif channel is not self.channel:
            raise RuntimeError('Producer channel changed while a publish batch was active')
        return self.batch.publish  # type: ignore[no-any-return]

    def flush(self) -> Any:
        """Send what was collected. Switches: yes."""
        self._check()
        return self.batch.flush() if self.batch is not None else None

    def abort(self, exc: BaseException) -> None:
        """An exception leaves a block: forget what was collected. What that says is logged: the first error
        counts.
        """
        if not self.aborted:
            self.aborted = True
            if self.batch is not None:
                _after_error(self.batch.discard, exc)

    def end(self, exc: BaseException | None) -> None:
        """Send what was collected, if no block failed, and give the transport's batch back.

        Switches: yes if it is sent.
        """
        batch, self.batch, self.channel = self.batch, None, None
        if batch is None:
            return
        try:
            if not self.aborted:
                batch.flush()
        except BaseException as failure:
            _after_error(batch.close, failure)
            raise
        _after_error(batch.close, exc)

    def _check(self) -> None:
        if self.aborted:
            raise RuntimeError('an aborted batch takes nothing more: an exception left it or one inside it')


def can_batch(channel: Any) -> bool:
    """Whether a channel collects publishes: it has the method, and does not say that it is of no use.

    Source: kombu's batch context, by which channels of other transports are recognised.
    """
    made = getattr(channel, 'create_publish_batch', None) is not None
    return made and bool(getattr(channel, 'supports_batch_publish', True))


def _after_error(call: Callable[[], Any], first: BaseException | None) -> None:
    try:
        call()
    except Exception as exc:
        if first is None:
            raise
        logger.warning('a batch that was given up: %r', exc, exc_info=exc)


class ProducerBatch:
    """Collect what this greenlet publishes inside the `with` block; sent when the outermost block ends well.

    Raises:
        InvalidArgument: `max_size` is not a positive integer.
        BatchPublishError: the flush failed and some messages may have arrived (from the transport).
    Source: kombu Producer.batch.
    """

    def __init__(self, producer: Any, states: dict[Any, BatchState], max_size: int) -> None:
        if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
            raise InvalidArgument('max_size', max_size, 'must be a positive integer')
        self.producer = producer
        self.max_size = max_size
        self.entered = False
        self.active = False
        self.is_outermost = False
        self._states = states
        self._owner: Any = None
        self.state: BatchState | None = None

    def __enter__(self) -> ProducerBatch:
        if self.entered:
            raise RuntimeError('Publish batch context cannot be re-entered')
        self.entered = self.active = True
        self._owner = runtime.current()
        self.state = self._states.get(self._owner)
        if self.state is None:
            self.is_outermost = True
            self.state = self._states[self._owner] = BatchState(self.max_size)
        return self

    def flush(self) -> Any:
        """Send what was collected so far.

        Raises:
            RuntimeError: outside of the `with` block.
        Switches: yes.
        Source: kombu's batch context.
        """
        if not self.active or self.state is None:
            raise RuntimeError('Publish batch context is not active')
        return self.state.flush()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.active = False
        if exc is not None and self.state is not None:
            # Caught by the program outside of this block, it leaves what was collected by half all the same.
            self.state.abort(exc)
        if self.is_outermost and self.state is not None:
            del self._states[self._owner]
            self.state.end(exc)
        self._owner = None
