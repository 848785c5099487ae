"""Every kind of exchange against the plainest thing that could be right, and AMQP's corner cases by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenmq.core.routing import TABLES, freeze, match_topic, table
from greenmq.exceptions import InvalidArgument

pytestmark = pytest.mark.once


def naive_match(pattern, words):
    """The definition, as it is said: `*` one word, `#` none or more."""
    if not pattern:
        return not words
    if pattern[0] == '#':
        return any(naive_match(pattern[1:], words[n:]) for n in range(len(words) + 1))
    return bool(words) and pattern[0] in ('*', words[0]) and naive_match(pattern[1:], words[1:])


def _split(text):
    return text.split('.') if text else []


_KEYS = st.lists(st.sampled_from(['a', 'b', 'ab', '', 'ü', '*', '#']), max_size=5).map('.'.join)
_WORDS = st.sampled_from(['a', 'b', '', '*', '*', '#', '#', 'a*', '##'])
_PATTERNS = st.lists(_WORDS, max_size=6).map('.'.join)


@settings(deadline=None, max_examples=300)
@given(_PATTERNS, _KEYS)
def test_match_topic_is_its_definition(pattern, key):
    assert match_topic(pattern, key) is naive_match(_split(pattern), _split(key))


@pytest.mark.parametrize(
    ('pattern', 'key', 'matches'),
    [
        ('#', '', True),
        ('#', 'a', True),
        ('a.#', 'a', True),
        ('#.a', 'a', True),
        ('a.#.b', 'a.b', True),
        ('a.#.b', 'a.x.y.b', True),
        ('a.#', 'ab', False),
        ('*', '', False),
        ('', '', True),
        ('', 'a', False),
        ('a.*.b', 'a..b', True),
        ('a.b', 'a..b', False),
        ('*.*', '.', True),
        ('a.*', 'a', False),
        ('a*', 'ab', False),
        ('a.b', 'axb', False),
        ('A', 'a', False),
        ('#.#.#', '', True),
        ('*.#', '', False),
    ],
)
def test_topic_corner_cases(pattern, key, matches):
    assert match_topic(pattern, key) is matches
    topic = table('topic')
    topic.add('q', pattern)
    assert topic.route(key) == (['q'] if matches else [])


_HEADER_VALUES = st.sampled_from([0, 1, 1.0, True, False, 'v', None, [1], b'v'])
_HEADERS = st.dictionaries(st.sampled_from(['h', 'i', 'x-j']), _HEADER_VALUES, max_size=3)
_ARGUMENTS = st.tuples(
    _HEADERS, st.sampled_from([None, 'all', 'any', 'all-with-x', 'any-with-x'])
).map(lambda pair: pair[0] if pair[1] is None else {**pair[0], 'x-match': pair[1]})


def naive_headers(arguments, headers):
    kind = arguments.get('x-match', 'all')
    hits = []
    for name, value in arguments.items():
        if name == 'x-match' or (name.startswith('x-') and 'with-x' not in kind):
            continue
        if name not in headers:
            hits.append(False)
        elif value is None:
            hits.append(True)
        else:
            hits.append(type(value) is type(headers[name]) and value == headers[name])
    return any(hits) if kind.startswith('any') else all(hits)


NAIVE = {
    'direct': lambda pattern, arguments, key, headers: pattern == key,
    'fanout': lambda pattern, arguments, key, headers: True,
    'topic': lambda pattern, arguments, key, headers: naive_match(_split(pattern), _split(key)),
    'headers': lambda pattern, arguments, key, headers: naive_headers(arguments, headers),
}
_TARGETS = st.sampled_from(['q1', 'q2', 'q3'])
_BINDINGS = st.tuples(_TARGETS, _PATTERNS, st.one_of(st.just({}), _ARGUMENTS))
_CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just('add'), _BINDINGS),
        st.tuples(st.just('add'), _BINDINGS),
        st.tuples(st.just('remove'), st.integers(0, 20)),
        st.tuples(st.just('remove_target'), _TARGETS),
    ),
    max_size=20,
)


@pytest.mark.parametrize('kind', NAIVE)
@settings(deadline=None, max_examples=60)
@given(changes=_CHANGES, keys=st.lists(_KEYS, min_size=1, max_size=4), headers=_HEADERS)
def test_a_table_routes_as_a_list_of_bindings_would(kind, changes, keys, headers):
    routes, bound = table(kind), []
    for change, what in changes:
        if change == 'add':
            target, pattern, arguments = what
            name = (target, pattern, freeze(arguments))
            new = name not in [entry[:3] for entry in bound]
            assert routes.add(target, pattern, arguments) is new
            if new:
                bound.append((*name, arguments))
        elif change == 'remove_target':
            assert routes.remove_target(what) == len([entry for entry in bound if entry[0] == what])
            bound = [entry for entry in bound if entry[0] != what]
        elif bound:
            target, pattern, _, arguments = bound.pop(what % len(bound))
            assert routes.remove(target, pattern, arguments)
            assert not routes.remove(target, pattern, arguments)
        assert len(routes) == len(bound)
        for key in [*keys, *(entry[1] for entry in bound)]:
            found = routes.route(key, headers)
            assert found == routes.route(key, headers)
            assert sorted(found) == sorted({e[0] for e in bound if NAIVE[kind](e[1], e[3], key, headers)})
    listed = [(target, key, freeze(arguments)) for target, key, arguments in routes.bindings()]
    assert sorted(listed, key=repr) == sorted((entry[:3] for entry in bound), key=repr)


@pytest.mark.parametrize('kind', NAIVE)
def test_an_emptied_table_holds_nothing(kind):
    routes = table(kind)
    for number in range(50):
        routes.add(f'q{number}', f'reply.*.{number}', {'n': number})
        routes.add(f'q{number}', '#')
    for number in range(0, 50, 2):
        routes.remove_target(f'q{number}')
        routes.remove(f'q{number + 1}', f'reply.*.{number + 1}', {'n': number + 1})
        routes.remove(f'q{number + 1}', '#')
    empty = table(kind)
    slots = {slot for cls in type(routes).__mro__ for slot in getattr(cls, '__slots__', ())}
    for slot in slots - {'_root'}:
        assert getattr(routes, slot) == getattr(empty, slot)
    if kind == 'topic':
        assert not routes._root.children
    assert repr(routes) == f'<{type(routes).__name__}: 0 bindings, 0 targets>'


@pytest.mark.parametrize('kind', NAIVE)
def test_bindings_are_listed_as_copies_of_what_was_given(kind):
    arguments = {'h': 1}
    routes = table(kind)
    routes.add('q', 'k', arguments)
    arguments['h'] = 2
    routes.bindings()[0][2]['h'] = 3
    assert routes.bindings() == [('q', 'k', {'h': 1})]


@pytest.mark.parametrize('kind', ['direct', 'fanout', 'topic'])
def test_a_target_stays_while_one_of_its_equal_looking_bindings_does(kind):
    routes = table(kind)
    for arguments in (None, {'h': 1}, {'h': True}):
        assert routes.add('q', 'k', arguments)
    assert len(routes) == 3
    for arguments in ({'h': 1}, None):
        routes.remove('q', 'k', arguments)
        assert routes.route('k') == ['q']
    routes.remove('q', 'k', {'h': True})
    assert routes.route('k') == []


class _CountedDict(dict):
    looks = 0

    def get(self, *args):
        _CountedDict.looks += 1
        return dict.get(self, *args)


def test_the_work_of_a_topic_does_not_grow_with_its_bindings():
    def looks(bindings):
        topic = table('topic')
        for number in range(bindings):
            topic.add(f'q{number}', f'sensor.{number}.*')
        todo = [topic._root]
        for node in todo:
            todo += node.children.values()
            node.children = _CountedDict(node.children)
        _CountedDict.looks = 0
        assert topic.route('sensor.7.temperature') == ['q7']
        return _CountedDict.looks

    assert looks(10_000) == looks(10)


def test_a_topic_of_many_hashes_is_not_exponential():
    topic = table('topic')
    topic.add('q', '.'.join(['#', 'a'] * 20 + ['b']))
    key = '.'.join(['a'] * 200)
    assert topic.route(key) == []
    assert match_topic('.'.join(['#', 'a'] * 20 + ['b']), key) is False
    assert topic.route(key + '.b') == ['q']


@pytest.mark.parametrize(
    ('arguments', 'headers', 'matches'),
    [
        ({}, {}, True),
        ({'x-match': 'any'}, {'h': 1}, False),
        ({'h': 1}, {'h': 1, 'i': 2}, True),
        ({'h': 1, 'i': 2}, {'h': 1}, False),
        ({'x-match': 'any', 'h': 1, 'i': 2}, {'h': 1}, True),
        ({'x-j': 1}, {}, True),
        ({'x-match': 'all-with-x', 'x-j': 1}, {}, False),
        ({'x-match': 'any', 'x-j': 1}, {'x-j': 1}, False),
        ({'x-match': 'any-with-x', 'x-j': 1}, {'x-j': 1}, True),
        ({'h': None}, {'h': 'anything'}, True),
        ({'h': None}, {}, False),
        ({'h': 1}, {'h': True}, False),
        ({'h': 1}, {'h': '1'}, False),
    ],
)
def test_headers_corner_cases(arguments, headers, matches):
    routes = table('headers')
    routes.add('q', '', arguments)
    assert routes.route('', headers) == (['q'] if matches else [])


def test_no_headers_are_as_empty_headers():
    routes = table('headers')
    routes.add('q', '', {'h': 1})
    routes.add('all')
    assert routes.route('') == ['all']


@pytest.mark.parametrize('kind', ['some', 1, None])
def test_an_unknown_x_match_is_refused_and_nothing_bound(kind):
    routes = table('headers')
    with pytest.raises(InvalidArgument, match='x-match must be all, any, all-with-x or any-with-x'):
        routes.add('q', '', {'x-match': kind})
    assert len(routes) == 0
    assert routes.bindings() == []


def test_an_unknown_type_is_refused_by_name():
    with pytest.raises(InvalidArgument, match="must be one of direct, fanout, headers, topic: 'x-delayed'"):
        table('x-delayed')
    assert set(TABLES) == set(NAIVE)


def test_arguments_are_told_apart_as_a_broker_would():
    assert freeze(None) == freeze({}) is None
    assert freeze({'a': 1, 'b': [1, {'c': 2}]}) == freeze({'b': [1, {'c': 2}], 'a': 1})
    values = [1, True, 1.0, '1', [1], {}, None, bytearray(b'1')]
    assert len({freeze({'a': value}) for value in values}) == len(values)
