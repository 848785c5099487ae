"""How many calls SQS is asked, and what happens where they fail."""

from __future__ import annotations

import json

import pytest

from greenmq import Connection, runtime
from greenmq.exceptions import ConnectionLost, InvalidArgument, PublishUnconfirmed
from greenmq.transport.SQS import AccessDeniedQueueException
from greenmq.transport.SQS.hot import Hot, is_hot, read
from tests.stress import FACTOR
from tests.support import green
from tests.support.cloud import Seen, declared, goes_on_through_cuts, goes_on_through_faults, publish

THROTTLED = json.dumps({'__type': 'com.amazonaws.sqs#RequestThrottled', 'message': 'slow down'})
DENIED = json.dumps({'__type': 'com.amazonaws.sqs#AccessDenied', 'message': 'you may not'})
BROKEN = json.dumps({'__type': 'com.amazonaws.sqs#InternalFailure', 'message': 'oh'})


class TestCounts:

    def test_publishes_of_a_hundred_greenlets_leave_in_tens(self, connect, fauxqs, proxy, name):
        connection = connect(fauxqs.url(proxy.port))
        declared(connection, name)
        proxy.reset()
        publish(connection, name, list(range(500)), 100)
        assert sum(proxy.counts.values()) <= 65
        assert connection.default_channel.queue_declare(name, passive=True).message_count == 500

    def test_messages_are_received_and_deleted_in_tens(self, connect, fauxqs, proxy, name):
        connection = connect(fauxqs.url(proxy.port))
        queue = declared(connection, name)
        publish(connection, name, list(range(200)), 100)
        proxy.reset()
        seen = Seen(connection, queue, prefetch=1000)
        seen.until(lambda: len(seen.bodies) == 200)
        green.sleep(0.2)
        counts = proxy.counts
        seen.stop()
        assert sorted(seen.bodies) == list(range(200))
        assert counts['ReceiveMessage'] <= 22
        assert counts['DeleteMessageBatch'] <= 23

    def test_a_declaration_is_one_call(self, connect, fauxqs, proxy, name):
        connection = connect(fauxqs.url(proxy.port))
        declared(connection, name)
        other = connect(fauxqs.url(proxy.port), region='us-east-1')
        declared(other, f'{name}-x')
        proxy.reset()
        declared(other, name)
        assert proxy.counts == {'GetQueueAttributes': 1}

    def test_a_full_consumer_asks_nothing(self, connect, fauxqs, proxy, name):
        connection = connect(fauxqs.url(proxy.port))
        queue = declared(connection, name)
        publish(connection, name, [1, 2])
        seen = Seen(connection, queue, handle=lambda message: None, prefetch=1)
        seen.until(lambda: seen.bodies)
        green.sleep(0.1)
        proxy.reset()
        green.sleep(1.5)
        assert proxy.counts == {}
        seen.messages[0].ack()
        seen.until(lambda: len(seen.bodies) == 2)
        seen.messages[1].ack()
        seen.stop()

    def test_a_poll_waits_as_long_as_it_may(self, connect, fauxqs, proxy, name):
        connection = connect(fauxqs.url(proxy.port), wait_time_seconds=2)
        queue = declared(connection, name)
        seen = Seen(connection, queue)
        green.sleep(0.3)
        proxy.reset()
        green.sleep(1.5)
        assert proxy.total <= 1
        seen.stop()
        body = [json.loads(body) for operation, body in proxy.log if operation == 'ReceiveMessage']
        assert all(each['WaitTimeSeconds'] == 2 and each['VisibilityTimeout'] == 60 for each in body)
        green.sleep(1.5)  # the last poll ends alone

    def test_polls_of_many_queues_wait_at_once(self, connect, fauxqs, name):
        connection = connect(fauxqs.url(), wait_time_seconds=2)
        queues = [declared(connection, f'{name}-{n}') for n in range(8)]
        all_seen = [Seen(connection, queue) for queue in queues]
        green.sleep(0.2)
        began = runtime.monotonic()
        for queue in queues:
            publish(connection, queue.name, ['x'])
        for seen in all_seen:
            seen.until(lambda seen=seen: seen.bodies, 2)
        assert runtime.monotonic() - began < 1.5  # in turn it would be 7 times 2 s
        for seen in all_seen:
            seen.stop()
        green.sleep(1.5)


