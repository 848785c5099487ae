"""What a transport is given: the URLs of the brokers there are, a connection factory, and small ways to
look.
"""

from __future__ import annotations

import itertools
import os

import pytest

from greenmq import Connection
from tests.support import green

#: Brokers that need no server. Those of the environment join: GREENMQ_CONTRACT_URLS, separated by blanks.
URLS = ['memory://localhost/contract', *os.environ.get('GREENMQ_CONTRACT_URLS', '').split()]

#: Brokers that the suite starts, by the fixture that gives the URL.
REDIS = [
    'redis_url', 'redis_tls_url', 'redis_unix_url', 'redis_untold_url', 'sentinel_url', 'redis_cluster_url',
    'redis_six_url',
]  # fmt: skip
SERVERS = ['amqp_url', *REDIS]

PUBSUB = 'a fanout exchange is pub/sub, as in kombu: only who consumes now hears it'
#: What a broker rightly does otherwise: (URL scheme, test) → why. Such a test must fail there.
DIFFERS: dict[tuple[str, str], str] = {
    (broker.removesuffix('_url'), test): PUBSUB
    for broker in REDIS
    for test in (
        'test_fanout_reaches_every_queue',
        'test_requeue_returns_to_the_one_queue',
        'test_both_copies_are_settled_apart',
    )
}

MARKS = {broker: pytest.mark.rabbitmq if broker == 'amqp_url' else pytest.mark.redis for broker in SERVERS}

_numbers = itertools.count(1)


def pytest_generate_tests(metafunc):
    if 'broker_url' not in metafunc.fixturenames:
        return
    brokers = []
    for broker in [*URLS, *SERVERS]:
        scheme = broker.partition(':')[0].removesuffix('_url')
        marks = [MARKS[broker]] if broker in MARKS else []
        reason = DIFFERS.get((scheme, metafunc.function.__name__))
        if reason is not None:
            marks.append(pytest.mark.xfail(reason=reason, strict=True))
        brokers.append(pytest.param(broker, id=scheme, marks=marks))
    metafunc.parametrize('broker_url', brokers, indirect=True)


@pytest.fixture
def broker_url(request):
    return request.getfixturevalue(request.param) if request.param in SERVERS else request.param


@pytest.fixture
def connect(broker_url):
    """Open a connection; closed at the end of the test."""
    opened = []

    def connect(**options):
        connection = Connection(broker_url, **options)
        connection.connect()
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def channel(connection):
    return connection.channel()


@pytest.fixture
def name():
    """A name that no other test uses."""
    return f'contract-{os.getpid()}-{next(_numbers)}'


@pytest.fixture
def queue(channel, name):
    channel.queue_declare(queue=name, auto_delete=False, durable=False)
    yield name
    if not channel.closed:
        channel.queue_delete(queue=name)


class Bench:
    """A channel, spoken to in one line."""

    def __init__(self, channel):
        self.channel = channel
        self.client = channel.connection.client

    def put(self, queue, body, **kwargs):
        self.publish(body, '', queue, **kwargs)

    def publish(self, body, exchange, key='', mandatory=False, headers=None, priority=None, **properties):
        body = body if isinstance(body, bytes) else str(body).encode()
        message = self.channel.prepare_message(
            body, priority, 'application/data', 'binary', headers=headers or {}, properties=properties
        )
        self.channel.basic_publish(message, exchange=exchange, routing_key=key, mandatory=mandatory)

    def consume(self, queue, callback, tag='t', no_ack=False):
        def received(message):
            callback(self.channel.message_to_python(message))

        self.channel.basic_consume(queue=queue, no_ack=no_ack, callback=received, consumer_tag=tag)

    def drain(self, seconds=0.05):
        """Handle what is there."""
        try:
            while True:
                self.client.drain_events(timeout=seconds)
        except TimeoutError:
            return

    def until(self, condition, seconds=10):
        """Handle events until the condition holds."""
        with green.Timeout(seconds):
            while not condition():
                self.client.drain_events(timeout=seconds)

    def get(self, queue, no_ack=False):
        raw = self.channel.basic_get(queue=queue, no_ack=no_ack)
        return None if raw is None else self.channel.message_to_python(raw)

    def wait_get(self, queue, seconds=10):
        """Get a message that may still be on its way inside the broker."""
        with green.Timeout(seconds):
            while (message := self.get(queue)) is None:
                green.sleep(0)
        return message

    def get_all(self, queue):
        return [text(message) for message in iter(lambda: self.get(queue, no_ack=True), None)]


def text(message):
    body = message.body
    return bytes(body).decode() if not isinstance(body, str) else body


@pytest.fixture
def bench():
    return Bench
