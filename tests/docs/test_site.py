"""The site is built without a warning, its links lead somewhere, and each public name has its text."""
from __future__ import annotations

import html.parser
import importlib
import inspect
import re
import subprocess
import sys
import urllib.parse

import pytest

from greenmq import events
from tests.compat.table import TABLE
from tests.house.source import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.own_process]

REFERENCE = ROOT / 'docs' / 'reference'
MODULES = sorted(set(re.findall(
    r'automodule:: (\S+)', ''.join(page.read_text() for page in REFERENCE.glob('*.rst')))))


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The folder of the site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-E', '-j', '2', '-b', 'html',
         ROOT / 'docs', folder], text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


class Page(html.parser.HTMLParser):
    """What a page names, and where its links go."""

    def __init__(self, path):
        super().__init__()
        self.names, self.links = set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if 'id' in attributes:
            self.names.add(attributes['id'])
        if tag == 'a' and attributes.get('href'):
            self.links.add(attributes['href'])


@pytest.mark.green_timeout(300)
def test_every_link_inside_leads_somewhere(site):
    pages = {path: Page(path) for path in site.rglob('*.html')}
    assert len(pages) > 40
    broken = []
    for path, page in pages.items():
        for link in page.links:
            where = urllib.parse.urlsplit(link)
            if where.scheme or where.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(where.path)).resolve() if where.path else path
            found = pages.get(target)
            if not target.exists() or (where.fragment and found and where.fragment not in found.names
                                       and where.fragment not in ('', 'furo-main-content')):
                broken.append(f'{path.relative_to(site)}: {link}')
    assert broken == []


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


def test_a_plot_shows_the_figures_of_its_table(monkeypatch, site):
    monkeypatch.syspath_prepend(str(ROOT / 'docs'))
    bars = importlib.import_module('bars')
    head, first, *others = bars.rows_of((ROOT / 'benchmarks' / 'README.rst').read_text(), 'client')
    assert head[0] == 'client' and first[0].startswith('greenmq') and len(others) > 5
    page = (site / 'performance.html').read_text()
    assert page.count('<figure role="img"') == 3
    assert f'>{bars.NUMBER.match(first[head.index("publish")])[0]}</span>' in page


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
