"""Several hosts: a recovery walks them all, publishers included (P24), and dialling has one deadline."""
from __future__ import annotations

import itertools
import socket
import sys
import time

import gevent
import gevent.monkey
import pytest

from greenmq import Connection
from greenmq.exceptions import OperationalError
from tests.faults.conftest import SOON, Consuming, outcome, queue, wait_open
from tests.support.process import free_ports, wait_until
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.once]


def backwards(hosts):
    return itertools.cycle(list(reversed(hosts)))


@pytest.mark.parametrize('strategy', ['round-robin', 'shuffle', backwards])
@pytest.mark.parametrize('form', ['text', 'list'])
def test_publishers_and_consumers_go_on_at_the_next_host(rig, strategy, form):
    proxies = [rig.proxy() for _ in range(3)]
    urls = [rig.url(proxy) for proxy in proxies]
    given = ';'.join(urls) if form == 'text' else urls
    connection = Connection(given, failover_strategy=strategy, heartbeat=0, connect_timeout=5,
                            transport_options={'close_timeout': 1})
    rig._open.callback(connection.close)
    connection.connect()
    bound = queue('hosts')
    consumer = Consuming(rig, connection, bound)
    producer = connection.Producer(exchange=bound.exchange, routing_key='hosts')
    safe, running = [], [1]

    def publish():
        for number in itertools.count():
            if not running:
                return
            producer.publish({'id': number}, retry=True, timeout=SOON)
            safe.append(number)

    publishing = rig.spawn(publish)
    for _ in range(2):
        goal = len(safe) + 20
        wait_until(lambda goal=goal: len(safe) >= goal, SOON, 'publishes')
        current = next(proxy for proxy in proxies if proxy.open_connections)
        current.refuse()
        current.cut()
        proxies.remove(current)
    goal = len(safe) + 20
    wait_until(lambda: len(safe) >= goal, SOON, 'publishes')
    running.clear()
    publishing.get(timeout=SOON)
    consumer.wait(*safe)


def test_a_first_connection_skips_the_hosts_that_are_down(rig):
    dead = free_ports(2)
    urls = [f'amqp://guest:guest@127.0.0.1:{port}/{rig.vhost}' for port in dead] + [rig.url()]
    connection = rig.connection(url=';'.join(urls))
    assert connection.connected
    connection.Producer().publish({}, routing_key='nowhere')


def test_a_refused_connection_says_so_at_once(rig):
    connection = rig.connection(url=f'amqp://127.0.0.1:{free_ports(1)[0]}//', connect=False)
    start = time.monotonic()
    with pytest.raises(OSError, match='refused'):
        connection.connect()
    assert time.monotonic() - start < 4


@pytest.fixture
def black_hole():
    """A port that accepts and never says a word."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        yield server.getsockname()[1]


def test_a_black_hole_costs_no_more_than_the_deadline(rig, black_hole):
    connection = Connection(f'amqp://127.0.0.1:{black_hole}//', connect_timeout=0.3)
    rig._open.callback(connection.close)
    with gevent.Timeout(3), pytest.raises(connection.connection_errors):
        connection.connect()
    with gevent.Timeout(3), pytest.raises(OperationalError):
        connection.Producer().publish({}, routing_key='nowhere', timeout=0.3)


def test_many_who_need_the_connection_share_one_dial(rig, black_hole):
    proxy = rig.proxy()
    connection = rig.connection(proxy, connect=False)
    producer = connection.Producer()
    greenlets = [rig.spawn(outcome, lambda: producer.publish({}, routing_key='nowhere')) for _ in range(200)]
    gevent.joinall(greenlets, timeout=SOON, raise_error=True)
    assert [each.value[0] for each in greenlets] == [None] * 200
    assert proxy.total_connections == 1


def test_a_slow_look_up_is_within_the_deadline(rig, monkeypatch):
    pause = gevent.monkey.get_original('time', 'sleep')
    # It runs in a native thread, which can't be ended: it is just not waited for.
    monkeypatch.setattr(sys.modules['greenmq.runtime.lookup'], 'getaddrinfo', lambda *args: pause(3))
    connection = Connection('amqp://no-such-host.invalid//', connect_timeout=0.3)
    rig._open.callback(connection.close)
    with gevent.Timeout(2), pytest.raises(connection.connection_errors):
        connection.connect()


def test_a_wrong_password_and_an_unknown_vhost_are_told_and_not_retried_for_ever(rig, rabbitmq):
    for url, word in ((f'amqp://guest:wrong@127.0.0.1:{rabbitmq.port}/{rig.vhost}', 'ACCESS_REFUSED'),
                      (f'amqp://guest:guest@127.0.0.1:{rabbitmq.port}/no-such-vhost', 'NOT_ALLOWED')):
        connection = Connection(url, connect_timeout=5)
        rig._open.callback(connection.close)
        refused = (*connection.connection_errors, *connection.channel_errors)
        with gevent.Timeout(SOON), pytest.raises(refused, match=word):
            connection.connect()


def test_a_recovery_goes_on_when_the_broker_refuses_the_first_tries(rig, rabbitmq):
    connection = rig.connection()
    consumer = Consuming(rig, connection, queue('refused'))
    rabbitmq.ctl('set_vhost_limits', '-p', rig.vhost, '{"max-connections": 0}')
    try:
        rabbitmq.ctl('close_all_connections', '-p', rig.vhost, 'by the test')
        wait_until(lambda: not connection.connected, SOON, 'the loss')
    finally:
        rabbitmq.ctl('clear_vhost_limits', '-p', rig.vhost)
    wait_open(connection.connection, 2)
    connection.Producer().publish({'id': 1}, exchange='refused-exchange', routing_key='refused', retry=True)
    consumer.wait(1)


@pytest.fixture(params=['amqp', 'redis'])
def broker(request):
    """The port of a broker, and how its URL looks."""
    if request.param == 'redis':
        yield request.getfixturevalue('redis_server').port, 'redis://127.0.0.1:{}/0'
    else:
        rabbitmq, vhost = request.getfixturevalue('rabbitmq'), request.getfixturevalue('amqp_vhost')
        yield rabbitmq.port, f'amqp://guest:guest@127.0.0.1:{{}}/{vhost}'


def test_a_good_host_among_silent_ones_is_found_by_the_first_connect_and_by_a_recovery(broker, monkeypatch):
    """Noticed by: each silent host is dialled once, and given up when it had its share of the time."""
    monkeypatch.setattr('greenmq.core.retry.LOOK_SECONDS', 0.2)
    port, url = broker
    with Proxy(port) as first, Proxy(port) as last, Proxy(port) as dark, Proxy(port) as black:
        for silent in (dark, black):
            silent.blackhole()
        hosts = [dark, first, black, last]
        connection = Connection(';'.join(url.format(proxy.port) for proxy in hosts), connect_timeout=1.2,
                                transport_options={'close_timeout': 1})
        with connection:
            connection.connect()
            bound = queue('silent')(connection.default_channel)
            bound.declare()
            assert [proxy.total_connections > 0 for proxy in hosts] == [True, True, False, False]
            assert dark.total_connections == 1
            epoch = connection.epoch
            first.refuse()
            first.cut()
            wait_until(lambda: connection.epoch > epoch and connection.connected, SOON, 'a recovery')
            assert last.total_connections and black.total_connections <= 2
            connection.Producer(exchange=bound.exchange, routing_key='silent').publish({}, retry=True)
