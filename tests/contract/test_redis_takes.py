"""Takes without a task: what a consumer waits in must not be lost, whoever is cut, busy, away or late."""

from __future__ import annotations

import gc

import pytest

from greenmq import Connection
from greenmq.exceptions import TimeoutError
from greenmq.transport.redis import takes
from tests.contract.conftest import Bench, text
from tests.contract.test_redis import fetches, here, open_connection, raw, until
from tests.contract.test_redis_many_channels import fetches_sent, publish
from tests.contract.test_threads import natively
from tests.support import census, green
from tests.support.process import exit_codes, fork
from tests.support.proxy import Proxy

__all__ = ('fetches_sent', 'here', 'open_connection', 'raw')  # the fixtures

#: Nothing is asked again for so many seconds: what comes was told, or this test waits in vain.
LONG = 60


class Outcome:
    """What a take came to."""

    def __init__(self, wanted=True):
        self.calls, self.wanted = [], wanted

    def __call__(self, takens, error):
        self.calls.append(([taken.queue for taken in takens], error))
        return self.wanted


@pytest.fixture
def fetching(open_connection):
    return open_connection(health_check_interval=LONG).channel().session.driver.fetching


@pytest.fixture
def consume(open_connection):
    """Have queues consumed, each by a channel of its own: the benches, and what came."""

    def consume(names, client=None, work=None):
        client, seen, benches = client or open_connection(health_check_interval=LONG), [], []

        def received(message):
            seen.append(text(message))
            message.ack()
            if work is not None:
                work(message)

        for name in names:
            bench = Bench(client.channel())
            bench.consume(name, received)
            benches.append(bench)
        until(lambda: fetches(benches[0]) == len(client.default_channel.session.intake._pollers))
        return benches, seen

    return consume


@pytest.fixture
def slow(redis_server, open_connection):
    """A connection whose answers are held when its proxy is told so; and one that is not."""
    with Proxy(redis_server.port) as proxy:
        yield proxy, open_connection(f'redis://127.0.0.1:{proxy.port}/0', health_check_interval=LONG)


# ----------------------------------------------------------------- what it costs


def test_consumers_that_wait_have_no_greenlet(consume, raw):
    client = consume(['first'])[0][0].client
    before = len(census.greenlets())
    benches, seen = consume([f'q{number}' for number in range(50)], client)
    assert len(census.greenlets()) < before + 5  # some of the session's own come and go
    publish(raw, 'q1', 'q2')
    benches[0].until(lambda: sorted(seen) == ['q1', 'q2'])
    until(lambda: fetches(benches[0]) == 51)
    assert len(census.greenlets()) < before + 5


def test_the_time_of_many_is_kept_by_few_timers(consume, raw, monkeypatch):
    benches, seen = consume(['q0'])
    benches[0].channel.session.driver.wait_seconds = 0.5
    looks, fetching = [], benches[0].channel.session.driver.fetching
    look = type(fetching).look
    monkeypatch.setattr(type(fetching), 'look', lambda each, at: (looks.append(at), look(each, at)))
    for number in range(1, 31):
        bench = Bench(benches[0].client.channel())
        bench.consume(f'q{number}', lambda message: (seen.append(text(message)), message.ack()))
        green.sleep(0.01)
    calls = benches[0].channel.session.intake.calls
    until(lambda: benches[0].channel.session.intake.calls >= calls + 90)
    assert len(looks) < 30  # three rounds of thirty, each with another time
    publish(raw, 'q7')
    benches[0].until(lambda: seen == ['q7'])


# ----------------------------------------------------------------- more than one takes


def test_the_rest_is_handed_on_to_one_that_consumes_it(consume, raw, here):
    """And not to one of another queue that has waited longer: all watch what is delayed."""
    here.put('later', 'later', headers={'x-delay': LONG * 1000})
    benches, _ = consume(['q', 'other', 'q'])
    held = []
    for bench in benches[::2]:
        bench.channel.basic_qos(prefetch_count=1)
        bench.channel.basic_cancel('t')
        bench.consume('q', held.append)
    until(lambda: fetches(benches[0]) == 3)
    publish(raw, 'q', 'q')
    benches[0].until(lambda: len(held) == 2)


# ----------------------------------------------------------------- killed, or not wanted


