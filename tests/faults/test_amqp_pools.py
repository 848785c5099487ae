"""Pools on RabbitMQ: how many sockets thousands of greenlets need, and what is handed out after a fault."""
from __future__ import annotations

import gevent
import gevent.queue
import pytest

from greenmq import Queue, pools, runtime
from greenmq.exceptions import LimitExceeded, NotFound, OperationalError
from greenmq.pools import ProducerPool
from tests.faults.conftest import SOON
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.once]


@pytest.fixture(autouse=True)
def fresh_limit():
    yield
    pools.reset()  # before leases become too many
    pools.set_limit(10)


@pytest.fixture
def books(rig):
    """A durable queue, and what is in it."""
    return Books(rig)


class Books:

    def __init__(self, rig):
        self.connection = rig.connection()
        self.queue = Queue('books', routing_key='books')(self.connection.default_channel)
        self.queue.declare()

    def ids(self):
        found = []
        number = self.queue.queue_declare(passive=True)[1]
        callbacks = [lambda body, message: found.append(body['id'])]
        with self.connection.Consumer(self.queue, callbacks=callbacks, accept=['json'], no_ack=True):
            while len(found) < number:
                self.connection.drain_events(timeout=SOON)
        return sorted(found)


def census(rabbitmq, vhost):
    return [found for found in rabbitmq.list_connections() if found['vhost'] == vhost]


def settle():
    for _ in range(6):
        gevent.sleep(0)


def publish(producer, number, **options):
    producer.publish({'id': number}, routing_key='books', delivery_mode=1, **options)


