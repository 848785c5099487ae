"""The programs that a newcomer tries first run as they stand."""

import re
import subprocess
import sys
import textwrap

import pytest

from tests.house.source import ROOT

# Each example and the last line that it prints.
EXAMPLES = {
    'hello.py': "got {'hello': 'world'}",
    'fanout.py': "listener-2 heard 'one for all'",
    'worker.py': '100 jobs, total 4950',
    'daemon.py': 'orders 0 to 9 in order, 50 mails',
    'rpc.py': 'answers: 0 1 4 9 16',
    'delayed_retry.py': 'attempts [1, 2, 3], then put aside',
    'periodic.py': 'heard [0, 1, 2]',
}


def last_line(*command, cwd):
    done = subprocess.run([sys.executable, '-W', 'error', *command], cwd=cwd, text=True, timeout=25,
                          capture_output=True, env={'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_program_in_the_readme(tmp_path):
    blocks = re.findall(r'^\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)',
                        (ROOT / 'README.rst').read_text(), re.M)
    program = tmp_path / 'program.py'
    program.write_text(textwrap.dedent(blocks[0]))
    assert last_line(program, cwd=tmp_path) == "got {'hello': 'world'}"


@pytest.mark.slow
@pytest.mark.parametrize('name', EXAMPLES)
def test_an_example(name, tmp_path):
    assert last_line(ROOT / 'examples' / name, cwd=tmp_path) == EXAMPLES[name]


def test_no_example_is_forgotten():
    assert {path.name for path in (ROOT / 'examples').glob('*.py')} == set(EXAMPLES)
