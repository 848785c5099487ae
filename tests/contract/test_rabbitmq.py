"""What RabbitMQ has beyond the contract: queues and consumers of all kinds, tx, direct replies, delays."""

from __future__ import annotations

import collections
import json
import pathlib
import sys

import pytest
from amqp.exceptions import AMQPNotImplementedError

from greenmq import Connection, Consumer, Exchange, Producer, Queue, binding, events
from greenmq.common import maybe_declare
from greenmq.exceptions import (
    AccessRefused,
    DecodeError,
    InvalidArgument,
    PreconditionFailed,
    ResourceLocked,
    Unroutable,
)
from greenmq.transport import native_delayed_delivery as delayed
from tests.contract.conftest import text
from tests.support import green, programs
from tests.support.process import run, wait_until
from tests.support.raw_senders import AMQP

HERE = pathlib.Path(__file__).parent


@pytest.fixture
def connect(amqp_url):
    opened = []

    def connect(**options):
        opened.append(Connection(amqp_url, **options).connect())
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def here(connection, bench):
    return bench(connection.channel())


def settle(here, seconds=0.2):
    """Handle all that comes until nothing has for so long."""
    here.drain(seconds)


def test_prefetch_is_of_each_consumer_or_on_request_of_the_channel(here, connection, bench):
    channel = here.channel
    channel.queue_declare('q', auto_delete=False)
    for n in range(10):
        here.put('q', n)
    got = collections.Counter()
    channel.basic_qos(0, 2, False)
    for tag in 'ab':
        here.consume('q', lambda message: got.update([message.delivery_info['consumer_tag']]), tag=tag)
    here.until(lambda: got.total() == 4)
    settle(here)
    assert got == {'a': 2, 'b': 2}
    shared = bench(connection.channel())
    shared.channel.basic_qos(0, 3, a_global=True)
    for tag in 'cd':
        shared.consume('q', lambda message: got.update([message.delivery_info['consumer_tag']]), tag=tag)
    here.until(lambda: got.total() == 7)
    settle(here)
    assert got['c'] + got['d'] == 3


def test_a_consumer_without_qos_gets_the_default_prefetch(connect, bench):
    here = bench(connect(transport_options={'default_prefetch': 3}).channel())
    here.channel.queue_declare('q', auto_delete=False)
    for n in range(10):
        here.put('q', n)
    got = []
    here.consume('q', got.append)
    here.until(lambda: len(got) == 3)
    settle(here)
    assert len(got) == 3


def test_consumers_with_priority_are_served_first(connection):
    queue, got = Queue('q', durable=False), []
    low = Consumer(connection.channel(), [queue], callbacks=[lambda body, m: got.append('low') or m.ack()])
    high = Consumer(
        connection.channel(),
        [Queue('q', durable=False, consumer_arguments={'x-priority': 10})],
        callbacks=[lambda body, m: got.append('high') or m.ack()],
    )
    with low, high:
        for n in range(6):
            connection.Producer().publish(n, routing_key='q')
        while len(got) < 6:
            connection.drain_events(timeout=5)
    assert got == ['high'] * 6


def test_an_exclusive_consumer_keeps_others_out(here, connection):
    here.channel.queue_declare('q', auto_delete=False)
    here.channel.basic_consume('q', exclusive=True)
    other = connection.channel()
    with pytest.raises(AccessRefused, match='exclusive'):
        other.basic_consume('q')
    assert not other.callbacks
    other.queue_declare('q', passive=True)


def test_an_exclusive_queue_is_locked_for_other_connections(here, connect):
    here.channel.queue_declare('mine', exclusive=True)
    with pytest.raises(ResourceLocked):
        connect().default_channel.queue_declare('mine', exclusive=True)


def test_a_single_active_consumer_and_its_heir(connection):
    queue = Queue('q', durable=False, queue_arguments={'x-single-active-consumer': True})
    got = []
    first, second = (
        Consumer(
            connection.channel(),
            [queue],
            callbacks=[lambda body, m, who=who: got.append((who, body)) or m.ack()],
        )
        for who in ('first', 'second')
    )
    first.consume()
    second.consume()
    producer = connection.Producer()
    for n in range(3):
        producer.publish(n, routing_key='q')
    while len(got) < 3:
        connection.drain_events(timeout=5)
    first.cancel()
    producer.publish(3, routing_key='q')
    while len(got) < 4:
        connection.drain_events(timeout=5)
    assert got == [('first', 0), ('first', 1), ('first', 2), ('second', 3)]
    second.cancel()


