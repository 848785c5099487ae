"""What drivers need of the runtime: a wait for a foreign descriptor, a private thread, a weak period."""
from __future__ import annotations

import gc
import os
import weakref

import pytest

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, Forked, InvalidArgument
from greenmq.runtime.seam import library
from tests.support import green
from tests.support.process import reap, wait_until

native_sleep = library.original('time', 'sleep')


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


# ------------------------------------------------------------------------------------------ wait_ready


def test_a_descriptor_is_waited_for_without_blocking_the_hub(pipe):
    reading, writing = pipe
    green.spawn_later(0.02, os.write, writing, b'x')
    assert runtime.wait_ready(reading, timeout=5) == (True, False)
    assert os.read(reading, 1) == b'x'


def test_a_descriptor_that_can_be_written_is_ready_at_once(pipe):
    assert runtime.wait_ready(pipe[1], read=False, write=True, timeout=5) == (False, True)


def test_waiting_has_a_deadline_and_leaves_nothing_behind(pipe):
    for _ in range(3):
        with pytest.raises(TimeoutError, match=f'descriptor {pipe[0]}'):
            runtime.wait_ready(pipe[0], timeout=0.01)
    waiting = green.spawn(runtime.wait_ready, pipe[0])
    green.sleep(0.01)
    waiting.kill()
    os.write(pipe[1], b'x')
    assert runtime.wait_ready(pipe[0], timeout=5) == (True, False)


def test_nothing_to_wait_for_is_refused(pipe):
    with pytest.raises(InvalidArgument):
        runtime.wait_ready(pipe[0], read=False)


# ---------------------------------------------------------------------------------------------- Worker


@pytest.fixture
def worker():
    left = []
    worker = runtime.Worker('test worker', lambda: left.append(library.original('_thread', 'get_ident')()))
    worker.left = left
    yield worker
    worker.close()


get_ident = library.original('_thread', 'get_ident')


def test_all_calls_run_in_one_thread_in_their_order(worker):
    seen = []

    def work(n):
        seen.append(n)
        return get_ident()

    tasks = [green.spawn(worker.call, work, n) for n in range(20)]
    green.joinall(tasks, raise_error=True)
    assert seen == list(range(20))
    assert len({task.value for task in tasks}) == 1 and tasks[0].value != get_ident()


def test_the_hub_goes_on_meanwhile(worker):
    ticks = []
    task = green.spawn(worker.call, native_sleep, 0.1)
    while not task.ready():
        ticks.append(1)
        green.sleep(0.005)
    assert len(ticks) > 3


def test_what_a_call_raises_is_raised(worker):
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 // 0)
    assert worker.call(lambda: 'well') == 'well'


def test_a_result_that_comes_too_late_is_abandoned_in_the_thread(worker):
    home = worker.call(get_ident)  # its thread runs now
    abandoned, told = [], []

    def late():
        while not told:
            native_sleep(0.01)
        return 'late'

    with pytest.raises(TimeoutError):
        worker.call(late, deadline=0.5, abandon=lambda result: abandoned.append((result, get_ident())))
    told.append(True)
    wait_until(lambda: abandoned, 5, 'the result to be abandoned')
    assert abandoned == [('late', home)]


def test_a_call_that_had_not_begun_never_begins(worker):
    begun = []
    first = green.spawn(worker.call, native_sleep, 0.1)
    green.sleep(0.01)
    second = green.spawn(worker.call, begun.append, 1)
    green.sleep(0.01)
    second.kill()
    first.get()
    worker.call(int)
    assert not begun


def test_closing_makes_the_last_calls_and_leaves(worker):
    seen = []
    home = worker.call(get_ident)
    for n in range(3):
        worker.tell(seen.append, n)
    worker.close()
    wait_until(lambda: worker.left, 5, 'the thread to leave')
    assert seen == [0, 1, 2] and worker.left == [home]
    with pytest.raises(ConnectionClosed):
        worker.call(int)


@pytest.mark.slow
def test_a_worker_that_nobody_has_ends(monkeypatch):
    monkeypatch.setattr('greenmq.runtime.worker.LOOK_SECONDS', 0.05)
    left = []
    worker = runtime.Worker('forgotten', lambda: left.append(1))
    worker.call(int)
    reference = weakref.ref(worker)
    del worker
    gc.collect()
    assert reference() is None
    wait_until(lambda: left, 5, 'the thread to end')


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here')
def test_a_forked_child_is_refused_the_parents_thread(worker):
    worker.call(int)
    reading, writing = os.pipe()
    pid = runtime.fork_child()
    if not pid:
        try:
            worker.call(int, deadline=5)
        except Forked:
            os.write(writing, b'forked')
        finally:
            os._exit(0)
    runtime.wait_ready(reading, timeout=20)
    assert os.read(reading, 20) == b'forked'
    reap(pid)
    os.close(reading)
    os.close(writing)
    assert worker.call(int) == 0


# ----------------------------------------------------------------------------------------------- every


class Owner:
    def __init__(self):
        self.steps = 0


def step(owner):
    owner.steps += 1
    if owner.steps == 2:
        raise LookupError('the third comes all the same')
    return owner.steps < 4


def test_a_step_is_repeated_until_it_says_no(caplog):
    owner = Owner()
    task = runtime.every(owner, 0.005, step, name='test', jitter=0.5)
    assert task.join(5)
    assert owner.steps == 4
    assert 'the third comes all the same' in caplog.text


def test_its_owner_is_held_weakly():
    owner = Owner()
    task = runtime.every(owner, 0.005, lambda owner: True, name='test')
    green.sleep(0.02)
    del owner
    gc.collect()
    assert task.join(5)