@pytest.mark.parametrize('left', [False, True])
def test_one_that_is_killed_takes_nothing(fetching, here, raw, left, fetches_sent):
    publish(raw, 'a', 'b', 'c')
    outcomes = {queue: Outcome() for queue in 'abc'}
    begun = {queue: fetching.begin([queue], 5, 10.0, outcomes[queue]) for queue in 'abc'}
    while left and not begun['b']._request.sent:
        green.sleep(0)
    begun['b'].kill()
    until(lambda: outcomes['a'].calls and outcomes['c'].calls)
    assert outcomes['a'].calls == [(['a'], None)] and outcomes['c'].calls == [(['c'], None)]
    until(lambda: raw.llen('b') == 1 and raw.hlen('unacked') == 2)
    message = here.get('b')
    assert text(message) == 'b' and not message.delivery_info.get('redelivered')
    assert not outcomes['b'].calls and not fetching.waiting and not fetching._takes
    assert fetches_sent[0] == (3 if left else 2)


def test_what_nobody_wants_any_more_goes_back(fetching, here, raw):
    outcome = Outcome(wanted=False)
    fetching.begin(['q'], 5, 10.0, outcome)
    publish(raw, 'q')
    until(lambda: outcome.calls and raw.llen('q') == 1)
    message = here.get('q')
    assert text(message) == 'q' and not message.delivery_info.get('redelivered')


def test_another_looks_if_the_one_that_was_told_is_killed(fetching, raw):
    """Of those that wait for a list one is told of a message: before it could ask, it is cut."""
    first, second = Outcome(), Outcome()
    take = fetching.begin(['q'], 1, 10.0, first)
    until(lambda: fetching.waiting == 1)
    fetching.begin(['q'], 1, 10.0, second)
    until(lambda: fetching.waiting == 2)
    watchers = fetching.server.watchers
    changed = watchers.changed

    def told(keys):
        watchers.changed = changed
        changed(keys)
        take.kill()

    watchers.changed = told
    publish(raw, 'q')
    until(lambda: second.calls)
    assert second.calls == [(['q'], None)] and not first.calls


def test_a_change_that_is_told_before_the_answer_is_looked_for(fetching, fetches_sent):
    take = fetching.begin(['q'], 1, 10.0, Outcome())
    while not take._request.sent:
        green.sleep(0)
    fetching.server.watchers.changed([b'q'])
    until(lambda: fetching.waiting)
    assert len(fetches_sent) == 2


def test_a_consumer_is_cancelled_while_its_take_is_answered(slow, here, raw):
    proxy, client = slow
    bench, seen = Bench(client.channel()), []
    here.put('q', 'x')
    proxy.blackhole('down')
    bench.channel.session.driver.server.wait_open(None)
    green.spawn(bench.consume, 'q', seen.append)
    until(lambda: raw.hlen('unacked') == 1)
    cancel = green.spawn(bench.channel.basic_cancel, 't')
    green.sleep(0.05)
    assert not cancel.ready()  # what was taken has not gone back
    proxy.heal()
    cancel.get(timeout=10)
    until(lambda: raw.llen('q') == 1 and raw.hlen('unacked') == 0)
    assert not seen
    assert text(here.get('q')) == 'x'


@pytest.mark.parametrize('closes', ['cancel', 'close'])
def test_who_consumes_no_more_takes_no_more(consume, here, raw, closes):
    benches, seen = consume(['q0', 'q1'])
    fetching = benches[0].channel.session.driver.fetching
    benches[0].channel.close() if closes == 'close' else benches[0].channel.basic_cancel('t')
    assert len(fetching._takes) == 1
    publish(raw, 'q0', 'q1')
    benches[1].until(lambda: seen)
    assert seen == ['q1'] and raw.llen('q0') == 1


def test_a_callback_that_raises_is_its_own_affair(consume, raw):
    def work(message):
        if text(message) == 'q3':
            raise LookupError('of q3')

    names = [f'q{number}' for number in range(20)]
    benches, seen = consume(names, work=work)
    publish(raw, *names)
    with pytest.raises(LookupError):
        benches[0].until(lambda: False)
    benches[0].until(lambda: len(seen) == 20)
    publish(raw, *names[:3])
    benches[0].until(lambda: len(seen) == 23)
    assert sorted(seen) == sorted(names + names[:3])


# ----------------------------------------------------------------- delayed messages


def test_a_delayed_message_comes_when_it_is_due(consume, here):
    benches, seen = consume(['a', 'b'])
    here.put('b', 'late', headers={'x-delay': 200})
    here.put('b', 'now')
    benches[0].until(lambda: len(seen) == 2)
    assert seen == ['now', 'late']


def test_also_if_whoever_knew_when_it_is_due_is_gone(consume, here, raw):
    """Of those that wait for a change of the delayed messages one is told: another may have the consumer."""
    benches, seen = consume(['a', 'b'])
    driver = benches[0].channel.session.driver
    here.put('b', 'late', headers={'x-delay': 400})
    until(lambda: driver.fetching._delayed)
    benches[0].channel.close()
    benches[1].until(lambda: seen)
    assert seen == ['late']


