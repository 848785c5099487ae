"""Queues as files: woken by the system, half files and strange ones, order, and kombu on the same folder."""
from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import time

import pytest

from greenmq import Connection, Consumer, Exchange, Queue
from greenmq.exceptions import InvalidArgument
from greenmq.transport.filesystem import names
from tests.support import green
from tests.support.process import end, popen, wait_until

MESSAGE = {
    'body': 'ImhlbGxvIg==', 'content-encoding': 'utf-8', 'content-type': 'application/json', 'headers': {},
    'properties': {'body_encoding': 'base64', 'delivery_info': {'exchange': '', 'routing_key': 'q'},
                   'delivery_mode': 2, 'delivery_tag': 't', 'priority': 0},
}  # fmt: skip


@pytest.fixture
def connection(filesystem_url):
    with Connection(filesystem_url, transport_options={'sweep_interval': 0.2}) as connection:
        yield connection


@pytest.fixture
def data(connection, tmp_path):
    connection.connect()
    return tmp_path / 'data'


@pytest.fixture
def elsewhere(tmp_path):
    """A folder on another file system."""
    if not os.path.isdir('/dev/shm') or os.stat('/dev/shm').st_dev == os.stat(tmp_path).st_dev:
        pytest.skip('there is no second file system')
    with tempfile.TemporaryDirectory(dir='/dev/shm') as folder:
        yield folder


def stats(connection):
    return connection.transport.session.driver.stats()


def folder_of(connection):
    return connection.transport.session.driver._folder


def body(n):
    return {**MESSAGE, 'body': base64.b64encode(json.dumps(n).encode()).decode()}


def kombus(number, queue='q', mark='1b4e28ba-2fa1-41d2-883f-0016d3cca427'):
    return f'{number}_{mark}.{queue}.msg'


def consumed(connection, count, seconds=10, queue='q'):
    seen = []

    def on_message(body, message):
        seen.append(body)
        message.ack()

    with Consumer(connection, [Queue(queue)], callbacks=[on_message]), green.Timeout(seconds):
        while len(seen) < count:
            connection.drain_events(timeout=seconds)
    return seen


def get_all(connection, queue='q'):
    channel = connection.default_channel
    seen = []
    while (message := Queue(queue)(channel).get()) is not None:
        seen.append(message.payload)
        message.ack()
    return seen


class TestWaking:

    def test_a_file_of_anybody_wakes_who_waits_and_nothing_is_listed(self, connection, data):
        seen = []

        def on_message(body, message):
            seen.append(body)
            message.ack()

        with Consumer(connection, [Queue('q')], callbacks=[on_message]):
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.3)
            before = stats(connection)['listings']
            for number in range(3):
                (data / kombus(number, mark=f'1b4e28ba-2fa1-41d2-883f-00000000000{number}')).write_text(
                    json.dumps(MESSAGE)
                )
                connection.drain_events(timeout=5)
            assert seen == ['hello'] * 3
            assert stats(connection)['listings'] == before

    def test_where_the_system_tells_nothing_the_folder_is_listed(self, filesystem_url, monkeypatch, tmp_path):
        from greenmq.transport.filesystem import watch

        monkeypatch.setattr(watch, 'start', lambda: None)
        with Connection(filesystem_url) as connection:
            connection.connect()
            green.spawn_later(0.3, (tmp_path / 'data' / kombus(1)).write_text, json.dumps(MESSAGE))
            assert consumed(connection, 1) == ['hello']
            assert stats(connection)['listings'] > 1

    def test_what_was_missed_is_listed(self, connection, data):
        get_all(connection)
        driver = connection.transport.session.driver
        before = stats(connection)['listings']
        driver._told(folder_of(connection), [], True)
        (data / kombus(1)).write_text(json.dumps(MESSAGE))
        assert consumed(connection, 1) == ['hello']
        assert stats(connection)['listings'] == before + 1

    def test_a_folder_that_is_removed_comes_back(self, connection, data, tmp_path):
        import shutil

        connection.Producer(routing_key='q').publish('x')
        shutil.rmtree(data)
        wait_until(lambda: (data / '.greenmq' / 'owners').is_dir(), 10, 'the folder')
        connection.Producer(routing_key='q', serializer='json').publish('again')
        with pytest.raises(connection.connection_errors, match='was removed'):
            connection.drain_events(timeout=1)
        assert consumed(connection, 1) == ['again']


