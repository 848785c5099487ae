"""ConsumerMixin.run: a greenlet for each consumer, what holds up whom, and what a callback's error costs."""
import contextvars
from contextlib import contextmanager

import pytest

from greenmq import Connection, Exchange, Queue, runtime
from greenmq.exceptions import ConnectionLost
from greenmq.mixins import ConsumerMixin, ConsumerProducerMixin
from tests.support import green
from tests.support.process import wait_until

URL = 'memory://localhost/test_greenlets'
A, B = Queue('a', routing_key='a'), Queue('b', routing_key='b')
asked_for = contextvars.ContextVar('asked_for', default=None)


def settle():
    for _ in range(30):
        green.sleep(0)


@pytest.fixture
def connection():
    with Connection(URL) as found:
        yield found


@pytest.fixture
def publish(connection):
    def send(queue, *bodies, **kwargs):
        with connection.channel() as channel:
            for body in bodies:
                channel.Producer().publish(body, routing_key=queue.name, declare=[queue], **kwargs)
    return send


@pytest.fixture
def running():
    """Start workers; they are stopped at the end."""
    started = []

    def start(worker, **kwargs):
        task = green.spawn(worker.run, **kwargs)
        started.append((worker, task))
        worker.ready.wait()
        return task

    yield start
    for worker, task in started:
        worker.stop(0)
        task.join()


def left(connection, name):
    with connection.channel() as channel:
        return channel.queue_declare(name, passive=True).message_count


class Worker(ConsumerMixin):
    """Notes what comes; a body that is the name of a gate waits for it."""

    def __init__(self, connection, queues=(A, B), **consumer_options):
        self.connection = connection
        self.queues, self.options = queues, consumer_options
        self.ready = green.Event()
        self.begun, self.bodies = [], []
        self.gates = {}
        self.errors = {}
        self.at_once = self.most = 0

    def get_consumers(self, Consumer, channel):
        self.consumers = [Consumer(queues=[queue], callbacks=[self.on_task], **self.options)
                          for queue in self.queues]
        return self.consumers

    def on_consume_ready(self, connection, channel, consumers, **kwargs):
        self.loop_connection, self.channel = connection, channel
        self.ready.set()

    def on_task(self, body, message):
        self.begun.append(body)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            if body in self.gates:
                self.gates[body].wait()
            if body in self.errors:
                raise self.errors[body]
        finally:
            self.at_once -= 1
        self.bodies.append(body)
        message.ack()


class Unreachable(Worker):
    """Its connection is never open, after the first few times."""

    def __init__(self, connection, after=0):
        super().__init__(connection)
        self.connecting, self.after, self.gave_up = green.Event(), after, 0

    def create_connection(self):
        clone = super().create_connection()
        self.after -= 1
        if self.after < 0:
            clone.ensure_connection = self.wait
        return clone

    def wait(self, errback, max_retries):
        self.connecting.set()
        try:
            green.Event().wait()
        finally:
            self.gave_up += 1


