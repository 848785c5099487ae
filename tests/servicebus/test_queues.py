"""What a queue of Service Bus does with messages: counts, dead letters, sessions, duplicates, delays."""

from __future__ import annotations

import pickle
import time

import pytest

from greenmq import Connection, Exchange, Queue
from greenmq.exceptions import AccessRefused, InvalidArgument, NotFound
from tests.support import green
from tests.support.cloud import Seen, declared, publish
from tests.support.proxy import Proxy


def depth(bus, name):
    found = bus.queue(name)
    return found['active'], found['locked']


def until(condition, seconds=10):
    with green.Timeout(seconds, AssertionError(f'not within {seconds} s')):
        while not condition():
            green.sleep(0.02)


class TestFates:
    """B11."""

    def test_an_ack_completes(self, connect, bus, name):
        connection = connect(bus.url())
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        message = queue.get()
        assert depth(bus, name) == (0, 1)
        message.ack()
        until(lambda: depth(bus, name) == (0, 0))

    def test_a_requeue_gives_back_at_once_and_counts(self, connect, bus, name):
        connection = connect(bus.url())
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        queue.get().requeue()
        message = queue.get()  # long before the lock of a minute ends
        assert message.headers['x-delivery-count'] == 1 and message.delivery_info['redelivered']
        message.ack()

    def test_what_nobody_saw_goes_back_uncounted(self, connect, bus, name):
        connection = connect(bus.url())
        queue = declared(connection, name)
        publish(connection, name, list(range(20)))
        held = []
        seen = Seen(connection, queue, held.append)
        seen.until(lambda: len(held) == 10)
        seen.stop()
        connection.close()
        until(lambda: depth(bus, name) == (20, 0))
        assert set(bus.queue(name)['counts']) <= {0, 1}
        assert bus.queue(name)['counts'].count(0) >= 10

    def test_a_reject_goes_to_the_dead_letters_with_a_reason(self, connect, bus, name):
        connection = connect(bus.url())
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        queue.get().reject()
        dead = Queue(f'{name}/$DeadLetterQueue')(connection.default_channel)
        message = dead.get()
        about = message.delivery_info['azure_message']
        assert message.payload == 'x' and about.application_properties['DeadLetterReason'] == 'rejected'
        message.reject()  # there is no place behind it
        until(lambda: depth(bus, f'{name}/$DeadLetterQueue') == (0, 0))

    def test_a_dead_letter_exchange_comes_first(self, connect, bus, name):
        connection = connect(bus.url())
        declared(connection, f'{name}-dead')
        arguments = {'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': f'{name}-dead'}
        queue = declared(connection, name, queue_arguments=arguments)
        publish(connection, name, ['x'])
        queue.get().reject()
        seen = Seen(connection, Queue(f'{name}-dead', routing_key=f'{name}-dead'))
        seen.until(lambda: seen.bodies == ['x'])
        seen.stop()
        assert bus.queue(f'{name}/$DeadLetterQueue') is None

    def test_what_expires_in_a_queue_with_a_dead_letter_exchange_goes_there(self, connect, bus, name):
        connection = connect(bus.url())
        declared(connection, f'{name}-dead')
        arguments = {'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': f'{name}-dead'}
        queue = declared(connection, name, queue_arguments=arguments)
        publish(connection, name, ['x'], expiration=0.05)
        green.sleep(0.1)
        assert queue.get() is None
        seen = Seen(connection, Queue(f'{name}-dead', routing_key=f'{name}-dead'))
        seen.until(lambda: seen.bodies == ['x'])
        seen.stop()

    def test_the_service_drops_what_expires_elsewhere(self, connect, bus, name):
        connection = connect(bus.url())
        queue = declared(connection, name)
        publish(connection, name, ['x'], expiration=0.05)
        publish(connection, name, ['y'], expiration=60)
        green.sleep(0.1)
        assert queue.get(no_ack=True).payload == 'y'

    def test_the_service_puts_aside_what_came_too_often(self, connect, bus, name):
        connection = connect(bus.url(), max_delivery_count=2)
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        queue.get().requeue()
        queue.get().requeue()
        assert queue.get() is None
        assert depth(bus, f'{name}/$DeadLetterQueue') == (1, 0)


