"""Bindings, routes and the types of exchange, without a broker."""

from __future__ import annotations

import pytest

from greenmq.transport.virtual import BrokerState, binding_key_t, queue_binding_t
from greenmq.transport.virtual.exchange import (
    STANDARD_EXCHANGE_TYPES,
    DirectExchange,
    ExchangeType,
    FanoutExchange,
    TopicExchange,
)
from greenmq.transport.virtual.state import MAX_ROUTES


def exchange(kind, arguments=None):
    return {'type': kind, 'durable': True, 'auto_delete': False, 'arguments': arguments or {}, 'table': []}


@pytest.fixture
def state():
    return BrokerState({'d': exchange('direct'), 't': exchange('topic'), 'f': exchange('fanout')})


def test_bindings_by_queue(state):
    state.binding_declare('q', 'd', 'k', {'a': 1})
    state.binding_declare('q', 'd', 'k', None)
    state.binding_declare('q', 't', 'x.#', None)
    assert state.has_binding('q', 'd', 'k') and not state.has_binding('q', 'd', 'other')
    assert state.bindings[binding_key_t('q', 'd', 'k')] == {'a': 1}
    assert queue_binding_t('t', 'x.#', None) in list(state.queue_bindings('q'))
    assert state.queue_index['q'] == {('q', 'd', 'k'), ('q', 't', 'x.#')}
    state.binding_delete('q', 'd', 'k')
    state.binding_delete('q', 'd', 'k')
    assert list(state.queue_bindings('q')) == [('t', 'x.#', None)]
    state.queue_bindings_delete('q')
    assert state.bindings == {} and list(state.queue_bindings('q')) == []


def test_routes_are_remembered_and_forgotten(state):
    state.binding_declare('q', 't', 'a.*', None)
    assert state.route('t', 'a.b') == ['q']
    assert state.route('t', 'a.b') is state.route('t', 'a.b')
    state.binding_declare('r', 't', '#', None)
    assert state.route('t', 'a.b') == ['q', 'r']
    state.queue_bindings_delete('q')
    assert state.route('t', 'a.b') == ['r']
    state.exchange_delete('t')
    assert state.route('t', 'a.b') == [] and not state.has_binding('r', 't', '#')


def test_keys_that_never_repeat_do_not_fill_the_memory(state):
    state.binding_declare('q', 't', '#', None)
    for n in range(MAX_ROUTES + 10):
        state.route('t', f'key.{n}')
    assert len(state._routes) <= MAX_ROUTES


def test_one_of_two_headers_bindings(state):
    state.exchanges['h'] = exchange('headers')
    for number in (1, 2):
        state.binding_declare('q', 'h', '', {'n': number})
    assert state.route('h', '', {'n': 2}) == ['q']
    state.binding_delete('q', 'h', '', {'n': 2})
    assert state.route('h', '', {'n': 2}) == [] and state.route('h', '', {'n': 1}) == ['q']
    assert state.has_binding('q', 'h', '')
    state.binding_delete('q', 'h', '')
    assert not state.has_binding('q', 'h', '') and not state.in_use('h')


def test_a_circle_of_exchanges(state):
    state.exchange_bind('t', 'd', 'k')
    state.exchange_bind('d', 't', '#')
    state.binding_declare('q', 'd', 'k', None)
    assert state.route('d', 'k') == ['q'] and state.route('t', 'k') == ['q']


def test_clear(state):
    state.binding_declare('q', 'd', 'k', None)
    state.route('d', 'k')
    state.clear()
    assert state.exchanges == {} and state.bindings == {} and state.route('d', 'k') == []


TABLE = [('a.*', 'unused', 'q'), ('a.#', None, 'r'), ('a.b', None, 'q')]


def test_lookups():
    # In the order of the table, and equal to a set, as kombu's are
    for kind, key, queues in ((DirectExchange, 'a.b', ['q']), (TopicExchange, 'a', ['r']),
                              (TopicExchange, 'a.b', ['q', 'r']), (FanoutExchange, 'x', ['q', 'r'])):
        found = kind(None).lookup(TABLE, 'e', key, None)
        assert list(found) == queues and found == set(queues)
    with pytest.raises(NotImplementedError):
        ExchangeType(None).lookup(TABLE, 'e', 'x', None)


def test_table_entries_are_kombus():
    assert TopicExchange(None).prepare_bind('q', 'e', 'a.*.#', {}) == ('a.*.#', r'^a\.[^\.]+\..*?$', 'q')
    assert DirectExchange(None).prepare_bind('q', 'e', 'k', {}) == ('k', None, 'q')


def test_equivalent():
    prev = exchange('topic', {'x': 1})
    same = TopicExchange(None).equivalent
    assert same(prev, 'e', 'topic', True, False, {'x': 1})
    assert not same(prev, 'e', 'direct', True, False, {'x': 1})
    assert not same(prev, 'e', 'topic', False, False, {'x': 1})
    assert not same(prev, 'e', 'topic', True, True, {'x': 1})
    assert not same(prev, 'e', 'topic', True, False, None)


def test_every_standard_type_is_named_as_it_is_registered():
    assert {name: cls.type for name, cls in STANDARD_EXCHANGE_TYPES.items()} == {
        name: name for name in ('direct', 'topic', 'fanout', 'headers')
    }
