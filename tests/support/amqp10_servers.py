"""Brokers of AMQP 1.0 that no package of Debian has. `.ci/parts` fetches them where Maven is."""
from __future__ import annotations

import json
import os
import pathlib
import shutil

import pytest

from tests.support.process import Server, exchange, free_ports, run, servers_required

CACHE = pathlib.Path(__file__).parents[2] / '.cache'
ARTEMIS = CACHE / 'apache-artemis-2.40.0'
BROKER_J = CACHE / 'qpid-broker-j-9.2.0'
AMQP10_HEADER = b'AMQP\x03\x01\x00\x00'
#: To compile for speed takes more of the processor than all that a run asks of such a broker.
SHORT_LIVED = '-XX:TieredStopAtLevel=1'


def need_fetched(path):
    """Skip the test if a broker was not fetched or there is no Java; in CI fail it, where Maven could."""
    programs = {name: shutil.which(name) for name in ('java', 'mvn')}
    if path.exists() and programs['java']:
        return
    required = servers_required() and all(programs.values())
    (pytest.fail if required else pytest.skip)(f'not fetched, or no Java: {path.name}')


class Artemis(Server):
    """Apache Artemis, its journal in a folder of its own."""

    ready_seconds = 90.0

    def __init__(self):
        need_fetched(ARTEMIS)
        super().__init__('artemis')
        self.port, = free_ports(1)
        self._instance = self.directory / 'broker'
        run([f'{ARTEMIS}/bin/artemis', 'create', str(self._instance), '--user', 'admin', '--password',
             'admin', '--allow-anonymous', '--no-web', '--no-hornetq-acceptor', '--no-mqtt-acceptor',
             '--no-stomp-acceptor', '--no-amqp-acceptor', '--default-port', str(self.port), '--no-autotune',
             '--silent'], seconds=90, env={**os.environ, 'JDK_JAVA_OPTIONS': SHORT_LIVED})
        self._edit('etc/broker.xml', 'tcp://0.0.0.0:', 'tcp://127.0.0.1:')
        self._edit('etc/artemis.profile', '-Xms512M -Xmx2G', f'-Xms64M -Xmx256M {SHORT_LIVED}')

    def _edit(self, name, before, after):
        path = self._instance / name
        path.write_text(path.read_text().replace(before, after))

    def command(self):
        return [str(self._instance / 'bin' / 'artemis'), 'run']

    def answers(self):
        return exchange(('127.0.0.1', self.port), AMQP10_HEADER) == b'A'

    def url(self):
        return f'qpid://admin:admin@127.0.0.1:{self.port}/'


class BrokerJ(Server):
    """Apache Qpid Broker-J, its queues in a database in a folder of its own."""

    ready_seconds = 90.0

    def __init__(self):
        need_fetched(BROKER_J)
        super().__init__('broker-j')
        self.port, = free_ports(1)
        store = {'type': 'DERBY', 'storePath': str(self.directory / 'store'), 'modelVersion': '9.1'}
        aliases = [{'name': name, 'type': name} for name in ('defaultAlias', 'hostnameAlias', 'nameAlias')]
        config = {
            'name': 'greenmq', 'modelVersion': '9.1',
            'authenticationproviders': [{
                'name': 'plain', 'type': 'Plain', 'secureOnlyMechanisms': [],
                'users': [{'name': 'guest', 'type': 'managed', 'password': 'guest'}],
            }],
            'ports': [{
                'name': 'AMQP', 'port': str(self.port), 'bindingAddress': '127.0.0.1',
                'authenticationProvider': 'plain', 'protocols': ['AMQP_1_0'], 'virtualhostaliases': aliases,
            }],
            'virtualhostnodes': [{
                'name': 'default', 'type': 'JSON', 'defaultVirtualHostNode': 'true',
                'virtualHostInitialConfiguration': json.dumps(store),
            }],
        }
        (self.directory / 'initial.json').write_text(json.dumps(config))

    def command(self):
        return ['java', '-Xms64M', '-Xmx256M', SHORT_LIVED, '-Djava.awt.headless=true',
                '-cp', f'{BROKER_J}/*', 'org.apache.qpid.server.Main',
                '-icp', str(self.directory / 'initial.json'), '-prop', f'qpid.work_dir={self.directory}/work']

    def start(self):
        self._ready = self._times_ready()
        super().start()

    def _times_ready(self):
        return self.log.read_text().count('BRK-1004') if self.log.exists() else 0

    def answers(self):
        # It opens its port before it has its queues, and then lets whoever comes wait.
        return self._times_ready() > self._ready and \
            exchange(('127.0.0.1', self.port), AMQP10_HEADER) == b'A'

    def url(self):
        return f'qpid://guest:guest@127.0.0.1:{self.port}/'
