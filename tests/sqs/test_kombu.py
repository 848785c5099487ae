"""kombu's queues, exchanges, options and messages."""

from __future__ import annotations

import base64
import json

import pytest

from greenmq import Exchange, Queue
from greenmq.exceptions import NotFound
from greenmq.transport.SQS import InvalidQueueException, UndefinedQueueException, envelope
from tests.support import green
from tests.support.cloud import BODIES, CloudKombu, Seen, all_seen, declared, put_as_kombu, same
from tests.support.sqs_servers import need_part

pytestmark = pytest.mark.once


@pytest.fixture
def kombu(fauxqs):
    python = need_part('moto/bin/python')
    return CloudKombu(fauxqs.url().rstrip('/'), ('later', {'delay_seconds': 1}),
                      command=[python, '-m', 'tests.support.cloud_kombu'],
                      is_secure=False, region='us-east-1', wait_time_seconds=1)


@pytest.mark.slow
class TestBothWays:

    def test_kombus_messages_are_read_here(self, connect, fauxqs, kombu, name):
        connection = connect(fauxqs.url())
        kombu.put(name)
        seen = all_seen(connection, declared(connection, name), 8)
        same(seen.bodies, [*BODIES, b'\x00\xff', 'packed', 'later'])
        assert {message.headers.get('h') for message in seen.messages} == {'v', None}
        info = seen.messages[0].delivery_info
        assert info['sqs_message']['Attributes']['ApproximateReceiveCount'] == '1'
        assert info['sqs_queue'].endswith(name)

    def test_ours_are_read_by_kombu(self, connect, fauxqs, kombu, name):
        connection = connect(fauxqs.url())
        declared(connection, name)
        put_as_kombu(connection, name, 'later', delay_seconds=1)
        found = kombu.get(name)
        expected = [*([body, 'v'] for body in BODIES), ['00ff', None], ['packed', None], ['later', None]]
        same(found, expected)

    def test_requeued_there_and_settled_here(self, connect, fauxqs, kombu, name):
        connection = connect(fauxqs.url())
        queue = declared(connection, name)
        connection.Producer(routing_key=name).publish('x', serializer='json')
        kombu.requeue(name)
        seen = Seen(connection, queue)
        seen.until(lambda: seen.bodies == ['x'])
        green.sleep(0.1)
        seen.stop()
        assert seen.messages[0].delivery_info.get('redelivered') or seen.messages[0].headers
        assert connection.default_channel.queue_declare(name, passive=True).message_count == 0

    def test_requeued_here_and_settled_there(self, connect, fauxqs, kombu, name):
        connection = connect(fauxqs.url())
        queue = declared(connection, name)
        connection.Producer(routing_key=name).publish('x', serializer='json')
        queue.get().requeue()
        connection.close()
        assert kombu.get(name) == [['x', None]]


class TestEnvelope:

    @pytest.mark.parametrize('text', [
        'plain text', '{"json": 1}', '[1, 2]', '"x"', 'AAAA', '', '{"properties": 5}',
        '{"Type": "Notification", "Message": "from SNS"}',
    ])
    def test_what_is_no_envelope_is_a_body(self, text):
        for sent in (text, base64.b64encode(text.encode()).decode()):
            message = envelope.decode({'Body': sent, 'MessageId': '1'}, 'url')
            # What happens to be base64 of text is read as that.
            if text != 'AAAA':
                assert message['body'] == text
            assert message['properties']['delivery_info']['sqs_queue'] == 'url'

    @pytest.mark.parametrize('as_base64', [True, False])
    def test_there_and_back(self, as_base64):
        info = {'exchange': 'x', 'sqs_message': {'Body': 'old'}}
        message = {'body': 'b', 'headers': {'h': 1}, 'content-type': 't', 'content-encoding': 'e',
                   'properties': {'delivery_info': info, 'message_attributes': {'a': 1}}}
        raw = {'Body': envelope.encode(message, as_base64)}
        found = envelope.decode(raw, 'u')
        assert found['body'] == 'b'
        info = {'exchange': 'x', 'sqs_message': raw, 'sqs_queue': 'u'}
        assert found['properties'] == {'delivery_info': info}

    def test_a_message_of_another_program_is_handled(self, connect, fauxqs, name):
        connection = connect(fauxqs.url())
        queue = declared(connection, name)
        client = fauxqs.client()
        url = client.get_queue_url(QueueName=name)['QueueUrl']
        for body in ('hello', '{"n": 1}', '{"properties": {}'):
            client.send_message(QueueUrl=url, MessageBody=body)
        seen = Seen(connection, queue)
        seen.until(lambda: len(seen.bodies) == 3)
        seen.stop()
        same(seen.bodies, ['hello', {'n': 1}, '{"properties": {}'])


