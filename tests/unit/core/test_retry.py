"""Delays stay within their bounds, and the last attempt is the one kombu would make."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenmq.core.retry import LOOK_SECONDS, RetrySchedule, turn_seconds
from greenmq.exceptions import InvalidArgument

_SECONDS = st.floats(0, 1e6, allow_nan=False)


@settings(deadline=None)
@given(_SECONDS, _SECONDS, _SECONDS, st.floats(0, 1), st.integers(1, 1000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_bounded_and_jitter_only_shortens(start, step, most, jitter, attempt, chance):
    plain = RetrySchedule(None, start, step, most)
    shaken = RetrySchedule(None, start, step, most, jitter=jitter, rng=lambda: chance)
    full = plain.delay(attempt)
    assert full == min(start + step * (attempt - 1), most)
    assert full * (1 - jitter) - 1e-6 <= shaken.delay(attempt) <= full
    assert shaken.delay(attempt) >= 0
    assert plain.delay(attempt + 1) >= full


@pytest.mark.parametrize(
    ('max_retries', 'calls'), [(-1, 1), (0, 1), (1, 2), (3, 4)]
)  # as observed of kombu's retry_over_time
def test_max_retries_counts_attempts_after_the_first(max_retries, calls):
    schedule = RetrySchedule(max_retries)
    attempt = 1
    while not schedule.gives_up(attempt):
        attempt += 1
    assert attempt == calls


def test_no_limit_means_for_ever():
    assert not RetrySchedule(None).gives_up(10**9, elapsed=1e9)


def test_default_delays_are_those_of_kombu():
    assert [RetrySchedule().delay(n) for n in (1, 2, 3, 15, 16)] == [2, 4, 6, 30, 30]


def test_without_a_longest_delay_it_grows_on():
    assert RetrySchedule(interval_max=None).delay(1000) == 2000


def test_the_time_is_up_at_the_timeout():
    schedule = RetrySchedule(timeout=5)
    assert not schedule.gives_up(1, elapsed=4.9)
    assert schedule.gives_up(1, elapsed=5.0)


@pytest.mark.parametrize('name', ['interval_start', 'interval_step', 'interval_max', 'timeout'])
@pytest.mark.parametrize('seconds', [-0.1, math.nan])
def test_times_that_are_none_are_refused_by_name(name, seconds):
    with pytest.raises(InvalidArgument, match=f'{name} must be 0 seconds or more'):
        RetrySchedule(**{name: seconds})


@pytest.mark.parametrize('jitter', [-0.1, 1.1, math.nan])
def test_jitter_is_a_part_of_one(jitter):
    with pytest.raises(InvalidArgument, match='jitter must be from 0 to 1'):
        RetrySchedule(jitter=jitter)


def test_repr_states_the_numbers():
    assert repr(RetrySchedule(3)) == '<RetrySchedule: 3 times, 2.0 s + 2.0 s each, at most 30.0 s>'


@given(st.integers(0, 1000), st.integers(1, 50), _SECONDS)
def test_hosts_share_the_time_of_a_try_in_every_other_round(tries, hosts, seconds):
    found = turn_seconds(tries, hosts, seconds)
    if hosts == 1 or tries // hosts % 2:
        assert found == seconds
    else:
        assert min(seconds, LOOK_SECONDS) <= found <= max(seconds / hosts, LOOK_SECONDS)
