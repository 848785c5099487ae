"""What a fetch of many queues takes to prepare: it grows with the queues, not with their square."""
import pytest

from greenmq.transport.redis.fetching import TURNS, Plan
from greenmq.transport.redis.keys import Keys


def names(number):
    return tuple(f'q{at}' for at in range(number))


def asked(turn):
    return [pair for _home, _lists, _words, pairs in turn for pair in pairs]


@pytest.mark.parametrize('cluster', [False, True])
@pytest.mark.parametrize('number', [1, 2, 3, 2 * TURNS])
def test_each_queue_is_first_in_turn(number, cluster):
    keys = Keys('c', steps=(0, 5), cluster=cluster)
    plan = Plan(keys, names(number), backwards=True, rotates=True)
    for _ in range(2):
        turns = [plan.turn() for _ in range(number)]
        assert sorted(asked(turn)[0][0] for turn in turns) == sorted(names(number))
    for turn in turns:
        assert sorted(asked(turn)) == sorted((name, step) for name in names(number) for step in (0, 5))
        for home, lists, words, pairs in turn:
            assert {keys.home(queue) for queue, _ in pairs} == {home}
            assert lists == [keys.list_of(*pair) for pair in pairs]
            assert words == [word for queue, step in pairs for word in (step, keys.value_end(queue))]


def test_the_most_urgent_step_comes_first():
    ascending = Plan(Keys('c', steps=(0, 5)), names(2), backwards=False, rotates=False)
    assert asked(ascending.turn()) == [('q0', 0), ('q1', 0), ('q0', 5), ('q1', 5)]
    assert asked(ascending.turn())[0] == ('q0', 0)
    descending = Plan(Keys('c', steps=(0, 5)), names(2), backwards=True, rotates=True)
    assert asked(descending.turn()) == [('q1', 5), ('q0', 5), ('q1', 0), ('q0', 0)]


def test_what_a_plan_makes_grows_with_the_queues():
    class Counting(Keys):
        made = 0

        def value_end(self, queue):
            self.made += 1
            return super().value_end(queue)

    found = []
    for number in (100, 1000):
        keys = Counting('c')
        plan = Plan(keys, names(number), backwards=False, rotates=True)
        for _ in range(2 * TURNS):
            plan.turn()
        found.append(keys.made)
    assert found[1] <= 11 * found[0]
