"""Queues of pgmq: batches, leases, names, what wakes, and kombu beside."""
from __future__ import annotations

import contextlib

import pytest

from greenmq import Connection, Consumer, Exchange, Queue, runtime
from greenmq.exceptions import InvalidArgument, NotFound
from greenmq.transport.driver import Put
from greenmq.transport.pgmq.names import LONGEST, fanout_pattern, is_pattern, name_of, topic_prefix
from tests.faults.stores import survives, survives_endings
from tests.stress import FACTOR
from tests.support import green
from tests.support.kombu_process import Kombu
from tests.support.process import wait_until
from tests.support.stores import declare, drained, driver, listens, statements


@pytest.fixture
def kombu(postgresql, pgmq_database):
    """kombu's own transport on pgmq's own client, as they are installed."""
    peer = Kombu(postgresql.url(pgmq_database, 'pgmq'), init_extension=False, wait_time_seconds=0)
    yield peer
    peer.close()


@contextlib.contextmanager
def consuming(connection, name='q', **options):
    seen = []

    def on_message(body, message):
        seen.append(body)
        message.ack()

    with Consumer(connection, [Queue(name)], callbacks=[on_message], accept=['json'], **options):
        yield seen


def log_of(postgresql, database):
    """Have the server note each function of pgmq that is called; returns how often, by name."""
    postgresql.run(f"ALTER DATABASE {database} SET track_functions = 'pl'")

    def calls():
        rows = postgresql.run(
            "SELECT funcname, calls FROM pg_stat_user_functions WHERE schemaname = 'pgmq'", database=database
        )
        return dict(rows)

    return calls


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize('queue, expected', [
    ('celery', 'celery'), ('a.b-c:d', 'a_b_c_d'), ('A_b', 'A_b'), ('x' * LONGEST, 'x' * LONGEST),
])
def test_names_are_kombus(queue, expected):
    name = name_of(queue)
    assert (name.name, name.key) == (expected, expected.lower())
    assert name.table == f'pgmq."q_{expected.lower()}"'


def test_names_that_are_too_long_end_in_digits_of_their_own():
    first, second = name_of(f'{"x" * 60}.reply.1'), name_of(f'{"x" * 60}.reply.2')
    assert first.name != second.name and len(first.name) == len(second.name) == LONGEST
    assert len(name_of('ü' * 40).name.encode()) <= LONGEST
    assert name_of('q', 'shop-').name == 'shop_q'
    with pytest.raises(InvalidArgument, match='NUL'):
        name_of('a\0b')


@pytest.mark.parametrize('pattern, taken', [
    ('kombu.topic.x.a.*.#', True), ('a..b', False), ('.a', False), ('a.', False), ('a.**', False),
    ('a.*#', False), ('a b', False), ('a' * 256, False), ('', False),
])
def test_patterns_that_pgmq_takes(pattern, taken):
    assert is_pattern(pattern) is taken


def test_exchanges_in_patterns():
    assert fanout_pattern('celery.pidbox') == 'kombu.fanout.celery-d-pidbox'
    assert topic_prefix('a-b*#ü_') == 'kombu.topic.a--b-s--h--xfc-_.'
    assert fanout_pattern('') == 'kombu.fanout._'


def test_two_queues_of_one_name_are_refused(pgmq_url):
    with Connection(pgmq_url) as connection:
        declare(connection, 'a.b')
        declare(connection, 'a.b')
        with pytest.raises(InvalidArgument, match=r"is called 'a_b' in pgmq, and so is 'a\.b'"):
            declare(connection, 'A-b')
        declare(connection, 'x' * 80)
        with Connection(pgmq_url, transport_options={'fetch_ahead': 7}) as there:
            there.Producer(routing_key='x' * 80, serializer='json').publish('long')
        assert Queue('x' * 80)(connection.default_channel).get().payload == 'long'


# ----------------------------------------------------------------------------------------- what it costs


