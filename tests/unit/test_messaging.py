"""Producer and Consumer at the seam to the channel: what is called there, and what is not."""

import json
import pickle

import pytest

from greenmq import runtime
from greenmq.connection import Connection
from greenmq.entity import Exchange, Queue
from greenmq.exceptions import BufferFull, NotFound
from greenmq.messaging import Consumer, Producer
from greenmq.publishing.backlog import Backlog
from tests.support import green
from tests.unit.recorder import Recorder


@pytest.fixture
def channel():
    return Recorder()


class TestProducer:
    def test_publish(self, channel):
        Producer(channel, Exchange('e', 'topic', delivery_mode=1), 'default').publish(
            {'a': 1}, headers={'h': 1}
        )
        assert channel.names() == ['prepare_message', 'exchange_declare', 'basic_publish']
        body, *rest = channel.calls[0][1]
        assert json.loads(body) == {'a': 1}
        assert rest == [0, 'application/json', 'utf-8', {'h': 1}, {'delivery_mode': 1}]
        (options,) = channel.of('basic_publish')
        assert (options['exchange'], options['routing_key']) == ('e', 'default')

    @pytest.mark.parametrize(
        'options, exchange, mode',
        [
            ({}, 'e', 1),
            ({'exchange': 'other'}, 'other', 1),
            ({'exchange': Exchange('other')}, 'other', 2),
            ({'exchange': Exchange('other', delivery_mode=1)}, 'other', 1),
            ({'delivery_mode': 'persistent'}, 'e', 2),
            ({'exchange': ''}, 'e', 1),
        ],
    )
    def test_exchange_and_delivery_mode(self, channel, options, exchange, mode):
        Producer(channel, Exchange('e', delivery_mode=1)).publish('x', **options)
        assert channel.of('basic_publish')[0]['exchange'] == exchange
        assert channel.calls[0][1][5] == {'delivery_mode': mode}

    def test_one_deadline_is_made_and_handed_down(self, channel):
        producer = Producer(channel)
        producer.publish('x', timeout=7)
        producer.publish('x', timeout=float('inf'))
        deadline = runtime.Deadline.after(3)
        producer.publish('x', timeout=deadline)
        producer.publish('x')
        channel.connection.client.transport_options['publish_timeout'] = 12
        producer.publish('x')
        given = [call['timeout'] for call in channel.of('basic_publish')]
        assert [each.seconds for each in given] == [7, None, 3, 30.0, 12.0]
        assert given[2] is deadline

    def test_the_exchange_is_declared_once(self, channel):
        producer = Producer(channel, Exchange('e'))
        producer.publish('x')
        producer.publish('y')
        assert channel.names().count('exchange_declare') == 1

    def test_a_name_alone_or_no_auto_declare_declares_nothing(self, channel):
        Producer(channel, 'name').publish('x')
        Producer(channel, Exchange('e'), auto_declare=False).publish('x')
        assert 'exchange_declare' not in channel.names()
        assert [call['exchange'] for call in channel.of('basic_publish')] == ['name', 'e']

    def test_not_found_makes_the_next_publish_declare_again(self, channel):
        producer = Producer(channel, Exchange('e'))
        producer.publish('x')

        def not_found(*args, **kwargs):
            raise NotFound('no exchange', (60, 40), 'Basic.publish', 404)

        channel.basic_publish = not_found
        with pytest.raises(NotFound):
            producer.publish('x')
        del channel.basic_publish
        producer.publish('x')
        assert channel.names().count('exchange_declare') == 2

    def test_retry_prepares_the_message_for_the_new_channel(self, channel):
        new, policies = Recorder(), []

        def ensure(obj, fun, **policy):
            policies.append(policy)
            obj.revive(new)
            return fun

        channel.connection.client.ensure = ensure
        policy = {'max_retries': 3}
        Producer(channel).publish('x', retry=True, retry_policy=policy, timeout=5)
        assert new.names() == ['prepare_message', 'basic_publish']
        assert policies[0]['max_retries'] == 3
        assert policies[0]['timeout'] is new.of('basic_publish')[0]['timeout']
        assert policy == {'max_retries': 3}

    def test_a_connection_is_not_opened_before_it_is_needed(self, channel):
        connection = Connection('memory://')
        producer = Producer(connection, Exchange('e'))
        assert not connection.connected
        assert producer.connection is connection
        producer.publish('x')
        assert connection.connected
        connection.release()

    def test_on_return_is_registered_where_the_channel_keeps_handlers(self, channel):
        channel.events = {'basic_return': set()}
        Producer(channel, on_return=print)
        assert channel.events == {'basic_return': {print}}

    def test_pickle(self):
        producer = pickle.loads(
            pickle.dumps(Producer(Recorder(), Exchange('e'), 'k', 'json', compression='zlib'))
        )
        assert (producer.exchange, producer.routing_key, producer.compression) == (Exchange('e'), 'k', 'zlib')
        assert not producer.exchange.is_bound

    def test_release_is_what_a_pool_puts_there(self, channel):
        producer, released = Producer(channel), []
        producer.release = lambda: released.append(1)
        with producer:
            pass
        assert released == [1]


