"""What ``greenmq worker`` refuses before it starts anything."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys

import pytest

from tests.house.source import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.own_process]


def worker(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != 'GREENMQ_BROKER'}
    command = [sys.executable, '-m', 'greenmq.cli', 'worker', 'tests.worker.apps:Recorder', *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**environment, 'PYTHONPATH': str(ROOT)},
                          capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr


def test_a_broker_must_be_named():
    code, said = worker()
    assert code == 2 and '--broker' in said


@pytest.mark.parametrize('processes', ['1', '3'])
def test_a_port_in_use_is_told_before_a_process_is_started(processes):
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen()
        port = listener.getsockname()[1]
        first = port - int(processes) + 1
        health = ['--health', f'127.0.0.1:{first}']
        code, said = worker('--broker', 'memory://', *health, '--processes', processes)
    assert code == 1, said
    assert re.search(r'--health 127.0.0.1:\d+ cannot be served: Address already in use', said), said
    assert 'started as number' not in said


def test_there_must_be_a_port_for_each_process():
    code, said = worker('--broker', 'memory://', '--health', '127.0.0.1:65535', '--processes', '2')
    assert code == 2 and '65535 at most' in said


def test_no_password_is_shown_of_a_broker_that_cannot_be_read():
    code, said = worker('--broker', 'user:HEADTAIL@host')
    assert code == 2 and 'percent-encode' in said and 'HEADTAIL' not in said
