"""Queues in PostgreSQL: connections that end, a server that dies, notifications that fail, dead rows."""
from __future__ import annotations

import pytest

from greenmq import Connection, Queue, runtime
from greenmq.exceptions import AccessRefused, InvalidArgument, NotFound
from greenmq.transport.driver import UNSEEN
from greenmq.transport.postgresql import connection as connecting
from greenmq.transport.postgresql import listener as listening
from tests.faults.stores import consuming, forks, survives, survives_endings
from tests.stress import FACTOR
from tests.support import green
from tests.support.kombu_process import Kombu
from tests.support.postgresql import PostgreSQL
from tests.support.process import wait_until
from tests.support.stores import declare, drained, driver, listens, statements

#: Makes so many rows as kombu leaves them when it has delivered a message.
DEAD = (
    'INSERT INTO kombu_message (id, visible, timestamp, payload, version, queue_id) '
    "SELECT nextval('message_id_sequence'), false, now(), '{{}}', 2, q.id "
    "FROM kombu_queue q, generate_series(1, {}) WHERE q.name = 'q'"
)


# ------------------------------------------------------------------------------------------ what it costs


def test_a_hundred_greenlets_share_statements(postgresql_url):
    with Connection(postgresql_url) as connection:
        declare(connection)
        producer = connection.Producer(routing_key='q')
        before = statements(connection)
        green.joinall([green.spawn(producer.publish, str(n)) for n in range(100)], raise_error=True)
        assert statements(connection) - before <= 5


def test_taking_and_settling_come_in_batches(postgresql_url):
    with Connection(postgresql_url) as connection:
        declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        green.joinall([green.spawn(producer.publish, n) for n in range(500)], raise_error=True)
        before = statements(connection)
        with consuming(connection, prefetch_count=100) as seen:
            while len(seen) < 500:
                connection.drain_events(timeout=5)
        assert sorted(seen) == list(range(500))
        assert statements(connection) - before <= 30


@pytest.mark.slow
@pytest.mark.own_process
def test_a_publish_waits_for_the_disk_and_a_claim_does_not():
    with PostgreSQL(fsync='on') as server:
        url = server.url()

        def syncs(use):
            # A session's counts are there when it has ended
            before = server.run('SELECT wal_sync FROM pg_stat_wal')[0][0]
            with Connection(url) as connection:
                declare(connection)
                use(connection)
            wait_until(lambda: server.sessions('postgres') == 1, 10, 'the end of the sessions')
            return server.run('SELECT wal_sync FROM pg_stat_wal')[0][0] - before

        def publish(connection):
            producer = connection.Producer(routing_key='q', serializer='json')
            for n in range(50):
                producer.publish(n)
            green.joinall([green.spawn(producer.publish, n) for n in range(50, 500)], raise_error=True)

        def consume(connection):
            with consuming(connection, prefetch_count=100) as seen:
                while len(seen) < 500:
                    connection.drain_events(timeout=10)

        syncs(lambda connection: None)  # makes the tables
        idle = syncs(lambda connection: None)
        assert 48 <= syncs(publish) - idle <= 50 + 30
        assert syncs(consume) - idle <= 20  # some acks, and none for what was taken


@pytest.mark.slow
def test_an_idle_consumer_asks_nothing(postgresql_url):
    with Connection(postgresql_url) as connection:
        declare(connection)
        with consuming(connection):
            drained(connection)
            listens(connection)
            drained(connection)
            before = statements(connection)
            drained(connection, 2.5)
            assert statements(connection) - before <= 1


def test_acked_rows_are_gone(postgresql, database):
    with Connection(postgresql.url(database)) as connection:
        declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        for n in range(10):
            producer.publish(n)
        with consuming(connection) as seen:
            while len(seen) < 10:
                connection.drain_events(timeout=5)
    for table in ('kombu_message', 'greenmq_delivery', 'greenmq_owner'):
        assert postgresql.run(f'SELECT count(*) FROM {table}', database=database) == [(0,)], table


