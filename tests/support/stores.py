"""What tests of stores share: small ways to look into them."""
from __future__ import annotations

import contextlib

from greenmq import Queue
from tests.support.process import wait_until


def driver(connection):
    connection.connect()
    return connection.transport.session.driver


def statements(connection):
    return driver(connection).stats()['statements']


def listens(connection):
    # On a busy machine the first word may come too late to be believed; half a minute later is another.
    wait_until(lambda: driver(connection).stats()['notified'], 60, 'notifications')


def declare(connection, name='q', **options):
    bound = Queue(name, routing_key=name, **options)(connection.default_channel)
    bound.declare()
    return bound


def drained(connection, seconds=0.3):
    with contextlib.suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=seconds)