def test_a_stream_is_read_from_any_offset_and_again(connection):
    stream = Queue('stream', durable=True, queue_arguments={'x-queue-type': 'stream'})
    stream(connection).declare()
    producer = connection.Producer()
    for n in range(5):
        producer.publish(n, routing_key='stream')
    for offset, expected in (('first', [0, 1, 2, 3, 4]), (3, [3, 4]), (0, [0, 1, 2, 3, 4])):
        got = []
        reading = Consumer(
            connection.channel(),
            [
                Queue(
                    'stream',
                    queue_arguments={'x-queue-type': 'stream'},
                    consumer_arguments={'x-stream-offset': offset},
                )
            ],
            callbacks=[
                lambda body, m, got=got: got.append((body, m.headers['x-stream-offset'])) or m.ack()
            ],
            prefetch_count=2,
        )
        with reading:
            while len(got) < len(expected):
                connection.drain_events(timeout=5)
        assert got == [(n, n) for n in expected]


def test_a_direct_reply(connect, connection, bench):
    """The reply comes over the wire that asked: no queue is declared for it."""
    asking, answering = bench(connection.channel()), bench(connect().channel())
    for name in ('rpc', 'other'):
        answering.channel.queue_declare(name, auto_delete=False)
    replies = []

    def answer(message):
        answering.publish(text(message).upper(), '', message.properties['reply_to'])
        message.ack()

    answering.consume('rpc', answer)
    asking.put('other', 'by the publishing wire')
    asking.consume('amq.rabbitmq.reply-to', lambda m: replies.append(text(m)), no_ack=True, tag='replies')
    for n in range(3):
        asking.put('rpc', f'question {n}', reply_to='amq.rabbitmq.reply-to')
    with green.Timeout(10):
        while len(replies) < 3:
            answering.drain(0.01)
            asking.drain(0.01)
    assert replies == ['QUESTION 0', 'QUESTION 1', 'QUESTION 2']
    asking.put('other', 'by the one wire')
    assert answering.get_all('other') == ['by the publishing wire', 'by the one wire']
    with pytest.raises(Unroutable):
        asking.publish('x', '', 'nobody', mandatory=True)


def test_dead_letters_say_why(here):
    channel = here.channel
    channel.exchange_declare('dlx', 'fanout')
    channel.queue_declare('dead', auto_delete=False)
    channel.queue_bind('dead', 'dlx')
    Queue(
        'alive', durable=False, max_length=1, message_ttl=0.02,
        queue_arguments={'x-dead-letter-exchange': 'dlx'},
    )(channel).declare()  # fmt: skip
    for body in ('over the length', 'too old'):
        here.put('alive', body)
    found = {text(m): m.headers['x-first-death-reason'] for m in (here.wait_get('dead') for _ in range(2))}
    assert found == {'over the length': 'maxlen', 'too old': 'expired'}


def test_queue_options_reach_the_broker(here, rabbitmq, amqp_vhost):
    queue = Queue(
        'q', durable=True, auto_delete=False, expires=60, message_ttl=5.5, max_length=7, max_length_bytes=999,
        max_priority=3, queue_arguments={'x-overflow': 'reject-publish', 'x-queue-mode': 'lazy'},
    )  # fmt: skip
    queue(here.channel).declare()
    assert without_default_type(rabbitmq.api('GET', f'queues/{amqp_vhost}/q')['arguments']) == {
        'x-expires': 60000, 'x-message-ttl': 5500, 'x-max-length': 7, 'x-max-length-bytes': 999,
        'x-max-priority': 3, 'x-overflow': 'reject-publish', 'x-queue-mode': 'lazy',
    }  # fmt: skip


def test_messages_with_priority_come_first(here):
    Queue('q', durable=False, max_priority=9)(here.channel).declare()
    for priority in (0, 5, 9, None):
        here.put('q', priority, priority=priority)
    assert here.get_all('q')[:2] == ['9', '5']