def test_the_earlier_of_two_delays_is_the_one_that_is_waited_for(consume, here):
    benches, seen = consume(['a', 'b'])
    here.put('a', 'second', headers={'x-delay': 30_000})
    until(lambda: benches[0].channel.session.driver.fetching._delayed)
    here.put('b', 'first', headers={'x-delay': 100})
    benches[0].until(lambda: seen)
    assert seen == ['first']
    here.channel.queue_purge('a')


# ----------------------------------------------------------------- answers that fail, or come late


def test_one_whose_answer_fails_hears_of_it_and_goes_on(consume, raw):
    benches, seen = consume(['q0', 'q1', 'q2'])
    raw.set('q1', 'no list')
    publish(raw, 'q0', 'q2')
    with pytest.raises(Exception, match='WRONGTYPE'):
        benches[0].until(lambda: False)
    benches[0].until(lambda: len(seen) == 2)
    raw.delete('q1')
    publish(raw, 'q1')
    with green.Timeout(10):
        while len(seen) < 3:
            try:
                benches[0].client.drain_events(timeout=0.1)
            except Exception as error:
                assert isinstance(error, TimeoutError) or 'WRONGTYPE' in str(error)
    assert seen[2] == 'q1'


def test_an_answer_that_is_overdue_is_told_and_loses_nothing(slow, here, raw, monkeypatch):
    monkeypatch.setattr(takes, 'LATE', 0.2)
    proxy, client = slow
    bench, seen = Bench(client.channel()), []
    bench.channel.session.driver.wait_seconds = 0.3
    bench.consume('q', lambda message: (seen.append(message), message.ack()))
    until(lambda: fetches(bench))
    proxy.blackhole('down')
    with pytest.raises(TimeoutError, match='not answered in time'):
        bench.until(lambda: False)
    here.put('q', 'x')
    until(lambda: raw.hlen('unacked') == 1)  # by a request that is not waited for when its answer comes
    with pytest.raises(TimeoutError, match='not answered in time'):
        bench.until(lambda: False)
    proxy.heal()
    with green.Timeout(10):
        while not seen or raw.hlen('unacked'):
            try:
                client.drain_events(timeout=0.1)
            except TimeoutError:
                continue
    assert [text(message) for message in seen] == ['x'] and raw.llen('q') == 0


# ----------------------------------------------------------------- threads, forks, and who only drops it


def test_another_thread_goes_on_with_what_waits(consume, here):
    benches, seen = consume(['q0', 'q1'])
    client, driver = benches[0].client, benches[0].channel.session.driver
    here.put('q0', 'late', headers={'x-delay': 300})
    until(lambda: driver.fetching._delayed)
    old = [*driver.fetching._takes]

    assert natively(lambda: benches[0].until(lambda: seen)) is None
    assert seen == ['late']
    green.sleep(0.4)  # timers of this hub find that they are no more
    for take in old:  # what was said to them is said to nobody
        assert take not in driver.fetching._takes and take not in take.plan.circle.watches
        assert not take.waiting_since
    here.put('q1', 'here')
    Bench(client.channel()).until(lambda: len(seen) == 2)
    until(lambda: driver.fetching.waiting == 2)
    here.put('q0', 'again')
    benches[0].until(lambda: len(seen) == 3)
    assert seen == ['late', 'here', 'again']


def test_a_forked_child_leaves_the_takes_to_its_parent(consume, here):
    benches, seen = consume(['q0', 'q1'])
    benches[0].channel.session.driver.wait_seconds = 0.2
    here.put('q0', 'x')
    benches[0].until(lambda: seen)
    session = benches[0].channel.session
    server = session.driver.server
    sent = server.link.commands

    def wait():
        green.sleep(0.6)  # longer than one of them waits
        assert server.link.commands == sent and server.epoch == 1 and session.intake.flying < 2

    assert exit_codes([fork(wait)]) == [0]
    here.put('q1', 'y')
    benches[0].until(lambda: len(seen) == 2)
    assert seen == ['x', 'y']


def test_a_connection_that_is_only_dropped_ends_although_it_consumes(redis_server, here):
    others = len(redis_server.clients())

    def drop():
        client = Connection(redis_server.url(), transport_options={'health_check_interval': LONG})
        bench = Bench(client.channel())
        bench.consume('q', lambda message: None)
        until(lambda: fetches(bench))

    drop()

    def ended():
        gc.collect()
        return len(redis_server.clients()) == others

    until(ended)
    here.put('q', 'x')
    assert text(here.get('q')) == 'x'