class TestWhatTheServiceSays:

    def test_a_delivery_may_be_pickled(self, connect, bus, name):
        """B3."""
        connection = connect(bus.url())
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        message = queue.get()
        about = pickle.loads(pickle.dumps(message.delivery_info))['azure_message']
        assert about.lock_token == message.delivery_info['azure_message'].lock_token
        assert about.sequence_number == 1 and about.delivery_count == 0 and about.message_id
        assert 50 < about.locked_until_utc.timestamp() - time.time() <= 61
        assert message.delivery_info['azure_queue_name'] == name
        message.ack()

    @pytest.mark.parametrize('raw, body, kind', [
        (b'\x00Su\xa0\x03abc', 'abc', 'text/plain'),
        (b'\x00Su\xa0\x02\xff\x00', b'\xff\x00', 'application/octet-stream'),
        (b'\x00Su\xa0\x07{"a":1}', {'a': 1}, 'application/json'),
        (b'\x00Sw\xa1\x02hi', 'hi', 'text/plain'),
        (b'\x00Sw\xc1\x07\x02\xa1\x01k\xa1\x01v', {'k': 'v'}, 'application/json'),
        (b'\x00Ss\xc0\x12\x07\xa1\x02id@@@@@\xa3\x06text/x\x00Su\xa0\x01x', None, 'text/x'),
    ])
    def test_messages_of_strangers(self, raw, body, kind):
        from greenmq.transport.azureservicebus import envelope

        count, part = envelope.glance(raw)
        message = envelope.decode(part, envelope.AzureMessage(raw, b''), 'q')
        assert count == 0
        assert message['content-type'] == kind
        if body is not None:
            text = message['body']
            if kind == 'application/json':
                import json

                text = json.loads(text)
            assert text == body
        else:
            assert message['properties']['message_id'] == 'id'


class TestRights:
    """B13."""

    def test_without_manage_a_queue_that_is_there_serves(self, connect, bus, name):
        bus.ask('create', name=name)
        connection = connect(bus.url(policy='Data', key='ZGF0YQ=='))
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        assert queue.queue_declare(passive=True).message_count == 0  # nobody tells us
        message = queue.get()
        assert message.payload == 'x'
        message.ack()

    def test_without_manage_a_queue_that_is_not_there_says_what_is_missing(self, connect, bus, name):
        connection = connect(bus.url(policy='Data', key='ZGF0YQ=='))
        with pytest.raises(AccessRefused, match='Manage'):
            declared(connection, name)

    def test_without_management_at_all(self, connect, bus, name):
        bus.ask('create', name=name)
        connection = connect(bus.url(http_port=1))
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        seen = Seen(connection, queue)
        seen.until(lambda: seen.bodies == ['x'])
        seen.stop()

    def test_who_may_only_send_and_who_may_only_listen(self, connect, bus, name):
        bus.ask('create', name=name)
        sender = connect(bus.url(policy='Sender', key='c2VuZGVy'))
        declared(sender, name)
        publish(sender, name, ['x'])
        listener = connect(bus.url(policy='Listener', key='bGlzdGVuZXI='))
        seen = Seen(listener, declared(listener, name))
        seen.until(lambda: seen.bodies == ['x'])
        seen.stop()
        with pytest.raises(AccessRefused):
            listener.Producer(routing_key=name).publish('y')

    def test_queues_are_not_made_where_they_shall_not(self, connect, bus, name):
        connection = connect(bus.url(), create_queues=False)
        with pytest.raises(NotFound):
            declared(connection, name)

    def test_a_wrong_key_is_told_at_once(self, bus):
        with pytest.raises(AccessRefused, match='401'):
            Connection(bus.url(key='d3Jvbmc=')).connect()


