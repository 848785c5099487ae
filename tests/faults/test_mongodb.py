"""Queues in MongoDB: commands counted, lost replies, leases, signals that fail, a server that dies, kombu."""
from __future__ import annotations

import time

import pytest
from pymongo.errors import ConnectionFailure

from greenmq import Connection, Consumer, Exchange, Queue, events, runtime
from greenmq.exceptions import InvalidArgument
from greenmq.transport.mongodb import Transport
from greenmq.transport.mongodb.urls import options_of, target_of
from tests.faults.stores import (
    consuming,
    drain_until,
    forks,
    shares_queues_with_kombu,
    survives,
    takes_are_killed,
    wait_get,
)
from tests.stress import FACTOR
from tests.support import green
from tests.support.kombu_process import Kombu
from tests.support.process import wait_until
from tests.support.stores import declare, driver

BRISK = {'lease_timeout': 1, 'sweep_interval': 0.2}


def publish_many(connection, total, name='q'):
    producer = connection.Producer(routing_key=name, serializer='json')
    green.joinall([green.spawn(producer.publish, n) for n in range(total)], raise_error=True)


def spent(peer, before):
    """Commands since then, but for those of who waits, and of a connection of an earlier test that ends."""
    counts = peer.counts()
    for name in ('getmore', 'killcursors', 'endsessions'):
        counts.pop(name, None)
    return {name: n - before.get(name, 0) for name, n in counts.items() if n != before.get(name, 0)}


def told_by(connection, how):
    wait_until(lambda: driver(connection).stats()['told_by'] == how, 10, how)


# ------------------------------------------------------------------------------------------ what it costs


def test_a_hundred_greenlets_share_commands(mongo_peer):
    with Connection(mongo_peer.url('d')) as connection:
        declare(connection)
        publish_many(connection, 1)
        before = mongo_peer.counts()
        publish_many(connection, 100)
        assert sum(spent(mongo_peer, before).values()) <= 5


def test_a_hundred_messages_are_taken_by_two_commands_and_settled_by_one(mongo_peer):
    with Connection(mongo_peer.url('d')) as connection:
        declare(connection)
        publish_many(connection, 100)
        told_by(connection, 'stream')
        before = mongo_peer.counts()
        taken = driver(connection).take(['q'], 100, 10**9, 0)
        assert len(taken) == 100 and spent(mongo_peer, before) == {'find': 1, 'update': 1}
        driver(connection).settle(taken, [], runtime.Deadline.after(5))
        assert spent(mongo_peer, before) == {'find': 1, 'update': 1, 'delete': 1}


@pytest.mark.slow
def test_an_idle_consumer_waits_at_the_server(mongo_peer):
    with Connection(mongo_peer.url('d'), transport_options={'wait_time_seconds': 5}) as connection:
        declare(connection)
        with consuming(connection):
            told_by(connection, 'stream')
            green.sleep(0.3)
            before = mongo_peer.counts()
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=2.5)
            assert spent(mongo_peer, before) == {}
            assert mongo_peer.counts()['getmore'] - before['getmore'] <= 2


def test_the_filter_and_the_order_of_a_claim_are_those_of_an_index(mongo_peer, monkeypatch):
    """Equality on the queue alone, in the order of kombu's index: no server looks at more than it gives."""
    from pymongo import monitoring

    commands = []

    class Heard(monitoring.CommandListener):
        def started(self, event):
            commands.append((event.command_name, dict(event.command)))

        def succeeded(self, event):
            return

        failed = succeeded

    heard = monitoring._LISTENERS.command_listeners
    monkeypatch.setattr(monitoring, '_LISTENERS', monitoring._LISTENERS._replace(
        command_listeners=[*heard, Heard()]))
    with Connection(mongo_peer.url('d')) as connection:
        declare(connection)
        publish_many(connection, 3)
        driver(connection).take(['q'], 1, 10**9, 0)
        driver(connection).take(['q'], 2, 10**9, 0)
    indexes = [list(index['key']) for name, command in commands if name == 'createIndexes'
               for index in command['indexes']]
    claims = [command for name, command in commands if name in ('find', 'findAndModify')
              and (command.get('filter') or command.get('query')) == {'queue': 'q'} and command.get('sort')]
    assert len(claims) == 2
    for command in claims:
        assert ['queue', *command['sort']] in indexes


