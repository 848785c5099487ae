"""The program that plays SoftLayer Message Queue, started for the suite: see `slmq_process`."""

from __future__ import annotations

import pathlib
import sys

from tests.support.process import Server, exchange, free_ports
from tests.support.slmq_process import KEY, USER

ROOT = pathlib.Path(__file__).parents[2]


class SLMQ(Server):

    def __init__(self):
        super().__init__('slmq')
        self.port, = free_ports(1)

    def command(self):
        return [sys.executable, str(ROOT / 'tests/support/slmq_process.py'), str(self.port)]

    def answers(self):
        return exchange(('127.0.0.1', self.port), b'GET / HTTP/1.0\r\n\r\n', 4) == b'HTTP'

    def url(self, query='', port=None, key=KEY):
        return f'slmq://{USER}:{key}@127.0.0.1:{port or self.port}/account?secure=0&{query}'
