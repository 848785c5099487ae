"""Noticing that the hub does not run: a program that computes for seconds stops every other greenlet
(P13)."""

from __future__ import annotations

from greenmq import events, runtime
from greenmq.log import get_logger

__all__ = ('watch_lag',)

logger = get_logger(__name__)


def watch_lag(threshold: float = 1.0) -> runtime.Watchdog:
    """Log, and tell as the event `lag`, each time the hub of this thread was kept from running.

    Nothing watches unless this is called: it costs a native thread, and a wake-up of the hub each quarter of
    the threshold.

    Arguments:
        threshold (float): seconds without the hub that are worth a word.
    Example:
        >>> watch = watch_lag(0.5)
        >>> watch.cancel()

    Returns:
        Watchdog: `cancel()` ends it.
    Raises:
        InvalidArgument: a threshold that is not positive.
    """
    return runtime.Watchdog(threshold, _report)


def _report(seconds: float, stack: str) -> None:
    logger.warning('the hub did not run for %.1f s; this kept it:\n%s', seconds, stack)
    events.emit('lag', seconds=seconds, stack=stack)
