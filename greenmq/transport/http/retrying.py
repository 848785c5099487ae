"""A call that is made again within its deadline, for as long as that may help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, TimeoutError
from greenmq.transport.http.connection import Response
from greenmq.transport.http.errors import ServiceError, Throttled
from greenmq.transport.http.pacing import Pace, pause_before, retry_after

__all__ = ('Refused', 'call', 'refusal')

#: Tries of a call whose server can't be reached or gives no answer.
TRIES = 3
#: Seconds that one try may take where the deadline is longer: a server that is silent is asked again.
ATTEMPT = 10.0


class Refused(Exception):
    """The service answered that it will not now: the same call may be made again.

    Arguments:
        error (Exception): what to raise if it is not.
        throttled (bool): it was asked too much. pause (float): seconds that it asks for.
    """

    def __init__(self, error: Exception, throttled: bool = False, pause: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.throttled = throttled
        self.pause = pause


def refusal(answer: Response, text: str, code: str = '') -> Exception:
    """What to raise for an answer that is no success and of which the service says nothing in particular."""
    if answer.status in (429, 503):
        throttled = Throttled(text, code, answer.status)
        return Refused(throttled, True, retry_after(answer.headers) or 0.0)
    error = ServiceError(text, code, answer.status)
    return Refused(error) if answer.status >= 500 else error


def call(
    once: Callable[[runtime.Deadline], Response],
    deadline: runtime.Deadline,
    pace: Pace,
    attempt: float = ATTEMPT,
) -> Any:
    """Make a call until it is answered. To do it twice must do no harm, or one that is known.

    Up to three times where there was no answer; what was refused is made again until the deadline.

    Arguments:
        once (Callable): makes it, within the deadline it gets.
        pace (Pace): of the service.
        attempt (float): seconds of one try.
    Returns:
        what `once` returned.
    Raises:
        NoAnswer, NoAnswerInTime, DialError: the last try; `sent` tells whether any of them may have arrived.
        Exception: the error of a `Refused`, or what else `once` raised.
    Switches: yes. Killed: the exchange ends, and its connection.
    """
    failed = tried = 0
    sent = 'no'
    while True:
        delay = pace.delay()
        if delay:
            runtime.sleep(min(delay, _left(deadline)))
        deadline.check('no answer')
        try:
            return once(deadline.within(attempt))
        except Refused as refused:
            if refused.throttled:
                pace.throttled()
            failed += 1
            pause = max(pause_before(failed + 1), refused.pause)
            if pause >= _left(deadline):
                raise refused.error from None
        except (ConnectionLost, TimeoutError) as error:
            tried += 1
            mine = getattr(error, 'sent', 'no' if isinstance(error, runtime.DialError) else 'unknown')
            sent = 'unknown' if 'unknown' in (mine, sent) else 'no'
            error.sent = sent  # type: ignore[union-attr]
            pause = pause_before(tried + 1)
            if tried >= TRIES or pause >= _left(deadline):
                raise
        runtime.sleep(pause)


def _left(deadline: runtime.Deadline) -> float:
    left = deadline.remaining()
    return float('inf') if left is None else left
