"""Losses, kills and closes at the moments that fit worst: nothing is lost, nobody waits for ever."""
from __future__ import annotations

import pytest

from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, ConnectionLost
from greenmq.transport.driver.settler import Settler
from tests.support import fakes, green
from tests.support.process import wait_until


@pytest.fixture
def closes(monkeypatch):
    """How often the driver of each kind was closed."""
    found = []
    for cls in (fakes.LeaseDriver, fakes.LookDriver):
        def close(self, deadline, close=cls.close):
            found.append(self)
            return close(self, deadline)

        monkeypatch.setattr(cls, 'close', close)
    return found


def outcome(function, *args):
    try:
        return function(*args)
    except Exception as error:
        return error


def test_a_loss_that_is_told_between_the_open_and_its_end_is_a_loss(bench):
    """A broker that pushes fails no call of ours: who does not hear of that loss is deaf for ever."""
    bench = bench('fake-push')
    bench.queue()
    _, held = bench.consume()
    bench.publish('before')
    bench.until(lambda: held)
    held[0].ack()
    wait_until(lambda: not bench.broker.out, 10, 'the ack')
    driver = bench.session.driver
    opened = driver.open

    def open_and_lose(deadline):
        opened(deadline)
        driver.open = opened
        driver.task.kill()  # nobody pushes over a connection that is gone
        driver.owner.lost(ConnectionLost('cut at once'))

    driver.open = open_and_lose
    bench.session.lost(ConnectionLost('gone'))
    wait_until(lambda: driver.open is opened, 10, 'the recovery')
    bench.publish('after', timeout=10)
    bench.until(lambda: len(held) == 2, told=ConnectionLost)
    assert held[1].payload == 'after'


def test_a_failure_of_a_call_that_began_before_the_recovery_is_no_new_loss(bench):
    """A loss shows in each call that was under way; the last may tell long after the connection is back."""
    bench = bench()
    bench.queue()
    _, held = bench.consume()
    wait_until(lambda: bench.session.intake.flying, 10, 'the long poll')
    bench.session.lost(ConnectionLost('the first to notice'))
    wait_until(lambda: bench.session.state == 'open', 10, 'the recovery')
    bench.faults.fail('look', 'lost')  # what the poll of the old connection meets
    bench.publish('x')
    bench.until(lambda: held, told=ConnectionLost)
    assert bench.session.epoch == 2 and held[0].payload == 'x'
    held[0].ack()


def test_what_a_take_of_the_lost_connection_brought_is_not_handed_out(bench):
    """The broker gave it back when the connection ended: two would have it."""
    bench = bench('fake-look')
    bench.queue()
    bench.publish('x')
    bench.faults.late('take', 0.2)
    _, held = bench.consume()
    wait_until(lambda: bench.broker.out, 10, 'the take to have it')
    bench.session.lost(ConnectionLost('gone'))
    bench.until(lambda: held, told=ConnectionLost)
    bench.drain(0.3)
    assert [message.delivery_info['redelivered'] for message in held] == [False]
    assert held[0].ack() is None
    wait_until(lambda: not bench.broker.out, 10, 'the ack')
    assert not bench.broker.queues['q']


def test_acks_that_wait_to_be_sent_outlive_the_end_of_an_older_call(bench):
    """A loss empties the books of a broker that takes all back; the acks after it are of new deliveries."""
    bench = bench('fake-look')
    bench.session.driver.settle_hold = 0.2
    bench.queue()
    bench.publish('old')
    _, held = bench.consume()
    bench.until(lambda: held)
    bench.faults.late('settle', 0.15)
    held[0].ack()
    wait_until(lambda: bench.faults.count('settle') == 1, 10, 'the first call')
    for n in range(2):
        bench.publish(n)
    bench.session.lost(ConnectionLost('gone'))
    bench.until(lambda: len(held) >= 3, told=ConnectionLost)
    session = bench.session
    for message in held[1:]:
        session.settler.done(message.place, more=9)  # as where others wait for their callbacks: it is held
    green.sleep(0.17)  # the older call ends
    wait_until(lambda: not session.settler.pending, 10, 'the settlements')
    wait_until(lambda: not bench.broker.out, 10, 'the acks')


def test_a_session_that_closes_does_not_try_without_a_pause(bench):
    bench = bench()
    bench.queue()
    bench.publish('x')
    message = bench.channel.basic_get('q')
    bench.faults.fail('settle', 'lost', times=10_000)
    bench.session.state = 'closing'
    message.ack()
    green.sleep(0.3)
    assert bench.faults.count('settle') <= 4
    bench.faults.clear()
    bench.session.state = 'open'
    bench.session.settler.flush()
    wait_until(lambda: not bench.broker.out, 10, 'the ack')


def test_a_close_while_it_is_being_opened_leaves_nothing_open(bench, closes):
    bench = bench('fake-look', operation_timeout=7)  # a session of its own
    transport = type(bench.connection.transport)(bench.connection)
    bench.connection.close()
    closes.clear()
    session = transport.make_session()
    bench.faults.late('open', 0.2)
    opening = green.spawn(outcome, session.open, runtime.Deadline.after(5))
    wait_until(lambda: bench.faults.count('open') == 2, 10, 'the open')
    session.close(runtime.Deadline.after(1))
    assert isinstance(opening.get(), ConnectionClosed)
    wait_until(lambda: len(closes) == 2, 10, 'the driver to be closed after it was opened')


@pytest.mark.parametrize('kind', ['fake-lease', 'fake-look'])
def test_a_close_that_is_killed_closes_all_the_same(bench, closes, monkeypatch, kind):
    bench = bench(kind)
    bench.queue()
    bench.publish('x')
    message = bench.channel.basic_get('q')
    session = bench.session
    bench.faults.late('settle', 0.3)
    waited = []

    def wait(self, deadline, wait=Settler.wait):
        waited.append(session.state)
        return wait(self, deadline)

    monkeypatch.setattr(Settler, 'wait', wait)
    message.ack()
    closing = green.spawn(session.close, runtime.Deadline.after(5))
    wait_until(lambda: 'closing' in waited, 10, 'the close to wait')
    closing.kill()
    wait_until(lambda: session.state == 'closed' and closes, 10, 'the driver to be closed')
    assert not session.settler.pending and not bench.broker.out


def test_a_consumer_that_waited_while_its_channel_closed_is_none(bench, monkeypatch):
    bench = bench()
    bench.queue()
    channel = bench.connection.channel()
    go = green.Event()
    monkeypatch.setattr(type(bench.session.router), 'learn', lambda self, queue, deadline: go.wait())
    consuming = green.spawn(outcome, channel.basic_consume, 'q', False, print, 't')
    green.sleep(0)
    channel.close()
    go.set()
    assert isinstance(consuming.get(), ConnectionClosed)
    assert not channel.books.subscriptions and not bench.session.intake._pollers
