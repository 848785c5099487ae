"""How long a message takes from publish() to the callback of a consumer that was waiting.

greenmq waits in greenlets. kombu's drain_events sleeps between polls, in the native thread that calls it; it
gets a thread and a connection of its own for the consumer, its best case in an unpatched process.
`python -m benchmarks.probes.wakeup PACKAGE [MESSAGES]`
"""
from __future__ import annotations

import importlib
import json
import sys
import threading
import time


class Threads:
    """Waiting in native threads, for a package that blocks its thread."""

    sleep = staticmethod(time.sleep)

    @staticmethod
    def start(function):
        thread = threading.Thread(target=function, daemon=True)
        thread.start()
        return thread.join


class Greenlets:
    """Waiting in greenlets, through greenmq's runtime."""

    def __init__(self):
        self.runtime = importlib.import_module('greenmq.runtime')
        self.sleep = self.runtime.sleep

    def start(self, function):
        return self.runtime.spawn(function, name='bench consumer').join


class WakeUp:
    def __init__(self, package):
        self.package = importlib.import_module(package)
        self.waiting = Greenlets() if package == 'greenmq' else Threads()
        self.queue = self.package.Queue('wake', self.package.Exchange('wake'), routing_key='wake')
        self.latencies = []

    def on_message(self, body, message):
        self.latencies.append(time.perf_counter() - body['sent'])
        message.ack()

    def consume(self, count):
        with self.package.Connection('memory://') as connection, \
                connection.Consumer([self.queue], callbacks=[self.on_message]):
            while len(self.latencies) < count:
                connection.drain_events(timeout=30)

    def run(self, count, pause):
        join = self.waiting.start(lambda: self.consume(count))
        with self.package.Connection('memory://') as connection:
            producer = connection.Producer(serializer='json')
            self.waiting.sleep(0.1)
            for _ in range(count):
                producer.publish({'sent': time.perf_counter()}, exchange='wake', routing_key='wake',
                                 declare=[self.queue])
                self.waiting.sleep(pause)
            join()


def main(arguments):
    count = int(arguments[1]) if len(arguments) > 1 else 500
    # Pauses that share no period with a poll of one second; kombu would be asked for minutes otherwise.
    count, pause = (count, 0.002) if arguments[0] == 'greenmq' else (max(10, count // 20), 0.13)
    probe = WakeUp(arguments[0])
    probe.run(count, pause)
    ordered = sorted(1e3 * latency for latency in probe.latencies)
    print(json.dumps({'p50_ms': ordered[len(ordered) // 2], 'p99_ms': ordered[int(len(ordered) * 0.99)]}))


if __name__ == '__main__':
    main(sys.argv[1:])
