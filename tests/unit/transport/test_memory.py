"""The broker in the process: limits, times, dead letters, who may use what, and what a kill or a thread
leaves.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

from greenmq import Connection, events, runtime
from greenmq.exceptions import (
    AccessRefused,
    ConnectionClosed,
    InvalidArgument,
    PublishNacked,
    ResourceLocked,
)
from greenmq.runtime import hub_id
from greenmq.transport import memory
from tests.support import green


@pytest.fixture
def connect(opened):
    return lambda url='memory://', **options: opened(url, **options)


@pytest.fixture
def channel(connect):
    return connect().channel()


def publish(channel, body, key='q', exchange='', headers=None, priority=None, **properties):
    message = channel.prepare_message(
        str(body).encode(), priority, 'text/plain', 'utf-8', headers, properties
    )
    channel.basic_publish(message, exchange, key)


def bodies(channel, queue='q'):
    return [m.body.decode() for m in iter(lambda: channel.basic_get(queue, no_ack=True), None)]


def declare(channel, queue='q', **arguments):
    channel.queue_declare(
        queue, arguments={'x-' + name.replace('_', '-'): v for name, v in arguments.items()}
    )


def wait_until(condition, seconds=5):
    with green.Timeout(seconds):
        while not condition():
            green.sleep(0.001)


# ------------------------------------------------------------ virtual hosts


def test_connections_to_one_virtual_host_share_a_broker(connect):
    one, two, other = connect().channel(), connect().channel(), connect('memory://localhost/other').channel()
    for each in (one, other):
        declare(each)
    publish(one, 'x')
    assert two._size('q') == 1 and other._size('q') == 0


def test_reset_empties_one_or_all(connect):
    here, there = connect().channel(), connect('memory://localhost/there').channel()
    for each in (here, there):
        each.exchange_declare('e', 'direct')
        declare(each)
        publish(each, 'x')
    memory.reset('there')
    assert (here._size('q'), there._size('q')) == (1, 0)
    memory.reset()
    assert here._size('q') == 0 and here.get_exchanges() == []
    assert not here._has_queue('q')


def test_reset_forgets_what_was_unsettled(channel):
    declare(channel)
    publish(channel, 'x')
    channel.basic_get('q')
    memory.reset()
    channel.close()
    assert memory.broker().queues == {}


def test_class_attributes_show_the_default_virtual_host(connect, channel):
    declare(channel)
    declare(connect('memory://localhost/other').channel(), 'elsewhere')
    assert list(memory.Channel.queues) == ['q'] and channel.queues is memory.Channel.queues
    channel.exchange_declare('e', 'topic')
    assert memory.Transport.global_state.exchanges['e']['type'] == 'topic'


# ----------------------------------------------------------------- priorities


def test_higher_priority_comes_first_and_order_is_kept_within(channel):
    declare(channel)
    for n, priority in enumerate((0, 9, 5, 9, None, 5)):
        publish(channel, n, priority=priority)
    assert bodies(channel) == ['1', '3', '2', '5', '0', '4']


def test_priorities_above_the_most_count_as_it(channel):
    declare(channel, max_priority=2)
    for n, priority in enumerate((2, 200, 1)):
        publish(channel, n, priority=priority)
    assert bodies(channel) == ['0', '1', '2']


@pytest.mark.parametrize('properties', [{'priority': -1}, {'priority': 'high'}, {'expiration': '-5'}])
def test_bad_numbers_are_refused_before_anything_is_put(channel, properties):
    declare(channel)
    with pytest.raises(InvalidArgument, match=next(iter(properties))):
        publish(channel, 'x', **properties)
    assert channel._size('q') == 0


def test_requeued_returns_to_its_place(channel):
    declare(channel)
    for n in range(4):
        publish(channel, n)
    held = [channel.basic_get('q') for _ in range(4)]
    for n in (2, 0, 3, 1):
        held[n].requeue()
    assert bodies(channel) == ['0', '1', '2', '3']


# ---------------------------------------------------------------------- times


def test_an_expired_message_is_not_delivered(channel):
    declare(channel)
    publish(channel, 'gone', expiration='0')
    publish(channel, 'stays')
    assert bodies(channel) == ['stays']


def test_the_shorter_time_counts(channel):
    declare(channel, message_ttl=60_000)
    publish(channel, 'gone', expiration='0')
    publish(channel, 'stays')
    assert bodies(channel) == ['stays']


def test_expired_messages_are_dead_lettered_on_time_with_nobody_asking(channel):
    declare(channel, 'dead')
    declare(channel, dead_letter_exchange='', dead_letter_routing_key='dead', message_ttl=10)
    publish(channel, 'x')
    seen = []
    channel.basic_consume('dead', False, seen.append, 't')
    channel.connection.client.drain_events(timeout=5)
    assert seen[0].body == b'x' and seen[0].headers['x-first-death-reason'] == 'expired'
    assert channel._size('q') == 0


def test_an_expired_message_in_the_middle_goes_on_time(channel):
    declare(channel, 'dead')
    declare(channel, dead_letter_exchange='', dead_letter_routing_key='dead')
    publish(channel, 'long', expiration='60000')
    publish(channel, 'short', expiration='5')
    publish(channel, 'ever')
    wait_until(lambda: channel._size('dead'))
    assert bodies(channel, 'dead') == ['short']
    assert bodies(channel) == ['long', 'ever']


def test_what_is_in_work_does_not_expire_but_does_when_given_back(channel):
    declare(channel)
    publish(channel, 'x', expiration='5')
    message = channel.basic_get('q')
    green.sleep(0.02)
    assert message.body == b'x'
    message.requeue()
    assert bodies(channel) == []


def test_dead_letter_drops_the_expiration_and_keeps_it_in_the_history(channel):
    declare(channel, 'dead')
    declare(channel, dead_letter_exchange='', dead_letter_routing_key='dead')
    publish(channel, 'x', expiration='0')
    wait_until(lambda: channel._size('dead'))
    message = channel.basic_get('dead')
    assert 'expiration' not in message.properties
    death = message.headers['x-death'][0]
    assert (death['reason'], death['queue'], death['count'], death['original-expiration']) == (
        'expired',
        'q',
        1,
        '0',
    )
    assert death['routing-keys'] == ['q'] and death['exchange'] == '' and death['time'].tzinfo is not None


def test_an_unused_queue_expires_and_a_used_one_does_not(channel):
    declare(channel, 'unused', expires=10)
    declare(channel, 'used', expires=10)
    channel.basic_consume('used', False, print, 't')
    wait_until(lambda: not channel._has_queue('unused'))
    assert channel._has_queue('used')
    channel.basic_cancel('t')
    wait_until(lambda: not channel._has_queue('used'))


def test_times_cost_one_entry_a_queue(channel):
    declare(channel, message_ttl=3_600_000, expires=3_600_000)
    for n in range(100):
        publish(channel, n)
        channel.basic_get('q', no_ack=True)
    assert len(memory.broker()._dues) == 1 and len(memory.broker()._timers) == 1


def test_an_idle_broker_has_no_timer(channel):
    declare(channel)
    publish(channel, 'x')
    assert memory.broker()._timers == {}
    publish(channel, 'y', expiration='1')
    assert len(memory.broker()._timers) == 1
    wait_until(lambda: memory.broker()._timers == {})


def test_consumed_messages_with_a_long_time_to_live_are_not_kept(channel):
    declare(channel, message_ttl=3_600_000)
    for n in range(1000):
        publish(channel, n)
        channel.basic_get('q', no_ack=True)
    assert len(memory.broker().queues['q'].times) < 200


def test_expired_messages_of_a_queue_nobody_consumes_are_not_kept(channel):
    declare(channel)
    publish(channel, 'first')
    for n in range(500):
        publish(channel, n, expiration='0')
    queue = memory.broker().queues['q']
    memory.broker().expire(queue)
    assert queue.ready == 1 and len(queue._zero) < 100


# --------------------------------------------------------------------- limits


def test_max_length_drops_the_oldest_into_the_dead_letters(channel):
    declare(channel, 'dead')
    declare(channel, max_length=2, dead_letter_exchange='', dead_letter_routing_key='dead')
    for n in range(4):
        publish(channel, n)
    assert bodies(channel) == ['2', '3'] and bodies(channel, 'dead') == ['0', '1']


def test_max_length_in_bytes(channel):
    declare(channel, max_length_bytes=5)
    for body in ('aaa', 'bb', 'c'):
        publish(channel, body)
    assert bodies(channel) == ['bb', 'c']


def test_a_full_queue_may_refuse(connect, channel):
    declare(channel, max_length=1, overflow='reject-publish')
    channel.exchange_declare('e', 'fanout')
    declare(channel, 'other')
    for queue in ('q', 'other'):
        channel.queue_bind(queue, 'e')
    publish(channel, 'first')
    with pytest.raises(PublishNacked, match="'q' is full") as caught:
        publish(channel, 'second', 'k', 'e')
    assert (caught.value.exchange, caught.value.routing_key) == ('e', 'k')
    assert bodies(channel) == ['first'] and bodies(channel, 'other') == ['second']


@pytest.mark.parametrize(
    ('argument', 'value'),
    [
        ('message_ttl', -1),
        ('max_length', 'many'),
        ('expires', 0),
        ('max_priority', 256),
        ('overflow', 'burst'),
    ],
)
def test_bad_queue_arguments(channel, argument, value):
    with pytest.raises(InvalidArgument, match=argument.replace('_', '-')):
        declare(channel, **{argument: value})
    assert not channel._has_queue('q')


def test_negative_prefetch(channel):
    with pytest.raises(InvalidArgument, match='prefetch_count'):
        channel.basic_qos(0, -1, False)


# --------------------------------------------------------------- dead letters


def test_rejected_goes_to_the_dead_letter_exchange_with_its_key(channel):
    channel.exchange_declare('dlx', 'topic')
    declare(channel, 'dead')
    channel.queue_bind('dead', 'dlx', 'orders.#')
    declare(channel, dead_letter_exchange='dlx')
    channel.exchange_declare('e', 'direct')
    channel.queue_bind('q', 'e', 'orders.new')
    publish(channel, 'x', 'orders.new', 'e')
    channel.basic_get('q').reject()
    message = channel.basic_get('dead')
    assert message.delivery_info['exchange'] == 'dlx' and message.delivery_info['routing_key'] == 'orders.new'
    assert message.headers['x-death'][0]['exchange'] == 'e'


def test_deaths_are_counted_and_a_circle_without_a_reject_ends(channel):
    declare(channel, 'a', dead_letter_exchange='', dead_letter_routing_key='b', message_ttl=0)
    declare(channel, 'b', dead_letter_exchange='', dead_letter_routing_key='a', message_ttl=0)
    publish(channel, 'x', 'a')
    wait_until(lambda: memory.broker()._timers == {})
    assert channel._size('a') == channel._size('b') == 0


def test_rejecting_in_a_circle_goes_on(channel):
    declare(channel, dead_letter_exchange='', dead_letter_routing_key='q')
    publish(channel, 'x')
    for count in (1, 2, 3):
        channel.basic_get('q').reject()
        message = channel.basic_get('q')
        assert message.headers['x-death'][0]['count'] == count
        message.requeue()


def test_max_deliveries_dead_letters_what_keeps_coming_back(connect):
    channel = connect(max_deliveries=3).channel()
    declare(channel, 'dead')
    declare(channel, dead_letter_exchange='', dead_letter_routing_key='dead')
    publish(channel, 'x')
    counts = []
    for _ in range(3):
        message = channel.basic_get('q')
        counts.append(message.headers.get('x-delivery-count', 0))
        message.requeue()
    assert counts == [0, 1, 2]
    assert channel.basic_get('q') is None
    message = channel.basic_get('dead')
    assert message.headers['x-first-death-reason'] == 'delivery_limit'


# ------------------------------------------------------------ who may use what


def test_an_exclusive_queue_belongs_to_its_connection(connect):
    mine, other = connect(lock_exclusive=True), connect()
    mine.channel().queue_declare('q', exclusive=True)
    channel = other.channel()
    for use in (
        lambda: channel.queue_declare('q', passive=True),
        lambda: channel.queue_declare('q'),
        lambda: channel.basic_get('q'),
        lambda: channel.basic_consume('q', False, print, 't'),
        lambda: channel.queue_delete('q'),
        lambda: channel.queue_purge('q'),
    ):
        with pytest.raises(ResourceLocked, match="locked queue 'q'") as caught:
            use()
        assert caught.value.code == 405
    mine.channel().queue_declare('q', exclusive=True)
    mine.close()
    assert not channel._has_queue('q')


def test_an_exclusive_queue_that_is_not_locked_goes_with_who_declared_it_last(connect):
    first, second = connect(), connect()
    first.channel().queue_declare('q', exclusive=True)
    channel = second.channel()
    channel.queue_declare('q', exclusive=True)
    first.close()
    publish(channel, 'still there')
    assert channel.basic_get('q') is not None
    second.close()
    assert not connect().channel()._has_queue('q')


def test_an_auto_delete_queue_goes_with_its_last_consumer(channel):
    channel.queue_declare('q', auto_delete=True)
    for tag in ('a', 'b'):
        channel.basic_consume('q', False, print, tag)
    channel.basic_cancel('a')
    assert channel._has_queue('q')
    channel.basic_cancel('b')
    assert not channel._has_queue('q')


def test_an_auto_delete_exchange_goes_with_its_last_binding(channel):
    channel.exchange_declare('e', 'direct', auto_delete=True)
    for queue in 'ab':
        declare(channel, queue)
        channel.queue_bind(queue, 'e', 'k')
    channel.queue_unbind('a', 'e', 'k')
    assert 'e' in channel.get_exchanges()
    channel.queue_delete('b')
    assert 'e' not in channel.get_exchanges()


def test_an_exclusive_consumer_stays_alone(channel):
    declare(channel)
    channel.basic_consume('q', False, print, 'a', exclusive=True)
    with pytest.raises(AccessRefused, match='exclusive use'):
        channel.basic_consume('q', False, print, 'b')
    channel.basic_cancel('a')
    channel.basic_consume('q', False, print, 'b')


def test_conditions_of_deleting(channel):
    declare(channel)
    publish(channel, 'x')
    assert channel.queue_delete('q', if_empty=True) == 0 and channel._has_queue('q')
    channel.basic_consume('q', False, print, 't')
    assert channel.queue_delete('q', if_unused=True) == 0 and channel._has_queue('q')
    channel.basic_cancel('t')
    assert channel.queue_delete('q') == 1
    assert channel.queue_delete('q') == 0


def test_deleting_a_queue_tells_of_its_consumers(channel):
    told = green.AsyncResult()
    subscription = events.subscribe('consumer_lost', told.set)
    try:
        declare(channel)
        channel.basic_consume('q', False, print, 'tag')
        channel.queue_delete('q')
        event = told.get(timeout=5)
    finally:
        subscription.cancel()
    assert event.facts == {'consumer_tag': 'tag', 'queue': 'q'} and event.source is channel
    assert channel.active_queues == set()


# -------------------------------------------------------------------- routing


def test_exchanges_bound_to_exchanges(channel):
    for exchange in 'abc':
        channel.exchange_declare(exchange, 'topic')
    channel.exchange_bind('b', 'a', 'x.#')
    channel.exchange_bind('c', 'b', '#.y')
    channel.exchange_bind('a', 'c', '#')  # a circle
    declare(channel)
    channel.queue_bind('q', 'c', '#')
    publish(channel, 1, 'x.y', 'a')
    publish(channel, 2, 'x.z', 'a')
    assert bodies(channel) == ['1']
    channel.exchange_unbind('c', 'b', '#.y')
    publish(channel, 3, 'x.y', 'a')
    assert bodies(channel) == []


def test_an_alternate_exchange_takes_what_has_no_queue(channel):
    channel.exchange_declare('rest', 'fanout')
    channel.exchange_declare('e', 'direct', arguments={'alternate-exchange': 'rest'})
    declare(channel)
    declare(channel, 'leftover')
    channel.queue_bind('q', 'e', 'k')
    channel.queue_bind('leftover', 'rest')
    publish(channel, 1, 'k', 'e')
    publish(channel, 2, 'other', 'e')
    assert bodies(channel) == ['1'] and bodies(channel, 'leftover') == ['2']


def test_a_new_binding_counts_at_once(channel):
    channel.exchange_declare('e', 'direct')
    declare(channel, 'a')
    channel.queue_bind('a', 'e', 'k')
    publish(channel, 1, 'k', 'e')
    declare(channel, 'b')
    channel.queue_bind('b', 'e', 'k')
    publish(channel, 2, 'k', 'e')
    channel.queue_delete('a')
    publish(channel, 3, 'k', 'e')
    assert bodies(channel, 'b') == ['2', '3']


def test_a_queue_of_the_default_exchange_is_made_by_the_publish(channel):
    publish(channel, 'x', 'fresh')
    assert bodies(channel, 'fresh') == ['x']


def test_the_deadletter_queue_takes_what_no_queue_is_bound_for(connect):
    from greenmq.transport.virtual import UndeliverableWarning

    channel = connect(deadletter_queue='lost').channel()
    channel.exchange_declare('e', 'direct')
    with pytest.warns(UndeliverableWarning, match="exchange 'e'"):
        publish(channel, 'x', 'nokey', 'e')
    assert bodies(channel, 'lost') == ['x']


def test_an_unknown_exchange_swallows_as_in_kombu(channel):
    publish(channel, 'x', 'k', 'nobody')
    assert memory.broker().queues == {}


# ------------------------------------------------------------------- delivery


def test_publishing_does_not_switch(channel):
    declare(channel)
    channel.basic_consume('q', False, print, 't')
    ran = []
    green.spawn(ran.append, 1)
    publish(channel, 'x')
    assert ran == [] and channel.connection.events.pending == 1
    green.sleep(0)
    assert ran == [1]


def test_without_prefetch_only_so_many_wait_here(connect):
    channel = connect(fetch_ahead=10).channel()
    declare(channel)
    seen = []
    channel.basic_consume('q', False, seen.append, 't')
    for n in range(50):
        publish(channel, n)
    assert channel.connection.events.pending == 10
    while len(seen) < 50:  # none of them acknowledged: that is no limit
        channel.connection.client.drain_events(timeout=1)
    assert [m.body for m in seen] == [b'%d' % n for n in range(50)]


def test_a_no_ack_consumer_takes_no_more_than_wait_here(connect):
    channel = connect(fetch_ahead=4).channel()
    declare(channel)
    seen = []
    channel.basic_consume('q', True, seen.append, 't')
    for n in range(20):
        publish(channel, n)
    assert channel._size('q') == 16
    while len(seen) < 20:
        channel.connection.client.drain_events(timeout=1)


def test_cancel_gives_back_what_no_callback_had_unmarked(channel):
    declare(channel)
    channel.basic_consume('q', False, print, 'acks')
    channel.basic_consume('q', True, print, 'no-acks')
    for n in range(4):
        publish(channel, n)
    channel.basic_cancel('acks')
    channel.basic_cancel('no-acks')
    assert channel.connection.events.pending == 0 and channel.qos._delivered == {}
    message = channel.basic_get('q')
    assert message.body == b'0' and not message.delivery_info['redelivered']
    message.ack()
    assert bodies(channel) == ['1', '2', '3']


def test_an_ack_asks_no_more_queues_than_it_makes_room_for(channel, monkeypatch):
    """Each message is taken by one look into one queue, however many queues one consumer has."""
    asked, next_message = [], type(channel).next_message

    def counting(self, queue, sub):
        asked.append(queue)
        return next_message(self, queue, sub)

    monkeypatch.setattr(type(channel), 'next_message', counting)
    names = [f'q{n}' for n in range(200)]
    channel.basic_qos(0, 5, False)
    seen = []

    def callback(message):
        seen.append(message.delivery_info['routing_key'])
        message.ack()

    for name in names:
        declare(channel, name)
        channel.basic_consume(name, False, callback, name)
    for name in names * 3:
        publish(channel, 'x', name)
    while len(seen) < 600:
        channel.connection.client.drain_events(timeout=1)
    assert sorted(seen) == sorted(names * 3)
    # At most one look that finds the queue empty for each that finds a message.
    assert len(asked) <= 2 * 600


def test_requeue_with_a_full_prefetch_comes_back_to_the_same_consumer(channel):
    declare(channel)
    channel.basic_qos(0, 1, False)
    seen = []

    def callback(message):
        seen.append(message.delivery_info['redelivered'])
        if len(seen) < 3:
            message.requeue()
        else:
            message.ack()

    channel.basic_consume('q', False, callback, 't')
    publish(channel, 'x')
    while len(seen) < 3:
        channel.connection.client.drain_events(timeout=1)
    assert seen == [False, True, True] and channel.qos._delivered == {}


def test_closing_counts_only_what_a_callback_had(connect):
    connection = connect(max_deliveries=1)
    channel = connection.channel()
    declare(channel)
    for n in range(3):
        publish(channel, n)
    channel.basic_consume('q', False, lambda message: None, 't')
    connection.drain_events(timeout=1)
    channel.close()
    other = connection.channel()
    message = other.basic_get('q')
    assert message.body == b'1' and not message.delivery_info['redelivered']  # 0 was delivered often enough


def test_flow_stops_and_goes_on(channel):
    declare(channel)
    channel.basic_consume('q', False, print, 't')
    channel.flow(False)
    publish(channel, 'x')
    assert channel.connection.events.pending == 0
    channel.flow(True)
    assert channel.connection.events.pending == 1


def test_raising_the_prefetch_delivers_more(channel):
    declare(channel)
    channel.basic_qos(0, 1, False)
    channel.basic_consume('q', False, print, 't')
    for n in range(3):
        publish(channel, n)
    assert channel.connection.events.pending == 1
    channel.basic_qos(0, 3, False)
    assert channel.connection.events.pending == 3


def test_a_killed_callback_leaves_the_message_unsettled_and_the_next_one_comes(channel):
    declare(channel)
    entered = []

    def stuck(message):
        entered.append(message)
        green.sleep(10)

    channel.basic_consume('q', False, stuck, 't')
    client = channel.connection.client
    for n in range(2):
        publish(channel, n)
        drainer = green.spawn(client.drain_events)
        wait_until(lambda n=n: len(entered) > n)
        drainer.kill()
    channel.close()
    other = client.channel()
    assert bodies(other) == ['0', '1']


def test_message_payloads_of_two_queues_do_not_share_what_a_consumer_may_change(channel):
    channel.exchange_declare('e', 'fanout')
    for queue in 'ab':
        declare(channel, queue)
        channel.queue_bind(queue, 'e')
    publish(channel, 'x', '', 'e', headers={'h': 1}, correlation_id='c')
    one, two = channel.basic_get('a'), channel.basic_get('b')
    one.headers['h'] = one.properties['correlation_id'] = 'changed'
    assert two.headers == {'h': 1} and two.properties['correlation_id'] == 'c'
    one.requeue()
    assert channel.basic_get('a').headers['h'] == 1


def test_kombus_hooks_of_a_channel_work(channel):
    channel._new_queue('q')
    channel._put('q', channel.prepare_message(b'x', properties={'delivery_info': {'exchange': 'e'}}))
    assert channel._size('q') == 1
    raw = channel._get('q')
    assert raw['body'] == b'x' and raw['properties']['delivery_info']['exchange'] == 'e'
    with pytest.raises(memory.Empty):
        channel._get('q')
    assert channel._purge('q') == 0
    channel._delete('q')
    assert not channel._has_queue('q')


def test_a_subclass_with_its_own_message_class_gets_payloads():
    from greenmq.transport import virtual

    class Message(virtual.Message):
        def __init__(self, payload, channel=None, **kwargs):
            self.seen = payload
            super().__init__(payload, channel=channel, **kwargs)

    class Channel(memory.Channel):
        pass

    Channel.Message = Message

    class Transport(memory.Transport):
        pass

    Transport.Channel = Channel
    with Connection(transport=Transport) as connection:
        channel = connection.channel()
        declare(channel)
        publish(channel, 'x', headers={'h': 1})
        message = channel.basic_get('q')
        assert message.seen['headers'] == {'h': 1} and message.body == b'x'
        message.requeue()
        assert channel.basic_get('q').delivery_info['redelivered']


# ---------------------------------------------------------- closing and threads


def test_a_closed_channel_refuses(channel):
    declare(channel)
    channel.close()
    channel.close()
    for use in (
        lambda: publish(channel, 'x'),
        lambda: channel.basic_get('q'),
        lambda: channel.basic_consume('q', False, print, 't'),
    ):
        with pytest.raises(ConnectionClosed):
            use()
    assert 'closed' in repr(channel)


def test_settling_after_close_is_told_and_does_nothing(connect):
    connection = connect()
    channel = connection.channel()
    declare(channel)
    publish(channel, 'x')
    message = channel.basic_get('q')
    channel.close()
    assert message.ack() is False
    assert bodies(connection.channel()) == ['x']


def test_channel_numbers_are_used_again(connect):
    connection = connect()
    one, two = connection.channel(), connection.channel()
    numbers = one.channel_id, two.channel_id
    one.close()
    assert connection.channel().channel_id == numbers[0]


def test_no_more_channels_than_the_transport_allows(connect):
    from greenmq.exceptions import ResourceError

    connection = connect()
    connection.transport.channel_max = 2
    connection.channel()
    connection.channel()
    with pytest.raises(ResourceError, match='channel_max=2'):
        connection.transport.create_channel(connection.transport)


FORKS = """
import os, sys
from greenmq import Connection
from greenmq.transport import memory

