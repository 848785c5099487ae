"""One does the work, the others wait: its result, its end, and who comes next."""

from __future__ import annotations

import pytest

from greenmq import runtime
from greenmq.exceptions import TimeoutError
from tests.support import green


class Refused(Exception):
    pass


class Work:
    """Waits until it is let go, and counts how often it began."""

    def __init__(self):
        self.begun = 0
        self.go = green.Event()
        self.error = None

    def __call__(self):
        self.begun += 1
        self.go.wait()
        if self.error is not None:
            raise self.error
        return self.begun


@pytest.fixture
def once():
    once = runtime.Once((Refused,))
    yield once
    assert len(once) == 0


@pytest.fixture
def work():
    return Work()


def ask(once, work, **kwargs):
    try:
        return once.do('k', work, **kwargs)
    except Exception as error:
        return error


def asked(once, work, count=5):
    tasks = [green.spawn(ask, once, work) for _ in range(count)]
    green.sleep(0)
    green.sleep(0)
    assert work.begun == 1
    return tasks


def test_one_does_it_for_all(once, work):
    tasks = asked(once, work)
    work.go.set()
    green.joinall(tasks)
    assert [task.value for task in tasks] == [(1, True)] + [(1, False)] * 4
    assert ask(once, work) == (2, True)


def test_other_keys_are_other_work(once, work):
    tasks = asked(once, work, 1)
    assert once.do('other', lambda: 'done') == ('done', True)
    work.go.set()
    green.joinall(tasks)


def test_a_refusal_is_everyones(once, work):
    work.error = Refused('no')
    tasks = asked(once, work)
    work.go.set()
    green.joinall(tasks)
    assert [repr(task.value) for task in tasks] == [repr(work.error)] * 5 and work.begun == 1
    assert len({id(task.value) for task in tasks}) == 5  # each has a traceback of its own


def test_after_another_error_the_next_does_it(once, work):
    work.error = OSError('cut')
    tasks = asked(once, work)
    work.go.set()
    green.joinall(tasks)
    assert [task.value for task in tasks] == [work.error] * 5 and work.begun == 5


@pytest.mark.parametrize('moment', ['before the turn', 'with it', 'after it'])
def test_the_doer_is_killed_and_another_takes_over(once, work, moment):
    tasks = asked(once, work)
    if moment == 'before the turn':
        green.killall(tasks[1:2])
    tasks[0].kill(block=False)
    if moment == 'with it':
        tasks[1].kill(block=False)  # its turn is given to it, and it is gone before it runs
    elif moment == 'after it':
        while work.begun < 2:
            green.sleep(0)
        tasks[1].kill(block=False)
    green.sleep(0)
    work.go.set()
    green.joinall(tasks)
    outcomes = [task.value for task in tasks[2:]]
    assert {number for number, _ in outcomes} == {work.begun}
    assert sum(mine for _, mine in outcomes) <= 1 and work.begun > 1


def test_who_waits_has_a_deadline_of_its_own(once, work):
    tasks = asked(once, work, 1)
    with pytest.raises(TimeoutError, match='the queue within 0.01 s'):
        once.do('k', work, 'the queue', 0.01)
    work.go.set()
    green.joinall(tasks)
    assert tasks[0].value == (1, True)


def test_the_doer_itself_does_not_wait_for_itself(once):
    assert once.do('k', lambda: once.do('k', lambda: 'inner')) == (('inner', True), True)
