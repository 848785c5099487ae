"""Long deadlines: one timer of the loop for all that wait, late by a grain at most, and never early."""

from __future__ import annotations

import pytest

from greenmq import runtime
from greenmq.exceptions import TimeoutError
from greenmq.runtime import alarms, seam
from tests.support import green

FAR = 20.0
GEVENT = pytest.mark.skipif(seam.library.NAME != 'gevent', reason='only gevent asks what is left to do')


@pytest.fixture
def timers(monkeypatch):
    """The timers of the loop that are made. They begin in a hub that has none."""
    made = []
    real = seam.library.timer

    class Counted:
        def __init__(self, handle, seconds):
            self.handle, self.seconds, self.closed = handle, seconds, 0

        @property
        def ref(self):
            return self.handle.ref and not self.closed

        @ref.setter
        def ref(self, ref):
            self.handle.ref = ref

        def close(self):
            self.closed += 1
            self.handle.close()

    def timer(hub, seconds, *args):
        made.append(Counted(real(hub, seconds, *args), seconds))
        return made[-1]

    of_hub = getattr(seam.library.get_hub(), 'greenmq_alarms', None)
    if of_hub is not None:
        of_hub.forget()
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


@GEVENT
def test_many_share_one_timer_which_keeps_the_hub_while_one_of_them_waits(timers):
    waiters, tasks, outcomes = parked(100)
    assert len(timers) <= 2 and timers[-1].seconds <= FAR + alarms.GRAIN  # two: a grain may end in between
    for waiter in waiters[1:]:
        waiter.wake('x')
    for task in tasks[1:]:
        task.join()
    assert [timer.ref for timer in timers].count(True) == 1
    waiters[0].wake('x')
    tasks[0].join()
    assert outcomes == ['x'] * 100 and not any(timer.ref for timer in timers)


@GEVENT
def test_a_kill_leaves_no_alarm(timers):
    waiters, tasks, outcomes = parked(3)
    for task in tasks:
        task.kill()
    for task in tasks:
        task.join()
    assert not any(timer.ref for timer in timers) and outcomes == []


def test_who_waits_time_after_time_has_one_timer(timers):
    for _ in range(100):
        waiter = runtime.Waiter()
        runtime.run_soon(waiter.wake, 'x')
        assert waiter.wait(FAR) == 'x'
    assert len(timers) == 1 and timers[0].closed == 0


def test_the_timer_that_is_left_tells_who_waits_by_then(short, timers):
    waiter = runtime.Waiter()
    runtime.run_soon(waiter.wake, 'x')
    assert waiter.wait(0.1) == 'x'
    _, tasks, outcomes = parked(3, 0.2)
    for task in tasks:
        assert task.join(FAR)
    assert outcomes == ['late'] * 3


@GEVENT
def test_a_hub_with_nothing_left_but_the_timer_has_nothing_left(timers):
    def work():
        waiter = runtime.Waiter()
        runtime.run_soon(waiter.wake, 'x')
        waiter.wait(FAR)
        return seam.library.get_hub().join(FAR / 2)

    assert green.in_thread(work)


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
    assert len(timers) == 1 and timers[0].seconds <= 0.01


def test_a_wait_without_end_has_no_timer(timers):
    waiters, tasks, outcomes = parked(1, float('inf'))
    assert not timers
    waiters[0].wake('x')
    tasks[0].join()
