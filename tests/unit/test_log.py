"""Loggers, levels and safe formats."""

from __future__ import annotations

import io
import logging
import sys
from contextlib import contextmanager

import pytest

from greenmq import log
from greenmq.log import (
    Log,
    LogMixin,
    get_logger,
    get_loglevel,
    naive_format_parts,
    safeify_format,
    setup_logging,
)
from greenmq.utils.functional import lazy


class Hostile:
    def __repr__(self):
        raise KeyError('no repr')


class Talker(LogMixin):
    logger_name = 'greenmq.test.talker'


@pytest.fixture
def talker(caplog):
    caplog.set_level(logging.DEBUG, Talker.logger_name)
    return Talker()


def test_get_logger_is_silent_until_a_handler_is_added():
    logger = get_logger('greenmq.test.silent')
    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]
    assert get_logger(logger) is logger
    assert len(logger.handlers) == 1


def test_get_loglevel():
    assert get_loglevel('INFO') == logging.INFO
    assert get_loglevel(17) == 17
    assert log.LOG_LEVELS[logging.ERROR] == 'ERROR'
    with pytest.raises(KeyError):
        get_loglevel('loud')


def test_naive_format_parts():
    assert list(naive_format_parts('a %s b %(x)r %.2f %% %-5d')) == ['s', 'r', 'f', None, 'd']


@pytest.mark.parametrize(
    ('fmt', 'args', 'expected'),
    [
        ('%r %s', (b'\xff', b'\xff'), ["b'\\xff'", '\ufffd']),
        ('%d %.2f %s', (1, 2.5, 3), [1, 2.5, '3']),
        ('100%% %s', ('x',), ['x']),
        ('nothing', ('left', 'over'), ['left', 'over']),
    ],
)
def test_safeify_format(fmt, args, expected):
    assert list(safeify_format(fmt, args)) == expected


def test_safeify_format_with_other_filters():
    assert list(safeify_format('%s %d', (1, 2), {'d': lambda n: n * 10})) == [1, 20]


class TestLogMixin:
    @pytest.mark.parametrize(
        ('method', 'level'),
        [
            ('debug', 'DEBUG'),
            ('info', 'INFO'),
            ('warn', 'WARNING'),
            ('error', 'ERROR'),
            ('critical', 'CRITICAL'),
        ],
    )
    def test_levels(self, talker, caplog, method, level):
        getattr(talker, method)('said %s', 'x')
        (record,) = caplog.records
        assert (record.levelname, record.getMessage()) == (level, 'greenmq.test.talker - said x')
        assert not record.exc_info

    def test_errors_bring_the_traceback(self, talker, caplog):
        try:
            raise KeyError('why')
        except KeyError:
            talker.error('failed')
        assert caplog.records[0].exc_info[0] is KeyError

    def test_tracebacks_can_be_left_out(self, talker, caplog, monkeypatch):
        monkeypatch.setattr(log, 'DISABLE_TRACEBACKS', '1')
        try:
            raise KeyError
        except KeyError:
            talker.critical('failed')
        assert not caplog.records[0].exc_info

    def test_texts_that_are_not_formats(self, talker, caplog):
        talker.info('100%')
        talker.info('%(a)s', {'a': 1})
        assert [record.getMessage() for record in caplog.records] == [
            'greenmq.test.talker - 100%',
            'greenmq.test.talker - 1',
        ]

    def test_hostile_arguments(self, talker, caplog):
        talker.info('%r %s', Hostile(), b'\xff')
        assert 'Unrepresentable' in caplog.text

    def test_lazy_arguments_only_if_wanted(self, talker, caplog):
        computed = []
        value = lazy(lambda: computed.append(1) or 'done')
        caplog.set_level(logging.INFO, Talker.logger_name)
        talker.debug('%s', value)
        assert computed == []
        talker.info('%s', value)
        assert computed == [1]
        assert 'done' in caplog.text

    def test_is_enabled_for(self, talker, caplog):
        caplog.set_level(logging.WARNING, Talker.logger_name)
        assert talker.is_enabled_for('ERROR')
        assert not talker.is_enabled_for(logging.INFO)
        assert talker.get_loglevel('DEBUG') == 10

    def test_named_after_the_class(self):
        class Nameless(LogMixin):
            pass

        assert Nameless().logger.name == Nameless().logger_name == 'Nameless'


def test_log_object(caplog):
    caplog.set_level(logging.INFO, 'greenmq.test.other')
    assert Log('greenmq.test.named').logger.name == 'greenmq.test.named'
    named = Log('name', logging.getLogger('greenmq.test.other'))
    named.info('hello')
    assert caplog.records[0].name == 'greenmq.test.other'
    assert caplog.records[0].getMessage() == 'name - hello'


@contextmanager
def bare_root():
    """The root logger without what the test runner put there."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()
    try:
        yield root
    finally:
        for handler in root.handlers:
            handler.flush()
        root.handlers[:], root.level = handlers, level


class TestSetupLogging:
    def test_to_a_file_object(self):
        out = io.StringIO()
        with bare_root() as root:
            assert setup_logging('INFO', out) is root
            root.info('hello')
        assert out.getvalue() == 'hello\n'

    def test_to_a_path(self, tmp_path):
        with bare_root() as root:
            setup_logging(logging.INFO, str(tmp_path / 'log'))
            root.info('hello')
            root.handlers[0].close()
        assert (tmp_path / 'log').read_text() == 'hello\n'

    def test_not_twice(self):
        with bare_root() as root:
            setup_logging()
            assert root.level == logging.ERROR
            assert root.handlers[0].stream is sys.__stderr__
            setup_logging('DEBUG', io.StringIO())
            assert len(root.handlers) == 1
            assert root.level == logging.ERROR