def test_control_commands_come_while_tasks_are_in_work(mongo_peer):
    """Each channel fetches for itself, bounded by its own prefetch."""
    control = Queue('control', Exchange('control', type='fanout'))
    with Connection(mongo_peer.url('d')) as connection:
        declare(connection)
        publish_many(connection, 5)
        held, told = [], []
        work = Consumer(connection.channel(), [Queue('q')], accept=['json'], prefetch_count=1,
                        callbacks=[lambda body, message: held.append(message)])
        calls = Consumer(connection.channel(), [control], accept=['json'],
                         callbacks=[lambda body, message: (told.append(body), message.ack())])
        with work, calls:
            drain_until(connection, lambda: held)
            connection.Producer(exchange='control', serializer='json').publish('ping')
            drain_until(connection, lambda: told == ['ping'])
            assert len(held) == 1


# ----------------------------------------------------------------------------------------------- waking


@pytest.mark.parametrize('kind', ['stream', 'signals', 'refused'])
def test_a_publish_elsewhere_wakes_who_waits(request, kind):
    peer = request.getfixturevalue('mongo_peer' if kind != 'signals' else 'mongo_alone')
    if kind == 'refused':  # a server that says that it has change streams, and has none
        peer.order(state={'streams': False})
    with Connection(peer.url('d')) as here, Connection(
        peer.url('d'), transport_options={'fetch_ahead': 7}
    ) as there:
        declare(here)
        told_by(here, 'stream' if kind == 'stream' else 'signals')
        with consuming(here) as seen:
            with pytest.raises(TimeoutError):
                here.drain_events(timeout=1.5)
            producer = there.Producer(routing_key='q', serializer='json')
            for n in range(3):
                producer.publish(n)
                drain_until(here, lambda n=n: len(seen) > n)
        assert seen == [0, 1, 2]


@pytest.mark.faults
def test_a_cursor_that_ends_is_opened_again(mongo_peer):
    options = {'wait_time_seconds': 0.2}
    with Connection(mongo_peer.url('d'), transport_options=options) as connection:
        declare(connection)
        told_by(connection, 'stream')
        before = mongo_peer.counts()
        mongo_peer.fail('getmore', 'CursorNotFound', times=3)
        wait_until(lambda: spent(mongo_peer, before).get('aggregate', 0) >= 1, 10, 'another stream')
        told_by(connection, 'stream')
        with consuming(connection) as seen:
            publish_many(connection, 1)
            drain_until(connection, lambda: seen == [0])


# ------------------------------------------------------------------------------------------ what breaks


@pytest.mark.faults
@pytest.mark.parametrize('how', ['before', 'after', 'NotWritablePrimary'])
@pytest.mark.parametrize('server', ['mongo_peer', 'mongo_alone'])
def test_each_publish_arrives_once_however_the_connection_ends(request, server, how):
    peer = request.getfixturevalue(server)
    with Connection(peer.url('d')) as connection:
        bound = declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        for n in range(4):
            peer.fail('insert', how, times=1 + n % 2)
            producer.publish(n, timeout=20)
            peer.order(heal=True)
        assert [wait_get(bound).payload for _ in range(4)] == [0, 1, 2, 3]
        assert bound.get() is None


@pytest.mark.faults
def test_a_claim_whose_reply_was_lost_is_found_by_its_name(mongo_alone):
    with Connection(mongo_alone.url('d')) as connection:
        declare(connection)
        publish_many(connection, 10)
        mongo_alone.fail('update', 'after')
        taken = driver(connection).take(['q'], 10, 10**9, 0)
        assert len(taken) == 10


@pytest.mark.faults
def test_an_ack_whose_reply_was_lost_is_done_and_not_stale(mongo_alone):
    stale = []
    with Connection(mongo_alone.url('d')) as connection:
        bound = declare(connection)
        publish_many(connection, 3)
        held = [wait_get(bound) for _ in range(3)]
        listening = events.subscribe('stale_ack', stale.append)
        mongo_alone.fail('delete', 'after')
        for message in held:
            message.ack()
        connection.transport.session.settler.wait(runtime.Deadline.after(10))
        wait_until(lambda: connection.transport.session.settler.pending == 0, 20, 'the acks')
        green.sleep(0.1)
        listening.cancel()
        assert not stale and driver(connection).queues(runtime.Deadline.after(5)) == [
            {'name': 'q', 'messages': 0, 'unacked': 0}
        ]


