"""The contract of a runtime, tested through `greenmq.runtime` alone.

Every hub library must pass this file as it stands: `GREENMQ_RUNTIME=<name> pytest
tests/unit/runtime/test_contract.py`.
"""

from __future__ import annotations

import gc
import logging
import os
import weakref

import pytest

from greenmq import runtime
from greenmq.exceptions import InvalidArgument, TimeoutError, WouldBlock, WrongHub

LONG = 20.0  # far beyond what a test may take: it must not pass


class Boom(Exception):
    pass


def settle():
    """Let everything that is ready run, and what becomes ready by that."""
    for _ in range(5):
        runtime.sleep(0)


def start(fun, *args, name='test', **kw):
    """A task that has run to its first wait."""
    task = runtime.spawn(fun, *args, name=name, **kw)
    settle()
    return task


def in_thread(fun, *args):
    """Run in a native thread that may make a hub of its own."""
    return runtime.offload(fun, *args, own_thread=True, deadline=LONG)


def test_the_runtime_is_the_one_that_was_asked_for():
    assert runtime.name() == os.environ.get('GREENMQ_RUNTIME', 'gevent')


class TestTasks:
    def test_runs_later_under_its_name(self):
        seen = []
        task = runtime.spawn(lambda a: seen.append((a, runtime.current_name())), 1, name='worker 1')
        assert seen == [] and not task.done and repr(task) == "<Task 'worker 1' running>"
        assert task.join(LONG) and task.done and task.error is None
        assert seen == [(1, 'worker 1')] and repr(task) == "<Task 'worker 1' done>"

    def test_start_in_the_order_of_spawning(self):
        seen = []
        tasks = [runtime.spawn(seen.append, n, name='t') for n in range(10)]
        assert all(task.join(LONG) for task in tasks)
        assert seen == list(range(10))

    def test_kill_never_switches_and_ends_a_waiting_task(self):
        log = []

        def wait():
            try:
                runtime.sleep(LONG)
            except BaseException as exc:
                log.append(type(exc))
                raise

        task = start(wait)
        bystander = runtime.spawn(log.append, 'bystander', name='t')
        task.kill()
        assert log == [] and not task.done and not bystander.done
        assert task.join(LONG)
        assert set(log) == {'bystander', runtime.TaskExit}
        assert task.error is None  # a kill is a normal end

    def test_killed_before_its_start_it_never_runs(self):
        ran, ends = [], []
        task = runtime.spawn(ran.append, 1, name='t', on_exit=lambda task, error: ends.append(error))
        task.kill()
        assert task.join(LONG) and ran == [] and ends == [None]

    def test_two_kills_at_once_are_one(self):
        cleaned = []

        def wait():
            try:
                runtime.sleep(LONG)
            finally:
                runtime.sleep(0)  # a second kill would arrive here
                cleaned.append(1)

        task = start(wait)
        task.kill()
        task.kill()
        assert task.join(LONG) and cleaned == [1]

    def test_a_later_kill_cuts_the_clean_up_too(self):
        def wait():
            try:
                runtime.sleep(LONG)
            finally:
                runtime.sleep(LONG)

        task = start(wait)
        task.kill()
        settle()
        assert not task.done
        task.kill()
        assert task.join(LONG)

    def test_kill_of_oneself_takes_effect_at_the_next_wait(self):
        log = []

        def suicide():
            me[0].kill()
            log.append('goes on')
            runtime.sleep(0)
            log.append('never')

        me = [runtime.spawn(suicide, name='t')]
        assert me[0].join(LONG) and log == ['goes on']

    def test_kill_from_another_thread(self):
        task = start(runtime.sleep, LONG)
        in_thread(task.kill)
        assert task.join(LONG)

    def test_kill_of_the_dead_does_nothing(self):
        task = start(int)
        task.kill()
        settle()
        assert task.done

    def test_an_error_is_logged_and_reaches_the_owner(self, caplog):
        ends = []

        def fail():
            raise Boom('text')

        task = runtime.spawn(fail, name='worker', on_exit=lambda *end: ends.append(end))
        assert task.join(LONG)
        assert isinstance(task.error, Boom) and ends == [(task, task.error)]
        (record,) = caplog.records
        assert (record.name, record.levelno) == ('greenmq.runtime', logging.ERROR)
        assert "'worker'" in record.getMessage() and record.exc_info[1] is task.error

    def test_a_timeout_that_nobody_catches_is_an_error_of_the_task(self, caplog):
        def fail():
            raise runtime.timeout_class()(None)

        task = runtime.spawn(fail, name='worker')
        assert task.join(LONG) and isinstance(task.error, runtime.timeout_class())
        assert len(caplog.records) == 1

    def test_a_failing_on_exit_does_not_keep_joiners_waiting(self, caplog):
        def broken(task, error):
            raise Boom

        task = runtime.spawn(int, name='t', on_exit=broken)
        assert task.join(LONG)
        assert 'on_exit' in caplog.text

    def test_dies_with_its_owner(self):
        class Owner:
            pass

        owner = Owner()
        task = start(runtime.sleep, LONG, owner=owner)
        assert not task.done
        del owner
        gc.collect()
        assert task.join(LONG)

    def test_join_of_an_endless_task_ends_at_its_deadline(self):
        task = start(runtime.sleep, LONG)
        assert not task.join(0) and not task.join(0.001) and not task.join(runtime.Deadline.after(0.001))
        task.kill()
        assert task.join()

    def test_many_may_join(self):
        task = start(runtime.sleep, LONG)
        joiners = [start(task.join) for _ in range(3)]
        task.kill()
        assert all(joiner.join(LONG) for joiner in joiners)

    def test_cannot_wait_for_its_own_end(self):
        caught = []

        def join():
            try:
                me[0].join()
            except RuntimeError as exc:
                caught.append(exc)

        me = [runtime.spawn(join, name='t')]
        assert me[0].join(LONG) and len(caught) == 1

    def test_keeps_nothing_alive_after_its_end(self):
        class Thing:
            pass

        thing = Thing()
        reference = weakref.ref(thing)
        task = start(lambda _thing: None, thing)
        del thing
        gc.collect()
        assert task.done and reference() is None

    def test_current_is_an_identity(self):
        seen = []
        for _ in range(2):
            start(lambda: seen.append(runtime.current()))
        assert len({*seen, runtime.current()}) == 3
        assert weakref.ref(runtime.current())() is runtime.current()

    def test_names(self):
        seen = []

        def rename():
            runtime.current().name = 'other'
            seen.append(runtime.current_name())

        start(rename)
        assert seen == ['other']

    def test_local_is_apart_for_each_task(self):
        local, seen = runtime.Local(), []
        local.value = 'main'
        start(lambda: seen.append(getattr(local, 'value', None)))
        assert seen == [None] and local.value == 'main'


