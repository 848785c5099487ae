"""A daemon that does jobs and stops when told, and a hundred greenlets that share a pool to send it some.

    python examples/worker.py [--broker URL]
"""

import argparse

import gevent

from greenmq import Connection, Queue, producers
from greenmq.mixins import ConsumerMixin

JOBS = 100

parser = argparse.ArgumentParser()
parser.add_argument('--broker', default='memory://')
url = parser.parse_args().broker
jobs = Queue('greenmq-example-jobs', queue_arguments={'x-queue-type': 'quorum'})


class Worker(ConsumerMixin):

    def __init__(self, connection):
        self.connection = connection
        self.total = 0
        self.done = 0

    def get_consumers(self, Consumer, channel):
        return [Consumer(queues=[jobs], callbacks=[self.on_job], accept=['json'], prefetch_count=10)]

    def on_job(self, body, message):
        self.total += body['add']
        self.done += 1
        message.ack()
        if self.done == JOBS:
            self.should_stop = True


def send(number):
    with producers[url].acquire(timeout=10) as producer:
        producer.publish({'add': number}, routing_key=jobs.name, declare=[jobs])


with Connection(url) as connection:
    # Once, before many use it: RabbitMQ 3.10 fails those who use a new quorum queue while others declare it.
    jobs(connection).declare()
    worker = Worker(connection)
    running = gevent.spawn(worker.run)
    gevent.joinall([gevent.spawn(send, number) for number in range(JOBS)], raise_error=True)
    running.get()
    print(f'{worker.done} jobs, total {worker.total}')
    jobs(connection).delete()
