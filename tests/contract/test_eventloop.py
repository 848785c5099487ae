"""A program's event loop, one of kombu's kind, handles what a connection's consumers are sent."""

from __future__ import annotations

import pytest

from greenmq import Queue
from greenmq.asynchronous.hub import Hub
from tests.support import green
from tests.support.process import wait_until

pytestmark = pytest.mark.one_of_a_kind


@pytest.fixture
def loop():
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def consumed(connection, queue):
    """What the callback of a consumer has got."""
    got = []

    def take(body, message):
        got.append(body)
        message.ack()

    with connection.Consumer([Queue(queue, no_declare=True)], callbacks=[take]):
        yield got


def run_until(loop, condition):
    with green.Timeout(10):
        while not condition():
            loop.run_once()


def test_the_rounds_of_a_loop_handle_what_arrives(connection, queue, consumed, loop):
    connection.register_with_event_loop(loop)
    connection.register_with_event_loop(loop)
    assert len(loop.on_tick) == 1
    for n in range(3):
        connection.default_channel.Producer().publish(n, routing_key=queue)
    run_until(loop, lambda: len(consumed) == 3)
    assert consumed == [0, 1, 2]


def test_a_message_wakes_a_loop_that_waits(connection, connect, queue, consumed, loop, monkeypatch):
    monkeypatch.setattr('greenmq.asynchronous.hub.LONGEST_ROUND', 300)
    if connection.transport.driver_type in ('sqlite', 'file'):
        pytest.skip('it looks now and then')
    connection.register_with_event_loop(loop)
    task = green.spawn(run_until, loop, lambda: consumed)
    green.sleep(0.05)
    connect().default_channel.Producer().publish('late', routing_key=queue)
    wait_until(lambda: consumed == ['late'], 10, 'the loop wakes')
    task.get()


def test_the_error_of_a_callback_ends_the_round_and_not_the_loop(connection, queue, loop):
    got = []

    def take(body, message):
        got.append(body)
        message.ack()
        if body == 'bad':
            raise LookupError(body)

    connection.register_with_event_loop(loop)
    with connection.Consumer([Queue(queue, no_declare=True)], callbacks=[take]):
        for body in ('bad', 'good'):
            connection.default_channel.Producer().publish(body, routing_key=queue)
        with pytest.raises(LookupError):
            run_until(loop, lambda: 'good' in got)
        run_until(loop, lambda: 'good' in got)
    assert got == ['bad', 'good']


def test_a_connection_that_was_closed_is_let_go(connect, loop):
    connection = connect()
    connection.connect()
    connection.register_with_event_loop(loop)
    connection.close()
    loop.run_once()
    assert not loop.on_tick


def test_a_loop_can_be_told_to_let_a_connection_be(connection, queue, consumed, loop):
    connection.connect()
    connection.register_with_event_loop(loop)
    connection.transport.unregister_from_event_loop(connection.connection, loop)
    connection.transport.unregister_from_event_loop(connection.connection, loop)
    assert not loop.on_tick
    connection.default_channel.Producer().publish(1, routing_key=queue)
    loop.run_once()
    assert consumed == []
    connection.drain_events(timeout=10)
    assert consumed == [1]
