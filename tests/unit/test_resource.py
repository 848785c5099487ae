"""The pool algorithm, one promise a test. The state machine in test_resource_model.py mixes them all."""
import gc
import weakref

import pytest

from greenmq import runtime
from greenmq.exceptions import LimitExceeded
from greenmq.resource import Resource
from greenmq.utils.functional import lazy
from tests.support import green
from tests.support.switches import assert_no_switch


class Thing:
    closed = False
    alive = True

    def close(self):
        self.closed = True


class Pool(Resource):
    """A pool of things; `gate` stops `new`, `failures` makes it fail."""

    gate = None

    def setup(self):
        self.made = []
        self.failures = []
        for _ in range(self.preload):
            self._resource.put_nowait(self.new())

    def new(self):
        if self.gate is not None:
            self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.made.append(Thing())
        return self.made[-1]

    def is_alive(self, resource):
        return resource.alive


def counts(pool):
    stats = pool.stats()
    return stats.in_use, stats.free, stats.opening, stats.waiting


def settle():
    for _ in range(3):
        green.sleep(0)


def hold(pool, done):
    pool.acquire()
    done.wait()


class TestAcquire:

    def test_last_in_first_out(self):
        pool = Pool(3)
        one, two = pool.acquire(), pool.acquire()
        pool.release(one)
        pool.release(two)
        assert pool.acquire() is two and pool.acquire() is one
        assert len(pool.made) == 2

    def test_it_does_not_switch_when_one_is_free(self):
        pool = Pool(1)
        with assert_no_switch():
            thing = pool.acquire()
            thing.release()
            pool.acquire()

    def test_no_limit_keeps_none(self):
        pool = Pool()
        thing = pool.acquire()
        thing.release()
        assert thing.closed and pool.acquire() is not thing

    def test_beyond_the_limit_it_says_who_has_them(self):
        pool = Pool(2)
        runtime.current().name = 'greedy'
        pool.acquire(), pool.acquire()
        text = r'pool Pool \(2 of 2 in use\): nothing free; held by'
        with pytest.raises(LimitExceeded, match=text) as caught:
            pool.acquire()
        assert caught.value.args[0] == 2

    def test_it_says_that_the_main_greenlet_has_them(self):
        def use():  # in a thread, whose main greenlet nobody has given a name
            pool = Pool(1)
            pool.acquire()
            with pytest.raises(LimitExceeded, match='; held by the main greenlet for 0'):
                pool.acquire()
            return True

        assert green.in_thread(use)

    def test_the_text_names_holders_and_wait(self):
        pool, done = Pool(1), runtime.Event()
        task = runtime.spawn(hold, pool, done, name='the holder')
        green.sleep(0)
        text = r'nothing free within 0\.001 s; held by the holder for \d+\.\d s'
        with pytest.raises(LimitExceeded, match=text):
            pool.acquire(timeout=0.001)
        done.set()
        task.join()

    def test_a_timeout_implies_block(self):
        pool = Pool(1)
        thing = pool.acquire()
        waiter = green.spawn(pool.acquire, timeout=60)
        green.sleep(0)
        thing.release()
        assert waiter.get() is thing

    def test_block_alone_waits_the_default_time_at_most(self):
        pool = Pool(1)
        pool.acquire()
        pool.default_timeout = 0.001
        with pytest.raises(LimitExceeded, match='within 0.001 s'):
            pool.acquire(block=True)

    @pytest.mark.parametrize('forever', [None, float('inf')])
    def test_for_ever_if_the_pool_says_so(self, forever):
        pool = Pool(1)
        pool.default_timeout = forever
        thing = pool.acquire()
        waiter = green.spawn(pool.acquire, block=True)
        green.sleep(0.002)
        thing.release()
        assert waiter.get() is thing

    def test_waiters_are_served_in_order(self):
        pool, order = Pool(1), []
        thing = pool.acquire()

        def take(number):
            got = pool.acquire(block=True)
            order.append(number)
            got.release()

        tasks = [green.spawn(take, number) for number in range(20)]
        green.sleep(0)
        assert counts(pool) == (1, 0, 0, 20)
        thing.release()
        # who comes now must not overtake
        assert pool.stats().free == 0
        green.joinall(tasks, raise_error=True)
        assert order == list(range(20)) and counts(pool) == (0, 1, 0, 0)

    def test_a_dead_one_is_thrown_away(self):
        pool = Pool(2)
        thing = pool.acquire()
        thing.release()
        thing.alive = False
        assert pool.acquire() is not thing
        settle()
        assert thing.closed and pool.stats().discarded == {'dead': 1}

    def test_one_that_dies_in_use_is_thrown_away_and_a_waiter_opens_another(self):
        pool = Pool(1)
        thing = pool.acquire()
        waiter = green.spawn(pool.acquire, block=True)
        green.sleep(0)
        thing.alive = False
        thing.release()
        assert waiter.get() is not thing
        assert counts(pool) == (1, 0, 0, 0)
        settle()

    def test_an_error_while_opening_gives_the_place_back(self):
        pool = Pool(1)
        pool.failures = [OSError('refused')]
        with pytest.raises(OSError, match='refused'):
            pool.acquire()
        assert counts(pool) == (0, 0, 0, 0)
        pool.acquire()

    @pytest.mark.parametrize('how', [green.GreenletExit, green.Timeout])
    def test_a_kill_while_opening_gives_the_place_to_the_next(self, how):
        pool = Pool(1)
        pool.gate = runtime.Event()
        first = green.spawn(self.cut, pool)
        green.sleep(0)
        second = green.spawn(pool.acquire, block=True)
        green.sleep(0)
        assert counts(pool) == (0, 0, 1, 1)
        first.kill(how(), block=False)
        settle()
        assert counts(pool) == (0, 0, 1, 0)
        pool.gate.set()
        assert second.get() in pool.made and counts(pool) == (1, 0, 0, 0)

    @pytest.mark.parametrize('how', [green.GreenletExit, green.Timeout])
    def test_a_kill_of_the_one_it_was_just_handed_to(self, how):
        pool = Pool(1)
        thing = pool.acquire()
        first, second = green.spawn(self.cut, pool), green.spawn(pool.acquire, block=True)
        green.sleep(0)
        first.kill(how(), block=False)  # comes first, and finds that it has accepted
        thing.release()
        assert second.get() is thing and counts(pool) == (1, 0, 0, 0)

    @staticmethod
    def cut(pool):
        try:
            pool.acquire(block=True)
        except (green.GreenletExit, green.Timeout):
            return
        raise AssertionError('it was not cut')

    def test_a_third_partys_placeholders(self):
        class Lazies(Resource):
            def setup(self):
                for _ in range(self.limit):
                    self._resource.put_nowait(lazy(Thing))

        pool = Lazies(2)
        one, two = pool.acquire(), pool.acquire()
        assert isinstance(one, Thing) and one is not two
        with pytest.raises(LimitExceeded):
            pool.acquire()

    def test_a_placeholder_that_fails_is_not_lost(self):
        failures = [OSError('refused')]

        def make():
            if failures:
                raise failures.pop()
            return Thing()

        class Lazies(Resource):
            def setup(self):
                self._resource.put_nowait(lazy(make))

        pool = Lazies(1)
        with pytest.raises(OSError, match='refused'):
            pool.acquire()
        assert isinstance(pool.acquire(), Thing)

    def test_resources_that_take_no_attributes(self):
        class Numbers(Resource):
            def setup(self):
                pass

            def new(self):
                return (1, 2)

            def close_resource(self, resource):
                pass

        pool = Numbers(1)
        pool.release(pool.acquire())
        assert counts(pool) == (0, 1, 0, 0)

    def test_subclasses_say_what_they_are(self):
        with pytest.raises(NotImplementedError):
            Resource(limit=1)


