"""Redis under load and under fire: consumers killed at random, random faults, hundreds of greenlets (P4,
P25, P26).

Short in every run; `GREENMQ_SOAK=1` makes it 200 kills and 500 faults.
"""

from __future__ import annotations

import itertools
import json
import random
import sys

import pytest

from greenmq import Connection
from greenmq.exceptions import ConnectionLost, OperationalError, PublishUnconfirmed
from tests.contract.conftest import Bench, text
from tests.stress import FACTOR
from tests.support import green
from tests.support.process import end, popen, wait_until
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.once]

#: Greenlets that publish at once: one waits for the answer to each message.
CROWD = 20
KILLS, FAULTS = (200, 500) if FACTOR > 1 else (3, 12)
OPTIONS = {'health_check_interval': 0.3, 'sweep_interval': 0.5, 'lease_timeout': 1}
KINDS = ('cut', 'fin', 'blackhole', 'stall', 'client kill', 'restart', 'restart twice')


@pytest.fixture
def books(tmp_path):
    return tmp_path


def handled(books):
    """How often each number was handled, over all workers."""
    counts = {}
    for path in books.glob('book*'):
        for line in path.read_text().split('\n'):
            if line.isdigit():
                counts[int(line)] = counts.get(int(line), 0) + 1
    return counts


def publish_on(producer, numbers, sent):
    """Publish until killed."""
    for number in numbers:
        producer.publish(number)
        sent.add(number)


@pytest.mark.green_timeout(1200 if FACTOR > 1 else 60)
def test_consumers_killed_at_random_lose_nothing(redis_server, books):
    """P26: the publisher's book against the workers': lost = 0."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    numbers, sent, seconds = itertools.count(), set(), 0.0
    with Connection(redis_server.url(), transport_options=OPTIONS) as connection:
        producer = connection.Producer(serializer='json', routing_key='q')

        def start(number):
            path = books / f'book{number}'
            path.touch()
            child = popen(
                [
                    sys.executable,
                    '-m',
                    'tests.support.redis_worker',
                    redis_server.url(),
                    'q',
                    str(path),
                    json.dumps(OPTIONS),
                ]
            )
            wait_until(lambda: 'ready' in path.read_text(), 30, 'a worker')
            return child

        for number in range(KILLS):
            child = start(number)
            until = chance.uniform(0.05, 0.4)
            publishers = [green.spawn(publish_on, producer, numbers, sent) for _ in range(CROWD)]
            green.sleep(until)
            green.killall(publishers)
            end(child)
            seconds += until
        print(f'{len(sent)} messages published, {len(sent) / seconds:.0f} a second (seed {seed})')
        child = start(KILLS)
        # Publishes that were killed may have arrived or not.
        wait_until(lambda: sent <= set(handled(books)), 60, f'all to be handled (seed {seed})')
        with redis_server.client() as client:
            wait_until(lambda: not client.hlen('unacked') and not client.llen('q'), 30, 'all to be settled')
        end(child)


@pytest.mark.green_timeout(3600 if FACTOR > 1 else 120)
@pytest.mark.parametrize('shared', [True, False], ids=['one connection', 'two connections'])
def test_random_faults_never_make_a_consumer_deaf(redis_server, shared):
    """P25: after each fault a message arrives within 5 s, and the server sees no more clients than before."""
    chance = random.Random(random.randrange(1 << 30))
    with Proxy(redis_server.port) as proxy:

        def connect():
            connection = Connection(f'redis://127.0.0.1:{proxy.port}/0', transport_options=OPTIONS)
            connection.connect()
            return connection

        consuming = connect()
        publishing = consuming if shared else connect()
        seen = set()
        here, there = Bench(consuming.channel()), Bench(publishing.channel())
        here.consume('q', lambda message: (seen.add(text(message)), message.ack()))

        def drain():
            while True:
                try:
                    consuming.drain_events(timeout=60)
                except ConnectionLost:
                    continue

        def publish(body):
            with green.Timeout(5, AssertionError(f'{body} was not published within 5 s')):
                while True:
                    try:
                        there.channel.basic_publish(
                            there.channel.prepare_message(body.encode()), '', 'q', timeout=1
                        )
                        return
                    except (ConnectionLost, PublishUnconfirmed, OperationalError):
                        green.sleep(0.01)

        drainer = green.spawn(drain)
        clients = len(redis_server.clients())
        try:
            for number in range(FAULTS):
                kind = chance.choice(KINDS)
                strike(kind, proxy, redis_server, chance)
                publish(f'm{number}')
                wait_until(lambda body=f'm{number}': body in seen, 5, f'the message after {kind!r}')
            assert len(redis_server.clients()) == clients
        finally:
            drainer.kill()
            for connection in {consuming, publishing}:
                connection.close()


def strike(kind, proxy, server, chance):
    if kind == 'client kill':
        with server.client() as client:
            client.execute_command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    elif kind.startswith('restart'):
        server.restart()
        if kind.endswith('twice'):
            server.restart()
    elif kind == 'blackhole':
        proxy.blackhole()
        green.sleep(chance.uniform(0, 0.2))
        proxy.heal()
        proxy.cut()
    elif kind == 'stall':
        proxy.blackhole()
        green.sleep(chance.uniform(0, 0.2))
        proxy.heal()  # and what was under way arrives after all
    else:
        getattr(proxy, kind)()


def test_hundreds_of_greenlets_share_one_connection_and_get_their_own_replies(redis_server):
    with Connection(redis_server.url()) as connection:
        connection.connect()
        session = connection.transport.driver.server
        wrong = []

        def ask(number):
            for turn in range(20):
                word = f'{number}-{turn}'.encode()
                try:
                    with green.Timeout(random.choice([5, 0.0005])):
                        if session.execute(('ECHO', word)) != word:
                            wrong.append(word)
                except green.Timeout:
                    continue

        green.joinall([green.spawn(ask, number) for number in range(300)], raise_error=True)
        assert not wrong and session.epoch == 1 and len(redis_server.clients()) == 1
