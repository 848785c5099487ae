"""The daemon of ``greenmq pyro-broker``, as a process of its own."""
from __future__ import annotations

import sys

from tests.support.process import Server, exchange, free_ports


class PyroBroker(Server):
    """One daemon. `durable` keeps its queues in its directory, so that `restart()` loses nothing."""

    def __init__(self, durable=True):
        super().__init__('pyro')
        self.durable = durable
        self.port, = free_ports(1)

    def command(self):
        store = ['--store', str(self.directory / 'store')] if self.durable else []
        return [sys.executable, '-m', 'greenmq.cli', 'pyro-broker', '--port', str(self.port), *store]

    def answers(self):
        from Pyro5 import protocol, serializers

        serializer = serializers.serializers['json']
        hello = serializer.dumps({'handshake': 'hello', 'object': 'greenmq.broker'})
        message = protocol.SendingMessage(protocol.MSG_CONNECT, 0, 0, serializer.serializer_id, hello)
        return exchange(('127.0.0.1', self.port), bytes(message.data), 4, 5) == b'PYRO'

    def url(self, path='', query=''):
        return f'pyro://127.0.0.1:{self.port}/{path}{query}'
