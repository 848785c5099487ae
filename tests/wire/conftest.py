"""A scripted broker and a client that has opened a connection to it."""

from __future__ import annotations

import os

import pytest

from greenmq import Connection
from tests.support import green
from tests.support.amqp_peer import Peer

#: Seconds within which the client has to do what the script made possible.
SOON = 2
#: Examples of a fuzz test: few in every run, many in a soak.
EXAMPLES = 3000 if os.environ.get('GREENMQ_SOAK') else 40


@pytest.fixture
def peer():
    with Peer() as peer:
        yield peer


@pytest.fixture
def opened(peer):
    """Open a connection: gives the client's Connection and the broker's side of it."""
    connections = []

    def opened(tuning=None, **options):
        options = {'recover': False, 'close_timeout': 0.5, **options}
        heartbeat = options.pop('heartbeat', 0)
        connection = Connection(peer.url, heartbeat=heartbeat, transport_options=options)
        connections.append(connection)
        opening = green.spawn(connection.connect)
        broker = peer.accept().handshake(**(tuning or {}))
        opening.get(timeout=SOON)
        return connection, broker

    yield opened
    for broker in peer.brokers:
        broker.sock.close()  # nobody answers a goodbye any more
    for connection in connections:
        connection.collect()


@pytest.fixture
def talk(opened):
    """A channel of the client whose wire for calls is open as channel 1, and the broker's side."""

    def talk(tuning=None, **options):
        connection, broker = opened(tuning, **options)
        channel = connection.channel()
        opening = green.spawn(channel.open)
        assert broker.open_channel() == 1
        opening.get(timeout=SOON)
        return channel, broker

    return talk


class Doing:
    """A call in a greenlet of its own; an error stays here until it is asked for."""

    def __init__(self, function, *args, **kwargs):
        self._error = None
        self._greenlet = green.spawn(self._run, function, args, kwargs)

    def _run(self, function, args, kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as exc:
            self._error = exc

    @property
    def done(self):
        return self._greenlet.ready()

    def kill(self):
        self._greenlet.kill()

    def result(self, seconds=SOON):
        """What it returned; raises what it raised."""
        error = self.error(seconds)
        if error is not None:
            raise error
        return self._greenlet.value

    def error(self, seconds=SOON):
        """What it raised, or None."""
        self._greenlet.join(seconds)
        assert self._greenlet.ready(), 'still waiting'
        return self._error


class Publishers:
    """Greenlets that publish on one channel, and the broker's side of its publishing wire."""

    def __init__(self, channel, broker):
        self.channel = channel
        self.broker = broker
        self.wire = None

    def publish(self, bodies, exchange='', routing_key='q', **options):
        """One greenlet a body; returns when the broker has all of them: what they do, and the publishes."""

        def publish(body):
            message = self.channel.prepare_message(body, properties=options.get('properties'))
            self.channel.basic_publish(
                message, exchange, routing_key, mandatory=options.get('mandatory', False), timeout=30
            )

        doing = [Doing(publish, body) for body in bodies]
        if self.wire is None:
            self.wire = self.broker.open_confirms()
        found = [self.broker.recv() for _ in bodies]
        assert {each.channel for each in found} == {self.wire}
        return doing, found


@pytest.fixture
def publishers():
    return Publishers
