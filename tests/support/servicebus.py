"""The program that plays Azure Service Bus, started for the suite: see `servicebus_process`."""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import sys

from tests.support.amqp10_proton import need_proton
from tests.support.process import Server, exchange, free_ports

ROOT = pathlib.Path(__file__).parents[2]
AMQP10_HEADER = b'AMQP\x03\x01\x00\x00'
#: A policy of the peer that may do everything, and its key, which holds what URLs mind.
POLICY, KEY = 'Root', 'cm9vdC9rZXk9PQ=='


class ServiceBus(Server):

    def __init__(self, name='servicebus'):
        need_proton()
        super().__init__(name)
        self.port, self.http_port = free_ports(2)

    def command(self):
        return [sys.executable, '-m', 'tests.support.servicebus_process', str(self.port), str(self.http_port)]

    def environment(self):
        return {**os.environ, 'PYTHONPATH': str(ROOT)}

    def answers(self):
        return (exchange(('127.0.0.1', self.http_port), b'GET / HTTP/1.0\r\n\r\n', 4) == b'HTTP'
                and exchange(('127.0.0.1', self.port), AMQP10_HEADER) == b'A')

    def url(self, query='', port=None, policy=POLICY, key=KEY, http_port=None):
        query = f'&{query}' if query else ''
        return (f'azureservicebus://{policy}:{key}@127.0.0.1:{port or self.port}?tls=0'
                f'&management_url=http://127.0.0.1:{http_port or self.http_port}{query}')

    def connection_string(self, port=None, policy=POLICY, key=KEY):
        return (f'Endpoint=sb://127.0.0.1:{port or self.port};SharedAccessKeyName={policy};'
                f'SharedAccessKey={key};UseDevelopmentEmulator=true;')

    def ask(self, do, **values):
        """Have the peer do something, see `servicebus_http`."""
        connection = http.client.HTTPConnection('127.0.0.1', self.http_port, timeout=15)
        try:
            connection.request('POST', '/-/', json.dumps({'do': do, 'with': values}))
            answer = connection.getresponse()
            found = json.loads(answer.read())
            assert answer.status == 200, found
            return found
        finally:
            connection.close()

    def counts(self, clear=False):
        return self.ask('counts', clear=clear)

    def queue(self, name):
        """Numbers of messages of a queue."""
        return self.ask('snapshot').get(name)