class TestForeignFiles:

    def test_half_a_file_is_left_alone_until_it_is_whole(self, connection, data):
        text = json.dumps(MESSAGE)
        with open(data / kombus(1), 'w') as file:
            file.write(text[:50])
            file.flush()
            assert get_all(connection) == []
            assert (data / kombus(1)).exists()
            file.write(text[50:])
        assert consumed(connection, 1) == ['hello']
        assert stats(connection)['quarantined'] == 0

    @pytest.mark.parametrize('text', ['', 'no json', '[1]', '{"half":'])
    def test_what_stays_no_message_goes_to_quarantine(self, connection, data, text, monkeypatch):
        monkeypatch.setattr('greenmq.transport.filesystem.folder.DOUBTFUL', 0.2)
        (data / kombus(1)).write_text(text)
        connection.Producer(routing_key='q', serializer='json').publish('good')
        assert consumed(connection, 1) == ['good']
        with Consumer(connection, [Queue('q')], callbacks=[print]):
            wait_until(lambda: stats(connection)['quarantined'] == 1, 5, 'the quarantine')
        assert (data / '.greenmq' / 'quarantine' / kombus(1)).read_text() == text
        assert get_all(connection) == []


class TestOrder:

    def test_kombus_names_are_read_as_numbers(self, connection, data):
        now = int(time.monotonic() * 1000)
        for number in (now, now - 1, 999, 10_000, 5):
            (data / kombus(number)).write_text(json.dumps(body(number)))
        assert get_all(connection) == [5, 999, 10_000, now - 1, now]

    def test_what_was_put_before_the_last_start_comes_first(self, connection, data):
        booted = names.booted_at()
        for number, age in ((500, 10.0), (9_000_000_000_000, 3600.0), (100, 20.0)):
            file = data / kombus(number)
            file.write_text(json.dumps(body(number)))
            os.utime(file, (booted - age, booted - age))
        (data / kombus(1)).write_text(json.dumps(body(1)))
        assert get_all(connection) == [9_000_000_000_000, 100, 500, 1]

    def test_what_goes_back_keeps_its_place_and_is_counted(self, connection, data):
        producer = connection.Producer(routing_key='q', serializer='json')
        for number in range(3):
            producer.publish(number)
        message = Queue('q')(connection.default_channel).get()
        message.requeue()
        again = Queue('q')(connection.default_channel).get()
        assert again.payload == 0
        assert again.headers['x-delivery-count'] == 1
        again.ack()
        assert get_all(connection) == [1, 2]


class TestFiles:

    def test_a_publish_costs_two_syncs_and_a_hundred_share_one(self, connection):
        producer = connection.Producer(routing_key='q')
        producer.publish('first')
        before = stats(connection)['syncs']
        producer.publish('one')
        assert stats(connection)['syncs'] == before + 2
        green.joinall([green.spawn(producer.publish, str(n)) for n in range(100)], raise_error=True)
        assert stats(connection)['syncs'] <= before + 2 + 100 + 10

    def test_without_durable_writes_there_is_none(self, filesystem_url):
        with Connection(filesystem_url + '&durable_writes=0') as connection:
            connection.Producer(routing_key='q').publish('x')
            assert stats(connection)['syncs'] == 0

    def test_what_is_done_is_kept_if_asked(self, filesystem_url, tmp_path):
        done = tmp_path / 'done'
        with Connection(f'{filesystem_url}&store_processed=1&processed_folder={done}') as connection:
            connection.Producer(routing_key='q', serializer='json').publish('x')
            message = Queue('q')(connection.default_channel).get()
            assert not list(done.iterdir())
            message.ack()
            wait_until(lambda: len(list(done.iterdir())) == 1, 5, 'the file')
        assert json.loads(next(done.iterdir()).read_text())['headers'] is not None

    @pytest.mark.parametrize('queue', ['a/b', '.hidden', 'x' * 161])
    def test_a_queue_that_is_no_file_name_is_refused(self, connection, queue):
        with pytest.raises(InvalidArgument):
            Queue(queue)(connection.default_channel).declare()
        with pytest.raises(InvalidArgument):
            connection.Producer(routing_key=queue).publish('x')

    def test_messages_are_moved_on_one_file_system_alone(self, filesystem_url, elsewhere, monkeypatch):
        # What was moved by a copy might be half there, or there twice
        moved, rename = [], os.rename

        def watched(source, target, **options):
            rename(source, target, **options)
            moved.append(os.stat(os.path.dirname(source)).st_dev == os.stat(os.path.dirname(target)).st_dev)

        monkeypatch.setattr(os, 'rename', watched)
        options = {'data_folder_in': elsewhere, 'data_folder_out': elsewhere}
        with Connection(filesystem_url.partition('?')[0], transport_options={
            **options, 'control_folder': f'{elsewhere}/control',
        }) as connection:
            connection.Producer(routing_key='q', serializer='json').publish('x')
            Queue('q')(connection.default_channel).get().requeue()
            wait_until(lambda: get_all(connection) == ['x'], 10, 'the message')
        assert moved and all(moved)
        with Connection(f'{filesystem_url}&store_processed=1&processed_folder={elsewhere}') as connection:
            with pytest.raises(InvalidArgument, match='another file system'):
                connection.connect()

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path):
        (tmp_path / 'file').write_text('')
        options = dict.fromkeys(('data_folder_in', 'data_folder_out', 'control_folder'), f'{tmp_path}/file/x')
        with Connection('filesystem://', transport_options=options) as connection:
            with pytest.raises(connection.connection_errors, match='file/x cannot be made by user'):
                connection.connect()

    def test_an_expired_queue_goes_with_its_bindings(self, connection, tmp_path):
        exchange = Exchange('e', 'fanout')
        Queue('brief', exchange, expires=0.3)(connection.default_channel).declare()
        assert 'brief' in (tmp_path / 'control' / 'e.exchange').read_text()
        wait_until(lambda: 'brief' not in (tmp_path / 'control' / 'e.exchange').read_text(), 10, 'the sweep')


