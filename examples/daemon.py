"""A daemon with two kinds of work: orders strictly one after the other, mails twenty at once.

    python examples/daemon.py [--broker URL]                   # sends itself some work, and ends
    greenmq worker examples.daemon:Shop --broker amqp://localhost --health 127.0.0.1:8080   # as a daemon
"""

import argparse

from greenmq import Connection, Queue, runtime
from greenmq.mixins import ConsumerMixin

orders = Queue('greenmq-example-orders', queue_arguments={'x-queue-type': 'quorum'})
mails = Queue('greenmq-example-mails', queue_arguments={'x-queue-type': 'quorum'})


class Shop(ConsumerMixin):

    def __init__(self, connection):
        self.connection = connection
        self.ordered, self.mailed = [], 0

    def get_consumers(self, Consumer, channel):
        # A greenlet, a channel and a prefetch of its own for each.
        return [Consumer([orders], callbacks=[self.on_order], prefetch_count=1),
                Consumer([mails], callbacks=[self.on_mail], prefetch_count=20)]

    def on_order(self, body, message):
        self.ordered.append(body['number'])
        message.ack()

    def on_mail(self, body, message):
        runtime.sleep(0.001)  # the mail server takes its time; orders don't wait for it
        self.mailed += 1
        message.ack()


class Demonstration(Shop):

    @property
    def should_stop(self):
        return len(self.ordered) == 10 and self.mailed == 50


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--broker', default='memory://')
    with Connection(parser.parse_args().broker) as connection:
        with connection.Producer() as producer:
            for number in range(10):
                producer.publish({'number': number}, routing_key=orders.name, declare=[orders])
            for number in range(50):
                producer.publish({'to': number}, routing_key=mails.name, declare=[mails])
        shop = Demonstration(connection)
        shop.run()
        print(f'orders {shop.ordered[0]} to {shop.ordered[-1]} in order, {shop.mailed} mails')
        for queue in (orders, mails):
            queue(connection).delete()
