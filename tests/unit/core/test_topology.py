"""What is declared again: everything that is still there, in an order that works, and nothing else."""

from hypothesis import given, settings
from hypothesis import strategies as st

from greenmq.core.topology import Topology


class Broker:
    """Takes declarations as a broker does: what an entry needs must be there already."""

    def __init__(self):
        self.seen = {'exchange': [], 'queue': [], 'binding': [], 'consumer': []}

    def take(self, kind, entry):
        if kind == 'binding':
            ends = self.seen[entry['kind']]
            assert entry['destination'] in ends
            assert entry['source'] in self.seen['exchange']
            self.seen[kind].append(tuple(entry[k] for k in ('kind', 'destination', 'source', 'routing_key')))
        elif kind == 'consumer':
            assert entry['queue'] in self.seen['queue']
            self.seen[kind].append((entry['tag'], entry['queue']))
        else:
            self.seen[kind].append(entry['name'])


class Model:
    """What should be left, kept as plain lists and searched each time."""

    def __init__(self):
        self.seen = {'exchange': [], 'queue': [], 'binding': [], 'consumer': []}

    def add(self, kind, entry):
        if entry not in self.seen[kind]:
            self.seen[kind].append(entry)

    def forget(self, kind, name):
        if name in self.seen[kind]:
            self.seen[kind].remove(name)
        self.seen['binding'] = [
            b for b in self.seen['binding']
            if (b[0], b[1]) != (kind, name) and not (kind == 'exchange' and b[2] == name)
        ]  # fmt: skip
        if kind == 'queue':
            self.seen['consumer'] = [c for c in self.seen['consumer'] if c[1] != name]


_NAME = st.sampled_from('abc')
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ['exchange', 'queue', 'bind_queue', 'bind_exchange', 'unbind_queue', 'unbind_exchange',
             'consumer', 'forget_exchange', 'forget_queue', 'forget_consumer', 'rename_queue']
        ),
        _NAME,
        _NAME,
        st.sampled_from(['', 'k']),
    ),
    max_size=60,
)  # fmt: skip


def _step(topology, model, what, one, two, key):
    have_queue, have_one, have_two = (
        one in model.seen['queue'],
        one in model.seen['exchange'],
        two in model.seen['exchange'],
    )
    if what in ('exchange', 'queue'):
        getattr(topology, what)(one, durable=True)
        model.add(what, one)
    elif what in ('bind_queue', 'bind_exchange'):
        kind = what[5:]
        if have_two and (have_queue if kind == 'queue' else have_one):  # else the broker would have refused
            getattr(topology, what)(one, two, key)
            model.add('binding', (kind, one, two, key))
    elif what in ('unbind_queue', 'unbind_exchange'):
        getattr(topology, what)(one, two, key)
        model.seen['binding'] = [b for b in model.seen['binding'] if b != (what[7:], one, two, key)]
    elif what == 'consumer':
        if have_queue:
            topology.consumer(f'tag-{two}', one, no_ack=False)
            model.seen['consumer'] = [c for c in model.seen['consumer'] if c[0] != f'tag-{two}']
            model.add('consumer', (f'tag-{two}', one))
    elif what == 'forget_consumer':
        topology.forget_consumer(f'tag-{one}')
        model.seen['consumer'] = [c for c in model.seen['consumer'] if c[0] != f'tag-{one}']
    elif what == 'rename_queue':
        if have_queue and f'{one}{two}' not in model.seen['queue'] and len(one) < 3:
            topology.rename_queue(one, f'{one}{two}')
            topology.rename_queue(f'{one}{two}', one)
    else:
        getattr(topology, what)(one)
        model.forget(what[7:], one)


@settings(deadline=None)
@given(_STEPS, st.booleans())
def test_replay_declares_all_that_is_left_and_in_an_order_that_works(steps, prepared):
    topology, model = Topology(), Model()
    if prepared:  # so that more of the steps find what they need
        for name in 'abc':
            _step(topology, model, 'exchange', name, name, '')
            _step(topology, model, 'queue', name, name, '')
    for step in steps:
        _step(topology, model, *step)
        broker = Broker()
        for kind, entry in topology.replay():
            broker.take(kind, entry)
        assert broker.seen['exchange'] == model.seen['exchange']
        assert broker.seen['queue'] == model.seen['queue']
        assert sorted(broker.seen['binding']) == sorted(model.seen['binding'])
        assert sorted(broker.seen['consumer']) == sorted(model.seen['consumer'])
        assert len(topology) == sum(map(len, model.seen.values()))
    for name in 'abc':
        topology.forget_exchange(name)
        topology.forget_queue(name)
    assert len(topology) == 0
    assert not topology._touching
    assert not topology._consuming


def _topology():
    topology = Topology()
    topology.queue('q', durable=True)
    topology.exchange('e', type='topic')
    topology.bind_queue('q', 'e', 'k', {'h': 1})
    topology.consumer('t', 'q', no_ack=True)
    topology.exchange('f', type='fanout')
    topology.bind_exchange('f', 'e', '#')
    return topology


def _binding(kind, destination, source, routing_key, arguments):
    return {
        'kind': kind,
        'destination': destination,
        'source': source,
        'routing_key': routing_key,
        'arguments': arguments,
    }