class TestTaskGroup:
    def test_end_together_when_one_fails(self, caplog):
        group = runtime.TaskGroup('group')

        def fail():
            raise Boom

        others = [group.spawn(runtime.sleep, LONG) for _ in range(3)]
        settle()
        group.spawn(fail, name='the bad one')
        assert group.join(LONG) and isinstance(group.error, Boom)
        assert all(task.done and task.error is None for task in others) and len(group) == 0
        assert 'the bad one' in caplog.text

    def test_kill_and_join(self):
        group = runtime.TaskGroup('group')
        ends = []
        for _ in range(3):
            group.spawn(runtime.sleep, LONG, on_exit=lambda task, error: ends.append((task.name, error)))
        assert not group.join(0.001) and len(group) == 3
        group.kill()
        assert group.join(LONG) and ends == [('group', None)] * 3


class TestTime:
    def test_deadline_takes_what_callers_pass(self):
        deadline = runtime.Deadline.after(5)
        assert runtime.Deadline.of(deadline) is deadline
        assert 0 < runtime.Deadline.of(5).remaining() <= 5 and deadline.seconds == 5
        for forever in (None, float('inf')):
            assert runtime.Deadline.of(forever) is runtime.NEVER
        assert runtime.NEVER.remaining() is None and not runtime.NEVER.expired()
        assert runtime.Deadline.after(0).expired() and runtime.Deadline.after(-1).remaining() == 0

    @pytest.mark.parametrize('value', ['5', object(), float('nan'), [1]])
    def test_deadline_refuses_what_is_no_number(self, value):
        with pytest.raises(InvalidArgument, match='timeout'):
            runtime.Deadline.of(value)

    def test_deadline_error_names_what_and_how_long(self):
        runtime.Deadline.after(LONG).check('pool: nothing free')
        with pytest.raises(TimeoutError, match=r'^pool: nothing free within 0 s$'):
            runtime.Deadline.after(0).check('pool: nothing free')

    def test_within_takes_the_earlier(self):
        deadline = runtime.Deadline.after(5)
        assert deadline.within(60) is deadline and deadline.within(1).seconds == 1
        assert runtime.NEVER.within(1).seconds == 1

    def test_call_later_and_cancel(self):
        waiter, seen = runtime.Waiter(), []
        cancelled = runtime.call_later(0, seen.append, 'cancelled')
        cancelled.cancel()
        cancelled.cancel()
        timer = runtime.call_later(0.001, waiter.wake, 'value')
        assert timer.active and not cancelled.active
        assert waiter.wait(LONG) == 'value' and seen == [] and not timer.active

    def test_callbacks_run_in_the_hub_in_order(self):
        seen = []
        assert not runtime.in_hub()
        for n in range(3):
            runtime.run_soon(lambda n=n: seen.append((n, runtime.in_hub())))
        assert seen == []
        settle()
        assert seen == [(0, True), (1, True), (2, True)]

    @pytest.mark.parametrize('later', [runtime.run_soon, lambda callback: runtime.call_later(0, callback)])
    def test_a_failing_callback_is_logged(self, caplog, later):
        waiter = runtime.Waiter()

        def fail():
            waiter.wake()
            raise Boom

        later(fail)
        waiter.wait(LONG)
        settle()
        assert [record.exc_info[0] for record in caplog.records] == [Boom]

    def test_what_would_wait_is_refused_in_the_hub(self):
        lock, caught = runtime.Lock(), []
        lock.acquire()

        def block():
            for call in (runtime.sleep, runtime.Waiter().wait, lock.acquire, runtime.Future().result):
                try:
                    call(*((0,) if call is runtime.sleep else ()))
                except WouldBlock as exc:
                    caught.append(exc)

        runtime.run_soon(block)
        settle()
        assert len(caught) == 4
        lock.release()

    def test_post_from_native_threads(self):
        hub, waiter = runtime.hub_id(), runtime.Waiter()
        assert in_thread(runtime.post, hub, waiter.wake, 'value') is True
        assert waiter.wait(LONG) == 'value'
        assert hash(hub) == hash(runtime.hub_id()) and weakref.ref(hub)() is hub