class TestPredefined:

    def test_only_those_are_used(self, connect, fauxqs, proxy, name):
        url = fauxqs.client().create_queue(QueueName=f'real-{name}')['QueueUrl']
        connection = connect(fauxqs.url(proxy.port), predefined_queues={'qa': {'url': url}})
        queue = Queue('qa', Exchange('ex', 'direct'), routing_key='other.key')(connection.default_channel)
        queue.declare()
        connection.Producer(exchange='ex', routing_key='other.key', serializer='json').publish('x')
        seen = Seen(connection, queue)
        seen.until(lambda: seen.bodies == ['x'])
        green.sleep(0.2)
        seen.stop()
        assert not {'ListQueues', 'CreateQueue', 'DeleteQueue'} & set(proxy.counts)
        # Settled where it came from, whatever its routing key
        attributes = fauxqs.client().get_queue_attributes(QueueUrl=url, AttributeNames=['All'])['Attributes']
        assert attributes['ApproximateNumberOfMessages'] == '0'
        assert attributes['ApproximateNumberOfMessagesNotVisible'] == '0'
        with pytest.raises(UndefinedQueueException):
            declared(connection, 'another')

    def test_a_queue_that_is_fifo_by_half(self, connect, fauxqs):
        with pytest.raises(InvalidQueueException):
            connect(fauxqs.url(), predefined_queues={'a.fifo': {'url': 'http://x/1/a'}})

    def test_a_rejected_task_comes_back_by_the_backoff_policy(self, connect, fauxqs, name):
        url = fauxqs.client().create_queue(QueueName=name)['QueueUrl']
        facts = {'url': url, 'backoff_tasks': ['t'], 'backoff_policy': {1: 1, 2: 60}}
        connection = connect(fauxqs.url(), predefined_queues={name: facts})
        queue = declared(connection, name)
        connection.Producer(routing_key=name, serializer='json').publish('x', headers={'task': 't'})
        seen = Seen(connection, queue, handle=lambda message: message.reject() if len(seen.bodies) == 1
                    else message.ack())
        seen.until(lambda: len(seen.bodies) == 2, 6)
        green.sleep(0.2)
        seen.stop()


def test_a_rejected_message_goes_the_way_of_the_redrive_policy(connect, fauxqs, name):
    client = fauxqs.client()
    dead = client.create_queue(QueueName=f'{name}-dead')['QueueUrl']
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=['QueueArn'])['Attributes']['QueueArn']
    policy = json.dumps({'deadLetterTargetArn': arn, 'maxReceiveCount': '2'})
    connection = connect(fauxqs.url(), **{'sqs-creation-attributes': {'RedrivePolicy': policy}})
    queue = declared(connection, name)
    connection.Producer(routing_key=name, serializer='json').publish('x')
    seen = Seen(connection, queue, handle=lambda message: message.reject())
    seen.until(lambda: len(seen.bodies) == 2, 5)
    lost = Seen(connection, declared(connection, f'{name}-dead'))
    lost.until(lambda: lost.bodies == ['x'], 5)
    seen.stop()
    lost.stop()
    # Without a policy it is gone
    plain = connect(fauxqs.url())
    other = declared(plain, f'{name}-plain')
    plain.Producer(routing_key=other.name, serializer='json').publish('y')
    seen = Seen(plain, other, handle=lambda message: message.reject())
    seen.until(lambda: seen.bodies == ['y'])
    green.sleep(0.3)
    seen.stop()
    assert plain.default_channel.queue_declare(other.name, passive=True).message_count == 0


