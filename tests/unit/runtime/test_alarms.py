"""Long deadlines: one timer of the loop for all that wait, late by a grain at most, and never early."""

from __future__ import annotations

import pytest

from greenmq import runtime
from greenmq.exceptions import TimeoutError
from greenmq.runtime import alarms, seam

FAR = 20.0


@pytest.fixture
def timers(monkeypatch):
    """The timers of the loop that are made, as [seconds, how often closed]."""
    made = []
    real = seam.library.timer

    class Counted:
        def __init__(self, handle, entry):
            self.handle, self.entry = handle, entry

        def close(self):
            self.entry[1] += 1
            self.handle.close()

    def timer(hub, seconds, *args):
        entry = [seconds, 0]
        made.append(entry)
        return Counted(real(hub, seconds, *args), entry)

    monkeypatch.setattr(seam.library, 'timer', timer)
    return made


@pytest.fixture
def short(monkeypatch):
    """What counts as long is so short that a test can wait for it."""
    monkeypatch.setattr('greenmq.runtime.waiter.LONG', 0.05)
    monkeypatch.setattr(alarms, 'GRAIN', 0.02)


def parked(count, seconds=FAR):
    """Waiters, each waited for by a task; what came of it is in the list."""
    outcomes = []

    def wait(waiter):
        try:
            outcomes.append(waiter.wait(seconds))
        except TimeoutError:
            outcomes.append('late')

    waiters = [runtime.Waiter() for _ in range(count)]
    tasks = [runtime.spawn(wait, waiter, name='wait') for waiter in waiters]
    runtime.sleep(0)
    return waiters, tasks, outcomes


def test_many_share_one_timer_which_goes_with_the_last_of_them(timers):
    waiters, tasks, outcomes = parked(100)
    assert len(timers) <= 2 and timers[-1][0] <= FAR + alarms.GRAIN  # two: a grain may end in between
    for waiter in waiters[1:]:
        waiter.wake('x')
    for task in tasks[1:]:
        task.join()
    assert [closed for _, closed in timers].count(0) == 1
    waiters[0].wake('x')
    tasks[0].join()
    assert outcomes == ['x'] * 100 and all(closed for _, closed in timers)


def test_a_kill_leaves_no_alarm(timers):
    waiters, tasks, outcomes = parked(3)
    for task in tasks:
        task.kill()
    for task in tasks:
        task.join()
    assert all(closed for _, closed in timers) and outcomes == []


def test_each_is_told_after_its_deadline(short):
    began = runtime.monotonic()
    late, early = parked(5, 0.2), parked(5, 0.1)
    for task in [*early[1], *late[1]]:
        assert task.join(FAR)
    assert early[2] == late[2] == ['late'] * 5 and runtime.monotonic() - began >= 0.2
    assert all(waiter.expired for waiter in (*early[0], *late[0]))


def test_an_earlier_one_that_comes_later_is_told_first(short, timers):
    late, early = parked(1, 0.3), parked(1, 0.1)
    assert early[1][0].join(FAR) and not late[1][0].done
    assert late[1][0].join(FAR)


def test_who_was_woken_in_the_moment_of_the_alarm_is_woken(short):
    waiters, tasks, outcomes = parked(2, 0.06)
    deadline = runtime.Deadline.after(0.06 + 2 * alarms.GRAIN)
    while not deadline.expired():
        pass  # the hub has no turn: both happen in its next round
    waiters[0].wake('x')
    for task in tasks:
        task.join()
    assert outcomes == ['x', 'late']


def test_short_waits_are_exact(timers):
    with pytest.raises(TimeoutError):
        runtime.Waiter().wait(0.01)
    assert len(timers) == 1 and timers[0][0] <= 0.01


def test_a_wait_without_end_has_no_timer(timers):
    waiters, tasks, outcomes = parked(1, float('inf'))
    assert not timers
    waiters[0].wake('x')
    tasks[0].join()
