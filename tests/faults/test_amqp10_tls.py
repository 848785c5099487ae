"""AMQP 1.0 over TLS: names, certificates, logins, a loss, a handshake that stalls."""
from __future__ import annotations

import time

import pytest

from greenmq import Connection
from greenmq.exceptions import ConnectionLost
from tests.faults.stores import consuming, drain_over_losses
from tests.support.proxy import Proxy
from tests.support.stores import declare

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.rabbitmq]


@pytest.fixture
def connect(rabbitmq, amqp_vhost, certificates):
    opened = []

    def connect(port=None, host='localhost', user='guest:guest@', vhost=amqp_vhost, ssl=None, **options):
        url = f'amqps10://{user}{host}:{port or rabbitmq.tls_port}/{vhost}'
        ssl = certificates.client_options() if ssl is None else ssl
        opened.append(Connection(url, ssl=ssl, connect_timeout=5, **options))
        return opened[-1].connect()

    yield connect
    for connection in opened:
        connection.close()


def test_messages_of_any_size_go_both_ways_and_a_cut_is_recovered_from(connect, rabbitmq):
    with Proxy(rabbitmq.tls_port) as proxy:
        connection = connect(proxy.port)
        declare(connection, 'tls')
        producer = connection.Producer(serializer='json', routing_key='tls')
        with consuming(connection, 'tls') as seen:
            for turn in range(3):
                body = f'{turn}' * (1 + turn * 100_000)
                producer.publish(body, retry=True)
                drain_over_losses(connection, lambda body=body: body in seen)
                proxy.cut()


def test_the_name_in_the_certificate_is_looked_at(connect, certificates):
    ssl = {**certificates.client_options(), 'server_hostname': 'another.example'}
    with pytest.raises(ConnectionLost, match='another.example'):
        connect(ssl=ssl)


def test_no_certificate_of_a_stranger_is_taken(connect):
    with pytest.raises(ConnectionLost, match='certificate'):
        connect(ssl=True)


def test_a_handshake_that_stalls_ends_at_the_deadline(connect, rabbitmq):
    with Proxy(rabbitmq.tls_port) as proxy:
        proxy.half(200, 'down', 'stall')
        began = time.monotonic()
        with pytest.raises((ConnectionLost, TimeoutError)):
            connect(proxy.port)
        assert time.monotonic() - began < 30
