"""Emulators of SQS: fauxqs, which is quick, and moto, which also has STS and the rule of purges."""
from __future__ import annotations

import os
import pathlib

import pytest

from tests.support.process import Server, exchange, free_ports, need, servers_required

CACHE = pathlib.Path(__file__).parents[2] / '.cache'


def need_part(path):
    """A part that `.ci/parts` installs: skip the test without it; in CI, fail."""
    found = CACHE / path
    if not found.exists():
        (pytest.fail if servers_required() else pytest.skip)(f'not installed: {path}; run .ci/parts')
    return str(found)


class SQSServer(Server):
    """What both have in common."""

    ready_seconds = 20.0

    def __init__(self, name):
        # Half a second of CPU, and of a busy machine six: longer than a first connection may take.
        import botocore.session  # noqa: F401

        super().__init__(name)
        self.port, = free_ports(1)

    def answers(self):
        return exchange(('127.0.0.1', self.port), b'GET / HTTP/1.0\r\nHost: localhost\r\n\r\n', 4) == b'HTTP'

    def url(self, port=None, query=''):
        return f'sqs://key:secret@127.0.0.1:{port or self.port}/' + query

    def client(self, service='sqs', port=None):
        """A client of botocore for the test: it blocks."""
        import botocore.session

        session = botocore.session.Session()
        session.set_credentials('key', 'secret')
        return session.create_client(service, region_name='us-east-1',
                                     endpoint_url=f'http://127.0.0.1:{port or self.port}')


class Fauxqs(SQSServer):
    def __init__(self):
        self.node, = need('node')
        self.program = need_part('npm/node_modules/fauxqs/dist/cli.js')
        super().__init__('fauxqs')

    def command(self):
        return [self.node, self.program]

    def environment(self):
        return {**os.environ, 'FAUXQS_PORT': str(self.port), 'FAUXQS_HOST': '127.0.0.1',
                'FAUXQS_LOGGER': 'false'}


class Moto(SQSServer):
    def __init__(self):
        self.program = need_part('moto/bin/python')
        super().__init__('moto')

    def command(self):
        return [self.program, '-m', 'moto.server', '-H', '127.0.0.1', '-p', str(self.port)]

    def environment(self):
        return {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}
