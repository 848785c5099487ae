"""One message there and back.

    python examples/hello.py [--broker URL]
"""

import argparse

from greenmq import Connection

parser = argparse.ArgumentParser()
parser.add_argument('--broker', default='memory://')
url = parser.parse_args().broker

with Connection(url) as connection:
    with connection.SimpleQueue('greenmq-example-hello') as queue:
        queue.put({'hello': 'world'})
        message = queue.get(timeout=5)
        print('got', message.payload)
        message.ack()
