"""The lock-free cached property."""

from __future__ import annotations

from greenmq import runtime
from greenmq.utils import cached_property


class Counter:
    def __init__(self):
        self.computed = 0
        self.seen = []

    @cached_property
    def value(self):
        """The doc."""
        self.computed += 1
        return self.computed

    @value.setter
    def value(self, new):
        self.seen.append(('set', new))
        return new * 2

    @value.deleter
    def value(self, old):
        self.seen.append(('del', old))

    @cached_property
    def plain(self):
        return object()


def test_computed_once():
    counter = Counter()
    assert (counter.value, counter.value, counter.computed) == (1, 1, 1)
    assert counter.__dict__['value'] == 1


def test_setter_returns_what_is_stored():
    counter = Counter()
    counter.value = 5
    assert counter.value == 10
    assert counter.seen == [('set', 5)]
    assert counter.computed == 0


def test_deleter_gets_the_value_and_the_next_use_computes():
    counter = Counter()
    counter.value = 5
    del counter.value
    assert counter.seen[-1] == ('del', 10)
    assert counter.value == 1


def test_deleting_what_was_never_computed():
    counter = Counter()
    del counter.value
    del counter.plain
    assert counter.seen == []


def test_without_setter():
    counter = Counter()
    counter.plain = 3
    assert counter.plain == 3
    del counter.plain
    assert counter.plain != 3


def test_on_the_class_it_is_the_property():
    assert isinstance(Counter.value, cached_property)
    assert Counter.value.__doc__ == 'The doc.'
    assert Counter.value.attrname == 'value'


def test_two_greenlets_that_compute_at_once_get_one_object():
    class Slow:
        made = 0

        @cached_property
        def thing(self):
            runtime.sleep(0)
            self.made += 1
            return object()

    slow, got = Slow(), []
    tasks = [runtime.spawn(lambda: got.append(slow.thing), name='reader') for _ in range(2)]
    for task in tasks:
        task.join(5)
    assert slow.made == 2  # nobody waited for the other
    assert got[0] is got[1] is slow.thing


def test_a_descriptor_called_by_hand_without_an_object_gives_the_property():
    class Thing:
        @cached_property
        def value(self):
            return 1

    prop = Thing.value
    assert prop.__set__(None, 3) is prop and prop.__delete__(None) is prop
