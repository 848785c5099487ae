"""Many consumers on channels of their own whose takes have no task: after any loss none of them is deaf, and
no message is lost (P25, P26).
"""

from __future__ import annotations

import pytest

from greenmq.exceptions import ConnectionLost
from tests.contract.conftest import Bench, text
from tests.contract.test_redis import fetches, until
from tests.faults.test_redis_recovery import FAULTS, open_connection, proxy, strike
from tests.support import green

__all__ = ('open_connection', 'proxy')  # the fixtures

COUNT = 30


class Crowd:
    """Consumers of a queue each, on one connection, and a greenlet that drains."""

    def __init__(self, client):
        self.client, self.seen, self.losses = client, [], []
        self.benches = [Bench(client.channel()) for _ in range(COUNT)]
        for number, bench in enumerate(self.benches):
            bench.consume(f'q{number}', lambda message: (self.seen.append(text(message)), message.ack()))
        self.task = green.spawn(self.run)

    @property
    def driver(self):
        return self.benches[0].channel.session.driver

    def run(self):
        while True:
            try:
                self.client.drain_events(timeout=60)
            except ConnectionLost as error:
                self.losses.append(error)

    def idle(self):
        until(lambda: fetches(self.benches[0]) == COUNT)


@pytest.fixture
def crowd(proxy, open_connection):
    crowd = Crowd(open_connection(proxy.port))
    crowd.idle()
    yield crowd
    green.killall([crowd.task])


def put_to_all(publisher, what):
    for number in range(COUNT):
        while True:
            try:
                publisher.put(f'q{number}', f'{what}-{number}')
            except ConnectionLost:  # struck too; twice is allowed, never is not
                continue
            break


def all_come(crowd, publisher, what):
    """A message for each of the crowd is put and comes, and each waits again."""
    put_to_all(publisher, what)
    until(lambda: expected(what) <= set(crowd.seen))
    crowd.idle()


def nothing_is_held(redis_server):
    with redis_server.client() as client:
        until(lambda: not client.hlen('unacked'))


def expected(*what):
    return {f'{each}-{number}' for each in what for number in range(COUNT)}


@pytest.mark.faults
@pytest.mark.parametrize('fault', FAULTS)
def test_none_is_deaf_after(fault, crowd, proxy, redis_server, open_connection):
    """While all of them wait."""
    strike(fault, proxy, redis_server)
    publisher = Bench(open_connection(redis_server.port).channel())
    all_come(crowd, publisher, 'after')
    assert all(take.waiting_since for take in crowd.driver.fetching._takes)
    assert len(crowd.seen) == COUNT
    assert not crowd.driver.fetching._waiting  # and none needs a task any more


@pytest.mark.faults
@pytest.mark.parametrize('fault', ['cut', 'fin', 'client kill', 'restart'])
def test_none_is_lost_by(fault, crowd, proxy, redis_server, open_connection):
    """While their takes are under way: asked, answered and cut."""
    publisher = Bench(open_connection(redis_server.port).channel())
    proxy.latency(0.05, 'down')
    for turn in range(5):
        put_to_all(publisher, turn)
        until(lambda: any(take._request for take in crowd.driver.fetching._takes))
        green.sleep(0.02 * turn)
        strike(fault, proxy, redis_server)
        if fault == 'restart':
            publisher = Bench(open_connection(redis_server.port).channel())
    proxy.heal()
    until(lambda: expected(*range(5)) <= set(crowd.seen), seconds=20)
    all_come(crowd, publisher, 'after')
    nothing_is_held(redis_server)


@pytest.mark.faults
def test_an_answer_that_is_cut_in_the_middle_comes_again(crowd, proxy, redis_server, open_connection):
    publisher = Bench(open_connection(redis_server.port).channel())
    proxy.half(1000, 'down', then='cut')
    all_come(crowd, publisher, 'x')
    nothing_is_held(redis_server)


@pytest.mark.faults
def test_a_server_that_is_dead_for_a_while(crowd, redis_server, open_connection):
    redis_server.kill()
    until(lambda: crowd.losses)
    green.sleep(0.5)
    redis_server.start()
    publisher = Bench(open_connection(redis_server.port).channel())
    all_come(crowd, publisher, 'after')


@pytest.mark.faults
def test_a_server_that_forgets_its_scripts(crowd, redis_server, open_connection):
    publisher = Bench(open_connection(redis_server.port).channel())
    for turn in range(3):
        with redis_server.client() as client:
            client.script_flush()
        put_to_all(publisher, turn)
        until(lambda turn=turn: expected(*range(turn + 1)) <= set(crowd.seen))
    assert len(crowd.seen) == 3 * COUNT and not crowd.losses
    crowd.idle()
