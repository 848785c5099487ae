"""What strangers, other programs and other libraries may put into the database: it costs nobody a message."""

from __future__ import annotations

import base64
import json
import logging
import time

import pytest

from greenmq import Connection, Exchange, Queue, events
from greenmq.exceptions import InvalidArgument
from greenmq.transport.driver.poller import Poller
from tests.contract import test_redis
from tests.contract.test_redis import until

here, open_connection, raw = test_redis.here, test_redis.open_connection, test_redis.raw

SEP = '\x06\x16'


def envelope(body='good', **changes):
    """A message as kombu writes it, with some fields changed."""
    message = {
        'body': base64.b64encode(body.encode()).decode(), 'content-type': 'text/plain',
        'content-encoding': 'utf-8', 'headers': {},
        'properties': {'body_encoding': 'base64', 'delivery_mode': 2, 'delivery_tag': 'x', 'priority': 0,
                       'delivery_info': {'exchange': '', 'routing_key': 'q'}},
    }  # fmt: skip
    properties = {**message['properties'], **changes.pop('properties', {})}
    return json.dumps({**message, 'properties': properties, **changes})


DEEP = '[' * 5000 + ']' * 5000
BAD = {
    'nested': '[' * 100_000,
    'nested headers': envelope(headers={}).replace('"headers": {}', '"headers": {"a": ' + DEEP + '}'),
    'a number': '5',
    'no properties': '{"body": "YQ=="}',
    'no utf-8': b'\xff\xfe',
    'a body of another type': envelope().replace('"body": "', '"body": 5, "was": "'),
    'headers of another type': envelope(headers='x'),
    'true headers': envelope(headers=True),
    'properties of another type': envelope().replace('"properties": {', '"properties": 5, "was": {'),
    'a list as encoding': envelope(properties={'body_encoding': ['base64']}),
    'text as delivery_info': envelope(properties={'delivery_info': 'x'}),
    'a number as exchange': envelope(properties={'delivery_info': {'exchange': 5, 'routing_key': 'q'}}),
    'a content type of another type': envelope(**{'content-type': ['text/plain']}),
}


@pytest.fixture
def reports():
    found = []
    subscription = events.subscribe('decode_error', lambda event: found.append(event.facts))
    yield found
    subscription.cancel()


def drain(client, got, count=1):
    deadline = time.monotonic() + 20
    while len(got) < count and time.monotonic() < deadline:
        try:
            client.drain_events(timeout=0.2)
        except TimeoutError:
            continue
    return got


def bodies(client, count):
    got = []
    with client.Consumer([Queue('q')], callbacks=[lambda body, message: (got.append(body), message.ack())]):
        return drain(client, got, count)


def test_each_is_kept_and_told_once_and_the_others_of_the_batch_are_delivered(here, raw, reports, caplog):
    for bad in BAD.values():
        raw.lpush('q', bad)
        raw.lpush('q', envelope())
    with caplog.at_level(logging.ERROR):
        assert bodies(here.client, len(BAD)) == ['good'] * len(BAD)
        until(lambda: raw.llen('greenmq.dead.q') == len(BAD))
        until(lambda: len(reports) == len(BAD))
    until(lambda: raw.hlen('unacked') == 0 and raw.zcard('unacked_index') == 0)
    assert all(fact['queue'] == 'q' and fact['message'] is None for fact in reports)
    told = [record for record in caplog.records if 'is no message' in record.message]
    assert len(told) == len(BAD) and all(len(record.getMessage()) < 600 for record in told)


@pytest.mark.parametrize('bad', BAD.values(), ids=BAD)
def test_a_get_passes_over_it(here, raw, bad):
    raw.lpush('q', bad)
    raw.lpush('q', envelope())
    assert Queue('q')(here.channel).get().payload == 'good'
    raw.lpush('q', bad)
    assert Queue('q')(here.channel).get() is None
    until(lambda: raw.llen('greenmq.dead.q') == 2)


def test_a_simple_queue_passes_over_it(here, raw):
    raw.lpush('q', '5')
    raw.lpush('q', envelope())
    queue = here.client.SimpleQueue('q')
    assert queue.get(timeout=5).payload == 'good'
    queue.close()


@pytest.mark.parametrize('expires_at', ['x', [], None, True, {}])
def test_a_time_that_is_no_number_is_no_expiry(here, raw, expires_at):
    raw.lpush('q', envelope(properties={'expires_at': expires_at}))
    assert Queue('q')(here.channel).get().payload == 'good'


def test_one_that_has_expired_is_not_none(here):
    publish = here.client.Producer(here.client.channel()).publish
    for body in ('old', 'older'):
        publish(body, routing_key='q', expiration=0.05)
    publish('good', routing_key='q')
    time.sleep(0.1)
    assert Queue('q')(here.channel).get().payload == 'good'
    for body in ('old', 'older'):
        publish(body, routing_key='q', expiration=0.05)
    publish('good', routing_key='q')
    time.sleep(0.1)
    here.channel.basic_qos(0, 1, False)
    assert bodies(here.client, 1) == ['good']


