"""A private ZooKeeper of one server, on a free port."""
from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.process import Server, exchange, free_ports, need, servers_required

JARS = ('/usr/share/java/zookeeper.jar', '/usr/share/java/netty-codec.jar')


class ZooKeeper(Server):
    """One server. Its data survives `restart()`. With certificates it speaks TLS on a second port.

    Sessions may be as short as a second.
    """

    def __init__(self, certificates=None):
        self.java, = need('java')
        if not os.path.exists(JARS[0]):
            (pytest.fail if servers_required() else pytest.skip)('not installed: zookeeper')
        super().__init__('zookeeper')
        self.certificates = certificates
        self.port, self.tls_port = free_ports(2)
        lines = ['tickTime=500', f'dataDir={self.directory}/data', f'clientPort={self.port}',
                 'clientPortAddress=127.0.0.1', 'admin.enableServer=false', '4lw.commands.whitelist=*',
                 'maxClientCnxns=0', 'minSessionTimeout=1000', 'maxSessionTimeout=60000', 'forceSync=no']
        if certificates is not None:
            lines += self._secure()
        (self.directory / 'zoo.cfg').write_text('\n'.join(lines) + '\n')

    def _secure(self):
        certs, store, trust = self.certificates, self.directory / 'server.p12', self.directory / 'trust.p12'
        for command in (
            ['openssl', 'pkcs12', '-export', '-in', str(certs.server), '-inkey', str(certs.server_key),
             '-out', str(store), '-passout', 'pass:secret'],
            ['keytool', '-importcert', '-noprompt', '-alias', 'ca', '-file', str(certs.ca),
             '-keystore', str(trust), '-storetype', 'PKCS12', '-storepass', 'secret'],
        ):
            need(command[0])
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return [f'secureClientPort={self.tls_port}', 'secureClientPortAddress=127.0.0.1',
                'serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory',
                f'ssl.keyStore.location={store}', 'ssl.keyStore.password=secret', 'ssl.keyStore.type=PKCS12',
                f'ssl.trustStore.location={trust}', 'ssl.trustStore.password=secret',
                'ssl.trustStore.type=PKCS12', 'ssl.clientAuth=none']

    def command(self):
        return [self.java, '-Xmx128m', '-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC', '-cp', ':'.join(JARS),
                'org.apache.zookeeper.server.quorum.QuorumPeerMain', str(self.directory / 'zoo.cfg')]

    def answers(self):
        return exchange(('127.0.0.1', self.port), b'ruok', 4) == b'imok'

    def received(self):
        """How many packets it got so far, this question's included."""
        text = exchange(('127.0.0.1', self.port), b'srvr', 65536)
        return int(text.partition(b'Received: ')[2].split()[0])

    def client(self):
        """A client of kazoo's own for the test."""
        from kazoo.client import KazooClient

        from tests.support import green

        return green.zookeeper_client(KazooClient, f'127.0.0.1:{self.port}')

    def url(self, virtual_host='', query=''):
        return f'zookeeper://127.0.0.1:{self.port}/{virtual_host}{query}'
