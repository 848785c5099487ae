"""Pauses before a further attempt, and the rate at which a server is asked that throttles."""
from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from greenmq import runtime
from greenmq.transport.http import Pace, pause_before, retry_after


def test_a_pause_is_by_chance_and_doubles_up_to_five_seconds():
    assert [pause_before(n, lambda: 1.0) for n in (2, 3, 4, 8, 9, 30)] == [0.05, 0.1, 0.2, 3.2, 5.0, 5.0]
    assert pause_before(9, lambda: 0.0) == 0.0


@pytest.mark.parametrize(
    ('value', 'seconds'), [('', None), ('7', 7.0), (' 0 ', 0.0), ('soon', None), ('-1', None)]
)
def test_retry_after(value, seconds):
    assert retry_after({'retry-after': value}) == seconds


def test_retry_after_as_a_date():
    later = datetime.now(timezone.utc) + timedelta(seconds=30)
    assert 25 < retry_after({'retry-after': format_datetime(later, usegmt=True)}) <= 30
    assert retry_after({'retry-after': 'Thu, 01 Jan 1970 00:00:00 GMT'}) == 0.0


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(runtime, 'monotonic', lambda: self.now)


def test_a_rate_that_was_throttled_is_halved_and_grows_back(monkeypatch):
    clock = Clock(monkeypatch)
    pace = Pace()
    # Given 100 requests in half a second, none of which had to wait
    for _ in range(100):
        assert pace.delay() == 0.0
        clock.now += 0.005
    # When the server throttles
    pace.throttled()
    assert pace.rate == pytest.approx(100, rel=0.1)
    # Then requests are spaced
    delays = [pace.delay() for _ in range(10)]
    assert delays == sorted(delays) and delays[-1] == pytest.approx(9 / 100, rel=0.2)
    # And after some seconds without a further word there is no limit
    clock.now += 6
    assert pace.delay() == 0.0 and pace.rate == float('inf')


def test_a_rate_never_falls_to_nothing(monkeypatch):
    Clock(monkeypatch)
    pace = Pace()
    for _ in range(50):
        pace.throttled()
    assert pace.rate == 1.0
