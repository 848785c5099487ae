"""A WSGI application that publishes a message in each request, for gunicorn's gevent workers.

    BROKER_URL=amqp://guest:guest@localhost// \\
        gunicorn -k gevent --preload --workers 2 --chdir examples/gunicorn_app app:application

    curl -d '{"item": "tea"}' http://localhost:8000/orders

Nothing connects while this is imported, so `--preload` is safe; and if it did, each worker would still begin
with connections of its own. All requests of a worker publish over one or two connections, however many there
are at once.
"""
import json
import os
import time
import uuid

from greenmq import Connection, Exchange, Queue
from greenmq.exceptions import LimitExceeded, OperationalError
from greenmq.pools import producers, set_limit

broker = Connection(os.environ.get('BROKER_URL', 'memory://'), connect_timeout=1)
orders = Queue('orders', Exchange('orders'), routing_key='orders')

#: Seconds that a request waits for the broker, whatever it has to wait for.
TIMEOUT = float(os.environ.get('PUBLISH_TIMEOUT', '2'))
#: Requests of a worker that publish at the same time. These are channels, not sockets.
set_limit(int(os.environ.get('PRODUCERS', '100')))

#: What says that the broker is away or too slow, and not that this program is wrong.
AWAY = (OperationalError, LimitExceeded, OSError, *broker.connection_errors)


def application(environ, start_response):
    if (environ['REQUEST_METHOD'], environ['PATH_INFO']) != ('POST', '/orders'):
        return answer(start_response, '404 Not Found', {'error': 'POST to /orders'})
    try:
        order = json.loads(environ['wsgi.input'].read())
    except ValueError as exc:
        return answer(start_response, '400 Bad Request', {'error': str(exc)})
    number = str(uuid.uuid4())
    try:
        publish({'number': number, 'order': order})
    except AWAY as exc:
        # Honest: the broker has not said that it has the message. It may have it all the same, if the answer
        # was lost, so whoever tries again sends the same thing twice.
        return answer(start_response, '503 Service Unavailable', {'error': str(exc)}, ('Retry-After', '1'))
    # The broker has confirmed: it is on disk.
    return answer(start_response, '202 Accepted', {'number': number})


def publish(message):
    """Publish, or raise one of AWAY, within TIMEOUT seconds altogether."""
    end = time.monotonic() + TIMEOUT
    with producers[broker].acquire(timeout=TIMEOUT) as producer:
        producer.publish(
            message, exchange=orders.exchange, routing_key=orders.routing_key, declare=[orders], retry=True,
            timeout=max(0.0, end - time.monotonic()),
        )


def answer(start_response, status, document, *headers):
    body = json.dumps(document).encode()
    length = ('Content-Length', str(len(body)))
    start_response(status, [('Content-Type', 'application/json'), length, *headers])
    return [body]
