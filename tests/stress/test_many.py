"""A thousand greenlets on one connection (P1, in memory)."""
from __future__ import annotations

import gevent
import pytest

from greenmq import Connection, Consumer, Exchange, Queue
from tests.stress import FACTOR

pytestmark = [pytest.mark.slow]

URL = 'memory://localhost/many'
GREENLETS, EACH = 1000, 5 * FACTOR


def test_a_thousand_greenlets_publish_and_consume_on_one_connection():
    queue = Queue('many', Exchange('many', durable=False), routing_key='many', durable=False)
    seen = []

    def on_message(body, message):
        message.ack()
        seen.append((body['who'], body['n']))

    with Connection(URL) as connection:
        producer = connection.Producer()
        total = GREENLETS * EACH

        def publish(who):
            for n in range(EACH):
                producer.publish({'who': who, 'n': n}, exchange=queue.exchange, routing_key='many',
                                 declare=[queue])
                gevent.sleep(0)

        def consume():
            while len(seen) < total:
                connection.drain_events(timeout=10)

        with Consumer(connection, [queue], callbacks=[on_message]):
            consumers = [gevent.spawn(consume) for _ in range(10)]
            gevent.joinall([gevent.spawn(publish, who) for who in range(GREENLETS)], raise_error=True)
            gevent.joinall(consumers, raise_error=True)
    assert len(seen) == len(set(seen)) == total
    # One publisher's messages keep their order.
    for who in (0, GREENLETS - 1):
        assert [n for sender, n in seen if sender == who] == list(range(EACH))


def test_a_thousand_greenlets_each_with_a_channel_and_a_queue_of_its_own():
    answers = {}

    with Connection(URL) as connection:

        def ask(who):
            queue = Queue(f'many-{who}', exclusive=True, durable=False)
            with connection.channel() as channel:
                producer = connection.Producer(channel)

                def on_message(body, message):
                    message.ack()
                    answers[who] = body

                with Consumer(channel, [queue], callbacks=[on_message]):
                    producer.publish(who, exchange='', routing_key=queue.name)
                    while who not in answers:
                        connection.drain_events(timeout=10)

        gevent.joinall([gevent.spawn(ask, who) for who in range(GREENLETS)], raise_error=True)
    assert answers == {who: who for who in range(GREENLETS)}
