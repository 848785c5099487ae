"""Redis goes away, falls silent or is cut: who learns of it, and that consuming goes on (P4, P15, P25,
P29).
"""

from __future__ import annotations

import random

import pytest

from greenmq import Exchange, Queue, events, runtime
from greenmq.exceptions import ConnectionLost, PublishUnconfirmed
from tests.contract.conftest import Bench, text
from tests.support import green
from tests.support.proxy import Proxy
from tests.support.redis_server import Redis

OPTIONS = {'health_check_interval': 0.3, 'sweep_interval': 0.5, 'lease_timeout': 5}


@pytest.fixture
def proxy(redis_server):
    with Proxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def open_connection(opened):
    return lambda port, **options: opened(f'redis://127.0.0.1:{port}/0', **{**OPTIONS, **options})


class Eater:
    """Drains in a greenlet, through losses, and notes what came and what was raised."""

    def __init__(self, connection, queue='q', ack=True):
        self.connection = connection
        self.seen, self.losses = [], []
        self.bench = Bench(connection.channel())
        self.bench.consume(queue, self.on_message)
        self.ack = ack
        self.task = green.spawn(self.run)

    def on_message(self, message):
        self.seen.append(text(message))
        if self.ack:
            message.ack()

    def run(self):
        while True:
            try:
                self.connection.drain_events(timeout=60)
            except ConnectionLost as error:
                self.losses.append(error)

    def wait(self, count, seconds=5):
        with green.Timeout(seconds, AssertionError(f'{len(self.seen)} of {count} within {seconds} s')):
            while len(self.seen) < count:
                green.sleep(0.002)


@pytest.fixture
def eat(no_greenlet_left):
    eaters = []

    def eat(*args, **kwargs):
        eaters.append(Eater(*args, **kwargs))
        return eaters[-1]

    yield eat
    green.killall([eater.task for eater in eaters])


def test_a_killed_greenlets_reply_goes_to_nobody_else(proxy, open_connection):
    """P4: killed at any moment between the command and its reply, the next one gets its own reply."""
    connection = open_connection(proxy.port, health_check_interval=10)
    session = connection.transport.driver.server
    for n in range(20):
        session.execute(('SET', f'k{n}', n))
    proxy.latency(0.005)
    for n in range(60):
        victim = green.spawn(session.execute, ('GET', f'k{n % 20}'))
        green.sleep(random.choice([0, 0.002, 0.005, 0.008, 0.011]))
        victim.kill(block=False)
        other = (n + 7) % 20
        assert session.execute(('GET', f'k{other}')) == str(other).encode()
        green.joinall([victim])


FAULTS = ['cut', 'fin', 'blackhole', 'client kill', 'restart', 'restart twice']


def strike(fault, proxy, server):
    if fault == 'client kill':
        with server.client() as client:
            client.execute_command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    elif fault.startswith('restart'):
        server.restart()
        if fault.endswith('twice'):
            server.restart()
    elif fault == 'blackhole':
        proxy.blackhole()
        green.sleep(0.1)
        proxy.heal()
        proxy.cut()
    else:
        getattr(proxy, fault)()


@pytest.mark.parametrize('fault', FAULTS)
@pytest.mark.faults
def test_consuming_goes_on_after(fault, proxy, redis_server, open_connection, eat):
    """P25: noticed by the reader's EOF or reset, or by a PING without answer; one message comes within 5
    s.
    """
    eater = eat(open_connection(proxy.port))
    Bench(open_connection(redis_server.port).channel()).put('q', 'before')
    eater.wait(1)
    strike(fault, proxy, redis_server)
    publisher = Bench(open_connection(redis_server.port).channel())
    publisher.put('q', 'after')
    eater.wait(2)
    assert eater.seen == ['before', 'after']
    assert all(isinstance(error, ConnectionLost) for error in eater.losses)


