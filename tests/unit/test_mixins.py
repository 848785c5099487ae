"""ConsumerMixin over memory://: the order of its hooks, what ends it and what does not."""
from contextlib import contextmanager

import pytest

from greenmq import Connection, Queue, events, runtime
from greenmq.consuming import runners
from greenmq.exceptions import ConnectionLost, OperationalError, TimeoutError
from greenmq.mixins import ConsumerMixin, ConsumerProducerMixin
from tests.support import green

QUEUE = Queue('work', routing_key='work')


def settle():
    for _ in range(20):
        green.sleep(0)


def lose(connection):
    """What a transport says when the other side is gone."""
    connection.transport.events.report(ConnectionLost('cut'))


class Worker(ConsumerMixin):
    """Notes what is called; `error` is raised by the callback once; a body 'stop' stops it."""

    error = None

    def __init__(self, connection):
        self.connection = connection
        self.log = []
        self.bodies = []
        self.ready = runtime.Event()

    def get_consumers(self, Consumer, channel):
        self.log.append('get_consumers')
        return [Consumer(queues=[QUEUE], callbacks=[self.on_task])]

    def on_task(self, body, message):
        self.log.append('task')
        self.bodies.append(body)
        message.ack()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self.should_stop = body == 'stop'

    def on_connection_revived(self):
        self.log.append('revived')

    def on_consume_ready(self, connection, channel, consumers, **kwargs):
        self.log.append(('ready', len(consumers), kwargs))
        self.loop_connection = connection
        self.ready.set()

    def on_consume_end(self, connection, channel):
        self.log.append('end')
        super().on_consume_end(connection, channel)

    def on_iteration(self):
        self.log.append('iteration')

    def on_connection_error(self, exc, interval):
        self.log.append('connection error')

    @contextmanager
    def extra_context(self, connection, channel):
        self.log.append('in')
        try:
            yield
        finally:
            self.log.append('out')


UNTIL_READY = ['revived', 'get_consumers', 'in', ('ready', 1, {})]


@pytest.fixture
def connection():
    with Connection('memory://localhost/test_mixins') as found:
        yield found


@pytest.fixture
def publish(connection):
    def send(*bodies, **kwargs):
        with connection.channel() as channel:
            for body in bodies:
                channel.Producer().publish(body, routing_key='work', declare=[QUEUE], **kwargs)
    return send


def left(connection):
    with connection.channel() as channel:
        return channel.queue_declare('work', passive=True).message_count


class TestOrder:

    def test_hooks_are_called_in_kombus_order(self, connection, publish, monkeypatch):
        monkeypatch.setattr(runners, 'SLICE', 60)  # or on a busy machine both tasks were not of one iteration
        publish('a', 'stop')
        worker = Worker(connection)
        worker.run()
        assert worker.log == [*UNTIL_READY, 'iteration', 'task', 'task', 'out', 'end']
        assert worker.bodies == ['a', 'stop'] and not worker.loop_connection.connected

    def test_the_connection_it_was_given_stays_unused(self, publish):
        publish('stop')
        given = Connection('memory://localhost/test_mixins')
        Worker(given).run()
        assert not given.connected

    def test_arguments_of_run_reach_on_consume_ready(self, connection, publish):
        publish('stop')
        worker = Worker(connection)
        worker.run(colour='green')
        assert ('ready', 1, {'colour': 'green'}) in worker.log

    def test_it_does_not_begin_when_it_should_stop(self, connection):
        worker = Worker(connection)
        worker.should_stop = True
        worker.run()
        assert worker.log == []

    def test_should_stop_may_be_a_property(self, connection, publish):
        class Counting(Worker):
            @property
            def should_stop(self):
                return len(self.bodies) >= 2

            @should_stop.setter
            def should_stop(self, value):
                pass

        publish('a', 'b', 'c')
        worker = Counting(connection)
        worker.run()
        assert worker.bodies == ['a', 'b'] and left(connection) == 1

    def test_several_consumers_and_one_callback(self, connection, publish):
        class Two(Worker):
            def get_consumers(self, Consumer, channel):
                other = channel.connection.client.channel()
                return (Consumer(queues=[QUEUE], callback=self.on_task),
                        Consumer(queues=[Queue('other', routing_key='other')], callback=[self.on_task]),
                        other.Consumer([Queue('third', routing_key='third')], callbacks=[self.on_task]))

        publish('stop')
        worker = Two(connection)
        worker.run()
        assert ('ready', 3, {}) in worker.log and worker.bodies == ['stop']

    def test_get_consumers_must_be_defined(self):
        with pytest.raises(NotImplementedError):
            ConsumerMixin().get_consumers(None, None)


