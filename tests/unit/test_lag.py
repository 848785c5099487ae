"""A hub that does not run is noticed, and the culprit's stack is named (P13)."""

from __future__ import annotations

import logging
import time

import pytest

from greenmq import events, runtime
from greenmq.exceptions import InvalidArgument
from greenmq.lag import watch_lag
from tests.support import census
from tests.support.process import wait_until


def burn(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


@pytest.fixture
def watched(caplog):
    """Watch with a threshold of 50 ms; gives a function that waits for what is told."""
    told, arrived = [], runtime.Semaphore(0)

    def take():
        assert arrived.acquire(timeout=5)
        return told.pop(0).facts

    subscription = events.subscribe('lag', lambda event: (told.append(event), arrived.release()))
    watchdog = watch_lag(0.05)
    with caplog.at_level(logging.WARNING, 'greenmq.lag'):
        yield take
    watchdog.cancel()
    subscription.cancel()


def test_a_stall_is_told_with_its_length_and_the_stack_of_its_cause(watched, caplog):
    runtime.sleep(0.02)
    burn(0.4)
    facts = watched()
    while 'in burn' not in facts['stack']:
        facts = watched()  # a busy machine stops everything too, and that is told as well
    assert 0.05 < facts['seconds'] < 5
    assert 'the hub did not run for' in caplog.text


def test_a_hub_that_runs_is_left_in_peace(caplog):
    seen = []
    watchdog = runtime.Watchdog(5.0, lambda *facts: seen.append(facts))
    runtime.sleep(0.01)
    watchdog.cancel()
    assert seen == []


def test_a_cancelled_watch_ends_its_thread_and_does_not_wait_for_its_next_look():
    before = census.threads()
    watchdog = runtime.Watchdog(4000.0, print)
    watchdog.cancel()
    watchdog.cancel()
    wait_until(lambda: census.threads() <= before, 10, 'the end of the thread')


def test_a_cancelled_watch_tells_nothing():
    seen = []
    watchdog = runtime.Watchdog(0.02, lambda *facts: seen.append(facts))
    watchdog.cancel()
    burn(0.1)
    runtime.sleep(0.05)
    assert seen == []


def test_a_threshold_must_be_positive():
    with pytest.raises(InvalidArgument, match='threshold'):
        watch_lag(0)
