"""AMQP 1.0 over cuts, black holes, ends with a condition and killed brokers: nothing lost, nobody deaf.

A link or a connection is ended with a condition by a broker of ours, and a connection by RabbitMQ's; the rest
happens to brokers of others, behind a proxy. Few of them in every run, 300 in a soak.
"""
from __future__ import annotations

import contextlib
import sys
import time

import pytest

from greenmq import Connection, Exchange, Queue
from greenmq.cli.commands import run as main
from greenmq.exceptions import ConnectionLost, PublishUnconfirmed
from tests.faults.stores import consuming, drain_over_losses, drain_until, forks, survives
from tests.stress import FACTOR
from tests.support import green
from tests.support.amqp10_peer import Broker
from tests.support.amqp10_proton import need_proton
from tests.support.process import run
from tests.support.proxy import Proxy
from tests.support.stores import declare

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.green_timeout(1200 if FACTOR > 1 else 120)]

#: Seconds of silence after which the other side is dead (Broker-J takes no less), and how long a hole lasts.
IDLE, HOLE = 2.0, 2.6
OPTIONS = {'idle_timeout': IDLE}

SERVERS = [
    pytest.param('rabbitmq', 'qpid_url', marks=pytest.mark.rabbitmq),
    pytest.param('artemis', 'artemis_url', marks=pytest.mark.amqp10),
    pytest.param('broker_j', 'broker_j_url', marks=pytest.mark.amqp10),
]


