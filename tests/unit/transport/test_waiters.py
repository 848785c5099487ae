"""Takes that wait: woken, due, over, killed; nothing of them stays."""
from __future__ import annotations

import pytest

from greenmq import runtime
from greenmq.transport.waiters import Waiters
from tests.support import green


@pytest.fixture
def waiters():
    waiters = Waiters()
    yield waiters
    assert list(waiters) == [] and not waiters


def looks(*answers):
    """A look that gives these answers in turn, and notes whether it was told that somebody woke it."""
    told, left = [], list(answers)

    def look(woken):
        told.append(woken)
        return left.pop(0) if left else ([], None)

    return look, told


def test_what_is_there_is_taken_without_waiting(waiters):
    look, told = looks(([1], None))
    assert waiters.take(['a'], 60, look) == [1] and told == [True]


def test_no_seconds_are_one_look(waiters):
    look, told = looks()
    assert waiters.take(['a'], 0, look) == [] and told == [True]


@pytest.mark.parametrize('queues', [['b'], ['x', 'a'], None])
def test_who_waits_for_one_of_the_queues_is_woken(waiters, queues):
    look, told = looks(([], None), ([2], None))
    task = green.spawn(waiters.take, ['a', 'b'], 60, look)
    green.sleep(0.01)
    assert 'a' in waiters and sorted(waiters) == ['a', 'b']
    waiters.wake({'c'})
    green.sleep(0.01)
    assert told == [True]
    waiters.wake(queues)
    assert task.get(timeout=5) == [2] and told == [True, True]


def test_a_look_that_is_due_is_nobodys_waking(waiters):
    look, told = looks(([], 0.01), ([3], None))
    assert waiters.take(['a'], 60, look) == [3] and told == [True, False]


def test_a_wake_during_a_look_is_another_look(waiters):
    turns = []

    def look(woken):
        turns.append(woken)
        if len(turns) == 1:
            waiters.wake({'a'})  # as somebody would who publishes meanwhile
            return [], None
        return [4], None

    assert waiters.take(['a'], 60, look) == [4] and turns == [True, True]


def test_its_end_is_a_last_look(waiters):
    look, told = looks(([], None), ([], None))
    assert waiters.take(['a'], 0.01, look) == [] and told == [True, False]


def test_a_killed_take_stays_nowhere(waiters):
    look, _ = looks()
    task = runtime.spawn(waiters.take, ['a'], 60, look, name='take')
    green.sleep(0.01)
    task.kill()
    task.join()