def test_batches_and_never_a_poll_at_the_server(postgresql, pgmq_database, pgmq_url):
    calls = log_of(postgresql, pgmq_database)
    with Connection(pgmq_url) as connection:
        declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        before = statements(connection)
        green.joinall([green.spawn(producer.publish, n) for n in range(300)], raise_error=True)
        assert statements(connection) - before <= 10
        before = statements(connection)
        with consuming(connection, prefetch_count=100) as seen:
            while len(seen) < 300:
                connection.drain_events(timeout=10)
            drained(connection, 0.1)
        assert sorted(seen) == list(range(300))
        assert statements(connection) - before <= 40
        connection.default_channel.close()
    assert postgresql.run('SELECT count(*) FROM pgmq.q_q', database=pgmq_database) == [(0,)]
    wait_until(lambda: calls().get('read'), 10, 'the counts of calls')
    counted = calls()
    assert not any('poll' in name for name in counted), counted
    assert counted['send_batch'] <= 10 and counted['read'] <= 20 and counted['delete'] <= 20, counted


def test_a_publisher_that_is_alone_has_its_statement_planned_once(pgmq_url):
    with Connection(pgmq_url, transport_options={'max_connections': 1}) as connection:
        declare(connection)
        producer = connection.Producer(routing_key='q')
        for _ in range(60):
            producer.publish('x')
        asked = 'SELECT sum(custom_plans)::int, sum(generic_plans)::int FROM pg_prepared_statements'
        (anew, again), = driver(connection).access.run(asked, deadline=runtime.Deadline.after(5))
        assert anew <= 5 and again >= 45


def test_reads_and_deletes_of_one_message_are_planned_once(pgmq_url):
    """Those of ours; what pgmq's functions do is for pgmq."""
    deadline = runtime.Deadline.after(60)
    with Connection(pgmq_url, transport_options={'max_connections': 1}) as connection:
        declare(connection)
        mine = driver(connection)
        producer = connection.Producer(routing_key='q')
        green.joinall([green.spawn(producer.publish, n) for n in range(100)], raise_error=True)
        for _ in range(60):
            taken = mine.take(['q'], 1, 1 << 20, 0.0)
            assert len(taken) == 1
            assert not mine.settle(taken, [], deadline)
        asked = """SELECT custom_plans, generic_plans FROM pg_prepared_statements
            WHERE statement LIKE '%looked(%' OR statement LIKE '%mine AS (%'"""
        found = mine.access.run(asked, deadline=deadline)
        assert len(found) == 2
        for anew, again in found:
            assert anew <= 5 and again >= 45, found


@pytest.mark.slow
def test_an_idle_consumer_asks_nothing(pgmq_url):
    with Connection(pgmq_url) as connection:
        declare(connection)
        with consuming(connection):
            drained(connection)
            listens(connection)
            drained(connection)
            before = statements(connection)
            drained(connection, 2.0)
            assert statements(connection) - before <= 1


def test_declaring_waits_for_no_publisher(postgresql, pgmq_database, pgmq_url):
    """And no publisher for it: while somebody's transaction writes to the queue, it is not made again."""
    with Connection(pgmq_url) as connection:
        bound = declare(connection)
        with postgresql.client(pgmq_database) as other:
            other.execute('BEGIN')
            other.execute("SELECT pgmq.send('q', '{}')")
            with green.Timeout(5):
                declare(connection)
                connection.Producer(routing_key='q', serializer='json').publish('hello')
                assert bound.get().payload == 'hello'
            other.execute('ROLLBACK')


# ------------------------------------------------------------------------------------------------ leases


@pytest.mark.slow
def test_what_is_held_is_renewed(pgmq_url):
    options = {'lease_timeout': 1}
    with Connection(pgmq_url, transport_options=options) as here, Connection(
        pgmq_url, transport_options={**options, 'fetch_ahead': 7}
    ) as there:
        bound = declare(here)
        here.Producer(routing_key='q', serializer='json').publish('long work')
        message = bound.get()
        green.sleep(2.5)
        assert Queue('q')(there.default_channel).get() is None
        message.ack()
        drained(here)
    with Connection(pgmq_url) as again:
        assert Queue('q')(again.default_channel).get() is None


