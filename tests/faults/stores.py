"""What the tests of ZooKeeper, MongoDB and Pyro have in common."""
from __future__ import annotations

import contextlib
import json
import subprocess
import sys

from greenmq import Connection, Consumer, Queue
from tests.faults.ledger import Ledger, consume, load
from tests.support import green
from tests.support.process import end, popen, wait_until


class Rig:
    """Greenlets that end before the connections that they drain are closed."""

    def __init__(self):
        self.tasks = []

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        green.killall(self.tasks)

    def spawn(self, fun, *args):
        self.tasks.append(green.spawn(fun, *args))
        return self.tasks[-1]


class Kombu:
    """A process that runs kombu; see tests.support.kombu_peer."""

    def __init__(self, url):
        self.process = popen(
            [sys.executable, '-W', 'ignore', '-m', 'tests.support.kombu_peer', url, '{}'],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )

    def __getattr__(self, name):
        def call(*arguments):
            self.process.stdin.write(json.dumps([name, *arguments]) + '\n')
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            assert answer, f'kombu ended in {name}'
            return json.loads(answer)

        return call

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        end(self.process)
        self.process.stdin.close()
        self.process.stdout.close()


def driver(connection):
    connection.connect()
    return connection.transport.session.driver


def declare(connection, name='q', **options):
    bound = Queue(name, routing_key=name, **options)(connection.default_channel)
    bound.declare()
    return bound


def count(bound):
    return bound.queue_declare(passive=True).message_count


def wait_get(bound, seconds=20):
    """A message that may still be on its way back."""
    found = []
    wait_until(lambda: found.extend(filter(None, [bound.get()])) or found, seconds, 'a message')
    return found[0]


@contextlib.contextmanager
def consuming(connection, name='q', ack=True, **options):
    """Consume a queue: gives the list of bodies seen."""
    seen = []

    def on_message(body, message):
        seen.append(body)
        if ack:
            message.ack()

    with Consumer(connection, [Queue(name)], callbacks=[on_message], accept=['json'], **options):
        yield seen


def drain_until(connection, condition, seconds=20):
    with green.Timeout(seconds):
        while not condition():
            connection.drain_events(timeout=seconds)


def survives(url, break_it, times, options, timeout=10, name='q'):
    """Publishers and a consumer, while something breaks again and again: nothing lost, nobody deaf."""
    ledger, running = Ledger(), [True]
    with Connection(url, transport_options=options) as connection, Connection(
        url, transport_options={**options, 'fetch_ahead': 99}
    ) as other, Rig() as rig:
        bound = declare(connection, name)
        load(rig, connection, ledger, bound, 5, timeout, running)
        consume(rig, other, ledger, bound)
        wait_until(lambda: len(ledger.acked) > 10, 20, 'the consumer to begin')
        for _ in range(times):
            break_it()
            before = len(ledger.acked)
            wait_until(lambda before=before: len(ledger.acked) > before + 10, 30, 'the consumer to go on')
        running.clear()
        wait_until(lambda: not ledger.lost, 30, 'all that was confirmed')
        assert not ledger.invented and ledger.safe
    return ledger


FORKING = """
import os, sys
from greenmq import Connection, Queue, runtime
connection = Connection(sys.argv[1])
producer = connection.Producer(routing_key='q')
Queue('q')(connection.default_channel).declare()
producer.publish('first')
held = Queue('q')(connection.default_channel).get()
for turn in range(3):
    child = os.fork()
    if child == 0:
        mine = Connection(sys.argv[1])
        Queue('children')(mine.default_channel).declare()
        mine.Producer(routing_key='children').publish(str(turn))
        mine.close()
        sys.exit(0)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        runtime.sleep(0.01)
    producer.publish('after')
assert held.ack() is not False
print(Queue('q')(connection.default_channel).queue_declare(passive=True).message_count,
      Queue('children')(connection.default_channel).queue_declare(passive=True).message_count)
connection.close()
"""


def forks(url):
    """What a program prints that forks three times with a connection open."""
    quiet = ['-W', 'ignore::DeprecationWarning']
    child = popen([sys.executable, *quiet, '-c', FORKING, url], stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: child.poll() is not None, 60, 'the program')
        return child.stdout.read()
    finally:
        end(child)
        child.stdout.close()
