"""Many queues on one channel: what is known to be empty is not asked again, and nothing is missed for it."""

from __future__ import annotations

import random

import pytest

from greenmq.exceptions import ConnectionLost
from tests.contract.conftest import Bench, text
from tests.contract.test_redis import fetches, here, open_connection, raw, until
from tests.support import green

__all__ = ('here', 'open_connection', 'raw')  # the fixtures

#: Steps of priority, each a list.
STEPS = 4


def pops(raw):
    """How many lists the server was asked for a message since `config_resetstat`."""
    return raw.info('commandstats').get('cmdstat_rpop', {'calls': 0})['calls']


def consume(bench, queue, seen):
    """Keep the texts of a queue's messages in `seen`."""
    bench.consume(queue, lambda message: (seen.append(text(message)), message.ack()), tag=queue)


def idle(bench):
    until(lambda: fetches(bench))


@pytest.fixture
def slow(open_connection):
    """Opens benches whose fetches ask again only after a minute: what is missed fails its test."""
    return lambda: Bench(open_connection(health_check_interval=60).channel())


def test_starting_one_by_one_asks_for_each_queue_once(slow, raw):
    bench = slow()
    for begun in (0, 30):
        raw.config_resetstat()
        for number in range(begun, begun + 30):
            consume(bench, f'q{number}', [])
            until(lambda asked=number - begun + 1: pops(raw) >= asked * STEPS)
            idle(bench)
        assert pops(raw) == 30 * STEPS


def test_a_message_costs_the_same_among_many_queues(slow, raw):
    found = []
    for count in (2, 50):
        bench, seen = slow(), []
        for number in range(count):
            consume(bench, f'{count}-{number}', seen)
        idle(bench)
        turns = []
        for _ in range(3):
            raw.config_resetstat()
            seen.clear()
            for number in range(2):
                bench.put(f'{count}-{number}', number)
                bench.until(lambda number=number, seen=seen: len(seen) > number)
                idle(bench)
            turns.append(pops(raw))
        # The word of a message may come while its queue is being asked, which then is asked once more for it.
        found.append(min(turns))
    assert found[0] == found[1]


def test_reading_costs_one_command_however_many_lists(slow, raw):
    bench = slow()
    bench.channel.basic_qos(0, 1, False)
    raw.config_resetstat()
    consume(bench, 'q', [])
    idle(bench)
    stats = raw.info('commandstats')
    assert stats['cmdstat_exists']['calls'] == 1 and 'cmdstat_llen' not in stats


def test_a_delayed_message_for_a_queue_that_is_known_to_be_empty(slow, here):
    bench, seen = slow(), []
    for number in range(10):
        consume(bench, f'q{number}', seen)
    idle(bench)
    for number in range(3):
        here.put(f'q{number}', str(number), headers={'x-delay': 100})
    bench.until(lambda: len(seen) == 3)
    assert sorted(seen) == ['0', '1', '2']


def test_all_queues_are_asked_again_once_nothing_came_for_long(open_connection, raw):
    bench = Bench(open_connection(health_check_interval=0.3).channel())
    for number in range(10):
        consume(bench, f'q{number}', [])
    idle(bench)
    raw.config_resetstat()
    until(lambda: pops(raw) >= 20 * STEPS, 5)


def test_what_was_emptied_behind_our_back_is_asked_again(slow, here, raw):
    bench, seen = slow(), []
    for number in range(10):
        consume(bench, f'q{number}', seen)
    idle(bench)
    raw.flushall()
    here.put('q7', 'x')
    bench.until(lambda: seen)
    bench.channel.session.driver.server.link.lose(ConnectionResetError('cut'))
    here.put('q3', 'y')
    with pytest.raises(ConnectionLost):
        bench.until(lambda: len(seen) == 2)
    bench.until(lambda: len(seen) == 2, seconds=5)
    assert seen == ['x', 'y']


def test_no_message_is_missed_while_consumers_come_and_go(slow, open_connection):
    """From many clients at once, whatever a fetch has just found."""
    chance = random.Random(8)
    benches, seen = [slow() for _ in range(3)], []

    def publish(number):
        there = Bench(open_connection().channel())
        for turn in range(60):
            there.put(f'q{chance.randrange(8)}', f'{number}-{turn}')
            green.sleep(chance.choice((0, 0, 0.001, 0.004)))

    def drain(bench):
        tags = []
        while len(seen) < 300:
            if len(tags) < 8 and chance.random() < 0.7:
                tags.append(f'q{len(tags)}')
                consume(bench, tags[-1], seen)
            elif len(tags) == 8 and chance.random() < 0.02:
                for _ in range(4):
                    bench.channel.basic_cancel(tags.pop())
            try:
                bench.client.drain_events(timeout=0.01)
            except TimeoutError:
                pass

    tasks = [green.spawn(publish, number) for number in range(5)]
    tasks += [green.spawn(drain, bench) for bench in benches]
    with green.Timeout(20):
        for task in tasks:
            task.get()
    assert sorted(seen) == sorted(f'{number}-{turn}' for number in range(5) for turn in range(60))