def test_what_somebody_else_has_by_now_is_not_deleted(postgresql, pgmq_database, pgmq_url):
    """A delivery is known by the time of its read."""
    with Connection(pgmq_url) as connection:
        bound = declare(connection)
        connection.Producer(routing_key='q', serializer='json').publish('mine')
        message = bound.get()
        postgresql.run("SELECT pgmq.set_vt('q', 1, 0)", database=pgmq_database)
        (read,), = postgresql.run("SELECT read_ct FROM pgmq.read('q', 60, 1)", database=pgmq_database)
        assert read == 2
        message.ack()
        drained(connection, 0.2)
        assert postgresql.run('SELECT count(*) FROM pgmq.q_q', database=pgmq_database) == [(1,)]


@pytest.mark.slow
def test_a_dead_consumers_message_wakes_who_waits(postgresql, pgmq_database, pgmq_url):
    """Nobody tells when a lease ends: who waits knows the time."""
    with Connection(pgmq_url) as connection:
        declare(connection)
        connection.Producer(routing_key='q', serializer='json').publish('again')
        postgresql.run("SELECT pgmq.read('q', 2, 1)", database=pgmq_database)
        with consuming(connection) as seen:
            before = statements(connection)
            connection.drain_events(timeout=10)
            assert seen == ['again'] and statements(connection) - before <= 15


def test_a_delayed_message_comes_when_it_is_due(pgmq_url):
    came = {}

    def on_message(body, message):
        came[body] = runtime.monotonic()
        message.ack()

    with Connection(pgmq_url) as connection:
        bound = declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        with Consumer(connection, [bound], callbacks=[on_message], accept=['json']):
            drained(connection, 0.1)
            began = runtime.monotonic()
            producer.publish('as kombu says it', DelaySeconds=3)
            producer.publish('later', headers={'x-delay': 2000})
            producer.publish('now')
            while len(came) < 3:
                connection.drain_events(timeout=10)
    assert list(came) == ['now', 'later', 'as kombu says it']
    assert came['later'] - began >= 2 and came['as kombu says it'] - began >= 3


# -------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize('value', ['a\0b', '\ud800', ['deep', {'in': 'a\0b'}]])
def test_what_jsonb_cannot_keep_is_refused_by_its_place(pgmq_url, value):
    with Connection(pgmq_url) as connection:
        bound = declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        with pytest.raises(InvalidArgument, match=r"headers\['h'\]"):
            producer.publish('bad', headers={'h': value})
        producer.publish('a backslash and u0000: \\u0000, NaN', headers={'h': '\\u0000 NaN \U0001f600'})
        message = bound.get()
        assert message.headers['h'] == '\\u0000 NaN \U0001f600'


def test_one_bad_message_fails_alone(pgmq_url):
    """Should one get as far as the server, the others of its batch are stored."""
    with Connection(pgmq_url) as connection:
        bound = declare(connection)
        ours = driver(connection)
        message = {'body': '', 'properties': {}, 'headers': {}}
        items = [
            Put('q', '', 'q', payload, message) for payload in (ours.encode(message), '{"h": NaN}', '{}')
        ]
        good, bad, raw = ours.put(items, runtime.Deadline.after(10))
        assert good is None and raw is None and isinstance(bad, InvalidArgument)
        assert bound.queue_declare(passive=True).message_count == 2


def test_a_database_without_pgmq(postgresql_url, postgresql, database):
    url = postgresql.url(database, 'pgmq')
    for options in ({}, {'init_extension': False}):
        with pytest.raises(NotFound, match='there is no pgmq in this database'):
            Connection(url, transport_options=options).connect()


def test_a_connection_string_and_options(postgresql, pgmq_database):
    given = postgresql.url(pgmq_database)
    with Connection('pgmq://', transport_options={'conn_string': given, 'queue_name_prefix': 'p-'}) as one:
        declare(one)
        assert [queue['name'] for queue in one.get_manager().get_queues()] == ['q']
        assert postgresql.run('SELECT queue_name FROM pgmq.meta', database=pgmq_database) == [('p_q',)]
    with pytest.raises(InvalidArgument, match='fifo_mode'):
        Connection('pgmq://', transport_options={'fifo_mode': 'sorted'}).connect()
    with pytest.raises(InvalidArgument, match='name of one database'):
        Connection(f'{postgresql.url(pgmq_database, "pgmq")}/more').connect()


