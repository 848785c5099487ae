"""The pause of a recovery: it ends when somebody needs the connection, and never lasts less than it must."""
from __future__ import annotations

from greenmq import runtime
from greenmq.transport.pause import SHORTEST, Pause
from tests.support import green


def test_it_lasts_as_long_as_it_was_told():
    began = runtime.monotonic()
    Pause().make(SHORTEST * 3)
    assert runtime.monotonic() - began >= SHORTEST * 2.9


def test_who_needs_the_connection_ends_it():
    pause = Pause()
    pausing = green.spawn(pause.make, 60)
    green.sleep(SHORTEST * 2)
    pause.end()
    pausing.get(timeout=10)
    pause.end()  # nobody pauses now


def test_it_does_not_end_before_the_shortest_one_is_over():
    pause = Pause()
    began = runtime.monotonic()
    pausing = green.spawn(pause.make, 60)
    green.sleep(0)
    pause.end()
    pausing.get(timeout=10)
    assert runtime.monotonic() - began >= SHORTEST * 0.9


def test_another_thread_leaves_it_alone():
    pause = Pause()
    pausing = green.spawn(pause.make, 60)
    green.sleep(SHORTEST * 2)
    green.in_thread(pause.end)
    green.sleep(SHORTEST * 2)
    assert not pausing.ready()
    pause.end()
    pausing.get(timeout=10)
