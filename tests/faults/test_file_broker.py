"""The broker in a file: several processes at once, forks, a file that cannot be written, and idle silence."""
from __future__ import annotations

import errno
import os
import random
import sqlite3
import sys
import time

import pytest

from greenmq import Connection, Consumer, Queue, runtime
from greenmq.exceptions import InconsistencyError, InvalidArgument, OperationalError, PublishUnconfirmed
from greenmq.transport.gate import Gate
from greenmq.transport.sqlite import store
from tests.stress import FACTOR
from tests.support import green
from tests.support.process import end, popen, wait_until

WRITERS, SECONDS = (16, 300) if FACTOR > 1 else (6, 1.5)

WRITER = """
import os, sys, time
from greenmq import Connection
url, name, seconds = sys.argv[1:]
producer = Connection(url, connect_timeout=60).Producer(serializer='json', routing_key='many')
waits, syncs, sync = [], [], os.fdatasync
def timed(log):
    began = time.monotonic()
    sync(log)
    syncs.append(time.monotonic() - began)
os.fdatasync = timed
producer.publish(f'{name}-first')  # imports what it needs, which takes a processor
syncs.clear()
until = time.monotonic() + float(seconds)
while time.monotonic() < until:
    began = time.monotonic()
    producer.publish(f'{name}-{len(waits)}')
    waits.append(time.monotonic() - began)
waits.sort()
print(len(waits) + 1, waits[-1], *[waits[int(len(waits) * at)] for at in (0.5, 0.99)],
      max(syncs, default=0))
"""

#: Publishes, each confirmed one with a line, and has the log copied after each transaction.
CHECKPOINTER = """
import sys
from greenmq import Connection
from greenmq.transport.sqlite import store
store._CHECKPOINT = 1
producer = Connection(sys.argv[1]).Producer(serializer='json', routing_key='q')
number = 0
while True:
    producer.publish(f'{sys.argv[2]}-{number}')
    print(f'{sys.argv[2]}-{number}', flush=True)
    number += 1
"""


def healthy(file):
    with sqlite3.connect(file) as db:
        found = db.execute('PRAGMA integrity_check').fetchall()
    db.close()
    return found == [('ok',)]


def note(seen, body, message):
    seen.append(body)
    message.ack()


def statements(connection):
    return connection.transport.session.driver.stats()['commits']


@pytest.mark.slow
@pytest.mark.green_timeout(600 if FACTOR > 1 else 90)
@pytest.mark.parametrize(('place', 'file'), [
    ('file_url', 'broker/broker.db'), ('sqla_sqlite_url', 'kombu.db'),
], ids=['file', 'sqla_sqlite'])
def test_many_writers_take_turns(request, tmp_path, place, file):
    """No "database is locked", and nothing lost."""
    url = request.getfixturevalue(place)
    with Connection(url, connect_timeout=60) as connection:
        Queue('many', routing_key='many')(connection.default_channel).declare()
        command = [sys.executable, '-c', WRITER, url]
        writers = [popen([*command, f'w{n}', str(SECONDS)], stdout=-1, text=True) for n in range(WRITERS)]
        told = []
        for writer in writers:
            wait_until(lambda writer=writer: writer.poll() is not None, SECONDS + 70, 'a writer')
            assert writer.returncode == 0
            told.append(writer.stdout.read().split())
            writer.stdout.close()
        total = sum(int(number) for number, *_ in told)
        longest, half, most, disk = (max(float(row[at]) for row in told) for at in range(1, 5))
        print(f'{total} messages; a publish took {longest:.3f} s at most, the slowest {half:.4f} s in half '
              f'of all cases and {most:.4f} s in 99 %; the disk alone {disk:.3f} s at most')
        assert Queue('many')(connection.default_channel).queue_declare(passive=True).message_count == total
    assert healthy(tmp_path / file)


def test_a_clock_that_jumps_gives_nothing_back(file_url, monkeypatch):
    """Who is alive is told by a lock, and by no clock."""
    with Connection(file_url, transport_options={'sweep_interval': 0.1}) as connection:
        bound = Queue('q', routing_key='q')(connection.default_channel)
        bound.declare()
        connection.Producer(routing_key='q').publish('x')
        held, real = bound.get(), time.time
        for jump in (3600, -3600):
            monkeypatch.setattr(time, 'time', lambda jump=jump: real() + jump)
            green.sleep(0.3)
            assert bound.get() is None
        assert held.ack() is not False


def test_a_publish_and_an_ack_wait_for_the_disk_and_nothing_else_does(file_url, monkeypatch):
    synced, sync = [], os.fdatasync

    def noted(log):
        synced.append(os.readlink(f'/proc/self/fd/{log}'))
        sync(log)

    monkeypatch.setattr(os, 'fdatasync', noted)
    with Connection(file_url) as connection:
        bound = Queue('q', routing_key='q')(connection.default_channel)
        bound.declare()
        producer = connection.Producer(routing_key='q')
        synced.clear()
        producer.publish('x')
        log = file_url.removeprefix('file://') + '/broker.db-wal'
        assert synced == [log]
        message = bound.get()
        assert synced == [log]
        message.ack()
        connection.transport.session.settler.wait(runtime.Deadline.after(10))
        assert synced == [log] * 2
        assert bound.queue_declare(passive=True).message_count == 0
        assert synced == [log] * 2


