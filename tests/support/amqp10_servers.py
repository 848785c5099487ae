"""A broker of AMQP 1.0 that no package of Debian has: `.ci/current` fetches it where Maven is.

``GREENMQ_ARTEMIS``: the folder of an unpacked Apache Artemis, which takes Java 17.
"""
from __future__ import annotations

from tests.support.process import Server, exchange, free_ports, run

AMQP10_HEADER = b'AMQP\x03\x01\x00\x00'

class Artemis(Server):
    """Apache Artemis, its journal in a folder of its own."""

    ready_seconds = 90.0

    def __init__(self, home):
        super().__init__('artemis')
        self.port, = free_ports(1)
        self._instance = self.directory / 'broker'
        run([f'{home}/bin/artemis', 'create', str(self._instance), '--user', 'admin', '--password', 'admin',
             '--allow-anonymous', '--no-web', '--no-hornetq-acceptor', '--no-mqtt-acceptor',
             '--no-stomp-acceptor', '--no-amqp-acceptor', '--default-port', str(self.port), '--no-autotune',
             '--silent'], seconds=90)
        self._edit('etc/broker.xml', 'tcp://0.0.0.0:', 'tcp://127.0.0.1:')
        self._edit('etc/artemis.profile', '-Xms512M -Xmx2G', '-Xms64M -Xmx256M')

    def _edit(self, name, before, after):
        path = self._instance / name
        path.write_text(path.read_text().replace(before, after))

    def command(self):
        return [str(self._instance / 'bin' / 'artemis'), 'run']

    def answers(self):
        return exchange(('127.0.0.1', self.port), AMQP10_HEADER) == b'A'

    def url(self):
        return f'qpid://admin:admin@127.0.0.1:{self.port}/'
