"""What a pool does in the background: one piece at a time, and all of them, whatever happens in between."""
from __future__ import annotations

import gc
import weakref

from greenmq import runtime
from greenmq.pooling.background import BackgroundTasks


def test_one_at_a_time_and_in_order():
    background, log, done = BackgroundTasks('test'), [], runtime.Event()

    def work(number):
        log.append(('begin', number))
        runtime.sleep(0)
        log.append(('end', number))
        if number == 2:
            done.set()

    for number in range(3):
        background.add(work, number)
    assert log == []  # not in the caller
    assert done.wait(5)
    assert log == [(what, number) for number in range(3) for what in ('begin', 'end')]


def test_what_comes_after_the_task_has_ended_is_done_too():
    background = BackgroundTasks('test')
    for _ in range(2):
        done = runtime.Event()
        background.add(done.set)
        assert done.wait(5)
        runtime.sleep(0)


def test_what_is_forgotten_is_not_begun():
    background, log, done = BackgroundTasks('test'), [], runtime.Event()
    background.add(lambda: (log.append(1), background.forget(), done.set()))
    background.add(log.append, 2)
    assert done.wait(5)
    runtime.sleep(0)
    assert log == [1]


def test_nothing_that_is_done_is_kept():
    class Thing:
        pass

    background, done = BackgroundTasks('test'), runtime.Event()
    thing = Thing()
    known = weakref.ref(thing)
    background.add(lambda _thing: None, thing)
    background.add(done.set)
    del thing
    assert done.wait(5)
    gc.collect()
    assert known() is None
