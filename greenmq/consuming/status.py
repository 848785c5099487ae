"""How a daemon stands: what its callbacks came to, over all connections, and when it tries again."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, Any

from greenmq import runtime
from greenmq.utils.url import hide_passwords

if TYPE_CHECKING:
    from greenmq.consuming.loop import Loop
    from greenmq.consuming.runners import RunnerGroup

__all__ = ('BUCKETS', 'Counts', 'StatusMixin', 'away')

#: Upper bounds, in seconds, of the histogram of callback durations; above the last one is one bucket more.
BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

# How many of the last failures of a runner are remembered.
FAILURES = 10

# What became of a message by the end of its callback, by Message's own word for it.
OUTCOMES = {'ACK': 'acked', 'REJECTED': 'rejected', 'REQUEUED': 'requeued', 'STALE': 'stale'}


class Counts:
    """What the callbacks of one runner came to, over all connections.

    Attributes:
        handled (int): callbacks that ended, well or not.
        failed (int): of those, by an error.
        outcomes (dict[str, int]): what they did to their messages: acked, rejected, requeued, stale, open.
        durations (list[int]): how many took at most so long, for each of `BUCKETS` and one more.
        seconds (float): all of them together.
        last_error (str): of the last callback that failed.
        failed_at (float): when that was, by `runtime.monotonic`.
        failures (deque[tuple[float, str]]): when the last ones were, and the class of their errors.
    """

    __slots__ = (
        'durations', 'failed', 'failed_at', 'failures', 'handled', 'last_error', 'outcomes', 'seconds',
    )  # fmt: skip

    def __init__(self) -> None:
        self.handled = self.failed = 0
        self.outcomes: dict[str, int] = {}
        self.durations = [0] * (len(BUCKETS) + 1)
        self.seconds = self.failed_at = 0.0
        self.last_error = ''
        self.failures: deque[tuple[float, str]] = deque(maxlen=FAILURES)

    def add(self, message: Any, seconds: float) -> None:
        """A callback ended."""
        self.handled += 1
        self.seconds += seconds
        self.durations[bisect_left(BUCKETS, seconds)] += 1
        outcome = OUTCOMES.get(message.state, 'open')
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def add_failure(self, error: Exception) -> None:
        """A callback failed."""
        self.failed += 1
        self.failed_at = runtime.monotonic()
        self.last_error = f'{type(error).__name__}: {error}'
        self.failures.append((self.failed_at, type(error).__name__))

    def snapshot(self) -> dict[str, Any]:
        """A copy of all that, by name."""
        found = {name: getattr(self, name) for name in self.__slots__}
        copied = {'outcomes': dict(self.outcomes), 'durations': list(self.durations)}
        return found | copied | {'failures': list(self.failures)}


def away(group: Any) -> tuple[tuple[dict[str, Any], Counts], ...]:
    """What the runners of a connection that ends were, and their counts; callbacks may still run."""
    facts = ('queues', 'concurrency', 'prefetch')
    gone = {'state': 'away', 'consuming': False, 'busy': 0}
    found = [(runner.status(), runner.counts) for runner in group.runners]
    return tuple(({**{name: status[name] for name in facts}, **gone}, counts) for status, counts in found)


class StatusMixin:
    """The half of a ConsumerMixin that says how it stands."""

    _bell: Any = None
    _runner_group: RunnerGroup | Loop | None = None
    _connects = 0
    _overdue = 0
    #: The connection that is being opened or consumed from, the last error of opening it and when the next
    #: try is due; what the consumers were when it was lost, until they are made again.
    _target: Any = None
    _trouble: tuple[BaseException, float] | None = None
    _away: tuple[tuple[dict[str, Any], Counts], ...] = ()

    def _on_error(self, exc: BaseException, interval: float) -> None:
        self._trouble = exc, runtime.monotonic() + interval
        self.on_connection_error(exc, interval)  # type: ignore[attr-defined]

    def status(self) -> dict[str, Any]:
        """What `run` does now, for people and for metrics.

        Returns:
            dict[str, object]: state ('idle', 'connecting', 'consuming', 'ending'), connection (its URL
            without password, or None), connects (how often it was opened), overdue (callbacks that the end
            of `run` did not wait for), error and next_try (while the broker can't be reached: why, and in
            how many seconds it is tried again at the latest; else None) and consumers, a list of dicts:
            queues, state, consuming, concurrency, prefetch, busy, handled, failed, outcomes, durations,
            seconds, last_error, failed_at, failures (seconds by `runtime.monotonic` and class of the last
            ones). While the connection is away they are those it had, 'away', with their numbers.
        """
        group = self._runner_group
        if group is None:
            state = 'idle' if self._bell is None else 'connecting'
        else:
            state = 'ending' if group.stopping else 'consuming'
        target = self._target if group is None else group.connection
        trouble = self._trouble
        if group is None:
            runners = [{**facts, **counts.snapshot()} for facts, counts in self._away]
        else:
            runners = [runner.status() for runner in group.runners]
        return {
            'state': state,
            'connection': None if target is None else target.as_uri(),
            'connects': self._connects,
            'overdue': self._overdue,
            'error': None if trouble is None else hide_passwords(str(trouble[0])),
            'next_try': None if trouble is None else max(0.0, trouble[1] - runtime.monotonic()),
            'consumers': runners,
        }
