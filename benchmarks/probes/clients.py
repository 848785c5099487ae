"""The same work through each AMQP client: `python -m benchmarks.probes.clients PACKAGE URL TASK MESSAGES
[SIZE] [CALLERS]`.

TASK: `publish` (no confirms; done when the broker has all), `consume` (callback and ack of each), `confirm`
(each publish waits for its confirm; CALLERS at once: greenlets, asyncio tasks, threads of a patched kombu).
SIZE 0 is a JSON object of 256 bytes that each client encodes and decodes; else that many raw bytes.
"""
from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
import time
import urllib.parse
import uuid

from benchmarks.probes.meter import Meter, quantiles

OBJECT = {'id': 123456, 'name': 'a name of some length', 'tags': ['red', 'green', 'blue'], 'ok': True,
          'text': 'x' * 152}
PREFETCH = 500
#: Messages before the clock starts: imports, caches, allocator.
WARM = 200


class Client:
    """What a peer must be able to do. `parts` is the URL."""

    def __init__(self, url, size, confirm):
        self.url, self.parts = url, urllib.parse.urlsplit(url)
        self.vhost = urllib.parse.unquote(self.parts.path[1:]) or '/'
        self.raw = b'x' * size
        self.confirm = confirm
        self.queue = f'bench-{uuid.uuid4().hex[:8]}'
        self.seen = 0
        self.meter = Meter()

    def body(self):
        return self.raw or json.dumps(OBJECT).encode()

    def read(self, body):
        if not self.raw:
            json.loads(body)
        self.count()

    def count(self):
        """One more is there; the clock starts with the last one of the warm-up."""
        self.seen += 1
        if self.seen == WARM:
            self.meter.start()

    def publish_all(self, count):
        publish = self.publish
        for _ in range(count):
            publish()

    def confirm_all(self, count, callers):
        """Latencies of `count` confirmed publishes."""
        clock, publish, latencies = time.perf_counter, self.publish, []
        for _ in range(count):
            start = clock()
            publish()
            latencies.append(clock() - start)
        return latencies


