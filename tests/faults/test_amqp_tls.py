"""The core faults once more over TLS, and what is TLS's own: names, certificates, its handshake (P2, P46)."""
from __future__ import annotations

import ssl

import gevent
import pytest

from greenmq import Connection
from greenmq.exceptions import ConnectionClosed, ConnectionLost, PublishUnconfirmed
from tests.faults.conftest import SOON, Consuming, outcome, queue, wait_open
from tests.support.census import fds
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture
def proxy(rig, rabbitmq):
    return rig.proxy(rabbitmq.tls_port)


@pytest.fixture
def connect(rig, certificates, rabbitmq):
    def connect(port=None, host='localhost', heartbeat=0, timeout=5, options=None, **ssl_options):
        connection = Connection(f'amqps://guest:guest@{host}:{port or rabbitmq.tls_port}/{rig.vhost}',
                                ssl={**certificates.client_options(), **ssl_options}, heartbeat=heartbeat,
                                login_method='PLAIN', connect_timeout=timeout,
                                transport_options={'close_timeout': 1.0, **(options or {})})
        rig._open.callback(connection.close)
        return connection.connect()

    return connect


@pytest.mark.parametrize('strike', ['cut', 'fin', 'half', 'blackhole'])
def test_a_loss_under_tls_is_told_to_all_and_recovered_from(rig, proxy, connect, strike):
    connection = connect(proxy.port, heartbeat=1)
    bound = queue('tls')
    consumer = Consuming(rig, connection, bound)
    producer = connection.Producer(exchange=bound.exchange, routing_key='tls')
    producer.publish({'id': 0})
    consumer.wait(0)
    proxy.blackhole('up')
    publishing = [rig.spawn(outcome, lambda n=n: producer.publish({'id': n})) for n in range(1, 11)]
    retried = rig.spawn(outcome, lambda: producer.publish({'id': 100}, retry=True))
    wait_until(lambda: producer.channel.publishing.outstanding == 11, SOON, 'the publishes')
    {'cut': proxy.cut, 'fin': lambda: proxy.fin('down'), 'half': lambda: proxy.half(20, 'down', 'stall'),
     'blackhole': lambda: proxy.blackhole('down')}[strike]()
    gevent.joinall(publishing, timeout=SOON, raise_error=True)
    proxy.heal()
    for each in publishing:
        error = each.value[0]
        assert type(error) is PublishUnconfirmed and isinstance(error.__cause__, ConnectionLost), repr(error)
    assert retried.get(timeout=SOON)[0] is None
    consumer.wait(100)
    assert [type(error) for error in consumer.errors] == [ConnectionLost]


@pytest.mark.parametrize('silent', [False, True])
def test_a_close_while_many_read_wakes_them_and_leaves_no_descriptor(rig, proxy, connect, silent):
    """P2: 50 consumers are parked in a read, 20 greenlets close."""
    before = len(fds())
    connection = connect(proxy.port, options={'close_timeout': 0.5})
    parked = [rig.spawn(outcome, connection.drain_events) for _ in range(50)]
    gevent.sleep(0)
    if silent:
        proxy.blackhole()
    closing = [rig.spawn(connection.close) for _ in range(20)]
    gevent.joinall([*parked, *closing], timeout=0.5 + 2, raise_error=True)
    for each in parked:
        assert type(each.value[0]) is ConnectionClosed, repr(each.value)
    wait_until(lambda: len(fds()) == before, SOON, 'the descriptor to be closed')


def test_the_name_in_the_certificate_is_looked_at_unless_told_otherwise(rig, connect, certificates):
    # The test certificate is for localhost and 127.0.0.1, and not for this name of the same machine.
    options = certificates.client_options()
    del options['server_hostname']
    connection = connect(server_hostname='localhost')
    assert connection.connected
    with pytest.raises((ssl.SSLError, OSError), match='(?i)hostname|certificate'):
        connect(server_hostname='other.example')
    plain = Connection(f'amqps://guest:guest@127.0.0.2:1/{rig.vhost}', ssl=options)
    assert plain.ssl


def test_no_certificate_of_a_stranger_is_taken(rig, rabbitmq):
    connection = Connection(rabbitmq.tls_url(rig.vhost), connect_timeout=5)  # the CA of the test is unknown
    rig._open.callback(connection.close)
    with pytest.raises(connection.connection_errors, match='(?i)certificate'):
        connection.connect()


def test_a_client_certificate_is_a_login(rig, rabbitmq, certificates):
    rabbitmq.allow_user('greenmq-client', rig.vhost)
    connection = Connection(f'amqps://localhost:{rabbitmq.tls_port}/{rig.vhost}', login_method='EXTERNAL',
                            ssl=certificates.client_options(), connect_timeout=5)
    rig._open.callback(connection.close)
    connection.connect()
    connection.Producer().publish({}, routing_key='nowhere')
    rows = rabbitmq.list('connections', 'user', 'auth_mechanism', 'ssl')
    assert {'user': 'greenmq-client', 'auth_mechanism': 'EXTERNAL', 'ssl': True} in rows


@pytest.mark.parametrize('count', [1, 300, 2000])
def test_a_handshake_that_stalls_ends_at_the_one_deadline(rig, proxy, connect, count):
    """At the first byte, within TLS's own answer, and within AMQP's."""
    proxy.half(count, 'down', 'stall')
    with gevent.Timeout(0.5 + 2), pytest.raises(OSError, match='within 0.5 s|timed out'):
        connect(proxy.port, timeout=0.5)


def test_a_large_message_goes_both_ways(rig, connect):
    connection = connect()
    channel = connection.default_channel
    channel.queue_declare('large', exclusive=True)
    body = bytes(range(256)) * 12_000
    connection.Producer().publish(body, content_type='application/data', routing_key='large')
    assert channel.basic_get('large', no_ack=True).body == body
    wait_open(connection)
