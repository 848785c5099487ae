"""A connection to each fake, its broker with its faults, and small ways to look."""
from __future__ import annotations

import pytest

from greenmq import Connection, Producer
from tests.support import fakes, green

FAKES = ['fake-lease', 'fake-look', 'fake-push']


class Bench:
    """One fake broker and a connection to it."""

    def __init__(self, kind, name='unit', **options):
        self.kind = kind
        self.url = f'{kind}://localhost/{name}'
        self.broker = fakes.broker_of(name)
        self.faults = self.broker.faults
        self.connection = self.connect(**options)
        self.channel = self.connection.channel()

    def connect(self, **options):
        return Connection(self.url, transport_options=options).connect()

    @property
    def session(self):
        return self.connection.transport.session

    def queue(self, name='q', **arguments):
        channel = self.connection.default_channel
        channel.queue_declare(queue=name, durable=False, auto_delete=False, arguments=arguments)
        return name

    def publish(self, body, queue='q', **options):
        producer = Producer(self.channel, serializer='json')
        return producer.publish(body, exchange='', routing_key=queue, **options)

    def consume(self, queue='q', callback=None, no_ack=False, channel=None, tag='t'):
        channel = channel or self.connection.channel()
        held = []
        channel.basic_consume(queue, no_ack, callback or held.append, tag)
        return channel, held

    def drain(self, seconds=0.1):
        try:
            while True:
                self.connection.drain_events(timeout=seconds)
        except TimeoutError:
            return

    def until(self, condition, seconds=10, told=TimeoutError):
        """Handle events until the condition holds, whatever of `told` the drains are told."""
        with green.Timeout(seconds):
            while not condition():
                try:
                    self.connection.drain_events(timeout=0.05)
                except (TimeoutError, told):
                    continue

    def left(self, queue='q'):
        """Bodies in the queue, in order."""
        channel = self.connection.channel()
        found = []
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            found.append(message.payload)
        channel.close()
        return found

    def close(self):
        self.broker.down = False
        self.connection.close()


@pytest.fixture
def bench():
    made = []

    def make(kind='fake-lease', **options):
        made.append(Bench(kind, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=FAKES)
def either(request, bench):
    return bench(request.param)