class TestGreenlets:

    def test_each_consumer_has_a_channel_of_its_own_and_the_first_the_one_given(self, connection, running):
        worker = Worker(connection, queues=[A, B, Queue('c')])
        running(worker)
        channels = [consumer.channel for consumer in worker.consumers]
        assert channels[0] is worker.channel and len(set(channels)) == 3

    def test_the_channel_s_prefetch_is_set_on_all(self, connection, running):
        class Limited(Worker):
            def get_consumers(self, Consumer, channel):
                channel.basic_qos(0, 7, False)
                return [*super().get_consumers(Consumer, channel),
                        Consumer([Queue('c')], callbacks=[self.on_task], prefetch_count=3)]

        worker = Limited(connection)
        running(worker)
        lanes = worker.status()['consumers']
        assert [lane['prefetch'] for lane in lanes] == [7, 7, 3]

    def test_a_blocked_consumer_holds_up_no_other(self, connection, publish, running):
        worker = Worker(connection)
        gate = worker.gates['long'] = green.Event()
        running(worker)
        publish(A, 'long', 'after')
        publish(B, 1, 2, 3)
        settle()
        assert worker.bodies == [1, 2, 3] and worker.begun == ['long', 1, 2, 3]
        gate.set()
        settle()
        assert worker.bodies == [1, 2, 3, 'long', 'after']

    def test_order_is_kept_and_one_runs_at_a_time(self, connection, publish, running):
        class Sleeping(Worker):
            def on_task(self, body, message):
                with self.alone():
                    green.sleep(0)
                    super().on_task(body, message)

            @contextmanager
            def alone(self):
                assert not self.at_once
                yield

        worker = Sleeping(connection, queues=[A])
        running(worker)
        publish(A, *range(50))
        while len(worker.bodies) < 50:
            green.sleep(0)
        assert worker.bodies == list(range(50)) and worker.most == 1

    def test_a_consumer_that_always_finds_messages_lets_others_run(self, connection, publish, running):
        publish(A, *range(300))
        worker = Worker(connection)
        seen_at = []

        def on_b(body, message):
            seen_at.append(len(worker.bodies))
            message.ack()

        class Busy(Worker):
            def get_consumers(self, Consumer, channel):
                return [Consumer([A], callbacks=[self.slow]), Consumer([B], callbacks=[on_b])]

            def slow(self, body, message):
                until = runtime.monotonic() + 0.001
                while runtime.monotonic() < until:
                    pass
                worker.bodies.append(body)
                message.ack()

        busy = Busy(connection)
        publish(B, *range(20))
        running(busy)
        while len(worker.bodies) < 300:
            green.sleep(0)
        assert len(seen_at) == 20 and seen_at[-1] < 100

    def test_hand_built_consumers_of_one_channel_share_a_greenlet(self, connection, publish, running):
        class Shared(Worker):
            def get_consumers(self, Consumer, channel):
                other = channel.connection.client.channel()
                return [other.Consumer([queue], callbacks=[self.on_task]) for queue in (A, B)]

        worker = Shared(connection)
        gate = worker.gates['long'] = green.Event()
        running(worker)
        assert [lane['queues'] for lane in worker.status()['consumers']] == [['a', 'b']]
        publish(A, 'long')
        publish(B, 1)
        settle()
        assert worker.begun == ['long']
        gate.set()
        settle()
        assert worker.bodies == ['long', 1]

    def test_contextvars_of_extra_context_reach_the_callbacks(self, connection, publish, running):
        class Contextual(Worker):
            @contextmanager
            def extra_context(self, connection, channel):
                token = asked_for.set('inside')
                yield
                asked_for.reset(token)

            def on_task(self, body, message):
                super().on_task(asked_for.get(), message)
                asked_for.set(body)

        worker = Contextual(connection)
        worker.concurrency = 2
        running(worker)
        publish(A, 1, 2)
        publish(B, 1)
        settle()
        assert worker.bodies == ['inside'] * 3

    def test_on_iteration_comes_after_messages(self, connection, publish, running):
        class Iterating(Worker):
            rounds = 0

            def on_iteration(self):
                self.rounds += 1

        worker = Iterating(connection)
        running(worker, safety_interval=60)
        settle()
        before = worker.rounds
        publish(A, 1)
        settle()
        assert worker.rounds > before

    @pytest.mark.parametrize('name', ['consume', 'Consumer', 'consumer_context'])
    def test_a_part_of_the_loop_overridden_is_kombus_single_loop(self, connection, publish, running, name):
        def same(self, *args, **kwargs):
            return getattr(ConsumerMixin, name)(self, *args, **kwargs)

        worker = type('Own', (Worker,), {name: same})(connection)
        gate = worker.gates['long'] = green.Event()
        running(worker)
        publish(A, 'long')
        publish(B, 1)
        settle()
        assert worker.begun == ['long']
        [lane] = worker.status()['consumers']  # and it is shown as one
        assert lane['queues'] == ['a', 'b'] and lane['consuming'] and lane['busy'] == 1
        assert worker.status()['state'] == 'consuming' and worker.ping() >= 0
        gate.set()
        settle()
        assert worker.bodies == ['long', 1]


