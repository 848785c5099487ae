"""Programs that make a new Consumer after each loss, as kombu wants it: the old ones do not pile up.

And who relies on being restored is restored, whether he kept his Consumer or not.
"""
from __future__ import annotations

import contextlib

import pytest

from greenmq import Connection, Exchange, Queue
from greenmq.exceptions import ConnectionLost
from tests.faults.conftest import SOON
from tests.support import fakes, green
from tests.support.process import wait_until
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.faults]

BRISK = {'health_check_interval': 0.3}


class Lossy:
    """A connection that can be lost."""

    def __init__(self, kind, url, cut, **options):
        self.kind = kind
        self.connection = Connection(url, **options)
        self.cut = cut

    def lose(self):
        """Lose it, be told, and wait until it is back."""
        epoch = self.connection.epoch
        self.cut(self.connection)
        if self.kind != 'memory':
            with contextlib.suppress(*self.connection.connection_errors):
                self.connection.drain_events(timeout=SOON)
        self.connection.ensure_connection(timeout=SOON, interval_start=0.1, interval_step=0.1)
        wait_until(lambda: self.connection.epoch > epoch, SOON, 'the connection to come back')

    def publish(self, name, count):
        for _ in range(count):
            self.connection.Producer().publish('x', exchange='', routing_key=name)

    def take(self, into, count):
        with green.Timeout(SOON):
            while len(into) < count:
                with contextlib.suppress(TimeoutError):
                    self.connection.drain_events(timeout=0.2)


@pytest.fixture(params=[
    pytest.param('amqp', marks=[pytest.mark.rabbitmq, pytest.mark.slow]),
    pytest.param('redis', marks=pytest.mark.redis),
    'memory', 'fake-look', 'fake-push',
])
def lossy(request):
    with contextlib.ExitStack() as stack:
        if request.param == 'amqp':
            rig = request.getfixturevalue('rig')
            proxy = rig.proxy()
            lossy = Lossy('amqp', rig.url(proxy), lambda connection: proxy.cut(), heartbeat=0)
        elif request.param == 'redis':
            proxy = stack.enter_context(Proxy(request.getfixturevalue('redis_server').port))
            lossy = Lossy('redis', f'redis://127.0.0.1:{proxy.port}/0', lambda connection: proxy.cut(),
                          transport_options=BRISK)
        elif request.param == 'memory':
            # It loses nothing; what its program closes it opens again.
            lossy = Lossy('memory', 'memory://localhost/replaced', lambda connection: connection.collect())
        else:
            lossy = Lossy(request.param, f'{request.param}://localhost/replaced',
                          lambda connection: connection.transport.session.lost(ConnectionLost('gone')))
        stack.callback(lossy.connection.close)
        stack.callback(fakes.reset)
        yield lossy


def consumers(queue, lossy):
    return queue(lossy.connection.default_channel).queue_declare(passive=True).consumer_count


def consumer(lossy, queue, seen, number):
    def callback(body, message):
        seen.append(number)
        message.ack()

    return lossy.connection.Consumer([queue], callbacks=[callback], prefetch_count=1)


def queue_named(name, **options):
    return Queue(name, Exchange(''), name, durable=False, auto_delete=False, **options)


def assert_only(lossy, queue, seen, number):
    """Each message goes to one consumer, that of the number."""
    del seen[:]
    lossy.publish(queue.name, 6)
    lossy.take(seen, 6)
    assert seen == [number] * 6
    assert consumers(queue, lossy) == 1


def test_the_one_in_the_variable_is_replaced(lossy):
    queue, seen = queue_named('in-a-variable'), []
    for number in range(3):
        kept = consumer(lossy, queue, seen, number)
        kept.consume()
        assert_only(lossy, queue, seen, number)
        lossy.lose()
    kept.cancel()
    queue(lossy.connection.default_channel).delete()


def test_the_one_of_a_with_block_is_replaced(lossy):
    queue, seen = queue_named('in-a-block'), []
    for number in range(3):
        with pytest.raises(ConnectionLost), consumer(lossy, queue, seen, number):
            assert_only(lossy, queue, seen, number)
            lossy.lose()
            raise ConnectionLost('as drain_events had it')
    assert consumers(queue, lossy) == 0
    # and the same object, entered again and again
    again = consumer(lossy, queue, seen, 3)
    for _ in range(2):
        with pytest.raises(ConnectionLost), again:
            assert_only(lossy, queue, seen, 3)
            lossy.lose()
            raise ConnectionLost('as drain_events had it')
        again.revive(lossy.connection.default_channel)
    again.cancel()
    queue(lossy.connection.default_channel).delete()


def test_the_one_of_a_function_that_is_tried_again_is_replaced(lossy):
    queue, seen = queue_named('tried-again'), []

    def work(channel):
        mine = consumer(lossy, queue, seen, 'mine')
        mine.consume()
        assert_only(lossy, queue, seen, 'mine')
        rounds.append(mine.channel)
        if len(rounds) < 3:
            if lossy.kind == 'memory':
                raise ConnectionLost('as others have it')
            lossy.cut(lossy.connection)
            lossy.connection.drain_events(timeout=SOON)

    rounds = []
    lossy.connection.autoretry(work)()
    assert len(rounds) == 3
    lossy.connection.default_channel.queue_delete(queue.name)


def test_one_that_takes_from_a_queue_of_its_own_is_replaced(lossy):
    # Each round has another queue, which goes with its consumer: a listener of a fanout exchange.
    seen, exchange = [], Exchange('heard', 'fanout', durable=False)
    for number in range(3):
        queue = Queue(f'hears-{number}', exchange, durable=False, auto_delete=True)
        kept = consumer(lossy, queue, seen, number)
        kept.consume()
        del seen[:]
        lossy.connection.Producer().publish('x', exchange=exchange, routing_key='')
        lossy.take(seen, 1)
        with contextlib.suppress(TimeoutError):
            lossy.connection.drain_events(timeout=0.1)
        assert seen == [number]
        lossy.lose()
    kept.cancel()


def test_one_that_nobody_kept_and_nobody_replaced_goes_on(lossy):
    if lossy.kind == 'memory':
        pytest.skip('its channels end with their connection')
    queue, other, seen = queue_named('kept-by-nobody'), queue_named('of-another'), []
    consumer(lossy, queue, seen, 'old').consume()
    for _ in range(2):
        lossy.lose()
        assert_only(lossy, queue, seen, 'old')
    # nor does it give way to who takes from another queue, and two that are held share one
    held = [consumer(lossy, other, seen, number) for number in range(2)]
    for each in held:
        each.consume()
    lossy.lose()
    assert_only(lossy, queue, seen, 'old')
    third = consumer(lossy, other, seen, 2)
    third.consume()
    assert consumers(other, lossy) == 3
    for each in (queue, other):
        each(lossy.connection.default_channel).delete()


def test_a_consumer_goes_to_another_channel_and_leaves_none(lossy):
    if lossy.kind == 'memory':
        pytest.skip('the old channel is as good as the new one, and its own')
    queue, seen = queue_named('moves'), []
    moving = consumer(lossy, queue, seen, 'it')
    moving.consume()
    moving.revive(lossy.connection.channel())
    wait_until(lambda: consumers(queue, lossy) == 1, SOON, 'one consumer')
    assert_only(lossy, queue, seen, 'it')
    moving.cancel()
    queue(lossy.connection.default_channel).delete()
