"""What a stranger writes into a queue costs at most itself (P40): each field of a message with a wrong type.

Each bad one stands between two good ones, all on one connection: the good ones arrive, the bad one arrives as
what it can be or is settled as an error of decode, nothing stays unsettled and nothing reconnects.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from queue import Empty

import pytest

from greenmq import Consumer, Producer, Queue, events
from greenmq.exceptions import ContentDisallowed, SerializationError
from greenmq.mixins import ConsumerMixin
from tests.stress import FACTOR
from tests.support import green
from tests.support.process import wait_until
from tests.support.raw_senders import Insider, sender

#: The bodies of strangers: a mark, to tell them from the good ones.
BAD = b'"bad"'

#: What may be wrong with one message.
FAULTS = (SerializationError, ContentDisallowed)

pytestmark = [pytest.mark.green_timeout(240), pytest.mark.one_of_a_kind, pytest.mark.once]


class Stage:
    """A queue, somebody who publishes to it, and a stranger; counts losses of the consuming connection."""

    def __init__(self, connection, other, url, name):
        self.connection, self.name = connection, name
        self.channel = connection.channel()
        self.other = other.channel()
        self.queue = Queue(name, durable=False)(self.channel)
        self.queue.declare()
        self.producer = Producer(self.other, serializer='json')
        self.stranger = sender(url, self.other)
        self.numbers = itertools.count(1)
        self.lost = []
        self.epoch = getattr(connection.connection, 'epoch', 0)
        self._losses = events.subscribe('lost', self.lost.append, connection)

    def good(self):
        number = next(self.numbers)
        self.producer.publish({'good': number}, routing_key=self.name)
        return number

    def bad(self, case):
        """False if the broker, or the transport where it is published, takes no such thing."""
        try:
            self.stranger.send(self.name, self.stranger.cases[case], BAD)
        except Exception as exc:
            if isinstance(self.stranger, Insider):
                return False  # refused in the very process that made it
            raise AssertionError(f'{case}: the stranger could not send it') from exc
        return True

    def fill(self):
        """A good one, and behind each bad one another: the case before it by the number of each."""
        cases = {self.good(): 'none'}
        for case in self.stranger.cases:
            self.bad(case)
            cases[self.good()] = case
        return cases

    def check_alive(self):
        assert not self.lost and self.connection.connected
        assert getattr(self.connection.connection, 'epoch', 0) == self.epoch

    def check_empty(self):
        """Nothing is left: neither waiting nor given back when the channel goes."""
        self.channel.close()
        # A broker may still count for a while what was settled on another connection.
        wait_until(lambda: self.left == 0, 10, 'nothing left')
        self.check_alive()

    @property
    def left(self):
        declared = self.other.queue_declare(queue=self.name, passive=True, durable=False, auto_delete=False)
        return declared.message_count

    def close(self):
        self._losses.cancel()
        self.stranger.close()
        with contextlib.suppress(Exception):
            self.other.queue_delete(queue=self.name)


@pytest.fixture
def stage(connect, broker_url, name):
    stage = Stage(connect(), connect(), broker_url, name)
    yield stage
    stage.close()


def drain(stage, awaited, seconds=30):
    """Handle events until nothing is `awaited`; an error of decode is all that a bad message may cause.

    `awaited` gives the good ones that have not come, as `Stage.fill` does.
    """
    end = time.monotonic() + seconds
    while missing := awaited():
        left = end - time.monotonic()
        assert left > 0, f'did not arrive, behind these: {sorted(missing.values())}'
        try:
            stage.connection.drain_events(timeout=left)
        except TimeoutError:
            continue
        except FAULTS as exc:
            if not exc.message.acknowledged:  # its content type, say: that is about the body
                exc.message.ack()


@pytest.mark.parametrize('how', ['callbacks', 'on_message', 'on_decode_error'])
def test_a_consumer(stage, how):
    seen, faults = [], []

    def received(body, message):
        seen.append(body)
        message.ack()

    def arrived(message):
        with contextlib.suppress(*FAULTS):
            seen.append(message.payload)
        message.ack()

    def undecodable(message, exc):
        faults.append(exc)
        message.ack()

    options = {
        'callbacks': {'callbacks': [received]},
        'on_message': {'on_message': arrived},
        'on_decode_error': {'callbacks': [received], 'on_decode_error': undecodable},
    }[how]
    with Consumer(stage.channel, [stage.queue], accept=['json'], auto_declare=False, **options):
        cases = stage.fill()
        drain(stage, lambda: {number: case for number, case in cases.items() if {'good': number} not in seen})
    stage.check_empty()
    assert all(isinstance(exc, FAULTS) for exc in faults)
    if how == 'on_decode_error':
        assert len(faults) >= stage.stranger.undecodable


@pytest.mark.parametrize('no_ack', [False, True])
@pytest.mark.parametrize('how', ['Queue.get', 'basic_get', 'SimpleQueue', 'SimpleQueue, not blocking'])
def test_getting_one_by_one(stage, how, no_ack):
    simple = None
    if how.startswith('SimpleQueue'):
        simple = stage.connection.SimpleQueue(stage.queue, no_ack=no_ack, channel=stage.channel)

    def get():
        if how == 'Queue.get':
            return stage.queue.get(no_ack=no_ack)
        if how == 'basic_get':
            raw = stage.channel.basic_get(queue=stage.name, no_ack=no_ack)
            return None if raw is None else stage.channel.message_to_python(raw)
        return simple.get(timeout=5) if how == 'SimpleQueue' else simple.get(block=False)

    def get_good():
        while True:
            try:
                message = get()
                if message is None:
                    green.sleep(0.002)
                    continue
            except Empty:
                green.sleep(0.002)
                continue
            except FAULTS as exc:
                if not no_ack and exc.message is not None and not exc.message.acknowledged:
                    exc.message.ack()  # what is wrong with a body is told, and left to the program
                continue
            try:
                found = message.payload
            except FAULTS:
                found = None
            if not no_ack:
                message.ack()
            if isinstance(found, dict) and 'good' in found:
                return found['good']

    missing = stage.fill()
    while missing:
        with green.Timeout(10, AssertionError(f'did not arrive, behind these: {sorted(missing.values())}')):
            number = get_good()
        assert number in missing, 'twice'
        del missing[number]
    if simple is not None:
        simple.close()
    stage.check_empty()


def test_a_worker(stage):
    """All of it at once, in a ConsumerMixin: it never reconnects."""
    seen, broken = set(), []

    class Worker(ConsumerMixin):
        connection = stage.connection

        def get_consumers(self, consumer, channel):
            return [consumer([stage.queue], callbacks=[self.received], accept=['json'], auto_declare=False)]

        def received(self, body, message):
            message.ack()
            if isinstance(body, dict) and 'good' in body:
                seen.add(body['good'])
                if seen >= wanted:
                    self.should_stop = True

        def on_connection_error(self, exc, interval):
            broken.append(exc)

    wanted = {stage.good()}
    for case in stage.stranger.cases:
        stage.bad(case)
        wanted.add(stage.good())
    worker = Worker()
    running = green.spawn(worker.run)
    with green.Timeout(60, AssertionError('a good message did not arrive')):
        running.join()
    assert seen == wanted and not broken
    stage.check_empty()


def test_one_of_a_hundred(stage):
    """Many messages, and each hundredth is one of the bad ones, in turn: all others come."""
    seen, faults = set(), []

    def received(body, message):
        message.ack()
        if isinstance(body, dict) and 'good' in body:
            seen.add(body['good'])

    def undecodable(message, exc):
        faults.append(exc)
        message.ack()

    bad = itertools.cycle(stage.stranger.cases)
    wanted = set()
    for n in range(10_000 if FACTOR > 1 else 200):
        stage.bad(next(bad)) if n % 100 == 50 else wanted.add(stage.good())
    consumer = Consumer(
        stage.channel, [stage.queue], accept=['json'], callbacks=[received], on_decode_error=undecodable,
        auto_declare=False,
    )  # fmt: skip
    with consumer:
        drain(stage, lambda: dict.fromkeys(wanted - seen, 'any'), 120)
    stage.check_empty()
    assert all(isinstance(exc, FAULTS) for exc in faults)
