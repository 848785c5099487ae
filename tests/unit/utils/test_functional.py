"""Lazy values, the cache, number series, retrying."""

from __future__ import annotations

import copy
import pickle
from itertools import islice

import pytest

from greenmq import runtime
from greenmq.utils import functional
from greenmq.utils.functional import (
    ChannelPromise,
    LRUCache,
    accepts_argument,
    dictfilter,
    fxrange,
    fxrangemax,
    is_list,
    lazy,
    maybe_evaluate,
    maybe_list,
    memoize,
    reprcall,
    reprkwargs,
    retry_over_time,
    shufflecycle,
)


def double(x):
    return 2 * x


class TestChannelPromise:
    def test_opens_once(self):
        opened = []
        promise = ChannelPromise(lambda: opened.append(1) or object())
        assert promise() is promise()
        assert opened == [1]

    def test_repr_tells_whether_it_is_open(self):
        promise = ChannelPromise(lambda: [1])
        assert repr(promise).startswith('<promise: 0x')
        promise()
        assert repr(promise) == '[1]'

    def test_greenlets_that_call_at_once_get_one_channel(self):
        def slow():
            runtime.sleep(0)
            return object()

        promise = ChannelPromise(slow)
        got = []
        tasks = [runtime.spawn(lambda: got.append(promise()), name='caller') for _ in range(3)]
        for task in tasks:
            task.join(5)
        assert len(got) == 3
        assert len({id(channel) for channel in got}) == 1

    def test_a_failure_is_not_kept(self):
        answers = iter([ValueError('first'), 'channel'])

        def contract():
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        promise = ChannelPromise(contract)
        with pytest.raises(ValueError, match='first'):
            promise()
        assert promise() == 'channel'


class TestLRUCache:
    def test_forgets_the_least_recently_used(self):
        cache = LRUCache(limit=2)
        cache['a'], cache['b'] = 1, 2
        cache['a']
        cache['c'] = 3
        assert list(cache) == ['a', 'c']
        assert 'b' not in cache

    def test_setting_counts_as_use(self):
        cache = LRUCache(limit=2)
        cache['a'], cache['b'] = 1, 2
        cache['a'] = 10
        cache['c'] = 3
        assert list(cache.items()) == [('a', 10), ('c', 3)]

    def test_update_keeps_the_limit(self):
        cache = LRUCache(limit=2)
        cache.update({'a': 1, 'b': 2}, c=3)
        assert list(cache.values()) == [2, 3]

    def test_no_limit(self):
        cache = LRUCache()
        cache.update((n, n) for n in range(1000))
        assert len(cache) == 1000

    def test_changing_while_iterating(self):
        cache = LRUCache(limit=3)
        cache.update(a=1, b=2, c=3)
        for key in cache:
            cache[key + key] = 0
        assert len(cache) == 3

    def test_popitem(self):
        cache = LRUCache()
        cache.update(a=1, b=2, c=3)
        assert cache.popitem() == ('c', 3)
        assert cache.popitem(last=False) == ('a', 1)

    def test_incr_stores_text(self):
        cache = LRUCache()
        cache['n'] = '4'
        assert cache.incr('n') == 5
        assert cache.incr('n', 10) == 15
        assert cache['n'] == '15'
        with pytest.raises(KeyError):
            cache.incr('missing')

    def test_pickles_without_its_lock(self):
        cache = LRUCache(limit=2)
        cache['n'] = '1'
        cache.incr('n')
        again = pickle.loads(pickle.dumps(cache))
        assert again.limit == 2
        assert again.incr('n') == 3


class TestMemoize:
    def test_computes_once_for_each_call(self):
        calls = []

        @memoize()
        def fun(*args, **kwargs):
            calls.append((args, kwargs))
            return len(calls)

        assert [fun(1), fun(1), fun(1, k=2), fun(1, k=2), fun(2)] == [1, 1, 2, 2, 3]
        assert (fun.hits, fun.misses) == (2, 3)
        fun.clear()
        assert (fun.hits, fun.misses) == (0, 0)
        assert fun(1) == 4
        assert fun.original_func(9) == 5

    def test_keyfun_and_maxsize(self):
        @memoize(maxsize=1, keyfun=lambda args, kwargs: args[0])
        def fun(a, b):
            return b

        assert [fun(1, 'x'), fun(1, 'y'), fun(2, 'z'), fun(1, 'y')] == ['x', 'x', 'z', 'y']

    def test_a_failure_is_not_kept(self):
        @memoize()
        def fun():
            raise ValueError

        for _ in range(2):
            with pytest.raises(ValueError):
                fun()
        assert fun.misses == 0


class TestLazy:
    def test_computed_each_time(self):
        numbers = iter(range(10))
        value = lazy(lambda: next(numbers))
        assert [value(), value.evaluate(), maybe_evaluate(value), str(value), repr(value)] == [
            0,
            1,
            2,
            '3',
            '4',
        ]

    def test_compares_as_its_value(self):
        value = lazy(double, 2)
        assert value == 4
        assert value != 5
        assert (value != 4) is False
        with pytest.raises(TypeError):
            hash(value)

    def test_copied_and_pickled(self):
        value = lazy(double, 4)
        assert copy.deepcopy([value])[0] is value
        assert copy.copy(value)() == 8
        assert pickle.loads(pickle.dumps(value))() == 8

    def test_plain_values_pass(self):
        assert maybe_evaluate('x') == 'x'