@pytest.mark.faults
def test_what_a_dead_process_held_goes_back_when_its_lease_is_over(mongodb_url):
    with Connection(mongodb_url, transport_options=BRISK) as here, Connection(
        mongodb_url, transport_options={**BRISK, 'fetch_ahead': 7}
    ) as there:
        bound, stale = declare(here), []
        here.Producer(routing_key='q').publish('x')
        held = bound.get()
        # It cannot renew its lease any more
        here.transport.session.leases.forget(held.place)
        again = wait_get(Queue('q')(there.default_channel))
        assert again.headers['x-delivery-count'] == 1 and again.delivery_info['redelivered']
        listening = events.subscribe('stale_ack', stale.append)
        held.ack()
        wait_until(lambda: stale, 10, 'the word that it was too late')
        listening.cancel()
        again.requeue()
        assert wait_get(bound).headers['x-delivery-count'] == 2


def test_a_long_stay_is_kept(mongodb_url):
    with Connection(mongodb_url, transport_options={**BRISK, 'lease_timeout': 2}) as connection:
        bound = declare(connection)
        connection.Producer(routing_key='q').publish('x')
        held = bound.get()
        green.sleep(4)
        assert bound.get() is None
        assert held.ack() is not False


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.green_timeout(300)
def test_a_server_that_is_killed_and_comes_back(ferretdb, mongodb_url):
    survives(mongodb_url, ferretdb.restart, 12 if FACTOR > 1 else 2,
             {'lease_timeout': 5, 'sweep_interval': 0.5}, timeout=20)


@pytest.mark.faults
def test_a_killed_take_gives_back_what_it_took(mongo_peer):
    takes_are_killed(mongo_peer.url('d'))


def test_eight_takers_get_each_message_once(mongo_alone):
    connections = [
        Connection(mongo_alone.url('d'), transport_options={'fetch_ahead': n + 1}) for n in range(4)
    ]
    try:
        declare(connections[0])
        publish_many(connections[0], 200)
        got = []

        def take(what):
            while taken := what.take(['q'], 7, 10**9, 0):
                got.extend(what.decode(each)['body'] for each in taken)
                what.settle(taken, [], runtime.Deadline.after(20))

        green.joinall([green.spawn(take, driver(each)) for each in connections], raise_error=True)
        assert len(got) == len(set(got)) == 200
    finally:
        for each in connections:
            each.close()


# ------------------------------------------------------------------------------------- queues that end


def test_what_has_expired_is_never_delivered(mongodb_url):
    with Connection(mongodb_url) as connection:
        bound = declare(connection, queue_arguments={'x-message-ttl': 100})
        connection.Producer(routing_key='q').publish('soon over')
        time.sleep(0.2)
        assert bound.get() is None


def test_a_full_queue_loses_its_oldest_or_refuses(mongodb_url):
    with Connection(mongodb_url) as connection:
        bound = declare(connection, queue_arguments={'x-max-length': 2})
        producer = connection.Producer(routing_key='q', serializer='json')
        for n in range(4):
            producer.publish(n)
        assert [bound.get(no_ack=True).payload for _ in range(2)] == [2, 3]
        declare(connection, 'r', queue_arguments={'x-max-length': 1, 'x-overflow': 'reject-publish'})
        refusing = connection.Producer(routing_key='r', serializer='json')
        refusing.publish(0)
        with pytest.raises(Exception, match='full'):
            refusing.publish(1)


def test_queues_with_a_life_of_their_own_end(mongo_peer):
    with Connection(mongo_peer.url('d'), transport_options={'sweep_interval': 0.2}) as connection:
        declare(connection, 'brief', queue_arguments={'x-expires': 500})
        declare(connection, 'lasting')
        names = lambda: [queue['name'] for queue in connection.get_manager().get_queues()]  # noqa: E731
        assert names() == ['brief', 'lasting']
        wait_until(lambda: names() == ['lasting'], 20, 'the end of the queue')


