"""The number of a failed attempt to the delay before the next one. Never sleeps and has no clock."""

from __future__ import annotations

import random
from collections.abc import Callable

from greenmq.exceptions import InvalidArgument

__all__ = ('LOOK_SECONDS', 'RetrySchedule', 'turn_seconds')

#: What a host among several has at least to answer in, before the next one has its turn.
LOOK_SECONDS = 1.0


def turn_seconds(tries: int, hosts: int, seconds: float, left: float | None = None) -> float:
    """How long one of several hosts may be silent before the next one has its turn.

    In the first round over the hosts, and in every other one after it, they share the seconds, so that a good
    host behind silent ones is found soon; in the rounds between, each has all of them, so that one that is
    slow is found as well.

    Arguments:
        tries (int): how many tries there were before this one, all hosts together.
        hosts (int): how many there are, 1 or more.
        seconds (float): what a try may take at most.
        left (float): seconds that are left of this round's, for who counts them: what hosts that refused did
            not take then goes to the others.
    Returns:
        float: seconds, at most those, and as far as they go at least LOOK_SECONDS.
    """
    if hosts < 2 or tries // hosts % 2:
        return seconds
    share = seconds / hosts if left is None else left / (hosts - tries % hosts)
    return min(seconds, max(share, LOOK_SECONDS))


class RetrySchedule:
    """When to try again, and when to give up.

    Attempts are counted from 1: `attempt` is how many have failed so far. The delay after the n-th failure is
    ``interval_start + (n - 1) * interval_step``, at most `interval_max`, less up to `jitter` of it by chance,
    so that a thousand clients of one broker that went down do not come back in one moment.

    Arguments:
        max_retries (int | None): attempts after the first one. None: no limit. 0 or less: never a second
        attempt. interval_start (float): seconds before the second attempt.
        interval_step (float): seconds that each further delay is longer; may be 0.
        interval_max (float | None): seconds, the longest delay; None: no limit.
        jitter (float): 0 to 1, the part of a delay that chance may take away.
        timeout (float | None): seconds since the first attempt after which no further one is made; None: no
        limit. rng (Callable[[], float]): chance, from 0 up to 1.
    Raises:
        InvalidArgument: a negative time, or a jitter outside 0 to 1.
    Source: kombu retry_over_time and Connection.ensure; differs: the jitter.
    """

    __slots__ = ('interval_max', 'interval_start', 'interval_step', 'jitter', 'max_retries', 'rng', 'timeout')

    def __init__(
        self,
        max_retries: int | None = None,
        interval_start: float = 2.0,
        interval_step: float = 2.0,
        interval_max: float | None = 30.0,
        jitter: float = 0.0,
        timeout: float | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        times = (
            ('interval_start', interval_start),
            ('interval_step', interval_step),
            ('interval_max', interval_max),
            ('timeout', timeout),
        )
        for name, seconds in times:
            if seconds is not None and not seconds >= 0:  # written so that NaN is refused too
                raise InvalidArgument(name, seconds, 'must be 0 seconds or more')
        if not 0 <= jitter <= 1:
            raise InvalidArgument('jitter', jitter, 'must be from 0 to 1')
        self.max_retries = max_retries
        self.interval_start = interval_start
        self.interval_step = interval_step
        self.interval_max = interval_max
        self.jitter = jitter
        self.timeout = timeout
        self.rng = rng

    def __repr__(self) -> str:
        retries = 'for ever' if self.max_retries is None else f'{self.max_retries} times'
        return (
            f'<RetrySchedule: {retries}, {self.interval_start} s + {self.interval_step} s each, '
            f'at most {self.interval_max} s>'
        )

    def delay(self, attempt: int) -> float:
        """Compute how long to wait after the failure of attempt number `attempt` (from 1).

        Returns:
            float: seconds, 0 or more, at most `interval_max`.
        """
        seconds = self.interval_start + self.interval_step * (max(attempt, 1) - 1)
        if self.interval_max is not None and seconds > self.interval_max:
            seconds = self.interval_max
        if self.jitter:
            seconds -= seconds * self.jitter * self.rng()
        return float(seconds)

    def gives_up(self, attempt: int, elapsed: float = 0.0) -> bool:
        """Ask whether the failure of attempt number `attempt` (from 1) was the last.

        Arguments:
            attempt (int): how many attempts have failed.
            elapsed (float): seconds since the first attempt began.
        """
        if self.max_retries is not None and attempt > self.max_retries:
            return True
        return self.timeout is not None and elapsed >= self.timeout
