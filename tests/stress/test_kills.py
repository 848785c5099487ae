"""Consumers and publishers that die of SIGKILL lose nothing, on every broker that processes share.

Short in every run; `GREENMQ_SOAK=1` kills more often.
"""
from __future__ import annotations

import itertools
import json
import random
import sys
import time

import pytest

from greenmq import Connection, Queue
from tests.stress import FACTOR
from tests.support import brokers, green
from tests.support.process import end, popen, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.own_process]

KILLS = 20 if FACTOR > 1 else 3
CROWD = 20

PUBLISHER = """
import json, sys
from greenmq import Connection
from tests.support import green
url, queue, path, options = sys.argv[1:]
connection = Connection(url, connect_timeout=30, transport_options=json.loads(options))
producer = connection.Producer(serializer='json', routing_key=queue)
book = open(path, 'a', buffering=1)
def publish(who):
    number = 0
    while True:
        number += 1
        producer.publish(f'{who}-{number}')
        book.write(f'{who}-{number}\\n')
producer.publish('first')
book.write('first\\n')
for who in range(10):
    green.spawn(publish, f'{path[-6:]}/{who}')
green.sleep(600)
"""


@pytest.fixture(params=[
    pytest.param(row, id=row.name, marks=[getattr(pytest.mark, row.mark)] if row.mark else [])
    for row in brokers.TABLE if row.brisk is not None
])
def shared(request):
    """The URL of a broker that processes share, and its brisk options."""
    row = request.param
    return (request.getfixturevalue(row.url) if row.is_fixture else row.url), row.brisk


def lines(folder, pattern):
    counts = {}
    for path in folder.glob(pattern):
        for line in path.read_text().split('\n')[:-1]:
            counts[line] = counts.get(line, 0) + 1
    return counts


def wait_handled(sent, folder, pattern, seed, seconds=60):
    """Wait for all, for as long as there is something new: a store may need minutes for what a soak sends."""
    left, since = len(sent) + 1, time.monotonic()
    while missing := len(sent - lines(folder, pattern).keys()):
        if missing < left:
            left, since = missing, time.monotonic()
        assert time.monotonic() - since < seconds, f'{missing} of {len(sent)} were not handled (seed {seed})'
        green.sleep(0.1)


WORKERS = []


@pytest.fixture(autouse=True)
def no_worker_left():
    """One that a failed test leaves would take the messages of the next."""
    yield
    while WORKERS:
        end(WORKERS.pop())


def worker(url, options, path, seconds=0):
    path.touch()
    child = popen([
        sys.executable, '-m', 'tests.support.redis_worker', url, 'kills', str(path), json.dumps(options),
        str(seconds),
    ])
    WORKERS.append(child)
    wait_until(lambda: 'ready' in path.read_text(), 30, 'a worker')
    return child


@pytest.mark.green_timeout(1200 if FACTOR > 1 else 90)
def test_consumers_killed_at_random_lose_nothing(shared, tmp_path):
    url, options = shared
    seed = random.randrange(1 << 30)
    chance, numbers, sent = random.Random(seed), itertools.count(), set()
    with Connection(url, connect_timeout=30, transport_options=options) as connection:
        Queue('kills', routing_key='kills')(connection.default_channel).declare()
        producer = connection.Producer(serializer='json', routing_key='kills')

        def publish():
            for number in numbers:
                producer.publish(number)
                sent.add(str(number))

        for turn in range(KILLS):
            child = worker(url, options, tmp_path / f'seen{turn}')
            publishers = [green.spawn(publish) for _ in range(CROWD)]
            green.sleep(chance.uniform(0.05, 0.4))
            green.killall(publishers)
            end(child)
        child = worker(url, options, tmp_path / 'seen-last')
        # Then all that was confirmed is handled by somebody, and what a dead one held came back
        wait_handled(sent, tmp_path, 'seen*', seed)
        end(child)


@pytest.mark.green_timeout(600 if FACTOR > 1 else 90)
def test_publishers_killed_at_random_lose_nothing_that_was_confirmed(shared, tmp_path):
    url, options = shared
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    with Connection(url, connect_timeout=30, transport_options=options) as connection:
        Queue('kills', routing_key='kills')(connection.default_channel).declare()
    child = worker(url, options, tmp_path / 'seen')
    for turn in range(KILLS):
        book = tmp_path / f'sent{turn}'
        book.touch()
        publisher = popen([sys.executable, '-c', PUBLISHER, url, 'kills', str(book), json.dumps(options)])
        wait_until(book.read_text, 30, 'a publisher')
        green.sleep(chance.uniform(0.05, 0.3))
        end(publisher)
    sent = set(lines(tmp_path, 'sent*'))
    assert len(sent) > KILLS
    wait_handled(sent, tmp_path, 'seen*', seed)
    end(child)


def test_what_a_dead_consumer_held_comes_to_another_one(shared, tmp_path):
    url, options = shared
    with Connection(url, connect_timeout=30, transport_options=options) as connection:
        Queue('kills', routing_key='kills')(connection.default_channel).declare()
        producer = connection.Producer(serializer='json', routing_key='kills')
        child = worker(url, options, tmp_path / 'one', seconds=60)
        for number in range(10):
            producer.publish(number)
        wait_until(lambda: lines(tmp_path, 'one').keys() - {'ready'}, 30, 'the first message')
        other = worker(url, options, tmp_path / 'two')
        end(child)
        wait_until(lambda: {str(n) for n in range(10)} <= set(lines(tmp_path, 'two')), 40, 'all ten')
        end(other)