def test_a_transaction_takes_effect_as_a_whole(connection, here, bench):
    here.channel.queue_declare('q', auto_delete=False)
    tx = bench(connection.channel())
    tx.channel.tx_select()
    here.put('q', 'taken')
    message = tx.get('q')
    message.ack()
    tx.put('q', 'published')
    assert here.get('q') is None
    tx.channel.tx_rollback()
    tx.channel.basic_recover(requeue=True)
    message = tx.wait_get('q')
    assert text(message) == 'taken', 'the rollback took back the ack as well'
    tx.put('q', 'published')
    message.ack()
    tx.channel.tx_commit()
    assert text(here.wait_get('q')) == 'published'
    assert here.get('q') is None
    with pytest.raises(InvalidArgument, match='confirm_select'):
        tx.channel.confirm_select()


def test_what_rabbitmq_does_not_know_is_refused_here(here):
    """Each of these would close the channel or the whole connection."""
    for refused in (
        lambda: here.channel.basic_recover(requeue=False),
        lambda: here.channel.basic_publish(here.channel.prepare_message(b''), '', 'q', immediate=True),
    ):
        with pytest.raises(AMQPNotImplementedError):
            refused()
    assert here.channel.connection.epoch == 1
    assert here.client.connected


def test_of_equal_messages_in_flight_exactly_those_to_a_missing_key_raise(connection):
    """P23: 1,000 equal messages of 50 greenlets on one channel, every tenth to a key without a queue."""
    exchange = Exchange('equal', 'direct', durable=False)
    queue = Queue('equal', exchange, routing_key='here', durable=False)
    producer = connection.Producer(exchange=exchange)
    queue(producer.channel).declare()
    raised = set()

    def publish(greenlet):
        for number in range(20):
            missing = (greenlet + number) % 10 == 0
            try:
                producer.publish({'same': True}, routing_key='nowhere' if missing else 'here', mandatory=True)
            except Unroutable as exc:
                assert exc.routing_key == 'nowhere'
                raised.add((greenlet, number))

    green.joinall([green.spawn(publish, greenlet) for greenlet in range(50)], raise_error=True)
    assert raised == {(g, n) for g in range(50) for n in range(20) if (g + n) % 10 == 0}
    assert queue(producer.channel).queue_declare(passive=True).message_count == 900


def test_while_a_queue_is_bound_as_many_raise_as_do_not_arrive(connection):
    """Equal messages to one key: nobody can tell them apart, and still each counts once."""
    exchange = Exchange('late', 'direct', durable=False)
    producer, channel = connection.Producer(exchange=exchange), connection.channel()
    exchange(channel).declare()
    queue = Queue('late', exchange, routing_key='late', durable=False)(channel)
    queue.queue_declare()
    raised, arrived = [], []

    def publish():
        for _ in range(20):
            try:
                producer.publish({'same': True}, routing_key='late', mandatory=True)
                arrived.append(1)
            except Unroutable as exc:
                raised.append(exc)

    greenlets = [green.spawn(publish) for _ in range(50)]
    while len(raised) < 100:
        green.sleep(0)
    queue.queue_bind()
    green.joinall(greenlets, raise_error=True)
    assert len(raised) + len(arrived) == 1000 and raised and arrived
    assert queue.queue_declare(passive=True).message_count == len(arrived)


#: Consumes one, acks it, publishes many without waiting for anything, and ends without a close.
HASTY = """
import sys
from greenmq import Connection, Queue
connection = Connection(sys.argv[1], transport_options={'confirm_publish': False})
channel = connection.default_channel
for number in range(10):
    channel.basic_ack(channel.basic_get('in').delivery_tag)
producer = connection.Producer()
for number in range(3000):
    producer.publish('x' * 500, routing_key='out')
"""


