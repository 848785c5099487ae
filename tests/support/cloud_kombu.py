"""kombu on a cloud queue, told one thing: `python -m tests.support.cloud_kombu URL QUEUE MODE SETTINGS`.

MODE is ``put``, ``requeue`` or ``get``, which prints what was there behind the word FOUND. SETTINGS is JSON:
*options* of kombu's transport, the *last* message to put, as a body and the arguments of `put()`, and how
many seconds a ``get`` has *patience*. It must run where nothing is installed but kombu and its driver.
"""

from __future__ import annotations

import json
import sys

import kombu


def put(queue, last, **settings):
    for body in ['text', {'a': [1, None]}, '\u00e4', [], 1.5]:
        queue.put(body, headers={'h': 'v'})
    queue.put(b'\x00\xff', serializer='raw')
    queue.put('packed', compression='gzip')
    body, arguments = last
    queue.put(body, **arguments)


def requeue(queue, **settings):
    queue.get(timeout=10).requeue()


def get(queue, patience, **settings):
    found = []
    while True:
        try:
            message = queue.get(timeout=patience)
        except queue.Empty:
            break
        body = message.payload
        found.append([body.hex() if isinstance(body, bytes) else body, message.headers.get('h')])
        message.ack()
    print('FOUND' + json.dumps(found))


def main(url, name, mode, settings):
    settings = json.loads(settings)
    with kombu.Connection(url, transport_options=settings.pop('options')) as connection:
        queue = connection.SimpleQueue(name, serializer='json')
        {'put': put, 'requeue': requeue, 'get': get}[mode](queue, **settings)
        queue.close()


if __name__ == '__main__':
    main(*sys.argv[1:])
