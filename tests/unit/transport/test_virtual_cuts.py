"""A kill or a Timeout at every switch of a call: no message is lost, none comes twice, the connection goes
on.
"""

from __future__ import annotations

from collections import deque
from json import dumps, loads
from queue import Empty

import pytest

from greenmq import Connection
from greenmq.transport import memory, virtual
from tests.support import green
from tests.support.switches import injections

pytestmark = pytest.mark.slow


class SlowChannel(virtual.Channel):
    """Every step at the broker switches once, before it is done."""

    store: dict = {}

    def _put(self, queue, message, **kwargs):
        green.sleep(0)
        self.store.setdefault(queue, deque()).append(dumps(message))

    def _get(self, queue, timeout=None):
        green.sleep(0)
        try:
            return loads(self.store[queue].popleft())
        except (KeyError, IndexError):
            raise Empty() from None

    def _size(self, queue):
        return len(self.store.get(queue, ()))

    def _purge(self, queue):
        return len(self.store.pop(queue, ()))


class SlowTransport(virtual.Transport):
    Channel = SlowChannel
    polling_interval = 0.001
    driver_type = 'slow'


@pytest.fixture(params=['memory', 'slow'])
def connect(request):
    def connect():
        SlowChannel.store = {}
        memory.reset()
        return Connection(transport={'memory': memory.Transport, 'slow': SlowTransport}[request.param])

    return connect


def publish(channel, count):
    for n in range(count):
        channel.basic_publish(channel.prepare_message(str(n)), '', 'q')


def rest(connection):
    """What is in the queue in the end."""
    with green.Timeout(5):
        channel = connection.channel()
        messages = iter(lambda: channel.basic_get('q', no_ack=True), None)
        return sorted(bytes(m.body).decode() if not isinstance(m.body, str) else m.body for m in messages)


def settle():
    for _ in range(30):
        green.sleep(0.0005)


def injected():
    return injections(rounds=(0, 1), limit=200)


def test_draining(connect):
    for injection in injected():
        with connect() as connection:
            channel, seen = connection.channel(), []
            publish(channel, 3)

            def callback(message, seen=seen):
                seen.append(message.body)
                message.ack()

            channel.basic_consume('q', False, callback, 't')

            def drain(connection=connection, seen=seen):
                while len(seen) < 3:
                    connection.drain_events(timeout=5)

            injection.run(drain)
            with green.Timeout(5):
                drain()
            assert len(seen) == 3 and channel.qos._delivered == {}
            channel.close()
            settle()
            assert rest(connection) == []


def test_closing_a_channel(connect):
    for injection in injected():
        with connect() as connection:
            channel, held = connection.channel(), []
            publish(channel, 4)
            channel.basic_consume('q', False, held.append, 't')
            while len(held) < 2:
                connection.drain_events(timeout=5)
            injection.run(channel.close)
            settle()
            assert channel.closed and channel not in connection.transport.channels
            assert rest(connection) == ['0', '1', '2', '3']


def test_closing_the_connection(connect):
    for injection in injected():
        connection, other = connect(), connect()
        channels = [connection.channel() for _ in range(2)]
        held = []
        publish(channels[0], 4)
        for n, channel in enumerate(channels):
            channel.basic_qos(0, 2, False)
            channel.basic_consume('q', False, held.append, f't{n}')
        while len(held) < 3:
            connection.drain_events(timeout=5)
        injection.run(connection.close)
        connection.close()
        settle()
        assert rest(other) == ['0', '1', '2', '3']
        other.close()


def test_cancelling(connect):
    for injection in injected():
        with connect() as connection:
            channel, held = connection.channel(), []
            publish(channel, 3)
            channel.basic_consume('q', False, held.append, 't')
            while not held:
                connection.drain_events(timeout=5)
            while connection.transport.events.pending < 2:
                green.sleep(0)
            injection.run(channel.basic_cancel, 't')
            channel.close()
            settle()
            assert rest(connection) == ['0', '1', '2']


def test_rejecting(connect):
    for injection in injected():
        with connect() as connection:
            channel = connection.channel()
            publish(channel, 1)
            message = channel.basic_get('q')
            injection.run(message.requeue)
            channel.close()
            settle()
            assert rest(connection) == ['0']
