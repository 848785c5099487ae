"""A consumer in a process of its own, to be killed: notes what it saw before it acknowledges.

`python -m tests.support.redis_worker URL QUEUE FILE [OPTIONS as JSON] [SECONDS of work a message]`
"""

from __future__ import annotations

import json
import sys

from greenmq import Connection, Consumer, Queue
from tests.support import green


def main(url, queue, path, options='{}', seconds='0'):
    book = open(path, 'a', buffering=1)  # as long as the process lives

    def on_message(body, message):
        book.write(f'{body}\n')
        green.sleep(float(seconds))
        message.ack()
        book.write(f'{body} done\n')

    with Connection(url, connect_timeout=30, transport_options=json.loads(options)) as connection:
        connection.connect()
        with Consumer(connection, [Queue(queue)], callbacks=[on_message], accept=['json'], prefetch_count=50):
            book.write('ready\n')
            while True:
                try:
                    connection.drain_events(timeout=60)
                except (TimeoutError, *connection.connection_errors):
                    continue


if __name__ == '__main__':
    main(*sys.argv[1:])
