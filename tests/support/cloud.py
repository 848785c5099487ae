"""What the tests of cloud queues share: connections, publishers, consumers, a fault that all must bear."""

from __future__ import annotations

import json
import random
import signal
import sys

from greenmq import Consumer, Queue
from tests.support import green
from tests.support.process import end, popen, run, wait_until


def declared(connection, name, **kwargs):
    """A queue that is there."""
    queue = Queue(name, routing_key=name, **kwargs)(connection.default_channel)
    queue.declare()
    return queue


class Seen:
    """A consumer in a greenlet of its own: what it saw, and what it does with that."""

    def __init__(self, connection, queue, handle=None, prefetch=10, **kwargs):
        self.bodies, self.messages = [], []
        self._handle = handle or (lambda message: message.ack())
        self._connection = connection
        self._greenlet = green.spawn(self._run, queue, prefetch, kwargs)

    def _run(self, queue, prefetch, kwargs):
        with Consumer(self._connection.channel(), [queue], callbacks=[self._got], prefetch_count=prefetch,
                      accept=['json', 'text/plain', 'application/data'], **kwargs):
            while True:
                try:
                    self._connection.drain_events(timeout=5)
                except (TimeoutError, *self._connection.connection_errors):
                    green.sleep(0.001)  # one that is closed fails at once, again and again

    def _got(self, body, message):
        self.bodies.append(body)
        self.messages.append(message)
        self._handle(message)

    def until(self, condition, seconds=15):
        with green.Timeout(seconds, AssertionError(f'not within {seconds} s; seen: {self.bodies[-20:]}')):
            while not condition():
                green.sleep(0.01)

    def stop(self):
        self._greenlet.kill()


def publish(connection, name, bodies, greenlets=1, **kwargs):
    producer = connection.Producer(routing_key=name, serializer='json')
    shares = [bodies[at::greenlets] for at in range(greenlets)]

    def work(share):
        for body in share:
            producer.publish(body, **kwargs)

    tasks = [green.spawn(work, share) for share in shares]
    green.joinall(tasks, raise_error=True)


#: Bodies that go both ways between kombu and greenmq, each with the header `h`: see `cloud_kombu`.
BODIES = ['text', {'a': [1, None]}, '\u00e4', [], 1.5]


class CloudKombu:
    """kombu on cloud queues, in a process of its own for each thing that it is told: see `cloud_kombu`.

    Arguments:
        url (str): the service.
        last (tuple): body and arguments of the last message that `put` sends.
        patience (int): seconds after which `get` believes that there is no more.
        command (list[str]): what runs `cloud_kombu`.
        options: transport options of kombu.
    """

    def __init__(self, url, last, patience=2, command=(sys.executable, '-m', 'tests.support.cloud_kombu'),
                 **options):
        self._command, self._url = command, url
        self._settings = json.dumps({'options': options, 'last': last, 'patience': patience})

    def _run(self, mode, name):
        return run([*self._command, self._url, name, mode, self._settings], 60)

    def put(self, name):
        """Eight messages: `BODIES`, bytes, one that is packed, and the last."""
        self._run('put', name)

    def requeue(self, name):
        """Take one and give it back."""
        self._run('requeue', name)

    def get(self, name):
        """What was there and is settled: [body, header `h`] of each, bytes in hex."""
        return json.loads(self._run('get', name).partition('FOUND')[2])


def put_as_kombu(connection, name, last, **arguments):
    """The same eight as `CloudKombu.put`, by greenmq."""
    producer = connection.Producer(routing_key=name)
    for body in BODIES:
        producer.publish(body, serializer='json', headers={'h': 'v'})
    producer.publish(b'\x00\xff', serializer='raw')
    producer.publish('packed', serializer='json', compression='gzip')
    producer.publish(last, serializer='json', **arguments)


def all_seen(connection, queue, count):
    """The Seen of a queue a moment after `count` messages came, so that one too many is there as well."""
    seen = Seen(connection, queue)
    seen.until(lambda: len(seen.bodies) == count)
    green.sleep(0.2)
    seen.stop()
    return seen


def same(found, expected):
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


def goes_on_through_faults(connection, name, proxy, faults, rounds, patience):
    """In each round one kind of fault begins and ends while messages are sent: nobody is deaf after it.

    Arguments:
        faults (list[Callable]): each begins one kind at the proxy.
        rounds (int): one after the other, the kinds in turn.
        patience (float): seconds for one message once the proxy is well.
    Returns:
        int: calls that the proxy has broken.
    """
    queue = declared(connection, name)
    seen = Seen(connection, queue)
    broken = 0
    for number in range(rounds):
        faults[number % len(faults)]()
        sender = green.spawn(publish, connection, name, [f'{number}-during'], retry=True)
        green.sleep(0.15)
        broken += proxy.broken
        proxy.heal()
        publish(connection, name, [f'{number}-after'], retry=True)
        seen.until(lambda number=number: f'{number}-after' in seen.bodies, patience)
        sender.join(30)
        assert sender.dead, 'a publish hangs'
    seen.until(lambda: len({body for body in seen.bodies if body.endswith('during')}) == rounds, 30)
    seen.stop()
    return broken


def goes_on_through_cuts(connection, name, proxy, cut, total, patience):
    """Messages that are sent while `cut` ends calls arrive, each at least once, and nobody is deaf then.

    Arguments:
        cut (Callable): begins to cut calls at the proxy.
        total (int): messages.
        patience (float): seconds for one message once the proxy is well.
    """
    queue = declared(connection, name)
    seen = Seen(connection, queue)
    cut()
    publish(connection, name, list(range(total)), 3, retry=True)
    seen.until(lambda: set(seen.bodies) == set(range(total)), 25)
    proxy.heal()
    publish(connection, name, ['last'])
    seen.until(lambda: 'last' in seen.bodies, patience)
    seen.stop()


def gives_back_when_told_to_end(connection, url, options, name, folder, rounds, patience):
    """A worker gets SIGTERM at any moment: it ends well, and what it leaves comes to another at once.

    Arguments:
        connection (Connection): to publish and to look on; its leases are longer than this takes.
        folder (Path): for what workers note. patience (float): seconds that an end may take.
    """
    queue = declared(connection, name)
    rng = random.Random(10)
    for number in range(rounds):
        path = folder / f'seen-{number}'
        path.touch()
        child = popen([
            sys.executable, '-m', 'tests.support.cloud_worker', url, name, str(path), json.dumps(options),
        ])
        wait_until(lambda path=path: 'ready' in path.read_text(), 30, 'a worker')
        feeder = green.spawn(publish, connection, name, list(range(20)), 4)
        green.sleep(rng.random() * 0.5)
        child.send_signal(signal.SIGTERM)
        feeder.join()
        with green.Timeout(patience + 5):
            while child.poll() is None:
                green.sleep(0.01)
        assert child.returncode == 0
        end(child)
        left = set(range(20)) - {
            int(line.split()[0]) for line in path.read_text().splitlines() if line.endswith('done')
        }
        seen = Seen(connection, queue, prefetch=50)
        seen.until(lambda seen=seen, left=left: set(seen.bodies) == left, 3)
        seen.stop()