KOMBU = """
import json, sys
import kombu
folder, control = sys.argv[1:]
connection = kombu.Connection('filesystem://', transport_options={
    'data_folder_in': folder, 'data_folder_out': folder, 'control_folder': control})
channel = connection.channel()
for line in sys.stdin:
    name, *arguments = json.loads(line)
    print(json.dumps(eval(name)(*arguments)), flush=True)
"""

PUBLISH = "lambda key, body, exchange='': connection.Producer(serializer='json').publish(" \
    "body, routing_key=key, exchange=exchange) and None"
GET = "lambda q: (lambda m: m and (m.ack(), m.payload)[1])(kombu.Queue(q)(channel).get())"
BIND = "lambda q, e, kind, key: kombu.Queue(q, kombu.Exchange(e, kind), key)(channel).declare() and None"
PURGE = "lambda q: channel.queue_purge(q)"
DELETE = "lambda q: channel.queue_delete(q) and None"


@pytest.fixture
def kombu(tmp_path, data):
    """Calls a function in a process that runs kombu."""
    pytest.importorskip('kombu')
    process = popen(
        [sys.executable, '-c', KOMBU, str(data), str(tmp_path / 'control')],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def call(*command):
        process.stdin.write(json.dumps(command) + '\n')
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, f'kombu ended in {command}'
        return json.loads(answer)

    yield call
    end(process)
    process.stdin.close()
    process.stdout.close()


class TestKombu:

    def test_each_reads_what_the_other_put(self, connection, kombu):
        kombu(PUBLISH, 'q', {'from': 'kombu'})
        assert consumed(connection, 1) == [{'from': 'kombu'}]
        connection.Producer(routing_key='q', serializer='json').publish({'from': 'greenmq'})
        assert kombu(GET, 'q') == {'from': 'greenmq'}

    def test_kombu_takes_what_went_back(self, connection, kombu):
        connection.Producer(routing_key='q', serializer='json').publish('x')
        Queue('q')(connection.default_channel).get().requeue()
        wait_until(lambda: Queue('q')(connection.default_channel).queue_declare(passive=True).message_count,
                   5, 'the message')
        assert kombu(GET, 'q') == 'x'

    @pytest.mark.parametrize('kind, key, published', [
        ('direct', 'k', 'k'), ('topic', 'a.*', 'a.b'), ('fanout', '', 'whatever'),
    ])
    def test_each_routes_by_the_others_bindings(self, connection, kombu, kind, key, published):
        exchange = Exchange('e', kind)
        channel = connection.default_channel
        Queue('ours', exchange, key)(channel).declare()
        kombu(BIND, 'theirs', 'e', kind, key)
        connection.Producer(serializer='json').publish('a', exchange=exchange, routing_key=published)
        assert kombu(GET, 'theirs') == 'a'
        assert get_all(connection, 'ours') == ['a']
        kombu(PUBLISH, published, 'b', 'e')
        assert get_all(connection, 'ours') == ['b']
        assert kombu(GET, 'theirs') == 'b'
        kombu(DELETE, 'theirs')
        wait_until(lambda: [found[2] for found in folder_of(connection).bindings.read('e')] in (['ours'], []),
                   5, 'the binding to go')

    def test_mixed_workers_handle_each_message_once_while_kombu_purges(self, connection, kombu):
        producer = connection.Producer(serializer='json')
        for number in range(100):
            producer.publish(number, routing_key='q')
            producer.publish(number, routing_key='other')
        seen, theirs = [], []

        def on_message(body, message):
            seen.append(body)
            message.ack()

        with Consumer(connection, [Queue('q')], callbacks=[on_message], prefetch_count=5):
            while len(seen) + len(theirs) < 100:
                found = kombu(GET, 'q')
                if found is not None:
                    theirs.append(found)
                if len(theirs) == 5:
                    assert kombu(PURGE, 'other') == 100
                try:
                    connection.drain_events(timeout=0.01)
                except TimeoutError:
                    continue
        assert sorted(seen + theirs) == list(range(100))
        assert theirs
        assert get_all(connection, 'other') == []
