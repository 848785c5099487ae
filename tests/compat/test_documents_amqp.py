"""The examples of kombu's documents and of the user's again, on RabbitMQ, and those that only AMQP has."""

import inspect
import ssl

import pytest

from greenmq import Connection, Exchange, Queue, pools
from greenmq.exceptions import AccessRefused, NotFound, TimeoutError
from greenmq.pools import get_limit, set_limit
from tests.compat import test_documents as documents

#: These say in their text which transport they are about.
OF_MEMORY = {'test_basic_connection', 'test_attributes_that_the_reference_names'}
#: These need no broker.
OF_NONE = {'test_parse_url', 'test_ways_to_make_a_connection', 'test_limits', 'test_one_name_for_the_groups'}
EXAMPLES = [
    example for name, example in vars(documents).items()
    if name.startswith('test_') and name not in OF_MEMORY | OF_NONE
]  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_pools():
    limit = get_limit()
    yield
    pools.reset()
    set_limit(limit, force=True)


@pytest.mark.parametrize('example', EXAMPLES, ids=lambda example: example.__name__.removeprefix('test_'))
def test_example(example, amqp_url, monkeypatch):
    monkeypatch.setattr(documents, 'URL', amqp_url)
    if 'spelling' in inspect.signature(example).parameters:
        for spelling in ('callback', 'callbacks'):
            example(spelling)
    else:
        example()


def test_no_example_is_forgotten():
    assert len(EXAMPLES) >= 20


def test_basic_connection(rabbitmq, amqp_vhost):
    for conn in (
        Connection(rabbitmq.url(amqp_vhost)),
        Connection(rabbitmq.url(amqp_vhost).replace('amqp:', 'pyamqp:')),
        Connection(
            hostname='127.0.0.1', userid='guest', password='guest', virtual_host=amqp_vhost,
            port=rabbitmq.port, transport='pyamqp',
        ),
    ):  # fmt: skip
        with conn:
            assert conn.connect() is conn and conn.connected
            channel = conn.channel()
            assert channel.connection.client is conn


def test_attributes_that_the_reference_names(amqp_url):
    with Connection(amqp_url, heartbeat=0) as conn:
        conn.connect()
        assert conn.heartbeat == 0 and conn.get_heartbeat_interval() == 0
        assert conn.heartbeat_check(rate=2) is None
        assert 'guest:**@' in conn.as_uri() and 'guest:guest@' in conn.as_uri(include_password=True)
        assert all(conn.supports_exchange_type(kind) for kind in ('direct', 'topic', 'fanout', 'headers'))
        assert conn.supports_heartbeats is False, 'the application need not beat'
        assert conn.info()['transport'] == 'amqp'
        assert conn.clone().as_uri() == conn.as_uri()
        assert conn.qos_semantics_matches_spec is False
        assert conn.default_channel is conn.default_channel
        assert conn.connection.server_properties['product'] == 'RabbitMQ'
        with pytest.raises(TimeoutError):
            conn.drain_events(timeout=0.01)
        for name in ('recoverable_connection_errors', 'connection_errors', 'channel_errors'):
            assert all(issubclass(error, Exception) for error in getattr(conn, name))
        assert issubclass(NotFound, conn.channel_errors)


def test_heartbeats_by_themselves(amqp_url):
    with Connection(amqp_url, heartbeat=10) as conn:
        conn.connect()
        assert conn.get_heartbeat_interval() == 10
    with Connection(amqp_url) as conn:
        conn.connect()
        assert conn.get_heartbeat_interval() == 60, 'the proposal of the broker'


@pytest.mark.parametrize('strategy', ['round-robin', 'shuffle', lambda urls: iter(urls * 50)])
def test_failover(rabbitmq, amqp_vhost, strategy):
    """``Connection('amqp://foo;amqp://bar', failover_strategy='round-robin')``"""
    nobody = 'amqp://guest:guest@127.0.0.1:1//'
    for hosts in (f'{nobody};{rabbitmq.url(amqp_vhost)}', [nobody, rabbitmq.url(amqp_vhost)]):
        with Connection(hosts, failover_strategy=strategy, connect_timeout=2) as conn:
            conn.ensure_connection(max_retries=50, interval_start=0, interval_step=0)
            conn.default_channel.queue_declare('q')
            assert conn.port == rabbitmq.port


def test_tls_with_a_client_certificate(rabbitmq, certificates, amqp_vhost):
    """``Connection('amqp://', login_method='EXTERNAL', ssl={…})``: the certificate is the login."""
    options = certificates.client_options()
    assert options['cert_reqs'] == ssl.CERT_REQUIRED
    with Connection(rabbitmq.tls_url(amqp_vhost), ssl=options) as conn:
        conn.default_channel.queue_declare('q')
    with Connection(rabbitmq.tls_url(amqp_vhost), ssl=options, login_method='PLAIN') as conn:
        conn.default_channel.queue_declare('q')
    user = 'greenmq-client'  # the common name of the certificate
    rabbitmq.allow_user(user, amqp_vhost)
    url = f'amqps://localhost:{rabbitmq.tls_port}/{amqp_vhost}'
    with Connection(url, ssl=options, login_method='EXTERNAL') as conn:
        conn.default_channel.queue_declare('q')
        (row,) = [row for row in rabbitmq.list('connections', 'vhost', 'user') if row['vhost'] == amqp_vhost]
        assert row['user'] == user


def test_other_ways_to_log_in(amqp_url):
    for method in ('PLAIN', 'AMQPLAIN'):
        with Connection(amqp_url, login_method=method) as conn:
            conn.connect()
    wrong = Connection(amqp_url.replace('guest:guest', 'guest:wrong'))
    with pytest.raises(AccessRefused):
        wrong.connect()


def test_publishing_through_the_pool_keeps_the_connection(amqp_url):
    with Connection(amqp_url) as conn:
        exchange = Exchange('tasks', 'direct')
        queue = Queue('tasks', exchange, routing_key='tasks')
        for _ in range(3):
            with pools.producers[conn].acquire(block=True) as producer:
                producer.publish({'id': 1}, exchange=exchange, routing_key='tasks', declare=[queue],
                                 retry=True, serializer='json')  # fmt: skip
        assert queue(conn).queue_declare(passive=True).message_count == 3