# ----------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(('url', 'uri', 'database', 'options'), [
    ('mongodb://', 'mongodb://127.0.0.1/', 'kombu_default', {}),
    ('mongodb://h', 'mongodb://h/', 'kombu_default', {}),
    ('mongodb://u:p%40@h1:1,h2:2/db?replicaSet=rs&messages_collection=m&w=majority',
     'mongodb://u:p%40@h1:1,h2:2/db?replicaSet=rs&w=majority', 'db', {'messages_collection': 'm'}),
    ('mongodb+srv://h.example.com/db?tls=true', 'mongodb+srv://h.example.com/db?tls=true', 'db', {}),
    ('mongodb://h/db?lease_timeout=5&connectTimeoutMS=70', 'mongodb://h/db?connectTimeoutMS=70', 'db',
     {'lease_timeout': 5.0}),
])
def test_urls(url, uri, database, options):
    connection = Connection(url)
    defaults = {'default_hostname': '127.0.0.1', 'default_port': 27017, 'default_database': 'kombu_default'}
    found = target_of(connection, Transport, defaults)
    assert (found.uri, found.database, options_of(connection.hostname, Transport)) == (uri, database, options)
    assert 'p%40' not in connection.as_uri() and 'p%40' not in repr(connection)


def test_user_and_password_beside_the_url():
    connection = Connection('mongodb://h/db', userid='me', password='se/cret')
    defaults = {'default_hostname': '127.0.0.1', 'default_port': 27017, 'default_database': 'kombu_default'}
    assert target_of(connection, Transport, defaults).uri == 'mongodb://me:se%2Fcret@h/db'


def test_a_bad_option_is_refused_by_name(mongo_peer):
    with pytest.raises(InvalidArgument, match='lease_timeout'):
        Connection(mongo_peer.url('d', '?lease_timeout=-1')).connect()


# ------------------------------------------------------------------------------------------ others


@pytest.mark.own_process
@pytest.mark.slow
def test_a_forked_child_leaves_the_parents_client_alone(mongo_peer):
    assert forks(mongo_peer.url('d')) == '3 3\n'


@pytest.mark.slow
def test_kombu_and_greenmq_share_queues(mongo_peer):
    shares_queues_with_kombu(mongo_peer.url('d'))


@pytest.mark.slow
def test_each_routes_by_the_bindings_of_the_other(mongo_peer):
    url, exchange = mongo_peer.url('d'), Exchange('x', type='topic')
    with Kombu(url) as kombu, Connection(url) as connection:
        # Then what kombu has bound, greenmq routes by
        kombu.declare('theirs', 'x', 'topic', 'a.#')
        Queue('ours', exchange, routing_key='a.*')(connection.default_channel).declare()
        connection.Producer(exchange=exchange, serializer='json').publish('one', routing_key='a.b')
        assert kombu.get('theirs')[1] == 'one'
        assert wait_get(Queue('ours')(connection.default_channel)).payload == 'one'
        # And the other way
        kombu.publish('two', 'x', 'a.c')
        assert wait_get(Queue('ours')(connection.default_channel)).payload == 'two'


def test_what_waited_in_line_while_all_was_opened_anew_has_met_a_loss(mongodb_url):
    """It must not be done with what another thread has now, nor fail by what is not connected yet."""
    with Connection(mongodb_url) as connection:
        connection.connect()
        mine, met, running, over = driver(connection), [], [], []

        def busy():
            running.append(True)
            while not over:
                time.sleep(0.01)

        def ask(fun):
            try:
                mine._do(fun, runtime.Deadline.after(20))
            except Exception as error:
                met.append(error)

        tasks = [green.spawn(ask, busy)]
        wait_until(lambda: running, 10, 'the first call')
        tasks.append(green.spawn(ask, lambda: mine._store.look_at_the_clock()))
        green.sleep(0)
        mine.open(runtime.Deadline.after(20))
        over.append(True)
        green.joinall(tasks)
        assert [type(error) for error in met] == [ConnectionFailure]
        mine.ping(runtime.Deadline.after(20))
