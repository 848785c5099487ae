"""A daemon's memory stays flat: rounds by GREENMQ_SOAK, 20,000 messages each (50 rounds are a million)."""
import gc
import os

import pytest

from greenmq import Connection, Queue
from greenmq.mixins import ConsumerMixin
from tests.support import green

URL = 'memory://localhost/flat'
ROUNDS = int(os.environ.get('GREENMQ_SOAK', 0)) or 4
MESSAGES, BATCH = 20_000, 500

pytestmark = [pytest.mark.stress, pytest.mark.slow]


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


def test_objects_and_greenlets_do_not_grow(caplog):
    caplog.set_level('CRITICAL', 'greenmq.mixins')  # or each failure would be kept by the log of the test
    worker = Worker(Connection(URL))
    task = green.spawn(worker.run)
    worker.ready.wait()
    counts = []
    with Connection(URL) as connection:
        producer = connection.Producer()
        for _ in range(ROUNDS):
            for start in range(0, MESSAGES, BATCH):
                for number in range(start, start + BATCH):
                    producer.publish(number, routing_key='flat')
                until = worker.seen + 1
                while connection.default_channel.queue_declare('flat', passive=True).message_count:
                    green.sleep(0)
                assert worker.seen >= until - 1
            gc.collect()
            counts.append(len(gc.get_objects()))
    worker.stop(5)
    task.join()
    assert worker.seen >= ROUNDS * MESSAGES
    # The first round fills caches.
    assert counts[-1] - counts[1] < 500, counts
