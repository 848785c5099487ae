"""Azurite: Microsoft's emulator of Azure Storage, its queues alone."""

from __future__ import annotations

import os
import tempfile

from tests.support.process import Server, exchange, free_ports, need
from tests.support.sqs_servers import need_part

#: The account of each run and its key: nobody else's, so that tests need no published one.
ACCOUNT, KEY = 'greenmqtests', 'Z3JlZW5tcS90ZXN0cysrL2tleS9vZi9ub2JvZHkvaW4vcGFydGljdWxhcg=='


class Azurite(Server):
    """On a free port, with a directory of its own. In memory it sometimes never answers for a message."""

    ready_seconds = 30.0

    def __init__(self, *more, name='azurite'):
        self.node, = need('node')
        self.program = need_part('npm/node_modules/azurite/dist/src/queue/main.js')
        super().__init__(name)
        self.port, = free_ports(1)
        self.more = more

    def answers(self):
        return exchange(('127.0.0.1', self.port), b'GET / HTTP/1.0\r\nHost: localhost\r\n\r\n', 4) == b'HTTP'

    def command(self):
        return [self.node, self.program, '--queueHost', '127.0.0.1', '--queuePort', str(self.port),
                '--location', str(self.directory), '--silent', '--disableTelemetry', *self.more]

    def environment(self):
        return {**os.environ, 'AZURITE_ACCOUNTS': f'{ACCOUNT}:{KEY};devstoreaccount1:{KEY}',
                'TMPDIR': tempfile.gettempdir()}

    def endpoint(self, port=None, account=ACCOUNT):
        return f'http://127.0.0.1:{port or self.port}/{account}'

    def url(self, port=None, query='', credential=KEY, account=ACCOUNT):
        return f'azurestoragequeues://{credential}@{self.endpoint(port, account)}' + query
