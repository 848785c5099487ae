"""Connections to an emulator of SQS, straight or through the counting and faulting proxy."""

from __future__ import annotations

import itertools
import os

import pytest

from greenmq import Connection, Consumer, Queue
from tests.support import green
from tests.support.http_proxy import HTTPProxy

_numbers = itertools.count(1)


@pytest.fixture
def name():
    """A name that no other test uses."""
    return f'sqs-{os.getpid()}-{next(_numbers)}'


@pytest.fixture
def proxy(fauxqs):
    with HTTPProxy(fauxqs.port) as proxy:
        yield proxy


@pytest.fixture
def connect(polls_end):
    """Open a connection to a URL; closed at the end of the test."""
    opened = []

    def connect(url, **options):
        options.setdefault('wait_time_seconds', 1)
        connection = Connection(url, transport_options=options)
        connection.connect()
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.close()


def declared(connection, name, **kwargs):
    """A queue that is there."""
    queue = Queue(name, routing_key=name, **kwargs)(connection.default_channel)
    queue.declare()
    return queue


class Seen:
    """A consumer in a greenlet of its own: what it saw, and what it does with that."""

    def __init__(self, connection, queue, handle=None, prefetch=10, **kwargs):
        self.bodies, self.messages = [], []
        self._handle = handle or (lambda message: message.ack())
        self._connection = connection
        self._greenlet = green.spawn(self._run, queue, prefetch, kwargs)

    def _run(self, queue, prefetch, kwargs):
        with Consumer(self._connection.channel(), [queue], callbacks=[self._got], prefetch_count=prefetch,
                      accept=['json', 'text/plain', 'application/data'], **kwargs):
            while True:
                try:
                    self._connection.drain_events(timeout=5)
                except (TimeoutError, *self._connection.connection_errors):
                    green.sleep(0.001)  # one that is closed fails at once, again and again

    def _got(self, body, message):
        self.bodies.append(body)
        self.messages.append(message)
        self._handle(message)

    def until(self, condition, seconds=15):
        with green.Timeout(seconds, AssertionError(f'not within {seconds} s; seen: {self.bodies[-20:]}')):
            while not condition():
                green.sleep(0.01)

    def stop(self):
        self._greenlet.kill()
