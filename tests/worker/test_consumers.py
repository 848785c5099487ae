"""Many consumers in one process, on each broker: who waits for whom, and what garbage costs."""
import itertools
import os
import zlib
from urllib.parse import urlsplit

import pytest

from greenmq import Connection, Exchange, Queue, runtime
from greenmq.mixins import ConsumerMixin
from tests.support import green
from tests.support.process import wait_until
from tests.support.proxy import Proxy

#: Seconds of heartbeat, and seconds that a callback takes meanwhile: a broker closes a connection that was
#: silent for two heartbeats.
HEARTBEAT, BLOCKED = (2, 60) if os.environ.get('GREENMQ_SOAK') else (1, 4)
#: The default of `max_decoded_bytes`, and a byte.
TOO_MUCH = 64 * 1024 * 1024 + 1

pytestmark = [pytest.mark.slow, pytest.mark.green_timeout(120)]


@pytest.fixture(params=['memory', 'amqp', 'redis'])
def url(request):
    if request.param == 'memory':
        return 'memory://localhost/fleet'
    return request.getfixturevalue(f'{request.param}_url')


class Fleet(ConsumerMixin):
    """A consumer for each queue."""

    def __init__(self, connection, queues, **options):
        self.connection, self.queues, self.options = connection, queues, options
        self.ready, self.starts = green.Event(), 0
        self.seen = {}
        self.gates = {}

    def get_consumers(self, Consumer, channel):
        return [Consumer([queue], callbacks=[self.on_message], **self.options) for queue in self.queues]

    def on_consume_ready(self, connection, channel, consumers, **kwargs):
        self.starts += 1
        self.loop_connection = connection
        self.ready.set()

    def on_message(self, body, message):
        queue = message.delivery_info['routing_key']
        if body == 'wait':
            self.gates[queue].wait()
        self.seen.setdefault(queue, []).append(body)
        message.ack()


@pytest.fixture
def run(url):
    started = []

    def run(queues, concurrency=1, fleet=Fleet, **options):
        fleet = fleet(Connection(url, heartbeat=options.pop('heartbeat', None)), queues, **options)
        fleet.concurrency = concurrency
        started.append((fleet, green.spawn(fleet.run)))
        wait_until(lambda: fleet.ready.is_set() or started[-1][1].ready(), 60, 'the consumers')
        assert fleet.ready.is_set()
        return fleet

    yield run
    for fleet, task in started:
        fleet.stop(0)
        task.join()


@pytest.fixture
def publish(url):
    with Connection(url) as connection:
        yield connection.Producer().publish


def test_a_thousand_consumers_on_one_connection(run, publish):
    queues = [Queue(f'q{number}', durable=False) for number in range(1000)]
    fleet = run(queues, prefetch_count=10)
    for queue in queues:
        publish(1, routing_key=queue.name)
    wait_until(lambda: len(fleet.seen) == 1000, 60, 'all consumers to have had one')
    lanes = fleet.status()['consumers']
    assert len(lanes) == 1000 and all(lane['consuming'] for lane in lanes)


def test_a_blocked_consumer_delays_neither_others_nor_the_heartbeat(run, publish, url):
    # Given a callback that waits for far longer than two heartbeats
    fleet = run([Queue('a'), Queue('b')], heartbeat=HEARTBEAT)
    gate = fleet.gates['a'] = green.Event()
    publish('wait', routing_key='a')
    for number in range(100):
        publish(number, routing_key='b')
    wait_until(lambda: len(fleet.seen.get('b', ())) == 100, 10, 'the other consumer')
    if not url.startswith('memory'):
        green.sleep(BLOCKED)  # nothing but time brings the heartbeats and the leases to their ends
    publish('after', routing_key='b')
    wait_until(lambda: fleet.seen['b'][-1] == 'after', 10, 'the other consumer')
    # Then it is still the same connection, and the message is acked on it, once
    gate.set()
    wait_until(lambda: fleet.seen.get('a') == ['wait'], 10, 'the callback')
    assert fleet.status()['connects'] == 1 and fleet.loop_connection.connected
    assert fleet.status()['consumers'][0]['outcomes'] == {'acked': 1}


def test_order_at_concurrency_one(run, publish):
    fleet = run([Queue('a'), Queue('b')])
    for number in range(500):
        publish(number, routing_key='a')
        publish(number, routing_key='b')
    wait_until(lambda: sum(map(len, fleet.seen.values())) == 1000, 30, 'all')
    assert fleet.seen == {'a': list(range(500)), 'b': list(range(500))}


