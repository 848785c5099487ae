"""kombu's exchange files: shared, locked, and never half written."""
from __future__ import annotations

import fcntl
import json

import pytest

from greenmq.exceptions import InvalidArgument
from greenmq.transport.filesystem.bindings import Bindings, Busy


@pytest.fixture
def bindings(tmp_path):
    (tmp_path / '.greenmq').mkdir()
    return Bindings(str(tmp_path), 0o700)


def entries(tmp_path, exchange):
    return json.loads((tmp_path / f'{exchange}.exchange').read_text())


def test_they_are_kombus_newest_first(bindings, tmp_path):
    bindings.bind('e', 'topic', 'a.*', '^a\\.[^.]*$', 'one', None)
    bindings.bind('e', 'topic', 'b', '^b$', 'two', None)
    bindings.bind('e', 'topic', 'b', '^b$', 'two', None)
    assert entries(tmp_path, 'e') == [['b', '^b$', 'two'], ['a.*', '^a\\.[^.]*$', 'one']]
    assert bindings.read('e') == [('topic', 'b', 'two', None), ('topic', 'a.*', 'one', None)]


def test_a_shorter_list_leaves_nothing_of_the_longer_one(bindings, tmp_path):
    for queue in ('one', 'two', 'three'):
        bindings.bind('e', 'direct', 'k', '', queue, None)
    bindings.unbind('e', 'k', 'two', None)
    assert [queue for _, _, queue in entries(tmp_path, 'e')] == ['three', 'one']


def test_arguments_that_kombu_does_not_keep(bindings):
    for arguments in ({'a': 1}, {'b': 2}):
        bindings.bind('h', 'headers', '', '', 'q', arguments)
    assert [found[3] for found in bindings.read('h')] == [{'a': 1}, {'b': 2}]
    bindings.unbind('h', '', 'q', {'a': 1})
    assert [found[3] for found in bindings.read('h')] == [{'b': 2}]
    bindings.unbind('h', '', 'q', {'b': 2})
    assert bindings.read('h') == []


def test_two_texts_in_a_file_are_read_as_the_first(bindings, tmp_path):
    (tmp_path / 'e.exchange').write_text('[["k", "", "one"]]"", "two"]]')
    assert bindings.read('e') == [('', 'k', 'one', None)]


def test_a_lock_of_kombu_is_respected(bindings, tmp_path):
    bindings.bind('e', 'direct', 'k', '', 'one', None)
    with open(tmp_path / 'e.exchange', 'rb+') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for call in (lambda: bindings.bind('e', 'direct', 'k', '', 'two', None), lambda: bindings.read('e')):
            with pytest.raises(Busy):
                call()
    assert bindings.read('e') == [('direct', 'k', 'one', None)]


@pytest.mark.parametrize('exchange', ['../e', 'a/b', '..', 'a b', 'ü'])
def test_an_exchange_that_is_no_file_name_is_refused(bindings, exchange):
    with pytest.raises(InvalidArgument):
        bindings.bind(exchange, 'direct', 'k', '', 'q', None)
    assert bindings.read(exchange) == []