@pytest.mark.faults
def test_a_silent_server_is_noticed_by_the_health_check(proxy, redis_server, open_connection, eat):
    """P15: half-open: nothing is refused, nothing answers; noticed after the interval and 2 s."""
    lost = []
    connection = open_connection(proxy.port)
    subscription = events.subscribe('lost', lost.append, source=connection)
    eater = eat(connection)
    proxy.blackhole()
    with green.Timeout(5):
        while not lost:
            green.sleep(0.01)
    proxy.heal()
    proxy.cut()
    Bench(open_connection(redis_server.port).channel()).put('q', 'x')
    eater.wait(1, seconds=8)
    subscription.cancel()


@pytest.mark.faults
def test_a_fetch_whose_answer_is_lost_loses_no_message(proxy, redis_server, open_connection, eat):
    """P26: popped and registered, and the reply cut after some bytes: it comes back to the same consumer."""
    eater = eat(open_connection(proxy.port))
    publisher = Bench(open_connection(redis_server.port).channel())
    publisher.put('q', 'first')
    eater.wait(1)
    proxy.half(120, 'down', then='cut')
    for n in range(3):
        publisher.put('q', n)
    eater.wait(4)
    green.sleep(0.05)
    assert sorted(eater.seen) == ['0', '1', '2', 'first']
    with redis_server.client() as client:
        assert client.hlen('unacked') == 0


@pytest.mark.faults
def test_acks_of_a_lost_connection_still_count(proxy, redis_server, open_connection, eat):
    eater = eat(open_connection(proxy.port), ack=False)
    held = []
    eater.on_message = held.append
    eater.bench.channel.basic_cancel('t')
    eater.bench.consume('q', held.append)
    Bench(open_connection(redis_server.port).channel()).put('q', 'x')
    with green.Timeout(5):
        while not held:
            green.sleep(0.005)
    proxy.cut()
    held[0].ack()
    with redis_server.client() as client, green.Timeout(5):
        while client.hlen('unacked'):
            green.sleep(0.01)


@pytest.mark.faults
def test_a_publish_waits_for_the_recovery_within_its_deadline(redis_server, open_connection):
    connection = open_connection(redis_server.port)
    here = Bench(connection.channel())
    here.put('q', 'before')
    redis_server.kill()
    message = here.channel.prepare_message(b'x')
    with pytest.raises((PublishUnconfirmed, ConnectionLost)):
        here.channel.basic_publish(message, '', 'q', timeout=0.2)
    late = green.spawn(here.channel.basic_publish, here.channel.prepare_message(b'y'), '', 'q', timeout=10)
    green.sleep(0.05)
    redis_server.start()
    late.get(timeout=10)
    assert here.get_all('q')[-1] == 'y'


@pytest.mark.faults
def test_declaring_is_held_to_the_deadline_of_the_publish(proxy, open_connection):
    """P17: one deadline for the publish and all below it; nothing was sent, and the error says so."""
    connection = open_connection(proxy.port, health_check_interval=30)
    producer, queue = connection.Producer(), Queue('q', Exchange('ex'), 'key')
    proxy.blackhole()
    outcomes = []

    def publish(timeout):
        began = runtime.monotonic()
        try:
            producer.publish('x', 'key', exchange='ex', declare=[queue], timeout=timeout)
        except PublishUnconfirmed as error:
            outcomes.append((timeout, error.sent, runtime.monotonic() - began >= timeout))

    with green.Timeout(10):
        green.joinall([green.spawn(publish, timeout) for timeout in (0.6, 0.2, 0.4)])
    assert sorted(outcomes) == [(0.2, 'no', True), (0.4, 'no', True), (0.6, 'no', True)]
    proxy.heal()
    publish(10)
    assert len(outcomes) == 3 and not len(connection._declaring)


@pytest.mark.faults
def test_channels_stay_the_same_and_declarations_are_looked_at_again(redis_server, open_connection):
    recovered = []
    connection = open_connection(redis_server.port)
    subscription = events.subscribe('recovered', recovered.append, source=connection)
    channel, epoch = connection.default_channel, connection.epoch
    connection.declared_entities.add(1)
    redis_server.restart()
    with green.Timeout(5):
        while not recovered:
            green.sleep(0.01)
    assert connection.default_channel is channel and connection.epoch == epoch + 1
    assert not connection.declared_entities
    subscription.cancel()


