"""Work that fails is tried again a little later, by the broker's own means, and put aside after three times.

The queue for waiting has no consumer. Its messages expire; what expires is dead-lettered back to the work.
Redis looks at no queue that nobody consumes, but holds a message back when its header says so.

    python examples/delayed_retry.py [--broker URL]
"""

import argparse

from greenmq import Connection, Queue
from greenmq.mixins import ConsumerProducerMixin

ATTEMPTS, PAUSE_MS = 3, 100

failed = Queue('greenmq-example-failed', queue_arguments={'x-queue-type': 'quorum'})
work = Queue('greenmq-example-work', queue_arguments={
    'x-queue-type': 'quorum',
    'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': failed.name})
waiting = Queue('greenmq-example-waiting', queue_arguments={
    'x-queue-type': 'quorum',
    'x-message-ttl': PAUSE_MS, 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': work.name})


class Worker(ConsumerProducerMixin):

    def __init__(self, connection):
        self.connection = connection
        self.attempts = []

    def get_consumers(self, Consumer, channel):
        for queue in (waiting, failed):
            queue(channel).declare()
        return [Consumer([work], callbacks=[self.on_work]),
                Consumer([failed], callbacks=[self.on_failed])]

    def on_work(self, body, message):
        self.attempts.append(message.headers.get('attempt', 1))
        raise RuntimeError('the other side is down')

    def on_callback_error(self, message, exc):
        attempt = message.headers.get('attempt', 1)
        if attempt == ATTEMPTS:
            message.reject()
        else:
            self.later(message.payload, {'attempt': attempt + 1})
            message.ack()

    def later(self, body, headers):
        queue = waiting
        if self.connection.transport.driver_type == 'redis':
            queue, headers = work, {**headers, 'x-delay': PAUSE_MS}
        self.producer.publish(body, exchange='', routing_key=queue.name, headers=headers)

    def on_failed(self, body, message):
        message.ack()
        self.should_stop = True


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--broker', default='memory://')
    with Connection(parser.parse_args().broker) as connection:
        with connection.Producer() as producer:
            producer.publish({'job': 1}, exchange='', routing_key=work.name, declare=[work])
        worker = Worker(connection)
        worker.run()
        print(f'attempts {worker.attempts}, then put aside')
        for queue in (work, waiting, failed):
            queue(connection).delete()
