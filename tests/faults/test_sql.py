"""What SQL stores bear alike: rows that others lock, silence on the wire, clocks that jump, bursts."""
from __future__ import annotations

import sys
import time

import pytest

from greenmq import Connection, Consumer, Queue, runtime
from greenmq.exceptions import PublishUnconfirmed
from tests.faults.stores import wait_get
from tests.support import green
from tests.support.process import popen, wait_until
from tests.support.proxy import Proxy
from tests.support.stores import declare, drained, driver, listens

pytestmark = pytest.mark.faults

#: Importing SQLAlchemy counts as connecting, and takes its time on a busy machine.
PATIENCE = 60


class Store:
    """A server's database: its URL, its port, and a transaction that locks the first messages there."""

    def __init__(self, url, port, lock):
        self.url = url
        self.port = port
        self.lock = lock

    def connect(self, through=None, **options):
        url = self.url if through is None else self.url.replace(f':{self.port}/', f':{through.port}/')
        return Connection(url, connect_timeout=PATIENCE, transport_options=options)


@pytest.fixture(params=['postgresql', 'pgmq', 'mariadb'])
def store(request):
    if request.param == 'mariadb':
        server, database = request.getfixturevalue('mariadb'), request.getfixturevalue('mariadb_database')
        client = server.client(database)
        client.autocommit(False)
        execute = client.cursor().execute
    else:
        pgmq = request.param == 'pgmq'
        server = request.getfixturevalue('postgresql')
        database = request.getfixturevalue('pgmq_database' if pgmq else 'database')
        client = server.client(database)
        client.autocommit = False
        execute = client.execute
    table, key = ('pgmq.q_q', 'msg_id') if request.param == 'pgmq' else ('kombu_message', 'id')

    def lock(count):
        execute(f'SELECT {key} FROM {table} ORDER BY {key} LIMIT {count} FOR UPDATE')
        return client.rollback

    yield Store(request.getfixturevalue(f'{request.param}_url'), server.port, lock)
    client.close()


def test_a_claim_passes_by_what_others_lock(store):
    with store.connect() as connection:
        bound = declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        for n in range(10):
            producer.publish(n)
        release = store.lock(4)
        with green.Timeout(10):
            assert [bound.get(no_ack=True).payload for _ in range(6)] == [4, 5, 6, 7, 8, 9]
            assert bound.get() is None
        release()
        assert [bound.get(no_ack=True).payload for _ in range(4)] == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_statement_that_the_server_ends_for_another_is_run_again(postgresql, database, postgresql_url):
    with Connection(postgresql_url) as connection, postgresql.client(database) as other:
        bound = declare(connection)
        connection.Producer(routing_key='q').publish('x')
        assert bound.get() is not None
        before = driver(connection).stats()['statements']
        other.execute('BEGIN')
        other.execute('SELECT 1 FROM greenmq_delivery FOR UPDATE')
        deleting = green.spawn(bound.delete)
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
        wait_until(lambda: postgresql.run(waiting, database), 10, 'the delete to wait')
        # Then each waits for the other, and ours, which waited first, sees it first
        other.pgconn.send_query(b'SELECT 1 FROM kombu_message FOR UPDATE')
        wait_until(lambda: driver(connection).stats()['statements'] > before + 1, 10, 'the second try')
        while other.pgconn.get_result() is not None:
            pass
        other.execute('ROLLBACK')
        with green.Timeout(10):
            deleting.get()
        assert not driver(connection).has('q', runtime.Deadline.after(10))


@pytest.mark.slow
def test_silence_on_the_wire_holds_nobody_longer_than_its_deadline(store):
    with Proxy(store.port) as proxy:
        connection = store.connect(proxy, close_timeout=2)
        declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        consumer = Consumer(connection, [Queue('other')], callbacks=[lambda body, message: message.ack()])
        consumer.consume()
        drained(connection)
        proxy.blackhole()
        with green.Timeout(10):
            with pytest.raises(PublishUnconfirmed) as caught:
                producer.publish('lost?', timeout=1)
            assert caught.value.sent == 'unknown'
        with green.Timeout(20):
            connection.close()
        proxy.heal()


def test_a_clock_that_jumps_gives_nothing_back(store, monkeypatch):
    """Only the server's counts: ours may be wrong by an hour."""
    options = {'lease_timeout': 3, 'sweep_interval': 0.2}
    with store.connect(**options) as here, store.connect(**options, fetch_ahead=7) as there:
        bound = declare(here)
        here.Producer(routing_key='q').publish('x')
        held = bound.get()
        there.connect()
        real = time.time
        monkeypatch.setattr(time, 'time', lambda: real() + 3600)
        green.sleep(1)
        assert Queue('q')(there.default_channel).get() is None
        assert held.ack() is not False
        monkeypatch.undo()