@pytest.mark.parametrize('queues', ["'q'", "ARRAY['none', 'q']"])
def test_a_claim_reads_no_dead_rows(postgresql, database, queues):
    """However many kombu left: what a claim reads is what it takes."""
    dead = 1_000_000 if FACTOR > 1 else 20_000
    with Connection(postgresql.url(database)) as connection:
        declare(connection)
        postgresql.run(DEAD.format(dead), database=database)
        producer = connection.Producer(routing_key='q', serializer='json')
        for n in range(20):
            producer.publish(n)
        postgresql.run('VACUUM ANALYZE kombu_message', database=database)
        sql = driver(connection).sql
        sql = (sql.take if 'ARRAY' in queues else sql.take_one).format(room=10)
        for place, value in (('$1', queues), ('$2', '1000000'), ('$3', '1'), ('$4', '1')):
            sql = sql.replace(place, value)
        (plan,), = postgresql.run(f'EXPLAIN (ANALYZE, FORMAT JSON) {sql}', database=database)
        reads = list(_rows_read(plan[0]['Plan'], 'kombu_message'))
        assert reads and max(reads) <= 20, reads  # what waits, and none of the dead


def test_a_plan_made_for_an_empty_table_is_not_kept(postgresql, database):
    """Who waited where nothing was reads what it takes, too, although the server has not counted yet."""
    deadline = runtime.Deadline.after(60)
    with Connection(postgresql.url(database), transport_options={'max_connections': 1}) as connection:
        declare(connection)
        mine = driver(connection)

        def ask(statement):
            return mine.access.run(statement, deadline=deadline)

        for table in ('kombu_message', 'kombu_queue', 'greenmq_delivery'):
            postgresql.run(f'VACUUM ANALYZE {table}', database=database)
        for _ in range(24):
            connection.Producer(routing_key='q').publish('x')
            mine.settle(mine.take(['q'], 1, 1 << 20, 0.0), [], deadline)
        postgresql.run(DEAD.format(20_000), database=database)
        connection.Producer(routing_key='q').publish('x')
        green.sleep(connecting._PLAN_AGE + 0.1)
        assert not mine.take(['none'], 1, 1 << 20, 0.0)  # any that is prepared has them all planned anew
        (name,), = ask("SELECT name FROM pg_prepared_statements WHERE statement LIKE '%found AS (%'")
        (plan,), = ask(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {name} ('q', 1000000, 1, 1)")
        reads = list(_rows_read(plan[0]['Plan'], 'kombu_message'))
        assert reads and max(reads) <= 20, reads


@pytest.mark.parametrize('queues', [['q'], ['none', 'q']])
def test_claims_and_acks_are_planned_once_however_many_wait(postgresql, database, queues):
    """One by one, and of a table that the server has counted: to plan each took it longer than to run it."""
    deadline = runtime.Deadline.after(60)
    with Connection(postgresql.url(database), transport_options={'max_connections': 1}) as connection:
        declare(connection)
        mine = driver(connection)
        producer = connection.Producer(routing_key='q')
        green.joinall([green.spawn(producer.publish, n) for n in range(2000)], raise_error=True)
        postgresql.run('VACUUM ANALYZE kombu_message', database=database)
        for _ in range(60):
            taken = mine.take(queues, 1, 1 << 20, 0.0)
            assert len(taken) == 1
            assert not mine.settle(taken, [], deadline)
        asked = """SELECT custom_plans, generic_plans FROM pg_prepared_statements
            WHERE statement LIKE '%found AS (%' OR statement LIKE '%mine AS (%'"""
        found = mine.access.run(asked, deadline=deadline)
        assert len(found) == 2
        for anew, again in found:
            assert anew <= 5 and again >= 45, found


def test_a_table_in_use_gets_no_index_and_nobody_waits_for_it(postgresql, database):
    with Connection(postgresql.url(database)) as connection:
        declare(connection)
    postgresql.run('DROP INDEX ix_kombu_message_greenmq', database=database)
    with postgresql.client(database) as other, green.Timeout(20):
        other.execute('BEGIN')
        other.execute("INSERT INTO kombu_message (id, payload, version) VALUES (-1, '{}', 1)")
        with Connection(postgresql.url(database)) as connection:
            connection.Producer(routing_key='q').publish('x')
            assert Queue('q')(connection.default_channel).get() is not None
        other.execute('ROLLBACK')


def _rows_read(node, table):
    if node.get('Relation Name') == table and 'Scan' in node['Node Type']:
        yield node['Actual Rows'] * node['Actual Loops'] + node.get('Rows Removed by Filter', 0)
    for child in node.get('Plans', ()):
        yield from _rows_read(child, table)


def test_dead_rows_of_kombu_are_purged_if_asked(postgresql, database):
    with Connection(
        postgresql.url(database), transport_options={'purge_delivered': True, 'sweep_interval': 0.1}
    ) as connection:
        bound = declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        for n in range(3):
            producer.publish(n)
        held = bound.get()
        postgresql.run(
            'UPDATE kombu_message SET visible = false, timestamp = now() '
            'WHERE id = (SELECT max(id) FROM kombu_message)', database=database,
        )
        count = 'SELECT count(*) FROM kombu_message'
        wait_until(lambda: postgresql.run(count, database=database) == [(2,)], 10, 'the purge')
        green.sleep(0.3)
        assert postgresql.run(count, database=database) == [(2,)]  # what is held, and what waits
        assert held.ack() is not False


# ---------------------------------------------------------------------------------------------- waking


def test_a_publish_elsewhere_wakes_who_waits(postgresql_url):
    with Connection(postgresql_url) as here, Connection(
        postgresql_url, transport_options={'notify': True, 'fetch_ahead': 7}
    ) as there:
        declare(here)
        assert driver(here) is not driver(there)
        with consuming(here) as seen:
            drained(here)
            listens(here)
            before = statements(here)
            there.Producer(routing_key='q', serializer='json').publish('hello')
            here.drain_events(timeout=5)
            assert seen == ['hello'] and statements(here) - before <= 3


def test_nobody_is_told_of_a_queue_on_which_nobody_waits(postgresql, database):
    with Connection(postgresql.url(database)) as connection, postgresql.client(database) as ear:
        declare(connection)
        ear.execute('LISTEN greenmq_kombu_message')
        connection.Producer(routing_key='q').publish('x')
        assert list(ear.notifies(timeout=0.2)) == []


@pytest.fixture
def pooler(monkeypatch):
    """While it is deaf, a connection that listens is to a database in which nobody speaks."""
    monkeypatch.setattr(listening, 'ECHO', 0.3)
    make = listening.Listener.__init__

    class Pooler:
        deaf = True

        def __init__(self, pool):
            self.run = pool.run
            self.pool, self.elsewhere = pool, listening.Pool(pool.dsn.rpartition('/')[0] + '/postgres', 1)

        def connect(self, deadline):
            return (self.elsewhere if self.deaf else self.pool).connect(deadline)

    monkeypatch.setattr(
        listening.Listener, '__init__', lambda self, pool, *rest: make(self, Pooler(pool), *rest)
    )
    return Pooler


@pytest.mark.slow
def test_who_heard_nothing_listens_again(postgresql_url, pooler, monkeypatch, caplog):
    """Also if rows are renewed more often than that is tried: each renewal sends a word to be heard."""
    monkeypatch.setattr(listening, 'AGAIN', 3.0)
    with Connection(postgresql_url, transport_options={'lease_timeout': 1}) as connection:
        declare(connection)
        wait_until(lambda: 'no notifications' in caplog.text, 10, 'the word that nothing comes')
        pooler.deaf = False
        monkeypatch.setattr(listening, 'ECHO', 5.0)
        listens(connection)


@pytest.mark.slow
def test_a_pooler_that_delivers_no_notifications(postgresql_url, pooler):
    """LISTEN is taken and nothing comes: consumers look by themselves, and say so once."""
    with Connection(postgresql_url) as connection, Connection(
        postgresql_url, transport_options={'fetch_ahead': 7}
    ) as there:
        declare(connection)
        with consuming(connection) as seen:
            drained(connection, 0.6)
            assert not driver(connection).stats()['notified']
            for n in range(3):
                there.Producer(routing_key='q', serializer='json').publish(n)
                connection.drain_events(timeout=5)
            assert seen == [0, 1, 2]


def test_bindings_made_elsewhere_are_known_at_once(postgresql_url):
    from greenmq import Exchange

    exchange = Exchange('x', type='topic')
    with Connection(postgresql_url) as here, Connection(
        postgresql_url, transport_options={'fetch_ahead': 7}
    ) as there:
        listens(here)
        producer = here.Producer(exchange=exchange, serializer='json')
        producer.publish('nobody', routing_key='a.b')
        Queue('late', exchange, routing_key='a.#')(there.default_channel).declare()
        wait_until(lambda: _arrives(producer, there), 5, 'the binding')


def _arrives(producer, there):
    producer.publish('somebody', routing_key='a.b')
    return Queue('late')(there.default_channel).get(no_ack=True)


# ------------------------------------------------------------------------------------------ what breaks


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.green_timeout(300)
def test_connections_ended_by_an_administrator(postgresql, database):
    survives_endings(postgresql, database, postgresql.url(database), {'sweep_interval': 0.5})


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.green_timeout(300)
def test_a_server_that_is_killed_and_comes_back(postgresql, database):
    survives(postgresql.url(database), postgresql.restart, 12 if FACTOR > 1 else 2, {})


@pytest.mark.faults
def test_an_idle_connection_that_was_ended_costs_nobody_an_error(postgresql, database):
    with Connection(postgresql.url(database), transport_options={'notify': False}) as connection:
        bound = declare(connection)
        producer = connection.Producer(routing_key='q')
        for n in range(5):
            postgresql.terminate(database)
            wait_until(lambda: not postgresql.sessions(database), 10, 'the end of the sessions')
            green.sleep(0.05)
            producer.publish(str(n))
        assert bound.queue_declare(passive=True).message_count == 5


@pytest.mark.faults
def test_a_killed_take_gives_back_what_it_took(postgresql_url):
    """Wherever the kill hits, no message stays with a session that does not know of it."""
    with Connection(postgresql_url) as connection:
        bound = declare(connection)
        connection.Producer(routing_key='q').publish('x')
        what = driver(connection)
        turns = 20
        came = []
        for turn in range(turns):
            got = []
            task = runtime.spawn(lambda got=got: got.extend(what.take(['q'], 1, 10**6, 5.0)), name='take')
            green.sleep(turn * 0.0005)
            task.kill()
            task.join()
            if got:  # whoever asked has it, and puts it back
                came += got
                what.settle([], [(taken, UNSEEN) for taken in got], runtime.Deadline.after(5))
            wait_until(lambda: bound.queue_declare(passive=True).message_count == 1, 10, 'the message')
        assert len(came) < turns, 'no kill came in time'


@pytest.mark.faults
def test_a_claim_whose_answer_was_lost_goes_back(postgresql, database, monkeypatch):
    with Connection(postgresql.url(database)) as connection:
        bound = declare(connection)
        connection.Producer(routing_key='q').publish('x')
        what = driver(connection)
        run = what._run

        def cut(statement, *values, deadline):
            rows = run(statement, *values, deadline=deadline)
            if statement in what._takes.values():
                raise OSError('cut after it was done')
            return rows

        monkeypatch.setattr(what, '_run', cut)
        with pytest.raises(OSError):
            what.take(['q'], 1, 10**6, 0)
        monkeypatch.undo()
        assert bound.queue_declare(passive=True).message_count == 0
        what.keep()
        assert bound.queue_declare(passive=True).message_count == 1


@pytest.mark.faults
def test_what_a_session_held_goes_back_when_its_lease_is_over(postgresql, database):
    brisk = {'lease_timeout': 6, 'sweep_interval': 0.2}  # swept well before it is renewed
    with Connection(postgresql.url(database), transport_options=brisk) as here, Connection(
        postgresql.url(database), transport_options={**brisk, 'fetch_ahead': 7}
    ) as there:
        bound = declare(here)
        here.Producer(routing_key='q').publish('x')
        held = bound.get()
        postgresql.run('UPDATE greenmq_owner SET until = now() - interval \'1 s\' WHERE id = %s',
                       driver(here).presence.me, database=database)
        there_bound = Queue('q')(there.default_channel)
        again = []
        wait_until(lambda: again.extend(filter(None, [there_bound.get()])) or again, 20, 'the message')
        assert again[0].headers['x-delivery-count'] == 1 and again[0].delivery_info['redelivered']
        held.ack()
        green.sleep(0.1)
        # Then the late ack has settled nothing
        again[0].requeue()
        wait_until(lambda: bound.queue_declare(passive=True).message_count == 1, 5, 'the message')


def test_a_long_stay_is_kept(postgresql, database):
    """A message in work for many leases stays with its consumer."""
    brisk = {'lease_timeout': 1, 'sweep_interval': 0.2}
    with Connection(postgresql.url(database), transport_options=brisk) as connection:
        bound = declare(connection)
        connection.Producer(routing_key='q').publish('x')
        held = bound.get()
        green.sleep(2.5)
        assert bound.get() is None
        assert held.ack() is not False


@pytest.mark.own_process
def test_a_forked_child_leaves_the_parents_connections_alone(postgresql_url):
    assert forks(postgresql_url) == '3 3\n'


@pytest.mark.slow
def test_a_statement_does_not_stop_the_hub(postgresql_url):
    with Connection(postgresql_url) as connection:
        connection.connect()
        what, ticks, running = driver(connection), [], [True]

        def tick():
            while running:
                ticks.append(1)
                green.sleep(0.01)

        ticker = green.spawn(tick)
        deadline = runtime.Deadline.after(10)
        tasks = [
            runtime.spawn(lambda: what._run('SELECT pg_sleep(0.5)', deadline=deadline), name='sleep')
            for _ in range(4)
        ]
        for task in tasks:
            task.join(deadline)
        running.clear()
        ticker.join()
        assert len(ticks) > 20


# ------------------------------------------------------------------------------------------ what cannot be


def test_a_database_that_is_not_there(postgresql):
    with pytest.raises(NotFound, match='nowhere'):
        Connection(postgresql.url('nowhere')).connect()


def test_a_user_that_is_not_known(postgresql):
    url = postgresql.url().replace('postgres@', 'stranger:secret-word@')
    with pytest.raises(AccessRefused, match='stranger') as caught:
        Connection(url).connect()
    assert 'secret-word' not in str(caught.value)


def test_names_that_cannot_be(postgresql_url):
    with Connection(postgresql_url) as connection:
        with pytest.raises(InvalidArgument, match='200'):
            Queue('q' * 201)(connection.default_channel).declare()
    with pytest.raises(InvalidArgument, match='message_tablename'):
        Connection(postgresql_url, transport_options={'message_tablename': 'a"b'}).connect()


def test_texts_in_a_database_of_another_encoding(postgresql):
    """What is written is UTF-8, whatever the database keeps."""
    name = postgresql.create_database('template0', "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        with Connection(postgresql.url(name)) as connection:
            bound = declare(connection)
            connection.Producer(routing_key='q').publish('é', content_type='text/plain')
            assert bound.get(no_ack=True).payload == 'é'
        with Connection(postgresql.url(name)) as connection:
            queue = Queue('é')(connection.default_channel)
            queue.declare()
            assert driver(connection).has('é', runtime.Deadline.after(5))
        assert ('é',) in postgresql.run('SELECT name FROM kombu_queue', database=name)
    finally:
        postgresql.drop_database(name)


@pytest.mark.parametrize('prepares', [True, False])
def test_statements_are_prepared_that_are_run_often(postgresql, database, prepares):
    """And no more of them than a connection remembers, however the types of their values change."""
    line = connecting.connect(postgresql.url(database), runtime.Deadline.after(5), prepares)
    try:
        for at in range(connecting._REMEMBERED + 20):
            for _ in range(connecting._PREPARE_AFTER + 1):
                assert line.run(f'SELECT $1::int + {at}', 1) == [(at + 1,)]
        names = line.run('SELECT name FROM pg_prepared_statements')
        assert len(names) == (connecting._REMEMBERED if prepares else 0)
        assert line.run('SELECT $1::int', 70_000) == [(70_000,)]
    finally:
        line.discard()


def test_two_brokers_in_one_database(postgresql_url):
    options = {'queue_tablename': 'our_queue', 'message_tablename': 'our_message'}
    with Connection(postgresql_url) as one, Connection(postgresql_url, transport_options=options) as two:
        declare(one)
        bound = declare(two)
        one.Producer(routing_key='q').publish('one')
        assert bound.get() is None
        two.Producer(routing_key='q').publish('two')
        assert bound.get(no_ack=True).payload == 'two'


def test_a_queue_that_nobody_uses_expires(postgresql_url):
    with Connection(postgresql_url, transport_options={'sweep_interval': 0.1}) as connection:
        Queue('short', expires=0.3)(connection.default_channel).declare()
        what = driver(connection)
        assert what.has('short', runtime.Deadline.after(5))
        wait_until(lambda: not what.has('short', runtime.Deadline.after(5)), 10, 'the end of the queue')


# ------------------------------------------------------------------------------------------ beside kombu


@pytest.fixture
def kombu(postgresql, database):
    peer = Kombu(f'sqla+{postgresql.url(database, "postgresql+psycopg")}')
    yield peer
    peer.close()


@pytest.mark.slow
@pytest.mark.parametrize('first', ['kombu', 'greenmq'])
def test_kombu_on_the_same_tables(postgresql_url, kombu, first):
    """Each reads what the other published, whoever made the tables."""
    if first == 'kombu':
        kombu.declare('q', '', 'direct', 'q')
    with Connection(postgresql_url) as connection:
        bound = declare(connection)
        kombu.declare('q', '', 'direct', 'q')
        kombu.publish({'from': 'kombu', 'word': 'grün'}, '', 'q')
        message = bound.get()
        assert message.payload == {'from': 'kombu', 'word': 'grün'}
        message.ack()
        connection.Producer(routing_key='q', serializer='json').publish({'from': 'us'}, headers={'h': [1]})
        tag, payload, headers, info, _ = kombu.get('q')
        assert payload == {'from': 'us'} and headers == {'h': [1]} and info['routing_key'] == 'q'
        kombu.settle(tag, 'ack')
        assert kombu.get('q') is None and bound.get() is None


@pytest.mark.slow
def test_what_one_holds_the_other_leaves_alone(postgresql, database, kombu):
    options = {'lease_timeout': 30, 'sweep_interval': 0.2, 'purge_delivered': False}
    with Connection(postgresql.url(database), transport_options=options) as connection:
        bound = declare(connection)
        for n in range(3):
            connection.Producer(routing_key='q', serializer='json').publish(n)
        mine = bound.get()
        tag, theirs, *_ = kombu.get('q')
        assert (mine.payload, theirs) == (0, 1)
        # Then kombu's row is revived by no sweep, also if kombu dies with it
        green.sleep(1.5)
        assert bound.get().payload == 2 and bound.get() is None and kombu.get('q') is None
        mine.requeue()
        wait_until(lambda: bound.queue_declare(passive=True).message_count == 1, 5, 'the requeue')
        tag, again, *_ = kombu.get('q')
        assert again == 0


@pytest.mark.slow
def test_kombu_wakes_who_waits_by_a_trigger(postgresql_url, kombu):
    with Connection(postgresql_url, transport_options={'trigger': True}) as connection:
        declare(connection)
        kombu.declare('q', '', 'direct', 'q')
        with consuming(connection) as seen:
            drained(connection)
            listens(connection)
            before = statements(connection)
            kombu.publish('hello', '', 'q')
            connection.drain_events(timeout=5)
            assert seen == ['hello'] and statements(connection) - before <= 3


@pytest.mark.slow
def test_kombu_is_found_by_looking_without_one(postgresql_url, kombu):
    with Connection(postgresql_url, transport_options={'wait_time_seconds': 1.0}) as connection:
        declare(connection)
        kombu.declare('q', '', 'direct', 'q')
        with consuming(connection) as seen:
            drained(connection)
            listens(connection)  # only who would be told can see that nobody did
            for n in range(3):
                kombu.publish(n, '', 'q')
                connection.drain_events(timeout=10)
            assert seen == [0, 1, 2]
            assert driver(connection).presence.silent_until > runtime.monotonic()
