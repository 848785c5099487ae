"""A queue that the broker named is found by the name that the program was told, whatever it is called now."""
from __future__ import annotations

from greenmq.transport.pyamqp.names import QueueNames


def test_a_queue_is_known_by_its_first_name_and_the_one_just_before():
    names = QueueNames()
    for old, new in ('ab', 'bc', 'cd'):
        names.renamed(old, new)
    assert [names.now(name) for name in 'abcde'] == ['d', 'b', 'd', 'd', 'e']
    assert len(names) == 2


def test_what_is_gone_is_forgotten_by_all_its_names():
    names = QueueNames()
    names.renamed('a', 'b')
    names.renamed('b', 'c')
    names.renamed('x', 'y')
    assert names.forget('c') == 'a'
    assert [names.now(name) for name in 'abcx'] == ['a', 'b', 'c', 'y']
    names.clear()
    assert names.now('x') == 'x' and not len(names)


def test_many_recoveries_of_many_queues_keep_two_names_of_each():
    names, current = QueueNames(), {f'q{number}': f'q{number}' for number in range(50)}
    for epoch in range(20):
        for declared, old in current.items():
            current[declared] = f'{declared}-{epoch}'
            names.renamed(old, current[declared])
    assert len(names) == 100
    assert all(names.now(declared) == now for declared, now in current.items())