@pytest.mark.parametrize('concurrency', [1, 4])
def test_consumers_that_always_find_messages_take_turns(run, publish, concurrency):
    # Given much work for two consumers, whose callbacks never let others run
    queues = [Queue('a'), Queue('b')]
    publish(0, routing_key='c', declare=[*queues, Queue('c')])
    for number in range(400):
        for queue in queues:
            publish(number, routing_key=queue.name)
    order = []

    class Busy(Fleet):
        def on_message(self, body, message):
            until = runtime.monotonic() + 0.001
            while runtime.monotonic() < until:
                pass
            order.append(message.delivery_info['routing_key'])
            message.ack()

    run(queues, fleet=Busy, prefetch_count=50, concurrency=concurrency)
    wait_until(lambda: len(order) == 800, 30, 'all')
    # Then neither is ever further ahead than four of the eight windows: its own, and what is sent while
    # the other's broker waits for a processor
    ahead = list(itertools.accumulate(1 if key == 'a' else -1 for key in order))
    assert max(map(abs, ahead)) <= 200, ahead


def test_one_percent_garbage(run, publish, caplog):
    # Given a queue with a dead-letter place
    dead = Queue('dead', Exchange('dead', type='direct'), routing_key='jobs')
    jobs = Queue('jobs', queue_arguments={'x-dead-letter-exchange': 'dead'})
    fleet = run([jobs, Queue('other')], concurrency=10, accept=['json'])
    with Connection(fleet.connection.as_uri(include_password=True)) as connection:
        dead(connection).declare()
    # When one message in a hundred is of a kind that nobody can read
    text = {'content_type': 'application/json', 'content_encoding': 'utf-8'}
    gzip = {**text, 'headers': {'compression': 'application/x-gzip'}}
    garbage = itertools.cycle([
        {'body': b'{', **text},
        {'body': b'"\xff\xfe"', **text},
        {'body': b'?', 'content_type': 'application/x-nothing', 'content_encoding': 'binary'},
        {'body': b'\x80\x04N.', 'content_type': 'application/x-python-serialize',
         'content_encoding': 'binary'},
        {'body': b'no zlib', **gzip},
        {'body': zlib.compress(b' ' * TOO_MUCH), **gzip},
    ])
    for number in range(1200):
        if number % 100 == 50:
            publish(**next(garbage), routing_key='jobs')
        else:
            publish(number, routing_key='jobs')
    wait_until(lambda: len(fleet.seen.get('jobs', ())) == 1188, 30, 'the good ones')
    # Then the good ones came once each, the bad ones are all there, and nothing was started again
    assert sorted(fleet.seen['jobs']) == [number for number in range(1200) if number % 100 != 50]
    with Connection(fleet.connection.as_uri(include_password=True)) as connection:
        channel = connection.default_channel
        count = lambda: channel.queue_declare('dead', passive=True).message_count  # noqa: E731
        wait_until(lambda: count() == 12, 10, 'the bad ones')
    assert fleet.starts == 1 and caplog.text.count('max_decoded_bytes') >= 2


def test_a_connection_that_is_cut_during_the_drain_delays_no_end_and_loses_nothing(broker_url):
    # Given three callbacks under way, five messages behind them, and a worker that was told to stop
    parts = urlsplit(broker_url)
    with Connection(broker_url) as connection, Proxy(parts.port) as proxy:
        for body in ['wait'] * 3 + [0, 1, 2, 3, 4]:
            connection.Producer().publish(body, routing_key='drain', declare=[Queue('drain')])
        place = parts.netloc.replace(f':{parts.port}', f':{proxy.port}')
        fleet = Fleet(Connection(parts._replace(netloc=place).geturl()), [Queue('drain')], prefetch_count=3)
        fleet.concurrency, fleet.gates['drain'] = 3, green.Event()
        running = green.spawn(fleet.run)
        fleet.ready.wait()
        wait_until(lambda: fleet.status()['consumers'][0]['busy'] == 3, 30, 'callbacks')
        fleet.stop(20)
        green.sleep(0.05)
        assert fleet.status()['state'] == 'ending'
        # When the connection is lost, and the callbacks end after that
        proxy.cut()
        green.sleep(0.05)
        fleet.gates['drain'].set()
        with green.Timeout(10):
            running.get()
        # Then what it has not settled comes to others, in its order
        left = []
        with connection.SimpleQueue('drain') as queue, green.Timeout(20):
            while not {0, 1, 2, 3, 4} <= set(left):
                message = queue.get(timeout=20)
                left.append(message.payload)
                message.ack()
        assert fleet.seen['drain'] == ['wait'] * 3
        assert left == ['wait'] * left.count('wait') + [0, 1, 2, 3, 4]
