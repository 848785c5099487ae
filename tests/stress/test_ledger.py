"""Publishers and consumers under random kills: every message is acknowledged, and none twice."""
from __future__ import annotations

import collections
import random

import gevent
import gevent.event
import pytest

from greenmq import Connection, Consumer, Exchange, Queue
from tests.stress import FACTOR

pytestmark = [pytest.mark.slow, pytest.mark.stress]

URL = 'memory://localhost/ledger'
PUBLISHERS, CONSUMERS, MESSAGES = 20, 10, 200 * FACTOR


class Books:
    """What was told to be safe, and what was acknowledged."""

    def __init__(self):
        self.safe = set()
        self.tried = set()
        self.acked = collections.Counter()

    def check(self):
        lost = self.safe - set(self.acked)
        twice = {number for number, count in self.acked.items() if count > 1}
        strange = set(self.acked) - self.tried
        assert not lost and not twice, f'lost {lost}, acked twice {twice}'
        assert not strange, f'never sent {strange}'


class Storm:
    def __init__(self, seed, shared):
        self.random = random.Random(seed)
        self.books = Books()
        self.shared = Connection(URL) if shared else None
        self.queue = Queue('ledger', Exchange('ledger', durable=False), routing_key='ledger', durable=False)
        self.published = gevent.event.Event()

    def connection(self):
        return self.shared or Connection(URL)

    def done_with(self, connection):
        if connection is not self.shared:
            connection.close()

    def publish(self, numbers):
        connection = self.connection()
        try:
            producer = connection.Producer(connection.channel())
            while numbers:
                number = numbers.pop()
                self.books.tried.add(number)
                producer.publish({'id': number}, exchange=self.queue.exchange, routing_key='ledger',
                                 declare=[self.queue])
                self.books.safe.add(number)
                gevent.sleep(0)
        finally:
            self.done_with(connection)

    def on_message(self, body, message):
        if self.random.random() < 0.1:
            message.requeue()
            return
        try:
            gevent.sleep(0)
        except BaseException:
            # The channel may be a neighbour's, who lives on and does not know of it.
            message.requeue()
            raise
        # False: its channel was closed while we worked, and the broker delivers it again (P36).
        if message.ack() is not False:
            self.books.acked[body['id']] += 1  # no switch since the ack

    def consume(self):
        connection = self.connection()
        channel = None
        try:
            channel = connection.channel()
            with Consumer(channel, [self.queue], callbacks=[self.on_message], prefetch_count=5):
                while not self.finished():
                    try:
                        connection.drain_events(timeout=0.05)
                    except TimeoutError:
                        continue
        finally:
            if channel is not None:
                channel.close()
            self.done_with(connection)

    def finished(self):
        return self.published.is_set() and self.books.safe <= set(self.books.acked)

    def run(self):
        work = [list(range(start, start + MESSAGES)) for start in range(0, PUBLISHERS * MESSAGES, MESSAGES)]
        alive = {gevent.spawn(self.publish, numbers): ('publish', numbers) for numbers in work}
        alive |= {gevent.spawn(self.consume): ('consume', None) for _ in range(CONSUMERS)}
        kills = 50 * FACTOR
        while alive:
            gevent.sleep(self.random.random() / 200)
            if kills and (victim := self.random.choice(list(alive))):
                kills -= 1
                if self.random.random() < 0.5:
                    victim.kill(block=False)
                else:
                    gevent.get_hub().loop.run_callback(self.time_out, victim)
            for glet in [glet for glet in alive if glet.ready()]:
                kind, numbers = alive.pop(glet)
                if kind == 'publish' and numbers:
                    alive[gevent.spawn(self.publish, numbers)] = (kind, numbers)
                elif kind == 'consume' and not self.finished():
                    alive[gevent.spawn(self.consume)] = (kind, None)
            if not any(kind == 'publish' for kind, _ in alive.values()):
                self.published.set()
        if self.shared is not None:
            self.shared.close()

    @staticmethod
    def time_out(victim):
        if not victim.ready() and victim.started:
            victim.throw(gevent.Timeout())


@pytest.mark.parametrize('shared', [True, False], ids=['one connection', 'a connection each'])
@pytest.mark.parametrize('seed', range(3))
def test_nothing_is_lost_and_nothing_doubled(shared, seed, hub_errors):
    storm = Storm(seed, shared)
    storm.run()
    if hub_errors:
        hub_errors.take(gevent.Timeout)  # the timeouts of the storm itself end their greenlets
    storm.books.check()
    assert len(storm.books.safe) > PUBLISHERS * MESSAGES * 0.9