class TestWaiter:
    def test_woken_before_it_waits_does_not_switch(self):
        waiter, ran = runtime.Waiter(), []
        runtime.run_soon(ran.append, 1)
        assert waiter.wake('value') and waiter.wait() == 'value' and ran == []
        settle()

    def test_woken_while_it_waits(self):
        waiter = runtime.Waiter()
        runtime.run_soon(waiter.wake, 'value')
        assert waiter.wait(LONG) == 'value'

    def test_failed(self):
        early, late = runtime.Waiter(), runtime.Waiter()
        early.fail(Boom(1))
        runtime.run_soon(late.fail, Boom(2))
        for waiter in (early, late):
            with pytest.raises(Boom):
                waiter.wait(LONG)

    def test_the_first_answer_stands(self):
        waiter = runtime.Waiter()
        assert waiter.wake(1) and not waiter.wake(2) and not waiter.fail(Boom())
        assert waiter.wait() == 1

    def test_timeout_is_socket_timeout_and_refuses_later_values(self):
        waiter = runtime.Waiter('no answer from h:1')
        with pytest.raises(TimeoutError, match=r'^no answer from h:1 within 0.001 s$'):
            waiter.wait(0.001)
        assert waiter.expired and not waiter.wake(1)

    def test_killed_while_waiting_refuses_later_values(self):
        waiter, declined = runtime.Waiter(), []
        task = start(waiter.wait, None, declined.append)
        task.kill()
        assert task.join(LONG)
        assert not waiter.wake(1) and declined == []

    @pytest.mark.parametrize('wake_first', [True, False])
    def test_an_accepted_value_is_declined_when_the_kill_wins(self, wake_first):
        # Given a task that waits
        waiter, declined, used = runtime.Waiter(), [], []
        task = start(lambda: used.append(waiter.wait(None, declined.append)))
        # When it is woken and killed before it runs again
        steps = [lambda: waiter.wake('slot'), task.kill]
        for step in steps if wake_first else reversed(steps):
            step()
        assert not waiter.pending  # accepted in both orders
        assert task.join(LONG)
        # Then the value is in exactly one place
        assert (declined, used) in ((['slot'], []), ([], ['slot']))
        if not wake_first:
            assert declined == ['slot']

    def test_a_timeout_of_the_caller_passes_untouched(self):
        waiter, caught = runtime.Waiter(), []

        def wait():
            with runtime.timeout_class()(0.001) as timeout:
                try:
                    waiter.wait(LONG)
                except runtime.timeout_class() as exc:
                    caught.append(exc is timeout)

        assert runtime.spawn(wait, name='t').join(LONG)
        assert caught == [True] and not waiter.wake()

    def test_a_stale_wake_up_disturbs_no_later_wait(self):
        # Given a task that is woken and killed in one round, and then waits for something else
        first, second, seen = runtime.Waiter(), runtime.Waiter(), []

        def wait():
            try:
                first.wait()
            except runtime.TaskExit:
                seen.append('killed')
            seen.append(second.wait(LONG))

        task = start(wait)
        task.kill()
        first.wake('stale')
        settle()
        assert seen == ['killed'] and not task.done
        second.wake('right')
        assert task.join(LONG) and seen == ['killed', 'right']

    def test_one_task_only(self):
        waiter, caught = runtime.Waiter(), []
        task = start(waiter.wait)
        with pytest.raises(RuntimeError, match='another task'):
            waiter.wait()
        waiter.wake()
        assert task.join(LONG) and caught == []

    def test_another_thread_is_refused(self):
        waiter = runtime.Waiter()

        def wake():
            caught = []
            for call in (waiter.wake, lambda: waiter.fail(Boom()), waiter.wait):
                try:
                    call()
                except WrongHub as exc:
                    caught.append(exc)
            return caught

        assert len(in_thread(wake)) == 3 and waiter.pending