def test_what_is_buffered_leaves_at_the_end_of_the_interpreter(here, amqp_url):
    for name in ('in', 'out'):
        here.channel.queue_declare(name, auto_delete=False)
    for number in range(10):
        here.put('in', number)
    run([sys.executable, *green.QUIET, '-c', HASTY, amqp_url])
    count = {}
    with green.Timeout(10):  # the broker reads on after our socket has ended
        while count.get('out', 0) < 3000:
            green.sleep(0.01)
            for name in ('in', 'out'):
                count[name] = here.channel.queue_declare(name, passive=True).message_count
    assert count == {'in': 0, 'out': 3000}


def test_exchanges_are_bound_to_exchanges(here):
    channel = here.channel
    for name in ('source', 'middle'):
        channel.exchange_declare(name, 'topic', auto_delete=False)
    channel.queue_declare('q', auto_delete=False)
    channel.exchange_bind('middle', 'source', 'a.#')
    channel.queue_bind('q', 'middle', '#.z')
    for key in ('a.z', 'a.b', 'b.z'):
        here.publish(key, 'source', key)
    assert text(here.wait_get('q')) == 'a.z' and here.get('q') is None
    channel.exchange_unbind('middle', 'source', 'a.#')
    with pytest.raises(Unroutable):
        here.publish('no longer', 'source', 'a.z', mandatory=True)


def test_a_connection_asks_for_no_loop_and_no_heartbeats(connection):
    assert connection.is_evented is False
    connection.connect()
    assert connection.heartbeat_check() is None and connection.heartbeat_check(rate=4) is None
    assert connection.connected


def test_a_new_secret_is_taken_on_the_open_connection(here, connection):
    update = connection.connection.update_secret
    greenlets = [green.spawn(update, 'guest', f'number {number}') for number in range(10)]
    green.joinall(greenlets, raise_error=True)
    here.channel.queue_declare('q', auto_delete=False)
    here.put('q', 'still here')
    assert text(here.wait_get('q')) == 'still here'
    assert connection.connection.epoch == 1


class Renewing:
    """Credentials that are only good until somebody asks for the next ones."""

    def __init__(self, rabbitmq, vhost, user):
        self.rabbitmq, self.vhost, self.user = rabbitmq, vhost, user
        self.given = 0

    def get_credentials(self):
        self.given += 1
        password = f'password-{self.given}'
        self.rabbitmq.allow_user(self.user, self.vhost, password)
        return self.user, password

    def token(self):
        return self.get_credentials()[1]


@pytest.mark.parametrize('form', ['user and password', 'a password'])
def test_the_provider_is_asked_for_each_login(rabbitmq, amqp_vhost, form):
    user = f'renewing-{amqp_vhost}'
    provider = Renewing(rabbitmq, amqp_vhost, user)
    url = f'amqp://127.0.0.1:{rabbitmq.port}/{amqp_vhost}'
    given = {'credential_provider': provider}
    if form == 'a password':
        given = {'credential_provider': provider.token, 'userid': user}
    try:
        with Connection(url, **given) as connection:
            connection.connect()
            (row,) = [row for row in rabbitmq.list_connections() if row['vhost'] == amqp_vhost]
            rabbitmq.close_connection(row['pid'], 'its password is old')
            while connection.connection.epoch < 2 or not connection.connected:
                green.sleep(0.01)
            connection.default_channel.queue_declare('q')
            assert provider.given == 2
    finally:
        rabbitmq.api('DELETE', f'users/{user}')


def test_a_wrong_user_id_is_the_publishers_own_error(here, connection):
    here.channel.queue_declare('q', auto_delete=False)
    greenlets = [green.spawn(here.put, 'q', n) for n in range(20)]
    with pytest.raises(PreconditionFailed, match='user_id'):
        here.put('q', 'bad', user_id='mallory')
    green.joinall(greenlets, raise_error=True, timeout=10)
    assert {str(n) for n in range(20)} == set(here.get_all('q'))


def test_a_missing_queue_costs_the_other_consumers_nothing(here):
    """A 404 for consume closes its wire: with deliveries in hand the queue is looked for elsewhere first."""
    here.channel.queue_declare('q', auto_delete=False)
    held = []
    here.consume('q', held.append, tag='holds')
    here.put('q', 'in hand')
    here.until(lambda: held)
    with pytest.raises(Exception, match='missing'):
        here.consume('missing', held.append, tag='other')
    assert held[0].ack() is not False
    here.put('q', 'next')
    here.until(lambda: len(held) == 2)
    assert not held[1].delivery_info['redelivered'] and list(here.channel.callbacks) == ['holds']


