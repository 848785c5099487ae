"""What the service is asked, what becomes of messages, and what happens where calls fail."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import b64decode, b64encode
from urllib.parse import quote

import pytest

from greenmq import Connection, runtime
from greenmq.exceptions import (
    ConnectionLost,
    InvalidArgument,
    NotFound,
    PublishUnconfirmed,
)
from greenmq.transport.azurestoragequeues import AccessDenied
from tests.stress import FACTOR
from tests.support import green
from tests.support.azurite import ACCOUNT, KEY
from tests.support.cloud import Seen, declared, goes_on_through_cuts, goes_on_through_faults, publish

GET, PUT, DELETE = 'GET .*/messages', 'POST .*/messages', 'DELETE .*/messages/'
BUSY = '<?xml version="1.0"?><Error><Code>ServerBusy</Code><Message>later</Message></Error>'


def counts(proxy):
    """Requests by what they are about."""
    found = {'get': 0, 'put': 0, 'delete': 0, 'hide': 0, 'other': 0}
    for operation, count in proxy.counts.items():
        method, path = operation.split(' ', 1)
        words = {'GET': 'get', 'POST': 'put', 'DELETE': 'delete', 'PUT': 'hide'}
        found[words[method] if '/messages' in path else 'other'] += count
    return found


def sas(rights):
    """A SAS token of the account, with some rights for queues and messages, as the portal makes them."""
    until = time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(time.time() + 3600))
    version = '2021-02-12'
    text = '\n'.join([ACCOUNT, rights, 'q', 'sco', '', until, '', 'https,http', version, '', ''])
    digest = b64encode(hmac.new(b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    facts = {'sv': version, 'ss': 'q', 'srt': 'sco', 'sp': rights, 'se': until, 'spr': 'https,http',
             'sig': digest}
    return '&'.join(f'{name}={quote(value, safe="")}' for name, value in facts.items())


class TestCounts:

    def test_messages_come_in_thirty_twos_and_a_declaration_is_one_call(self, connect, azurite, proxy, name):
        connection = connect(azurite.url(proxy.port), polling_interval=30)
        declared(connection, name)
        proxy.reset()
        queue = declared(connection, name)
        assert proxy.total == 1
        publish(connection, name, list(range(96)), 20)
        assert counts(proxy)['put'] == 96
        proxy.reset()
        seen = Seen(connection, queue, prefetch=1000)
        settler = connection.transport.session.settler
        seen.until(lambda: len(seen.bodies) == 96 and not settler.pending)
        found = counts(proxy)
        seen.stop()
        assert sorted(seen.bodies) == list(range(96))
        assert found['get'] <= 12 and found['delete'] == 96 and not found['hide']

    def test_an_idle_queue_is_looked_at_with_growing_pauses(self, connect, azurite, proxy, name):
        connection = connect(azurite.url(proxy.port), polling_interval=2)
        queue = declared(connection, name)
        seen = Seen(connection, queue)
        green.sleep(3.5)
        proxy.reset()
        green.sleep(4.5)
        assert counts(proxy)['get'] <= 3  # Seen drains again and again, which is no reason to look
        # Who publishes here knows that there is something
        began = runtime.monotonic()
        publish(connection, name, ['x'])
        seen.until(lambda: seen.bodies)
        assert runtime.monotonic() - began < 1.5
        seen.stop()

    def test_by_default_that_is_twelve_looks_a_minute(self):
        from greenmq.transport.azurestoragequeues import Transport

        assert Transport.Driver.options['polling_interval'].default == 5.0

    def test_a_full_consumer_asks_nothing(self, connect, azurite, proxy, name):
        connection = connect(azurite.url(proxy.port))
        queue = declared(connection, name)
        publish(connection, name, [1, 2])
        seen = Seen(connection, queue, handle=lambda message: None, prefetch=1)
        seen.until(lambda: seen.bodies)
        green.sleep(0.1)
        proxy.reset()
        green.sleep(1)
        assert proxy.counts == {}
        seen.messages[0].ack()
        seen.until(lambda: len(seen.bodies) == 2)
        seen.messages[1].ack()
        seen.stop()


class TestMessages:

    def test_what_a_dead_lease_held_is_delivered_again_and_counted(self, connect, azurite, name):
        connection = connect(azurite.url(), lease_timeout=1)
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        first = queue.get()
        first.requeue()
        seen = Seen(connection, queue)
        seen.until(lambda: seen.bodies == ['x'])
        seen.stop()
        assert seen.messages[0].headers['x-delivery-count'] == 1
        green.sleep(0.2)
        assert connection.default_channel.queue_declare(name, passive=True).message_count == 0

    def test_a_renewed_message_is_deleted_by_its_new_receipt(self, connect, azurite, proxy, name):
        connection = connect(azurite.url(proxy.port), lease_timeout=2)
        queue = declared(connection, name)
        publish(connection, name, list(range(10)))
        held = []
        slow = Seen(connection, queue, handle=held.append, prefetch=100)
        slow.until(lambda: len(slow.bodies) == 10)
        other = connect(azurite.url(), queue_name_prefix='')
        second = Seen(other, queue)
        green.sleep(4.5)
        assert second.bodies == [] and counts(proxy)['hide'] >= 20
        # Acks that race with renewals
        for message in held:
            message.ack()
            green.sleep(0.02)
        green.sleep(0.5)
        slow.stop()
        second.stop()
        assert connection.default_channel.queue_declare(name, passive=True).message_count == 0

    def test_what_a_cut_look_brought_goes_back_at_once(self, connect, azurite, proxy, name):
        connection = connect(azurite.url(proxy.port))
        queue = declared(connection, name)
        proxy.late(GET, 1.0)
        seen = Seen(connection, queue)
        publish(connection, name, ['x'])
        green.sleep(0.4)  # the message is with us, and we do not know it yet
        seen.stop()
        proxy.heal()
        second = Seen(connect(azurite.url(), queue_name_prefix=''), queue)
        second.until(lambda: second.bodies == ['x'], 10)
        assert seen.bodies == []
        second.stop()

    def test_rejected_too_often_it_is_in_the_queue_for_poison(self, connect, azurite, name):
        connection = connect(azurite.url(), max_deliveries=3)
        queue = declared(connection, name)
        publish(connection, name, ['bad'])
        seen = Seen(connection, queue, handle=lambda message: message.requeue())
        aside = declared(connection, f'{name}-poison')
        lost = Seen(connection, aside)
        lost.until(lambda: lost.bodies == ['bad'])
        seen.stop()
        lost.stop()
        assert seen.bodies == ['bad'] * 3

    def test_a_plain_reject_drops_it(self, connect, azurite, name):
        connection = connect(azurite.url())
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        queue.get().reject()
        green.sleep(0.3)
        channel = connection.default_channel
        assert channel.queue_declare(name, passive=True).message_count == 0
        with pytest.raises(NotFound):
            channel.queue_declare(f'{name}-poison', passive=True)

    def test_messages_of_others(self, connect, azurite, name):
        connection = connect(azurite.url())
        queue = declared(connection, name)
        service = connection.transport.session.driver._service
        for text in ('plain & <simple>', '{"n": 1}', b64encode(b'of Azure Functions').decode()):
            service.put(name, text, -1, 0, runtime.Deadline.after(10))
        seen = Seen(connection, queue)
        seen.until(lambda: len(seen.bodies) == 3)
        seen.stop()
        assert sorted(map(str, seen.bodies)) == ['of Azure Functions', 'plain & <simple>', "{'n': 1}"]

    def test_how_long_a_message_is_kept_and_held_back(self, connect, azurite, proxy, name):
        connection = connect(azurite.url(proxy.port))
        queue = declared(connection, name)
        producer = connection.Producer(routing_key=name, serializer='json')
        producer.publish('for ever')
        producer.publish('for a minute', expiration=60)
        producer.publish('later', delay_seconds=1)
        producer.publish('later too', headers={'x-delay': 1000}, expiration=0.5)
        puts = [operation for operation, _ in proxy.log if operation.startswith('POST')]
        assert len(puts) == 4
        seen = Seen(connection, queue)
        seen.until(lambda: sorted(seen.bodies) == ['for a minute', 'for ever', 'later'])
        seen.stop()

    def test_the_limit_of_a_message(self, connect, azurite, proxy, name):
        connection = connect(azurite.url(proxy.port), body_encoding='none')
        queue = declared(connection, name)
        producer = connection.Producer(routing_key=name, serializer='raw')
        publish(connection, name, ['x'])
        producer.publish(b'y' * (64 * 1024 - 700))
        proxy.reset()
        with pytest.raises(InvalidArgument, match='65536 bytes'):
            producer.publish(b'y' * (64 * 1024))
        assert proxy.total == 0
        assert queue.get(no_ack=True) and queue.get(no_ack=True)

    def test_names_with_a_prefix(self, connect, azurite, name):
        connection = connect(azurite.url(), queue_name_prefix=f'{name}_')
        queue = declared(connection, 'My.queue')
        publish(connection, 'My.queue', [1, 2])
        driver = connection.transport.session.driver
        assert [each['name'] for each in driver.queues(runtime.Deadline.after(10))] == ['My.queue']
        assert queue.purge() == 2
        queue.delete()
        assert list(driver.queues(runtime.Deadline.after(10))) == []
        with pytest.raises(InvalidArgument, match='at the service'):
            declared(connection, 'my-queue')


class TestFaults:

    @pytest.mark.slow
    @pytest.mark.parametrize('status, body', [(503, BUSY), (500, ''), (429, '')])
    def test_many_calls_are_refused_and_all_arrive(self, connect, azurite, proxy, name, status, body):
        connection = connect(azurite.url(proxy.port), lease_timeout=3)
        queue = declared(connection, name)
        proxy.answer('messages', status, body, times=1)  # by chance no call would be hit
        proxy.answer('messages', status, body, chance=0.3)
        publish(connection, name, list(range(6)), 6)
        seen = Seen(connection, queue)
        seen.until(lambda: set(seen.bodies) == set(range(6)), 25)
        assert proxy.broken
        proxy.heal()
        seen.stop()

    @pytest.mark.parametrize('fault', ['cut_before', 'cut_after', 'cut_middle'])
    def test_connections_are_cut_and_nobody_goes_deaf(self, connect, azurite, proxy, name, fault):
        connection = connect(azurite.url(proxy.port), lease_timeout=2)
        goes_on_through_cuts(
            connection, name, proxy, lambda: getattr(proxy, fault)('messages', chance=0.3), 20, 10)

    @pytest.mark.slow
    @pytest.mark.green_timeout(1800 if FACTOR > 1 else 120)
    def test_faults_of_every_kind_leave_nobody_deaf(self, connect, azurite, proxy, name):
        connection = connect(azurite.url(proxy.port), lease_timeout=2)
        broken = goes_on_through_faults(connection, name, proxy, [
            lambda: proxy.cut_before('messages'), lambda: proxy.cut_after('messages'),
            lambda: proxy.cut_middle('messages'), lambda: proxy.answer('messages', 500, ''),
            lambda: proxy.answer('messages', 503, BUSY), lambda: proxy.late('messages', 0.5),
            lambda: proxy.answer('messages', 200, '<html>'), proxy.cut, lambda: proxy.hang('messages'),
        ], 300 if FACTOR > 1 else 9, 30)
        assert broken

    def test_a_publish_whose_answer_is_lost_is_made_again_as_the_same_message(
        self, connect, azurite, proxy, name
    ):
        connection = connect(azurite.url(proxy.port))
        queue = declared(connection, name)
        proxy.cut_after(PUT, times=1)
        publish(connection, name, ['x'], message_id='mine')
        seen = Seen(connection, queue)
        seen.until(lambda: len(seen.bodies) == 2)
        seen.stop()
        assert seen.bodies == ['x', 'x']
        assert [message.properties['message_id'] for message in seen.messages] == ['mine', 'mine']

    def test_a_delete_whose_answer_is_lost_is_no_stale_one(self, connect, azurite, proxy, name, caplog):
        connection = connect(azurite.url(proxy.port))
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        message = queue.get()
        proxy.cut_after(DELETE, times=1)
        message.ack()
        with green.Timeout(10):
            while connection.transport.session.settler.pending:
                green.sleep(0.01)
        assert 'acknowledgements came after' not in caplog.text
        assert connection.default_channel.queue_declare(name, passive=True).message_count == 0

    def test_garbage_is_no_answer(self, connect, azurite, proxy, name):
        connection = connect(azurite.url(proxy.port))
        queue = declared(connection, name)
        proxy.answer(GET, 200, '<html>no xml', times=4)
        seen = Seen(connection, queue)
        publish(connection, name, ['x'])
        seen.until(lambda: seen.bodies, 15)
        seen.stop()

    def test_a_page_of_somebody_else_confirms_nothing(self, connect, azurite, proxy, name):
        connection = connect(azurite.url(proxy.port))
        queue = declared(connection, name)
        proxy.answer('messages', 200, '<html>log in first', times=2)
        publish(connection, name, ['x'])
        proxy.answer(DELETE, 200, '<html>log in first', times=2)
        message = queue.get()
        message.ack()
        with green.Timeout(10):
            while connection.default_channel.queue_declare(name, passive=True).message_count:
                green.sleep(0.05)

    def test_a_publish_keeps_its_deadline_and_says_what_is_known(self, connect, azurite, proxy, name):
        connection = connect(azurite.url(proxy.port))
        declared(connection, name)
        proxy.hang(PUT)
        began = runtime.monotonic()
        with pytest.raises(PublishUnconfirmed) as caught:
            connection.Producer(routing_key=name).publish('x', timeout=0.5)
        assert runtime.monotonic() - began < 3
        assert caught.value.sent == 'unknown'
        proxy.heal()

    def test_a_queue_that_somebody_deleted_is_made_again_by_a_publish(self, connect, azurite, name):
        connection = connect(azurite.url())
        queue = declared(connection, name)
        other = connect(azurite.url(), queue_name_prefix='')
        other.default_channel.queue_delete(name)
        publish(connection, name, ['x'])
        assert queue.get(no_ack=True).payload == 'x'

    def test_a_consumer_learns_of_nothing_where_the_service_restarts(self, connect, azurite, proxy, name):
        connection = connect(azurite.url(proxy.port))
        queue = declared(connection, name)
        seen = Seen(connection, queue)
        green.sleep(0.3)
        proxy.cut()
        publish(connection, name, ['x'], retry=True)
        seen.until(lambda: seen.bodies)
        seen.stop()


class TestRights:

    def test_a_token_for_messages_alone_is_enough(self, connect, azurite, name):
        declared(connect(azurite.url()), name)
        connection = connect(azurite.url(credential=sas('raup')))
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        seen = Seen(connection, queue)
        seen.until(lambda: seen.bodies == ['x'])
        green.sleep(0.2)
        seen.stop()
        with pytest.raises(AccessDenied, match='lacks the right|it is not allowed'):
            declared(connection, f'{name}-new')

    def test_a_wrong_key_is_told_at_connect(self, azurite):
        wrong = b64encode(b'another key altogether').decode()
        with pytest.raises(AccessDenied, match='the key, or the token or its time, is wrong') as caught:
            Connection(azurite.url(credential=wrong)).connect()
        assert wrong not in str(caught.value)

    def test_a_wrong_clock_is_told(self, azurite, proxy):
        proxy.answer('', 403, '<Error><Code>AuthenticationFailed</Code></Error>',
                     {'Date': 'Fri, 26 Jun 2015 23:39:12 GMT'})
        with pytest.raises(AccessDenied, match=r'the clock of this machine is \+\d+ s off'):
            Connection(azurite.url(proxy.port)).connect()

    def test_nobody_there(self):
        with pytest.raises(ConnectionLost):
            Connection(f'azurestoragequeues://{KEY}@http://127.0.0.1:9/acc').connect()


def test_options_are_refused_by_name(azurite):
    for option, text in (('lease_timeout=0.5', 'lends a message'), ('message_ttl=0', '-1'),
                         ('max_connections=x', 'max_connections')):
        with pytest.raises(InvalidArgument, match=text):
            Connection(azurite.url(query=f'?{option}')).connect()


def test_the_ticker_goes_on_while_the_service_is_silent(connect, azurite, proxy, name):
    connection = connect(azurite.url(proxy.port))
    queue = declared(connection, name)
    seen = Seen(connection, queue)
    proxy.hang('')
    producer = connection.Producer(routing_key=name, serializer='json')
    task = green.spawn(pytest.raises, PublishUnconfirmed, producer.publish, 'x', timeout=1.0)
    ticks = 0
    while not task.ready():
        green.sleep(0.01)
        ticks += 1
    assert ticks > 40  # of a hundred; a blocked hub has one
    proxy.heal()
    proxy.cut()
    seen.stop()
    assert json.dumps(connection.transport.stats())
