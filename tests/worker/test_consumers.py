"""Many consumers in one process, on memory and on RabbitMQ: who waits for whom, and what garbage costs."""
import itertools

import pytest

from greenmq import Connection, Exchange, Queue
from greenmq.mixins import ConsumerMixin
from tests.support import green
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.green_timeout(120)]


@pytest.fixture(params=['memory', 'amqp'])
def url(request):
    return 'memory://localhost/fleet' if request.param == 'memory' else request.getfixturevalue('amqp_url')


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

    def run(queues, concurrency=1, **options):
        fleet = Fleet(Connection(url, heartbeat=options.pop('heartbeat', None)), queues, **options)
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
    # Given heartbeats each second, and a callback that waits for far longer than two of them
    fleet = run([Queue('a'), Queue('b')], heartbeat=1)
    gate = fleet.gates['a'] = green.Event()
    publish('wait', routing_key='a')
    for number in range(100):
        publish(number, routing_key='b')
    wait_until(lambda: len(fleet.seen.get('b', ())) == 100, 10, 'the other consumer')
    if url.startswith('amqp'):
        green.sleep(4)  # the broker closes a connection that is silent for two intervals
    # Then it is still the same connection, and the message is acked on it
    gate.set()
    wait_until(lambda: fleet.seen.get('a') == ['wait'], 10, 'the callback')
    assert fleet.status()['connects'] == 1 and fleet.loop_connection.connected


def test_order_at_concurrency_one_and_fairness(run, publish):
    fleet = run([Queue('a'), Queue('b')])
    for number in range(500):
        publish(number, routing_key='a')
        publish(number, routing_key='b')
    wait_until(lambda: sum(map(len, fleet.seen.values())) == 1000, 30, 'all')
    assert fleet.seen == {'a': list(range(500)), 'b': list(range(500))}


def test_one_percent_garbage(run, publish):
    # Given a queue with a dead-letter place
    dead = Queue('dead', Exchange('dead', type='fanout'))
    jobs = Queue('jobs', queue_arguments={'x-dead-letter-exchange': 'dead'})
    fleet = run([jobs, Queue('other')], concurrency=10, accept=['json'])
    publish('x', exchange=dead.exchange, declare=[dead])
    # When one message in a hundred is of a kind that nobody can read
    garbage = itertools.cycle([
        {'body': b'{', 'content_type': 'application/json', 'content_encoding': 'utf-8'},
        {'body': b'"\xff\xfe"', 'content_type': 'application/json', 'content_encoding': 'utf-8'},
        {'body': b'?', 'content_type': 'application/x-nothing', 'content_encoding': 'binary'},
        {'body': b'\x80\x04N.', 'content_type': 'application/x-python-serialize',
         'content_encoding': 'binary'},
        {'body': b'no zlib', 'content_type': 'application/json', 'content_encoding': 'utf-8',
         'headers': {'compression': 'application/x-gzip'}},
    ])
    for number in range(1000):
        if number % 100 == 50:
            publish(**next(garbage), routing_key='jobs')
        else:
            publish(number, routing_key='jobs')
    wait_until(lambda: len(fleet.seen.get('jobs', ())) == 990, 30, 'the good ones')
    # Then the good ones came once each, the bad ones are all there, and nothing was started again
    assert sorted(fleet.seen['jobs']) == [number for number in range(1000) if number % 100 != 50]
    with Connection(fleet.connection.as_uri(include_password=True)) as connection:
        channel = connection.default_channel
        count = lambda: channel.queue_declare('dead', passive=True).message_count  # noqa: E731
        wait_until(lambda: count() == 11, 10, 'the bad ones')
    assert fleet.starts == 1