def test_who_waits_for_the_disk_holds_up_no_other_process(file_url, monkeypatch):
    """It has left the gate by then, and its publish is confirmed when the disk has it and not before."""
    begun, disk, sync = runtime.NativeLock(), runtime.NativeLock(), os.fdatasync

    def slow(log):
        begun.release()
        with disk:
            sync(log)

    with Connection(file_url) as connection:
        producer = connection.Producer(routing_key='q')
        producer.publish('first')
        begun.acquire()
        with monkeypatch.context() as patch, disk:
            patch.setattr(os, 'fdatasync', slow)
            publishing = green.spawn(producer.publish, 'slow')
            wait_until(lambda: begun.acquire(timeout=0), 10, 'the disk')
            child = popen([sys.executable, '-c', WRITER, file_url, 'other', '0.1'])
            wait_until(lambda: child.poll() is not None, 30, 'the other process')
            assert child.returncode == 0
            assert not publishing.ready()
        publishing.get(timeout=10)


def test_the_log_is_copied_into_the_database_outside_of_the_gate(file_url, monkeypatch):
    """Other processes write meanwhile, and the log stays short."""
    copies, copy = [], store.Store.checkpoint
    gate = Gate(file_url.removeprefix('file://') + '/broker.db')

    def noted(self):
        with gate:  # waits for ever, were it ours
            copies.append(self._pages)
        copy(self)

    monkeypatch.setattr(store.Store, 'checkpoint', noted)
    with Connection(file_url) as connection:
        Queue('q')(connection.default_channel).declare()
        producer = connection.Producer(routing_key='q')
        for _ in range(4 * store._CHECKPOINT // store._COMMIT_PAGES):
            producer.publish('x')
        assert len(copies) in (3, 4)
        log = os.path.getsize(file_url.removeprefix('file://') + '/broker.db-wal')
        assert log < 4096 * 3 * store._CHECKPOINT
    gate.close()


@pytest.mark.slow
@pytest.mark.own_process
def test_a_kill_while_the_log_is_copied_loses_nothing(file_url, tmp_path):
    confirmed = []
    with Connection(file_url) as connection:
        Queue('q', routing_key='q')(connection.default_channel).declare()
    for turn in range(4 * FACTOR):
        names = [f'{turn}a', f'{turn}b', f'{turn}c']
        children = [popen([sys.executable, '-c', CHECKPOINTER, file_url, name], stdout=-1, text=True)
                    for name in names]
        for child in children:
            confirmed.append(child.stdout.readline().strip())
        green.sleep(random.uniform(0, 0.3))
        for child in children:
            child.kill()
        for child in children:
            confirmed += child.stdout.read().split('\n')[:-1]
            child.stdout.close()
            child.wait()
        assert healthy(tmp_path / 'broker/broker.db')
    seen = []
    with Connection(file_url) as connection, Consumer(
        connection, [Queue('q')], callbacks=[lambda body, message: note(seen, body, message)]
    ):
        while not set(confirmed) <= set(seen):
            connection.drain_events(timeout=5)


def test_an_error_of_the_disk_is_a_publish_that_was_not_confirmed(file_url, monkeypatch):
    with Connection(file_url) as connection:
        producer = connection.Producer(routing_key='q')
        producer.publish('before')

        def broken(log):
            raise OSError(errno.EIO, 'Input/output error')

        with monkeypatch.context() as patch:
            patch.setattr(os, 'fdatasync', broken)
            with pytest.raises(PublishUnconfirmed, match='Input/output error') as caught:
                producer.publish('x', timeout=2)
        assert caught.value.sent == 'unknown'
        producer.publish('after', timeout=10)


def test_a_hundred_greenlets_share_commits(file_url):
    with Connection(file_url) as connection:
        producer = connection.Producer(routing_key='q')
        producer.publish('first')
        before = statements(connection)
        green.joinall([green.spawn(producer.publish, str(n)) for n in range(100)], raise_error=True)
        assert statements(connection) - before <= 10


def test_consuming_takes_and_settles_in_batches(file_url):
    with Connection(file_url) as connection:
        producer, seen = connection.Producer(routing_key='q', serializer='json'), []
        green.joinall([green.spawn(producer.publish, n) for n in range(500)], raise_error=True)
        before = statements(connection)

        def on_message(body, message):
            seen.append(body)
            message.ack()

        with Consumer(connection, [Queue('q')], callbacks=[on_message], prefetch_count=100):
            while len(seen) < 500:
                connection.drain_events(timeout=5)
        assert statements(connection) - before <= 30


@pytest.mark.slow
def test_an_idle_consumer_asks_nothing(file_url):
    with Connection(file_url) as connection:
        with Consumer(connection, [Queue('q')], callbacks=[lambda body, message: message.ack()]):
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.3)
            before = statements(connection)
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=3)
            assert statements(connection) == before