@pytest.mark.green_timeout(60)
@pytest.mark.parametrize('limit', [2, 5000])
def test_five_thousand_greenlets_on_two_sockets(rig, books, rabbitmq, limit):
    """5,000 publish at once, 500 of them are killed in the middle of their lease: 0 places lost (P22)."""
    number = 5000
    pools.set_limit(limit)
    connection = rig.connection(connect=False)
    pool = pools.producers[connection]
    pool.default_timeout = 60
    safe, waits, victims = [], [], gevent.queue.Queue()
    sockets = []

    def work(mine):
        began = runtime.monotonic()
        with pool.acquire(block=True) as producer:
            waits.append(runtime.monotonic() - began)
            if mine % 10 == 0:
                victims.put(gevent.getcurrent())
                gevent.sleep(60)
            publish(producer, mine, timeout=60)
            safe.append(mine)

    def kill():
        for _ in range(number // 10):
            victims.get().kill(block=False)

    tasks = [gevent.spawn(work, mine) for mine in range(number)]
    killer = gevent.spawn(kill)
    wait_until(lambda: len(safe) > number // 4, 60, 'a quarter')
    sockets.append(len(census(rabbitmq, rig.vhost)))
    gevent.joinall([*tasks, killer], raise_error=True)
    sockets.append(len(census(rabbitmq, rig.vhost)))
    settle()
    # Then nothing is held, nothing was lost, and 3 sockets are the pool's two and that of the books
    stats = pool.stats()
    assert (stats.in_use, stats.opening, stats.waiting) == (0, 0, 0) and stats.size <= limit
    assert max(sockets) <= 3
    assert len(safe) == number - 500
    assert books.ids() == sorted(safe)
    waits.sort()
    assert waits[-1] <= 10 * waits[len(waits) // 2], 'nobody waits much longer than the others'
    connection.close()


def test_an_exchange_that_is_not_there_costs_channels_and_nothing_else(rig, books, rabbitmq):
    """1,000 publishes to it by 50 greenlets, among others that go well (P6)."""
    connection = rig.connection(connect=False)
    pool = pools.producers[connection]
    refused = []

    def spoil():
        for _ in range(20):
            with pytest.raises(NotFound), pool.acquire(block=True) as producer:
                producer.publish({}, exchange='nowhere', routing_key='x')
            refused.append(1)

    def work(first):
        for mine in range(first, first + 20):
            with pool.acquire(block=True) as producer:
                publish(producer, mine)

    tasks = [gevent.spawn(spoil) for _ in range(50)] + [gevent.spawn(work, 20 * one) for one in range(10)]
    gevent.joinall(tasks, raise_error=True)
    assert len(refused) == 1000 and books.ids() == list(range(200))
    assert pool.stats().discarded == {'replaced': 1000} and pool.stats().in_use == 0
    # the channels given up are closed, too: 10 leased, the shared ones of the connection, those of the books
    wait_until(lambda: sum(int(found['channels']) for found in census(rabbitmq, rig.vhost)) <= 15, SOON,
               'few channels')


@pytest.mark.parametrize('recover', [True, False])
def test_after_the_broker_was_restarted_the_first_publish_works(rig, rabbitmq, recover):
    connection = rig.connection(connect=False, recover=recover)
    queue = Queue('kept', routing_key='kept')
    pool, whole = pools.producers[connection], pools.connections[connection]
    with pool.acquire() as producer:
        producer.publish({'id': 1}, routing_key='kept', declare=[queue])
        shared = producer.connection
    with whole.acquire() as leased:
        leased.connect()
    rabbitmq.sync()
    rabbitmq.restart()
    wait_until(lambda: shared.connected if recover else not shared.connected, 30, 'that it is noticed')
    settle()
    with pool.acquire() as producer:
        producer.publish({'id': 2}, routing_key='kept', timeout=10)
    with whole.acquire() as leased:
        found = queue(leased.default_channel)
        assert [found.get(no_ack=True).payload['id'] for _ in range(2)] == [1, 2]
    settle()
    assert pool.stats().in_use == 0
    connection.close()


def test_what_was_lost_on_the_shelf_is_replaced_in_the_background(rig, proxy):
    """The next to acquire gets one that is open: it does not pay for the loss (P11)."""
    connection = rig.connection(proxy, connect=False, recover=False)
    own = connection.Pool(limit=4)
    leased = [own.acquire().connect() for _ in range(4)]
    for each in leased:
        each.release()
    proxy.cut()
    wait_until(lambda: own.stats().discarded.get('dead', 0) == 4, SOON, 'the discovery')
    wait_until(lambda: own.stats().free == 4, SOON, 'the replacements')
    with own.acquire() as fresh:
        assert fresh.connected and fresh not in [id(each) for each in leased]
    own.force_close_all()


def test_a_pool_that_was_cut_while_idle_surfaces_no_error(rig, books, rabbitmq, proxy):
    """20 pooled connections beat while they are idle, half of them are cut, then 1,000 publish (P11)."""
    direct = rig.connection(connect=False, heartbeat=1)
    cut = rig.connection(proxy, connect=False, heartbeat=1)
    facts = rig.facts('lost')
    errors, took = [], []
    own = [each.Pool(limit=10) for each in (direct, cut)]
    for pool in own:
        leased = [pool.acquire().connect() for _ in range(10)]
        for each in leased:
            each.release()
    gevent.sleep(4)  # the broker resets who was silent for three heartbeats
    assert not facts['lost'] and len(census(rabbitmq, rig.vhost)) == 21  # and that of the books
    before = proxy.total_connections
    proxy.cut()
    # They come back by themselves, in the background: when the burst comes it does not pay for the loss.
    wait_until(lambda: proxy.total_connections == before + 10, SOON, 'ten new connections')
    wait_until(lambda: all(each.connected for each in own[1].on_shelf()), SOON, 'ten open connections')

    def work(pool, mine):
        began = runtime.monotonic()
        try:
            with pool.acquire(block=True) as leased:
                publish(leased.Producer(), mine)
        except Exception as exc:
            errors.append(exc)
        took.append(runtime.monotonic() - began)

    tasks = [gevent.spawn(work, own[mine % 2], mine) for mine in range(1000)]
    gevent.joinall(tasks, raise_error=True)
    assert not errors and books.ids() == list(range(1000))
    for pool in own:
        assert pool.stats()[1:5] == (10, 0, 10, 0) and not pool.stats().discarded
        pool.force_close_all()


def test_leases_never_exceed_the_channels_of_the_broker(rig, books):
    connection = rig.connection(connect=False, channel_max=21)
    own = ProducerPool(connection.Pool(1), max_connections=1)
    leased = []
    with pytest.raises(LimitExceeded):
        for mine in range(100):
            leased.append(own.acquire())
            publish(leased[-1], mine)
    assert len(leased) == 8  # 20 wires, two for each channel; one is the connection's own, one they share
    for producer in leased:
        producer.release()
    own.force_close_all()
    own.connections.force_close_all()


def test_while_the_broker_is_down_a_publish_that_may_not_wait_fails_at_once(rig, proxy):
    """1,000 greenlets with 0.5 s each, twice in a row: all are told in time, after few attempts (P21)."""
    connection = rig.connection(proxy, connect=False)
    pool = pools.producers[connection]
    pool.default_timeout = 0.5
    with pool.acquire() as producer:
        producer.publish({'id': 0}, routing_key='nobody')
    proxy.refuse()
    proxy.cut()
    before = proxy.total_connections
    for _ in range(2):
        took, told = [], []

        def work(took=took, told=told):
            began = runtime.monotonic()
            try:
                with pool.acquire(block=True, timeout=0.5) as producer:
                    producer.publish({'id': 1}, routing_key='nobody', timeout=0.5)
            except (OperationalError, LimitExceeded, OSError, *connection.connection_errors) as exc:
                told.append(exc)
            took.append(runtime.monotonic() - began)

        tasks = [gevent.spawn(work) for _ in range(1000)]
        gevent.joinall(tasks, raise_error=True)
        assert len(told) == 1000
        assert max(took) < 2  # 0.6 on a machine that has nothing else to do
    assert proxy.total_connections - before < 30
    # When it is back, the first publish works
    proxy.accept()
    wait_until(lambda: connection_is_back(pool), SOON, 'the recovery')


def connection_is_back(pool):
    try:
        with pool.acquire(timeout=1) as producer:
            producer.publish({'id': 2}, routing_key='nobody', timeout=1)
    except Exception:
        return False
    return True