def test_groups_come_one_by_one(pgmq_url):
    with Connection(pgmq_url, transport_options={'fifo_mode': 'grouped'}) as connection:
        bound = declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        for n in range(2):
            producer.publish(n, headers={'x-pgmq-group': 'g'})
        first = bound.get()
        assert first.payload == 0 and bound.get() is None
        first.ack()
        drained(connection, 0.2)
        assert bound.get().payload == 1


# ------------------------------------------------------------------------------------------ kombu beside


@pytest.mark.slow
def test_kombu_on_the_same_queues(pgmq_url, kombu):
    kombu.declare('a.b', '', 'direct', 'a.b')
    with Connection(pgmq_url) as connection:
        bound = declare(connection, 'a.b')
        kombu.publish({'from': 'kombu', 'word': 'grün'}, '', 'a.b')
        message = bound.get()
        assert message.payload == {'from': 'kombu', 'word': 'grün'}
        message.ack()
        connection.Producer(routing_key='a.b', serializer='json').publish({'from': 'us'}, headers={'h': [1]})
        tag, payload, headers, info, _ = kombu.get('a.b')
        assert payload == {'from': 'us'} and headers == {'h': [1]} and info['routing_key'] == 'a.b'
        assert bound.get() is None  # while kombu holds it
        kombu.settle(tag, 'requeue')
        again = bound.get()
        assert again.payload == {'from': 'us'} and kombu.get('a.b') is None
        again.ack()


@pytest.mark.slow
def test_bindings_are_shared_with_kombu(pgmq_url, kombu):
    kombu.declare('theirs', 'events', 'topic', 'order.*')
    kombu.declare('theirs.all', 'all', 'fanout', '')
    events, everyone = Exchange('events', type='topic'), Exchange('all', type='fanout')
    with Connection(pgmq_url) as connection:
        channel = connection.default_channel
        for queue in (Queue('ours', events, routing_key='order.#'), Queue('ours.all', everyone)):
            queue(channel).declare()
        producer = connection.Producer(serializer='json')
        producer.publish(1, exchange=events, routing_key='order.paid')
        producer.publish(2, exchange=everyone)
        assert kombu.get('theirs')[1] == 1 and kombu.get('theirs.all')[1] == 2
        assert Queue('ours')(channel).get().payload == 1 and Queue('ours.all')(channel).get().payload == 2
        kombu.publish(3, 'events', 'order.sent')
        kombu.publish(4, 'all', '')
        assert Queue('ours')(channel).get().payload == 3 and Queue('ours.all')(channel).get().payload == 4
        Queue('ours', events, routing_key='order.#')(channel).unbind_from(events, 'order.#')
        kombu.publish(5, 'events', 'order.sent')
        assert Queue('ours')(channel).get() is None


@pytest.mark.slow
def test_who_tells_by_pgmqs_trigger_wakes_us(postgresql, pgmq_database, pgmq_url):
    options = {'use_notify': True, 'notify_throttle_interval_ms': 0}
    with Connection(pgmq_url, transport_options=options) as connection:
        declare(connection)
        with consuming(connection) as seen:
            drained(connection)
            listens(connection)
            drained(connection, 0.2)
            before = statements(connection)
            payload = driver(connection).encode(
                {'body': '"hello"', 'content-type': 'application/json', 'content-encoding': 'utf-8',
                 'headers': {}, 'properties': {'delivery_info': {}, 'delivery_tag': 'x'}}
            )
            postgresql.run('SELECT pgmq.send(%s, %s)', 'q', payload, database=pgmq_database)
            connection.drain_events(timeout=10)
            assert seen == ['hello'] and statements(connection) - before <= 4


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.green_timeout(300)
def test_connections_ended_by_an_administrator(postgresql, pgmq_database, pgmq_url):
    # A read whose answer was lost costs the lease.
    survives_endings(postgresql, pgmq_database, pgmq_url, {'lease_timeout': 3})


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.green_timeout(300)
def test_a_server_that_is_killed_and_comes_back(postgresql, pgmq_url):
    survives(pgmq_url, postgresql.restart, 12 if FACTOR > 1 else 2, {'lease_timeout': 3})