class TestHandoff:
    def test_first_come_first_served(self):
        handoff, got = runtime.Handoff(), []
        tasks = [start(lambda n=n: got.append((n, handoff.wait()))) for n in range(3)]
        assert len(handoff) == 3
        assert [handoff.give(value) for value in 'abc'] == [True] * 3 and not handoff.give('d')
        assert all(task.join(LONG) for task in tasks)
        assert got == [(0, 'a'), (1, 'b'), (2, 'c')] and len(handoff) == 0

    def test_the_dead_accept_nothing(self):
        handoff, got = runtime.Handoff('no slot'), []
        killed = start(handoff.wait)
        with pytest.raises(TimeoutError, match='no slot'):
            handoff.wait(0.001)
        alive = start(lambda: got.append(handoff.wait()))
        killed.kill()
        killed.join(LONG)
        assert len(handoff) == 1 and handoff.give('value')
        assert alive.join(LONG) and got == ['value']

    def test_killed_after_acceptance_gives_back(self):
        handoff, got = runtime.Handoff(), []
        killed = start(handoff.wait, None, handoff.give)
        alive = start(lambda: got.append(handoff.wait()))
        killed.kill()
        assert handoff.give('slot')  # to the one that is about to die
        assert alive.join(LONG) and killed.join(LONG) and got == ['slot']

    def test_fail_all(self):
        handoff, caught = runtime.Handoff(), []

        def wait():
            with pytest.raises(Boom):
                handoff.wait()
            caught.append(1)

        tasks = [start(wait) for _ in range(3)]
        assert handoff.fail_all(Boom()) == 3
        assert all(task.join(LONG) for task in tasks) and caught == [1] * 3


class TestFuture:
    def test_value_to_many(self):
        future, got = runtime.Future(), []
        tasks = [start(lambda: got.append(future.result(LONG))) for _ in range(3)]
        assert not future.done() and future.set_result('value') and not future.set_result('other')
        assert all(task.join(LONG) for task in tasks)
        assert got == ['value'] * 3 and future.done() and future.exception() is None

    def test_error(self):
        future = runtime.Future()
        assert future.set_exception(Boom('x')) and not future.set_result(1)
        assert isinstance(future.exception(), Boom)
        with pytest.raises(Boom):
            future.result()

    def test_timeout_leaves_it_pending(self):
        future = runtime.Future()
        for wait in (future.result, future.exception):
            with pytest.raises(TimeoutError):
                wait(0.001)
        assert not future.waited(0.001) and '0 waiting' in repr(future)
        assert future.set_result(1) and future.waited()

    def test_callbacks_run_in_the_setter_and_cannot_break_it(self, caplog):
        future, seen = runtime.Future(), []

        def broken(_future):
            raise Boom

        for callback in (broken, lambda f: seen.append(f.result())):
            future.add_done_callback(callback)
        future.set_result(1)
        future.add_done_callback(lambda f: seen.append(2))
        assert seen == [1, 2] and 'callback' in caplog.text