def test_nack_multiple_leaves_the_acked_alone(here):
    here.channel.queue_declare('q', auto_delete=False)
    for n in range(4):
        here.put('q', n)
    held = [here.get('q') for _ in range(4)]
    held[0].ack()
    here.channel.basic_nack(held[2].delivery_tag, multiple=True, requeue=True)
    held[3].ack()
    assert here.get_all('q') == ['1', '2']
    assert here.channel.consuming.wire.is_open


def test_gets_and_deliveries_in_any_order_are_acked_each(here):
    """A multiple ack must not take a message along that a get has just fetched."""
    for name in ('q', 'pulled'):
        here.channel.queue_declare(name, auto_delete=False)
    here.channel.basic_qos(0, 500)
    delivered = []
    here.consume('q', lambda message: delivered.append(message.ack()))
    fetched = []

    def fetch():
        while (message := here.get('pulled')) is not None:
            fetched.append(message)

    for n in range(100):
        here.put('q', n)
        here.put('pulled', n)
    getting = green.spawn(fetch)
    here.until(lambda: len(delivered) == 100)
    getting.get(timeout=10)
    assert len(fetched) == 100 and all(message.ack() is not False for message in fetched)
    here.channel.close()
    again = type(here)(here.client.channel())
    assert again.get('pulled') is None and again.get('q') is None


# ------------------------------------------------------------------------------- native delayed delivery


def without_default_type(arguments):
    """What was declared: RabbitMQ 4 adds the type of a queue where it was left to the broker."""
    if not programs.CURRENT:
        return arguments
    return {name: value for name, value in arguments.items() if (name, value) != ('x-queue-type', 'classic')}


def topology(rabbitmq, vhost):
    found = rabbitmq.api('GET', f'definitions/{vhost}')
    for kind in ('exchanges', 'queues', 'bindings'):
        for entity in found[kind]:
            entity.pop('vhost', None)
            if kind == 'queues' and entity['name'] in ('work', 'multi', 'plain'):
                entity['arguments'] = without_default_type(entity['arguments'])
            yield f'{kind[0]} {json.dumps(entity, sort_keys=True)}'


@pytest.mark.parametrize('queue_type', ['classic', pytest.param('quorum', marks=pytest.mark.slow)])
def test_the_chain_is_the_one_that_kombu_declares(connection, rabbitmq, amqp_vhost, queue_type):
    """Recorded from kombu 5.7 on RabbitMQ 3.10: both libraries' programs share one chain."""
    recorded = (HERE / 'native_delayed_delivery.txt').read_text()
    if queue_type == 'quorum':
        strategy = '"x-dead-letter-strategy": "at-least-once", "x-message-ttl"'
        recorded = recorded.replace('"classic"', '"quorum"').replace('"x-message-ttl"', strategy)
    delayed.declare_native_delayed_delivery_exchanges_and_queues(connection, queue_type)
    for queue in (
        Queue('work', Exchange('jobs', 'topic'), routing_key='job.#'),
        Queue(
            'multi',
            bindings=[binding(Exchange('a', 'topic'), 'x.y'), binding(Exchange('f', 'fanout'), 'z')],
        ),
        Queue('plain', Exchange('dir', 'direct'), routing_key='k'),
    ):
        queue(connection).declare()
        delayed.bind_queue_to_native_delayed_delivery_exchange(connection, queue)
    assert sorted(topology(rabbitmq, amqp_vhost)) == recorded.splitlines()


def test_a_delayed_message_arrives_after_its_delay(connection, here):
    delayed.declare_native_delayed_delivery_exchanges_and_queues(connection, 'classic', prefix='short')
    queue = Queue('work', Exchange('jobs', 'topic'), routing_key='job')
    queue(connection).declare()
    delayed.bind_queue_to_native_delayed_delivery_exchange(connection, queue, prefix='short')
    key = delayed.calculate_routing_key(1, 'job')
    here.publish('later', delayed.level_name(delayed.MAX_LEVEL, 'short'), key, mandatory=True)
    assert here.get('work') is None
    message = here.wait_get('work')
    assert text(message) == 'later'
    assert message.headers['x-first-death-queue'] == delayed.level_name(0, 'short')


