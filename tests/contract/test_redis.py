"""What Redis has beyond the contract: keys, leases' tags, priorities, time, fanout, dead letters, errors."""

from __future__ import annotations

import gc
import json
import logging
import sys

import pytest
from redis import exceptions as driver

from greenmq import Connection, Exchange, Queue, events, runtime
from greenmq.exceptions import ConnectionLost, NotFound, OperationalError, PublishUnconfirmed, Unroutable
from greenmq.transport.redis import errors, fetching
from tests.contract.conftest import Bench, text
from tests.support import green
from tests.support.process import run
from tests.support.redis_server import Redis


@pytest.fixture
def open_connection(redis_server, opened):
    return lambda url=None, *arguments, **options: opened(url or redis_server.url(), *arguments, **options)


@pytest.fixture
def here(open_connection):
    return Bench(open_connection().channel())


@pytest.fixture
def raw(redis_server):
    """The database, seen by redis-py."""
    with redis_server.client() as client:
        yield client


def until(condition, seconds=10):
    with green.Timeout(seconds):
        while not condition():
            green.sleep(0.005)


def fetches(bench):
    """How many fetches of its connection wait for a message."""
    return bench.channel.session.driver.fetching.waiting


# ----------------------------------------------------------------- the keys


def test_what_is_taken_is_registered_in_the_same_step_and_gone_after_the_ack(here, raw):
    here.put('q', 'x')
    published = raw.lrange('q', 0, -1)[0]
    message = here.get('q')
    tag = message.delivery_tag
    assert raw.hgetall('unacked') == {tag: f'[{published},"","q"]'}
    assert raw.zrange('unacked_index', 0, -1) == [tag] and raw.llen('q') == 0
    message.ack()
    until(lambda: not raw.hlen('unacked'))
    assert not raw.zcard('unacked_index')


def test_a_message_that_goes_back_is_not_written_anew(here, raw):
    raw.lpush(
        'q',
        '{"body": "eA==", "headers": {"empty": [], "big": 12345678901234567890}, "content-type": "t", '
        '"content-encoding": "binary", "properties": {"body_encoding": "base64", "delivery_tag": "k"}}',
    )
    before = raw.lrange('q', 0, -1)[0]
    message = here.get('q')
    assert message.headers['big'] == 12345678901234567890
    for times in (1, 2):
        message.requeue()
        until(lambda: raw.llen('q'))
        assert raw.lrange('q', 0, -1) == [f'{{"redelivered":{times},{before[1:]}']
        message = here.get('q')
        assert message.delivery_info['redelivered'] and message.headers['x-delivery-count'] == times


def test_an_idle_consumer_sends_nothing(here, raw, redis_server):
    here.consume('q', lambda message: None)
    until(lambda: fetches(here))
    green.sleep(0.05)
    link = here.channel.session.driver.server.link
    before = link.commands
    green.sleep(0.3)
    assert link.commands == before


def test_a_queue_without_messages_exists_for_other_processes(here, open_connection):
    here.channel.queue_declare('empty', durable=True)
    there = open_connection().channel()
    assert there.queue_declare('empty', passive=True).message_count == 0
    here.channel.queue_delete('empty')


def test_any_number_of_greenlets_is_one_connection(open_connection, redis_server):
    connection = open_connection()
    queue = Queue('q', Exchange('e'), routing_key='k')
    queue(connection.default_channel).declare()
    producer = connection.Producer()

    def publish(n):
        producer.publish({'n': n}, exchange='e', routing_key='k')

    publish(0)
    counts = []
    for greenlets in (1, 1000):
        green.joinall([green.spawn(publish, n) for n in range(greenlets)], raise_error=True)
        counts.append(len(redis_server.clients()))
    assert counts == [1, 1]
    assert connection.default_channel.queue_purge('q') == 1002


def test_scripts_that_the_server_forgot_are_loaded_again(here, raw):
    for n in range(3):
        here.put('q', n)
        raw.script_flush()
        message = here.get('q')
        raw.script_flush()
        message.ack()
    until(lambda: not raw.hlen('unacked'))


# --------------------------------------------------------------- priorities


