"""A cluster loses the node that leads a quorum queue: nothing confirmed is lost, nobody waits long."""
from __future__ import annotations

import uuid

import pytest

from tests.faults.conftest import SOAK, SOON, Rig, queue
from tests.faults.ledger import Ledger, consume, load
from tests.support import green
from tests.support.process import wait_until

pytestmark = [
    pytest.mark.slow, pytest.mark.faults, pytest.mark.green_timeout(900 if SOAK else 180), pytest.mark.once,
]

#: Seconds for three nodes on two cores to elect, and for one to start.
START = 60
TIMEOUT = 10.0


@pytest.fixture
def cluster(rabbitmq_cluster):
    """The cluster with all its nodes, before the test and after it."""
    yield rabbitmq_cluster
    rabbitmq_cluster.start()


@pytest.fixture
def vhost(cluster):
    """What all nodes have from their start: RabbitMQ may time out over one made when they just met."""
    return '/'


@pytest.fixture
def at(cluster, vhost):
    """Open a connection to a node, which knows the others as its alternatives."""
    rig = Rig(cluster.nodes[0], vhost)

    def at(node):
        others = [other for other in cluster.nodes if other is not node]
        return rig.connection(url=';'.join(each.url(vhost) for each in (node, *others)))

    at.rig = rig
    yield at
    rig.close()


def test_the_leader_of_a_quorum_queue_is_killed_under_load(at, cluster, vhost):
    name = f'quorum-{uuid.uuid4().hex[:8]}'  # another try finds the queues of the one before
    bound = queue(name, durable=True, queue_arguments={'x-queue-type': 'quorum'})
    ledger, running = Ledger(), [1]
    declaring = at(cluster.nodes[0])
    bound(declaring.default_channel).declare()
    leader = cluster.leader(name, vhost)
    follower = next(node for node in cluster.nodes if node is not leader)
    # Given: publishers and consumers whose own node goes away, and others whose node only loses the leader.
    publishers = []
    for number, node in enumerate((leader, follower)):
        consume(at.rig, at(node), ledger, bound)
        connection = at(node)
        publishers += load(at.rig, connection, ledger, bound, 10, TIMEOUT, running, retry=True, name=number)
    for _ in range(5 if SOAK else 1):
        wait_more(ledger, 300)
        # When: the node that leads is gone from one moment to the next, and comes back later.
        leader = cluster.leader(name, vhost)
        leader.kill()
        wait_more(ledger, 300)
        wait_until(lambda old=leader: cluster.leader(name, vhost) is not old, START, 'another leader')
        wait_more(ledger, 300)
        cluster.start()
    running.clear()
    green.joinall(publishers, timeout=TIMEOUT + SOON, raise_error=True)
    # Then: what was confirmed arrives, what arrives was published, and each publish kept to its deadline.
    wait_until(lambda: not ledger.lost, START, f'{len(ledger.lost)} of {len(ledger.safe)} to arrive')
    assert not ledger.invented
    assert not ledger.late


def wait_more(ledger, count):
    safe, acked = len(ledger.safe), len(ledger.acked)
    wait_until(lambda: len(ledger.safe) > safe + count and len(ledger.acked) > acked + count, START,
               f'{count} more to be confirmed and consumed')