with Connection('memory://') as connection:
    channel = connection.channel()
    channel.basic_publish(channel.prepare_message(b'x'), '', 'q')
    memory.broker()._lock.acquire()  # as another thread may hold it just then
    child = os.fork()
    if child == 0:
        with Connection('memory://') as mine:
            empty = not mine.channel()._has_queue('q')
            fresh = mine.channel()
            fresh.basic_publish(fresh.prepare_message(b'y'), '', 'q')
            os._exit(0 if empty and fresh.basic_get('q').body == b'y' else 1)
    memory.broker()._lock.release()
    assert os.waitpid(child, 0)[1] == 0
    assert channel.basic_get('q').body == b'x'
"""


def test_a_forked_child_begins_with_an_empty_broker():
    subprocess.run([sys.executable, '-c', FORKS], check=True, timeout=20)


def test_an_abandoned_connection_gives_all_back(channel):
    declare(channel)

    def use_and_forget():
        connection = Connection('memory://')
        theirs = connection.channel()
        theirs.queue_declare('private', exclusive=True)
        theirs.basic_consume('q', False, lambda message: theirs, 't')
        for n in range(3):
            publish(channel, n)
        connection.drain_events(timeout=1)
        return weakref.ref(connection)

    forgotten = use_and_forget()
    gc.collect()
    assert forgotten() is None
    wait_until(lambda: channel._size('q') == 3 and not channel._has_queue('private'))
    assert bodies(channel) == ['0', '1', '2']
    assert memory.broker().board.consumers('q') == []


def test_a_consumer_in_another_thread_is_woken_in_its_own_hub(connect):
    channel = connect().channel()
    declare(channel)
    mine, hubs, ready = hub_id(), [], green.Event()

    def consume():
        with Connection('memory://') as connection:
            theirs = connection.channel()

            def callback(message):
                hubs.append((hub_id(), message.body))
                message.ack()

            theirs.basic_consume('q', False, callback, 't')
            runtime.post(mine, ready.set)
            while len(hubs) < 20:
                connection.drain_events(timeout=10)

    thread = green.spawn(green.in_thread, consume)
    ready.wait(10)
    for n in range(20):
        publish(channel, n)
    thread.get(timeout=10)
    assert [body for _, body in hubs] == [b'%d' % n for n in range(20)]
    assert {hub for hub, _ in hubs} != {mine}
    assert channel._size('q') == 0
