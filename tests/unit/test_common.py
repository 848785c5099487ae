import pytest

from greenmq import common
from greenmq.connection import Connection
from greenmq.entity import Exchange, Queue
from greenmq.exceptions import ChannelError, RecoverableConnectionError, TimeoutError
from greenmq.messaging import Consumer, Producer
from tests.support import green
from tests.unit.recorder import Recorder


class Draining:
    """A connection whose turns are written down beforehand: a value, an error, or a function to call."""

    connection_errors = (OSError,)
    channel_errors = (KeyError,)

    def __init__(self, *turns):
        self.turns = list(turns)
        self.timeouts = []

    def drain_events(self, timeout=None):
        self.timeouts.append(timeout)
        turn = self.turns.pop(0) if self.turns else TimeoutError('nothing')
        if isinstance(turn, BaseException):
            raise turn
        return turn() if callable(turn) else turn


@pytest.fixture
def connection():
    with Connection('memory://') as connection:
        yield connection


class TestEventloop:
    def test_gives_what_each_turn_brought(self):
        conn = Draining(1, 2, 3)
        assert list(common.eventloop(conn, limit=3, timeout=2)) == [1, 2, 3]
        assert conn.timeouts == [2, 2, 2]

    def test_a_turn_without_an_event_is_an_error_if_there_is_a_timeout(self):
        with pytest.raises(TimeoutError):
            list(common.eventloop(Draining(1), limit=2, timeout=2))
        assert list(common.eventloop(Draining(1, TimeoutError(), 2), limit=3)) == [1, 2]

    def test_ignoring_timeouts(self):
        conn = Draining(1, TimeoutError(), 2)
        assert list(common.eventloop(conn, limit=3, timeout=2, ignore_timeouts=True)) == [1, 2]


class TestMaybeDeclare:
    def test_once_an_epoch(self):
        channel, queue = Recorder(), Queue('q', 'e', 'k')
        assert common.maybe_declare(queue, channel) is True
        assert common.declaration_cached(queue, channel)
        assert common.maybe_declare(queue, channel) is False
        assert channel.names().count('queue_declare') == 1
        channel.connection.client.declared_entities.clear()  # what a new epoch does
        assert common.maybe_declare(queue, channel) is True
        assert not queue.is_bound

    def test_what_the_broker_removes_by_itself_is_declared_each_time(self):
        channel, queue = Recorder(), Queue('q', 'e', auto_delete=True)
        for _ in range(2):
            assert common.maybe_declare(queue, channel) is True

    def test_a_nameless_queue_is_a_new_one_each_time(self):
        channel, queue = Recorder(), Queue('')
        common.maybe_declare(queue, channel)
        assert queue.name == 'made-up'
        assert common.maybe_declare(Queue(''), channel) is True

    def test_without_a_channel(self):
        with pytest.raises(ChannelError, match='Cannot bind'):
            common.maybe_declare(Queue('q'))
        channel = Recorder()
        channel.connection = None
        with pytest.raises(RecoverableConnectionError):
            common.maybe_declare(Queue('q'), channel)

    def test_retry_goes_through_ensure(self):
        channel, asked = Recorder(), []

        def ensure(entity, fun, **policy):
            asked.append((entity.name, policy))
            return fun

        channel.connection.client.ensure = ensure
        assert common.maybe_declare(Queue('q'), channel, retry=True, max_retries=3) is True
        assert asked == [('q', {'max_retries': 3})]


class TestReplies:
    def test_a_request_and_its_reply(self, connection):
        requests = Queue('requests', Exchange('requests'), 'requests')
        replies = Queue('replies', Exchange('replies'), 'replies')(connection)
        replies.declare()
        Producer(connection).publish(
            {'n': 2},
            'requests',
            exchange='requests',
            declare=[requests],
            reply_to='replies',
            correlation_id='c',
        )
        request = requests(connection).get()
        common.send_reply(Exchange('replies'), request, {'n': 4}, Producer(connection))
        common.send_reply('replies', request, {'n': 5})
        request.ack()
        channel = connection.default_channel
        assert list(common.collect_replies(connection, channel, replies, limit=2, timeout=5)) == [
            {'n': 4},
            {'n': 5},
        ]

    def test_replies_may_be_acknowledged(self, connection):
        queue = Queue('replies')(connection)
        queue.declare()
        Producer(connection).publish('r', 'replies')
        replies = common.collect_replies(
            connection, connection.default_channel, queue, timeout=5, no_ack=False
        )
        assert list(replies) == ['r']
        connection.default_channel.basic_recover(requeue=True)
        assert queue.get() is None

    def test_a_request_that_wants_no_reply(self, connection):
        Queue('q')(connection).declare()
        Producer(connection).publish('x', 'q')
        request = Queue('q')(connection).get(no_ack=True)
        with pytest.raises(KeyError):
            common.send_reply('e', request, 'answer')


