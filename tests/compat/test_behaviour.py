"""What programs written for kombu 5.7 notice: each case does what they do, and expects what kombu gives.

The expected values were recorded with kombu; where ours is another on purpose, README says so.
"""
import io
import logging

import pytest

from greenmq import Connection, Consumer, Exchange, Producer, Queue, binding, common, exceptions
from greenmq.log import Log
from greenmq.mixins import ConsumerMixin
from greenmq.pools import producers, set_limit
from greenmq.transport import TRANSPORT_ALIASES, memory, resolve_transport, virtual
from tests.support import green

URL = 'memory://localhost/test_behaviour'


class Down(Exception):
    """What a driver of somebody's transport raises."""


def failing(times, base=memory.Transport, seconds=0, **names):
    """A transport whose first attempts fail; counts all of them."""

    class Failing(base):
        attempts = 0

        def establish_connection(self):
            Failing.attempts += 1
            if Failing.attempts <= times:
                green.sleep(seconds)
                raise Down('not yet')
            return super().establish_connection()

    for name, value in (names or {'connection_errors': (Down,), 'channel_errors': ()}).items():
        setattr(Failing, name, value)
    return Failing


QUICK = {'interval_start': 0, 'interval_step': 0, 'interval_max': 0}


@pytest.fixture
def connection():
    with Connection(URL) as found:
        yield found


class TestTheFirstConnect:
    """A connection that was never open is given up as the caller's policy says, else its options."""

    @pytest.mark.parametrize('retries, attempts', [(0, 1), (1, 2), (3, 4)])
    def test_of_a_publish_follows_its_policy(self, retries, attempts):
        transport, told = failing(99), []
        policy = {'max_retries': retries, 'errback': lambda exc, seconds: told.append(seconds), **QUICK}
        producer = Producer(Connection(transport=transport))
        with pytest.raises(exceptions.OperationalError, match='not yet'):
            producer.publish('x', routing_key='q', retry=True, retry_policy=policy)
        assert transport.attempts == attempts and told == [0.0] * retries
        assert producer.connection.transport_options == {}  # kombu writes the policy into them

    @pytest.mark.parametrize('url', ['amqp://127.0.0.1:1//', 'redis://127.0.0.1:1/0'])
    @pytest.mark.parametrize('pooled', [False, True])
    def test_of_celerys_send_task_ends_after_its_retries(self, url, pooled):
        told = []
        policy = {
            'max_retries': 2, 'interval_start': 0, 'interval_step': 0.01, 'interval_max': 0.01,
            'errback': lambda exc, seconds: told.append(exc),
        }  # fmt: skip
        connection = Connection(url)
        producer = producers[connection].acquire(block=True) if pooled else Producer(connection)
        for retries in (2, 0):
            told.clear()
            policy['max_retries'] = retries
            with pytest.raises(exceptions.OperationalError):
                producer.publish('x', routing_key='q', retry=True, retry_policy=policy)
            assert len(told) == retries
        producer.release()

    def test_of_a_publish_goes_on_within_its_policy(self):
        transport = failing(2)
        with Connection(transport=transport) as connection:
            policy = {'max_retries': 2, **QUICK}
            Producer(connection).publish('x', routing_key='q', retry=True, retry_policy=policy)
            assert connection.connected and transport.attempts == 3

    @pytest.mark.parametrize(
        'use', [
            lambda c: c.default_channel,
            lambda c: Consumer(c, [Queue('q')]),
            lambda c: c.SimpleQueue('q'),
            lambda c: Queue('q')(c).declare(),
            lambda c: Producer(c).publish('x', routing_key='q'),
            lambda c: Producer(c).publish('x', routing_key='q', retry=True),
        ], ids=['default_channel', 'Consumer', 'SimpleQueue', 'bind', 'publish', 'publish with retry'],
    )  # fmt: skip
    @pytest.mark.parametrize('hosts', [1, 2])
    def test_ends_with_the_connect_timeout(self, use, hosts):
        transport = failing(99, seconds=0.02)
        connection = Connection([f'h{n}' for n in range(hosts)], transport=transport, connect_timeout=0.01)
        with pytest.raises(exceptions.OperationalError):
            use(connection)
        # Each host once. kombu makes one attempt, and never comes to the second host (P24).
        assert transport.attempts == hosts

    def test_ends_with_the_option(self):
        transport = failing(99, seconds=0.02)
        connection = Connection(transport=transport, connect_timeout=0.01, transport_options=QUICK)
        connection.transport_options['connect_retries_timeout'] = 0.5
        with pytest.raises(exceptions.OperationalError):
            connection.default_channel  # noqa: B018
        assert transport.attempts >= 2

    def test_of_autoretry_follows_its_policy_and_takes_the_default_channel(self, connection):
        transport, told = failing(99), []
        retried = Connection(transport=transport).autoretry(
            lambda channel: 1, max_retries=2, errback=lambda exc, seconds: told.append(seconds), **QUICK
        )
        with pytest.raises(exceptions.OperationalError):
            retried()
        assert transport.attempts == 3 and told == [0.0, 0.0]
        assert connection.autoretry(lambda channel: 1)() == (1, connection.default_channel)

    def test_leaves_the_transport_as_the_program_has_set_it_up(self, connection):
        transport = connection.transport
        transport.polling_interval = 0.1
        connection.connect()
        assert connection.transport is transport

    def test_is_made_by_who_asks_about_prefetch(self, connection):
        assert connection.qos_semantics_matches_spec is True and connection.connected


