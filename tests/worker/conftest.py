"""`worker`: start ``greenmq worker`` as a process; `Running` then says what it does."""
from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from greenmq import Connection, runtime
from tests.house.source import ROOT
from tests.support import green
from tests.support.process import end, popen, wait_until

_numbers = itertools.count(1)


class Running:
    """A worker process, its record and its log."""

    def __init__(self, directory, *arguments, target='Recorder', **environment):
        if '--broker' not in arguments:
            arguments = (*arguments, '--broker', 'memory://')
        self.record = directory / f'record-{next(_numbers)}'
        self.record.touch()
        self.log = self.record.with_suffix('.log')
        # As this suite runs, so does the worker: patched or not.
        start = ['-m', 'gevent.monkey', '--module', 'greenmq.cli'] if runtime.patched().by == 'gevent' else [
            '-m', 'greenmq.cli']
        with open(self.log, 'wb') as log:
            self.process = popen(
                [sys.executable, *start, 'worker', f'tests.worker.apps:{target}', *arguments], cwd=ROOT,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, 'RECORD': str(self.record), 'PYTHONPATH': str(ROOT), **environment})

    def lines(self, word=None):
        lines = [line.split() for line in self.record.read_text().splitlines()]
        return [rest for first, *rest in lines if word in (None, first)]

    def wait(self, word, count=1, seconds=30):
        wait_until(lambda: len(self.lines(word)) >= count or self._fail_if_ended(), seconds,
                   f'{count} × {word!r} in the record')
        return self.lines(word)

    def _fail_if_ended(self):
        assert self.process.poll() is None, f'ended with {self.process.returncode}:\n{self.text()}'

    def text(self):
        return self.log.read_text()

    def wait_text(self, text, seconds=30):
        wait_until(lambda: text in self.text() or self._fail_if_ended(), seconds, f'{text!r} in the log')

    def send(self, signum, pid=None):
        os.kill(pid or self.process.pid, signum)

    def code(self, seconds=30):
        wait_until(lambda: self.process.poll() is not None, seconds, 'the worker to end')
        return self.process.returncode

    def stop(self):
        self.send(signal.SIGTERM)
        return self.code()


@pytest.fixture
def worker(tmp_path):
    """Start a worker; it is killed at the end, and its children with it."""
    started = []

    def start(*arguments, **options):
        running = Running(tmp_path, *arguments, **options)
        started.append(running)
        return running

    yield start
    for running in started:
        children = {int(line[0]) for word in ('ready', 'start') for line in running.lines(word)}
        end(running.process)
        for pid in children - {running.process.pid}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # as it should be


@pytest.fixture(params=['amqp', 'redis'])
def broker_url(request):
    """Of a broker that several processes can share. What a dead one had in hand comes back soon."""
    url = request.getfixturevalue(f'{request.param}_url')
    return url if request.param == 'amqp' else f'{url}?lease_timeout=2&sweep_interval=0.5'


@pytest.fixture
def broker(broker_url):
    with Connection(broker_url) as connection:
        yield connection


@pytest.fixture
def get():
    """Status and body of a URL, while other greenlets run."""
    def ask(url, method='GET'):
        return runtime.offload(_fetch, url, method)
    return ask


def _fetch(url, method):
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


@pytest.fixture
def settle():
    def settle():
        for _ in range(30):
            green.sleep(0)
    return settle
