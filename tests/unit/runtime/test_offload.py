"""Native threads: results, errors, abandoned calls, and a bounded pool that never holds the interpreter."""

from __future__ import annotations

import _thread
import os
import subprocess
import sys

import pytest

from greenmq import runtime
from greenmq.exceptions import TimeoutError
from greenmq.runtime.seam import library
from tests.support import green

module = sys.modules['greenmq.runtime.offload']
LONG = 20.0
GUARD = 10


def start(fun, *args, name='test', **kw):
    task = runtime.spawn(lambda: fun(*args, **kw), name=name)
    for _ in range(5):
        runtime.sleep(0)
    return task


class Gate:
    """Holds native threads until it is opened; counts those that came."""

    def __init__(self):
        self.lock = runtime.NativeLock()
        self.lock.acquire()
        self.came = []

    def __call__(self, value=None):
        self.came.append(value)
        if self.lock.acquire(True, GUARD):
            self.lock.release()
        return value

    def open(self):
        self.lock.release()


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    if gate.lock.locked():
        gate.open()


@pytest.fixture(params=[False, True], ids=['pool', 'own thread'])
def own_thread(request):
    return request.param


@pytest.fixture(autouse=True)
def fresh_pool(monkeypatch):
    monkeypatch.setattr(module, 'pool', module._Pool(4))
    return module.pool


def test_runs_in_another_thread_while_the_hub_goes_on(own_thread):
    ident, ticks = library.original('_thread', 'get_ident'), []
    runtime.run_soon(ticks.append, 1)
    assert runtime.offload(ident, own_thread=own_thread) != ident() and ticks == [1]


def test_errors_come_out_whatever_their_kind(own_thread):
    def fail(error):
        raise error

    for error in (ValueError('x'), SystemExit(3), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            runtime.offload(fail, error, own_thread=own_thread)
        assert caught.value is error


def test_arguments_and_result():
    assert runtime.offload(divmod, 7, 2, deadline=LONG) == (3, 1)


def test_the_deadline_ends_the_wait_and_the_late_result_is_abandoned(gate, own_thread):
    late = runtime.Waiter()
    hub = runtime.hub_id()
    while not gate.came:  # a call that has not begun in time never begins: the next tries it
        with pytest.raises(TimeoutError, match='no answer of .* from its thread within'):
            runtime.offload(
                gate, 'slot', deadline=0.01, own_thread=own_thread,
                abandon=lambda value: runtime.post(hub, late.wake, value),
            )  # fmt: skip
    gate.open()
    assert late.wait(LONG) == 'slot'


def test_a_kill_abandons_the_result(gate, own_thread):
    late = runtime.Waiter()
    hub = runtime.hub_id()
    task = start(
        runtime.offload,
        gate,
        'slot',
        own_thread=own_thread,
        abandon=lambda value: runtime.post(hub, late.wake, value),
    )
    while not gate.came:
        runtime.sleep(0)
    task.kill()
    assert task.join(LONG) and task.error is None
    gate.open()
    assert late.wait(LONG) == 'slot'


def test_a_failing_abandon_is_logged(gate, caplog):
    def abandon(value):
        raise ValueError(value)

    task = start(runtime.offload, gate, 'slot', abandon=abandon)
    while not gate.came:
        runtime.sleep(0)
    task.kill()
    gate.open()
    while 'could not abandon' not in caplog.text:
        runtime.sleep(0.001)
    assert task.join(LONG)


def test_the_pool_is_bounded_and_own_threads_are_outside_of_it(gate, fresh_pool):
    # Given a pool that is full of calls that do not end
    tasks = [start(runtime.offload, gate, n) for n in range(10)]
    while len(gate.came) < 4:
        runtime.sleep(0)
    assert fresh_pool.threads == 4 and '4 of 4 threads' in repr(fresh_pool)
    # Then a call with a thread of its own is answered
    assert runtime.offload(int, 5, own_thread=True, deadline=LONG) == 5
    # And calls whose task is killed while they wait for a thread never begin
    tasks[9].kill()
    assert tasks[9].join(LONG)
    gate.open()
    assert all(task.join(LONG) for task in tasks) and sorted(gate.came) == list(range(9))
    assert fresh_pool.threads == 4


def test_threads_are_used_again(fresh_pool):
    for _ in range(20):
        runtime.offload(int)
        while not fresh_pool.idle:
            runtime.sleep(0)
    assert fresh_pool.threads == 1


def test_idle_threads_end(monkeypatch, fresh_pool):
    monkeypatch.setattr(module, 'IDLE_SECONDS', 0.001)
    runtime.offload(int)
    while fresh_pool.threads:
        runtime.sleep(0.001)
    assert fresh_pool.idle == 0 and runtime.offload(int, 3) == 3


def test_a_thread_whose_asker_is_gone_abandons_in_place():
    # Given a call made in a native thread's hub that ends before the answer
    abandoned = []
    waiter = runtime.Waiter()
    job = module._Job(int, ('5',), abandoned.append, waiter)
    job.let_go()
    job._hub = object()  # no loop behind it: what is left of a hub whose thread has ended
    job()
    assert abandoned == [5]


@pytest.mark.parametrize('patched', ['', green.PATCH_ALL], ids=['unpatched', 'patched'])
def test_the_interpreter_does_not_wait_for_threads(patched):
    program = f"""
{patched}
from greenmq import runtime
lock = runtime.NativeLock(); lock.acquire()
began = runtime.Waiter(); hub = runtime.hub_id()
def block():
    runtime.post(hub, began.wake)
    lock.acquire()
for own in (False, True):
    runtime.spawn(lambda: runtime.offload(block, own_thread=own), name='t')
began.wait(10)
print('end')
"""
    done = subprocess.run(
        [sys.executable, *green.QUIET, '-c', program], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, 'end', '')


def test_a_hub_made_in_a_thread_ends_with_it(own_thread, monkeypatch):
    monkeypatch.setattr(module, 'IDLE_SECONDS', 0.001)
    runtime.offload(int)
    before = set(os.listdir('/proc/self/fd'))
    for _ in range(3):
        runtime.offload(runtime.sleep, 0.001, own_thread=own_thread)
    while set(os.listdir('/proc/self/fd')) - before:
        runtime.sleep(0.001)


def test_the_thread_starter_is_the_original():
    assert library.original('_thread', 'start_new_thread').__module__ == '_thread' == _thread.__name__