class TestBacklog:
    def test_is_bounded_and_tells_who_waits(self):
        gate = runtime.Event()

        def publish(number):
            gate.wait()
            if number == 1:
                raise ValueError('one')
            return number

        backlog = Backlog(publish, limit=2)
        futures = [backlog.put(0), backlog.put(1)]
        with pytest.raises(BufferFull, match='2 of 2'):
            backlog.put(2)
        gate.set()
        assert futures[0].result(timeout=5) == 0
        assert isinstance(futures[1].exception(timeout=5), ValueError)
        assert backlog.put(3).result(timeout=5) == 3

    def test_a_killed_task_leaves_no_future_waiting(self):
        backlog = Backlog(lambda: runtime.Event().wait())
        future = backlog.put()
        green.sleep(0)
        backlog._task.kill()
        assert isinstance(future.exception(timeout=5), runtime.TaskExit)
        assert len(backlog) == 0


class TestConsumer:
    def make(self, channel, *names, **options):
        return Consumer(channel, [Queue(name) for name in names], **options)

    def test_consume_waits_for_the_last_answer_only(self, channel):
        self.make(channel, 'a', 'b', 'c', tag_prefix='T').consume()
        calls = channel.of('basic_consume')
        assert [(call['queue'], call['nowait']) for call in calls] == [('a', True), ('b', True), ('c', False)]
        assert all(call['consumer_tag'].startswith('T') for call in calls)
        assert len({call['consumer_tag'] for call in calls}) == 3

    def test_consume_twice_changes_nothing(self, channel):
        consumer = self.make(channel, 'a')
        consumer.consume()
        consumer.consume()
        assert channel.names().count('basic_consume') == 1

    @pytest.mark.parametrize(
        'queue, consumer, call, expected',
        [
            (True, None, None, True),
            (True, False, None, False),
            (True, False, True, True),
            (False, None, None, False),
        ],
    )
    def test_no_ack(self, channel, queue, consumer, call, expected):
        Consumer(channel, Queue('q', no_ack=queue), no_ack=consumer).consume(no_ack=call)
        assert channel.of('basic_consume')[0]['no_ack'] is expected

    def test_a_failed_consume_does_not_count_as_consuming(self, channel):
        def fail(**kwargs):
            raise green.GreenletExit

        consumer = self.make(channel, 'a')
        channel.basic_consume = fail
        with pytest.raises(green.GreenletExit):
            consumer.consume()
        assert not consumer.consuming_from('a')
        del channel.basic_consume
        consumer.consume()
        assert consumer.consuming_from('a')

    def test_a_kill_in_cancel_leaves_the_rest_to_the_next_call(self, channel):
        consumer = self.make(channel, 'a', 'b')
        consumer.consume()

        def killed(tag):
            raise green.GreenletExit

        channel.basic_cancel = killed
        with pytest.raises(green.GreenletExit):
            consumer.cancel()
        del channel.basic_cancel
        consumer.cancel()
        consumer.cancel()
        assert channel.names().count('basic_cancel') == 2

    def test_revive_starts_anew_on_another_channel(self, channel):
        consumer = self.make(channel, 'a', prefetch_count=3)
        consumer.consume(no_ack=True)
        consumer.add_queue(Queue('b'))
        new = Recorder()
        consumer.revive(new)
        declared = ['prepare_queue_arguments', 'queue_declare']
        assert new.names() == [*declared, *declared, 'basic_qos', 'basic_consume']
        assert consumer.consuming_from('a') and not consumer.consuming_from('b')
        assert [call[2]['no_ack'] for call in new.calls if call[0] == 'basic_consume'] == [True]
        assert consumer.queues[0].channel is new
        consumer.cancel()
        third = Recorder()
        consumer.revive(third)
        assert 'basic_consume' not in third.names()

    def test_a_consume_that_failed_is_made_up_for_by_revive(self):
        class Broken(Recorder):
            def basic_consume(self, *args, **kwargs):
                raise OSError('lost')

        consumer = self.make(Broken(), 'a')
        with pytest.raises(OSError, match='lost'):
            consumer.consume()
        assert not consumer.consuming_from('a')
        consumer.revive(Recorder())
        assert consumer.consuming_from('a')

    def test_a_revive_that_fails_is_made_up_for_by_the_next(self, channel):
        class Broken(Recorder):
            def queue_declare(self, *args, **kwargs):
                raise OSError('lost again')

        consumer = self.make(channel, 'a')
        consumer.consume()
        with pytest.raises(OSError, match='lost again'):
            consumer.revive(Broken())
        assert not consumer.consuming_from('a')
        consumer.revive(Recorder())
        assert consumer.consuming_from('a')

    def test_revive_changes_nothing_where_the_channel_replays(self, channel):
        channel.connection.client.transport = type('Transport', (), {'keeps_channels': True})()
        consumer = self.make(channel, 'a')
        consumer.consume()
        before = len(channel.calls)
        consumer.revive(channel)
        consumer.consume()
        assert len(channel.calls) == before

    def test_leaving_the_block(self, channel):
        with self.make(channel, 'a'):
            pass
        assert channel.names()[-1] == 'basic_cancel'
        consumer = self.make(channel, 'a')
        before = channel.names().count('basic_cancel')
        with pytest.raises(OSError, match='lost'), consumer:
            raise OSError('lost')  # one of the connection's errors: there is nothing left to cancel
        assert channel.names().count('basic_cancel') == before

    def test_an_error_of_cancelling_does_not_hide_the_programs_own(self, channel):
        def fail(tag):
            raise KeyError('a channel error')

        channel.basic_cancel = fail
        with pytest.raises(ZeroDivisionError), self.make(channel, 'a'):
            raise ZeroDivisionError

    def test_receive_without_callbacks(self, channel):
        with pytest.raises(NotImplementedError, match='does not have any callbacks'):
            self.make(channel, 'a').receive('body', 'message')

    def test_register_callback_keeps_the_callers_tuple(self, channel):
        callbacks = (len,)
        consumer = self.make(channel, 'a', callbacks=callbacks)
        consumer.register_callback(print)
        assert (callbacks, consumer.callbacks) == ((len,), [len, print])

    def test_the_broker_names_a_nameless_queue(self, channel):
        consumer = self.make(channel, '')
        assert [queue.name for queue in consumer.queues] == ['made-up']
        consumer.consume()
        assert consumer.consuming_from('made-up')

    def test_repr(self, channel):
        assert repr(self.make(channel, 'a')).startswith('<Consumer: [<Queue a -> ')
