"""Consumers die: what they had comes back, in its old order and to its one queue; the living keep theirs
(P26 to P28).
"""

from __future__ import annotations

import json
import sys

import pytest

from greenmq import Connection, runtime
from greenmq.transport.redis import leases
from tests.contract.conftest import Bench, text
from tests.support import green
from tests.support.process import end, popen, wait_until

OPTIONS = {'lease_timeout': 1.0, 'sweep_interval': 0.3, 'visibility_timeout': 3}


@pytest.fixture
def open_connection(redis_server, opened):
    return lambda **options: opened(redis_server.url(), **{**OPTIONS, **options})


@pytest.fixture
def worker(redis_server, tmp_path):
    """Start a consumer in a process of its own; gives it and the path of its book."""
    started = []

    def worker(seconds=0, **options):
        path = tmp_path / f'book{len(started)}'
        path.touch()
        child = popen(
            [
                sys.executable,
                '-m',
                'tests.support.redis_worker',
                redis_server.url(),
                'q',
                str(path),
                json.dumps({**OPTIONS, **options}),
                str(seconds),
            ]
        )
        started.append(child)
        wait_until(lambda: 'ready' in path.read_text(), 20, 'the worker to consume')
        return child, path

    yield worker
    for child in started:
        end(child)


def abandon(connection):
    """Vanish without a word, as a killed process does."""
    connection.transport.driver.lease.stop()
    connection.transport.driver.server.close()


@pytest.mark.slow
@pytest.mark.faults
def test_a_dead_consumers_messages_come_back_in_their_order(open_connection):
    dead = Bench(open_connection(fetch_batch=3).channel())
    held, seen = [], []
    for n in range(10):
        dead.put('q', n)
    dead.consume('q', held.append)
    dead.until(lambda: len(held) == 7)
    abandon(dead.client)
    here = Bench(open_connection().channel())
    here.channel.basic_qos(0, 1, False)
    here.consume('q', lambda message: (seen.append(text(message)), message.ack()))
    here.until(lambda: len(seen) == 10, seconds=5)
    # What stayed in the queue was never taken: it may be handled while the dead one's lease still runs.
    assert sorted(seen, key=int) == [str(n) for n in range(10)]
    returned = [body for body in seen if int(body) < 7]
    assert returned == sorted(returned, key=int)


@pytest.mark.slow
@pytest.mark.faults
def test_a_long_callback_is_run_once_however_short_the_timeouts(open_connection):
    """P27: four workers, leases of 0.5 s, visibility 1 s, a callback of 2.5 s: one execution."""
    runs, done = [], []
    options = {'lease_timeout': 0.5, 'visibility_timeout': 1}
    benches = [Bench(open_connection(**options).channel()) for _ in range(4)]

    def long(message):
        runs.append(text(message))
        green.sleep(2.5)
        message.ack()
        done.append(1)

    for bench in benches:
        bench.consume('q', long)
    benches[0].put('q', 'x')
    drainers = [green.spawn(bench.drain, 10) for bench in benches]
    wait_until(lambda: done, 8, 'the callback to end')
    green.killall(drainers)
    assert runs == ['x']


@pytest.mark.slow
@pytest.mark.faults
def test_killed_workers_lose_nothing_under_load(open_connection, worker, redis_server):
    """P26: kill -9 at any moment; lost = 0. (200 rounds with GREENMQ_SOAK, see tests/stress.)"""
    publisher = open_connection().Producer(serializer='json', routing_key='q')
    number, books = 0, []
    for _ in range(2):
        child, path = worker()
        books.append(path)
        for _ in range(300):
            publisher.publish(number)
            number += 1
        end(child)
    child, path = worker()
    books.append(path)

    def done():
        lines = [line for book in books for line in book.read_text().split('\n')]
        return len({line for line in lines if line.isdigit()}) == number

    wait_until(done, 15, 'every message to be seen')
    with redis_server.client() as client:
        wait_until(lambda: not client.hlen('unacked'), 10, 'everything to be settled')
        assert client.llen('q') == 0


@pytest.mark.slow
@pytest.mark.faults
def test_many_abandoned_messages_come_back_bounded_and_without_a_stampede(open_connection, redis_server):
    """P28: 5,000 messages of a dead consumer, 10 living ones."""
    dead = Bench(open_connection(fetch_batch=500).channel())
    with redis_server.client() as client:
        raw = json.dumps(
            {
                'body': 'eA==',
                'headers': {},
                'content-type': 't',
                'content-encoding': 'binary',
                'properties': {'body_encoding': 'base64', 'delivery_tag': 'k'},
            }
        )
        client.lpush('q', *[raw.replace('"t"', f'"{n}"') for n in range(5000)])
    dead.channel.books.fetch_ahead = 10_000  # asked for again at half
    dead.consume('q', lambda message: None)
    with redis_server.client() as client:
        wait_until(lambda: client.hlen('unacked') == 5000, 10, 'the dead one to have all')
        client.config_resetstat()
        abandon(dead.client)
        living = [Bench(open_connection().channel()) for _ in range(10)]
        for bench in living:
            bench.consume('other', lambda message: None)
        wait_until(lambda: client.llen('q') == 5000, 8, 'all to be back')
        order = [json.loads(each)['content-type'] for each in client.lrange('q', 0, -1)]
        assert order == [str(n) for n in reversed(range(5000))]
        sweeps = client.info('commandstats')
        assert sweeps['cmdstat_evalsha']['calls'] < 500 and client.hlen('unacked') == 0


@pytest.mark.slow
@pytest.mark.faults
def test_closing_gives_all_back_at_once(open_connection):
    there = open_connection()
    held = Bench(there.channel())
    for n in range(3):
        held.put('q', n)
    got = []
    held.consume('q', got.append)
    held.until(lambda: len(got) == 2)
    there.close()
    here = Bench(open_connection().channel())
    assert here.get_all('q') == ['0', '1', '2']


@pytest.mark.slow
@pytest.mark.faults
def test_what_a_connection_held_that_was_closed_while_the_server_was_away_comes_back_soon(
    open_connection, redis_server
):
    """As Celery's worker does: it closes the connection that it lost, and opens another."""
    long = {'lease_timeout': 600, 'visibility_timeout': 3600, 'close_timeout': 0.5}
    lost = Bench(open_connection(**long).channel())
    held = []
    lost.consume('q', held.append)
    for n in range(3):
        lost.put('q', n)
    lost.until(lambda: len(held) == 3)
    redis_server.kill()
    lost.client.close()
    redis_server.start()
    seen = []
    there = Bench(open_connection(**long).channel())
    there.consume('q', lambda message: (seen.append(text(message)), message.ack()))
    there.until(lambda: len(seen) == 3, 20)
    assert seen == ['0', '1', '2']


def test_a_lease_that_may_not_be_ended_keeps_nobody_from_looking_for_the_dead(redis_server, monkeypatch):
    url = redis_server.url().replace('://', '://worker:secret@')
    with Connection(url, transport_options={**OPTIONS, 'global_keyprefix': 'app:'}) as connection:
        connection.connect()
        driver = connection.transport.driver
        left = {'theirs': runtime.monotonic() + 60}
        monkeypatch.setitem(leases._left, driver.server.name, left)
        assert driver.lease.sweep(force=True)[0] == 0
        assert not left and driver.server.name not in leases._left