@pytest.mark.parametrize('order', ['kombu', 'amqp'])
def test_priorities_are_sorted_within_a_queue(open_connection, order):
    here = Bench(open_connection(priority_order=order, priority_steps=list(range(10))).channel())
    here.channel.basic_qos(0, 1, False)
    for n in range(3):
        for priority in (5, 0, 9, 3, 7):
            here.put('q', f'{priority}{n}', priority=priority)
    seen = []
    here.consume('q', lambda message: (seen.append(text(message)), message.ack()))
    here.until(lambda: len(seen) == 15)
    assert seen == [
        f'{priority}{n}' for priority in sorted((0, 3, 5, 7, 9), reverse=order == 'amqp') for n in range(3)
    ]


def test_queues_are_served_in_turns(open_connection):
    here = Bench(open_connection(fetch_batch=1).channel())
    seen = []
    for queue in ('a', 'b'):
        for n in range(4):
            here.put(queue, f'{queue}{n}')
    for queue in ('a', 'b'):
        here.consume(queue, lambda message: (seen.append(text(message)), message.ack()), tag=queue)
    here.until(lambda: len(seen) == 8)
    assert {body[0] for body in seen[:3]} == {'a', 'b'}


# --------------------------------------------------------------------- time


def test_an_expired_message_is_not_delivered(here, raw):
    here.put('q', 'old', expiration='1')
    here.put('q', 'young', expiration='60000')
    green.sleep(0.01)
    assert text(here.wait_get('q')) == 'young'
    until(lambda: raw.hlen('unacked') == 1)


