"""Redis on several processes: a primary with a replica and three sentinels, and a cluster."""

from __future__ import annotations

import contextlib
import random

from tests.support import programs
from tests.support.process import Server, Started, exchange, free_ports, wait_until
from tests.support.redis_server import Redis


class Replica(Redis):
    """A Redis that follows another one."""

    def __init__(self, primary):
        super().__init__(durable=False)
        self.primary = primary

    def command(self):
        return [*super().command(), '--replicaof', '127.0.0.1', str(self.primary.port)]


class Sentinel(Server):
    """One sentinel of the primary `mymaster`."""

    def __init__(self, primary):
        self.program = programs.redis_server()
        super().__init__('sentinel')
        (self.port,) = free_ports(1)
        # It rewrites its file, so that is its own.
        (self.directory / 'sentinel.conf').write_text(
            f'port {self.port}\nbind 127.0.0.1\n'
            f'sentinel monitor mymaster 127.0.0.1 {primary.port} 2\n'
            'sentinel down-after-milliseconds mymaster 500\n'
            'sentinel failover-timeout mymaster 2000\n'
            'sentinel parallel-syncs mymaster 1\n'
        )

    def command(self):
        return [
            *self.program,
            str(self.directory / 'sentinel.conf'),
            '--dir',
            str(self.directory),
            '--sentinel',
        ]

    def answers(self):
        return exchange(('127.0.0.1', self.port), b'PING\r\n', 5) == b'+PONG'

    def client(self):
        import redis

        return redis.Redis(port=self.port, retry=None, socket_timeout=5, decode_responses=True)


class Sentinels(Started):
    """A primary, a replica, three sentinels; `start()` returns when they know each other."""

    master = 'mymaster'

    def __init__(self):
        self.servers = []

    def start(self):
        primary = Redis(durable=False)
        self.servers = [primary, Replica(primary), *(Sentinel(primary) for _ in range(3))]
        for server in self.servers:
            server.start()
        wait_until(self._know_each_other, 15, 'the sentinels to know each other')

    def _know_each_other(self):
        for sentinel in self.servers[2:]:
            with sentinel.client() as client:
                facts = client.sentinel_master(self.master)
                if facts['num-slaves'] < 1 or facts['num-other-sentinels'] < 2:
                    return False
        with self.servers[1].client() as client:
            return client.info('replication').get('master_link_status') == 'up'

    def url(self, query=''):
        return ';'.join(f'sentinel://127.0.0.1:{sentinel.port}/0?{query}' for sentinel in self.servers[2:])

    def primary(self):
        """The server that the sentinels name."""
        with self.servers[2].client() as client:
            reply = client.execute_command('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', self.master)
        port = int(reply[1])
        return next(server for server in self.servers[:2] if server.port == port)

    def failover(self):
        """Have them change the primary; returns when they have."""
        before = self.primary()
        with self.servers[2].client() as client:
            with contextlib.suppress(Exception):  # not yet, e.g. so soon after the last one
                client.execute_command('SENTINEL', 'FAILOVER', self.master)
        wait_until(lambda: self.primary() is not before, 15, 'another primary')
        return before

    def stop(self):
        for server in reversed(self.servers):
            server.stop()


class ClusterNode(Redis):
    """One node. Its bus gets a port of our own range: the usual one, 10,000 above, the kernel may give
    away.
    """

    ready_seconds = 15.0

    def __init__(self):
        super().__init__(durable=False)
        (self.bus_port,) = free_ports(1)

    def command(self):
        return [
            *super().command(), '--cluster-enabled', 'yes', '--cluster-port', str(self.bus_port),
            '--cluster-node-timeout', '1000', '--cluster-require-full-coverage', 'no',
            '--cluster-replica-validity-factor', '0',
        ]  # fmt: skip


class Cluster(Started):
    """Three primaries, each with a third of the slots; with `replicas` as many replicas."""

    def __init__(self, replicas=0):
        self.replicas = replicas
        self.nodes = []

    def start(self):
        self.nodes = [ClusterNode() for _ in range(3 * (1 + self.replicas))]
        for node in self.nodes:
            node.start()
        primaries = self.nodes[:3]
        bounds = [0, 5461, 10923, 16384]
        for number, node in enumerate(primaries):
            with node.client() as client:
                client.execute_command('CLUSTER', 'ADDSLOTSRANGE', bounds[number], bounds[number + 1] - 1)
                client.execute_command('CLUSTER', 'SET-CONFIG-EPOCH', number + 1)
        with self.nodes[0].client() as client:
            for node in self.nodes[1:]:
                client.execute_command('CLUSTER', 'MEET', '127.0.0.1', node.port, node.bus_port)
        wait_until(self._agreed, 20, 'the nodes to agree')
        for number, node in enumerate(self.nodes[3:]):
            with primaries[number % 3].client() as client:
                primary = client.execute_command('CLUSTER', 'MYID')
            with node.client() as client:
                wait_until(
                    lambda client=client, primary=primary: self._follow(client, primary), 10, 'a replica'
                )
        wait_until(self._agreed, 20, 'the nodes to agree')

    @staticmethod
    def _follow(client, primary):
        try:
            return client.execute_command('CLUSTER', 'REPLICATE', primary)
        except Exception:  # it does not know that node yet
            return False

    def _agreed(self):
        for node in self.nodes:
            with node.client() as client:
                text = client.execute_command('CLUSTER', 'INFO')
                facts = (
                    text
                    if isinstance(text, dict)
                    else dict(line.split(':') for line in text.split() if ':' in line)
                )
                if facts['cluster_state'] != 'ok' or int(facts['cluster_known_nodes']) != len(self.nodes):
                    return False
        return True

    def url(self):
        return f'redis+cluster://127.0.0.1:{self.nodes[0].port}'

    def flush(self):
        for node in self.nodes[:3]:
            with node.client() as client:
                client.flushall()

    def move_slot(self, slot, source, target):
        """Reshard one slot, key by key, as redis-cli does."""
        with source.client() as one, target.client() as two:
            one_id, two_id = (client.execute_command('CLUSTER', 'MYID') for client in (one, two))
            two.execute_command('CLUSTER', 'SETSLOT', slot, 'IMPORTING', one_id)
            one.execute_command('CLUSTER', 'SETSLOT', slot, 'MIGRATING', two_id)
            while keys := one.execute_command('CLUSTER', 'GETKEYSINSLOT', slot, 10):
                one.execute_command('MIGRATE', '127.0.0.1', target.port, '', 0, 5000, 'KEYS', *keys)
            for client in (two, one):
                client.execute_command('CLUSTER', 'SETSLOT', slot, 'NODE', two_id)

    def owner(self, slot):
        """The primary that has a slot."""
        with random.choice(self.nodes).client() as client:
            ranges = client.execute_command('CLUSTER', 'SLOTS')
        for each in (
            ranges
            if isinstance(ranges, list)
            else [[*bounds, [None, facts['primary'][1]]] for bounds, facts in ranges.items()]
        ):
            if each[0] <= slot <= each[1]:
                return next(node for node in self.nodes if node.port == each[2][1])
        raise AssertionError(f'nobody has slot {slot}')

    def stop(self):
        for node in self.nodes:
            node.stop()
