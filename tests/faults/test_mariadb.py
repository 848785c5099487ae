"""Queues in MariaDB, by SQLAlchemy: several consumers, ended sessions, a killed server, kombu beside."""
from __future__ import annotations

import contextlib

import pytest

from greenmq import Connection, Consumer, Queue
from greenmq.exceptions import ConnectionLost
from tests.support import green
from tests.support.kombu_process import Kombu
from tests.support.process import wait_until
from tests.support.stores import declare, drained

#: Importing SQLAlchemy counts as connecting, and takes its time on a busy machine.
PATIENCE = 30


def open_to(url, **options):
    return Connection(url, connect_timeout=PATIENCE, transport_options=options)


@pytest.mark.slow
def test_consumers_take_apart_and_none_is_in_the_others_way(mariadb_url):
    """Each message once, and no deadlock is anybody's error."""
    connections = [open_to(mariadb_url, fetch_ahead=50 + n) for n in range(4)]
    seen, failures = [], []

    def consume(connection):
        def on_message(body, message):
            seen.append(body)
            message.ack()

        with Consumer(connection, [Queue('q')], callbacks=[on_message], accept=['json'], prefetch_count=10):
            try:
                while len(seen) < 300:
                    drained(connection, 0.1)
            except Exception as error:
                failures.append(error)

    try:
        declare(connections[0])
        producers = [connection.Producer(routing_key='q', serializer='json') for connection in connections]
        consumers = [green.spawn(consume, connection) for connection in connections]
        publishers = [green.spawn(producers[n % 4].publish, n) for n in range(300)]
        green.joinall(publishers, raise_error=True)
        with green.Timeout(60):
            green.joinall(consumers, raise_error=True)
        assert not failures and sorted(seen) == list(range(300))
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_server_loses_nothing_that_was_confirmed(mariadb, mariadb_url):
    with open_to(mariadb_url) as connection:
        bound = declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        producer.publish('before')
        mariadb.kill()
        mariadb.start()
        with green.Timeout(60):
            producer.publish('after', retry=True)
            got = [bound.get() for _ in range(2)]
        assert [message.payload for message in got] == ['before', 'after']
        for message in got:
            message.ack()


@pytest.mark.slow
@pytest.mark.faults
def test_ended_sessions(mariadb, mariadb_database, mariadb_url):
    """An administrator ends them; whoever consumes goes on."""
    seen = []

    def on_message(body, message):
        seen.append(body)
        message.ack()

    with open_to(mariadb_url) as connection:
        declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        with Consumer(connection, [Queue('q')], callbacks=[on_message], accept=['json']):
            for turn in range(3):
                for (session,) in mariadb.run(
                    'SELECT id FROM information_schema.processlist WHERE db = %s', mariadb_database
                ):
                    mariadb.run(f'KILL {session}')
                producer.publish(turn, retry=True)
                with green.Timeout(30):
                    while turn not in seen:
                        with contextlib.suppress(ConnectionLost):  # told, and recovered from
                            drained(connection, 0.1)
        assert sorted(set(seen)) == [0, 1, 2]


@pytest.mark.slow
def test_kombu_on_the_same_tables(mariadb, mariadb_database, mariadb_url):
    kombu = Kombu(mariadb_url)
    try:
        kombu.declare('q', '', 'direct', 'q')
        with open_to(mariadb_url) as connection:
            bound = declare(connection)
            kombu.publish({'from': 'kombu', 'word': 'grün'}, '', 'q')
            message = bound.get()
            assert message.payload == {'from': 'kombu', 'word': 'grün'}
            message.ack()
            count = 'SELECT count(*) FROM kombu_message'
            wait_until(lambda: mariadb.run(count, database=mariadb_database) == [(0,)], 10, 'the ack')
            producer = connection.Producer(routing_key='q', serializer='json')
            producer.publish({'from': 'us'}, headers={'h': [1]})
            _, payload, headers, info, _ = kombu.get('q')
            assert payload == {'from': 'us'} and headers == {'h': [1]} and info['routing_key'] == 'q'
            assert bound.get() is None
    finally:
        kombu.close()
