"""kombu's single loop, as far as it is looked at from outside: what it consumes, and what that comes to."""

from __future__ import annotations

from typing import Any

from greenmq import runtime
from greenmq.consuming.runners import consumes
from greenmq.consuming.status import Counts
from greenmq.messaging import Consumer

__all__ = ('Loop',)


class Loop:
    """kombu's one loop, as `ConsumerMixin.status` shows it: one runner, in the greenlet that called `run`.

    Arguments:
        connection (Connection): open.
        consumers (list[Consumer]): all of it; their callbacks are counted, and fail as ever.
        counts (Counts): what they came to on earlier connections.
    """

    stopping = False

    def __init__(self, connection: Any, consumers: list[Consumer], counts: Counts | None = None) -> None:
        self.connection = connection
        self.consumers = consumers
        self.counts = counts or Counts()
        self.busy = 0
        for consumer in consumers:
            consumer.runner = self._work

    @property
    def runners(self) -> list[Loop]:
        """Itself."""
        return [self]

    def _work(self, consumer: Consumer, message: Any) -> None:
        started = runtime.monotonic()
        self.busy += 1
        try:
            consumer.process_message(message)
        except Exception as exc:
            self.counts.add_failure(exc)
            raise
        finally:
            self.busy -= 1
            self.counts.add(message, runtime.monotonic() - started)

    def status(self) -> dict[str, Any]:
        """See `ChannelRunner.status`."""
        return {
            'queues': [queue.name for consumer in self.consumers for queue in consumer.queues],
            'state': 'consuming',
            'consuming': self.connection.connected and all(map(consumes, self.consumers)),
            'concurrency': 1,
            'prefetch': max((_prefetch(each.channel) for each in self.consumers), default=0),
            'busy': self.busy,
            **self.counts.snapshot(),
        }


def _prefetch(channel: Any) -> int:
    return getattr(channel, 'prefetch_count', None) or 0  # not every transport's channel tells
