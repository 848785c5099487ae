"""Something is published at fixed times, also when a publish takes long; a daemon takes it.

    python examples/periodic.py [--broker URL]
"""

import argparse

from greenmq import Connection, Queue, producers, runtime
from greenmq.mixins import ConsumerMixin

INTERVAL, TICKS = 0.05, 3

ticks = Queue('greenmq-example-ticks', queue_arguments={'x-queue-type': 'quorum'})


class Listener(ConsumerMixin):

    def __init__(self, connection):
        self.connection = connection
        self.heard = []

    def get_consumers(self, Consumer, channel):
        return [Consumer([ticks], callbacks=[self.on_tick])]

    def on_tick(self, body, message):
        self.heard.append(body['tick'])
        message.ack()
        self.should_stop = len(self.heard) == TICKS


def publish_ticks(url):
    start = runtime.monotonic()
    for tick in range(TICKS):
        # From the start, and not from the last tick: else each publish would make all later ones late.
        runtime.sleep(max(0, start + tick * INTERVAL - runtime.monotonic()))
        with producers[url].acquire(timeout=10) as producer:
            producer.publish({'tick': tick}, routing_key=ticks.name, declare=[ticks], expiration=10)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--broker', default='memory://')
    url = parser.parse_args().broker
    with Connection(url) as connection:
        # Once, before two use it: RabbitMQ 3.10 fails who uses a new quorum queue while others declare it.
        ticks(connection).declare()
        publisher = runtime.spawn(publish_ticks, url, name='periodic')
        listener = Listener(connection)
        listener.run()
        publisher.join()
        print(f'heard {listener.heard}')
        ticks(connection).delete()
