"""Many channels of one connection: what they ask for at the same time leaves as one script, and each gets its
own.
"""

from __future__ import annotations

import contextlib

import pytest

from greenmq.exceptions import ConnectionLost
from greenmq.transport.redis import errors, gathering
from tests.contract.conftest import Bench, text
from tests.contract.test_redis import fetches, here, open_connection, raw, until
from tests.support import green

__all__ = ('here', 'open_connection', 'raw')  # the fixtures

COUNT = 50


@pytest.fixture
def fetches_sent(monkeypatch):
    """How many requests each fetch that was sent since then was made of."""
    sizes, post = [], gathering.Gathering._post

    def counted(gathers, home, batch, number, command):
        sizes.append(len(batch))
        post(gathers, home, batch, number, command)

    monkeypatch.setattr(gathering.Gathering, '_post', counted)
    return sizes


@pytest.fixture
def fetched(open_connection):
    """The driver of a connection, whose fetches ask again only after a minute."""
    return open_connection(health_check_interval=60).channel().session.driver.fetching


@pytest.fixture
def crowd(open_connection):
    """One of many channels, each with a consumer of a queue of its own, and what they were given."""
    client, seen = open_connection(health_check_interval=60), {}
    benches = [Bench(client.channel()) for _ in range(COUNT)]
    for number, bench in enumerate(benches):
        got = seen[f'q{number}'] = []
        bench.consume(f'q{number}', lambda message, got=got: (got.append(text(message)), message.ack()))
    until(lambda: fetches(benches[0]) == COUNT)
    return benches[0], seen


def publish(raw, *queues):
    """Messages that come to the lists in one step."""
    body = '{"body": "%s", "content-type": "text/plain", "content-encoding": "utf-8", "headers": {}, ' \
           '"properties": {"delivery_tag": "%s", "delivery_info": {"exchange": "", "routing_key": "x"}}}'
    with raw.pipeline(transaction=True) as pipe:
        for number, queue in enumerate(queues):
            pipe.lpush(queue, body % (queue, number))
        pipe.execute()


def test_what_many_channels_ask_for_leaves_as_one(crowd, fetches_sent, raw):
    bench, seen = crowd
    fetches_sent.clear()
    publish(raw, *seen)
    bench.until(lambda: all(seen.values()))
    assert seen == {queue: [queue] for queue in seen}
    until(lambda: fetches(bench) == COUNT and not raw.hlen('unacked'))
    # As many as what the server tells comes in pieces, and each asks once.
    assert sum(fetches_sent) >= COUNT and len(fetches_sent) <= 5


def test_a_message_for_one_that_waits_takes_one_fetch(crowd, fetches_sent, raw):
    bench, seen = crowd
    fetches_sent.clear()
    for number in range(10):
        publish(raw, f'q{number}')
        bench.until(lambda number=number: seen[f'q{number}'])
        until(lambda: fetches(bench) == COUNT)
    # It was two each. The server rarely tells of one list that was emptied by us, which is then asked again.
    assert 10 <= len(fetches_sent) <= 15


def test_more_than_one_script_may_take_comes_all_the_same(crowd, raw, monkeypatch):
    bench, seen = crowd
    driver = bench.channel.session.driver
    monkeypatch.setattr(driver.fetching.gathering, '_limits', (60_000, 1024 * 1024, 3, 1024 * 1024))
    publish(raw, *seen, *seen)
    bench.until(lambda: all(len(got) == 2 for got in seen.values()))
    assert seen == {queue: [queue] * 2 for queue in seen}


def test_more_lists_than_one_script_may_ask(crowd, raw, monkeypatch):
    bench, seen = crowd
    monkeypatch.setattr(gathering, 'LISTS', 10)
    publish(raw, *seen)
    bench.until(lambda: all(seen.values()))
    assert seen == {queue: [queue] for queue in seen}


def test_a_list_that_is_none_is_told_to_those_who_ask_for_it(fetched, raw):
    """Also not what was taken before it in the same script is lost."""
    publish(raw, 'a', 'c')
    raw.set('b\x06\x163', 'something else')

    def take(queue):
        try:
            return [taken.queue for taken in fetched.take([queue], 5, 0.0)]
        except errors.WrongType as error:
            return error

    takes = [green.spawn(take, queue) for queue in 'abc']
    with green.Timeout(5):
        first, second, third = [task.get() for task in takes]
        assert (first, third) == (['a'], ['c']) and isinstance(second, errors.WrongType)
        publish(raw, 'b')  # which is asked for before its list of step 3
        assert [taken.queue for taken in fetched.take(['b'], 5, 0.0)] == ['b']
    assert raw.hlen('unacked') == 3


@pytest.mark.parametrize('turns', [1, 2, 3])
def test_one_that_is_killed_leaves_the_others_theirs(fetched, here, raw, turns):
    """Before its request has left, and after that."""
    publish(raw, 'a', 'b', 'c')
    takes = [green.spawn(fetched.take, [queue], 5, 0.0) for queue in 'abc']
    for _ in range(turns):
        green.sleep(0)
    takes[1].kill()
    with green.Timeout(5):
        assert [taken.queue for take in (takes[0], takes[2]) for taken in take.get()] == ['a', 'c']
        with contextlib.suppress(BaseException):  # what was killed
            takes[1].get()
        until(lambda: raw.llen('b') == 1 and raw.hlen('unacked') == 2)
    assert text(here.get('b')) == 'b'


def test_a_loss_is_told_to_all_of_them(crowd, here, raw):
    bench, seen = crowd
    link = bench.channel.session.driver.server.link
    publish(raw, 'q1', 'q2')
    link.lose(ConnectionResetError('cut'))
    with pytest.raises(ConnectionLost):
        bench.client.drain_events(timeout=5)
    bench.until(lambda: seen['q1'] and seen['q2'])
    until(lambda: fetches(bench) == COUNT)
    here.put('q3', 'y')
    bench.until(lambda: seen['q3'])
