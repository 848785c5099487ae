"""The suite's own servers do what the fault tests ask of them."""
from __future__ import annotations

import socket
import ssl

import amqp
import pytest

from tests.support import process
from tests.support.rabbitmq import AMQP_HEADER
from tests.support.redis_server import Redis

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.once]


def dial(server, vhost='/', **options):
    options = {'host': f'127.0.0.1:{server.port}', 'virtual_host': vhost, 'connect_timeout': 10, **options}
    connection = amqp.Connection(**options)
    connection.connect()
    return connection


def test_rabbitmq_gives_each_test_a_virtual_host_and_counts_its_connections(rabbitmq, amqp_vhost, amqp_url):
    assert amqp_url.endswith(f':{rabbitmq.port}/{amqp_vhost}')
    connection = dial(rabbitmq, amqp_vhost)
    rows = rabbitmq.list_connections()
    assert [row['vhost'] for row in rows] == [amqp_vhost]
    rabbitmq.close_connection(rows[0]['pid'], 'by the test')
    with pytest.raises(amqp.ConnectionForced, match='by the test'):
        connection.drain_events(timeout=5)
    connection.collect()
    rabbitmq.wait_connections(0)


def test_rabbitmq_keeps_durable_messages_over_a_crash(rabbitmq, amqp_vhost):
    connection = dial(rabbitmq, amqp_vhost)
    channel = connection.channel()
    channel.queue_declare('kept', durable=True, auto_delete=False)
    channel.confirm_select()
    channel.basic_publish_confirm(amqp.Message('body', delivery_mode=2), routing_key='kept')
    rabbitmq.sync()
    rabbitmq.restart()
    with pytest.raises(connection.connection_errors):
        connection.drain_events(timeout=5)
    connection.collect()
    assert rabbitmq.list('queues', 'name', 'messages', vhost=amqp_vhost) == [{'name': 'kept', 'messages': 1}]


def test_rabbitmq_blocks_a_publisher_while_the_alarm_is_on(rabbitmq, amqp_vhost):
    told = []
    connection = dial(rabbitmq, amqp_vhost, on_blocked=told.append, on_unblocked=lambda: told.append('free'))
    rabbitmq.alarm(True)
    try:
        connection.channel().basic_publish(amqp.Message('x'), routing_key='nowhere')
        connection.drain_events(timeout=5)
        assert len(told) == 1
    finally:
        rabbitmq.alarm(False)
    connection.drain_events(timeout=5)
    assert told[1:] == ['free']
    connection.close()


def test_rabbitmq_frozen_says_nothing_and_goes_on(rabbitmq, amqp_vhost):
    connection = dial(rabbitmq, amqp_vhost)
    rabbitmq.pause()
    try:
        assert not rabbitmq.answers()
    finally:
        rabbitmq.resume()
    assert connection.channel().is_open
    connection.close()


def test_rabbitmq_over_tls_wants_our_certificate(rabbitmq, certificates):
    address = f'localhost:{rabbitmq.tls_port}'
    connection = dial(rabbitmq, host=address, login_method='PLAIN', ssl=certificates.client_options())
    assert connection.connected
    connection.close()
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with socket.create_connection(('127.0.0.1', rabbitmq.tls_port), timeout=10) as plain, \
            context.wrap_socket(plain, server_hostname='localhost') as stranger:
        # Under TLS 1.3 our side of the handshake is through before the broker misses the certificate.
        with pytest.raises(ssl.SSLError, match='(?i)certificate.required|EOF'):
            stranger.sendall(AMQP_HEADER)
            stranger.recv(1)


def test_redis_answers_on_tcp_tls_and_unix_socket(redis_server, certificates):
    import redis
    for url, options in ((redis_server.url(), {}),
                         (redis_server.tls_url(), {'ssl_ca_certs': str(certificates.ca)}),
                         (f'unix://{redis_server.socket_path}', {})):
        with redis.Redis.from_url(url, retry=None, **options) as client:
            assert client.ping()


def test_redis_keeps_its_data_over_a_crash_and_is_emptied_for_the_next_test(redis_server):
    with redis_server.client() as client:
        client.lpush('queue', 'message')
    redis_server.restart()
    with redis_server.client() as client:
        assert client.lrange('queue', 0, -1) == ['message']
        redis_server.flush()
        assert client.keys() == []


def test_redis_shows_its_clients_and_freezes(redis_server):
    with redis_server.client(client_name='watched') as client:
        client.ping()
        assert [row['name'] for row in redis_server.clients()] == ['watched']
    redis_server.pause()
    try:
        assert not redis_server.answers()
    finally:
        redis_server.resume()
    redis_server.wait_ready()


def test_a_server_that_cannot_start_says_why():
    server = Redis(durable=False)
    (server.directory / 'users.acl').write_text('user default nonsense\n')
    with pytest.raises(AssertionError, match='(?s)ended at its start.*ACL errors'):
        server.start()
    server.stop()
    assert not server.directory.exists()


def test_a_missing_program_skips_on_a_laptop_and_fails_in_ci(monkeypatch):
    monkeypatch.delenv('CI', raising=False)
    monkeypatch.delenv('GREENMQ_REQUIRE_SERVERS', raising=False)
    with pytest.raises(pytest.skip.Exception, match='no-such-program'):
        process.need('sh', 'no-such-program')
    monkeypatch.setenv('GREENMQ_REQUIRE_SERVERS', '1')
    with pytest.raises(pytest.fail.Exception, match='no-such-program'):
        process.need('sh', 'no-such-program')
