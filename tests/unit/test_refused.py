"""A connection that was refused leaves nothing that only the collector could free (P47)."""
from __future__ import annotations

import logging

import pytest

from greenmq import Connection
from tests.support import census
from tests.support.guard import settle

#: As all tests of what stays, and so not on eventlet, whose own frames and cancelled timers stay a while.
pytestmark = pytest.mark.slow

#: Nobody listens on port 1.
URLS = [
    'amqp://127.0.0.1:1', 'redis://127.0.0.1:1', 'sqla+postgresql://127.0.0.1:1/none',
    'pgmq://127.0.0.1:1/none',
]


@pytest.mark.parametrize('url', URLS)
def test_a_refused_connection_leaves_nothing_for_the_collector(url, caplog):
    caplog.set_level(logging.CRITICAL)  # a record would keep its error

    def meet():
        connection = Connection(url, connect_timeout=0.2)
        with pytest.raises(connection.connection_errors):
            connection.connect()
        connection.release()
        settle()

    grown = census.growth(meet, 10, warm_up=3)
    assert grown.objects_per_round < 1, str(grown)
