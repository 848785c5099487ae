"""What the service and the network do to connections, links, tokens and locks: nobody is deaf after it."""

from __future__ import annotations

import random
import threading
import time

import pytest

from greenmq import Connection, Queue
from greenmq.exceptions import ConnectionBlocked
from greenmq.transport.azureservicebus import lines
from tests.servicebus.test_queues import depth, until
from tests.stress import FACTOR
from tests.support import green
from tests.support.cloud import Seen, declared, publish

pytestmark = pytest.mark.slow

ROUNDS = 100 if FACTOR > 1 else 6


class TestLocks:

    def test_a_long_task_runs_once(self, connect, bus, name):
        """B2: a lock of 1 s, work for 4 s, and another consumer beside."""
        connection, other = connect(bus.url(), peek_lock_seconds=1), connect(bus.url(), peek_lock_seconds=1)
        queue = declared(connection, name)
        publish(connection, name, list(range(50)))
        held = []
        seen = Seen(connection, queue, held.append, prefetch=50)
        seen.until(lambda: len(held) == 50)
        second = Seen(other, Queue(name, routing_key=name))
        green.sleep(4)
        assert not second.bodies and len(held) == 50
        found = bus.counts()
        assert found['renew-lock'] <= 40, 'many locks in one request'
        for message in held:
            message.ack()
        until(lambda: depth(bus, name) == (0, 0))
        seen.stop()
        second.stop()

    def test_waiting_messages_keep_their_locks_and_count_no_deliveries(self, connect, bus, name):
        """B10: slow callbacks, and more ahead than a lock lasts."""
        connection = connect(bus.url(), peek_lock_seconds=1)
        queue = declared(connection, name)
        publish(connection, name, list(range(30)))

        def slowly(message):
            green.sleep(0.1)
            message.ack()

        seen = Seen(connection, queue, slowly, prefetch=30)
        seen.until(lambda: len(seen.bodies) == 30, 20)
        seen.stop()
        assert seen.bodies == list(range(30)) and not bus.counts().get('expired_locks')

    def test_shorter_locks_of_a_queue_that_others_made_are_seen(self, connect, bus, name):
        bus.ask('create', name=name, facts={'LockDuration': 'PT1.5S'})
        connection = connect(bus.url())  # which thinks of a minute
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        held = []
        seen = Seen(connection, queue, held.append)
        green.sleep(4)
        assert len(held) == 1 and bus.counts()['renew-lock'] >= 3
        held[0].ack()
        until(lambda: depth(bus, name) == (0, 0))
        seen.stop()

    def test_a_lost_lock_is_known_and_the_others_are_not_lost_with_it(self, connect, bus, name):
        connection = connect(bus.url(), peek_lock_seconds=1)
        queue = declared(connection, name)
        publish(connection, name, list(range(8)))
        held = []
        seen = Seen(connection, queue, held.append, prefetch=8)
        seen.until(lambda: len(held) == 8)
        token = str(held[3].delivery_info['azure_message'].lock_token)
        bus.ask('lose_lock', address=name, token=token)
        seen.until(lambda: held[3].place.lost)
        green.sleep(1.5)
        assert not any(message.place.lost for message in held[:3] + held[4:8])
        seen.stop()

    def test_a_limit_to_renewals(self, connect, bus, name):
        connection = connect(bus.url(), peek_lock_seconds=1, max_lock_renewal_duration=2)
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        held = []
        seen = Seen(connection, queue, held.append)
        seen.until(lambda: len(held) == 2, 10)  # it came again
        seen.stop()

    def test_work_that_was_done_is_settled_after_a_reconnect(self, connect, bus, proxy, name):
        """B16: the cut between callback and ack."""
        connection = connect(bus.url(port=proxy.port))
        queue = declared(connection, name)
        publish(connection, name, list(range(5)))
        held = []
        seen = Seen(connection, queue, held.append)
        seen.until(lambda: len(held) == 5)
        proxy.cut()
        until(lambda: connection.transport.session.state == 'open' and connection.transport.session.epoch > 1)
        for message in held[:3]:
            message.ack()
        held[3].requeue()
        held[4].reject()
        seen.until(lambda: len(held) == 6)  # the one that was requeued
        held[5].ack()
        until(lambda: depth(bus, name) == (0, 0))
        assert depth(bus, f'{name}/$DeadLetterQueue') == (1, 0)
        assert sorted(seen.bodies) == [0, 1, 2, 3, 3, 4]
        seen.stop()


