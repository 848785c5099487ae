"""The reference has a place for each name, each public name has its text, and the guide what can be seen."""
from __future__ import annotations

import importlib
import inspect
import re

import pytest

from greenmq import events
from tests.compat.table import TABLE
from tests.house.source import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.own_process]

REFERENCE = ROOT / 'docs' / 'reference'
MODULES = sorted(set(re.findall(
    r'automodule:: (\S+)', ''.join(page.read_text() for page in REFERENCE.glob('*.rst')))))

METHODS = type(lambda: None), classmethod, staticmethod, property


def public(module):
    """(name, object) of what a module offers, members of its classes included."""
    names = getattr(module, '__all__', None) or [
        name for name, value in vars(module).items()
        if not name.startswith('_') and getattr(value, '__module__', None) == module.__name__]
    for name in names:
        thing = getattr(module, name)
        if inspect.ismodule(thing) or not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        if not thing.__module__.startswith('greenmq'):
            continue  # another library's, which has its own reference
        yield name, thing
        if not inspect.isclass(thing):
            continue
        for member, value in vars(thing).items():
            if not member.startswith('_') and isinstance(value, METHODS):
                yield f'{name}.{member}', getattr(thing, member)


@pytest.mark.parametrize('name', MODULES)
def test_each_public_name_has_its_text(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert [found for found, thing in public(module) if not (inspect.getdoc(thing) or '').strip()] == []


#: Modules of kombu whose page is that of the transport, or of what they give names to.
ELSEWHERE = {'': 'greenmq', 'messaging': 'greenmq.Producer', 'asynchronous': 'greenmq.asynchronous.hub',
             'transport.virtual.base': 'greenmq.transport.virtual', 'utils': 'greenmq.utils.functional',
             'transport.pyamqp': 'docs/amqp.rst', 'transport.redis': 'docs/redis.rst'}


def test_each_module_of_kombus_has_its_place_in_the_reference():
    said = ''.join(page.read_text() for page in REFERENCE.glob('*.rst'))
    known = set(re.findall(r'auto(?:module|class):: (\S+)', said))
    missing = [module for module in TABLE['modules'] if f'greenmq.{module}'.rstrip('.') not in known
               and ELSEWHERE.get(module) not in known and not (ROOT / ELSEWHERE.get(module, 'no')).exists()]
    assert missing == []


def test_each_page_of_the_docs_is_in_the_tree():
    everywhere = ''.join(page.read_text() for page in (ROOT / 'docs').rglob('index.rst'))
    for page in (ROOT / 'docs').rglob('*.rst'):
        if page.name != 'index.rst':
            assert re.search(rf'^   (?:\w+/)?{page.stem}$', everywhere, re.M), page


def test_each_metric_and_each_event_is_explained():
    guide = (ROOT / 'docs' / 'guide' / 'monitoring.rst').read_text()
    source = (ROOT / 'greenmq' / 'worker' / 'metrics.py').read_text()
    metrics = set(re.findall(r"'(greenmq_\w+)'", source))
    assert len(metrics) > 10
    assert metrics == {name.removesuffix('_total') for name in re.findall(r'^``(greenmq_\w+)``', guide, re.M)}
    table = (REFERENCE / 'events.rst').read_text()
    assert re.findall(r'^``(\w+)``', table, re.M) == list(events.NAMES)