class TestDrainConsumer:
    def publish(self, connection, count):
        queue = Queue('drain')
        for n in range(count):
            Producer(connection).publish(n, 'drain', declare=[queue])
        return queue

    def test_up_to_a_limit(self, connection):
        queue, seen = self.publish(connection, 5), []
        messages = common.itermessages(
            connection, connection.default_channel, queue, limit=3, timeout=5, no_ack=True,
            callbacks=[lambda body, message: seen.append(body)],
        )  # fmt: skip
        assert [body for body, _ in messages] == seen == [0, 1, 2]
        assert queue(connection).queue_declare(passive=True)[1] == 2

    def test_one_is_the_default(self, connection):
        consumer = Consumer(connection, self.publish(connection, 2))
        ((body, message),) = common.drain_consumer(consumer, timeout=5)
        message.ack()
        assert body == 0

    def test_leaving_early_cancels(self, connection):
        consumer = Consumer(connection, self.publish(connection, 2))
        messages = common.drain_consumer(consumer, limit=None, timeout=5)
        next(messages)
        messages.close()
        assert not consumer.consuming_from('drain')

    def test_events_of_other_greenlets_do_not_count(self, connection):
        # Given a reply that comes after many events that are somebody else's
        other = Queue('other')
        noise = Consumer(connection, other, no_ack=True, callbacks=[lambda body, message: None])
        noise.consume()
        queue = Queue('drain')(connection)
        queue.declare()
        for n in range(5):
            Producer(connection).publish(n, 'other')
        green.spawn_later(0, Producer(connection).publish, 'mine', 'drain')
        replies = common.collect_replies(connection, connection.default_channel, queue, timeout=5)
        assert list(replies) == ['mine']
        noise.cancel()


class TestInsured:
    def test_calls_with_a_connection_of_the_pool(self, connection):
        pool = connection.Pool(1)
        seen, revived = [], []

        def fun(a, b=None, channel=None, connection=None):
            seen.append((a, b, channel is connection.default_channel))
            return 'result'

        assert common.insured(pool, fun, (1,), {'b': 2}, on_revive=revived.append) == 'result'
        assert seen == [(1, 2, True)]
        with pool.acquire():
            pass
        pool.force_close_all()

    def test_revive_connection(self):
        told = []
        common.revive_connection('connection', 'channel', told.append)
        common.revive_connection('connection', 'channel')
        assert told == ['channel']


def test_ignore_errors():
    conn = Draining()

    def fail(error):
        raise error

    for error in (OSError('x'), KeyError('x')):
        assert common.ignore_errors(conn, fail, error) is None
        with common.ignore_errors(conn):
            raise error
    with pytest.raises(ZeroDivisionError), common.ignore_errors(conn):
        raise ZeroDivisionError
    assert common.ignore_errors(conn, max, 1, 2) == 2


class TestBroadcast:
    def test_a_queue_of_its_own_for_each(self):
        one, two = common.Broadcast('news'), common.Broadcast('news')
        assert one.name != two.name
        assert one.name.startswith('bcast.')
        assert (one.alias, one.exchange, one.auto_delete) == ('news', Exchange('news', 'fanout'), True)

    def test_named_and_unique(self):
        assert common.Broadcast('news', 'mine').name == 'mine'
        assert common.Broadcast('news', 'mine', unique=True).name.startswith('mine.')
        assert common.Broadcast('news', exchange=Exchange('other', 'fanout')).exchange.name == 'other'

    def test_everybody_gets_it(self, connection):
        inboxes = [], []
        consumers = [
            Consumer(
                connection,
                common.Broadcast('news'),
                no_ack=True,
                callbacks=[lambda b, m, i=inbox: i.append(b)],
            )
            for inbox in inboxes
        ]
        for consumer in consumers:
            consumer.consume()
        Producer(connection, Exchange('news', 'fanout')).publish('hello')
        while not all(inboxes):
            connection.drain_events(timeout=5)
        assert inboxes == (['hello'], ['hello'])
        for consumer in consumers:
            consumer.cancel()


class TestQoS:
    def make(self, value, limit=None):
        sent = []
        return common.QoS(lambda prefetch_count: sent.append(prefetch_count), value, limit), sent

    def test_changes_are_sent_by_update(self):
        qos, sent = self.make(10)
        assert (qos.increment_eventually(), qos.decrement_eventually(3), sent) == (11, 8, [])
        assert qos.update() == qos.update() == qos.prev == 8
        assert sent == [8]

    def test_one_is_the_least_and_zero_is_unlimited(self):
        qos, _ = self.make(2)
        assert qos.decrement_eventually(5) == 1
        qos, _ = self.make(0)
        assert (qos.increment_eventually(), qos.decrement_eventually()) == (0, 0)

    def test_limits(self):
        qos, _ = self.make(5, 8)
        assert qos.increment_eventually(10) == 8
        qos, sent = self.make(65530)
        qos.increment_eventually(10)
        assert (qos.update(), sent) == (65540, [0])

    def test_celery_takes_its_lock(self):
        qos, sent = self.make(1)
        with qos._mutex:
            qos.increment_eventually()
            qos.update()
        assert sent == [2]

    def test_greenlets_count_exactly(self):
        qos, _ = self.make(1)
        green.joinall([green.spawn(qos.increment_eventually) for _ in range(50)], raise_error=True)
        assert qos.value == 51


def test_oid():
    thing, other = object(), object()
    assert common.oid_from(thing) == common.oid_from(thing) != common.oid_from(other)
    assert green.spawn(common.oid_from, thing).get() != common.oid_from(thing)
    assert green.spawn(common.oid_from, thing, threads=False).get() == common.oid_from(thing, threads=False)
    assert common.generate_oid(1, 2, 3, thing) == common.generate_oid(1, 2, 3, thing)
