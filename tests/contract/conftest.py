"""What a transport is given: the URLs of the brokers there are, a connection factory, and small ways to
look.
"""

from __future__ import annotations

import itertools
import os

import gevent
import pytest

from greenmq import Connection

#: Brokers that need no server. Those of the environment join: GREENMQ_CONTRACT_URLS, separated by blanks.
URLS = ['memory://localhost/contract', *os.environ.get('GREENMQ_CONTRACT_URLS', '').split()]

_numbers = itertools.count(1)


def pytest_generate_tests(metafunc):
    if 'broker_url' in metafunc.fixturenames:
        metafunc.parametrize('broker_url', URLS, ids=lambda url: url.partition(':')[0])


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
        with gevent.Timeout(seconds):
            while not condition():
                self.client.drain_events(timeout=seconds)

    def get(self, queue, no_ack=False):
        raw = self.channel.basic_get(queue=queue, no_ack=no_ack)
        return None if raw is None else self.channel.message_to_python(raw)

    def get_all(self, queue):
        return [text(message) for message in iter(lambda: self.get(queue, no_ack=True), None)]


def text(message):
    body = message.body
    return bytes(body).decode() if not isinstance(body, str) else body


@pytest.fixture
def bench():
    return Bench
