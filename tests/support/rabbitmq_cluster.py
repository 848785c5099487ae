"""Three RabbitMQ nodes that are one broker, for what is replicated: quorum queues and their leaders."""
from __future__ import annotations

import json

from tests.support import green
from tests.support.process import Started
from tests.support.rabbitmq import RabbitMQ

CONF = '''\
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.discovery_retry_limit = 10
cluster_formation.discovery_retry_interval = 500
cluster_partition_handling = pause_minority
'''
#: Three nodes that start at once share the cores: one alone needs 3–7 s.
READY_SECONDS = 120.0


class Node(RabbitMQ):
    """One of the nodes; they find each other through the epmd of the first."""

    ready_seconds = READY_SECONDS

    def __init__(self, first=None):
        super().__init__()
        self._first = first
        if first is not None:
            self._epmd_port = first._epmd_port

    def join(self, nodes):
        """Write down who belongs together. Before the first start."""
        names = ''.join(f'cluster_formation.classic_config.nodes.{number} = {node.nodename}\n'
                        for number, node in enumerate(nodes, 1))
        with open(self.directory / 'rabbitmq.conf', 'a') as conf:
            conf.write(CONF + names)

    def start_epmd(self):
        super().start_epmd() if self._first is None else self._first.start_epmd()


class RabbitCluster(Started):
    """`nodes`, all ready after `start()`: 16 s on two cores. Virtual hosts and users are common to all."""

    def __init__(self, size=3):
        first = Node()
        self.nodes = [first, *(Node(first) for _ in range(size - 1))]
        for node in self.nodes:
            node.join(self.nodes)

    def start(self):
        """Start those that do not run, all at once: they wait for each other."""
        self.nodes[0].start_epmd()
        green.joinall([green.spawn(node.start) for node in self.nodes if not node.running], raise_error=True)

    def stop(self):
        for node in reversed(self.nodes):  # the first one's epmd last
            node.stop()

    def leader(self, queue, vhost):
        """The node that leads a quorum queue now."""
        asked = next(node for node in self.nodes if node.running)
        rows = json.loads(asked.ctl('list_queues', '-p', vhost, 'name', 'leader', '--formatter', 'json'))
        (name,) = [row['leader'] for row in rows if row['name'] == queue]
        return next(node for node in self.nodes if node.nodename == str(name))