class TestThreads:

    def test_another_thread_has_a_set_of_its_own(self):
        pool = Pool(1)
        ours = pool.acquire()

        def use():
            theirs = pool.acquire()  # the limit is that of each set
            with pytest.raises(LimitExceeded):
                pool.acquire()
            pool.release(theirs)
            again = pool.acquire()
            assert again is theirs
            again.release()
            return theirs

        assert green.in_thread(use) is not ours
        assert counts(pool) == (1, 0, 0, 0)

    def test_what_another_thread_replaces_leaves_its_own_set(self):
        pool = Pool(1)
        pool.release(pool.acquire())

        def use():
            first = pool.acquire()
            pool.replace(first)
            return first is not pool.acquire()

        assert green.in_thread(use)
        assert counts(pool) == (0, 1, 0, 0)

    def test_closing_the_pool_closes_the_sets_of_all_threads(self):
        pool = Pool(1)
        pool.acquire()

        def use():
            theirs = pool.acquire()
            runtime.post(ours, pool.force_close_all)
            for _ in range(1000):
                if theirs.closed:
                    break
                green.sleep(0.01)
            return theirs.closed

        ours = runtime.hub_id()
        assert green.in_thread(use)
        with pytest.raises(RuntimeError):
            pool.acquire()

    def test_a_new_limit_reaches_the_sets_of_all_threads(self):
        pool = Pool(1)
        pool.acquire()

        def use():
            pool.acquire()
            runtime.post(ours, pool.resize, 2)
            return pool.acquire(timeout=10)

        ours = runtime.hub_id()
        assert green.in_thread(use)


