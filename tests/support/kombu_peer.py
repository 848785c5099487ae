"""kombu in a process of its own: it blocks, and it must not share one with what is compared to it.

Commands are lines of JSON on stdin, `[name, arguments…]`; each is answered by one line.
"""

from __future__ import annotations

import json
import sys

import kombu


class Peer:
    def __init__(self, url, options):
        self.connection = kombu.Connection(url, transport_options=options)
        self.channel = self.connection.channel()
        self.held, self.seen, self.consumer = {}, [], None

    def queue(self, name, exchange, kind, key):
        return kombu.Queue(name, kombu.Exchange(exchange, type=kind), routing_key=key)

    def declare(self, name, exchange='', kind='direct', key=''):
        self.queue(name, exchange, kind, key)(self.channel).declare()

    def publish(self, body, exchange='', key='', priority=0, headers=None):
        producer = self.connection.Producer(serializer='json')
        producer.publish(body, exchange=exchange, routing_key=key, priority=priority, headers=headers or {})

    def get(self, name):
        """A message as [body, headers, delivery_info, priority], held until it is settled."""
        message = self.channel.basic_get(name)
        if message is None:
            return None
        message = self.channel.message_to_python(message)
        self.held[message.delivery_tag] = message
        facts = [message.payload, message.headers, message.delivery_info, message.properties.get('priority')]
        return [message.delivery_tag, *facts]

    def settle(self, tag, how):
        getattr(self.held.pop(tag), how)()

    def restore(self, interval=0):
        """What kombu's worker does now and then: give back what is overdue."""
        self.channel.qos.restore_visible(num=1000, interval=interval)

    def consume(self, name, exchange, kind, key):
        self.consumer = self.connection.Consumer(
            [self.queue(name, exchange, kind, key)], callbacks=[self.on_message], channel=self.channel
        )
        self.consumer.consume()
        self.drain(0.2)

    def on_message(self, body, message):
        self.seen.append(body)
        message.ack()

    def drain(self, seconds):
        """Everything seen so far."""
        try:
            while True:
                self.connection.drain_events(timeout=seconds)
        except TimeoutError:
            return self.seen

    def vanish(self):
        """End without a word, holding what it holds."""
        sys.stdout.write('null\n')
        sys.stdout.flush()
        import os

        os._exit(0)


def main(url, options):
    peer = Peer(url, json.loads(options))
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(peer, name)(*arguments)), flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
