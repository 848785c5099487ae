"""get, drain_events, ack, SimpleQueue.get and the loop of ConsumerMixin, cut at every switch."""
from __future__ import annotations

import pytest

from greenmq.mixins import ConsumerMixin
from tests.cancel.world import SOON, each
from tests.support import green


def test_get(transport):
    for injection, world in each(transport):
        world.publish(1)

        def get(world=world):
            bound = world.queue(world.connection.default_channel)
            bound.declare()
            message = bound.get()
            message.ack()
            world.acked.append(message.payload['id'])

        injection.run(get)
        world.check_works()
        world.check_books()


def test_waiting_for_a_message_that_does_not_come(transport):
    for injection, world in each(transport, must_switch=True, may_raise=(TimeoutError,)):
        with world.consumer():
            outcome = injection.run(world.connection.drain_events, timeout=0.01)
            assert outcome.error is not None
            world.publish(1)
            while not world.acked and world.drain():
                pass
        assert world.acked == [1]
        world.check_works()
        world.check_books()


def test_waiting_while_the_message_comes(transport):
    """The kill and the message race; whoever wins, the next drain gets the message if it was not handled."""
    for injection, world in each(transport, must_switch=True, rounds=(0, 1, 2, 3, 4)):
        with world.consumer(prefetch_count=1):
            publisher = green.Greenlet(world.publish, 1)

            def drain(world=world, publisher=publisher):
                publisher.start()
                world.connection.drain_events(timeout=SOON)

            injection.run(drain)
            publisher.get(timeout=SOON)
            if not world.seen:
                assert world.drain(), 'the message is with nobody'
            world.publish(2)
            while 2 not in world.seen:
                assert world.drain(), 'the prefetch window did not open again'
        world.check_works()
        world.check_books()


def test_two_that_wait_and_one_is_hit(transport):
    for injection, world in each(transport, rounds=(0, 1, 2, 3)):
        with world.consumer():
            other = green.Greenlet(world.drain, timeout=20)  # at its end it would look by itself

            def drain(world=world, other=other):
                # The one that is hit stands first in line, so that the wake-up is meant for it.
                other.start()
                green.spawn(world.publish, 1)
                world.connection.drain_events(timeout=SOON)

            injection.run(drain)
            assert other.get(timeout=SOON), 'the wake-up died with the one that was hit'
            assert world.seen == [1]
        world.check_books()


def test_a_callback_that_waits(transport):
    for injection, world in each(transport, must_switch=True):
        world.publish(1, 2)

        def callback(body, message, world=world):
            green.sleep(0)
            world.on_message(body, message)
            green.sleep(0)

        with world.consumer(callbacks=[callback]) as consumer:
            injection.run(world.connection.drain_events, timeout=SOON)
            consumer.recover(requeue=True)
            while len(world.acked) < 2:
                assert world.drain(), f'acknowledged {world.acked}'
        world.check_works()
        world.check_books()


@pytest.mark.parametrize('settle', ['ack', 'reject', 'requeue'])
def test_settling(transport, settle):
    for injection, world in each(transport):
        world.publish(1)
        received = []
        consumer = world.consumer(callbacks=[lambda body, message, got=received: got.append(message)])
        with consumer:
            while not received:
                assert world.drain()
            outcome = injection.run(getattr(received[0], settle))
            settled = received[0].acknowledged
        if settled and settle != 'requeue':
            world.acked.append(1)  # gone on purpose
        assert settled or outcome.error is not None
        world.check_works()
        world.check_books()


def test_entering_and_leaving_a_consumer(transport):
    for injection, world in each(transport):
        world.publish(1)

        def consume(world=world):
            with world.consumer():
                while not world.seen:
                    world.connection.drain_events(timeout=SOON)

        injection.run(consume)
        world.check_works()
        world.check_books()


def test_simple_queue_get(transport):
    for injection, world in each(transport, must_switch=True, rounds=(0, 1, 2, 3)):
        publisher = green.Greenlet(world.publish, 1)

        def get(world=world, publisher=publisher):
            simple = world.connection.SimpleQueue(world.queue)
            try:
                publisher.start()
                message = simple.get(timeout=SOON)
                message.ack()
                world.acked.append(message.payload['id'])
            finally:
                simple.close()

        injection.run(get)
        if publisher.started:
            publisher.get(timeout=SOON)
        else:
            world.publish(1)
        world.check_works()
        world.check_books()


class Worker(ConsumerMixin):
    """Handles what comes until it has seen the number 3."""

    def __init__(self, world):
        self.world = world
        self.connection = world.connection

    def get_consumers(self, Consumer, channel):
        return [Consumer([self.world.queue], callbacks=[self.on_message])]

    def on_message(self, body, message):
        self.world.on_message(body, message)
        if body['id'] == 3:
            self.should_stop = True


def test_the_loop_of_a_consumer_mixin(transport):
    for injection, world in each(transport, must_switch=True, rounds=(0, 1, 2), limit=600):
        feeder = green.spawn(world.publish, 1, 2, 3)
        injection.run(Worker(world).run)
        feeder.get(timeout=SOON)
        # A second worker takes what the first one left.
        if 3 not in world.acked:
            world.connection.close()
            world.connection = world.connect()
            Worker(world).run()
        assert sorted(set(world.acked)) == [1, 2, 3]
        world.check_works()
        world.check_books()
