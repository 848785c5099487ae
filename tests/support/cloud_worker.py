"""A worker in a process of its own that ends in good order at SIGTERM: notes what it has settled.

`python -m tests.support.cloud_worker URL QUEUE FILE [OPTIONS as JSON]`
"""

from __future__ import annotations

import json
import signal
import sys

from greenmq import Connection, Queue
from greenmq.mixins import ConsumerMixin
from tests.support import green


class Worker(ConsumerMixin):
    def __init__(self, connection, queue, path):
        self.connection = connection
        self._queue = queue
        self._book = open(path, 'a', buffering=1)  # as long as the process lives

    def get_consumers(self, Consumer, channel):
        return [Consumer([Queue(self._queue)], callbacks=[self.on_message], prefetch_count=10)]

    def on_consume_ready(self, connection, channel, consumers, **kwargs):
        self._book.write('ready\n')

    def on_message(self, body, message):
        green.sleep(0.05)
        message.ack()
        self._book.write(f'{body} done\n')


def main(url, queue, path, options='{}'):
    with Connection(url, transport_options=json.loads(options)) as connection:
        worker = Worker(connection, queue, path)

        def told(number, frame):
            worker.should_stop = True

        signal.signal(signal.SIGTERM, told)
        worker.run()


if __name__ == '__main__':
    main(*sys.argv[1:])
