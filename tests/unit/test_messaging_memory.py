"""Producer and Consumer over memory://: what programs see, end to end."""

import pickle

import pytest

from greenmq import events, runtime
from greenmq.compression import compress
from greenmq.connection import Connection
from greenmq.entity import Exchange, Queue
from greenmq.exceptions import (
    ContentDisallowed,
    DecodeError,
    DecompressionLimit,
    EncodeError,
    InvalidArgument,
    MessageStateError,
    SerializerNotInstalled,
    TimeoutError,
    Unroutable,
    WouldBlock,
)
from greenmq.messaging import Consumer, Producer
from tests.support import green


@pytest.fixture
def connection():
    with Connection('memory://') as connection:
        yield connection


@pytest.fixture
def queue(connection):
    queue = Queue('jobs', Exchange('jobs'), 'jobs')
    queue(connection).declare()
    return queue


def drain(connection, timeout=0):
    """Handle all that is there."""
    while True:
        try:
            connection.drain_events(timeout=timeout)
        except TimeoutError:
            return


class Inbox(list):
    """A callback that keeps and acknowledges."""

    def __call__(self, body, message):
        self.append(body)
        message.ack()


def consume(connection, queue, **options):
    inbox = Inbox()
    options.setdefault('callbacks', [inbox])
    consumer = Consumer(connection, queue, **options)
    consumer.consume()
    return inbox, consumer


# ---------------------------------------------------------------------------------------------- publish


def test_what_is_published_arrives_with_all_that_was_said_about_it(connection, queue):
    producer = connection.Producer()
    producer.publish(
        {'n': 1}, exchange='jobs', routing_key='jobs', headers={'trace': 'x'}, priority=3, expiration=60,
        delivery_mode='transient', correlation_id='c', reply_to='r',
    )  # fmt: skip
    message = queue(connection).get()
    assert message.payload == {'n': 1}
    assert message.headers == {'trace': 'x'}
    assert message.properties['priority'] == 3
    assert message.properties['expiration'] == '60000'
    assert message.properties['delivery_mode'] == 1
    assert (message.properties['correlation_id'], message.properties['reply_to']) == ('c', 'r')
    assert message.delivery_info['exchange'] == message.delivery_info['routing_key'] == 'jobs'
    message.ack()


def test_publish_changes_nothing_that_it_was_given(connection):
    connection.transport_options['publish_timeout'] = 9
    options = dict(connection.transport_options)
    declare = [Queue('q', Exchange('qe'), 'k')]
    headers = {'h': [1]}
    policy = {'max_retries': 2, 'interval_start': 0}
    producer = Producer(connection, Exchange('other'), compression='zlib')
    producer.publish(
        'x', 'k', exchange='qe', declare=declare, headers=headers, retry=True, retry_policy=policy
    )
    assert (declare, headers) == ([Queue('q', Exchange('qe'), 'k')], {'h': [1]})
    assert not declare[0].is_bound
    assert policy == {'max_retries': 2, 'interval_start': 0}
    assert connection.transport_options == options
    assert declare[0](connection).get().payload == 'x'


@pytest.mark.parametrize(
    'body, options, content_type',
    [
        ({'a': [1, 2.5, None, 'ä']}, {}, 'application/json'),
        ('text', {}, 'text/plain'),
        (b'\x00\xff', {}, 'application/data'),
        ({'a': 1}, {'serializer': 'msgpack'}, 'application/x-msgpack'),
        ({'a': 1}, {'compression': 'zlib'}, 'application/json'),
        ({'a': 'b' * 5000}, {'compression': 'bzip2'}, 'application/json'),
        (b'{"a": 1}', {'content_type': 'application/json', 'content_encoding': 'utf-8'}, 'application/json'),
    ],
)
def test_bodies(connection, queue, body, options, content_type):
    connection.Producer().publish(body, 'jobs', exchange='jobs', **options)
    message = queue(connection).get(no_ack=True, accept=[content_type])
    assert message.content_type == content_type
    assert message.payload == ({'a': 1} if 'content_type' in options else body)


