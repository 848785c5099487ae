"""The site, as `make docs` has built it: its links lead somewhere, and its plots show what the tables say."""

from __future__ import annotations

import html.parser
import importlib
import subprocess
import sys
import urllib.parse

import pytest

from tests.house.source import ROOT

SITE = ROOT / 'docs' / '_build' / 'html'


@pytest.fixture(scope='module')
def site():
    """The folder of the site; only what has changed since it was built is built again."""
    done = subprocess.run(
        [sys.executable, '-m', 'sphinx', '-q', '-j', '2', '-b', 'html', ROOT / 'docs', SITE],
        text=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return SITE


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


def test_a_plot_shows_the_figures_of_its_table(monkeypatch, site):
    monkeypatch.syspath_prepend(str(ROOT / 'docs'))
    bars = importlib.import_module('bars')
    head, first, *others = bars.rows_of((ROOT / 'benchmarks' / 'README.rst').read_text(), 'client')
    assert head[0] == 'client' and first[0].startswith('greenmq') and len(others) > 5
    page = (site / 'performance.html').read_text()
    assert page.count('<figure role="img"') == 3
    assert f'>{bars.NUMBER.match(first[head.index("publish")])[0]}</span>' in page