class TestTokens:

    def test_short_tokens_are_renewed_whatever_else_runs(self, connect, bus, name):
        """B20: tokens of 3 s, which the peer enforces."""
        connection = connect(bus.url(), token_lifetime=3)
        queue = declared(connection, name)
        seen = Seen(connection, queue)
        for number in range(16):
            publish(connection, name, [number])
            green.sleep(0.5)
        seen.until(lambda: seen.bodies == list(range(16)))
        seen.stop()
        found = bus.counts()
        assert not found.get('expired_tokens') and found['tokens'] >= 6

    def test_a_renewal_that_is_refused_is_made_again(self, connect, bus, name):
        connection = connect(bus.url(), token_lifetime=3)
        queue = declared(connection, name)
        seen = Seen(connection, queue)
        publish(connection, name, ['x'])
        seen.until(lambda: seen.bodies == ['x'])
        bus.ask('refuse', what='token', condition='503', times=2)
        green.sleep(4)
        publish(connection, name, ['y'])
        seen.until(lambda: seen.bodies == ['x', 'y'])
        seen.stop()

    def test_a_token_that_ended_while_nobody_looked_costs_no_message(self, connect, bus, name):
        connection = connect(bus.url())
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        bus.ask('forget_tokens')
        until(lambda: bus.counts().get('expired_tokens'))
        green.sleep(0.2)
        publish(connection, name, ['y'])
        assert [queue.get(no_ack=True).payload for _ in range(2)] == ['x', 'y']

    def test_those_of_entra_id_are_fetched_in_a_thread_once_for_all(self, connect, bus, name):
        class Identity:
            def __init__(self):
                self.threads = []

            def get_token(self, *scopes):
                assert scopes == ('https://servicebus.azure.net/.default',)
                self.threads.append(threading.get_ident())
                time.sleep(0.3)  # blocks its thread, and nobody else
                return type('Token', (), {'token': f'jwt.{time.time() + 3600}',
                                          'expires_on': time.time() + 3600})

        identity = Identity()
        connection = connect(bus.url(policy='DefaultAzureCredential', key='').replace(':@', '@'),
                             credential=identity)
        for number in range(5):
            declared(connection, f'{name}-{number}')
        tasks = [green.spawn(publish, connection, f'{name}-{number % 5}', [number]) for number in range(20)]
        green.joinall(tasks, raise_error=True)
        assert len(identity.threads) == 1


class TestIdle:

    def test_the_first_publish_after_a_pause(self, connect, bus, name):
        """B4: the service ends links that are idle, and connections that have none."""
        connection = connect(bus.url())
        queue = declared(connection, name)
        for number in range(ROUNDS):
            publish(connection, name, [number])
            # Only now: what is ended while a message is on its way to it leaves that one's outcome unknown
            what = ('idle_links', 'idle_connections')[number % 2]
            bus.counts(clear=True)
            bus.ask('set', idle_link=0.05, idle_connection=0.15)
            until(lambda what=what: bus.counts().get(what, 0))
            bus.ask('set', idle_link=0.0, idle_connection=0.0)
            green.sleep(0.2)  # what it said is read
        seen = Seen(connection, queue)
        seen.until(lambda: sorted(seen.bodies) == list(range(ROUNDS)))
        seen.stop()

    def test_many_idle_queues_are_one_connection_and_no_thread(self, connect, bus, name):
        """B8."""
        connection, threads = connect(bus.url()), threading.active_count()
        channel = connection.channel()
        for number in range(100):
            bus.ask('create', name=f'{name}-{number}')
            channel.basic_consume(f'{name}-{number}', False, print, f'tag-{number}')
        until(lambda: len(connection.transport.session.driver._lines.main().receiving) == 100)
        assert threading.active_count() == threads
        assert connection.transport.stats()['connections'] == 1 and bus.counts()['open'] == 1