@pytest.mark.parametrize(
    ('value', 'expected'),
    [(None, None), ('a', ['a']), ([1], [1]), ((1,), (1,)), ({1: 2}, [{1: 2}]), (0, [0]), (b'ab', b'ab')],
)
def test_maybe_list(value, expected):
    assert maybe_list(value) == expected


def test_is_list():
    assert is_list([]) and is_list(()) and is_list(iter([]))
    assert not is_list('a') and not is_list({}) and not is_list(1)
    assert is_list('a', scalars=())


def test_dictfilter():
    given = {'a': None, 'b': 1}
    assert dictfilter(given, c=2, e=None) == {'b': 1, 'c': 2}
    assert dictfilter(None, x=1) == {'x': 1}
    assert dictfilter({'a': 1}, a=2) == {'a': 2}
    assert given == {'a': None, 'b': 1}


def test_shufflecycle_draws_every_item():
    assert set(islice(shufflecycle('abc'), 500)) == set('abc')


@pytest.mark.parametrize(
    ('args', 'expected'),
    [
        ((1, 3, 0.5), [1.0, 1.5, 2.0, 2.5, 3.0]),
        ((1, 3, 1, True), [1.0, 2.0, 3.0, 3.0, 3.0, 3.0]),
        ((1.0, None, 1.0), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ((3, 1, 1), []),
    ],
)
def test_fxrange(args, expected):
    assert list(islice(fxrange(*args), 6)) == expected


@pytest.mark.parametrize(
    ('start', 'stop', 'step', 'most', 'expected'),
    [
        (1.0, None, 1.0, 10.0, [1.0, 2.0, 3.0, 4.0]),
        (1.0, 3, 1.0, 13.0, [1.0, 2.0, 3.0, 3, 3]),
        (10, None, 1, 5, [10.0]),
        (2, None, 2, 7, [2.0, 4.0]),
    ],
)
def test_fxrangemax(start, stop, step, most, expected):
    assert list(fxrangemax(start, stop, step, max=most)) == expected


def test_repr_of_calls():
    assert reprcall('foo', (1, 'x'), {'a': None}) == "foo(1, 'x', a=None)"
    assert reprcall('foo') == 'foo()'
    assert reprkwargs({'a': 1, 'b': 2}, sep=';') == 'a=1;b=2'


def test_accepts_argument():
    assert accepts_argument(lambda a, *, b: None, 'b')
    assert not accepts_argument(lambda *a, **b: None, 'b')
    with pytest.raises(TypeError, match='unsupported callable'):
        accepts_argument(3, 'b')


class Flaky:
    def __init__(self, failures):
        self.failures = failures
        self.calls = []

    def __call__(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        if len(self.calls) <= self.failures:
            raise ValueError(len(self.calls))
        return 'done'


class TestRetryOverTime:
    @pytest.fixture(autouse=True)
    def slept(self, monkeypatch):
        slept = []
        monkeypatch.setattr(functional, 'sleep', slept.append)
        return slept

    def test_sleeps_longer_each_time(self, slept):
        fun = Flaky(6)
        assert retry_over_time(fun, ValueError, (1,), {'k': 2}, interval_step=3, interval_max=6) == 'done'
        assert slept == [2, 5, 6, 6, 6, 6]
        assert fun.calls == [((1,), {'k': 2})] * 7

    @pytest.mark.parametrize('most', [0, 1, 3])
    def test_max_retries(self, most):
        fun = Flaky(99)
        with pytest.raises(ValueError):
            retry_over_time(fun, (ValueError,), max_retries=most)
        assert len(fun.calls) == most + 1

    def test_other_errors_pass(self, slept):
        with pytest.raises(ValueError):
            retry_over_time(Flaky(1), KeyError)
        assert slept == []

    def test_errback_decides_the_delay(self, slept):
        seen = []

        def errback(exc, delays, retries):
            seen.append((exc.args[0], retries))
            return next(delays) * 10

        retry_over_time(Flaky(2), ValueError, errback=errback, interval_start=1, interval_step=1)
        assert seen == [(1, 0), (2, 1)]
        assert slept == [10, 20]

    def test_no_interval_no_sleep(self, slept):
        retry_over_time(Flaky(3), ValueError, interval_start=0, interval_step=0)
        assert slept == []

    def test_callback_gets_its_turn_during_a_sleep(self, slept):
        calls = []
        retry_over_time(
            Flaky(1),
            ValueError,
            interval_start=3.5,
            interval_step=0,
            callback=lambda: calls.append(len(slept)),
        )
        assert slept == [1, 1, 1, 0.5]
        assert calls == [0, 1, 2, 3]

    def test_callback_ends_it(self):
        class Stop(Exception):
            pass

        def stop():
            raise Stop

        with pytest.raises(Stop):
            retry_over_time(Flaky(9), ValueError, callback=stop)

    def test_gives_up_at_the_timeout(self, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(runtime.clock, 'monotonic', lambda: now[0])
        monkeypatch.setattr(functional, 'sleep', lambda seconds: now.__setitem__(0, now[0] + seconds))
        fun = Flaky(99)
        with pytest.raises(ValueError):
            retry_over_time(fun, ValueError, interval_start=2, interval_step=2, timeout=5)
        assert now[0] == 105.0  # and not 106: the last sleep ends with the timeout
        assert len(fun.calls) == 3

    def test_what_was_passed_stays_as_it_is(self):
        args, kwargs = [1], {'k': 2}
        retry_over_time(Flaky(1), ValueError, args, kwargs)
        assert (args, kwargs) == ([1], {'k': 2})
