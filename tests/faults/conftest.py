"""A client, a proxy that fails for it, and a real RabbitMQ behind."""
from __future__ import annotations

import contextlib
import os
import time

import pytest

from greenmq import Connection, Consumer, Exchange, Queue, events
from tests.support import green
from tests.support.process import wait_until
from tests.support.proxy import Proxy

#: Seconds for what must happen at once; only a broken client waits that long.
SOON = 30
#: Rounds of what chance decides: few in every run, many in a soak.
SOAK = bool(os.environ.get('GREENMQ_SOAK'))


class Facts:
    """The events of the kinds named, as they come: `facts['lost']` is a list of their facts."""

    def __init__(self, *names):
        self._told = {name: [] for name in names}
        self._subscriptions = [events.subscribe(name, self._note) for name in names]

    def _note(self, event):
        self._told[event.name].append(event.facts)

    def __getitem__(self, name):
        return self._told[name]

    def wait(self, name, count=1, seconds=SOON):
        wait_until(lambda: len(self[name]) >= count, seconds, f'{count} events {name}')
        return self[name]

    def cancel(self):
        for subscription in self._subscriptions:
            subscription.cancel()


class Rig:
    """One virtual host, reached through a proxy, and by a second way that never fails."""

    def __init__(self, rabbitmq, vhost):
        self.rabbitmq = rabbitmq
        self.vhost = vhost
        self._open = contextlib.ExitStack()

    def close(self):
        self._open.close()

    def proxy(self, port=None, **options):
        return self._open.enter_context(Proxy(port or self.rabbitmq.port, **options))

    def url(self, proxy=None):
        port = self.rabbitmq.port if proxy is None else proxy.port
        return f'amqp://guest:guest@127.0.0.1:{port}/{self.vhost}'

    def connection(self, proxy=None, connect=True, url=None, heartbeat=0, **options):
        """A Connection with impatient options, closed at the end of the test."""
        options = {'close_timeout': 1.0, 'operation_timeout': SOON, **options}
        connection = Connection(url or self.url(proxy), heartbeat=heartbeat, connect_timeout=5,
                                transport_options=options)
        self._open.callback(connection.close)
        return connection.connect() if connect else connection

    def facts(self, *names):
        facts = Facts(*names)
        self._open.callback(facts.cancel)
        return facts

    def spawn(self, function, *args):
        """A greenlet that is killed at the end of the test, if need be."""
        greenlet = green.spawn(function, *args)
        self._open.callback(greenlet.kill)
        return greenlet

    def messages(self, queue):
        """How many messages a queue has that are ready."""
        return self.control.default_channel.queue_declare(queue, passive=True).message_count

    @property
    def control(self):
        if getattr(self, '_control', None) is None:
            self._control = self.connection()
        return self._control


@pytest.fixture
def rig(rabbitmq, amqp_vhost):
    rig = Rig(rabbitmq, amqp_vhost)
    yield rig
    if not rabbitmq.running:
        rabbitmq.start()
    rig.close()


@pytest.fixture
def proxy(rig):
    return rig.proxy()


def queue(name, durable=False, **options):
    """A queue of its own name, bound to an exchange of its own."""
    exchange = Exchange(f'{name}-exchange', durable=durable)
    return Queue(name, exchange, routing_key=name, durable=durable, **options)


def outcome(function, *args, **kwargs):
    """What a call raised, else None, and when it ended."""
    try:
        function(*args, **kwargs)
    except Exception as exc:
        return exc, time.monotonic()
    return None, time.monotonic()


def wait_open(connection, epoch=None, seconds=SOON):
    """Until the connection is open, and of that epoch or a later one."""
    wait_until(lambda: connection.connected and (epoch is None or connection.epoch >= epoch), seconds,
               f'{connection!r} to be open')


class Consuming:
    """A greenlet that consumes a queue until it is killed, over all faults; `seen` are the bodies."""

    def __init__(self, rig, connection, queue, **options):
        self.seen = []
        self.redelivered = []
        self.errors = []
        self.connection = connection
        self.consumer = Consumer(connection, [queue], callbacks=[self._on_message], accept=['json'],
                                 **options)
        self.consumer.consume()
        self.greenlet = rig.spawn(self._run)

    def _on_message(self, body, message):
        self.seen.append(body['id'])
        if message.delivery_info['redelivered']:
            self.redelivered.append(body['id'])
        message.ack()

    def _run(self):
        while True:
            try:
                self.connection.drain_events()
            except self.connection.connection_errors as exc:
                self.errors.append(exc)

    def wait(self, *wanted, seconds=SOON):
        wait_until(lambda: set(wanted) <= set(self.seen), seconds, f'{wanted} to be consumed')

    def wait_more(self, count, seconds=SOON):
        """Until that many more were consumed."""
        goal = len(self.seen) + count
        wait_until(lambda: len(self.seen) >= goal, seconds, f'{count} more to be consumed')