def test_a_clock_of_the_machine_that_jumps_gives_nothing_back(sqla_sqlite_url, monkeypatch):
    """A file has no server's clock."""
    options = {'lease_timeout': 12, 'sweep_interval': 0.2}
    with (
        Connection(sqla_sqlite_url, connect_timeout=60, transport_options=options) as here,
        Connection(
            sqla_sqlite_url, connect_timeout=60, transport_options={**options, 'fetch_ahead': 7}
        ) as there,
    ):
        bound = declare(here)
        mine = Queue('mine', exclusive=True)(here.default_channel)
        mine.declare()
        here.Producer(routing_key='q').publish('x')
        held = bound.get()
        there.connect()
        real = time.time
        for jump in (3600, -3600):
            monkeypatch.setattr(time, 'time', lambda jump=jump: real() + jump)
            green.sleep(1)
            assert Queue('q')(there.default_channel).get() is None
            assert driver(there).has('mine', runtime.Deadline.after(10))
        monkeypatch.undo()
        assert held.ack() is not False


@pytest.mark.slow
def test_what_a_dead_process_held_in_a_file_goes_back(sqla_sqlite_url):
    options = {'lease_timeout': 2, 'sweep_interval': 0.2}
    with Connection(sqla_sqlite_url, connect_timeout=60, transport_options=options) as connection:
        bound = declare(connection)
        connection.Producer(routing_key='q').publish('x')
        program = (
            'import sys, time; from greenmq import Connection, Queue\n'
            "options = {'lease_timeout': 2}\n"
            'connection = Connection(sys.argv[1], connect_timeout=60, transport_options=options)\n'
            "print(Queue('q')(connection.default_channel).get().payload, flush=True); time.sleep(60)\n"
        )
        child = popen([sys.executable, '-c', program, sqla_sqlite_url], stdout=-1, text=True)
        assert child.stdout.readline() == 'x\n'
        child.kill()
        child.wait()
        child.stdout.close()
        assert wait_get(bound).payload == 'x'


@pytest.mark.slow
@pytest.mark.once  # nine seconds of waiting for each: what it looks at is what the tables say
@pytest.mark.parametrize('url', ['postgresql_url', 'pgmq_url', 'mariadb_url', 'sqla_sqlite_url', 'file_url'])
def test_a_queue_on_which_somebody_waits_does_not_expire(request, url, monkeypatch):
    """Also if it lives for less than the time between two renewals, and the clock of the machine jumps."""
    url, options = request.getfixturevalue(url), {'sweep_interval': 0.2}
    with Connection(url, connect_timeout=60, transport_options=options) as connection:
        Queue('short', expires=1, routing_key='short')(connection.default_channel).declare()
        with Consumer(connection, [Queue('short')], callbacks=[lambda body, message: message.ack()]):
            drained(connection, 7)
            real = time.time
            monkeypatch.setattr(time, 'time', lambda: real() + 3600)
            drained(connection, 2)
            monkeypatch.undo()
        assert driver(connection).has('short', runtime.Deadline.after(10))


def test_a_burst_wakes_who_waits_for_each(pgmq_url):
    """pgmq's own notifications are one in 250 ms; ours come with each publish."""
    with Connection(pgmq_url) as here, Connection(pgmq_url, transport_options={'fetch_ahead': 7}) as there:
        declare(here)
        producer = there.Producer(routing_key='q', serializer='json')
        seen = []

        def on_message(body, message):
            seen.append(body)
            message.ack()

        with Consumer(here, [Queue('q')], callbacks=[on_message], accept=['json']), green.Timeout(10):
            drained(here)
            listens(here)
            for n in range(20):
                producer.publish(n)
                while n not in seen:
                    here.drain_events()
        assert seen == list(range(20))
        # Then nobody had to look by himself
        assert driver(here).presence.silent_until == 0.0


def test_publishers_to_a_queue_of_pgmq_do_not_wait_for_each_other(postgresql, pgmq_database, pgmq_url):
    """As they do with pgmq's trigger, which updates one row for all."""
    with Connection(pgmq_url) as connection:
        bound = declare(connection)
        with postgresql.client(pgmq_database) as other, green.Timeout(10):
            other.execute('BEGIN')
            other.execute("SELECT pgmq.send('q', '{}')")
            connection.Producer(routing_key='q', serializer='json').publish('hello')
            wait_until(lambda: bound.get(no_ack=True), 5, 'the message')
            other.execute('ROLLBACK')