class Kombu(Client):
    """kombu, and greenmq, which has the same calls."""

    package = 'kombu'

    def open(self):
        self.module = importlib.import_module(self.package)
        self.connection = self.connect()
        self.channel = self.connection.default_channel
        self.entity = self.module.Queue(self.queue, durable=False, channel=self.channel)
        self.entity.queue_declare()
        self.producer = self.connection.Producer()
        self.producers, self.others = [self.producer], []

    def connect(self):
        return self.module.Connection(self.url, transport_options={'confirm_publish': self.confirm})

    def publish(self, producer=None):
        producer = producer or self.producer
        if self.raw:
            producer.publish(self.raw, routing_key=self.queue, delivery_mode=1, serializer=None,
                             content_type='application/data', content_encoding='binary')
        else:
            producer.publish(OBJECT, routing_key=self.queue, delivery_mode=1)

    def at_broker(self):
        return self.entity.queue_declare(passive=True).message_count

    def consume_all(self, target):
        def on_message(body, message):
            self.count()
            message.ack()

        with self.connection.Consumer([self.entity], callbacks=[on_message], prefetch_count=PREFETCH,
                                      accept=['json', 'application/data']):
            while self.seen < target:
                self.connection.drain_events(timeout=30)

    def confirm_all(self, count, callers):
        latencies = []
        producers = [self.producer_of(caller) for caller in range(callers)]
        tasks = [self.start(self.confirm_some, producer, count // callers, latencies)
                 for producer in producers]
        for join in tasks:
            join()
        return latencies

    def confirm_some(self, producer, count, latencies):
        clock = time.perf_counter
        for _ in range(count):
            start = clock()
            self.publish(producer)
            latencies.append(clock() - start)

    def producer_of(self, caller):
        # One connection a caller: two greenlets break a shared one.
        while len(self.producers) <= caller:
            self.others.append(self.connect())
            self.producers.append(self.others[-1].Producer())
        return self.producers[caller]

    def start(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments)
        thread.start()
        return thread.join

    def close(self):
        for other in (*self.others, self.connection):
            other.close()


class Greenmq(Kombu):
    package = 'greenmq'

    def producer_of(self, caller):
        return self.producer

    def start(self, function, *arguments):
        return self.module.runtime.spawn(function, *arguments, name='bench').join

    def open(self):
        importlib.import_module('greenmq.runtime')
        super().open()


class PyAMQP(Client):
    def open(self):
        import amqp
        self.Message = amqp.Message
        self.connection = amqp.Connection(
            f'{self.parts.hostname}:{self.parts.port}', self.parts.username, self.parts.password,
            virtual_host=self.vhost, confirm_publish=self.confirm)
        self.connection.connect()
        self.channel = self.connection.channel()
        self.channel.queue_declare(self.queue, durable=False, auto_delete=False)

    def publish(self):
        message = self.Message(self.body(), content_type='application/json', delivery_mode=1)
        self.channel.basic_publish(message, '', self.queue)

    def at_broker(self):
        return self.channel.queue_declare(self.queue, passive=True).message_count

    def consume_all(self, target):
        def on_message(message):
            self.read(message.body)
            self.channel.basic_ack(message.delivery_tag)

        self.channel.basic_qos(0, PREFETCH, False)
        tag = self.channel.basic_consume(self.queue, callback=on_message)
        while self.seen < target:
            self.connection.drain_events(timeout=30)
        self.channel.basic_cancel(tag)

    def close(self):
        self.connection.close()


class Pika(Client):
    def open(self):
        import pika
        self.connection = pika.BlockingConnection(pika.URLParameters(self.url))
        self.channel = self.connection.channel()
        self.properties = pika.BasicProperties(content_type='application/json', delivery_mode=1)
        if self.confirm:
            self.channel.confirm_delivery()
        self.channel.queue_declare(self.queue)

    def publish(self):
        self.channel.basic_publish('', self.queue, self.body(), self.properties)

    def at_broker(self):
        return self.channel.queue_declare(self.queue, passive=True).method.message_count

    def consume_all(self, target):
        def on_message(channel, method, properties, body):
            self.read(body)
            channel.basic_ack(method.delivery_tag)
            if self.seen == target:
                channel.stop_consuming()

        self.channel.basic_qos(prefetch_count=PREFETCH)
        self.channel.basic_consume(self.queue, on_message)
        self.channel.start_consuming()

    def close(self):
        self.connection.close()


class AMQPStorm(Client):
    def open(self):
        import amqpstorm
        self.connection = amqpstorm.Connection(
            self.parts.hostname, self.parts.username, self.parts.password, port=self.parts.port,
            virtual_host=self.vhost)
        self.channel = self.connection.channel()
        if self.confirm:
            self.channel.confirm_deliveries()
        self.channel.queue.declare(self.queue)

    def publish(self):
        self.channel.basic.publish(self.body(), self.queue, '', {'content_type': 'application/json'})

    def at_broker(self):
        return self.channel.queue.declare(self.queue, passive=True)['message_count']

    def consume_all(self, target):
        def on_message(body, channel, method, properties):
            self.read(body)
            channel.basic.ack(method['delivery_tag'])

        self.channel.basic.qos(PREFETCH)
        tag = self.channel.basic.consume(on_message, self.queue)
        while self.seen < target:
            # As its start_consuming, which is for ever.
            self.channel.process_data_events(to_tuple=True, auto_decode=False)
        self.channel.basic.cancel(tag)

    def close(self):
        self.connection.close()


class AioPika(Client):
    """Its calls are coroutines; each of ours runs the loop until they are done."""

    def open(self):
        self.loop = asyncio.new_event_loop()
        self.run = self.loop.run_until_complete
        self.run(self._open())

    async def _open(self):
        import aio_pika
        self.Message = aio_pika.Message
        self.connection = await aio_pika.connect(self.url)
        self.channel = await self.connection.channel(publisher_confirms=self.confirm)
        self.entity = await self.channel.declare_queue(self.queue)

    async def _publish(self, count, latencies):
        publish, clock = self.channel.default_exchange.publish, time.perf_counter
        for _ in range(count):
            start = clock()
            await publish(self.Message(self.body(), content_type='application/json', delivery_mode=1),
                          self.queue)
            latencies.append(clock() - start)

    def publish_all(self, count):
        self.run(self._publish(count, []))

    def confirm_all(self, count, callers):
        async def confirm():
            await asyncio.gather(*(self._publish(count // callers, latencies) for _ in range(callers)))

        latencies = []
        self.run(confirm())
        return latencies

    def at_broker(self):
        declared = self.run(self.channel.declare_queue(self.queue, passive=True))
        return declared.declaration_result.message_count

    def consume_all(self, target):
        async def on_message(message):
            self.read(message.body)
            await message.ack()
            if self.seen == target:
                done.set()

        async def consume():
            await self.channel.set_qos(PREFETCH)
            tag = await self.entity.consume(on_message)
            await done.wait()
            await self.entity.cancel(tag)

        done = asyncio.Event()
        self.run(consume())

    def close(self):
        self.run(self.connection.close())


CLIENTS = {'greenmq': Greenmq, 'kombu': Kombu, 'amqp': PyAMQP, 'pika': Pika, 'aio_pika': AioPika,
           'amqpstorm': AMQPStorm}


def wait_at_broker(client, count):
    """Until the broker has all: what it has not read yet is not published."""
    while client.at_broker() < count:
        time.sleep(0.001)


def publish(client, count, callers):
    client.publish_all(WARM)
    with Meter() as meter:
        client.publish_all(count)
        wait_at_broker(client, count + WARM)
    return meter, {}


def consume(client, count, callers):
    client.publish_all(count + WARM)
    wait_at_broker(client, count + WARM)
    client.consume_all(count + WARM)
    client.meter.stop()
    return client.meter, {}


def confirm(client, count, callers):
    client.confirm_all(callers, callers)  # opens what each caller needs
    with Meter() as meter:
        latencies = client.confirm_all(count // callers * callers, callers)
    return meter, {'latency_ms': quantiles(latencies)}


def main(package, url, task, count, size='0', callers='1'):
    count = int(count)
    client = CLIENTS[package](url, int(size), task == 'confirm')
    client.open()
    try:
        meter, more = globals()[task](client, count, int(callers))
        print(json.dumps(meter.figures(count, client.parts.port) | more))
    finally:
        client.close()


if __name__ == '__main__':
    main(*sys.argv[1:])