class TestFaults:

    @pytest.mark.slow
    @pytest.mark.parametrize('status, body', [(403, THROTTLED), (500, BROKEN), (503, '')],
                             ids=['throttled', 'broken', 'away'])
    def test_half_of_the_calls_are_refused_and_all_arrive(self, connect, fauxqs, proxy, name, status, body):
        connection = connect(fauxqs.url(proxy.port))
        queue = declared(connection, name)
        headers = {'x-amzn-query-error': 'RequestThrottled;Sender'} if status == 403 else {}
        for operation in ('Send', 'Receive'):  # there are few calls: by chance none would be hit
            proxy.answer(operation, status, body, headers, times=1)
        proxy.answer('Send|Receive|Delete', status, body, headers, chance=0.5)
        publish(connection, name, list(range(20)), 20)
        seen = Seen(connection, queue)
        seen.until(lambda: set(seen.bodies) == set(range(20)), 25)
        assert proxy.broken >= 2
        proxy.heal()
        seen.stop()

    @pytest.mark.parametrize('fault', ['cut_before', 'cut_after', 'cut_middle'])
    def test_connections_are_cut_and_nobody_goes_deaf(self, connect, fauxqs, proxy, name, fault):
        connection = connect(fauxqs.url(proxy.port), lease_timeout=2)
        goes_on_through_cuts(
            connection, name, proxy, lambda: getattr(proxy, fault)('Send|Receive|Delete', chance=0.3), 30, 8)

    @pytest.mark.slow
    @pytest.mark.green_timeout(1200 if FACTOR > 1 else 90)
    def test_faults_of_every_kind_leave_nobody_deaf(self, connect, fauxqs, proxy, name):
        connection = connect(fauxqs.url(proxy.port), lease_timeout=2)
        hot, headers = 'Send|Receive|Delete', {'x-amzn-query-error': 'RequestThrottled;Sender'}
        broken = goes_on_through_faults(connection, name, proxy, [
            lambda: proxy.cut_before(hot), lambda: proxy.cut_after(hot), lambda: proxy.cut_middle(hot),
            lambda: proxy.answer(hot, 500, BROKEN), lambda: proxy.answer(hot, 503, ''),
            lambda: proxy.answer(hot, 403, THROTTLED, headers), lambda: proxy.late(hot, 0.5),
            lambda: proxy.answer(hot, 200, '<html>'), proxy.cut, lambda: proxy.hang(hot),
        ], 300 if FACTOR > 1 else 10, 20)
        assert broken

    def test_garbage_is_no_answer(self, connect, fauxqs, proxy, name):
        connection = connect(fauxqs.url(proxy.port))
        queue = declared(connection, name)
        proxy.answer('ReceiveMessage', 200, '<html>not json', times=4)
        seen = Seen(connection, queue)
        publish(connection, name, ['x'])
        seen.until(lambda: seen.bodies, 10)
        seen.stop()

    def test_a_publish_keeps_its_deadline_and_says_what_is_known(self, connect, fauxqs, proxy, name):
        connection = connect(fauxqs.url(proxy.port))
        declared(connection, name)
        proxy.hang('SendMessageBatch')
        began = runtime.monotonic()
        with pytest.raises(PublishUnconfirmed) as caught:
            connection.Producer(routing_key=name).publish('x', timeout=0.5)
        assert runtime.monotonic() - began < 2
        assert caught.value.sent == 'unknown'
        proxy.heal()

    def test_each_publisher_learns_of_its_own_message(self, connect, fauxqs, proxy, name):
        connection = connect(fauxqs.url(proxy.port))
        declared(connection, name)
        failed = [{'Id': '2', 'SenderFault': True, 'Code': 'InvalidMessageContents', 'Message': 'bad'},
                  {'Id': '3', 'SenderFault': False, 'Code': 'InternalError', 'Message': 'again'}]
        proxy.rewrite('SendMessageBatch', {'Failed': failed}, times=1)
        producer = connection.Producer(routing_key=name)
        outcomes = {}

        def work(number):
            try:
                producer.publish(number)
                outcomes[number] = None
            except Exception as error:
                outcomes[number] = error

        green.joinall([green.spawn(work, number) for number in range(5)])
        errors = [error for error in outcomes.values() if error is not None]
        assert len(outcomes) == 5
        assert [type(error).__name__ for error in errors] == ['ServiceError']
        assert 'InvalidMessageContents' in str(errors[0])
        # Then only the entry that failed is sent again
        sent = [len(json.loads(body)['Entries']) for operation, body in proxy.log
                if operation == 'SendMessageBatch']
        assert sent == [5, 1]

    def test_a_queue_that_is_there_needs_no_right_to_list_or_make(self, connect, fauxqs, proxy, name):
        declared(connect(fauxqs.url()), name)
        proxy.answer('ListQueues|CreateQueue', 403, DENIED)
        connection = connect(fauxqs.url(proxy.port))
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        assert queue.get(no_ack=True).payload == 'x'
        with pytest.raises(AccessDeniedQueueException):
            declared(connection, f'{name}-new')

    def test_wrong_keys_are_told_at_connect(self, fauxqs, proxy):
        body = json.dumps({'__type': 'com.amazon.coral.service#InvalidClientTokenId', 'message': 'who?'})
        proxy.answer('', 403, body)
        with pytest.raises(AccessDeniedQueueException, match='InvalidClientTokenId'):
            Connection(fauxqs.url(proxy.port)).connect()

    def test_nobody_there(self):
        with pytest.raises(ConnectionLost):
            Connection('sqs://key:secret@127.0.0.1:9/').connect()

    def test_a_message_is_measured_before_it_is_sent(self, connect, fauxqs, proxy, name):
        connection = connect(fauxqs.url(proxy.port), sqs_base64_encoding=False,
                             **{'sqs-creation-attributes': {'MaximumMessageSize': 2048}})
        declared(connection, name)
        connection.default_channel.queue_declare(name, passive=True)
        proxy.reset()
        with pytest.raises(InvalidArgument, match='2048 bytes'):
            connection.Producer(routing_key=name).publish('x' * 3000)
        with pytest.raises(InvalidArgument, match='1048576 bytes'):
            connection.Producer(routing_key=name).publish('x' * 1100000)
        assert proxy.counts.get('SendMessageBatch', 0) == 0


