"""Publishers and a consumer that write down what they were told, to be compared after a fault."""
from __future__ import annotations

import time

from greenmq import Consumer
from greenmq.exceptions import OperationalError
from tests.support import green

#: Seconds that a publish may come late on a busy machine of two cores.
MARGIN = 2.0


class Ledger:
    """What publishers were told is safe, and what the consumer was told is settled.

    Attributes:
        resumed: seconds after each fault until more was consumed, where `survives` has measured them.
    """

    def __init__(self):
        self.safe = set()
        self.unknown = set()
        self.acked = []
        self.late = []
        self.resumed = []

    @property
    def lost(self):
        return self.safe - set(self.acked)

    @property
    def invented(self):
        return set(self.acked) - self.safe - self.unknown


def load(rig, connection, ledger, bound, greenlets, timeout, running, name='', **options):
    """Publishers that write down what they are told."""
    producer = connection.Producer(exchange=bound.exchange, routing_key=bound.name)

    def publish(who):
        number = 0
        while running:
            number += 1
            start = time.monotonic()
            try:
                producer.publish({'id': f'{name}-{who}-{number}'}, timeout=timeout, **options)
                ledger.safe.add(f'{name}-{who}-{number}')
            except (OperationalError, *connection.connection_errors) as exc:
                if getattr(exc, 'sent', 'no') == 'unknown':
                    ledger.unknown.add(f'{name}-{who}-{number}')
                green.sleep(0.01)  # as anybody would who was told that the broker is down
            took = time.monotonic() - start
            if took > timeout + MARGIN:
                ledger.late.append(took)

    return [rig.spawn(publish, who) for who in range(greenlets)]


def consume(rig, connection, ledger, bound):
    def on_message(body, message):
        if message.ack() is not False:  # what is stale comes again
            ledger.acked.append(body['id'])

    consumer = Consumer(connection, [bound], callbacks=[on_message], accept=['json'], prefetch_count=100)
    consumer.consume()

    def drain():
        while True:
            try:
                connection.drain_events()
            except connection.connection_errors:
                continue

    return rig.spawn(drain)
