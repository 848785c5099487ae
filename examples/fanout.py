"""One announcement, several listeners, each in a greenlet of its own on the one connection.

    python examples/fanout.py [--broker URL]
"""

import argparse

import gevent
from gevent.lock import Semaphore

from greenmq import Connection, Exchange, Queue

LISTENERS = 3

parser = argparse.ArgumentParser()
parser.add_argument('--broker', default='memory://')
url = parser.parse_args().broker
news = Exchange('greenmq-example-news', type='fanout', durable=False, auto_delete=True)


def listen(connection, name, ready):
    heard = []

    def on_message(body, message):
        heard.append(body)
        message.ack()

    inbox = Queue(f'greenmq-example-news.{name}', news, exclusive=True)
    with connection.channel() as channel, connection.Consumer(inbox, channel=channel, callbacks=[on_message]):
        ready.release()
        while not heard:
            connection.drain_events(timeout=5)
    return f'{name} heard {heard[0]["headline"]!r}'


with Connection(url) as connection, Connection(url) as publishing:
    ready = Semaphore(0)
    listeners = [gevent.spawn(listen, connection, f'listener-{n}', ready) for n in range(LISTENERS)]
    for _ in listeners:
        ready.acquire()
    with publishing.Producer() as producer:
        producer.publish({'headline': 'one for all'}, exchange=news)
    gevent.joinall(listeners, raise_error=True)
    for listener in listeners:
        print(listener.get())
