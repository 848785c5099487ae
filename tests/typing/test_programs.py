"""What a type checker says about a program that is right, and about one that is full of mistakes."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import greenmq
from tests.compat.table import TABLE
from tests.house.source import ROOT

PROGRAMS = Path(__file__).parent / 'programs'
MISTAKES = PROGRAMS / 'typos.py'

#: Modules whose classes a program meets rarely, and then by the names that their manuals give.
BELOW = ('transport', 'utils', 'asynchronous')

pytestmark = [pytest.mark.slow, pytest.mark.own_process]


@pytest.fixture(scope='module')
def said(tmp_path_factory):
    """What mypy says about all programs: (file name, line) → its texts."""
    done = subprocess.run(
        [sys.executable, '-m', 'mypy', '--strict', '--cache-dir', tmp_path_factory.mktemp('mypy'),
         *sorted(PROGRAMS.glob('*.py'))], cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 1 and not done.stderr, done.stdout + done.stderr
    found = {}
    for file, line, text in re.findall(r'^(.*?):(\d+): error: (.*)$', done.stdout, re.M):
        found.setdefault((Path(file).name, int(line)), []).append(text)
    return found


def mistakes():
    lines = MISTAKES.read_text().splitlines()
    return {(MISTAKES.name, number) for number, line in enumerate(lines, 1) if '# typo' in line}


@pytest.mark.timeout(300)
def test_each_mistake_is_found_and_nothing_else(said):
    assert len(mistakes()) >= 10
    assert set(said) == mistakes(), said


@pytest.mark.timeout(300)
def test_pyright_says_the_same():
    """Installed by `make release-check`: it brings a program of Node.js along, by a network."""
    pytest.importorskip('pyright')
    done = subprocess.run(
        [sys.executable, '-m', 'pyright', '--outputjson', '--pythonpath', sys.executable,
         *sorted(PROGRAMS.glob('*.py'))], cwd=ROOT, text=True, capture_output=True, timeout=300)
    found = json.loads(done.stdout)['generalDiagnostics']
    lines = {(Path(each['file']).name, each['range']['start']['line'] + 1) for each in found}
    assert lines == mistakes(), found


@pytest.mark.timeout(300)
def test_mypy_tells_which_name_was_meant(said):
    texts = '\n'.join(text for texts in said.values() for text in texts)
    for meant in ('maybe "publish"', '"routing_key"', '"exchange"', '"type"', '"durable"', '"ack"'):
        assert meant in texts


def test_the_program_names_every_public_class():
    tree = ast.parse((PROGRAMS / 'shop.py').read_text())
    named = {node.attr if isinstance(node, ast.Attribute) else node.id for node in ast.walk(tree)
             if isinstance(node, (ast.Attribute, ast.Name))}
    public = {name for module, entry in TABLE['modules'].items() if module.split('.')[0] not in BELOW
              for name in entry.get('classes', ())}
    assert not {*public, *greenmq.__all__} - named


def test_the_program_runs():
    done = subprocess.run([sys.executable, '-W', 'error', PROGRAMS / 'shop.py'], cwd=ROOT, text=True,
                          capture_output=True, timeout=50, env={'PYTHONPATH': str(ROOT)})
    assert done.stderr == ''
    assert done.stdout == 'sold 2\n'