def test_one_that_was_delivered_too_often_is_not_none(open_connection, raw):
    client = open_connection(max_deliveries=1)
    raw.lpush('q', '{"redelivered":1,' + envelope()[1:])
    raw.lpush('q', envelope())
    assert Queue('q')(client.channel()).get().payload == 'good'


def test_a_message_that_is_longer_than_allowed_is_kept(open_connection, raw, reports):
    client = open_connection(max_message_bytes=2000)
    raw.lpush('q', envelope('a' * 3000))
    raw.lpush('q', envelope())
    assert Queue('q')(client.channel()).get().payload == 'good'
    until(lambda: raw.llen('greenmq.dead.q') == 1 and reports)
    assert 'max_message_bytes' in str(reports[0]['error'])


def test_foreign_members_of_what_is_delayed_hold_up_nobody(here, raw):
    raw.zadd('greenmq.delayed', {f'garbage {n}': 1 for n in range(150)} | {'5:q': 1, ':': 1, '99999:q:x': 1})
    here.put('q', 'first')
    Queue('q')(here.channel).get()
    here.client.Producer(here.client.channel()).publish('late', routing_key='q', headers={'x-delay': 50})
    assert bodies(here.client, 1) == ['late']
    until(lambda: raw.zcard('greenmq.delayed') == 0)
    assert raw.llen('greenmq.delayed.dead') == 153


def test_foreign_bindings_are_passed_over(here, raw, caplog):
    exchange = Exchange('ex', 'direct')
    Queue('q', exchange, 'k')(here.channel).declare()
    raw.sadd('_kombu.binding.ex', b'\xff\xfe', 'one part', SEP.join('abcd'))
    here.client.Producer(here.client.channel()).publish('good', exchange='ex', routing_key='k')
    assert Queue('q')(here.channel).get().payload == 'good'
    assert sum('are no bindings' in record.getMessage() for record in caplog.records) == 1


def test_what_cannot_be_restored_of_a_kombu_worker_is_put_aside(open_connection, raw):
    client = open_connection(visibility_timeout=1, sweep_interval=0.2)
    for n, value in enumerate(['[' * 100_000, '{}', b'\xff', '[{}, 5, 5]', '[[], "", "q"]']):
        raw.hset('unacked', f'tag{n}', value)
        raw.zadd('unacked_index', {f'tag{n}': 1})
    raw.zadd('greenmq.expiring', {b'\xff\xfe': 1})
    raw.hset('unacked', 'good', f'[{envelope()},"","q"]')
    raw.zadd('unacked_index', {'good': 1})
    assert bodies(client, 1) == ['good']
    until(lambda: raw.hlen('unacked') == 0)
    assert raw.llen('unacked.dead') == 5


@pytest.mark.parametrize('name', [f'x{SEP}victim', f'{SEP}', f'q{SEP}3'])
def test_names_with_the_separator_are_refused_everywhere(here, raw, name):
    exchange = Exchange('ex', 'topic')
    exchange(here.channel).declare()
    publish = here.client.Producer(here.client.channel()).publish
    for use in (
        lambda: Queue(name)(here.channel).declare(),
        lambda: Queue('q', exchange, name)(here.channel).declare(),
        lambda: Queue('q', Exchange(name), 'k')(here.channel).declare(),
        lambda: Queue(name)(here.channel).get(),
        lambda: Queue(name)(here.channel).purge(),
        lambda: here.channel.basic_consume(name, False, print, 'tag'),
        lambda: publish('x', routing_key=name),
        lambda: publish('x', exchange='ex', routing_key=name),
        lambda: publish('x', exchange=name, routing_key='k'),
    ):
        with pytest.raises(InvalidArgument, match='separates'):
            use()
    assert not raw.exists('victim') and not raw.hexists('greenmq.queues', name)


@pytest.mark.parametrize(
    'name', ['unacked', 'unacked_index', 'greenmq.queues', 'greenmq.tags.x', '_kombu.binding.x']
)
def test_names_of_keys_are_no_names_of_queues(here, name):
    for use in (Queue(name)(here.channel).declare, lambda: here.put(name, 1)):
        with pytest.raises(InvalidArgument, match='is the name of a key'):
            use()
    Queue('greenmq.dead.q')(here.channel).get()


@pytest.mark.parametrize('delay', ['soon', [], {}, True, None, 'nan', -5])
def test_a_delay_that_is_no_number_is_none(here, delay):
    here.client.Producer(here.client.channel()).publish('good', routing_key='q', headers={'x-delay': delay})
    assert Queue('q')(here.channel).get().payload == 'good'


# ---- what greenmq owes the database


