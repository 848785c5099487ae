"""The injector hits the greenlet it was told to hit, at the switch it was told, and counts what it says."""
from __future__ import annotations

import greenlet
import pytest

from greenmq import runtime
from tests.support import green
from tests.support.switches import (
    Injection,
    SwitchCounter,
    assert_no_switch,
    assert_switches,
    injections,
    tracing,
)


def three_switches(log):
    for step in range(3):
        log.append(step)
        green.sleep(0)


def test_a_stretch_without_a_switch_passes_and_one_with_a_switch_fails():
    with assert_no_switch():
        sum(range(10))
    with pytest.raises(AssertionError, match='1 switches'), assert_no_switch():
        green.sleep(0)


def test_a_stretch_that_promises_to_wait_is_held_to_it():
    with assert_switches():
        green.sleep(0)
    with pytest.raises(AssertionError, match='no switch'), assert_switches():
        sum(range(10))


def test_only_switches_of_the_named_greenlet_are_counted():
    log = []
    other = green.Greenlet(three_switches, log)
    with SwitchCounter(of=other) as switches:
        other.start()
        other.join()
    assert switches.count == 4  # three sleeps and its end


def test_an_outer_trace_sees_what_an_inner_one_sees():
    seen = []
    with tracing(lambda event, origin, target: seen.append(event)), SwitchCounter() as switches:
        green.sleep(0)
    assert len(seen) == switches.count > 0
    assert greenlet.gettrace() is None


@pytest.mark.parametrize('kind', [greenlet.GreenletExit, green.Timeout])
@pytest.mark.parametrize('k', [1, 2, 3])
def test_the_call_is_hit_at_its_kth_switch(kind, k):
    log = []
    outcome = Injection(k, kind).run(three_switches, log)
    assert isinstance(outcome.error, kind)
    assert log == list(range(k))


def test_a_call_that_is_through_before_is_not_hit():
    injection = Injection(4, green.Timeout)
    outcome = injection.run(three_switches, [])
    assert outcome.error is None and not injection.reached


def test_every_switch_is_tried_once_with_each_kind():
    hit = []
    for injection in injections(rounds=(0,), twice=(False,)):
        log = []
        injection.run(three_switches, log)
        if injection.thrown:
            hit.append((injection.kind, len(log)))
    assert hit == [(kind, k) for kind in (greenlet.GreenletExit, green.Timeout) for k in (1, 2, 3)]


def test_a_call_that_swallows_what_hit_it_is_found_out():
    def swallows():
        try:
            green.sleep(0)
        except green.GreenletExit:
            return 'as if nothing had been'

    with pytest.raises(AssertionError, match='was swallowed'):
        Injection(1, greenlet.GreenletExit).run(swallows)


def test_later_rounds_hit_a_caller_that_was_woken_but_has_not_run():
    landed = set()
    for rounds in range(4):

        def waits():
            waiter, answered, woken = runtime.Waiter(), [], False
            green.spawn(lambda: answered.append(waiter.wake()))
            try:
                waiter.wait()
                woken = True
                green.sleep(0)
            finally:
                landed.add((bool(answered), woken))

        Injection(1, greenlet.GreenletExit, rounds).run(waits)
    assert landed == {(False, False), (True, False), (True, True)}


def test_the_second_hit_finds_an_undo_that_waits():
    undone = []
    slot = runtime.Semaphore(1)

    def careless():
        with slot:
            try:
                green.sleep(0)
            finally:
                green.sleep(0)  # an undo step must not wait
                undone.append(True)

    Injection(1, greenlet.GreenletExit).run(careless)
    assert undone == [True]
    Injection(1, greenlet.GreenletExit, twice=True).run(careless)
    assert undone == [True], 'the second hit came too late'


def test_a_call_without_end_is_given_up():
    def spins():
        while True:
            green.sleep(0)

    with pytest.raises(AssertionError, match='still switching'):
        for injection in injections(rounds=(0,), twice=(False,), limit=5):
            injection.run(spins)