@pytest.mark.faults
@pytest.mark.parametrize('mode', ['pubsub', 'stream'])
def test_what_a_fanout_may_have_missed_is_told_or_made_up_for(mode, proxy, redis_server, open_connection):
    """P29: pub/sub keeps nothing, so the gap is told; a stream is read on from where it stopped."""
    gaps, seen = [], []
    connection = open_connection(proxy.port, fanout_mode=mode)
    channel = connection.channel()
    channel.exchange_declare('news', 'fanout')
    channel.queue_declare('f')
    channel.queue_bind('f', 'news')
    channel.on_gap = lambda exchange, since: gaps.append(exchange)
    here = Bench(channel)
    here.consume('f', lambda message: (seen.append(int(text(message))), message.ack()))
    publisher = Bench(open_connection(redis_server.port, fanout_mode=mode).channel())
    publisher.channel.exchange_declare('news', 'fanout')

    def drain():
        while True:
            try:
                connection.drain_events(timeout=60)
            except ConnectionLost:
                continue

    drainer = green.spawn(drain)
    number = 0
    for _ in range(5):
        for _ in range(20):
            publisher.publish(number, 'news')
            number += 1
        proxy.cut()
        green.sleep(0.02)
    with green.Timeout(8):
        while not seen or seen[-1] != number:
            publisher.publish(number, 'news')
            if seen and seen[-1] >= number:
                break
            green.sleep(0.05)
    drainer.kill()
    missing = set(range(number)) - set(seen)
    assert seen == sorted(seen)
    if mode == 'stream':
        assert not missing and not gaps
    else:
        assert gaps.count('news') >= 1 or not missing


@pytest.mark.faults
def test_the_number_of_connections_is_the_same_after_many_losses(proxy, redis_server, open_connection, eat):
    """P32."""
    connection = open_connection(proxy.port)
    eater = eat(connection)
    publisher = Bench(open_connection(redis_server.port).channel())
    for n in range(20):
        proxy.cut()
        publisher.put('q', n)
        eater.wait(n + 1)
    assert eater.seen == [str(n) for n in range(20)]
    assert len(redis_server.clients()) == 2


@pytest.mark.faults
def test_a_server_that_refuses_every_write_is_not_dialled_again_and_again(redis_server, open_connection):
    """A link that did not last counts as a failed dial: 0, 0.05, 0.1, … s apart. And then all goes on."""
    connection = open_connection(redis_server.port)
    session, here = connection.transport.driver.server, Bench(connection.channel())
    with redis_server.client() as client:
        client.execute_command('REPLICAOF', '127.0.0.1', '1')
        try:
            pauses = []
            while session.epoch < 7:
                with pytest.raises((ConnectionLost, PublishUnconfirmed)):
                    here.put('q', 'x')
                pauses.append(session.pause_seconds)
        finally:
            client.execute_command('REPLICAOF', 'NO', 'ONE')
    assert sorted(pauses) == pauses and pauses[-1] >= 0.4
    with green.Timeout(5):
        session.wait_open(None)
    here.put('q', 'y')
    assert here.get_all('q') == ['y']


@pytest.mark.faults
@pytest.mark.parametrize('loss', ['flushall', 'restart'])
def test_what_was_declared_is_there_again_when_the_server_kept_nothing(loss, open_connection, eat):
    """P30: by the consumer that declared it, for publishers that declare nothing."""
    server = Redis(durable=False)
    try:
        server.start()
        connection = open_connection(server.port)
        Queue('q', Exchange('ex'), 'key', expires=60)(connection.default_channel).declare()
        Queue('plain', Exchange('ex'), 'key')(connection.default_channel).declare()
        eater = eat(connection)
        publisher = Bench(open_connection(server.port).channel())
        publisher.publish('before', 'ex', 'key')
        eater.wait(1)
        with server.client() as client:
            if loss == 'restart':
                server.restart()
            else:
                client.flushall()
        with server.client() as client, green.Timeout(5):
            while not (client.hlen('greenmq.queues') == 2 and client.scard('_kombu.binding.ex') == 2):
                green.sleep(0.01)
            publisher.publish('after', 'ex', 'key')
            eater.wait(2)
            assert client.zcard('greenmq.expiring') == 1 and client.llen('plain') == 1
    finally:
        server.stop()