class TestLock:
    def test_first_come_first_served_and_no_barging(self):
        lock, got = runtime.Lock(), []
        lock.acquire()

        def take(n):
            with lock:
                got.append(n)
                runtime.sleep(0)

        tasks = [start(take, n) for n in range(4)]
        lock.release()
        assert lock.locked()  # it belongs to the first in line already
        take('main')
        assert all(task.join(LONG) for task in tasks)
        assert got == [0, 1, 2, 3, 'main'] and not lock.locked()

    def test_timeout(self):
        lock = runtime.Lock()
        assert lock.acquire(0)
        assert not lock.acquire(0) and not lock.acquire(0.001) and not lock.acquire(runtime.Deadline.after(0))
        lock.release()
        with pytest.raises(RuntimeError):
            lock.release()

    @pytest.mark.parametrize('make', [runtime.Lock, runtime.RLock])
    def test_killed_in_line(self, make):
        lock, got = make(), []
        lock.acquire()
        tasks = [start(lambda n=n: (lock.acquire(), got.append(n), lock.release())) for n in range(3)]
        tasks[0].kill()
        tasks[0].join(LONG)
        lock.release()
        assert all(task.join(LONG) for task in tasks) and got == [1, 2] and not lock.locked()

    @pytest.mark.parametrize('make', [runtime.Lock, runtime.RLock])
    def test_killed_when_it_had_just_got_it(self, make):
        lock, got = make(), []
        lock.acquire()
        tasks = [start(lambda n=n: (lock.acquire(), got.append(n), lock.release())) for n in range(2)]
        tasks[0].kill()
        lock.release()
        assert all(task.join(LONG) for task in tasks) and got == [1] and not lock.locked()

    def test_a_timeout_of_the_caller_leaves_it_sound(self):
        lock = runtime.Lock()
        lock.acquire()

        def take():
            with pytest.raises(runtime.timeout_class()), runtime.timeout_class()(0.001):
                lock.acquire()

        assert runtime.spawn(take, name='t').join(LONG)
        lock.release()
        assert lock.acquire(0)
        lock.release()

    def test_a_foreign_socket_timeout_is_not_taken_for_our_own(self):
        lock, caught = runtime.Lock(), []
        lock.acquire()

        def take():
            with runtime.timeout_class()(0.001, TimeoutError('of the caller')):
                try:
                    lock.acquire(LONG)
                except TimeoutError as exc:
                    caught.append(str(exc))

        assert runtime.spawn(take, name='t').join(LONG) and caught == ['of the caller']
        lock.release()

    def test_rlock_counts_and_belongs_to_its_task(self):
        lock, got = runtime.RLock(), []
        with lock, lock:
            task = start(lambda: got.append(lock.acquire(0)))
            assert task.done and got == [False]
        assert not lock.locked()
        with pytest.raises(RuntimeError):
            lock.release()

    def test_rlock_released_to_another_is_not_ours_any_more(self):
        lock, inside = runtime.RLock(), []

        def take():
            with lock:
                inside.append('in')
                runtime.sleep(0)
                inside.append('out')

        lock.acquire()
        task = start(take)
        lock.release()
        take()
        assert task.join(LONG) and inside == ['in', 'out'] * 2


class TestLibraryClasses:
    def test_event(self):
        event = runtime.Event()
        assert not event.wait(0.001)
        runtime.run_soon(event.set)
        assert event.wait(LONG) and event.is_set()

    def test_semaphore(self):
        semaphore = runtime.Semaphore(1)
        assert semaphore.acquire() and not semaphore.acquire(blocking=False)
        semaphore.release()

    def test_native_lock_is_original(self):
        lock = runtime.NativeLock()
        assert type(lock).__module__ == '_thread'
        with lock:
            assert lock.locked()
