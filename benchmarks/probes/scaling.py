"""What a message costs as one thing grows: `python -m benchmarks.probes.scaling PACKAGE URL WHAT NUMBER`.

CPU and time cover the messages alone; what is grown is set up before the clock starts.
"""
from __future__ import annotations

import importlib
import json
import sys
import urllib.parse
import uuid

from benchmarks.probes.meter import Meter

MESSAGES = 10_000
BODY = {'id': 7, 'ok': True}
#: Of the caller's greenlets, so that a batch is below the default prefetch.
BATCH = 500


class Scaling:
    def __init__(self, package, url):
        self.module, self.url = importlib.import_module(package), url
        self.connection = self.module.Connection(url)
        self.channel = self.connection.default_channel
        self.producer = self.connection.Producer()
        self.prefix = uuid.uuid4().hex[:8]
        self.seen = 0
        self.messages = MESSAGES

    def queue(self, name, exchange=None, key=None):
        name = f'{self.prefix}.{name}'
        exchange = exchange or self.module.Exchange(f'{self.prefix}.direct', durable=False)
        queue = self.module.Queue(name, exchange, key or name, durable=False, channel=self.channel)
        queue.declare()
        return queue

    def publish(self, key, exchange, nowait=False):
        publish = self.producer.publish_nowait if nowait else self.producer.publish
        return publish(BODY, routing_key=key, exchange=exchange, delivery_mode=1)

    def on_message(self, message):
        self.seen += 1
        message.ack()

    def drain(self, target):
        while self.seen < target:
            self.connection.drain_events(timeout=60)

    def publish_batch(self, keys, exchange):
        for future in [self.publish(key, exchange, nowait=True) for key in keys]:
            future.result(30)

    def over(self, queues):
        """Messages to each queue in turn, consumed by those that consume."""
        exchange, names = queues[0].exchange.name, [queue.routing_key for queue in queues]
        # What the first message of each makes and keeps is set up before the clock starts, too.
        self.pass_through(max(BATCH, len(names)), exchange, names)
        with Meter() as meter:
            self.pass_through(self.messages, exchange, names)
        return meter

    def pass_through(self, count, exchange, names):
        """Publish `count` messages, a multiple of a batch, and consume them."""
        for start in range(0, count, BATCH):
            self.publish_batch([names[(start + at) % len(names)] for at in range(BATCH)], exchange)
            self.drain(self.seen + BATCH)

    def queues(self, number):
        """One consumer that has all of them."""
        queues = [self.queue(f'q{at}') for at in range(number)]
        with self.connection.Consumer(queues, on_message=self.on_message, prefetch_count=BATCH):
            return self.over(queues)

    def consumers(self, number):
        """A consumer on a channel of its own for each queue."""
        queues = [self.queue(f'q{at}') for at in range(number)]
        for queue in queues:
            self.module.Consumer(self.connection.channel(), [queue], on_message=self.on_message,
                                  prefetch_count=BATCH).consume()
        return self.over(queues)

    def bindings(self, number):
        """As many topic bindings, of one queue that every message reaches by the last of them."""
        exchange = self.module.Exchange(f'{self.prefix}.topic', 'topic', durable=False)
        queue = self.queue('bound', exchange, 'last.*.#')
        for at in range(number - 1):
            queue.bind_to(exchange, f'part{at % 100}.*.item{at}.#')
        with self.connection.Consumer([queue], on_message=self.on_message, prefetch_count=BATCH), \
                Meter() as meter:
            for start in range(0, self.messages, BATCH):
                self.publish_batch(['last.part7.item7'] * BATCH, exchange.name)
                self.drain(start + BATCH)
        return meter

    def outstanding(self, number):
        """All delivered, then all acknowledged one by one."""
        self.messages, messages = number, []
        queue = self.queue('outstanding')
        consumer = self.connection.Consumer([queue], on_message=messages.append, prefetch_count=0)
        key, exchange = queue.routing_key, queue.exchange.name
        with Meter() as meter:
            for _ in range(0, number, BATCH):
                self.publish_batch([key] * min(BATCH, number), exchange)
            with consumer:
                while len(messages) < number:
                    self.connection.drain_events(timeout=60)
                for message in messages:
                    message.ack()
        return meter

    def greenlets(self, number):
        """As many publish through one Producer; each waits until its publish is done."""
        queue = self.queue('greenlets')
        key, exchange = queue.routing_key, queue.exchange.name
        each = self.messages // number

        def work():
            for _ in range(each):
                self.publish(key, exchange)

        spawn = importlib.import_module('greenmq.runtime').spawn
        with Meter() as meter:
            for task in [spawn(work, name='bench') for _ in range(number)]:
                task.join()
        return meter

    def connections(self, number):
        """A publish on each of them in turn."""
        queue = self.queue('connections')
        key, exchange = queue.routing_key, queue.exchange.name
        opened = [self.module.Connection(self.url) for _ in range(number)]
        producers = [connection.Producer() for connection in opened]
        self.messages = MESSAGES // 5
        for producer in producers:
            producer.publish(BODY, routing_key=key, exchange=exchange, delivery_mode=1)
        with Meter() as meter:
            for at in range(self.messages):
                producers[at % number].publish(BODY, routing_key=key, exchange=exchange, delivery_mode=1)
        for connection in opened:
            connection.close()
        return meter


def main(package, url, what, number):
    work = Scaling(package, url)
    meter = getattr(work, what)(int(number))
    print(json.dumps(meter.figures(work.messages, urllib.parse.urlsplit(url).port or 0)))
    sys.stdout.flush()
    work.connection.close()


if __name__ == '__main__':
    main(*sys.argv[1:])