def test_an_auto_delete_queue_is_gone_whole_with_its_last_consumer(here, raw):
    exchange = Exchange('ex', 'direct')
    for n in range(3):
        queue = Queue(f'q{n}', exchange, 'k', auto_delete=True, expires=600)
        other = here.client.channel()
        first, last = (here.client.Consumer([queue], channel=channel) for channel in (here.channel, other))
        first.consume()
        last.consume()
        here.client.Producer(here.client.channel()).publish('x', exchange='ex', routing_key='k')
        first.cancel()
        assert raw.hexists('greenmq.queues', f'q{n}') and raw.scard('_kombu.binding.ex') == 1
        last.cancel()
        assert not raw.hexists('greenmq.queues', f'q{n}') and not raw.scard('_kombu.binding.ex')
        other.close()
    until(lambda: not raw.hlen('unacked'))
    assert not raw.exists('q0', 'q1', 'q2', 'greenmq.expires', 'greenmq.expiring', 'greenmq.bound.q0')


def test_an_auto_delete_queue_is_gone_whole_when_its_channel_closes(here, raw):
    channel = here.client.channel()
    consumer = here.client.Consumer([Queue('q', Exchange('ex'), 'k', auto_delete=True)], channel=channel)
    consumer.consume()
    here.client.Producer(here.client.channel()).publish('x', exchange='ex', routing_key='k')
    channel.close()
    keys = ('q', '_kombu.binding.ex', '_kombu.binding_permanent.ex', 'greenmq.queues', 'unacked')
    assert not raw.exists(*keys)


@pytest.mark.parametrize('name', ['events[ab]', 'a*b', 'what?', 'back\\slash', 'x^[!a-z]'])
def test_a_fanout_of_any_name_is_heard_by_its_own_consumers(here, name):
    exchange = Exchange(name, 'fanout')
    other = Exchange('eventsa' if '[' in name else 'aXb', 'fanout')
    got = []
    with here.client.Consumer([Queue('f', exchange)], callbacks=[lambda body, message: got.append(body)]):
        publish = here.client.Producer(here.client.channel()).publish
        publish('other', exchange=other, routing_key='', declare=[other])
        publish('mine', exchange=exchange, routing_key='')
        drain(here.client, got)
    assert got == ['mine']


def test_a_star_in_the_key_of_a_fanout_still_means_any_text(here):
    exchange = Exchange('ex[1]', 'fanout')
    got = []
    queue = Queue('f', exchange, 'a.*')
    with here.client.Consumer([queue], callbacks=[lambda body, message: got.append(body)]):
        publish = here.client.Producer(here.client.channel()).publish
        for key in ('b.x', 'a.x'):
            publish(key, exchange=exchange, routing_key=key)
        drain(here.client, got)
    assert got == ['a.x']


def test_the_history_of_what_died_twice(here):
    dead = Exchange('dlx', 'direct')
    Queue('dead', dead, 'q')(here.channel).declare()
    arguments = {'x-dead-letter-exchange': 'dlx'}
    Queue('q', queue_arguments=arguments)(here.channel).declare()
    publish = here.client.Producer(here.client.channel()).publish
    publish('x', routing_key='q', headers={'x-death': 'what a publisher wrote'})
    for count in (1, 2):
        Queue('q')(here.channel).get().reject()
        until(lambda: here.channel.queue_declare('dead', passive=True).message_count == 1)
        message = Queue('dead')(here.channel).get()
        message.ack()
        entry = message.headers['x-death'][0]
        assert (entry['count'], entry['queue'], entry['reason']) == (count, 'q', 'rejected')
        assert entry['routing-keys'] == ['q'] and message.headers['x-first-death-queue'] == 'q'
        publish(message.payload, routing_key='q', headers=message.headers)


def test_an_empty_text_stays_a_text_and_no_bytes_stay_bytes(here):
    publish = here.client.Producer(here.client.channel()).publish
    publish('', routing_key='q')
    publish(b'', routing_key='q')
    get = Queue('q')(here.channel).get
    assert get().payload == '' and get().payload == b''


def test_messages_that_go_back_leave_the_queue_its_end(here, raw, open_connection):
    client = open_connection()
    queue = Queue('tt', expires=30)
    for n in range(3):
        client.Producer(client.channel()).publish(n, routing_key='tt', declare=[queue])
    with client.Consumer([queue], callbacks=[lambda body, message: message.ack()]):
        client.drain_events(timeout=5)
    client.close()
    assert raw.llen('tt') == 2 and 0 < raw.pttl('tt') <= 30_000


def test_the_user_and_password_of_a_socket_are_decoded(redis_server):
    with redis_server.client() as admin:
        admin.execute_command('ACL', 'SETUSER', 'a@b', 'on', '>p@ s/s', '~*', '&*', '+@all')
    url = f'redis+socket://a%40b:p%40%20s%2Fs@{redis_server.socket_path}'
    with Connection(url) as client:
        client.connect()
        assert client.transport.driver.server.execute(('ACL', 'WHOAMI')) == b'a@b'


def test_a_fetch_is_bounded_by_bytes(here, raw, monkeypatch):
    for _ in range(20):
        raw.lpush('q', envelope('a' * 1_000_000))
    sizes = []
    took = Poller.took

    def counted(poller, flight, takens):
        sizes.append(len(takens))
        return took(poller, flight, takens)

    monkeypatch.setattr(Poller, 'took', counted)
    assert [len(body) for body in bodies(here.client, 20)] == [1_000_000] * 20
    assert max(sizes) == 1