def test_a_body_is_text_if_its_encoding_says_how_to_read_it(here, connection):
    here.channel.queue_declare('q')
    producer = connection.Producer()
    bodies = []
    for body, options in (
        ({'a': 'grün'}, {}),
        (b'\xff', {}),
        (b'\xff', {'content_type': 'text/plain', 'content_encoding': 'utf-8'}),
        ('grün', {'content_type': 'text/plain', 'content_encoding': 'latin-1'}),
        ({'a': 1}, {'compression': 'zlib'}),
    ):
        producer.publish(body, routing_key='q', **options)
        bodies.append(here.channel.basic_get('q', no_ack=True).body)
    assert bodies[1:] == [b'\xff', b'\xff', 'grün', b'{"a": 1}'] and json.loads(bodies[0]) == {'a': 'grün'}
    assert [type(body) for body in bodies] == [str, bytes, bytes, str, bytes]


@pytest.mark.parametrize('how', ['consumer', 'get', 'basic_get', 'no_ack'])
def test_what_cannot_be_read_goes_to_the_dead_letter_place(amqp_url, name, how, caplog):
    with Connection(amqp_url) as connection:
        channel = connection.channel()
        dead = Queue(f'{name}-dead', durable=False)(channel)
        dead.declare()
        arguments = {'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': dead.name}
        queue = Queue(name, durable=False, queue_arguments=arguments)(channel)
        queue.declare()
        stranger = AMQP(amqp_url)
        stranger.send(name, AMQP.cases['a time of 2^63'], b'kept')
        stranger.close()
        if how == 'consumer':
            with Consumer(channel, [queue], callbacks=[lambda body, message: message.ack()]):
                with pytest.raises(DecodeError):
                    connection.drain_events(timeout=5)
        else:
            take = {
                'get': queue.get,
                'basic_get': lambda: channel.basic_get(name),
                'no_ack': lambda: channel.basic_get(name, no_ack=True),
            }[how]
            with pytest.raises(DecodeError):
                take()
        if how == 'no_ack':
            assert 'settled twice' not in caplog.text and 'Cannot decode message' in caplog.text
        else:
            with green.Timeout(10):
                while dead.queue_declare(passive=True).message_count != 1:
                    green.sleep(0.01)
        assert queue.queue_declare(passive=True).message_count == 0
        queue.delete()
        dead.delete()


def test_what_cannot_be_read_goes_where_a_policy_says(amqp_url, rabbitmq, amqp_vhost, name):
    with Connection(amqp_url) as connection:
        channel = connection.channel()
        dead = Queue(f'{name}-dead', durable=False)(channel)
        dead.declare()
        queue = Queue(name, durable=False)(channel)
        queue.declare()
        place = json.dumps({'dead-letter-exchange': '', 'dead-letter-routing-key': dead.name})
        rabbitmq.ctl('set_policy', '-p', amqp_vhost, '--apply-to', 'queues', name, f'^{name}$', place)
        stranger = AMQP(amqp_url)
        stranger.send(name, AMQP.cases['a time of 2^63'], b'kept')
        stranger.close()
        with pytest.raises(DecodeError):
            queue.get()
        with green.Timeout(10):
            while dead.queue_declare(passive=True).message_count != 1:
                green.sleep(0.01)
        queue.delete()
        dead.delete()


@pytest.mark.parametrize('argument', ['x-message-ttl', 'x-expires'])
def test_the_longest_time_of_a_queue_is_the_brokers(amqp_url, name, argument):
    most = 10 * 365 * 86_400_000
    with Connection(amqp_url) as connection:
        queue = Queue(name, queue_arguments={argument: most})(connection.default_channel)
        queue.declare()
        queue.delete()
        with pytest.raises(PreconditionFailed):
            connection.default_channel.queue_declare(name, arguments={argument: most + 1})
        with pytest.raises(InvalidArgument, match=argument):
            Queue(name, queue_arguments={argument: most + 1})(connection.default_channel).declare()


