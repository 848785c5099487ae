"""What each run of an injected call starts from, and what must be true after it."""
from __future__ import annotations

import collections

from greenmq import Connection, Consumer, Exchange, Queue
from greenmq.transport import memory
from tests.cancel import slow
from tests.support.switches import injections

#: Seconds for what must work at once; only a broken world waits that long.
SOON = 2.0


class World:
    """A broker, a connection to it, a queue, and the books: what was published, seen and acknowledged."""

    def __init__(self, transport):
        memory.reset()
        self.transport = slow.Transport if transport == 'slow' else None
        self.exchange = Exchange('cancel', type='direct', durable=False)
        self.queue = Queue('cancel', self.exchange, routing_key='cancel', durable=False)
        self.connection = self.connect()
        self.published = []
        self.seen = []
        self.acked = []

    def connect(self):
        if self.transport is None:
            return Connection('memory://localhost/cancel')
        # Transports may be classes, as in kombu: a test needs no entry in the table of names.
        return Connection('localhost', virtual_host='cancel', transport=self.transport)

    def publish(self, *numbers):
        """Put messages into the queue, by another connection than the one under test."""
        with self.connect() as connection:
            producer = connection.Producer(serializer='json')
            for number in numbers:
                producer.publish({'id': number}, exchange=self.exchange, routing_key='cancel',
                                 declare=[self.queue])
                self.published.append(number)

    def on_message(self, body, message):
        self.seen.append(body['id'])
        message.ack()
        self.acked.append(body['id'])

    def consumer(self, connection=None, **options):
        options.setdefault('callbacks', [self.on_message])
        return Consumer(connection or self.connection, [self.queue], **options)

    def left(self):
        """Numbers that the broker still has: taken by a stranger, redelivered ones included."""
        left = []
        with self.connect() as connection:
            bound = self.queue(connection.default_channel)
            bound.declare()
            while (message := bound.get(no_ack=True)) is not None:
                left.append(message.payload['id'])
        return left

    def check_works(self):
        """Declaring, publishing, consuming and acknowledging go on, on the connection that was hit."""
        probe = Queue('probe', Exchange('probe', durable=False), routing_key='probe', durable=False)
        seen = []

        def on_probe(body, message):
            message.ack()
            seen.append(body)

        with Consumer(self.connection, [probe], callbacks=[on_probe], accept=['json']):
            producer = self.connection.Producer(serializer='json')
            producer.publish({'probe': 1}, exchange=probe.exchange, routing_key='probe', declare=[probe])
            while not seen:
                self.connection.drain_events(timeout=SOON)
        assert seen == [{'probe': 1}]

    def check_books(self, maybe=()):
        """Each message was acknowledged or is still there, once; of `maybe` either may be true."""
        self.connection.close()
        accounts = collections.Counter(self.acked) + collections.Counter(self.left())
        for number in maybe:
            assert accounts.pop(number, 0) <= 1, f'{number} is there twice'
        assert accounts == collections.Counter(self.published), f'acked {self.acked}, seen {self.seen}'

    def drain(self, timeout=SOON):
        """One event, or none in time."""
        try:
            self.connection.drain_events(timeout=timeout)
        except TimeoutError:
            return False
        return True

    def close(self):
        self.connection.close()


class Hit:
    """One connection to a server that is hit again and again, with an exchange and a queue named `cancel`.

    Subclasses say how what is under way comes to rest, and what must be true after each hit.
    """

    def __init__(self, url, durable=True, **options):
        self.url = url
        self.connection = Connection(url, **options)
        self.connection.connect()
        self.channel = self.connection.channel()
        self.exchange = Exchange('cancel', durable=durable)
        self.queue = Queue('cancel', self.exchange, routing_key='cancel', durable=durable)
        self.queue(self.channel).declare()
        self.producer = self.connection.Producer(self.channel, serializer='json')

    def put(self, number):
        self.producer.publish({'id': number}, exchange='cancel', routing_key='cancel')

    def take(self):
        """The number of the next message, which is settled, or None."""
        message = self.channel.basic_get('cancel')
        if message is None:
            return None
        message.ack()
        return message.payload['id']


class HitSession(Hit):
    """The same on a transport that has a driver, and with it a session with books."""

    @property
    def session(self):
        return self.connection.transport.session

    def quiet(self):
        """Nothing is under way."""
        raise NotImplementedError

    def left(self):
        """What is there, settled."""
        self.quiet()
        return list(iter(self.take, None))

    def check(self):
        """Nothing is out, nobody waits, and it is the same connection."""
        self.quiet()
        session = self.session
        assert session.epoch == 1 and session.state == 'open'
        assert not session.publisher.waiting and not session.settler.pending and not len(session.leases)
        assert all(not channel.books.reserved for channel in session.channels)
        assert self.connection.ping() >= 0


def each(transport, must_switch=False, may_raise=(), **options):
    """`(injection, world)` for every injection, each in a world of its own.

    What never switches cannot be cut, and then the test proves nothing: `must_switch` makes sure of it.
    A call that was not hit must succeed, or raise one of `may_raise`.
    """
    cuts = 0
    for injection in injections(**options):
        world = World(transport)
        yield injection, world
        world.close()
        error = injection.outcome.error
        if error is not None and not injection.thrown and not isinstance(error, may_raise):
            raise error
        cuts += len(injection.thrown)
    assert cuts or not must_switch, 'the call never switched'


def consume_one(world, seen):
    """Consume from `world.queue` until one message came, whose number is put into `seen`, and settle it."""
    def on_message(body, message):
        seen.append(body['id'])
        message.ack()

    with world.connection.Consumer([world.queue], callbacks=[on_message]):
        while not seen:
            world.connection.drain_events(timeout=10)