@pytest.mark.parametrize(
    'options, error, words',
    [
        ({'routing_key': 'k' * 300}, InvalidArgument, 'routing_key is 300 bytes long, at most 255'),
        ({'routing_key': 'ä' * 128}, InvalidArgument, '256 bytes'),
        ({'routing_key': 7}, InvalidArgument, 'routing_key is of type int'),
        ({'priority': -1}, InvalidArgument, 'priority is below 0: -1'),
        ({'priority': 256}, InvalidArgument, 'priority is above 255'),
        ({'priority': 'high'}, InvalidArgument, 'priority is of type str'),
        ({'expiration': -2}, InvalidArgument, 'expiration is negative'),
        ({'expiration': float('nan')}, InvalidArgument, 'not finite'),
        ({'delivery_mode': 'sometimes'}, InvalidArgument, 'delivery_mode'),
        ({'headers': {'x': object()}}, InvalidArgument, r"headers\['x'\] is of type object"),
        ({'headers': {3: 'x'}}, InvalidArgument, 'is of type int, a str is needed'),
        ({'headers': {'x': [{'y': {1, 2}}]}}, InvalidArgument, 'of type set'),
        ({'headers': ['x']}, InvalidArgument, 'headers is of type list'),
        ({'exchange': 5}, InvalidArgument, 'exchange'),
        ({'serializer': 'nosuch'}, SerializerNotInstalled, 'nosuch'),
        ({'compression': 'nosuch'}, InvalidArgument, 'nosuch'),
        ({'body': object()}, EncodeError, 'json'),
        ({'body': {'a': 1}, 'content_type': 'application/json'}, EncodeError, 'encoded already'),
        ({'timeout': 'soon'}, InvalidArgument, 'timeout'),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(connection, queue, options, error, words):
    options = {'body': 'x', 'routing_key': 'jobs', 'exchange': 'jobs', **options}
    with pytest.raises(error, match=words):
        connection.Producer().publish(**options)
    if 'timeout' not in options:
        with pytest.raises(error, match=words):
            connection.Producer().publish_nowait(**options)
    assert queue(connection).get() is None


def test_mandatory_raises_from_the_publish_that_found_no_queue(connection):
    with pytest.raises(Unroutable, match='NO_ROUTE') as caught:
        connection.Producer().publish('x', 'nowhere', mandatory=True)
    assert caught.value.routing_key == 'nowhere'
    connection.Producer().publish('x', 'nowhere')  # without it: dropped, as the broker does


def test_on_return_gets_what_no_queue_took(connection):
    returned = []
    producer = connection.Producer(on_return=lambda *args: returned.append(args))
    producer.publish('x', 'nowhere', mandatory=True)
    ((error, exchange, routing_key, message),) = returned
    assert isinstance(error, Unroutable)
    assert (exchange, routing_key) == ('', 'nowhere')
    assert message is not None


def test_a_declared_queue_that_somebody_deleted_is_declared_once_more(connection):
    queue = Queue('gone', Exchange('gone'), 'gone')
    producer = connection.Producer()
    producer.publish({'n': 1}, 'gone', exchange='gone', declare=[queue])
    connection.default_channel.queue_delete('gone')  # not through the entity: nothing is forgotten by that
    producer.publish({'n': 2}, 'gone', exchange='gone', declare=[queue], mandatory=True, compression='zlib')
    assert queue(connection).get(no_ack=True).payload == {'n': 2}


def test_declarations_are_remembered_until_deleted(connection):
    queue = Queue('memo', Exchange('memo'), 'memo')
    producer = connection.Producer()
    calls = []
    channel = producer.channel
    declare = channel.queue_declare
    channel.queue_declare = lambda *args, **kwargs: calls.append(1) or declare(*args, **kwargs)
    for _ in range(5):
        producer.publish('x', 'memo', exchange='memo', declare=[queue])
    assert len(calls) == 1
    queue(channel).delete()
    producer.publish('x', 'memo', exchange='memo', declare=[queue])
    assert len(calls) == 2


def test_another_way_into_the_same_queue_is_bound_too(connection):
    exchange = Exchange('ways')
    producer = connection.Producer()
    for key in ('a', 'b'):
        producer.publish(key, key, exchange=exchange, declare=[Queue('ways', exchange, key)])
    queue = Queue('ways')(connection)
    assert [queue.get(no_ack=True).payload for _ in 'ab'] == ['a', 'b']


def test_unknown_exchange_type_is_refused_at_declare(connection):
    with pytest.raises(Exception, match='nosuch') as caught:
        Exchange('e', 'nosuch')(connection).declare()
    assert isinstance(
        caught.value, (InvalidArgument, *connection.channel_errors, *connection.connection_errors)
    )


@pytest.mark.parametrize(
    'limit', [{'expires': -1}, {'message_ttl': -0.5}, {'max_length': -1}, {'max_priority': 256}]
)
def test_a_negative_limit_of_a_queue_is_refused_before_anything_is_declared(connection, limit):
    queue = Queue('bad', Exchange('bad-exchange'), **limit)
    with pytest.raises(InvalidArgument, match=next(iter(limit))):
        queue(connection).declare()
    with pytest.raises(connection.channel_errors):
        Exchange('bad-exchange', passive=True)(connection).declare()


def test_publish_in_a_hub_callback_names_the_call_that_does_not_wait(connection, queue):
    producer = connection.Producer()
    errors = []
    futures = []

    def callback():
        try:
            producer.publish('x', 'jobs', exchange='jobs')
        except WouldBlock as exc:
            errors.append(exc)
        futures.append(producer.publish_nowait('y', 'jobs', exchange='jobs'))

    runtime.run_soon(callback)
    green.sleep(0)
    assert 'publish_nowait' in str(errors[0])
    futures[0].result(timeout=5)
    assert queue(connection).get(no_ack=True).payload == 'y'


def test_publish_nowait_keeps_the_order_while_the_way_is_opened(connection):
    queue = Queue('ordered', Exchange('ordered'), 'ordered')
    producer = Producer(connection, Exchange('ordered'), 'ordered')
    futures = [producer.publish_nowait(n, declare=[queue]) for n in range(50)]
    assert not futures[-1].done()
    futures[-1].result(timeout=5)
    futures += [producer.publish_nowait(n, declare=[queue]) for n in range(50, 60)]
    for future in futures:
        future.result(timeout=5)
    bound = queue(connection)
    assert [bound.get(no_ack=True).payload for _ in range(60)] == list(range(60))


def test_publish_nowait_tells_the_future_what_went_wrong(connection):
    producer = connection.Producer()
    assert isinstance(
        producer.publish_nowait('x', 'nowhere', mandatory=True).exception(timeout=5), Unroutable
    )
    producer.channel  # noqa: B018 - opened: now it goes the direct way
    assert isinstance(
        producer.publish_nowait('x', 'nowhere', mandatory=True).exception(timeout=5), Unroutable
    )


def test_one_producer_serves_many_greenlets(connection, queue):
    producer = Producer(connection, Exchange('jobs'), 'jobs')
    inbox, consumer = consume(connection, queue)
    senders = [green.spawn(producer.publish, {'n': n}, headers={'n': n}) for n in range(200)]
    green.joinall(senders, raise_error=True)
    while len(inbox) < 200:
        connection.drain_events(timeout=5)
    assert sorted(body['n'] for body in inbox) == list(range(200))
    consumer.cancel()


def test_batch_on_a_transport_without_batches_publishes_at_once(connection, queue):
    producer = connection.Producer()
    assert producer.supports_batch_publish is False
    with producer.batch(2) as batch:
        producer.publish('x', 'jobs', exchange='jobs')
        assert queue(connection).get(no_ack=True).payload == 'x'
        assert batch.flush() is None


# ---------------------------------------------------------------------------------------------- consume


def test_consuming_from_two_queues_and_adding_a_third_meanwhile(connection):
    exchange = Exchange('media')
    video, image, sound = (Queue(name, exchange=exchange, key=name) for name in ('video', 'image', 'sound'))
    inbox, consumer = consume(connection, [video, image])
    producer = Producer(connection, exchange)
    consumer.add_queue(sound)
    assert not consumer.consuming_from(sound)
    consumer.consume()
    for key in ('video', 'image', 'sound'):
        producer.publish(key, key)
    drain(connection)
    assert sorted(inbox) == ['image', 'sound', 'video']
    consumer.cancel_by_queue('image')
    for key in ('video', 'image'):
        producer.publish(key, key)
    drain(connection)
    assert sorted(inbox[3:]) == ['video']
    assert [queue.name for queue in consumer.queues] == ['video', 'sound']
    consumer.cancel()
    consumer.cancel()
    assert not consumer.consuming_from('video')


@pytest.mark.parametrize('as_list', [False, True])
def test_callback_beside_callbacks(connection, queue, as_list):
    first, second = Inbox(), []
    with Consumer(
        connection, queue, callbacks=[lambda body, message: second.append(body)],
        callback=[first] if as_list else first,
    ):  # fmt: skip
        connection.Producer().publish('x', 'jobs', exchange='jobs')
        connection.drain_events(timeout=5)
    assert first == second == ['x']


def test_on_message_gets_the_message_undecoded(connection, queue):
    got = []
    _, consumer = consume(connection, queue, on_message=got.append, accept=['yaml'])
    connection.Producer().publish({'a': 1}, 'jobs', exchange='jobs')
    connection.drain_events(timeout=5)
    with pytest.raises(ContentDisallowed):
        got[0].payload  # noqa: B018
    got[0].ack()
    consumer.cancel()


def test_prefetch_bounds_what_is_in_hand(connection, queue):
    got = []
    _, consumer = consume(
        connection, queue, callbacks=[lambda body, message: got.append(message)], prefetch_count=2
    )
    for n in range(5):
        connection.Producer().publish(n, 'jobs', exchange='jobs')
    drain(connection)
    assert [message.payload for message in got] == [0, 1]
    got[0].ack()
    drain(connection)
    assert [message.payload for message in got] == [0, 1, 2]
    consumer.cancel()


@pytest.mark.parametrize('bad', [{'prefetch_count': -1}, {'prefetch_count': 1.5}, {'queues': ['name']}])
def test_a_consumer_refuses_bad_arguments(connection, bad):
    with pytest.raises(InvalidArgument):
        Consumer(connection, **bad)


def test_qos_refuses_negative_numbers(connection, queue):
    consumer = Consumer(connection, queue)
    with pytest.raises(InvalidArgument, match='prefetch_count is below 0: -3'):
        consumer.qos(prefetch_count=-3)
    with pytest.raises(InvalidArgument, match='prefetch_size'):
        consumer.qos(-1)


def test_no_ack_messages_are_gone_when_delivered(connection, queue):
    got = []
    _, consumer = consume(
        connection, queue, no_ack=True, callbacks=[lambda body, message: got.append(message)]
    )
    connection.Producer().publish('x', 'jobs', exchange='jobs')
    connection.drain_events(timeout=5)
    assert got[0].ack() is None
    assert not got[0].acknowledged
    consumer.cancel()
    assert queue(connection).get() is None


def test_a_message_is_settled_once(connection, queue):
    for settle in ('ack', 'reject', 'requeue'):
        connection.Producer().publish('x', 'jobs', exchange='jobs')
        message = queue(connection).get()
        getattr(message, settle)()
        with pytest.raises(MessageStateError, match='already acknowledged with state'):
            message.ack()
        queue(connection).purge()


def test_what_was_in_hand_when_the_connection_closed_comes_again(connection, queue):
    connection.Producer().publish('x', 'jobs', exchange='jobs')
    with Connection('memory://') as other:
        message = queue(other).get()
        assert not message.redelivery_expected
    assert message.redelivery_expected
    assert message.ack() is False
    again = queue(connection).get()
    assert again.delivery_info['redelivered']
    again.ack()


def test_what_happens_to_a_message_can_be_heard(connection, queue):
    heard, done = [], green.Event()
    subscriptions = [
        events.subscribe(
            name, lambda event: (heard.append(event.name), event.name == 'settle' and done.set())
        )
        for name in ('publish', 'deliver', 'settle')
    ]
    try:
        _, consumer = consume(connection, queue)
        connection.Producer().publish('x', 'jobs', exchange='jobs')
        connection.drain_events(timeout=5)
        assert done.wait(5)
        consumer.cancel()
    finally:
        for subscription in subscriptions:
            subscription.cancel()
    assert heard == ['publish', 'deliver', 'settle']


def test_requeued_and_recovered_messages_come_again(connection, queue):
    bound = queue(connection)
    connection.Producer().publish('x', 'jobs', exchange='jobs')
    bound.get().requeue()
    assert bound.get().delivery_info['redelivered']
    Consumer(connection, queue).recover(requeue=True)
    again = bound.get()
    assert again.delivery_info['redelivered']
    again.ack()


def test_flow_stops_and_starts_deliveries(connection, queue):
    inbox, consumer = consume(connection, queue)
    consumer.flow(False)
    connection.Producer().publish('x', 'jobs', exchange='jobs')
    drain(connection)
    assert inbox == []
    consumer.flow(True)
    connection.drain_events(timeout=5)
    assert inbox == ['x']
    consumer.cancel()


def test_a_callback_that_raises_leaves_the_consumer_working(connection, queue):
    seen = []

    def callback(body, message):
        message.ack()
        seen.append(body)
        if body == 'bad':
            raise ZeroDivisionError('in a callback')

    _, consumer = consume(connection, queue, callbacks=[callback])
    for body in ('bad', 'good'):
        connection.Producer().publish(body, 'jobs', exchange='jobs')
    with pytest.raises(ZeroDivisionError):
        connection.drain_events(timeout=5)
    connection.drain_events(timeout=5)
    assert seen == ['bad', 'good']
    consumer.cancel()


def test_purge_counts_over_all_queues(connection, queue):
    consumer = Consumer(connection, [queue, Queue('more', Exchange('jobs'), 'jobs')])
    connection.Producer().publish('x', 'jobs', exchange='jobs')
    assert consumer.purge() == 2


# ------------------------------------------------------------------------------- undecodable (P40, P41)

BAD = {
    'json': {'body': b'{"a":', 'content_type': 'application/json', 'content_encoding': 'utf-8'},
    'utf-8': {'body': b'"\xff\xfe"', 'content_type': 'application/json', 'content_encoding': 'utf-8'},
    'zlib': {
        'body': compress(b'{"a": "' + b'b' * 500 + b'"}', 'zlib')[0][:-8], 'content_type': 'application/json',
        'content_encoding': 'utf-8', 'headers': {'compression': 'application/x-gzip'},
    },
    'unknown compression': {
        'body': b'zz', 'content_type': 'application/json', 'content_encoding': 'utf-8',
        'headers': {'compression': 'application/x-nosuch'},
    },
    'bomb': {
        'body': compress(b'0' * 1_000_000, 'zlib')[0], 'content_type': 'application/json',
        'content_encoding': 'utf-8', 'headers': {'compression': 'application/x-gzip'},
    },
    'pickle': {
        'body': b'cos\nsystem\n(S"false"\ntR.', 'content_type': 'application/x-python-serialize',
        'content_encoding': 'binary',
    },
}  # fmt: skip


@pytest.fixture
def small():
    with Connection('memory://', transport_options={'max_decoded_bytes': 100_000}) as connection:
        yield connection


@pytest.mark.parametrize('dead_letter', [False, True])
def test_one_bad_message_never_stops_a_consumer(small, dead_letter):
    arguments = {'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead'} if dead_letter else None
    queue = Queue('work', Exchange('work'), 'work', queue_arguments=arguments)
    dead = Queue('dead')(small)
    dead.declare()
    inbox, consumer = consume(small, queue)
    producer = Producer(small, Exchange('work'), 'work')
    for bad in BAD.values():
        producer.publish(**bad)
        producer.publish('good')
    failures = []
    while len(inbox) < len(BAD):
        try:
            small.drain_events(timeout=5)
        except (DecodeError, ContentDisallowed) as exc:
            failures.append(exc)
    drain(small)
    assert len(failures) == len(BAD)
    assert any(isinstance(exc, DecompressionLimit) for exc in failures)
    assert any(isinstance(exc, ContentDisallowed) for exc in failures)
    assert inbox == ['good'] * len(BAD)
    assert {exc.message.acknowledged for exc in failures} == {dead_letter}
    for exc in failures:
        if not dead_letter:
            exc.message.ack()  # raised once, and the program's to settle
        assert pickle.loads(pickle.dumps(exc)).message is None
    consumer.cancel()
    # Nothing comes back, and with a place for them all of them are there.
    small.default_channel.basic_recover(requeue=True)
    assert queue(small).queue_declare(passive=True)[1] == 0
    assert dead.queue_declare(passive=True)[1] == (len(BAD) if dead_letter else 0)


def test_on_decode_error_decides_instead(small):
    told = []

    def handler(message, exc):
        told.append(type(exc))
        message.reject()

    queue = Queue('work', Exchange('work'), 'work')
    inbox, consumer = consume(small, queue, on_decode_error=handler)
    for bad in BAD.values():
        small.Producer().publish(exchange='work', routing_key='work', **bad)
    drain(small)
    assert len(told) == len(BAD)
    assert all(issubclass(kind, (DecodeError, ContentDisallowed)) for kind in told)
    assert inbox == []
    consumer.cancel()


def test_a_decode_error_is_an_event(small):
    heard = []
    arrived = green.Event()
    subscription = events.subscribe(
        'decode_error', lambda event: (heard.append(event.facts['dead_letter']), arrived.set())
    )
    try:
        _, consumer = consume(small, Queue('work', Exchange('work'), 'work'))
        small.Producer().publish(exchange='work', routing_key='work', **BAD['json'])
        with pytest.raises(DecodeError):
            small.drain_events(timeout=5)
        assert arrived.wait(5)
        consumer.cancel()
    finally:
        subscription.cancel()
    assert heard == [False]


@pytest.mark.parametrize('dead_letter', [False, True])
def test_get_tells_of_what_it_cannot_hand_over(small, dead_letter):
    dead = Queue('dead')(small)
    dead.declare()
    arguments = {'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead'} if dead_letter else None
    queue = Queue('work', Exchange('work'), 'work', queue_arguments=arguments)(small)
    queue.declare()
    small.Producer().publish(exchange='work', routing_key='work', **BAD['bomb'])
    with pytest.raises(DecompressionLimit) as caught:
        queue.get()
    assert caught.value.message.acknowledged is dead_letter and queue.get() is None
    if not dead_letter:
        caught.value.message.reject()
    small.default_channel.basic_recover(requeue=True)
    assert queue.get() is None and dead.queue_declare(passive=True)[1] == dead_letter
