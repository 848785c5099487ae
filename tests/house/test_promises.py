"""docs/guarantees.rst keeps its word: every promise has a status, and what holds has tests that exist."""

import configparser
import re

import pytest

from tests.house.source import ROOT

STATUS = ('holds', 'holds on memory', 'in part', 'planned')
PROMISES = re.findall(r'^(P\d+)$\n((?:(?:    .*)?\n)+)', (ROOT / 'docs/guarantees.rst').read_text(), re.M)


def test_none_is_missing():
    assert [name for name, _ in PROMISES] == [f'P{number}' for number in range(1, 51)]


@pytest.mark.parametrize('name, text', PROMISES, ids=[name for name, _ in PROMISES])
def test_a_promise_says_what_holds_and_which_test_proves_it(name, text):
    today = ' '.join(text.partition('Today: ')[2].split())
    status = re.match(r'\*\*(.*?)\*\*', today)
    assert status, f'{name} says nothing about today'
    assert status[1] in STATUS
    tests = re.findall(r'``(tests/[^`]+)``', today)
    assert (status[1] == 'planned') == (not tests), 'what holds is proved, and what is planned is not'
    for test in tests:
        path, _, inside = test.partition('::')
        assert (ROOT / path).is_file(), f'{path} does not exist'
        for part in inside.split('::') if inside else ():
            assert re.search(rf'\b(def|class) {part}\b', (ROOT / path).read_text()), f'no {part} in {path}'


def test_promises_that_the_tree_refers_to_exist():
    known = {name for name, _ in PROMISES}
    for folder in ('greenmq', 'tests', 'benchmarks', 'docs'):
        for path in (ROOT / folder).rglob('*.py'):
            named = set(re.findall(r'\(P(\d+)[,)]', path.read_text()))
            assert {f'P{number}' for number in named} <= known, path


def test_the_readme_is_whole():
    readme = (ROOT / 'README.rst').read_text()
    headings = re.findall(r'^(.+)\n-+$', readme, re.M)
    assert headings == [
        'Start', 'A worker daemon in five minutes', 'Transports', "In kombu's place", 'Installing', 'More']
    tables = re.findall(r'^(=+(?:  =+)+)\n.+\n(=.*)\n(?:.+\n)+?(=.*)\n\n', readme, re.M)
    assert len(tables) == 1 and all(len(set(table)) == 1 for table in tables), tables
    for path in re.findall(r'``((?:tests|docs|examples)/[\w/.]*|\w+\.rst)``', readme):
        assert (ROOT / path).exists() or (ROOT / 'docs' / path).exists(), f'{path} does not exist'


def test_the_readme_names_every_extra():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / 'setup.cfg')
    readme = (ROOT / 'README.rst').read_text()
    extras = set(setup['options.extras_require']) - {'test'}
    assert not {extra for extra in extras if f'``{extra}``' not in readme}


def test_the_changelog_knows_this_version():
    import greenmq
    assert f'\n{greenmq.__version__} ' in (ROOT / 'CHANGELOG.rst').read_text()
    assert '.'.join(map(str, greenmq.VERSION[:3])) == greenmq.__version__
