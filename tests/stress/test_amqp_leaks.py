"""AMQP connections, channels and recoveries leave nothing behind, without the collector (P47)."""
from __future__ import annotations

import contextlib
import itertools
import logging
from urllib.parse import urlsplit

import pytest

from greenmq import Connection, Consumer, Queue
from tests.stress import FACTOR
from tests.support import census
from tests.support.process import wait_until
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.green_timeout(900)]

#: A table that doubles once in the run is no leak, one object for every tenth round is.
OBJECTS = 0.1


def check(action, rounds, rest=lambda: None):
    with census.unchanged('fds greenlets'):
        grown = census.growth(action, rounds, rest=rest)
    assert grown.objects_per_round < OBJECTS, str(grown)


@pytest.mark.parametrize('rounds', [100, pytest.param(1000 * FACTOR, marks=pytest.mark.stress)])
def test_connections_leave_nothing_behind(amqp_url, rounds):
    def live():
        with Connection(amqp_url, heartbeat=10) as connection:
            connection.Producer().publish({'id': 1}, routing_key='nowhere')

    check(live, rounds)


@pytest.mark.parametrize('rounds', [300, pytest.param(1000 * FACTOR, marks=pytest.mark.stress)])
def test_channels_leave_nothing_behind(amqp_url, rounds):
    with Connection(amqp_url) as connection:
        connection.connect()

        def live():
            channel = connection.channel()
            connection.Producer(channel).publish({'id': 1}, routing_key='nowhere')
            channel.queue_declare('leaks', durable=False, auto_delete=False)
            channel.close()

        check(live, rounds)


@pytest.mark.parametrize('rounds', [150, pytest.param(50 * FACTOR, marks=pytest.mark.stress)])
@pytest.mark.parametrize('broker', ['amqp_url', 'redis_url', 'qpid_url'])
def test_recoveries_leave_nothing_behind(request, broker, rounds, caplog):
    caplog.set_level(logging.CRITICAL, 'greenmq')  # pytest keeps all records, and they their errors
    url = request.getfixturevalue(broker)
    port = urlsplit(url).port
    with Proxy(port) as proxy:
        seen, numbers = set(), itertools.count()

        def on_message(body, message):
            message.ack()
            seen.add(body['id'])

        with Connection(
            url.replace(f':{port}', f':{proxy.port}'), heartbeat=10, transport_options={'close_timeout': 1.0}
        ) as connection:
            queue = Queue('leaks', durable=False, max_length=10)
            with Consumer(connection, [queue], callbacks=[on_message]):
                producer, declared = connection.Producer(), queue(connection)
                inner = getattr(connection.connection, 'session', connection.connection)

                def live():
                    epoch = inner.epoch
                    proxy.cut()
                    wait_until(lambda: connection.connected and inner.epoch > epoch, 30, 'the recovery')
                    number = next(numbers)
                    producer.publish({'id': number}, routing_key='leaks', retry=True)
                    while number not in seen:
                        try:
                            connection.drain_events(timeout=10)
                        except connection.connection_errors:
                            continue
                    seen.clear()
                    # Over AMQP 0.9.1 and Redis its answer comes after the acks have left.
                    declared.queue_declare(passive=True)

                def rest():
                    # Acks that were lost with a cut bring back their messages, and how many of those are in
                    # hand when the objects are counted would be chance.
                    with contextlib.suppress(TimeoutError):
                        while True:
                            connection.drain_events(timeout=0.5)
                    seen.clear()
                    if broker == 'qpid_url':
                        # How many connections over HTTP lie idle is chance, too.
                        inner.driver.management.close()

                live()
                rest()
                check(live, rounds, rest)
