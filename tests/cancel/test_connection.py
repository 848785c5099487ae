"""connect, channel, ensure, autoretry and close, cut at every switch."""
from __future__ import annotations

import pytest

from greenmq import Connection
from greenmq.exceptions import OperationalError
from tests.cancel import slow
from tests.cancel.world import each
from tests.support import green


def test_connect(transport):
    for injection, world in each(transport, must_switch=transport == 'slow'):
        outcome = injection.run(world.connection.connect)
        if outcome.error is None:
            assert world.connection.connected
        world.check_works()


def test_connect_by_several_greenlets_when_the_one_that_dials_is_hit(transport):
    for injection, world in each(transport):
        others = []

        def connect(world=world, others=others):
            others += [green.spawn(world.connection.connect) for _ in range(3)]
            return world.connection.connect()

        injection.run(connect)
        for other in others:
            assert other.get(timeout=2) is world.connection
        world.check_works()


def test_connect_when_the_next_to_dial_is_hit_too():
    """The one that dials is killed; the one told to dial instead is hit; the third must still be served."""
    for injection, world in each('slow', rounds=range(6)):
        dialler, third = (green.Greenlet(world.connection.connect) for _ in range(2))

        def connect(world=world, dialler=dialler, third=third):
            dialler.start()
            green.sleep(0)  # now it dials
            third.start()
            green.spawn(dialler.kill)
            return world.connection.connect()

        injection.run(connect)
        if third.started:
            assert third.get(timeout=2) is world.connection
        world.check_works()


def test_channel(transport):
    for injection, world in each(transport):
        injection.run(world.connection.channel)
        world.check_works()


def test_default_channel(transport):
    for injection, world in each(transport):
        injection.run(lambda world=world: world.connection.default_channel)
        channel = world.connection.default_channel
        assert channel is world.connection.default_channel
        world.check_works()


def test_close_while_another_drains(transport):
    for injection, world in each(transport):
        errors = []

        def wait(world=world, errors=errors):
            with world.consumer():
                try:
                    world.connection.drain_events(timeout=10)
                except Exception as exc:
                    errors.append(exc)

        drainer = green.spawn(wait)
        green.idle()
        injection.run(world.connection.close)
        world.connection.close()
        drainer.join(timeout=2)
        assert drainer.ready(), 'close() left a greenlet waiting in drain_events'
        assert len(errors) == 1 and isinstance(errors[0], world.connection.connection_errors), errors


def test_release_and_collect(transport):
    for name in ('release', 'collect'):
        for injection, world in each(transport):
            world.connection.connect()
            injection.run(getattr(world.connection, name))
            getattr(world.connection, name)()
            # Another greenlet may still be closing; a new connection must not meet it.
            world.connection = world.connect()
            world.check_works()


def test_ensure_between_its_tries(transport):
    for injection, world in each(transport, must_switch=True):
        calls, revived = [], []

        class Target:
            def revive(self, channel, revived=revived):
                revived.append(channel)

        def publish(calls=calls, world=world):
            calls.append(1)
            if len(calls) < 3:
                raise world.connection.recoverable_connection_errors[0]('come back later')
            return 'through'

        ensured = world.connection.ensure(Target(), publish, max_retries=5, interval_start=0.001,
                                          interval_step=0, interval_max=0.001)
        outcome = injection.run(ensured)
        if outcome.error is None:
            assert outcome.value == 'through' and len(calls) == 3
        world.check_works()


class NobodyThere(slow.Transport):
    """A broker that refuses every connection."""

    def establish_connection(self):
        slow.round_trip()
        raise self.recoverable_connection_errors[0]('nobody there')


def test_ensure_connection_to_a_broker_that_is_not_there():
    for injection, world in each('plain', must_switch=True, may_raise=(OperationalError,)):
        connection = Connection('localhost', transport=NobodyThere)
        outcome = injection.run(connection.ensure_connection, max_retries=2, interval_start=0.001,
                                interval_step=0, interval_max=0.001)
        assert outcome.error is not None
        assert not connection.connected
        connection.close()
        world.check_works()


def test_autoretry(transport):
    for injection, world in each(transport):
        calls = []

        def declare(channel=None, calls=calls, world=world):
            calls.append(channel)
            if len(calls) < 2:
                raise world.connection.recoverable_connection_errors[0]('once')
            return world.queue(channel).declare()

        injection.run(world.connection.autoretry(declare, interval_start=0.001, interval_max=0.001))
        world.check_works()


@pytest.mark.parametrize('how', ['with', 'close'])
def test_a_whole_short_life(transport, how):
    for injection, world in each(transport):

        def life(world=world):
            if how == 'with':
                with world.connect() as connection:
                    world.queue(connection.channel()).declare()
            else:
                connection = world.connect()
                try:
                    world.queue(connection.channel()).declare()
                finally:
                    connection.close()

        injection.run(life)
        world.check_works()