class TestConsume:

    def test_a_limit(self, connection, publish):
        publish('a', 'b', 'c')
        worker = Worker(connection)
        assert list(worker.consume(limit=2)) == [None, None]
        assert worker.bodies == ['a', 'b'] and worker.log[-2:] == ['out', 'end']

    def test_idle_for_longer_than_the_timeout(self, connection, publish):
        publish('a')
        worker = Worker(connection)
        with pytest.raises(TimeoutError):
            list(worker.consume(timeout=0.01, safety_interval=60))
        assert worker.bodies == ['a'] and worker.log[-1] == 'out'

    def test_it_looks_at_should_stop_each_safety_interval_and_not_more_often(self, connection):
        worker = Worker(connection)
        waits = []

        class Recording:
            def drain_events(self, timeout):
                waits.append(timeout)
                if len(waits) == 3:
                    worker.should_stop = True
                raise TimeoutError

            def heartbeat_check(self):
                pass

        worker.consumer_context = contextmanager(lambda **kwargs: iter([(Recording(), None, [])]))
        assert list(worker.consume(safety_interval=0.5)) == []
        assert waits == [0.5, 0.5, 0.5]

    def test_a_message_wakes_it(self, connection, publish):
        worker = Worker(connection)
        task = green.spawn(worker.run, safety_interval=60)
        worker.ready.wait()
        publish('stop')
        task.get()
        assert worker.bodies == ['stop']

    def test_closing_the_generator_closes_all(self, connection, publish):
        publish('a', 'b')
        worker = Worker(connection)
        steps = worker.consume()
        next(steps)
        steps.close()
        assert worker.log[-1] == 'out' and not worker.loop_connection.connected

    def test_a_kill_closes_all(self, connection):
        worker = Worker(connection)
        task = green.spawn(worker.run)
        worker.ready.wait()
        task.kill()
        assert worker.log[-1] == 'out' and not worker.loop_connection.connected


class TestErrors:

    def test_a_lost_connection_is_opened_again(self, connection, publish):
        worker = Worker(connection)
        worker.restart_limit.fill_rate = 1000
        task = green.spawn(worker.run)
        worker.ready.wait()
        worker.ready.clear()
        lose(worker.loop_connection)
        worker.ready.wait()
        publish('a', 'stop')
        task.get()
        assert worker.bodies == ['a', 'stop']
        assert [entry for entry in worker.log if entry not in ('iteration', 'task')] == [
            *UNTIL_READY, 'out', *UNTIL_READY, 'out', 'end']

    def test_reconnects_are_limited_and_a_stop_is_heard_meanwhile(self, connection):
        worker = Worker(connection)
        worker.restart_limit.fill_rate = 0.001
        task = green.spawn(worker.run)
        worker.ready.wait()
        lose(worker.loop_connection)
        settle()
        assert worker.log[-1] == 'out' and not task.ready()
        worker.should_stop = True
        task.get(timeout=10)
        assert worker.log.count('revived') == 1

    def test_a_timeout_of_a_callback_is_not_taken_for_idleness(self, connection, publish):
        publish('a')
        worker = Worker(connection)
        worker.error = TimeoutError('the web server did not answer')
        with pytest.raises(TimeoutError, match='web server'):
            list(worker.consume())

    def test_a_broker_that_cannot_be_reached(self, connection):
        class Unreachable:
            def __init__(self):
                self.tries = []

            def __enter__(self):
                return self

            def __exit__(self, *exc_info):
                self.tries.append('closed')

            def ensure_connection(self, errback, max_retries):
                self.tries.append(max_retries)
                errback(OSError('refused'), 2.0)
                raise OperationalError('refused')

        worker = Worker(connection)
        worker.connect_max_retries = 3
        broken = Unreachable()
        worker.create_connection = lambda: broken
        with pytest.raises(OperationalError):
            worker.run()
        assert broken.tries == [3, 'closed'] and worker.log == ['connection error']

    def test_idle_for_longer_than_the_timeout_of_run(self, connection, publish):
        publish('a')
        worker = Worker(connection)
        with pytest.raises(TimeoutError, match='no message within 0.01'):
            worker.run(timeout=0.01, safety_interval=60)
        assert worker.bodies == ['a'] and worker.log[-1] == 'out'

    def test_an_undecodable_message_is_settled_and_stops_nobody(self, connection, publish):
        seen = []
        subscription = events.subscribe('decode_error', seen.append)
        publish(b'{not json', content_type='application/json', content_encoding='utf-8')
        publish('stop')
        worker = Worker(connection)
        worker.run()
        green.sleep(0)
        green.sleep(0)
        subscription.cancel()
        assert worker.bodies == ['stop'] and left(connection) == 0 and seen

    def test_errors_are_the_connections(self, connection):
        worker = Worker(connection)
        assert worker.connection_errors == connection.connection_errors
        assert worker.channel_errors == connection.channel_errors

        def lose():
            raise connection.connection_errors[0]('gone')

        worker.maybe_conn_error(lose)


class Answering(ConsumerProducerMixin, Worker):

    def on_task(self, body, message):
        self.producer.publish(body, routing_key='answers', declare=[Queue('answers', routing_key='answers')])
        self.published_on = self.producer_connection
        super().on_task(body, message)


class TestProducer:

    def test_it_publishes_on_a_connection_of_its_own(self, connection, publish):
        publish('a', 'stop')
        worker = Answering(connection)
        worker.run()
        assert worker.published_on not in (connection, worker.loop_connection)
        with connection.SimpleQueue(Queue('answers', routing_key='answers')) as answers:
            assert [answers.get(timeout=5).payload for _ in range(2)] == ['a', 'stop']

    def test_it_is_closed_however_run_ends(self, connection, publish):
        publish('a', 'stop')
        worker = Answering(connection)
        worker.error = SystemExit('a bug')
        with pytest.raises(SystemExit):
            worker.run()
        assert not worker.published_on.connected
        worker.run()
        assert not worker.published_on.connected and worker._producer_connection is None

    def test_callbacks_share_it(self, connection):
        worker = Answering(connection)
        tasks = [green.spawn(lambda: worker.producer_connection) for _ in range(5)]
        green.joinall(tasks, raise_error=True)
        assert len({id(task.value) for task in tasks}) == 1
        worker.on_consume_end(None, None)
        assert not tasks[0].value.connected