class TestAForeignTransport:
    """One that names its errors, and not which of them are worth a try, as several of kombu's."""

    @pytest.mark.parametrize('base', [virtual.Transport, memory.Transport])
    def test_is_tried_again_after_any_of_them(self, base):
        transport = failing(1, base)
        connection = Connection(transport=transport)
        connection.ensure_connection(max_retries=3, interval_start=0)
        assert connection.recoverable_connection_errors == (Down,)
        assert connection.recoverable_channel_errors == ()

    def test_may_name_them_on_itself(self):
        class Late(failing(1, virtual.Transport)):
            def __init__(self, client, **kwargs):
                super().__init__(client, **kwargs)
                self.connection_errors, self.channel_errors = (Down,), (KeyError,)

        assert Connection(transport=Late).recoverable_connection_errors == (Down, KeyError)

    def test_that_tells_them_apart_is_believed(self):
        transport = failing(1, connection_errors=(Down,), recoverable_connection_errors=())
        with pytest.raises(Down):
            Connection(transport=transport).ensure_connection(max_retries=3, interval_start=0)

    def test_ends_at_the_second_loss_in_a_row(self):
        transport, calls = failing(0), []

        def lose():
            calls.append(1)
            raise Down('each time')

        with Connection(transport=transport) as connection, pytest.raises(exceptions.OperationalError):
            connection.ensure(None, lose, **QUICK)()
        assert len(calls) == 2


class TestDraining:
    @pytest.mark.parametrize('limit, expected', [(1, 1), (2, 2), (3, 2)])
    def test_itermessages_ends_when_fewer_come(self, connection, limit, expected):
        queue = Queue('im')(connection)
        queue.declare()
        for number in range(2):
            connection.Producer().publish(number, routing_key='im')
        found = list(common.itermessages(connection, queue.channel, queue, limit=limit, timeout=0.02))
        assert [body for body, _ in found] == list(range(expected))

    def test_collect_replies_ends_when_nobody_answers(self, connection):
        queue = Queue('answers')(connection)
        queue.declare()
        assert list(common.collect_replies(connection, queue.channel, queue, limit=3, timeout=0.01)) == []

    def test_our_own_callback_comes_first(self, connection):
        queue, seen = Queue('cb')(connection), []
        queue.declare()
        connection.Producer().publish(1, routing_key='cb')
        consumer = connection.Consumer([queue])
        for _ in common.drain_consumer(consumer, timeout=0.1, callbacks=[lambda body, m: seen.append(body)]):
            assert seen == [1] and len(consumer.callbacks) == 2 and consumer.callbacks[1:] != []


class TestChannels:
    def test_maybe_declare_with_retry(self, connection):
        dead, live = connection.channel(), connection.channel()
        bound = Exchange('e')(dead)
        dead.close()
        with pytest.raises(exceptions.RecoverableConnectionError):
            common.maybe_declare(Exchange('f'), dead, retry=True)
        assert common.maybe_declare(bound, live, retry=True) is True and bound.channel is live

    def test_a_revived_consumer_goes_on(self, connection):
        old, new, got = connection.channel(), connection.channel(), []
        consumer = Consumer(old, [Queue('rv')], callbacks=[lambda body, m: (got.append(body), m.ack())])
        consumer.consume()
        old.close()
        consumer.revive(new)
        Producer(new).publish('after', routing_key='rv')
        connection.drain_events(timeout=1)
        assert got == ['after'] and consumer.consuming_from('rv')

    def test_a_mixin_waits_for_a_queue_that_is_not_there(self):
        class Worker(ConsumerMixin):
            connection, tries = Connection(URL), 0

            def get_consumers(self, Consumer, channel):
                self.tries += 1
                if self.tries == 2:
                    self.should_stop = True
                    return []
                raise exceptions.NotFound('no such queue yet')

        worker = Worker()
        worker.restart_limit.fill_rate = 100
        worker.run()
        assert worker.tries == 2


