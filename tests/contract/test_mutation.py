"""The suite sees a driver that settles too early: that is what loses messages when a consumer dies."""

from __future__ import annotations

import pytest

from greenmq import runtime
from tests.contract import test_delivery as delivery


def test_a_settle_before_the_callback_fails_the_suite(bench, connection, channel, queue, monkeypatch):
    session = getattr(connection.transport, 'session', None)
    if session is None:
        pytest.skip('its broker settles, and no driver takes')
    driver = session.driver
    take, begin = driver.take, driver.begin

    def settled_at_once(*args):
        taken = take(*args)
        if taken:
            driver.settle(taken, [], runtime.Deadline.after(10))
        return taken

    def settled_before(queues, n, max_bytes, seconds, done):
        def settled(taken, error):
            driver.settle(taken, [], runtime.Deadline.after(10))
            return done(taken, error)

        return begin(queues, n, max_bytes, seconds, settled)

    class SettlesAsItComes:
        """The owner of a driver that pushes; what arrives is settled before anyone is called."""

        def __init__(self, owner):
            self.owner = owner

        def __getattr__(self, name):
            return getattr(self.owner, name)

        def arrived(self, taken):
            self.owner.arrived(taken)
            runtime.spawn(driver.settle, taken, [], runtime.Deadline.after(10), name='mutation')

    if driver.delivery == 'push':
        monkeypatch.setattr(driver, 'owner', SettlesAsItComes(driver.owner))
    else:
        monkeypatch.setattr(driver, 'take', settled_at_once)
        if begin is not None:
            monkeypatch.setattr(driver, 'begin', settled_before)
    with pytest.raises(AssertionError):
        delivery.test_ack_multiple_settles_all_before(bench(channel), queue)