class TestRelease:

    def test_twice_is_once(self):
        pool = Pool(2)
        thing = pool.acquire()
        release = thing.release
        thing.release()
        pool.release(thing)
        assert counts(pool) == (0, 1, 0, 0)
        assert pool.acquire() is thing
        release()  # an old lease says nothing about the new one
        assert counts(pool) == (1, 0, 0, 0)

    def test_a_strangers_resource_is_ignored(self):
        pool = Pool(1)
        pool.release(Thing())
        pool.replace(Thing())
        assert counts(pool) == (0, 0, 0, 0)

    def test_replace_closes_and_makes_room(self):
        pool = Pool(1)
        thing = pool.acquire()
        waiter = green.spawn(pool.acquire, block=True)
        green.sleep(0)
        pool.replace(thing)
        assert waiter.get() is not thing and counts(pool) == (1, 0, 0, 0)
        settle()
        assert thing.closed

    def test_an_error_in_release_resource_gives_the_place_back(self):
        class Picky(Pool):
            def release_resource(self, resource):
                raise ValueError('do not like it')

        pool = Picky(1)
        thing = pool.acquire()
        with pytest.raises(ValueError, match='like'):
            thing.release()
        assert counts(pool) == (0, 0, 0, 0)
        settle()
        assert thing.closed

    def test_a_kill_in_release_resource_gives_the_place_back(self):
        gate = runtime.Event()

        class Slow(Pool):
            def release_resource(self, resource):
                gate.wait()

        pool = Slow(1)
        thing = pool.acquire()
        task = green.spawn(thing.release)
        green.sleep(0)
        assert counts(pool) == (0, 0, 1, 0)
        task.kill()
        assert counts(pool) == (0, 0, 0, 0)
        settle()
        assert thing.closed