class TestArguments:
    def test_replies_to_a_queue_go_to_its_name(self, connection):
        queue = Queue('rq')(connection)
        producer = connection.Producer()
        producer.publish('x', routing_key='rq', declare=[queue], reply_to=Queue('answers'))
        assert queue.get(no_ack=True).properties['reply_to'] == 'answers'
        with pytest.raises(exceptions.InvalidArgument, match='reply_to is a queue without a name'):
            producer.publish('x', routing_key='rq', reply_to=Queue())

    def test_a_password_may_be_a_function(self):
        connection = Connection('amqp://me@host//', password=lambda: 'p@')
        assert connection.as_uri(include_password=True) == 'amqp://me:p%40@host:5672//'
        assert connection.as_uri() == 'amqp://me:**@host:5672//'

    @pytest.mark.parametrize('limit', [True, False])
    def test_a_limit_is_no_bool(self, connection, limit):
        pool = connection.Pool(2)
        for call in (connection.Pool, connection.ChannelPool, pool.resize, set_limit):
            with pytest.raises(TypeError, match='limit must be an int, not bool'):
                call(limit)
        assert pool.limit == 2

    @pytest.mark.parametrize(
        'given', [lambda: 'greenmq.transport.memory:Transport', lambda: memory.Transport]
    )
    def test_an_alias_may_be_a_function(self, given, monkeypatch):
        monkeypatch.setitem(TRANSPORT_ALIASES, 'behaviour', given)
        assert resolve_transport('behaviour') is memory.Transport

    @pytest.mark.parametrize(
        'text, values, shown', [
            ('host %r', ('a',), "x - host 'a'"),
            ('%-5r|%s', ('a', 'b'), "x - 'a'  |b"),
            ('%d%% of %r', (3, 'a'), "x - 3% of 'a'"),
        ],
    )  # fmt: skip
    def test_representations_are_logged_once_quoted(self, text, values, shown):
        logger, stream = logging.getLogger('test_behaviour'), io.StringIO()
        handler = logging.StreamHandler(stream)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            Log('x', logger).debug(text, *values)
        finally:
            logger.removeHandler(handler)
        assert stream.getvalue() == shown + '\n'


class TestTheBody:
    """What is written can be read, and headers that describe a body belong to that body."""

    @pytest.mark.parametrize('compression', [None, 'bzip2'])
    def test_the_headers_of_a_compressed_message_may_be_passed_on(self, connection, compression):
        producer, queue = connection.Producer(), Queue('first')(connection)
        producer.publish({'a': 1}, routing_key='first', declare=[queue], compression='zlib', headers={'n': 1})
        message = queue.get(no_ack=True)
        assert message.payload == {'a': 1} and message.headers == {'n': 1}
        for body, options in ((message.payload, {}), (message.body, {'content_type': message.content_type})):
            producer.publish(
                body, routing_key='first', headers=message.headers, compression=compression, **options
            )
            assert queue.get(no_ack=True).payload == {'a': 1}

    def test_a_header_does_not_make_a_body_compressed(self, connection):
        queue, headers = Queue('plain')(connection), {'compression': 'zlib'}
        connection.Producer().publish([1], routing_key='plain', declare=[queue], headers=headers)
        assert queue.get(no_ack=True).payload == [1] and headers == {'compression': 'zlib'}

    def test_a_compressed_message_that_comes_again_is_whole(self, connection):
        queue = Queue('again')(connection)
        connection.Producer().publish('x', routing_key='again', declare=[queue], compression='zlib')
        queue.get().requeue()
        assert queue.get(no_ack=True).payload == 'x'

    @pytest.mark.parametrize('body', [b'\xff', b'text', 'text'])
    def test_what_an_exchange_publishes_arrives_as_it_was(self, connection, body):
        queue = Queue('raw')(connection)
        queue.declare()
        Exchange('')(connection).publish(body, routing_key='raw')
        assert queue.get(no_ack=True).payload == body


class TestDeclarations:
    def test_ways_into_a_queue_differ_by_their_arguments(self, connection):
        exchange = Exchange('x12', 'headers')
        first, second = (
            Queue('q12', exchange, binding_arguments={'x-match': 'all', name: 1}) for name in 'ab'
        )
        several = Queue('q12', [binding(exchange, '', {name: [1]}) for name in 'cd'])
        assert len({hash(first), hash(second), hash(several), hash(Queue('q12', exchange))}) == 4
        assert hash(first) == hash(Queue('q12', exchange, binding_arguments={'a': 1, 'x-match': 'all'}))
        producer = connection.Producer()
        for headers, arrives in (({'a': 1}, 1), ({'b': 1}, 2), ({'c': [1]}, 3), ({'e': 1}, 3)):
            producer.publish(
                'x', exchange=exchange, headers=headers, declare=[first, second, several]
            )
            assert first(connection).queue_declare(passive=True)[1] == arrives
