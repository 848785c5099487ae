"""Matching names against patterns."""

from __future__ import annotations

import pytest

from greenmq import matcher
from greenmq.matcher import MatcherNotInstalled, MatcherRegistry, match, registry


@pytest.fixture(autouse=True)
def _registry_as_it_was(monkeypatch):
    registry._load_plugins()
    monkeypatch.setattr(registry, '_matchers', dict(registry._matchers))
    monkeypatch.setattr(MatcherRegistry, 'matcher_pattern_first', list(MatcherRegistry.matcher_pattern_first))


@pytest.mark.parametrize(
    ('data', 'pattern', 'name', 'fits'),
    [
        ('celery@host', 'celery@*', None, True),
        ('celery@host', '*@other', None, False),
        (b'celery@host', b'celery@*', 'glob', True),
        ('abcdef', 'a.c', 'pcre', True),
        ('xabc', 'abc', 'pcre', False),
    ],
)
def test_match(data, pattern, name, fits):
    assert bool(match(data, pattern, name)) is fits


def test_own_matcher_gets_its_arguments():
    registry.register('own', lambda data, pattern, **kwargs: (data, pattern, kwargs))
    assert match('d', 'p', 'own', {'x': 1}) == ('d', 'p', {'x': 1})
    registry.matcher_pattern_first.append('own')
    assert match('d', 'p', 'own') == ('p', 'd', {})
    registry.unregister('own')
    with pytest.raises(MatcherNotInstalled, match="'own' installed: known are glob, pcre"):
        match('d', 'p', 'own')
    with pytest.raises(matcher.MatcherRegistry.MatcherNotInstalled):
        matcher.unregister('own')


def test_another_default():
    fresh = MatcherRegistry()
    with pytest.raises(MatcherNotInstalled):
        fresh.match('d', 'p')
    with pytest.raises(MatcherNotInstalled):
        fresh._set_default_matcher('own')
    fresh.register('own', lambda data, pattern: 'mine')
    fresh._set_default_matcher('own')
    assert fresh.match('d', 'p') == 'mine'


def test_plugins_are_loaded_once_at_the_first_use(monkeypatch):
    asked = []

    class Point:
        name = 'plugged'

        @staticmethod
        def load():
            return (lambda data, pattern: 'plugged in',)

    def entry_points(group):
        asked.append(group)
        return [Point] if group == 'greenmq.matchers' else []

    monkeypatch.setattr('importlib.metadata.entry_points', entry_points)
    fresh = MatcherRegistry()
    fresh._plugins = ('kombu.matchers', 'greenmq.matchers')
    assert [fresh.match('d', 'p', 'plugged') for _ in range(2)] == ['plugged in'] * 2
    assert asked == ['kombu.matchers', 'greenmq.matchers']
