"""The page and its plots: well-formed, with every figure, and with nothing from elsewhere."""
from __future__ import annotations

import re
import xml.etree.ElementTree

import pytest

from benchmarks import page, plots
from benchmarks.report import Bars, Lines, Report, Table

BARS = Bars('rate', 'a second', {'greenmq': (50_000, 40_000, 60_000), 'a <peer>': (10_000, 9_000, 11_000)})
LINES = Lines('scaling', 'greenlets', 'µs', {'greenmq': [(1, 10), (10, 11), (1000, 12.5)], 'b': [(1, 4)]})
TABLE = Table('targets', ('what', 'verdict'), [('good', 'met'), ('bad', 'NOT MET')])


def numbers(svg, tag, name):
    return [float(each.get(name)) for each in xml.etree.ElementTree.fromstring(svg).iter(tag)]


def test_bars_are_as_long_as_their_figures():
    own, other = numbers(plots.bars(BARS), 'rect', 'width')
    assert own == pytest.approx(5 * other, rel=0.01)


def test_a_logarithmic_axis_gives_each_decade_the_same_room():
    first, second, third = numbers(plots.lines(LINES), 'circle', 'cx')[:3]
    assert third - second == pytest.approx(2 * (second - first), abs=0.3)


@pytest.mark.parametrize('points', [[(1, 1)], [(0, 0), (0, 0)], [(1, 5), (2, 5)], [(1, 0), (10, 1e9)]])
@pytest.mark.parametrize('log', [False, True])
def test_any_points_can_be_drawn(points, log):
    svg = plots.lines(Lines('t', 'x', 'y', {'line': points}, log, log))
    assert 'nan' not in svg and 'inf' not in svg
    xml.etree.ElementTree.fromstring(svg)


def test_the_page_has_all_and_needs_nothing(tmp_path):
    page.write(str(tmp_path / 'p.html'), Report([TABLE, BARS, LINES]), 'a machine & load')
    text = (tmp_path / 'p.html').read_text()
    assert 'a machine &amp; load' in text and 'a &lt;peer&gt;' in text and text.count('<svg') == 2
    assert '<td class="bad">NOT MET</td>' in text
    assert not re.search(r'(src|href|url\()\s*=?', text)


@pytest.mark.parametrize(('value', 'text'), [(0.123, '0.123'), (17.31, '17.3'), (950.4, '950'),
                                             (12_500, '12.5k'), (1e6, '1M')])
def test_numbers_are_short(value, text):
    assert plots.number(value) == text