class TestSize:

    def test_growing_lets_waiters_in(self):
        pool = Pool(1)
        pool.acquire()
        waiters = [green.spawn(pool.acquire, block=True) for _ in range(3)]
        green.sleep(0)
        pool.resize(3)
        settle()
        assert counts(pool) == (3, 0, 0, 1)
        pool.limit = 4
        green.joinall(waiters, raise_error=True)
        assert pool.limit == 4

    def test_shrinking_closes_what_is_free(self):
        pool = Pool(3)
        things = [pool.acquire() for _ in range(3)]
        for thing in things:
            thing.release()
        pool.resize(1)
        settle()
        assert [thing.closed for thing in things] == [True, True, False]
        assert counts(pool) == (0, 1, 0, 0)

    def test_shrinking_below_what_is_in_use_must_be_forced_and_waits_for_returns(self):
        pool = Pool(3)
        things = [pool.acquire() for _ in range(3)]
        with pytest.raises(RuntimeError, match="Can't shrink pool when in use: was=3 now=1"):
            pool.resize(1)
        assert pool.limit == 3
        pool.resize(1, force=True)
        waiter = green.spawn(pool.acquire, block=True)
        green.sleep(0)
        things[0].release()
        things[1].release()
        settle()
        assert [thing.closed for thing in things] == [True, True, False] and counts(pool) == (1, 0, 0, 1)
        things[2].release()
        assert waiter.get() is things[2]

    def test_resize_with_reset_closes_all(self):
        pool = Pool(2)
        thing = pool.acquire()
        pool.resize(3, reset=True)
        assert thing.closed and counts(pool) == (0, 0, 0, 0)
        pool.acquire()

    def test_preload(self):
        assert counts(Pool(3, preload=2)) == (0, 2, 0, 0)

    def test_force_close_all_closes_also_what_is_in_use(self):
        pool = Pool(2)
        used, free = pool.acquire(), pool.acquire()
        free.release()
        pool.force_close_all()
        assert used.closed and free.closed and counts(pool) == (0, 0, 0, 0)
        used.release()
        assert counts(pool) == (0, 0, 0, 0)
        with pytest.raises(RuntimeError, match='closed pool'):
            pool.acquire()

    def test_a_closed_pool_tells_those_who_wait(self):
        pool = Pool(1)
        pool.acquire()
        errors = []

        def wait():
            try:
                pool.acquire(block=True)
            except RuntimeError as exc:
                errors.append(str(exc))

        task = green.spawn(wait)
        green.sleep(0)
        pool.force_close_all()
        task.join()
        assert 'closed pool' in errors[0]

    def test_closed_while_opening(self):
        pool = Pool(1)
        pool.gate = runtime.Event()
        errors = []

        def take():
            try:
                pool.acquire()
            except RuntimeError as exc:
                errors.append(str(exc))

        task = green.spawn(take)
        green.sleep(0)
        pool.force_close_all()
        pool.gate.set()
        task.join()
        settle()
        assert errors and pool.made[0].closed and counts(pool) == (0, 0, 0, 0)

    def test_a_pool_that_is_not_closed_goes_on_with_those_who_wait(self):
        pool = Pool(1)
        thing = pool.acquire()
        waiter = green.spawn(pool.acquire, block=True)
        green.sleep(0)
        pool.force_close_all(close_pool=False)
        assert thing.closed and waiter.get() is not thing
        assert counts(pool) == (1, 0, 0, 0)

    def test_taken_away_between_hand_over_and_run(self):
        pool = Pool(1)
        thing = pool.acquire()
        waiter = green.spawn(pool.acquire, block=True)
        green.sleep(0)
        thing.release()
        pool.force_close_all(close_pool=False)
        got = waiter.get()
        assert thing.closed and got is not thing and counts(pool) == (1, 0, 0, 0)

    def test_a_forked_child_begins_empty(self):
        pool = Pool(2, preload=1)
        used = pool.acquire()
        pool._after_fork()
        assert counts(pool) == (0, 0, 0, 0) and not used.closed
        used.release()
        assert counts(pool) == (0, 0, 0, 0)
        assert pool.acquire() is not used

    def test_the_numbers_show(self):
        pool = Pool(2)
        pool.acquire()
        assert repr(pool) == '<Pool Pool: 1 in use, 0 free, 0 opening of 2, 0 waiting>'
        stats = pool.stats()
        assert (stats.limit, stats.size, stats.opened, stats.discarded) == (2, 1, 1, {})

    def test_waits_are_counted(self):
        pool = Pool(1)
        thing = pool.acquire()
        waiter = green.spawn(pool.acquire, block=True)
        green.sleep(0.002)
        thing.release()
        waiter.get()
        assert pool.stats().wait_p50 >= 0.002 and pool.stats().wait_p99 >= pool.stats().wait_p50


class TestDyingHolders:
    """A task that ends with a lease in its hands gives it back, as broken."""

    @pytest.mark.parametrize('how', ['returns', 'raises', 'killed', 'timeout'])
    def test_its_place_is_free_and_the_log_says_who(self, how, caplog, hub_errors):
        pool, done = Pool(1), runtime.Event()

        def forget():
            pool.acquire()
            done.wait()
            if how == 'raises':
                raise ValueError

        task = green.spawn(forget)
        task.name = 'the forgetful'
        green.sleep(0)
        waiter = green.spawn(pool.acquire, block=True)
        green.sleep(0)
        thing = pool.made[0]
        if how in ('killed', 'timeout'):
            task.kill(green.GreenletExit if how == 'killed' else green.Timeout(1), block=False)
        else:
            done.set()
        got = waiter.get()
        if how in ('raises', 'timeout'):
            hub_errors.clear()
        assert got is not thing and pool.stats().in_use == 1
        green.sleep(0)
        assert thing.closed and pool.stats().discarded == {'orphaned': 1}
        told = [record.getMessage() for record in caplog.records if record.name == 'greenmq.pool']
        assert len(told) == 1 and 'the forgetful has ended and did not give back' in told[0]
        got.release()

    def test_a_bare_greenlet_that_is_gone(self, caplog):
        pool = Pool(1)
        green.spawn_raw(pool.acquire)
        green.idle()
        gc.collect()
        green.idle()
        assert pool.stats()[1:5] == (0, 0, 0, 0) and pool.made[0].closed
        assert 'has ended and did not give back' in caplog.text

    def test_what_a_task_returns_was_passed_on(self):
        pool = Pool(1)
        thing = green.spawn(pool.acquire).get()
        green.sleep(0)
        assert not thing.closed and pool.stats().in_use == 1
        thing.release()
        assert pool.stats().free == 1

    def test_what_it_gave_back_is_not_taken_from_the_next(self):
        pool = Pool(1)
        done = runtime.Event()

        def borrow():
            pool.acquire().release()
            done.wait()

        task = green.spawn(borrow)
        green.sleep(0)
        thing = pool.acquire()
        done.set()
        task.join()
        green.sleep(0)
        assert not thing.closed and pool.stats().in_use == 1

    def test_leases_leave_nothing_at_a_greenlet(self):
        pool = Pool(1)

        def borrow():
            thing = pool.acquire()
            lease = weakref.ref(thing.release)
            thing.release()
            del thing.release
            return lease()

        assert green.spawn(borrow).get() is None


