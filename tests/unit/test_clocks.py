"""Logical clocks."""

from __future__ import annotations

import heapq
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenmq.clocks import LamportClock, timetuple


class TestLamportClock:
    def test_counts_and_jumps_ahead(self):
        clock = LamportClock()
        assert [clock.forward(), clock.adjust(10), clock.adjust(3), clock.forward()] == [1, 11, 12, 13]
        assert clock.value == 13
        assert str(clock) == '13'
        assert repr(clock) == '<LamportClock: 13>'

    def test_starts_anywhere_with_any_lock(self):
        used = []

        class Lock:
            def __enter__(self):
                used.append('in')

            def __exit__(self, *exc):
                used.append('out')

        clock = LamportClock(5, Lock)
        assert clock.forward() == 6
        assert used == ['in', 'out']

    @given(st.lists(st.integers(0, 100)))
    def test_an_effect_is_always_later(self, heard):
        clock = LamportClock()
        for other in heard:
            before = clock.value
            assert clock.adjust(other) > max(before, other)

    @pytest.mark.parametrize(
        ('events', 'first'),
        [
            ([(2, 'b'), (3, 'c')], (2, 'b')),
            ([(2, 'b'), (2, 'a'), (3, 'c')], (2, 'a')),
            ([(1, 'a')], (1, 'a')),
            ([(2, 'a', 'x'), (2, 'b', 'y')], (2, 'a', 'x')),
        ],
    )
    def test_sort_heap(self, events, first):
        assert LamportClock().sort_heap(events) == first


class TestTimetuple:
    def test_fields(self):
        when = timetuple(1, 2.0, 'id', 'obj')
        assert (when.clock, when.timestamp, when.id, when.obj) == (1, 2.0, 'id', 'obj') == when
        assert repr(when) == "_lamport(clock=1, timestamp=2.0, id=id 'obj')"
        again = pickle.loads(pickle.dumps(when))
        assert again == when
        assert type(again) is timetuple

    @pytest.mark.parametrize(
        ('earlier', 'later'),
        [
            # As kombu orders them.
            (timetuple(1, 5.0, 'a'), timetuple(2, 4.0, 'b')),
            (timetuple(1, 5.0, 'a'), timetuple(1, 4.0, 'z')),
            (timetuple(None, 3.0, 'c'), timetuple(1, 5.0, 'a')),
            (timetuple(1, 5.0, 'a'), timetuple(0, 6.0, 'd')),
            (timetuple(1, 5.0, 'a'), (2, 4.0, 'b')),
        ],
    )
    def test_order(self, earlier, later):
        assert earlier < later
        assert earlier <= later
        assert not earlier > later
        assert not earlier >= later
        assert later > earlier

    def test_equal_ones(self):
        one, same = timetuple(1, 5.0, 'a', object()), timetuple(1, 5.0, 'a', object())
        assert one <= same
        assert one >= same
        assert not one < same

    def test_what_is_none_cannot_be_compared(self):
        with pytest.raises(TypeError):
            timetuple(1, 2.0, 'a') < 3  # noqa: B015
        with pytest.raises(TypeError):
            timetuple(1, 2.0, 'a') >= 'x'  # noqa: B015

    def test_in_a_heap(self):
        events = [timetuple(n % 7 + 1, float(n), str(n)) for n in range(30)]
        heap = []
        for event in events:
            heapq.heappush(heap, event)
        clocks = [heapq.heappop(heap).clock for _ in range(len(heap))]
        assert clocks == sorted(clocks)