@pytest.mark.parametrize('emulator', ['fauxqs', 'moto'])
def test_fanout_over_topics_reaches_other_connections(connect, emulator, request, name):
    server = request.getfixturevalue(emulator)
    one = connect(server.url(), supports_fanout=True)
    queues = []
    for n in range(2):
        for key in 'ab':  # a queue of two exchanges keeps both in its policy
            queue = Queue(f'{name}-{n}', Exchange(f'{name}-{key}', 'fanout'))(one.default_channel)
            queue.declare()
        queues.append(queue)
    other = connect(server.url(), supports_fanout=True, region='us-east-1')
    seen = [Seen(one, queue) for queue in queues]
    for key in 'ab':
        exchange = Exchange(f'{name}-{key}', 'fanout')(other.default_channel)
        exchange.declare()
        other.Producer(exchange=exchange, serializer='json').publish(key)
    for each in seen:
        each.until(lambda each=each: sorted(each.bodies) == ['a', 'b'])
    green.sleep(0.2)
    client = server.client()
    url = client.get_queue_url(QueueName=queues[0].name)['QueueUrl']
    policy = client.get_queue_attributes(QueueUrl=url, AttributeNames=['Policy'])['Attributes']['Policy']
    statement, = json.loads(policy)['Statement']
    assert statement['Sid'] == 'KombuManaged'
    assert len(statement['Condition']['ArnLike']['aws:SourceArn']) == 2
    for each in seen:
        each.stop()
    one.default_channel.queue_delete(queues[0].name)
    subscriptions = server.client('sns').list_subscriptions()['Subscriptions']
    assert not any(each['Endpoint'].endswith(queues[0].name) for each in subscriptions)


def test_delays_beyond_what_sqs_keeps(connect, fauxqs, name, monkeypatch):
    for module in ('sending', 'receiving'):
        monkeypatch.setattr(f'greenmq.transport.SQS.{module}.LONGEST_DELAY', 1)
    connection = connect(fauxqs.url(), delay_beyond=True)
    queue = declared(connection, name)
    producer = connection.Producer(routing_key=name, serializer='json')
    producer.publish('late', headers={'x-delay': 2500})
    producer.publish('now')
    seen = Seen(connection, queue)
    seen.until(lambda: seen.bodies == ['now'], 2)
    green.sleep(1.2)
    assert seen.bodies == ['now']
    seen.until(lambda: seen.bodies == ['now', 'late'], 6)
    green.sleep(0.2)
    seen.stop()
    assert connection.default_channel.queue_declare(name, passive=True).message_count == 0


def test_a_second_purge_within_a_minute_is_done_by_hand(connect, moto, name):
    connection = connect(moto.url())
    queue = declared(connection, name)
    for _ in range(2):
        for n in range(3):
            connection.Producer(routing_key=name, serializer='json').publish(n)
        assert queue.purge() == 3
        assert connection.default_channel.queue_declare(name, passive=True).message_count == 0


def test_a_queue_that_somebody_deleted(connect, fauxqs, name):
    connection = connect(fauxqs.url())
    queue = declared(connection, name)
    client = fauxqs.client()
    client.delete_queue(QueueUrl=client.get_queue_url(QueueName=name)['QueueUrl'])
    with pytest.raises(NotFound):
        connection.default_channel.queue_declare(name, passive=True)
    # A publish makes it again
    connection.Producer(routing_key=name, serializer='json').publish('x')
    assert queue.get(no_ack=True).payload == 'x'