class TestReaping:

    def test_what_is_idle_too_long_is_closed(self):
        pool = Pool(3, max_idle=0.02)
        things = [pool.acquire() for _ in range(3)]
        for thing in things[:2]:
            thing.release()
        wait_for(lambda: things[0].closed and things[1].closed)
        assert not things[2].closed and pool.stats()[1:5] == (1, 1, 0, 0)
        assert pool.stats().discarded == {'idle': 2}
        things[2].release()
        wait_for(lambda: things[2].closed)
        assert pool._reaper._timer is None

    def test_as_many_as_preload_says_are_kept_and_renewed(self):
        pool = Pool(3, preload=1, max_idle=0.02)
        first = pool.acquire()
        first.release()
        wait_for(lambda: first.closed and pool.stats().free == 1)
        pool.force_close_all()

    def test_what_is_old_is_replaced_in_the_background(self):
        pool = Pool(2, max_age=0.02)
        thing = pool.acquire()
        thing.release()
        wait_for(lambda: thing.closed)
        wait_for(lambda: pool.stats().free == 1)
        assert len(pool.made) == 2
        pool.force_close_all()

    def test_what_is_old_when_it_comes_back_goes_to_nobody(self):
        pool = Pool(1, max_age=3600)
        thing = pool.acquire()
        pool._reaper._ends[id(thing)] = 0.0
        waiter = green.spawn(pool.acquire, block=True)
        green.sleep(0)
        thing.release()
        assert waiter.get() is not thing
        assert thing.closed and pool.stats().discarded == {'old': 1}

    def test_what_comes_and_goes_all_the_time_has_one_timer(self):
        pool = Pool(1, max_idle=3600)
        pool.acquire().release()
        timer = pool._reaper._timer
        for _ in range(10):
            pool.acquire().release()
        assert timer is pool._reaper._timer is not None
        pool.force_close_all()
        assert not timer.active

    def test_nobody_goes_at_the_same_moment(self):
        pool = Pool(50, max_idle=1000, max_age=1000)
        for thing in [pool.acquire() for _ in range(50)]:
            thing.release()
        now = runtime.monotonic()
        left = [at - now for at in pool._reaper._ends.values()]
        assert max(left) - min(left) > 1 and 899 < min(left) and max(left) <= 1000
        assert len({Pool(1, max_idle=1000)._reaper._max_idle for _ in range(10)}) == 10
        pool.force_close_all()

    def test_a_pool_that_nobody_has_is_not_kept(self):
        pool = Pool(1, max_idle=0.01)
        pool.acquire().release()
        gone = weakref.ref(pool)
        pool.made[0].release = None
        pool.made.clear()
        del pool
        gc.collect()
        assert gone() is None
        green.sleep(0.02)

    def test_if_the_replacement_fails_the_next_caller_opens_one(self):
        pool = Pool(1, max_age=3600)
        thing = pool.acquire()
        pool.failures.append(OSError('refused'))
        pool._reaper._ends[id(thing)] = 0.0
        thing.release()
        wait_for(lambda: not pool.failures)
        assert pool.stats()[1:5] == (0, 0, 0, 0)
        assert pool.acquire() is not thing


def wait_for(condition):
    while not condition():
        green.sleep(0.001)
