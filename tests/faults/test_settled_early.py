"""The suite notices a driver that settles a message before its callback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.house.source import ROOT

pytestmark = [pytest.mark.own_process, pytest.mark.slow, pytest.mark.green_timeout(180)]


@pytest.mark.parametrize('tests', ['sqs', 'azure'])
def test_a_mutant_that_settles_early_fails(tests):
    command = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider',
               f'tests/{tests}/test_ends.py', '-k', 'ended_consumers_held']
    whole = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=80, check=False)
    if whole.returncode == 5 or 'skipped' in whole.stdout:
        pytest.skip('its server is not installed')
    assert whole.returncode == 0, whole.stdout
    command += ['-p', 'tests.support.mutant']
    mutant = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=80, check=False)
    assert mutant.returncode == 1 and 'AssertionError: not within' in mutant.stdout, mutant.stdout