class TestConcurrency:

    def test_so_many_run_at_once_and_the_prefetch_follows(self, connection, publish, running):
        class Wide(Worker):
            concurrency = 5

        worker = Wide(connection, queues=[A])
        gate = worker.gates['x'] = green.Event()
        running(worker)
        publish(A, *['x'] * 12)
        settle()
        assert worker.at_once == 5
        assert worker.status()['consumers'][0]['prefetch'] == 10
        gate.set()
        settle()
        assert len(worker.bodies) == 12 and worker.most == 5

    @pytest.mark.parametrize('given, expected', [(2, 5), (30, 30)])
    def test_a_prefetch_that_was_set_is_at_least_the_concurrency(self, connection, running, given, expected):
        worker = Worker(connection, queues=[A], prefetch_count=given)
        worker.concurrency = 5
        running(worker)
        assert worker.status()['consumers'][0]['prefetch'] == expected

    def test_an_error_frees_its_place(self, connection, publish, running):
        worker = Worker(connection, queues=[A])
        worker.concurrency = 2
        worker.errors['bad'] = ValueError('bad')
        running(worker)
        publish(A, 'bad', 'bad', 'bad', 1, 2, 3)
        settle()
        assert sorted(worker.bodies) == [1, 2, 3] and left(connection, 'a') == 0


class TestErrors:

    def test_a_message_is_requeued_once_then_rejected(self, connection, publish, running, caplog):
        dead = Queue('dead', Exchange('dead', type='fanout'))
        queue = Queue('a', routing_key='a', queue_arguments={'x-dead-letter-exchange': 'dead'})
        worker = Worker(connection, queues=[queue])
        worker.errors['bad'] = ValueError('a bug')
        dead(connection).declare()
        running(worker)
        publish(queue, 'bad', 'good', message_id='m-1')
        settle()
        assert worker.begun.count('bad') == 2 and worker.bodies == ['good']
        assert left(connection, 'dead') == 1 and left(connection, 'a') == 0
        assert 'a bug' in caplog.text and 'message_id=m-1' in caplog.text and 'requeued' in caplog.text
        assert worker.status()['consumers'][0]['failed'] == 2

    def test_a_settled_message_is_left_alone(self, connection, publish, running):
        class Late(Worker):
            def on_task(self, body, message):
                self.begun.append(body)
                message.ack()
                raise ValueError('after the ack')

        worker = Late(connection, queues=[A])
        running(worker)
        publish(A, 1, 2)
        settle()
        assert worker.begun == [1, 2] and left(connection, 'a') == 0

    def test_the_policy_is_a_method(self, connection, publish, running):
        class Own(Worker):
            def on_callback_error(self, message, exc):
                self.bodies.append(str(exc))
                message.ack()
                raise RuntimeError('and the policy fails as well')

        worker = Own(connection, queues=[A])
        worker.errors[1] = ValueError('mine')
        running(worker)
        publish(A, 1, 2)
        settle()
        assert worker.bodies == ['mine', 2]

    @pytest.mark.parametrize('concurrency', [1, 3])
    def test_what_is_no_exception_ends_run(self, connection, publish, concurrency):
        worker = Worker(connection)
        worker.concurrency = concurrency
        worker.errors['end'] = KeyboardInterrupt('end')
        publish(A, 'end')
        with pytest.raises(KeyboardInterrupt):
            worker.run()
        assert not worker.loop_connection.connected and left(connection, 'a') == 1

    @pytest.mark.parametrize('error', [runtime.TaskExit('a kill'), KeyboardInterrupt('^C')])
    def test_and_that_is_said(self, connection, publish, caplog, error):
        # A greenlet that ends by GreenletExit is not reported by anybody else.
        worker = Worker(connection, queues=[A])
        worker.errors['end'] = error
        publish(A, 'end', message_id='m-1')
        with pytest.raises(type(error)):
            worker.run()
        assert 'message_id=m-1' in caplog.text and 'which is no Exception: that ends run()' in caplog.text
        assert left(connection, 'a') == 1

    @pytest.mark.parametrize('concurrency', [1, 3])
    def test_a_callback_that_closes_the_channel_makes_no_consumer_deaf(
            self, connection, publish, running, concurrency):
        class Closing(Worker):
            def on_task(self, body, message):
                super().on_task(body, message)
                if body == 'close':
                    message.channel.close()

        worker = Closing(connection, queues=[A])
        worker.concurrency = concurrency
        worker.restart_limit.fill_rate = 1000
        running(worker)
        publish(A, 'close')
        wait_until(lambda: worker.status()['connects'] == 2 and worker.status()['state'] == 'consuming', 10,
                   'another connection')
        publish(A, 1)
        wait_until(lambda: worker.bodies == ['close', 1], 10, 'the message after')

    def test_a_message_settled_twice_costs_a_line_in_the_log(self, connection, publish, running, caplog):
        class Eager(Worker):
            def on_task(self, body, message):
                super().on_task(body, message)
                message.ack()

        worker = Eager(connection, queues=[A])
        running(worker)
        publish(A, 1, 2)
        settle()
        assert worker.bodies == [1, 2] and left(connection, 'a') == 0
        assert caplog.text.count('it stays as it is') == 2

    def test_a_message_may_be_settled_by_another_greenlet_later(self, connection, publish, running):
        class Spawning(Worker):
            def on_task(self, body, message):
                self.bodies.append(body)
                green.spawn(self.later, message)

            def later(self, message):
                green.sleep(0)
                message.ack()

        worker = Spawning(connection, queues=[A], prefetch_count=1)
        running(worker)
        publish(A, 1, 2, 3)
        settle()
        assert worker.bodies == [1, 2, 3] and left(connection, 'a') == 0
        assert worker.status()['consumers'][0]['outcomes'] == {'open': 3}

    def test_a_kill_of_run_kills_the_callbacks(self, connection, publish):
        worker = Worker(connection)
        worker.gates['x'] = green.Event()
        task = green.spawn(worker.run)
        worker.ready.wait()
        publish(A, 'x')
        settle()
        task.kill()
        assert worker.at_once == 0 and left(connection, 'a') == 1

    def test_callbacks_of_a_lost_connection_go_on_and_their_queue_waits(self, connection, publish, running):
        worker = Worker(connection)
        worker.restart_limit.fill_rate = 1000
        gate = worker.gates['long'] = green.Event()
        running(worker)
        publish(A, 'long')
        settle()
        worker.ready.clear()
        worker.loop_connection.transport.events.report(ConnectionLost('cut'))
        worker.ready.wait()
        publish(B, 1)
        settle()
        assert worker.begun == ['long', 1]  # the message came back, but the first run of it is not over
        assert [lane['state'] for lane in worker.status()['consumers']] == ['waiting', 'consuming']
        del worker.gates['long']
        gate.set()
        settle()
        assert worker.begun == ['long', 1, 'long'] and left(connection, 'a') == 0