def test_entries_carry_the_facts_as_declared():
    assert list(_topology().replay()) == [
        ('exchange', {'name': 'e', 'type': 'topic'}),
        ('exchange', {'name': 'f', 'type': 'fanout'}),
        ('queue', {'name': 'q', 'durable': True}),
        ('binding', _binding('queue', 'q', 'e', 'k', {'h': 1})),
        ('binding', _binding('exchange', 'f', 'e', '#', None)),
        ('consumer', {'tag': 't', 'queue': 'q', 'no_ack': True}),
    ]
    assert repr(_topology()) == '<Topology: 2 exchanges, 1 queues, 2 bindings, 1 consumers>'


def test_declared_again_it_keeps_its_place_and_takes_the_new_facts():
    topology = _topology()
    topology.exchange('e', type='direct')
    assert next(topology.replay()) == ('exchange', {'name': 'e', 'type': 'direct'})


def test_deleting_a_queue_takes_its_bindings_and_consumers():
    topology = _topology()
    topology.forget_queue('q')
    assert not topology.has_queue('q')
    assert [kind for kind, _ in topology.replay()] == ['exchange', 'exchange', 'binding']


def test_deleting_an_exchange_takes_bindings_from_and_to_it():
    topology = _topology()
    topology.forget_exchange('e')
    assert not topology.has_exchange('e')
    assert [kind for kind, _ in topology.replay()] == ['exchange', 'queue', 'consumer']


def test_a_binding_is_told_apart_by_its_arguments():
    topology = _topology()
    topology.bind_queue('q', 'e', 'k', {'h': True})
    topology.unbind_queue('q', 'e', 'k', {'h': 1})
    bindings = [entry['arguments'] for kind, entry in topology.replay() if kind == 'binding']
    assert bindings == [None, {'h': True}]


def test_what_the_broker_deletes_by_itself_is_not_declared_again():
    # Given: an auto-delete exchange that feeds another one, which feeds an auto-delete queue.
    topology = Topology()
    topology.exchange('first', auto_delete=True)
    topology.exchange('second', auto_delete=True)
    topology.queue('q', auto_delete=True)
    topology.bind_exchange('second', 'first')
    topology.bind_queue('q', 'second')
    topology.consumer('t1', 'q')
    topology.consumer('t2', 'q')
    # When: one of two consumers goes, nothing happens.
    topology.forget_consumer('t1')
    assert len(topology) == 6
    # Then: with the other, all of it goes, one after the other.
    topology.forget_consumer('t2')
    assert list(topology.replay()) == []


def test_a_tag_that_is_used_again_belongs_to_its_new_queue():
    topology = _topology()
    topology.queue('r')
    topology.consumer('t', 'r')
    topology.forget_queue('q')
    assert ('consumer', {'tag': 't', 'queue': 'r'}) in list(topology.replay())
    topology.forget_queue('r')
    assert 'consumer' not in [kind for kind, _ in topology.replay()]


def test_a_queue_that_stays_outlives_its_consumers():
    topology = _topology()
    topology.forget_consumer('t')
    topology.forget_consumer('t')
    assert topology.has_queue('q')


def test_a_queue_named_by_the_broker_takes_its_belongings_to_its_new_name():
    topology = _topology()
    topology.queue('r')
    topology.rename_queue('q', 'amq.gen-2')
    replay = list(topology.replay())
    assert [entry['name'] for kind, entry in replay if kind == 'queue'] == ['amq.gen-2', 'r']
    assert ('consumer', {'tag': 't', 'queue': 'amq.gen-2', 'no_ack': True}) in replay
    assert ('binding', _binding('queue', 'amq.gen-2', 'e', 'k', {'h': 1})) in replay
    topology.forget_queue('amq.gen-2')
    assert [kind for kind, _ in topology.replay()] == ['exchange', 'exchange', 'queue', 'binding']


class CountedName(str):
    """Counts how often a name is looked at."""

    looks = 0

    def __hash__(self):
        CountedName.looks += 1
        return super().__hash__()


def test_a_new_name_costs_no_look_at_the_other_queues():
    topology, looks = Topology(), []
    for size in (10, 1000):
        for number in range(len(topology), size):
            topology.queue(CountedName(f'q{number}'))
        CountedName.looks = 0
        topology.rename_queue(CountedName('q5'), CountedName('other'))
        topology.rename_queue(CountedName('other'), CountedName('q5'))
        looks.append(CountedName.looks)
    assert 0 < looks[0] == looks[1]
    assert [entry['name'] for _, entry in topology.replay()] == [f'q{number}' for number in range(1000)]


def test_a_name_that_another_queue_had_is_that_of_one_queue():
    topology = _topology()
    topology.queue('r')
    topology.rename_queue('r', 'q')
    assert [entry['name'] for kind, entry in topology.replay() if kind == 'queue'] == ['q']
    topology.forget_queue('q')
    assert not topology.has_queue('q') and not topology.has_queue('r')


def test_a_replay_is_not_disturbed_by_what_it_causes():
    topology = _topology()
    for kind, entry in topology.replay():
        if kind == 'queue':
            topology.rename_queue('q', 'new')
        entry.clear()
    assert topology.has_queue('new')
    assert len(topology) == 6


def test_clear_forgets_everything():
    topology = _topology()
    topology.clear()
    assert len(topology) == 0
    topology.queue('q')
    topology.forget_queue('q')
    assert list(topology.replay()) == []
