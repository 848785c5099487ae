"""Patch inspection: what is patched, since when, and whether a driver may be called directly."""

from __future__ import annotations

import subprocess
import sys

import pytest


def ask(program):
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, timeout=25, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PATCH = 'from gevent import monkey; monkey.patch_all()\n'
REPORT = 'from greenmq.runtime import patched; print(patched())\n'
EVENTLET = 'import warnings; warnings.simplefilter("ignore"); import eventlet\n'
EVENTLET_PATCH = 'eventlet.monkey_patch()\n'
DRIVER = 'import imaplib\n'
COVERED = (
    'from greenmq.runtime import patched; p = patched()\n'
    'print(p.all, p.covers("imaplib"), p.covers("not_there"))\n'
)


def test_report():
    assert ask(REPORT) == 'nothing is patched'
    assert ask(PATCH + REPORT).startswith('gevent: socket, ssl, threading, select, ')
    assert ask(PATCH + REPORT).endswith('(before greenmq)')
    assert ask('import greenmq.runtime\n' + PATCH + REPORT).endswith('(after greenmq)')
    assert (
        ask('from gevent import monkey; monkey.patch_socket()\n' + REPORT)
        == 'gevent: socket (before greenmq)'
    )


@pytest.mark.parametrize(
    ('program', 'answer'),
    [
        (DRIVER, 'False False False'),
        (PATCH + DRIVER, 'True True True'),
        (DRIVER + PATCH, 'True False True'),
        ('from gevent import monkey\n' + DRIVER + 'monkey.patch_all()\n', 'True False True'),
        (PATCH, 'True True True'),
        ('from gevent import monkey; monkey.patch_all(thread=False)\n' + DRIVER, 'False False False'),
    ],
    ids=[
        'unpatched',
        'before the driver',
        'after the driver',
        'imported, patched later',
        'driver not there',
        'threads not',
    ],
)
def test_a_driver_is_covered_only_if_all_was_patched_before_it(program, answer):
    assert ask(program + COVERED) == answer


@pytest.mark.parametrize(
    ('program', 'answer'),
    [
        (EVENTLET + EVENTLET_PATCH + DRIVER, 'True True True'),
        (EVENTLET + DRIVER + EVENTLET_PATCH, 'True False True'),
        (EVENTLET + 'eventlet.monkey_patch(thread=False)\n' + DRIVER, 'False False False'),
    ],
    ids=['before the driver', 'imported, patched later', 'threads not'],
)
def test_a_driver_is_covered_by_eventlet(program, answer):
    pytest.importorskip('eventlet')
    assert ask(program + COVERED) == answer
    assert ask(program + REPORT).startswith('eventlet: ')
