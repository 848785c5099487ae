"""What tests of SQL brokers share: small ways to look, and kombu in a process beside."""
from __future__ import annotations

import contextlib
import json
import subprocess
import sys

from greenmq import Queue
from tests.support.process import end, popen, wait_until


def driver(connection):
    connection.connect()
    return connection.transport.session.driver


def statements(connection):
    return driver(connection).stats()['statements']


def listens(connection):
    wait_until(lambda: driver(connection).stats()['notified'], 10, 'notifications')


def declare(connection, name='q'):
    bound = Queue(name, routing_key=name)(connection.default_channel)
    bound.declare()
    return bound


def drained(connection, seconds=0.3):
    with contextlib.suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=seconds)


class Kombu:
    """A process that runs kombu; see tests.support.kombu_peer."""

    def __init__(self, url, **options):
        self.process = popen(
            [sys.executable, '-m', 'tests.support.kombu_peer', url, json.dumps(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )

    def __getattr__(self, name):
        def call(*arguments):
            self.process.stdin.write(json.dumps([name, *arguments]) + '\n')
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            assert answer, f'kombu ended in {name}'
            return json.loads(answer)

        return call

    def close(self):
        end(self.process)
        self.process.stdin.close()
        self.process.stdout.close()
