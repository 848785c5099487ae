"""Connections over AMQP 1.0 leave nothing behind, without the collector (P47)."""
from __future__ import annotations

import pytest

from greenmq import Connection, Consumer, Queue
from greenmq.exceptions import AccessRefused
from tests.support import census

pytestmark = [pytest.mark.slow, pytest.mark.green_timeout(300)]


def test_connections_that_consume_leave_nothing_behind(qpid_url):
    seen = []

    def on_message(body, message):
        message.ack()
        seen.append(body)

    def live():
        seen.clear()
        with Connection(qpid_url) as connection:
            queue = Queue('leaks', durable=False)
            with Consumer(connection, [queue], callbacks=[on_message]):
                connection.Producer().publish({'id': 1}, routing_key='leaks')
                while not seen:
                    connection.drain_events(timeout=10)

    grown = census.growth(live, 50)
    assert grown.objects_per_round < 1, str(grown)


def test_logins_that_are_refused_leave_nothing_behind(qpid_url):
    wrong = qpid_url.replace('guest:guest', 'guest:wrong')

    def live():
        with pytest.raises(AccessRefused), Connection(wrong) as connection:
            connection.connect()

    grown = census.growth(live, 10, warm_up=1)  # the broker takes three seconds to refuse one
    assert grown.objects_per_round < 1, str(grown)
