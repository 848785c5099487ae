"""The modules of a page or less: collections, text, limits, scheduling, imports, debug, and so on."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import sys
import tempfile
import uuid as stdlib_uuid
from types import ModuleType, SimpleNamespace

import pytest

import greenmq.utils
from greenmq.utils import (
    collections,
    debug,
    div,
    eventio,
    imports,
    limits,
    scheduling,
    text,
)
from greenmq.utils.amq_manager import get_manager
from greenmq.utils.time import maybe_s_to_ms


def test_the_package_gathers_its_names():
    for name in greenmq.utils.__all__:
        assert callable(getattr(greenmq.utils, name))


class TestUuid:
    def test_is_a_random_one(self):
        for _ in range(100):
            made = stdlib_uuid.UUID(greenmq.utils.uuid())
            assert made.version == 4
            assert made.variant == stdlib_uuid.RFC_4122

    def test_differs(self):
        made = {greenmq.utils.uuid() for _ in range(1000)}
        assert len(made) == 1000
        assert {len(one) for one in made} == {36}

    def test_of_another_function(self):
        assert greenmq.utils.uuid(lambda: stdlib_uuid.UUID(int=1)).endswith('-000000000001')


class TestCollections:
    class Key:
        __hash__ = None

        def __init__(self, name):
            self.name = name

        def __eqhash__(self):
            return collections.HashedSeq('Key', self.name)

    def test_keys_by_equality(self):
        found = collections.EqualityDict()
        found[self.Key('a')] = 1
        found['plain'] = 2
        assert found[self.Key('a')] == 1
        assert self.Key('a') in found
        assert self.Key('b') not in found
        assert found.get(self.Key('b'), 7) == 7
        assert found.setdefault(self.Key('a'), 9) == 1
        del found[self.Key('a')]
        assert found == {'plain': 2}
        with pytest.raises(KeyError):
            found[self.Key('a')]
        assert found.pop(self.Key('a'), None) is None

    def test_hashed_seq(self):
        assert hash(collections.HashedSeq(1, 2)) == hash(collections.HashedSeq(1, 2))
        assert collections.HashedSeq(1, 2) == [1, 2]
        with pytest.raises(TypeError):
            collections.HashedSeq([])


class TestText:
    @pytest.mark.parametrize(
        ('version', 'expected'),
        [
            ('1.2.3', (1, 2, 3, '', '')),
            ('1', (1, 0, 0, '', '')),
            ('4.0.0rc1', (4, 0, 0, 'rc1', '')),
            ('5.4.0-rc2', (5, 4, 0, '', 'rc2')),
            ('1.2.3.rc1', (1, 2, 3, 'rc1', '')),
            ('1.2.3.b2.f00', (1, 2, 3, 'b2', 'f00')),
        ],
    )
    def test_version(self, version, expected):
        assert text.version_string_as_tuple(version) == expected

    def test_not_a_version(self):
        with pytest.raises(ValueError, match="'next'"):
            text.version_string_as_tuple('next')

    def test_escape_regex(self):
        assert text.escape_regex('a.b*c#é') == 'a\\.b\\*c\\#é'
        assert text.escape_regex('a.*', white='*') == 'a\\.*'

    def test_nearest_names(self):
        assert text.fmatch_best('redi', ['amqp', 'redis']) == 'redis'
        assert text.fmatch_best('zzz', ['redis']) is None
        assert list(text.fmatch_iter('redi', ['redi', 'amqp'])) == [(1.0, 'redi')]


@pytest.mark.parametrize(('seconds', 'ms'), [(1.5, 1500), (None, None), (0, 0), ('2', 2000), (0.0015, 1)])
def test_maybe_s_to_ms(seconds, ms):
    assert maybe_s_to_ms(seconds) == ms


class TestTokenBucket:
    @pytest.fixture
    def now(self, monkeypatch):
        now = [50.0]
        monkeypatch.setattr(limits, 'monotonic', lambda: now[0])
        return now

    def test_a_burst_and_then_the_rate(self, now):
        bucket = limits.TokenBucket(2, capacity=3)
        assert [bucket.can_consume() for _ in range(4)] == [True, True, True, False]
        assert bucket.expected_time() == 0.5
        now[0] += 0.5
        assert bucket.expected_time() == 0.0
        assert bucket.can_consume()
        assert not bucket.can_consume()

    def test_never_holds_more_than_fits(self, now):
        bucket = limits.TokenBucket(100, capacity=2)
        now[0] += 1000
        assert not bucket.can_consume(3)
        assert bucket.can_consume(2)

    def test_a_rate_of_nothing(self, now):
        bucket = limits.TokenBucket(0)
        assert bucket.can_consume()
        assert bucket.expected_time() == float('inf')

    def test_keeps_what_must_wait(self):
        bucket = limits.TokenBucket(1)
        bucket.add('a')
        bucket.add('b')
        assert bucket.pop() == 'a'
        bucket.clear_pending()
        with pytest.raises(IndexError):
            bucket.pop()


class Empty(Exception):
    pass


class TestScheduling:
    def answer(self, resource, callback, **kwargs):
        if resource in self.empty:
            raise Empty
        return resource, callback, kwargs

    def test_fair_cycle_takes_turns(self):
        self.empty = set()
        cycle = scheduling.FairCycle(self.answer, ['a', 'b'], Empty)
        assert [cycle.get('cb', x=1) for _ in range(3)] == [(name, 'cb', {'x': 1}) for name in 'aba']

    def test_fair_cycle_skips_the_empty(self):
        self.empty = {'a', 'b'}
        cycle = scheduling.FairCycle(self.answer, ['a', 'b', 'c'], Empty)
        assert cycle.get('cb')[0] == cycle.get('cb')[0] == 'c'
        self.empty = set()
        assert cycle.get('cb')[0] == 'a'
        assert repr(cycle) == "<FairCycle: 1/3 ['a', 'b', 'c']>"

    def test_fair_cycle_with_nothing(self):
        self.empty = {'a', 'b'}
        with pytest.raises(Empty):
            scheduling.FairCycle(self.answer, ['a', 'b'], Empty).get('cb')
        with pytest.raises(Empty):
            scheduling.FairCycle(self.answer, [], Empty).get('cb')

    def test_fair_cycle_of_resources_that_become_fewer(self):
        self.empty = set()
        resources = ['a', 'b', 'c']
        cycle = scheduling.FairCycle(self.answer, resources, Empty)
        assert [cycle.get('cb')[0] for _ in range(3)] == ['a', 'b', 'c']
        del resources[1:]
        assert cycle.get('cb')[0] == 'a'

    def test_round_robin(self):
        cycle = scheduling.round_robin_cycle(['a', 'b', 'c'])
        assert cycle.consume(2) == ['a', 'b']
        assert cycle.rotate('a') == 'a'
        assert cycle.consume(9) == ['b', 'c', 'a']
        assert cycle.rotate('gone') == 'gone'
        cycle.update('xy')
        assert cycle.items == ['x', 'y']

    def test_priority_keeps_the_order(self):
        cycle = scheduling.priority_cycle(['b', 'a'])
        cycle.rotate('b')
        assert cycle.consume(2) == ['b', 'a']

    def test_sorted(self):
        cycle = scheduling.sorted_cycle(['b', 'c', 'a'])
        assert cycle.consume(2) == ['a', 'b']
        assert cycle.items == ['b', 'c', 'a']

    def test_by_name(self):
        for name in scheduling.CYCLE_ALIASES:
            assert scheduling.cycle_by_name(name).__name__ == f'{name}_cycle'
        assert scheduling.cycle_by_name(scheduling.FairCycle) is scheduling.FairCycle


class TestEmergencyDumpState:
    @pytest.fixture
    def dumped(self):
        paths = []
        yield paths
        for path in paths:
            os.unlink(path)

    def test_pickles(self, dumped):
        report = io.StringIO()
        dumped.append(div.emergency_dump_state({'a': 1}, stderr=report))
        assert dumped[0] in report.getvalue()
        with open(dumped[0], 'rb') as file:
            assert pickle.load(file) == {'a': 1}

    def test_prints_what_cannot_be_pickled(self, dumped):
        report = io.StringIO()
        dumped.append(div.emergency_dump_state({'a': 'x', 'fun': lambda: None}, stderr=report))
        with open(dumped[0]) as file:
            assert "{'a': 'x'" in file.read()
        assert 'Cannot pickle' in report.getvalue()

    def test_a_file_for_text_will_do_and_the_log_is_told(self, dumped, caplog):
        def text_file(path, mode):
            opened.append((path, mode))
            return open(dumped_to.name, 'w')

        opened = []
        with tempfile.NamedTemporaryFile() as dumped_to:
            dumped.append(div.emergency_dump_state({'a': 'x'}, open_file=text_file))
            assert dumped_to.read() == b"{'a': 'x'}"
        assert dumped[0] in caplog.text and 'Cannot pickle' in caplog.text
        assert opened == [(dumped[0], 'wb')]

    def test_a_dump_of_ones_own_writes_text(self, dumped):
        def dump(state, file, **options):
            json.dump(state, file)

        dumped.append(div.emergency_dump_state({'a': 1}, dump=dump))
        with open(dumped[0]) as file:
            assert json.load(file) == {'a': 1}

    def test_a_stream_that_cannot_be_cut_keeps_both(self, dumped):
        class Kept(io.BytesIO):
            def truncate(self, size=None):
                raise io.UnsupportedOperation('kept')

            def close(self):
                written.append(self.getvalue())
                super().close()

        def dump(state, target, **options):
            target.write(b'half of it ')
            raise ValueError('no more')

        written = []
        dumped.append(div.emergency_dump_state({'a': 1}, dump=dump, open_file=lambda path, mode: Kept()))
        assert written == [b"half of it {'a': 1}"]

    def test_a_stream_that_cannot_seek(self, dumped):
        class Pipe(io.BytesIO):
            def seek(self, *args):
                raise io.UnsupportedOperation('a pipe')

            def close(self):
                written.append(self.getvalue())
                super().close()

        written = []
        dumped.append(div.emergency_dump_state({'a': lambda: 1}, open_file=lambda path, mode: Pipe()))
        assert b"{'a': <function" in written[0]


class TestSymbolByName:
    @pytest.mark.parametrize(
        'name', ['greenmq.utils.limits:TokenBucket', 'greenmq.utils.limits.TokenBucket', 'short']
    )
    def test_forms(self, name):
        aliases = {'short': 'greenmq.utils.limits:TokenBucket'}
        assert imports.symbol_by_name(name, aliases) is limits.TokenBucket

    def test_modules_and_relative_names(self):
        assert imports.symbol_by_name('greenmq.utils.limits:') is limits
        assert imports.symbol_by_name('json').__name__ == 'json'
        assert imports.symbol_by_name('.limits:TokenBucket', package='greenmq.utils') is limits.TokenBucket
        assert imports.symbol_by_name('greenmq.utils.limits/TokenBucket', sep='/') is limits.TokenBucket

    def test_anything_else_comes_back(self):
        assert imports.symbol_by_name(3) == 3
        assert imports.symbol_by_name(None) is None

    def test_missing(self):
        with pytest.raises(ImportError, match='nope'):
            imports.symbol_by_name('nope.x')
        with pytest.raises(AttributeError):
            imports.symbol_by_name('greenmq.utils:nope')
        with pytest.raises(ValueError, match="couldn't import ''"):
            imports.symbol_by_name('')
        assert imports.symbol_by_name('nope.x', default=7) == 7
        assert imports.symbol_by_name('greenmq.utils:nope', default=8) == 8

    def test_own_importer(self):
        seen = imports.symbol_by_name('x', imp=lambda name, package=None, **kw: (name, package, kw), extra=1)
        assert seen == ('x', None, {'extra': 1})


class TestDebug:
    def test_calls_are_logged(self, caplog):
        caplog.set_level(logging.DEBUG, 'here')
        wrapped = debug.Logwrapped([1], 'here', '[list of {0}] ')
        wrapped.append(2)
        assert wrapped.instance == [1, 2]
        assert 'append(2)' in caplog.text
        assert repr(wrapped) == '[1, 2]'
        assert 'append' in dir(wrapped)

    def test_plain_attributes_pass(self):
        assert debug.Logwrapped(SimpleNamespace(a=1)).a == 1

    def test_enters_and_leaves(self):
        file = io.StringIO()
        with debug.Logwrapped(file) as entered:
            assert entered is file
        assert file.closed

    def test_setup_logging(self):
        logger = logging.getLogger('greenmq.test.debug')
        before, level = list(logger.handlers), logger.level
        try:
            debug.setup_logging(logging.INFO, loggers=[logger.name])
            assert logger.level == logging.INFO
            assert any(type(handler) is logging.StreamHandler for handler in logger.handlers)
        finally:
            logger.handlers[:], logger.level = before, level


def test_get_manager(monkeypatch):
    pyrabbit = ModuleType('pyrabbit')
    pyrabbit.Client = lambda *args: args
    monkeypatch.setitem(sys.modules, 'pyrabbit', pyrabbit)
    client = SimpleNamespace(
        hostname='h', userid='u', password='p', transport_options={'manager_userid': 'admin'}
    )
    assert get_manager(client) == ('h:15672', 'admin', 'p')
    assert get_manager(client, 'other', 1, 'x', 'y') == ('other:1', 'x', 'y')


def test_words_for_readiness():
    assert (eventio.READ, eventio.WRITE, eventio.ERR) == (1, 4, 24)