def test_a_queue_that_the_broker_named_is_not_declared_by_that_name(amqp_url):
    with Connection(amqp_url) as connection:
        channel = connection.channel()
        queue = Queue('', exclusive=True)
        assert maybe_declare(queue, channel) is True and queue.name.startswith('amq.gen-')
        maybe_declare(queue, channel)
        queue(channel).declare()
        Producer(channel).publish('x', routing_key=queue.name, declare=[queue])
        assert queue(channel).get(no_ack=True).payload == 'x'


@pytest.mark.parametrize('no_ack', [False, True])
def test_what_was_sent_ahead_counts_and_can_be_had(amqp_url, name, no_ack):
    with Connection(amqp_url) as connection:
        queue = connection.SimpleQueue(name, no_ack=no_ack)
        for number in range(6):
            queue.put(number)
        first = queue.get(timeout=5)
        if not no_ack:
            first.ack()
        with green.Timeout(10):
            while queue._held() < 5:
                green.sleep(0.002)
        assert (first.payload, queue.qsize(), queue.get(block=False).payload, queue.qsize()) == (0, 5, 1, 4)
        assert queue.clear() == 4 and queue.qsize() == 0
        with pytest.raises(queue.Empty):
            queue.get(block=False)
        queue.put('after')
        assert queue.get(timeout=5).payload == 'after'
        queue.close()
        queue.queue.delete()


def test_a_consumer_that_goes_to_another_channel_leaves_none_behind(connection, name):
    consumer = connection.Consumer([Queue(name, durable=False)], callbacks=[print])
    consumer.consume()
    for _ in range(3):
        consumer.revive(connection.channel())
        consumer.consume()
    look = connection.channel()

    def consumers():
        return look.queue_declare(name, passive=True).consumer_count

    wait_until(lambda: consumers() == 1, 10, 'one consumer')
    look.queue_delete(name)


def test_a_consumer_whose_callbacks_lag_is_paused_and_resumed_and_both_are_told(connect, name, noted):
    """Without a prefetch the broker sends what it has: beyond `max_waiting_bytes` its deliveries stop."""
    told = [noted('paused'), noted('resumed')]
    connection = connect(transport_options={'max_waiting_bytes': 20_000})
    channel = connection.channel()
    channel.queue_declare(name, auto_delete=False)
    producer = Producer(channel)
    for _ in range(60):
        producer.publish(b'x' * 1000, routing_key=name, content_type='application/data')
    seen = []
    channel.basic_consume(queue=name, no_ack=True, callback=seen.append, consumer_tag='lags')
    wait_until(lambda: told[0], 10, 'the pause')
    assert told[0][0]['consumer_tag'] == 'lags' and told[0][0]['queue'] == name and not told[1]
    with green.Timeout(20):
        while len(seen) < 60:
            connection.drain_events(timeout=10)
    wait_until(lambda: len(told[1]) == len(told[0]), 10, 'it to be told that it goes on')
    assert {each['consumer_tag'] for each in told[1]} == {'lags'}
    channel.queue_delete(name)


@pytest.fixture
def noted():
    """The events of one name, as they come."""
    subscriptions = []

    def note(event):
        found = []
        subscriptions.append(events.subscribe(event, lambda told: found.append(told.facts)))
        return found

    yield note
    for subscription in subscriptions:
        subscription.cancel()


def test_a_quorum_queue_counts_deliveries_and_puts_aside_what_comes_back_too_often(connect):
    connection = connect()
    Queue('aside', queue_arguments={'x-queue-type': 'quorum'})(connection).declare()
    poison = Queue('poison', queue_arguments={
        'x-queue-type': 'quorum', 'x-delivery-limit': 2,
        'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'aside',
    })(connection)  # fmt: skip
    poison.declare()
    connection.Producer().publish('again and again', routing_key='poison')
    counts = []
    for _ in range(3):
        message = wait_until(poison.get, 10, 'the message to come back')
        counts.append(message.headers.get('x-delivery-count', 0))
        message.requeue()
    assert counts == [0, 1, 2]
    message = wait_until(Queue('aside')(connection).get, 10, 'the dead letter')
    assert message.headers['x-first-death-reason'] == 'delivery_limit'
    message.ack()