class TestFaults:

    @pytest.mark.parametrize('fault', ['cut', 'detach', 'close', 'blackhole'])
    def test_a_consumer_is_not_deaf_after(self, connect, bus, proxy, name, fault):
        """B5."""
        # What the peer gives to a connection that is gone stays locked for as long as a lock lasts.
        connection = connect(bus.url(port=proxy.port), idle_timeout=1, peek_lock_seconds=1)
        sender = connect(bus.url())
        queue = declared(connection, name)
        seen = Seen(connection, queue)
        for number in range(ROUNDS):
            publish(sender, name, [number], retry=True)
            seen.until(lambda number=number: number in seen.bodies, 10)
            if fault == 'cut':
                proxy.cut()
            elif fault == 'blackhole':
                proxy.blackhole('both')
                green.sleep(1.6)
                proxy.heal()
            elif fault == 'detach':
                bus.ask('detach', address=name, condition='amqp:internal-error', role='out')
            else:
                bus.ask('close', condition='amqp:connection:forced')
        publish(sender, name, ['last'], retry=True)
        seen.until(lambda: 'last' in seen.bodies, 10)
        seen.stop()

    def test_a_consumer_that_waits_to_be_let_in_outlives_a_cut(self, connect, bus, proxy, name):
        bus.ask('create', name=name)
        connection = connect(bus.url(port=proxy.port))
        bus.ask('refuse', what='token', condition='503', times=2)
        seen = Seen(connection, Queue(name, routing_key=name), auto_declare=False)
        until(lambda: bus.counts().get('tokens', 0) >= 3)  # one as the connection is opened
        proxy.cut()
        until(lambda: connection.transport.session.epoch > 1 and connection.connected)
        publish(connect(bus.url()), name, ['x'])
        seen.until(lambda: seen.bodies == ['x'], 10)
        seen.stop()

    def test_cancelled_consumers_leave_nothing_locked(self, connect, bus, name):
        """B6."""
        connection, other = connect(bus.url()), connect(bus.url())
        declared(other, name)
        rng = random.Random(6)
        feeding = green.spawn(lambda: [publish(connection, name, [n]) or green.sleep(0.002)
                                       for n in range(ROUNDS * 20)])
        for _ in range(ROUNDS):
            ended = green.spawn(self.consume, bus.url(), name)
            green.sleep(rng.random() * 0.1)
            ended.kill()
        feeding.join()
        seen = Seen(other, Queue(name, routing_key=name), prefetch=200)
        seen.until(lambda: set(seen.bodies) == set(range(ROUNDS * 20)), 10)  # no lock of a minute ends here
        seen.stop()

    def consume(self, url, name):
        queue = Queue(name, routing_key=name)
        with Connection(url) as connection, connection.Consumer([queue], on_message=lambda message: None):
            while True:
                connection.drain_events(timeout=5)

    def test_channels_come_and_go_beside_a_running_one(self, connect, bus, name):
        """B12."""
        connection = connect(bus.url())
        queue = declared(connection, name)
        seen = Seen(connection, queue)
        for number in range(ROUNDS * 10):
            channel = connection.channel()
            declared_again = Queue(name, routing_key=name)(channel)
            if number % 3 == 0:
                consumer = connection.Consumer([declared_again], channel=channel, callbacks=[seen._got])
                consumer.consume()
            publish(connection, name, [number])
            channel.close()
        seen.until(lambda: set(seen.bodies) == set(range(ROUNDS * 10)))
        seen.stop()

    def test_greenlets_share_one_connection(self, connect, bus, name):
        """B7."""
        connection = connect(bus.url())
        queue = declared(connection, name)
        publish(connection, name, list(range(1000)), 200)
        assert bus.counts()['connections'] == 1
        seen = Seen(connection, queue, prefetch=100)
        seen.until(lambda: sorted(seen.bodies) == list(range(1000)))
        seen.stop()
        green.sleep(0.1)
        found = bus.counts()
        assert found['flows'] <= 60 and found['connections'] == 1


class TestBusy:
    """B19."""

    @pytest.fixture(autouse=True)
    def brief(self, monkeypatch):
        for condition in lines.BUSY:
            monkeypatch.setitem(lines.BUSY, condition, 0.3)

    def test_a_publish_waits_within_its_deadline(self, connect, bus, name):
        connection = connect(bus.url())
        declared(connection, name)
        bus.ask('refuse', what='transfer', address=name, condition='com.microsoft:server-busy', times=2)
        began = time.monotonic()
        publish(connection, name, ['x'])
        assert time.monotonic() - began > 0.6 and depth(bus, name) == (1, 0)
        bus.ask('refuse', what='transfer', address=name, condition='com.microsoft:server-busy', times=1)
        with pytest.raises(ConnectionBlocked, match='busy'):
            connection.Producer(routing_key=name).publish('y', timeout=0.2)

    def test_a_consumer_comes_back_after_the_pause(self, connect, bus, name):
        connection = connect(bus.url())
        queue = declared(connection, name)
        seen = Seen(connection, queue)
        publish(connection, name, ['x'])
        seen.until(lambda: seen.bodies == ['x'])
        bus.counts(clear=True)
        bus.ask('detach', address=name, condition='com.microsoft:server-busy')
        publish(connection, name, ['y'])
        seen.until(lambda: seen.bodies == ['x', 'y'])
        seen.stop()


def test_the_hub_goes_on_while_a_consumer_waits(connect, bus, name):
    """B1."""
    connection = connect(bus.url())
    seen = Seen(connection, declared(connection, name))
    ticks, began = 0, time.monotonic()
    while time.monotonic() - began < 0.5:
        green.sleep(0.01)
        ticks += 1
    assert ticks > 20
    seen.stop()


def test_a_mutation_that_settles_before_the_callback_would_be_seen(connect, bus, name):
    connection = connect(bus.url())
    queue = declared(connection, name)
    publish(connection, name, ['x'])
    held = []
    seen = Seen(connection, queue, held.append)
    seen.until(lambda: held)
    green.sleep(0.2)
    assert depth(bus, name) == (0, 1)
    held[0].ack()
    until(lambda: depth(bus, name) == (0, 0))
    seen.stop()