class TestLeases:

    def test_a_lease_is_renewed_while_a_callback_works(self, connect, fauxqs, name):
        connection = connect(fauxqs.url(), lease_timeout=2)
        queue = declared(connection, name)
        publish(connection, name, ['long'])
        slow = Seen(connection, queue, handle=lambda message: (green.sleep(3.5), message.ack()))
        slow.until(lambda: slow.bodies)
        other = connect(fauxqs.url(), region='us-east-1')
        second = Seen(other, queue)
        green.sleep(3.6)
        assert second.bodies == []
        slow.stop()
        second.stop()

    def test_what_a_late_poll_brings_goes_back_at_once(self, connect, fauxqs, name):
        connection = connect(fauxqs.url(), wait_time_seconds=2)
        queue = declared(connection, name)
        seen = Seen(connection, queue)
        green.sleep(0.2)
        seen.stop()  # its poll is on its way, and stays so
        other = connect(fauxqs.url(), region='us-east-1', wait_time_seconds=1)
        publish(other, name, ['x'])
        second = Seen(other, queue)
        second.until(lambda: second.bodies, 1.5)
        second.stop()
        assert seen.bodies == []
        green.sleep(1.5)


class TestHotCalls:
    """Those that are made for each message are signed and read without botocore."""

    @pytest.mark.parametrize('token', [None, 'a/token+of=sts'])
    def test_they_are_signed_as_botocore_signs(self, token):
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        keys = Credentials('AKID', 'se/cret', token)
        for endpoint in ('https://sqs.eu-west-1.amazonaws.com', 'http://127.0.0.1:4566'):
            hot = Hot(endpoint, 'eu-west-1')
            headers, body = hot.request('receive_message', {'QueueUrl': 'http://x/1/q', 'N': '\u00e4'}, keys)
            given = {name: value for name, value in headers.items() if name != 'Authorization'}
            asked = AWSRequest('POST', hot.url, data=body, headers=given)
            asked.context['timestamp'] = headers['x-amz-date']
            signer = SigV4Auth(keys, 'sqs', 'eu-west-1')
            text = signer.string_to_sign(asked, signer.canonical_request(asked))
            assert headers['Authorization'].endswith(f'Signature={signer.signature(text, asked)}')

    def test_attributes_of_the_programs_own_are_left_to_botocore(self):
        entry = {'Id': '1', 'MessageBody': 'x'}
        assert is_hot('sqs', 'send_message_batch', {'Entries': [entry]})
        assert not is_hot('sqs', 'send_message_batch', {'Entries': [{**entry, 'MessageAttributes': {}}]})
        assert not is_hot('sqs', 'receive_message', {'MessageAttributeNames': ['All']})
        assert not is_hot('sqs', 'create_queue', {}) and not is_hot('sns', 'publish_batch', {})

    def test_a_refusal_has_the_names_that_botocore_finds(self):
        found = read(400, {'x-amzn-query-error': 'AWS.SimpleQueueService.NonExistentQueue;Sender'},
                     b'{"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "none"}')
        assert not found.good
        assert found.value['Error'] == {
            'Code': 'com.amazonaws.sqs#QueueDoesNotExist', 'Message': 'none',
            'QueryErrorCode': 'AWS.SimpleQueueService.NonExistentQueue',
        }
        with pytest.raises(ValueError):
            read(200, {}, b'<html>')
