"""The head counts see what they are to see."""
from __future__ import annotations

import os

import pytest

from tests.support import census, green


def test_an_open_descriptor_is_seen_and_named():
    with pytest.raises(AssertionError, match=os.devnull), census.unchanged('fds'):
        fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    with census.unchanged('fds'):
        os.close(os.open(os.devnull, os.O_RDONLY))


def test_a_greenlet_that_waits_is_seen_and_one_that_ended_is_not():
    # Not by their number: one of another test's thread may end meanwhile.
    glet = green.spawn(green.sleep, 1000)
    green.sleep(0)
    assert any(each is glet for each in census.greenlets())
    glet.kill()
    assert not any(each is glet for each in census.greenlets())


def test_a_cycle_counts_as_growth_and_a_clean_action_does_not():
    def leaves_a_cycle():
        ring = []
        ring.append(ring)

    dirty = census.growth(leaves_a_cycle, 200)
    assert dirty.objects_per_round >= 0.99
    assert 'builtins.list' in str(dirty)
    clean = census.growth(lambda: [].append([]), 200)
    assert clean.objects_per_round < 0.05


def test_threads_and_memory_are_counted():
    assert census.threads() >= 1
    assert census.rss_bytes() > 1_000_000
