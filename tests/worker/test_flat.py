"""A daemon's memory stays flat over 20,000 messages, with GREENMQ_SOAK over a million, on each broker."""
import gc
import os

import pytest

from greenmq import Connection, Queue
from greenmq.mixins import ConsumerMixin
from tests.support import green
from tests.support.process import wait_until

ROUNDS, MESSAGES = (50, 20_000) if os.environ.get('GREENMQ_SOAK') else (5, 4_000)
BATCH = 500
#: Objects, of which a leak of one in each hundredth message would make more.
SLACK = (ROUNDS - 2) * MESSAGES // 100
#: KiB of resident memory that a million messages may add: a quarter of a byte each.
GROWTH = 256 * ROUNDS * MESSAGES // 1_000_000 + 4096

pytestmark = pytest.mark.slow


class Worker(ConsumerMixin):

    concurrency = 10

    def __init__(self, connection):
        self.connection, self.seen, self.ready = connection, 0, green.Event()

    def get_consumers(self, Consumer, channel):
        return [Consumer([Queue('flat', durable=False)], callbacks=[self.on_message])]

    def on_consume_ready(self, connection, channel, consumers, **kwargs):
        self.ready.set()

    def on_message(self, body, message):
        self.seen += 1
        if body % 100 == 0:
            raise ValueError(body)
        message.ack()


@pytest.fixture(params=['memory', 'amqp', 'redis'])
def url(request):
    if request.param == 'memory':
        return 'memory://localhost/flat'
    return request.getfixturevalue(f'{request.param}_url')


def resident():
    with open('/proc/self/statm') as statm:
        return int(statm.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') // 1024


def test_objects_and_memory_do_not_grow(url, caplog):
    # One in a hundred fails, twice; or the log of the test would keep each failure.
    caplog.set_level('CRITICAL', 'greenmq.mixins')
    worker = Worker(Connection(url))
    task = green.spawn(worker.run)
    wait_until(worker.ready.is_set, 10, 'the consumer')
    counts = []
    expected = 0
    with Connection(url) as connection:
        producer = connection.Producer()
        for _ in range(ROUNDS):
            for start in range(0, MESSAGES, BATCH):
                sent = [producer.publish_nowait(number, routing_key='flat')
                        for number in range(start, start + BATCH)]
                for future in sent:
                    future.result(30)
                expected += BATCH + BATCH // 100
                wait_until(lambda: worker.seen == expected, 30, f'{expected} callbacks')  # noqa: B023
            gc.collect()
            counts.append((len(gc.get_objects()), resident()))
    worker.stop(5)
    task.join()
    # The first rounds fill caches.
    (objects, kib), (objects_then, kib_then) = counts[1], counts[-1]
    print(f'{expected} callbacks: {objects_then - objects:+} objects, {kib_then - kib:+} KiB')
    assert objects_then - objects < SLACK, counts
    assert kib_then - kib < GROWTH, counts