def test_a_queues_ttl_holds_for_all_its_messages(here):
    here.channel.queue_declare(
        'q', arguments={'x-message-ttl': 1, 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead'}
    )
    here.put('q', 'old')
    green.sleep(0.01)
    assert here.get('q') is None
    message = here.wait_get('dead')
    assert text(message) == 'old' and message.headers['x-first-death-reason'] == 'expired'
    here.channel.queue_delete('q')


def expiring(bench, name='e', ms=60_000):
    """Declare a queue that expires, bound to a direct exchange; gives its names in the database."""
    bench.channel.exchange_declare('ex')
    bench.channel.queue_declare(name, arguments={'x-expires': ms})
    bench.channel.queue_bind(name, 'ex', 'key')


def test_a_queue_that_nobody_uses_expires_with_all_that_is_of_it(here, open_connection, raw):
    expiring(here)
    here.publish('x', 'ex', 'key')
    assert 0 < raw.pttl('e') <= 60_000
    raw.zadd('greenmq.expiring', {'e': 1})
    there = open_connection().channel()
    there.qos.restore_visible()
    for pattern in ('*greenmq.expir*', '*greenmq.bound*', '_kombu.binding.ex', 'e'):
        assert not raw.keys(pattern)
    with pytest.raises(NotFound):
        there.queue_declare('e', passive=True)
    with pytest.raises(Unroutable):
        Bench(open_connection().channel()).publish('y', 'ex', 'key', mandatory=True)


def test_publishing_is_no_use_of_a_queue_and_getting_is(here, raw):
    expiring(here)
    here.publish('x', 'ex', 'key')
    raw.pexpire('e', 5000)
    raw.zadd('greenmq.expiring', {'e': 1})
    here.publish('y', 'ex', 'key')
    assert raw.pttl('e') <= 5000 and raw.zscore('greenmq.expiring', 'e') == 1
    here.channel.connection.driver.expiry.used.clear()  # long ago
    assert text(here.get('e')) == 'x'
    assert raw.pttl('e') > 5000 and raw.zscore('greenmq.expiring', 'e') > 1


def test_a_queue_that_is_consumed_does_not_expire(here, open_connection, raw):
    """Also where the consumer did not declare it, and after a sweep that came too early."""
    expiring(here, ms=900)
    seen = []
    there = Bench(open_connection().channel())
    there.channel.basic_qos(0, 1, False)
    there.consume('e', seen.append)
    for n in range(2):
        here.put('e', n)
    there.until(lambda: seen)
    green.sleep(1.5)
    there.channel.qos.restore_visible()
    assert raw.llen('e') == 1 and raw.zcard('greenmq.expiring') == 1
    seen[0].ack()
    there.until(lambda: len(seen) == 2)
    there.channel.basic_cancel('t')
    until(lambda: not raw.exists('e'))


def test_a_deleted_queue_expires_no_more(here, raw):
    expiring(here)
    here.channel.queue_delete('e')
    here.channel.queue_declare('e')
    here.put('e', 'x')
    assert raw.ttl('e') == -1 and not raw.keys('*greenmq.expir*') and not raw.keys('*greenmq.bound*')


def test_a_delayed_message_is_due_and_wakes_a_waiting_consumer(here, raw):
    seen = []
    here.consume('q', lambda message: (seen.append(text(message)), message.ack()))
    until(lambda: fetches(here))
    here.put('q', 'later', headers={'x-delay': 1000})
    here.put('q', 'now')
    here.until(lambda: seen)
    assert seen == ['now'] and raw.zcard('greenmq.delayed') == 1
    here.until(lambda: len(seen) == 2, seconds=3)
    assert seen == ['now', 'later'] and not raw.zcard('greenmq.delayed')


# ------------------------------------------------------------- dead letters


def test_a_message_delivered_too_often_is_kept_in_the_list_of_the_dead(open_connection, raw):
    here = Bench(open_connection(max_deliveries=2).channel())
    here.put('q', 'poison')
    for _ in range(2):
        here.wait_get('q').requeue()
    until(lambda: raw.llen('greenmq.dead.q'))
    assert here.get('q') is None and not raw.hlen('unacked')
    assert json.loads(raw.lrange('greenmq.dead.q', 0, 0)[0])['redelivered'] == 1


def test_what_is_no_message_is_kept_aside_and_stops_nobody(here, raw, caplog):
    caplog.set_level(logging.CRITICAL, 'greenmq.transport.redis')
    raw.lpush('q', 'not a message')
    here.put('q', 'fine')
    seen = []
    here.consume('q', lambda message: (seen.append(text(message)), message.ack()))
    here.until(lambda: seen)
    until(lambda: raw.llen('greenmq.dead.q'))
    assert seen == ['fine'] and raw.lrange('greenmq.dead.q', 0, -1) == ['not a message']


# ----------------------------------------------------------------- bindings


def test_a_binding_that_somebody_else_made_is_known_at_once(here, open_connection):
    there = open_connection().channel()
    there.exchange_declare('e', 'topic')
    here.channel.exchange_declare('e', 'topic')
    here.publish('nobody', 'e', 'a.b')
    there.queue_declare('q')
    there.queue_bind('q', 'e', 'a.#')
    green.sleep(0.01)  # the server tells of it
    here.publish('one', 'e', 'a.b')
    assert here.get_all('q') == ['one']
    there.queue_delete('q')
    green.sleep(0.01)
    here.publish('gone', 'e', 'a.b')
    assert here.get_all('q') == []


def test_bindings_that_vanished_are_asserted_again(here, raw, open_connection):
    here.channel.exchange_declare('e', 'direct')
    here.channel.queue_declare('q')
    here.channel.queue_bind('q', 'e', 'k')
    for n in range(5):
        raw.delete('_kombu.binding.e')
        here.publish(n, 'e', 'k', mandatory=True)
    assert here.get_all('q') == ['0', '1', '2', '3', '4']


def test_an_eviction_policy_is_warned_of(open_connection, raw, caplog):
    raw.config_set('maxmemory-policy', 'allkeys-lru')
    try:
        with caplog.at_level(logging.WARNING, 'greenmq.transport.redis'):
            open_connection()
            until(lambda: 'allkeys-lru' in caplog.text)
    finally:
        raw.config_set('maxmemory-policy', 'noeviction')


# ------------------------------------------------------------------- fanout


def consume_fanout(connection, queue, seen, mode_key=''):
    channel = connection.channel()
    bench = Bench(channel)
    channel.exchange_declare('news', 'fanout')
    channel.queue_declare(queue, auto_delete=True)
    channel.queue_bind(queue, 'news', mode_key)
    bench.consume(queue, lambda message: (seen.append(text(message)), message.ack()))
    return bench


@pytest.mark.parametrize('mode', ['pubsub', 'stream', 'queues'])
def test_fanout_reaches_every_consumer(open_connection, mode):
    connection, other = open_connection(fanout_mode=mode), open_connection(fanout_mode=mode)
    one, two = [], []
    benches = [consume_fanout(connection, 'a', one), consume_fanout(other, 'b', two)]
    for n in range(3):
        benches[0].publish(n, 'news', '')
    benches[0].until(lambda: len(one) == 3)
    benches[1].until(lambda: len(two) == 3)
    assert one == two == ['0', '1', '2']


def test_fanout_in_lists_keeps_what_nobody_consumes_yet(open_connection):
    connection = open_connection(fanout_mode='queues')
    here = Bench(connection.channel())
    here.channel.exchange_declare('news', 'fanout')
    for queue in ('a', 'b'):
        here.channel.queue_declare(queue)
        here.channel.queue_bind(queue, 'news', queue)
    here.publish('x', 'news', 'whatever')
    one, two = here.get('a'), here.get('b')
    assert one.delivery_tag != two.delivery_tag
    one.ack()
    two.requeue()
    assert here.get_all('a') == [] and here.get_all('b') == ['x']


def test_a_requeued_fanout_message_comes_again_to_the_same_consumer(open_connection):
    connection = open_connection()
    seen = []
    channel = connection.channel()
    here = Bench(channel)
    channel.exchange_declare('news', 'fanout')
    channel.queue_declare('a')
    channel.queue_bind('a', 'news')

    def once(message):
        seen.append(message.delivery_info['redelivered'])
        message.ack() if len(seen) > 1 else message.requeue()

    here.consume('a', once)
    here.publish('x', 'news')
    here.until(lambda: len(seen) == 2)
    assert seen == [False, True]


def test_the_pub_sub_connection_is_one_for_all_consumers(open_connection, redis_server):
    connection = open_connection()
    seen = []
    for n in range(5):
        consume_fanout(connection, f'f{n}', seen)
    assert len(redis_server.clients()) == 2


# -------------------------------------------------------------- who we are


def test_user_password_database_and_name(redis_server, open_connection):
    url = f'redis://worker:secret@127.0.0.1:{redis_server.port}/0'
    connection = open_connection(url, global_keyprefix='app:', client_name='tester')
    here = Bench(connection.channel())
    here.put('q', 'x')
    assert here.get_all('q') == ['x']
    assert [row['name'] for row in redis_server.clients()] == ['tester']
    assert [row['user'] for row in redis_server.clients()] == ['worker']


def test_a_key_that_the_acl_forbids(redis_server, open_connection):
    here = Bench(open_connection(f'redis://worker:secret@127.0.0.1:{redis_server.port}/0').channel())
    with pytest.raises(errors.NotPermitted, match='NOPERM'):
        here.put('q', 'x')


def test_a_wrong_password_is_said_and_not_tried_for_long(redis_server):
    connection = Connection(f'redis://worker:wrong@127.0.0.1:{redis_server.port}/0')
    with pytest.raises(errors.AuthenticationFailed, match='WRONGPASS'):
        connection.connect()
    connection.close()


def test_databases_are_apart(redis_server, open_connection):
    one, two = Bench(open_connection().channel()), Bench(open_connection(redis_server.url(3)).channel())
    one.put('q', 'x')
    assert two.get('q') is None and text(one.get('q', no_ack=True)) == 'x'


def test_tls_with_a_client_certificate(redis_server, open_connection):
    options = redis_server.certificates.client_options()
    here = Bench(open_connection(redis_server.tls_url(), {'ssl': options}).channel())
    here.put('q', 'x' * 100_000)
    assert text(here.get('q', no_ack=True)) == 'x' * 100_000


def test_the_scheme_alone_means_tls(redis_server, open_connection):
    url = redis_server.tls_url()
    with pytest.raises(OSError, match='certificate'):
        open_connection(url)
    here = Bench(open_connection(f'{url}?ssl_ca_certs={redis_server.certificates.ca}').channel())
    here.put('q', 'x')
    assert here.get_all('q') == ['x']
    with pytest.raises(OSError):
        open_connection(redis_server.url().replace('redis:', 'rediss:'), {'connect_timeout': 0.5})


def test_consuming_is_proved_and_not_assumed(open_connection, caplog):
    """P25: a fetch that has not asked for two intervals is started anew, and the log says so."""
    connection = open_connection(health_check_interval=1)
    here, seen = Bench(connection.channel()), []
    here.consume('q', lambda message: (seen.append(text(message)), message.ack()))
    until(lambda: fetches(here))
    poller = here.channel.session.intake.poller_of(here.channel, 'q')
    flight = poller.flight
    poller.overdue()  # as its timer does
    assert 'could not fetch' in caplog.text
    with pytest.raises(TimeoutError, match='not answered in time'):
        connection.drain_events(timeout=5)
    until(lambda: poller.flight is not None and poller.flight is not flight)
    here.put('q', 'x')
    here.until(lambda: seen)


def test_acks_leave_together_while_more_messages_wait(open_connection, monkeypatch):
    monkeypatch.setattr('greenmq.transport.outbox.HOLD_SECONDS', 3600.0)
    here = Bench(open_connection().channel())
    for number in range(100):
        here.put('q', number)
    here.channel.basic_qos(0, 100, False)
    messages = []
    here.consume('q', messages.append)
    until(lambda: here.channel.books.waiting == 100)
    link = here.client.transport.driver.server.link
    before = link.commands
    while len(messages) < 100:
        here.client.drain_events(timeout=10)
        messages[-1].ack()
        green.idle()  # the writer could have had its turn
    here.channel.session.settler.wait(runtime.Deadline.after(10))
    # Half of what waits each time, then a quarter ...: not one for each message.
    assert link.commands - before < 30


#: Acks five of ten, and ends without a close.
HASTY = """
import sys
from greenmq import Connection, Queue
connection = Connection(sys.argv[1])
seen = []
consumer = connection.Consumer([Queue('q')], on_message=seen.append, prefetch_count=10)
consumer.consume()
while len(seen) < 5:
    connection.drain_events(timeout=10)
for message in seen:
    message.ack()
"""


def test_what_is_acked_leaves_at_the_end_of_the_interpreter(here, raw, redis_server):
    for number in range(10):
        here.put('q', number)
    run([sys.executable, *green.QUIET, '-c', HASTY, redis_server.url()])
    assert raw.hlen('unacked') == 0 and raw.llen('q') == 5  # what it had not acked went back


def test_many_that_wait_are_woken_one_by_one(open_connection):
    """A message is one fetch, however many channels wait; two messages wake two."""
    connection = open_connection()
    seen = []
    benches = [Bench(connection.channel()) for _ in range(20)]
    for bench in benches:
        bench.channel.basic_qos(0, 1, False)
        bench.consume('q', seen.append)
    until(lambda: fetches(benches[0]) == 20)
    link = connection.transport.driver.server.link
    before = link.commands
    with open_connection() as other:
        there = Bench(other.channel())
        there.put('q', 'one')
        until(lambda: seen or not connection.drain_events(timeout=5))
        assert link.commands - before <= 4
        for n in range(19):
            there.put('q', n)
        benches[0].until(lambda: len(seen) == 20)
    assert {message.channel for message in seen} == {bench.channel for bench in benches}


def test_a_connection_that_is_only_dropped_is_closed(redis_server):
    connection = Connection(redis_server.url())
    connection.connect()
    connection.Producer().publish(1, routing_key='q')
    assert len(redis_server.clients()) == 1
    del connection
    gc.collect()
    until(lambda: not redis_server.clients())


def test_a_unix_socket(redis_server, open_connection):
    here = Bench(open_connection(redis_server.unix_url(2)).channel())
    here.put('q', 'x')
    assert here.get_all('q') == ['x']
    here.channel.queue_declare('q')
    with redis_server.client(db=2) as client:
        assert client.hexists('greenmq.queues', 'q')


# ---------------------------------------------------------- without tracking


@pytest.fixture
def untold(redis_server, open_connection, monkeypatch):
    """A consumer of 'q' whose user may not use CLIENT TRACKING, and what it saw. It looks by itself so rarely
    that a message must wake it."""
    monkeypatch.setattr(fetching, 'DELAYED_LOOK', 60.0)

    def untold(user='untold', **options):
        url = redis_server.url().replace('redis://', f'redis://{user}:secret@')
        connection = open_connection(url, tracking=True, **options)
        bench, seen = Bench(connection.channel()), []
        bench.consume('q', lambda message: (seen.append(text(message)), message.ack()))
        assert not connection.transport.driver.server.tracks
        return bench, seen

    return untold


def armed(bench):
    posts = bench.channel.connection.driver.blocking.by_list.values()
    return len(posts) == 4 and all(post.armed for post in posts) and fetches(bench)


def test_without_tracking_a_command_waits_that_takes_nothing(untold, here, raw, redis_server, caplog):
    there, seen = untold()
    assert 'does not tell of new messages' in caplog.text
    until(lambda: armed(there))
    before = there.channel.session.driver.server.link.commands
    green.sleep(0.3)
    assert there.channel.session.driver.server.link.commands == before
    for n in range(5):
        here.put('q', n)
    there.until(lambda: len(seen) == 5)
    here.put('q', 'later', priority=9)
    there.until(lambda: len(seen) == 6)
    assert seen == ['0', '1', '2', '3', '4', 'later']
    # One that commands, one for each of the queue's lists.
    users = [row['user'] for row in redis_server.clients()]
    assert users.count('untold') == 5 and not raw.llen('q')


def test_a_message_between_the_last_look_and_the_wait_is_told(untold, here):
    there, seen = untold()
    waits = there.channel.connection.driver.blocking
    until(lambda: armed(there))
    arm, late = waits.arm, ['x', 'y']

    def arm_late(keys):
        if late:
            here.put('q', late.pop())
        return arm(keys)

    waits.arm = arm_late
    here.put('q', 'first')
    there.until(lambda: len(seen) == 3)
    assert seen == ['first', 'y', 'x']


def test_what_waits_is_waited_for_again_after_its_connection_was_lost(untold, here, raw):
    there, seen = untold()
    until(lambda: armed(there))
    raw.execute_command('CLIENT', 'KILL', 'USER', 'untold')
    with pytest.raises(ConnectionLost):
        there.client.drain_events(timeout=5)
    until(lambda: there.channel.session.driver.server.connected and armed(there))
    here.put('q', 'x')
    there.until(lambda: seen)


def test_more_lists_than_connections_are_looked_at(untold, here, redis_server):
    there, seen = untold()
    for n in range(4):
        there.consume(f'q{n}', lambda message: (seen.append(text(message)), message.ack()), tag=f't{n}')
    waits = there.channel.connection.driver.blocking
    until(lambda: len(waits.by_list) == 8 and all(post.armed for post in waits.by_list.values()))
    kept = list(waits.by_list.values())
    for n in range(4):
        for priority in (0, 9):
            here.put(f'q{n}', f'{n}-{priority}', priority=priority)
    there.until(lambda: len(seen) == 8)
    assert [row['user'] for row in redis_server.clients()].count('untold') == 9
    assert list(waits.by_list.values()) == kept
    there.client.close()
    until(lambda: not [row for row in redis_server.clients() if row['user'] == 'untold'])


def test_where_no_command_may_wait_the_server_is_looked_at(untold, here, caplog):
    there, seen = untold('looking')
    until(lambda: 'refuses BLMOVE as well' in caplog.text)
    here.put('q', 'x')
    there.until(lambda: seen)


class OldRedis(Redis):
    """A server that speaks RESP2 only, as proxies do."""

    def command(self):
        return [*super().command(), '--rename-command', 'HELLO', '']


@pytest.mark.slow
def test_a_server_that_speaks_the_old_protocol(open_connection):
    server = OldRedis(durable=False)
    try:
        server.start()
        channel = open_connection(server.url()).channel()
        channel.exchange_declare('news', 'fanout')
        channel.queue_declare('f')
        channel.queue_bind('f', 'news')
        here, seen = Bench(channel), []
        for queue in ('q', 'f'):
            here.consume(queue, lambda message: (seen.append(text(message)), message.ack()), tag=queue)
        until(lambda: len(channel.connection.driver.blocking.by_list) == 8)
        here.put('q', 'x')
        here.publish('y', 'news')
        here.until(lambda: len(seen) == 2)
        assert sorted(seen) == ['x', 'y'] and not channel.session.driver.server.link.resp3
        until(lambda: not channel.session.settler.pending)
        channel.connection.client.close()
    finally:
        server.stop()


def test_tracking_can_be_left_out(redis_server, open_connection):
    connection = open_connection(tracking=False)
    here, seen = Bench(connection.channel()), []
    here.consume('q', lambda message: (seen.append(text(message)), message.ack()))
    here.put('q', 'x')
    here.until(lambda: seen)
    assert not connection.transport.driver.server.tracks


# ------------------------------------------------------------------- errors


def test_no_memory_left_is_said_and_consuming_goes_on(here, raw):
    for _ in range(5):
        here.put('q', 'x' * 1000)
    raw.config_set('maxmemory', '1')
    with pytest.raises(errors.OutOfMemory, match='OOM') as caught:
        here.put('q', 'y')
    assert isinstance(caught.value, OperationalError)
    for _ in range(5):
        here.get('q').ack()
    until(lambda: not raw.hlen('unacked'))


def test_a_key_of_another_kind_is_said(here, raw):
    raw.set('q', 'a string')
    with pytest.raises(errors.WrongType, match='WRONGTYPE'):
        here.put('q', 'x')


@pytest.mark.parametrize('key', ['unacked', 'unacked_index', 'greenmq.tags.{}', 'greenmq.consumers'])
def test_what_cannot_be_registered_is_not_taken(here, raw, key):
    """A script that fails half way is not undone by the server: P26 holds all the same."""
    for n in range(3):
        here.put('q', n, priority=3 * n)
    before = raw.lrange('q', 0, -1), raw.lrange('q\x06\x163', 0, -1)
    key = key.format(here.channel.session.driver.keys.consumer)
    raw.lpush(key, 'something else')
    with pytest.raises(errors.WrongType):
        here.channel.session.driver.take(['q'], 3, 0, 0)
    assert before == (raw.lrange('q', 0, -1), raw.lrange('q\x06\x163', 0, -1))
    raw.delete(key)
    assert here.get_all('q') == ['0', '1', '2']


def test_what_cannot_go_back_is_kept(open_connection, raw, caplog):
    """Its list's key holds something else: given back, restored for the dead and when its delay is over."""
    here = Bench(open_connection(sweep_interval=0.1).channel())
    dead = Bench(open_connection().channel())
    for bench, queue in ((here, 'a'), (dead, 'b')):
        bench.put(queue, 'x')
        bench.put(queue, 'other')
        assert text(bench.get(queue)) == 'x' and raw.hlen('unacked') >= 1
    here.put('c', 'late', headers={'x-delay': 1})
    for queue in 'abc':
        raw.delete(queue)
        raw.set(queue, 'something else')
    here.channel.session.settler.give_back('a', raw.hkeys('unacked')[0], 'r')
    until(lambda: 'settlements were refused' in caplog.text)
    dead.client.transport.driver.lease.stop()
    keys = dead.channel.session.driver.keys
    raw.delete(keys.home('b').lease_of + keys.consumer)
    here.channel.qos.restore_visible()
    here.get('other')  # moves what is due
    assert raw.hlen('unacked') == 2 and raw.zcard('unacked_index') == 2 and raw.zcard('greenmq.delayed') == 1
    for queue in 'ab':
        raw.delete(queue)
    here.channel.qos.restore_visible()
    assert here.get_all('b') == ['x']


def test_a_publish_that_gets_no_answer_ends_at_its_deadline(here, redis_server):
    here.put('q', 'x')
    redis_server.pause()
    try:
        message = here.channel.prepare_message(b'x')
        with pytest.raises(PublishUnconfirmed) as caught:
            here.channel.basic_publish(message, '', 'q', timeout=0.05)
    finally:
        redis_server.resume()
    assert caught.value.sent == 'unknown'
    assert text(here.get('q', no_ack=True)) == 'x'


def test_batches_leave_together(open_connection, raw):
    connection = open_connection()
    producer = connection.Producer()
    queue = Queue('q', Exchange('e'), routing_key='k')
    queue(connection.default_channel).declare()
    link = connection.transport.driver.server.link
    with producer.batch():
        for n in range(50):
            producer.publish(n, exchange='e', routing_key='k')
        assert raw.llen('q') == 0
    assert raw.llen('q') == 50 and link.error is None


def test_publish_nowait(open_connection, raw):
    connection = open_connection()
    producer = connection.Producer()
    futures = [producer.publish_nowait(n, routing_key='q') for n in range(5)]
    for future in futures:
        future.result(timeout=5)
    assert raw.llen('q') == 5


def test_events_tell_of_stale_acks(open_connection, raw):
    connection = open_connection()
    here = Bench(connection.channel())
    here.put('q', 'x')
    message = here.get('q')
    raw.delete('unacked', 'unacked_index')
    heard = []
    subscription = events.subscribe('stale_ack', lambda event: heard.append(event.facts['count']))
    message.ack()
    until(lambda: heard)
    subscription.cancel()
    assert heard == [1]


def test_errors_of_the_connection_are_redis_pys_too():
    with pytest.raises(driver.ConnectionError, match='refused') as caught:
        Connection('redis://127.0.0.1:1').connect()
    assert isinstance(caught.value, ConnectionRefusedError) and isinstance(caught.value, ConnectionLost)
    assert issubclass(errors.LinkLost, driver.ConnectionError)
