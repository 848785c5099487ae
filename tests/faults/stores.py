"""What the tests of PostgreSQL, ZooKeeper, MongoDB and Pyro have in common."""
from __future__ import annotations

import contextlib
import sys
import time

from greenmq import Connection, Consumer, Queue, runtime
from greenmq.exceptions import ConnectionLost
from tests.faults.ledger import Ledger, consume, load
from tests.stress import FACTOR
from tests.support import green
from tests.support.kombu_process import Kombu
from tests.support.process import run, wait_until
from tests.support.stores import declare, driver


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


def drain_over_losses(connection, condition):
    """As `drain_until`, over connections that are lost meanwhile."""
    while not condition():
        with contextlib.suppress(ConnectionLost):
            drain_until(connection, condition)


def survives(url, break_it, times, options, timeout=10, name='q'):
    """Publishers and a consumer, while something breaks again and again: nothing lost, nobody deaf."""
    ledger, running = Ledger(), [True]
    with Connection(url, transport_options=options) as connection, Connection(
        url, transport_options={**options, 'fetch_ahead': 99}
    ) as other, Rig() as rig:
        bound = declare(connection, name)
        publishers = load(rig, connection, ledger, bound, 5, timeout, running)
        consume(rig, other, ledger, bound)
        wait_until(lambda: len(ledger.acked) > 10, 20, 'the consumer to begin')
        for _ in range(times):
            break_it()
            before, broken_at = len(ledger.acked), time.monotonic()
            wait_until(lambda before=before: len(ledger.acked) > before + 10, 30, 'the consumer to go on')
            ledger.resumed.append(time.monotonic() - broken_at)
        running.clear()
        green.joinall(publishers)  # what one is told may come after the message has
        try:
            wait_until(lambda: not ledger.lost, 30, 'all that was confirmed')
        except AssertionError as error:
            stats = [each.transport.session.stats() for each in (connection, other)]
            raise AssertionError(
                f'{error}: {len(ledger.lost)} of {len(ledger.safe)}, {count(bound)} in the queue; {stats}'
            ) from error
        assert not ledger.invented and ledger.safe
    return ledger


def survives_endings(server, database, url, options):
    """Nobody goes deaf, nothing is lost, and no publish is late, while PostgreSQL ends all connections."""

    def end():
        green.sleep(0.15)
        # Ended while it asks, each would be before the next is open, and none ever be in use
        wait_until(lambda: server.sessions(database) >= 2, 10, 'connections to end')
        server.terminate(database)

    assert not survives(url, end, 100 if FACTOR > 1 else 12, options, 5).late


def shares_queues_with_kombu(url):
    """Each takes, gives back and settles what the other sent, by priority."""
    with Kombu(url) as kombu, Connection(url) as connection:
        kombu.declare('q')
        bound = Queue('q')(connection.default_channel)
        # What kombu sends comes here, by priority
        for body, priority in (('low', 0), ('high', 9), ('low again', 0)):
            kombu.publish(body, '', 'q', priority)
        got = [wait_get(bound) for _ in range(3)]
        assert [message.payload for message in got] == ['high', 'low', 'low again']
        # What is held here, kombu neither counts nor sees
        assert kombu.get('q') is None
        got[0].requeue()
        connection.transport.session.settler.wait(runtime.Deadline.after(10))
        tag, body, headers, info, priority = kombu.get('q')
        assert (body, priority) == ('high', 9)
        kombu.settle(tag, 'ack')
        for message in got[1:]:
            message.ack()
        # Then the other way
        producer = connection.Producer(routing_key='q', serializer='json')
        for n in range(3):
            producer.publish(n, priority=n)
        assert [kombu.get('q')[1] for _ in range(3)] == [2, 1, 0]


def takes_are_killed(url):
    """Wherever the kill hits, no message stays with a session that does not know of it."""
    with Connection(url) as connection:
        bound = declare(connection)
        connection.Producer(routing_key='q').publish('x')
        what = driver(connection)
        for turn in range(30):
            task = runtime.spawn(what.take, ['q'], 1, 10**6, 5.0, name='take')
            for _ in range(turn):
                green.sleep(0.0005)
            if task.done:
                break
            task.kill()
            task.join()
            wait_until(lambda: count(bound) == 1, 10, 'the message')
        assert turn > 0


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
    return run([sys.executable, '-W', 'ignore::DeprecationWarning', *green.QUIET, '-c', FORKING, url], 60)