class TestStop:

    @pytest.mark.parametrize('concurrency', [1, 3])
    def test_a_callback_may_stop_its_worker(self, connection, publish, concurrency):
        class Last(Worker):
            def on_task(self, body, message):
                self.stop(60)
                green.sleep(0)  # and goes on
                super().on_task(body, message)

        worker = Last(connection, queues=[A])
        worker.concurrency = concurrency
        publish(A, 1)
        worker.run()
        assert worker.bodies == [1] and left(connection, 'a') == 0

    def test_another_thread_may_stop_it(self, connection, running):
        worker = Worker(connection)
        task = running(worker, safety_interval=600)
        runtime.offload(worker.stop)
        task.get(timeout=10)

    def test_should_stop_is_noticed_at_once(self, connection, running):
        worker = Worker(connection)
        task = running(worker, safety_interval=600)
        worker.should_stop = True
        task.get(timeout=10)

    def test_also_where_the_class_says_it_again(self, connection, running):
        class Again(Worker):
            should_stop = False

        worker = Again(connection)
        task = running(worker, safety_interval=600)
        assert Again.should_stop is False and worker.should_stop is False
        worker.should_stop = True
        task.get(timeout=10)

    def test_what_is_in_hand_is_finished_and_the_rest_goes_back_once(self, connection, publish, running):
        worker = Worker(connection, queues=[A], prefetch_count=10)
        worker.concurrency = 2
        gate = worker.gates['x'] = green.Event()
        task = running(worker)
        publish(A, 'x', 'x', 1, 2, 3)
        settle()
        worker.stop(60)
        settle()
        assert left(connection, 'a') == 3 and not task.ready()
        assert worker.status()['state'] == 'ending'
        gate.set()
        task.get()
        assert worker.bodies == ['x', 'x'] and left(connection, 'a') == 3

    def test_what_takes_longer_is_ended_and_delivered_again(self, connection, publish, running):
        worker = Worker(connection)
        worker.gates['x'] = green.Event()
        task = running(worker)
        publish(A, 'x')
        publish(B, 1)
        settle()
        worker.stop(0.01)
        task.get(timeout=10)
        assert worker.status()['overdue'] == 1
        assert worker.bodies == [1] and worker.at_once == 0 and left(connection, 'a') == 1

    def test_a_second_stop_shortens_the_first(self, connection, publish, running):
        worker = Worker(connection)
        worker.gates['x'] = green.Event()
        task = running(worker)
        publish(A, 'x')
        settle()
        worker.should_stop = True
        settle()
        assert not task.ready()
        worker.stop(0)
        task.get(timeout=10)
        assert left(connection, 'a') == 1

    def test_a_stop_ends_it_while_it_connects(self, connection):
        worker = Unreachable(connection)
        task = green.spawn(worker.run)
        worker.connecting.wait()
        assert worker.status()['state'] == 'connecting'
        worker.stop(600)
        task.get(timeout=10)
        assert not worker.ready.is_set() and worker.gave_up == 1

    def test_an_error_of_connecting_comes_out_of_run(self, connection):
        class Impatient(Worker):
            def create_connection(self):
                clone = super().create_connection()
                clone.ensure_connection = self.refuse
                return clone

            def refuse(self, errback, max_retries):
                raise SystemExit('enough')

        with pytest.raises(SystemExit, match='enough'):
            Impatient(connection).run()

    @pytest.mark.parametrize('seconds, overdue', [(600, 0), (0, 1)])
    def test_callbacks_of_a_lost_connection_are_waited_for_while_it_connects(
            self, connection, publish, seconds, overdue):
        # Given a callback that outlives its connection, which does not come back
        worker = Unreachable(connection, after=1)
        worker.restart_limit.fill_rate = 1000
        gate = worker.gates['long'] = green.Event()
        task = green.spawn(worker.run)
        worker.ready.wait()
        publish(A, 'long')
        settle()
        worker.loop_connection.transport.events.report(ConnectionLost('cut'))
        worker.connecting.wait()
        # When it is told to end
        worker.stop(seconds)
        settle()
        assert task.ready() == bool(overdue)
        # Then the callback has its time
        gate.set()
        task.get(timeout=10)
        assert worker.bodies == ([] if overdue else ['long'])
        assert worker.status()['overdue'] == overdue and worker.at_once == 0

    def test_a_stop_before_run_keeps_it_from_beginning(self, connection):
        worker = Worker(connection)
        worker.stop()
        worker.run()
        assert not worker.ready.is_set()

    def test_the_producer_works_until_the_callbacks_are_done(self, connection, publish, running):
        class Answering(ConsumerProducerMixin, Worker):
            def on_task(self, body, message):
                self.gates['x'].wait()
                answers = Queue('answers', routing_key='answers')
                self.producer.publish('answer', routing_key='answers', declare=[answers])
                message.ack()

        worker = Answering(connection)
        gate = worker.gates['x'] = green.Event()
        task = running(worker)
        publish(A, 'x')
        settle()
        worker.stop(60)
        settle()
        gate.set()
        task.get()
        assert left(connection, 'answers') == 1 and left(connection, 'a') == 0


def test_status_of_a_worker_that_consumes(connection, publish, running):
    worker = Worker(connection)
    assert worker.status() == {
        'state': 'idle', 'connection': None, 'connects': 0, 'overdue': 0, 'error': None,
        'next_try': None, 'consumers': []}
    running(worker)
    publish(A, 1)
    settle()
    status = worker.status()
    assert status['state'] == 'consuming'
    lane = status['consumers'][0]
    assert lane['consuming'] and lane['outcomes'] == {'acked': 1} and sum(lane['durations']) == 1
    worker.consumers[0].cancel()
    assert not worker.status()['consumers'][0]['consuming']
