"""One message there and back.

    python examples/hello.py [URL]
"""

import sys

from greenmq import Connection

url = sys.argv[1] if len(sys.argv) > 1 else 'memory://'

with Connection(url) as connection:
    with connection.SimpleQueue('greenmq-example-hello') as queue:
        queue.put({'hello': 'world'})
        message = queue.get(timeout=5)
        print('got', message.payload)
        message.ack()
