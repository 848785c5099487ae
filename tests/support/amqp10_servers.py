"""Current brokers of AMQP 1.0 that no package of Debian 12 has; `.ci/amqp10` fetches them, and says where.

``GREENMQ_DEBIAN13``: a tree of Debian 13 with RabbitMQ 4, run in a chroot, which takes root.
``GREENMQ_ARTEMIS``: the folder of an unpacked Apache Artemis, which takes Java 17.
"""
from __future__ import annotations

import os
import shutil

import pytest

from tests.support.process import Server, exchange, free_ports, run
from tests.support.rabbitmq import AMQP_HEADER, BIN

AMQP10_HEADER = b'AMQP\x03\x01\x00\x00'

#: In a mount namespace of its own, so that nothing of it is left when the server is gone.
ENTER = '''
mkdir -p "$2$3" && mount --bind "$3" "$2$3" && mount --bind /proc "$2/proc" && mount --bind /dev "$2/dev" &&
tree=$2 && shift 3 && exec chroot "$tree" "$@"
'''


class RabbitMQ4(Server):
    """RabbitMQ 4 of a Debian 13 tree, which speaks AMQP 1.0 without a plugin."""

    ready_seconds = 90.0

    def __init__(self, tree):
        if not shutil.which('unshare') or os.geteuid():
            pytest.skip('a chroot takes root, and unshare')
        super().__init__('rabbitmq4')
        self.tree = tree
        self.port, self._dist_port, self._epmd_port = free_ports(3)
        cookie = self.directory / '.erlang.cookie'
        cookie.write_text('greenmq-test-suite')
        cookie.chmod(0o400)
        (self.directory / 'enabled_plugins').write_text('[].')
        (self.directory / 'rabbitmq.conf').write_text('loopback_users = none\n')

    def environment(self):
        here = str(self.directory)
        return {
            'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'HOME': here,
            'ERL_EPMD_PORT': str(self._epmd_port), 'ERL_EPMD_ADDRESS': '127.0.0.1',
            'RABBITMQ_NODENAME': f'greenmq{self.port}@localhost',
            'RABBITMQ_NODE_IP_ADDRESS': '127.0.0.1', 'RABBITMQ_NODE_PORT': str(self.port),
            'RABBITMQ_DIST_PORT': str(self._dist_port), 'RABBITMQ_MNESIA_BASE': f'{here}/mnesia',
            'RABBITMQ_LOG_BASE': f'{here}/log', 'RABBITMQ_LOGS': '-',
            'RABBITMQ_CONFIG_FILE': f'{here}/rabbitmq.conf', 'RABBITMQ_CONF_ENV_FILE': '/dev/null',
            'RABBITMQ_ENABLED_PLUGINS_FILE': f'{here}/enabled_plugins',
            'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS': '-kernel inet_dist_use_interface {127,0,0,1} +S 2:2',
            # The start script then becomes the VM. epmd is started by the node, and ends with its namespace.
            'RUNNING_UNDER_SYSTEMD': '1',
        }

    def command(self):
        return ['unshare', '--mount', '--pid', '--fork', '--kill-child', 'sh', '-c', ENTER, 'enter',
                'in', self.tree, str(self.directory), f'{BIN}/rabbitmq-server']

    def answers(self):
        return exchange(('127.0.0.1', self.port), AMQP_HEADER) == b'\x01'

    def url(self):
        return f'qpid://guest:guest@127.0.0.1:{self.port}/'


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
