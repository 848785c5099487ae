"""FIFO queues: the order of each group, whatever happens to one of its messages. On moto, which gives several
messages of a group in one receive, as Amazon does.
"""

from __future__ import annotations

import json
import random

from tests.support import green
from tests.support.cloud import Seen, declared
from tests.support.http_proxy import HTTPProxy


def publish(connection, name, bodies, **kwargs):
    producer = connection.Producer(routing_key=name, serializer='json')
    for body in bodies:
        producer.publish(body, **kwargs)


def test_one_of_a_group_at_a_time(connect, moto, name):
    connection = connect(moto.url())
    queue = declared(connection, f'{name}.fifo')
    for group in 'ab':
        publish(connection, queue.name, [f'{group}{n}' for n in range(4)], MessageGroupId=group)
    working, most = {'a': 0, 'b': 0}, {'a': 0, 'b': 0}

    def handle(message):
        group = message.payload[0]
        working[group] += 1
        most[group] = max(most[group], working[group])
        green.spawn_later(0.05, done, message, group)

    def done(message, group):
        working[group] -= 1
        message.ack()

    seen = Seen(connection, queue, handle, prefetch=20)
    seen.until(lambda: len(seen.bodies) == 8)
    green.sleep(0.3)
    seen.stop()
    assert most == {'a': 1, 'b': 1}
    for group in 'ab':
        assert [body for body in seen.bodies if body[0] == group] == [f'{group}{n}' for n in range(4)]


def test_the_order_is_kept_over_requeues(connect, moto, name):
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    connection = connect(moto.url())
    queue = declared(connection, f'{name}.fifo')
    for n in range(4):
        for group in 'abc':
            publish(connection, queue.name, [[group, n]], MessageGroupId=group)
    acked = []

    def handle(message):
        if chance.random() < 0.3:
            message.requeue()
        else:
            acked.append(tuple(message.payload))
            message.ack()

    seen = Seen(connection, queue, handle, prefetch=20)
    seen.until(lambda: len(acked) == 12, 25)
    green.sleep(0.3)
    seen.stop()
    for group in 'abc':
        assert [n for name, n in acked if name == group] == list(range(4)), f'seed {seed}'


def test_a_publish_whose_answer_is_lost_arrives_once(connect, moto, name):
    with HTTPProxy(moto.port) as proxy:
        connection = connect(moto.url(proxy.port))
        queue = declared(connection, f'{name}.fifo')
        proxy.cut_after('SendMessageBatch', times=2)
        publish(connection, queue.name, ['x'])
        sent = [json.loads(body)['Entries'][0]['MessageDeduplicationId'] for operation, body in proxy.log
                if operation == 'SendMessageBatch']
        assert len(sent) == 3
        assert len(set(sent)) == 1
        assert connection.default_channel.queue_declare(queue.name, passive=True).message_count == 1


def test_what_is_held_goes_back_when_nobody_wants_it(connect, moto, name):
    connection = connect(moto.url())
    queue = declared(connection, f'{name}.fifo')
    publish(connection, queue.name, ['1', '2', '3'], MessageGroupId='g')
    first = Seen(connection, queue, handle=lambda message: None, prefetch=10)
    first.until(lambda: first.bodies == ['1'])
    first.stop()  # the channel of a killed greenlet is closed by its with statement
    for channel in list(connection.transport.channels):
        channel.close()
    other = connect(moto.url(), region='us-east-1')
    second = Seen(other, queue)
    second.until(lambda: second.bodies == ['1', '2', '3'], 8)
    second.stop()


def test_a_poll_whose_answer_was_lost_is_made_again_as_the_same_one(connect, fauxqs, name):
    with HTTPProxy(fauxqs.port) as proxy:
        connection = connect(fauxqs.url(proxy.port))
        queue = declared(connection, f'{name}.fifo')
        proxy.cut_after('ReceiveMessage', times=1)
        seen = Seen(connection, queue)
        seen.until(lambda: proxy.counts.get('ReceiveMessage', 0) >= 2)
        seen.stop()
        polls = [json.loads(body) for operation, body in proxy.log if operation == 'ReceiveMessage']
        assert polls[0]['ReceiveRequestAttemptId'] == polls[1]['ReceiveRequestAttemptId']
