"""What runs the suite's lanes side by side: `.ci/lanes`."""
from __future__ import annotations

import os
import shlex
import subprocess
import sys

from tests.house.source import ROOT

HANGS = '''
import faulthandler, subprocess, time
faulthandler.enable()

def hangs_here():
    time.sleep(100)

print("as far as this", flush=True)
hangs_here()
'''


def lanes(*commands, minutes='1', **options):
    environment = {**os.environ, 'LANE_MINUTES': minutes}
    return subprocess.run(
        [sys.executable, ROOT / '.ci/lanes', *commands], env=environment, text=True, timeout=25,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
    )  # fmt: skip


def test_all_lanes_are_run_and_their_output_is_kept_apart():
    done = lanes(*(f'echo {word}; sleep 0.2; echo {word}' for word in 'abcdefgh'))
    assert done.returncode == 0
    for word in 'bcdefgh':
        assert f'\n{word}\n{word}\n' in done.stdout


def test_one_lane_that_fails_fails_the_run_and_is_named():
    done = lanes('true', 'echo said; exit 3', 'true')
    assert done.returncode == 1
    assert 'said' in done.stdout and 'FAILED: lane 2: echo said' in done.stdout


def test_a_lane_that_hangs_shows_where_and_fails_the_run():
    done = lanes('true', f'{sys.executable} -c {shlex.quote(HANGS)}; echo never', minutes='0.02')
    assert done.returncode == 1
    assert 'as far as this' in done.stdout and 'in hangs_here' in done.stdout
    assert '\nnever' not in done.stdout and 'over its limit of 1.2 s' in done.stdout


def test_a_run_that_is_ended_shows_how_far_each_lane_came():
    done = lanes('sleep 0.5; kill -TERM $PPID; sleep 20', 'echo as far as this; sleep 20')
    assert done.returncode == 130
    assert 'as far as this' in done.stdout