class TestSessions:
    """B15."""

    def test_sessions_side_by_side_each_in_its_order(self, connect, bus, name):
        connection = connect(bus.url(), max_sessions=3, session_idle=0.3)
        queue = declared(connection, name, queue_arguments={'x-sessions': True})
        producer = connection.Producer(routing_key=name, serializer='json')
        for number in range(40):
            for session in range(5):
                producer.publish([session, number], session_id=f's{session}')
        seen = Seen(connection, queue)
        seen.until(lambda: len(seen.bodies) == 200, 30)
        seen.stop()
        for session in range(5):
            assert [body[1] for body in seen.bodies if body[0] == session] == list(range(40))
        until(lambda: bus.queue(name)['sessions'] == 0)  # others may have them

    def test_what_goes_back_comes_before_what_is_behind_it(self, connect, bus, name):
        connection = connect(bus.url(), session_idle=0.5)
        queue = declared(connection, name, queue_arguments={'x-sessions': True})
        publish(connection, name, list(range(5)), session_id='s')
        refused = []

        def handle(message):
            if message.payload == 2 and not refused:
                refused.append(message)
                message.requeue()
            else:
                message.ack()

        seen = Seen(connection, queue, handle)
        seen.until(lambda: len(seen.bodies) == 6)
        seen.stop()
        assert seen.bodies == [0, 1, 2, 2, 3, 4]

    def test_the_lock_of_a_session_is_renewed(self, connect, bus, name):
        connection = connect(bus.url(), peek_lock_seconds=1)
        queue = declared(connection, name, queue_arguments={'x-sessions': True})
        publish(connection, name, ['x'], session_id='s')
        held = []
        seen = Seen(connection, queue, held.append)
        seen.until(lambda: held)
        green.sleep(2.5)
        assert depth(bus, name) == (0, 1) and bus.counts()['renew-session-lock'] >= 3
        held[0].ack()
        until(lambda: depth(bus, name) == (0, 0))
        seen.stop()

    def test_one_by_one_and_none_without_a_session(self, connect, bus, name):
        connection = connect(bus.url(), session_idle=0.2)
        queue = declared(connection, name, queue_arguments={'x-sessions': True})
        publish(connection, name, ['x'])  # of the session that those have which name none
        message = queue.get()
        assert message.payload == 'x'
        assert message.delivery_info['azure_message'].session_id == 'default'
        message.ack()
        assert queue.get() is None
        publish(connection, name, [1, 2], session_id='a')
        publish(connection, name, [3], session_id='b')
        assert queue.purge() == 3


class TestOnceOnly:
    """B17."""

    def test_a_queue_that_knows_ids_drops_what_was_sent_again(self, connect, bus, name):
        with Proxy(bus.port) as proxy:
            connection = connect(bus.url(port=proxy.port))
            queue = declared(connection, name, queue_arguments={'x-duplicate-detection': 60})
            publish(connection, name, ['first'])
            for number in range(3):
                proxy.half(0, 'down', 'stall')  # the outcome does not come
                task = green.spawn(publish, connection, name, [number])
                until(lambda number=number: depth(bus, name)[0] >= number + 2)
                proxy.cut()
                proxy.heal()
                green.joinall([task], raise_error=True)
            assert bus.counts()['duplicates'] >= 1
            bodies = [message.payload for message in iter(lambda: queue.get(no_ack=True), None)]
        assert bodies == ['first', 0, 1, 2]

    def test_the_id_is_the_publishers_or_the_envelopes(self, connect, bus, name):
        connection = connect(bus.url())
        queue = declared(connection, name, queue_arguments={'x-duplicate-detection': True})
        publish(connection, name, [1, 2])
        publish(connection, name, [3, 4], message_id='same')
        messages = list(iter(lambda: queue.get(no_ack=True), None))
        assert [message.payload for message in messages] == [1, 2, 3]
        assert messages[2].delivery_info['azure_message'].message_id == 'same'
        with pytest.raises(InvalidArgument, match='128'):
            connection.Producer(routing_key=name).publish(5, message_id='x' * 129)


