"""The sentinels name another primary: by a failover with all connections up, and after kill -9 (P33)."""

from __future__ import annotations

import pytest

from greenmq import Connection
from greenmq.exceptions import ConnectionLost, InvalidArgument, OperationalError, PublishUnconfirmed
from tests.contract.conftest import Bench, text
from tests.support import green
from tests.support.redis_topology import Sentinels

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.once]


@pytest.fixture(scope='module')
def sentinels():
    topology = Sentinels()
    try:
        topology.start()
        yield topology
    finally:
        topology.stop()


@pytest.fixture
def open_connection(sentinels, opened):
    options = {'master_name': sentinels.master, 'health_check_interval': 0.5}
    return lambda **more: opened(sentinels.url(), **{**options, **more})


def test_publishing_and_consuming_resume_after_a_failover(sentinels, open_connection):
    connection, publishing = open_connection(), open_connection()
    seen, safe = [], []
    here, there = Bench(connection.channel()), Bench(publishing.channel())
    here.consume('q', lambda message: (seen.append(text(message)), message.ack()))

    def drain():
        while True:
            try:
                connection.drain_events(timeout=60)
            except ConnectionLost:
                continue

    def publish():
        for n in range(10_000):
            try:
                message = there.channel.prepare_message(str(n).encode())
                there.channel.basic_publish(message, '', 'q', timeout=5)
                safe.append(str(n))
            except (ConnectionLost, PublishUnconfirmed, OperationalError):
                continue
            green.sleep(0.01)

    tasks = [green.spawn(drain), green.spawn(publish)]
    try:
        with green.Timeout(5):
            while len(seen) < 20:
                green.sleep(0.01)
        before = sentinels.failover()
        assert before.running
        count, mark = len(safe), len(seen)
        with green.Timeout(5, AssertionError('nothing moves after the failover')):
            while len(safe) < count + 20 or len(seen) < mark + 20:
                green.sleep(0.01)
    finally:
        green.killall(tasks)
    # Replication is asynchronous: what the old primary took in its last moment may be lost with it.
    with green.Timeout(3, False):
        while set(safe) - set(seen):
            here.drain(0.1)
    assert len(set(safe) - set(seen)) <= 5
    assert connection.transport.driver.server.link.node.endswith(str(sentinels.primary().port))


def test_the_sentinels_must_know_the_name(sentinels):
    with pytest.raises(InvalidArgument, match='master_name'):
        Connection(sentinels.url()).connect()
    connection = Connection(sentinels.url(), transport_options={'master_name': 'nobody'})
    with pytest.raises(ConnectionLost, match='nobody'):
        connection.connect()
    connection.close()


def test_a_dead_sentinel_is_passed_over(sentinels, open_connection):
    sentinels.servers[2].pause()
    try:
        here = Bench(open_connection().channel())
        here.put('q2', 'x')
        assert here.get_all('q2') == ['x']
    finally:
        sentinels.servers[2].resume()
