"""The schedule."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from time import time

import pytest

from greenmq.asynchronous import timer as module
from greenmq.asynchronous.timer import Entry, Timer, to_timestamp
from greenmq.exceptions import InvalidArgument


@pytest.fixture
def now(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module, 'monotonic', lambda: now[0])
    for method in (Timer.enter_at, Timer.enter_after, to_timestamp):
        monkeypatch.setattr(
            method,
            '__defaults__',
            tuple(_clock(now) if d is module_monotonic else d for d in method.__defaults__),
        )
    return now


module_monotonic = module.monotonic


def _clock(now):
    return lambda: now[0]


def due(timer):
    """Make the calls that are due; return what iteration then says."""
    for delay, entry in timer:
        if entry is None:
            return delay
        timer.apply_entry(entry)
    raise AssertionError('iteration ended')


def test_calls_in_order_of_time_and_priority(now):
    timer, calls = Timer(), []
    timer.call_after(2, calls.append, ('later',))
    timer.call_after(1, calls.append, ('low',), priority=9)
    timer.call_after(1, calls.append, ('high',), priority=1)
    assert due(timer) == 1.0
    assert calls == []
    now[0] += 1
    assert due(timer) == 1.0
    assert calls == ['high', 'low']
    now[0] += 1
    assert due(timer) is None
    assert calls == ['high', 'low', 'later']


def test_never_reports_more_than_the_longest_interval(now):
    timer = Timer(max_interval=5)
    timer.call_after(100, print)
    assert due(timer) == 5.0
    assert Timer().max_interval == 2.0


def test_cancelled_entries_are_skipped(now):
    timer, calls = Timer(), []
    entry = timer.call_after(1, calls.append, ('x',))
    assert not entry.cancelled
    timer.cancel(entry)
    assert entry.cancelled and entry.canceled
    now[0] += 2
    assert due(timer) is None
    assert calls == []


def test_repeatedly_until_cancelled(now):
    timer, calls = Timer(), []

    def call(word):
        calls.append((word, now[0]))
        now[0] += 0.25  # the call takes its time

    entry = timer.call_repeatedly(1, call, ('tick',))
    for _ in range(3):
        now[0] = timer.queue[0].eta
        due(timer)
    assert calls == [('tick', 1001.0), ('tick', 1002.0), ('tick', 1003.0)]
    entry.cancel()
    now[0] += 5
    due(timer)
    assert len(calls) == 3
    assert len(timer) == 0


def test_repeatedly_although_it_fails(now, caplog):
    timer = Timer()
    timer.call_repeatedly(1, lambda: 1 / 0)
    now[0] += 1
    due(timer)
    assert len(timer) == 1
    assert 'ZeroDivisionError' in caplog.text


def test_errors_go_to_on_error(now):
    errors = []
    timer = Timer(on_error=errors.append)
    timer.apply_entry(Entry(lambda: 1 / 0))
    assert isinstance(errors[0], ZeroDivisionError)


def test_moments(now):
    timer = Timer()
    timer.call_at(1005.0, print)
    timer.call_at(None, print)
    timer.call_at(datetime.now(timezone.utc) + timedelta(seconds=10), print)
    assert [round(entry.eta) for entry in timer.queue] == [1000, 1005, 1010]
    with pytest.raises(InvalidArgument, match="eta.*'tomorrow'"):
        timer.call_at('tomorrow', print)
    timer.clear()
    assert not timer.queue
    assert timer.schedule is timer


def test_to_timestamp(now):
    assert to_timestamp(5.0) == 5.0
    assert to_timestamp(None) is None
    naive = datetime.fromtimestamp(time() + 10, timezone.utc).replace(tzinfo=None)
    assert to_timestamp(naive) == pytest.approx(1010, abs=1)
    east = timezone(timedelta(hours=2))
    assert to_timestamp(naive, east) == pytest.approx(1010 - 7200, abs=1)


def test_entries():
    entry = Entry(lambda *args, **kwargs: (args, kwargs), (1,), {'x': 2})
    assert entry() == ((1,), {'x': 2})
    assert repr(entry) == "<TimerEntry: <lambda>(*(1,), **{'x': 2})>"
    other = Entry(print)
    assert (entry < other) is not (other < entry)
    assert entry != other
    assert len({entry, other}) == 2


def test_who_waits_is_told_of_what_is_new():
    timer, told = Timer(), []
    timer.on_change = lambda: told.append(len(timer))
    timer.call_after(1, print)
    assert told == [1]


def test_a_subclass_may_schedule_otherwise():
    class Own(Timer):
        def _enter(self, eta, priority, entry, **kwargs):
            self._queue.append((eta, entry))
            return 'mine'

    with Own() as timer:
        assert timer.call_after(1, print) == 'mine'
    assert len(timer) == 1
