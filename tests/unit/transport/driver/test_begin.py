"""Takes without a task, as the base has them: a driver that calls back, and never twice or too late."""
from __future__ import annotations

import pytest

from greenmq.exceptions import OperationalError
from greenmq.transport.driver.contract import Taken
from greenmq.transport.driver.poller import Poller
from tests.support import green
from tests.support.process import wait_until


class Begun:
    """One take, which the test ends."""

    def __init__(self, driver, done):
        self.driver, self.done, self.killed = driver, done, False

    def kill(self):
        self.killed = True

    def bring(self):
        """Take what is there, as the driver would."""
        takens = self.driver.take(['q'], 1, 1 << 20, 0.0)
        return takens, self.done(takens, None)


@pytest.fixture
def called(bench):
    """A bench whose driver calls back, and the takes that were begun."""
    made, begun = bench('fake-lease'), []
    driver = made.session.driver

    def begin(queues, n, max_bytes, seconds, done):
        begun.append(Begun(driver, done))
        return begun[-1]

    driver.begin, driver.uncut = begin, False
    made.session.intake._by_queue = False  # one take for all queues of a channel
    made.queue()
    return made, begun


def test_what_it_brings_is_handed_out_and_the_next_follows(called):
    bench, begun = called
    _, held = bench.consume()
    bench.publish('x')
    assert len(begun) == 1 and begun[0].bring()[1]
    bench.until(lambda: held)
    assert held[0].payload == 'x'
    wait_until(lambda: len(begun) == 2, 10, 'the next take')
    held[0].ack()


def test_what_it_meets_is_told_and_the_next_follows(called):
    bench, begun = called
    bench.consume()
    begun[0].done([], OperationalError('refused'))
    with pytest.raises(OperationalError, match='refused'):
        bench.connection.drain_events(timeout=5)
    wait_until(lambda: len(begun) == 2, 10, 'the next take')


def test_one_that_cannot_begin_is_told_and_begun_again(called):
    bench, begun = called
    driver, begin = bench.session.driver, bench.session.driver.begin

    def refuse(*args):
        driver.begin = begin
        raise OperationalError('not now')

    driver.begin = refuse
    _, held = bench.consume()  # which knows nothing of it
    with pytest.raises(OperationalError, match='not now'):
        bench.connection.drain_events(timeout=5)
    wait_until(lambda: begun, 10, 'the next take')
    bench.publish('x')
    begun[0].bring()
    bench.until(lambda: held)
    held[0].ack()


def test_a_cancelled_consumer_ends_it_and_wants_nothing(called):
    bench, begun = called
    channel, held = bench.consume()
    bench.publish('x')
    takens = bench.session.driver.take(['q'], 1, 1 << 20, 0.0)
    with green.Timeout(5):
        channel.basic_cancel('t')
    assert begun[0].killed and len(begun) == 1
    assert begun[0].done(takens, None) is False and not held


@pytest.mark.parametrize('closes', ['channel', 'connection'])
def test_who_closes_it_does_not_wait_for_ever(called, closes):
    bench, begun = called
    channel, _ = bench.consume()
    with green.Timeout(5):
        (channel if closes == 'channel' else bench.connection).close()
    assert begun[0].killed and len(begun) == 1


def test_an_error_of_ours_leaves_nobody_deaf(called, monkeypatch, caplog):
    bench, begun = called
    bench.consume()
    took = Poller.took

    def fail(poller, flight, takens):
        monkeypatch.setattr(Poller, 'took', took)
        raise LookupError('ours')

    monkeypatch.setattr(Poller, 'took', fail)
    assert begun[0].done([Taken('q', b'', 'none', None, 0.0)], None)
    assert 'could not be handed out' in caplog.text
    wait_until(lambda: len(begun) == 2, 10, 'the next take')


def test_one_for_other_queues_is_begun_after_the_first_has_ended(called):
    bench, begun = called
    channel, _ = bench.consume()
    bench.queue('r')
    bench.consume('r', channel=channel, tag='r')
    wait_until(lambda: len(begun) == 2, 10, 'the next take')
    assert begun[0].killed and not begun[1].killed
    assert begun[0].done([], None) is False