class TestDelays:

    def test_a_scheduled_message_comes_when_it_is_due(self, connect, bus, name):
        connection = connect(bus.url())
        queue = declared(connection, name)
        began = time.monotonic()
        publish(connection, name, ['x'], headers={'x-delay': 2000})
        assert queue.get() is None and bus.queue(name)['scheduled'] == 1
        seen = Seen(connection, queue)
        seen.until(lambda: seen.bodies == ['x'])
        seen.stop()
        assert time.monotonic() - began > 1.9


class TestSizes:

    def test_what_is_too_large_is_told_before_it_leaves(self, connect, bus, name):
        """B18."""
        bus.ask('set', max_message=10000)
        connection = connect(bus.url())
        declared(connection, name)
        with pytest.raises(InvalidArgument, match='10000'):
            connection.Producer(routing_key=name).publish('x' * 20000)
        publish(connection, name, ['x'])
        assert bus.counts()['transfers'] == 1

    def test_a_purge_takes_hundreds_at_a_time(self, connect, bus, name):
        """B21."""
        connection = connect(bus.url())
        queue = declared(connection, name)
        publish(connection, name, list(range(600)), 50)
        held = queue.get()
        publish(connection, name, ['later'], headers={'x-delay': 60000})
        bus.counts(clear=True)
        assert queue.purge() == 599
        found = bus.counts()
        assert found['flows'] <= 10 and found['dispositions'] >= 599
        assert bus.queue(name)['scheduled'] == 1 and depth(bus, name) == (0, 1)
        held.ack()


class TestTopics:

    def test_a_fanout_exchange_is_a_topic_if_that_is_asked_for(self, connect, bus, name):
        connection, other = connect(bus.url(), fanout='topics'), connect(bus.url(), fanout='topics')
        exchange = Exchange(f'{name}-x', type='fanout')
        queues = [Queue(f'{name}-{number}', exchange)(connection.default_channel) for number in range(2)]
        for queue in queues:
            queue.declare()
        far = Exchange(f'{name}-x', type='fanout')(other.default_channel)
        far.declare()
        other.Producer(exchange=far, serializer='json').publish('all')  # who has bound nothing
        for queue in queues:
            seen = Seen(connection, queue)
            seen.until(lambda seen=seen: seen.bodies == ['all'])
            seen.stop()
        queues[0].unbind_from(exchange)
        other.Producer(exchange=far, serializer='json').publish('rest')
        seen = Seen(connection, queues[1])
        seen.until(lambda: seen.bodies == ['rest'])
        seen.stop()
        assert queues[0].get() is None

    def test_without_asking_it_is_copies(self, connect, bus, name):
        connection = connect(bus.url())
        exchange = Exchange(f'{name}-x', type='fanout')
        queue = Queue(name, exchange)(connection.default_channel)
        queue.declare()
        connection.Producer(exchange=exchange, serializer='json').publish('x')
        assert queue.get(no_ack=True).payload == 'x'
        assert bus.queue(f'{name}-x') is None


def test_queues_are_listed(connect, bus, name):
    connection = connect(bus.url(), queue_name_prefix=f'{name}.')
    declared(connection, 'a/b')
    publish(connection, 'a/b', [1, 2])
    found = connection.get_manager().get_queues()
    assert [(each['name'], each['messages']) for each in found] == [('a/b', 2)]
    assert connection.default_channel.queue_declare('a/b', passive=True).message_count == 2
    connection.default_channel.queue_delete('a/b')
    assert bus.queue(f'{name}.a_b') is None