def test_a_publish_in_one_process_wakes_the_consumer_in_another(file_url):
    seen = []
    with Connection(file_url) as connection:
        Queue('q', routing_key='q')(connection.default_channel).declare()
        program = (
            'import sys; from greenmq import Connection\n'
            "producer = Connection(sys.argv[1]).Producer(routing_key='q')\n"
            "for line in sys.stdin: producer.publish(line.strip())\n"
        )
        child = popen([sys.executable, '-c', program, file_url], stdin=-1, text=True)
        with Consumer(connection, [Queue('q')], callbacks=[lambda body, message: note(seen, body, message)]):
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.2)
            child.stdin.write('hello\n')
            child.stdin.flush()
            connection.drain_events(timeout=10)
        assert seen == ['hello']
        child.stdin.close()
        end(child)


def test_a_delayed_message_wakes_who_waits(file_url):
    seen = []
    with Connection(file_url) as connection:
        producer = connection.Producer(routing_key='q')
        with Consumer(connection, [Queue('q')], callbacks=[lambda body, message: note(seen, body, message)]):
            producer.publish('later', headers={'x-delay': 1000})
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.1)
            connection.drain_events(timeout=5)
        assert seen == ['later']


@pytest.mark.own_process
def test_fork_under_load(file_url, tmp_path):
    """The child has an owner of its own, the parent's deliveries and its file stay what they were."""
    program = """
import os, sys
from greenmq import Connection, Queue, runtime
url = sys.argv[1]
connection = Connection(url)
producer = connection.Producer(routing_key='q')
producer.publish('first')
held = Queue('q')(connection.default_channel).get()
running = [True]
def load():
    while running:
        producer.publish('parent')
tasks = [runtime.spawn(load, name='load') for _ in range(5)]
for turn in range(5):
    runtime.sleep(0.05)
    child = os.fork()
    if child == 0:
        mine = Connection(url)
        mine.Producer(routing_key='children').publish(str(turn))
        mine.close()
        os._exit(0)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        runtime.sleep(0.01)
running.clear()
for task in tasks:
    task.join(5)
held.ack()
connection.close()
print('done')
"""
    quiet = ['-W', 'ignore::DeprecationWarning']
    child = popen([sys.executable, *quiet, '-c', program, file_url], stdout=-1, text=True)
    wait_until(lambda: child.poll() is not None, 30, 'the program')
    assert child.stdout.read() == 'done\n' and child.returncode == 0
    child.stdout.close()
    with Connection(file_url) as connection:
        assert Queue('children')(connection.default_channel).queue_declare(passive=True).message_count == 5
    assert healthy(f'{tmp_path}/broker/broker.db')
    assert os.listdir(tmp_path / 'broker' / 'broker.db.owners') == []


# what cannot be


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / 'x.db').write_bytes(b'hello, this is no database at all' * 100)
    with pytest.raises(OperationalError, match='not a database'):
        Connection(f'sqlite:///{tmp_path}/x.db').ensure_connection(max_retries=1, interval_start=0)


def test_a_database_of_something_else(tmp_path):
    with sqlite3.connect(tmp_path / 'x.db') as db:
        db.execute('CREATE TABLE theirs (a)')
    db.close()
    with pytest.raises(InconsistencyError, match='something else'):
        Connection(f'sqlite:///{tmp_path}/x.db').connect()


@pytest.mark.parametrize('url', ['file://host/dir', 'sqlite://server/a.db', 'file:///', 'sqlite://'])
def test_urls_that_name_no_file(url):
    with pytest.raises(InvalidArgument, match='file:///dir'):
        Connection(url).connect()


def test_a_full_disk_is_a_publish_that_was_not_confirmed(file_url):
    """As the system says it, and it works again when there is room."""
    with Connection(file_url) as connection:
        producer = connection.Producer(routing_key='q')
        producer.publish('before')
        side = connection.transport.session.driver._engine._thread.side
        pages = side._store._db.execute('PRAGMA page_count').fetchone()[0]
        side._store._db.execute(f'PRAGMA max_page_count={pages + 2}')
        with pytest.raises(PublishUnconfirmed, match='full'):
            producer.publish('x' * 100_000, timeout=2)
        producer.publish('after', timeout=10)
        channel = connection.default_channel
        assert Queue('q')(channel).queue_declare(passive=True).message_count == 2


def test_relative_and_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url, path in (('sqlite:///here.db', 'here.db'), (f'sqlite:///{tmp_path}/there.db', 'there.db'),
                      (f'file://{tmp_path}/folder', 'folder/broker.db')):
        with Connection(url) as connection:
            connection.Producer(routing_key='q').publish('x')
        assert (tmp_path / path).exists()