def rounds(of_a_soak):
    return of_a_soak if FACTOR > 1 else max(of_a_soak // 25, 2)


def check(what, url, break_it, times, name='q', **options):
    ledger = survives(url, break_it, times, {**OPTIONS, **options}, timeout=20, name=name)
    longest, middle = max(ledger.resumed), sorted(ledger.resumed)[times // 2]
    print(f'\n{what}: {times} times; until 10 more: {middle:.2f} s, at most {longest:.2f} s')
    assert len(ledger.resumed) == times and not ledger.lost


def hole(proxy):
    proxy.blackhole()
    green.sleep(HOLE)
    proxy.heal()


ELSEWHERE = """
import sys
from greenmq import Connection, Exchange
with Connection(sys.argv[1]) as connection:
    for kind in ('fanout', 'direct'):
        exchange = Exchange(f'shared-{kind}', kind)
        connection.Producer(exchange=exchange, routing_key='it\\'s').publish(kind, declare=[exchange])
        connection.Producer(exchange=exchange, routing_key='other').publish('not ' + kind)
"""


@pytest.mark.parametrize('server, fixture', SERVERS)
def test_what_another_process_publishes_goes_by_the_bindings_that_we_made(request, server, fixture):
    url = request.getfixturevalue(fixture)
    with Connection(url) as connection:
        bound = [Queue(f'shared-{kind}-q', Exchange(f'shared-{kind}', kind), routing_key="it's")(connection)
                 for kind in ('fanout', 'direct')]
        for each in bound:
            each.declare()
        run([sys.executable, '-c', ELSEWHERE, url])
        got = [[message.payload for message in iter(lambda each=each: each.get(no_ack=True), None)]
               for each in bound]
        assert got == [['fanout', 'not fanout'], ['direct']]
        bound[1].unbind_from(bound[1].exchange, 'it')  # which it was never bound by
        bound[0].unbind_from(bound[0].exchange, "it's")
        run([sys.executable, '-c', ELSEWHERE, url])
        assert [each.get(no_ack=True) is None for each in bound] == [True, False]
        for each in bound:
            each.delete()
            each.exchange.delete()


@pytest.mark.parametrize('server, fixture', SERVERS[1:])
def test_queues_for_answers_are_not_listed(request, server, fixture, capfd):
    url = request.getfixturevalue(fixture)

    def listed():
        assert main(['queues', '--broker', url]) == 0
        return {line.split()[0] for line in capfd.readouterr().out.splitlines()}

    before = listed()
    with Connection(url) as connection:
        bound = Queue('listed')(connection)
        bound.declare()  # the broker answers it into a queue that it made for us
        assert listed() - before == {'listed'}
        bound.delete()


@pytest.mark.parametrize('fault, times', [('cut', 40), ('hole', 20)])
@pytest.mark.parametrize('server, fixture', SERVERS)
def test_a_network_that_fails(request, server, fixture, fault, times):
    broker = request.getfixturevalue(server)
    url = request.getfixturevalue(fixture)
    with Proxy(broker.port) as proxy:
        through = url.replace(f':{broker.port}', f':{proxy.port}', 1)
        break_it = proxy.cut if fault == 'cut' else lambda: hole(proxy)
        check(f'{fault} before {server}', through, break_it, rounds(times), f'{fault}-q')


@pytest.mark.parametrize('fault', ['detach', 'close_all'])
def test_a_broker_that_ends_what_it_likes(fault):
    need_proton()
    broker = Broker()

    try:
        check(f'{fault} by a peer', broker.url, getattr(broker, fault), rounds(50))
    finally:
        broker.stop()


@pytest.mark.own_process
@pytest.mark.parametrize('server, fixture', SERVERS)
def test_a_fork_leaves_the_connection_to_its_parent(request, server, fixture):
    assert forks(request.getfixturevalue(fixture)) == '3 3\n'


@pytest.mark.parametrize('server, fixture', SERVERS)
def test_heartbeats_go_on_while_we_compute(request, server, fixture):
    """And what the kernel holds meanwhile is no silence of the broker."""
    url = request.getfixturevalue(fixture)
    with Connection(url, transport_options=OPTIONS) as connection:
        bound = declare(connection, 'computing')
        for _ in range(2 if server == 'rabbitmq' else 1):  # each takes all of a processor
            end = time.monotonic() + 3 * IDLE
            while time.monotonic() < end:
                sum(range(1000))
            green.sleep(0.1)
        connection.Producer(routing_key='computing').publish('x')
        assert bound.get(no_ack=True).payload == 'x'
        assert connection.transport.session.epoch == 1


@pytest.mark.parametrize('server, fixture', SERVERS)
def test_a_broker_that_freezes_is_noticed(request, server, fixture):
    broker = request.getfixturevalue(server)
    with Connection(request.getfixturevalue(fixture), transport_options=OPTIONS) as connection:
        with consuming(connection, declare(connection, 'frozen').name) as seen:
            broker.pause()
            try:
                with pytest.raises(ConnectionLost, match='nothing from the peer'):
                    drain_until(connection, lambda: False)
            finally:
                broker.resume()
            connection.Producer(routing_key='frozen', serializer='json').publish('x', retry=True)
            drain_over_losses(connection, lambda: seen)


def test_rabbitmq_ends_connections(rabbitmq, qpid_url, amqp_vhost):
    def close():
        for connection in rabbitmq.list_connections():
            if connection['vhost'] == amqp_vhost:
                rabbitmq.close_connection(connection['pid'])

    check('closed by rabbitmq', qpid_url, close, rounds(20))


def test_rabbitmq_does_not_crash_as_consumed_queues_are_deleted(rabbitmq, qpid_url):
    """Its plugin does where it tells a link of the end of its queue, or hears of a session that has ended."""

    def consume_and_delete(connection, number):
        channel = connection.channel()
        bound = [Queue(f'deleted-{number}-{each}')(channel) for each in range(3)]
        for queue in bound:
            queue.declare()
            queue.consume(consumer_tag=queue.name, callback=print, no_ack=True)
            # On a busy machine it may end a session whose channel within is gone too early (541 noproc).
            with contextlib.suppress(PublishUnconfirmed):
                connection.Producer(channel, routing_key=queue.name).publish('x')
        for queue in bound:
            queue.delete()
        channel.close()

    def crashes():
        texts = [log.read_text() for log in rabbitmq.logs() if log.exists()]
        return ''.join(texts).count('** Reason for termination')

    before = crashes()
    with Connection(qpid_url) as connection:
        for turn in range(rounds(50)):
            tasks = [green.spawn(consume_and_delete, connection, f'{turn}-{number}') for number in range(20)]
            green.joinall(tasks)
        assert connection.transport.session.epoch == 1
    assert crashes() == before


@pytest.mark.parametrize('server, fixture', SERVERS)
def test_a_broker_that_is_killed(request, server, fixture):
    """SIGKILL; what it had accepted is still there."""
    broker = request.getfixturevalue(server)
    url = request.getfixturevalue(fixture)

    def restart():
        if server == 'rabbitmq':
            broker.sync()
        broker.restart()

    check(f'{server} killed', url, restart, rounds(10), 'killed-q')
