"""Pools by connection, and producers that lease channels, over memory://."""
import os
import subprocess
import sys

import pytest

from greenmq import Connection, Queue, pools, runtime
from greenmq.exceptions import ConnectionLimitExceeded, LimitExceeded
from greenmq.messaging import Producer
from greenmq.pooling import shared as pooled
from greenmq.pools import PoolGroup, ProducerPool, connections, producers
from tests.support import green
from tests.support.switches import injections

URL = 'memory://localhost/test_pools'


@pytest.fixture(autouse=True)
def fresh_limit():
    yield
    pools.set_limit(10)


@pytest.fixture
def connection():
    return Connection(URL)


@pytest.fixture
def pool(connection):
    found = producers[connection]
    with connection.channel() as channel:
        Queue('q', routing_key='q').bind(channel).declare()
    yield found
    connection.close()


def settle():
    for _ in range(4):
        green.sleep(0)


def counts(found):
    stats = found.stats()
    return stats.in_use, stats.free, stats.opening, stats.waiting


def messages(connection):
    with connection.channel() as channel:
        return channel.queue_declare('q', passive=True).message_count


class TestGroups:

    def test_one_pool_for_equal_connections_and_urls(self, connection):
        assert connections[connection] is connections[Connection(URL)] is connections[URL]
        assert producers[connection] is producers[URL]
        assert producers[URL].connections is connections[URL]
        assert connections[Connection('memory://localhost/other')] is not connections[URL]
        assert URL in connections and len(connections) == 2

    def test_a_group_of_ones_own(self):
        class Group(PoolGroup):
            def create(self, resource, limit):
                return resource, limit

        assert Group()['x'] == ('x', None)
        assert Group(limit=3)['x'] == ('x', 3)
        assert Group(limit=pools.use_global_limit)['x'] == ('x', pools.get_limit())
        group = Group()
        group['y'] = 5
        assert group.get('y') == 5 and group.get('z') is None and list(group) == ['y']
        del group['y']
        assert not group and group.setdefault('z', 1) == 1 and group.pop('z') == 1

    def test_a_group_that_has_its_own_init(self):
        class Group(PoolGroup):
            def __init__(self, word):
                self.word = word

            def create(self, resource, limit):
                return self.word, resource, limit

        group = pools.register_group(Group('own'))
        try:
            assert group['x'] == ('own', 'x', None) and group.limit is None
            pools.set_limit(7)
        finally:
            pools._groups.remove(group)

    def test_a_group_must_say_how(self):
        with pytest.raises(NotImplementedError, match='create'):
            PoolGroup()['x']

    def test_set_limit_reaches_the_pools_that_are_there(self):
        found = connections[URL]
        assert pools.set_limit(5) == 5 == pools.get_limit() == found.limit == producers[URL].limit
        assert pools.set_limit(None) == 0 and connections[URL].limit == 0

    def test_set_limit_below_what_is_in_use_must_be_forced(self):
        leases = [connections[URL].acquire() for _ in range(3)]
        with pytest.raises(RuntimeError, match="Can't shrink"):
            pools.set_limit(2)
        assert pools.set_limit(2, force=True) == 2
        for lease in leases:
            lease.release()
        settle()
        assert connections[URL].stats().size == 2

    def test_a_group_with_its_own_limit_keeps_it(self):
        group = pools.register_group(pools.Connections(limit=3))
        try:
            found = group[URL]
            pools.set_limit(7)
            assert found.limit == 3
        finally:
            pools._groups.remove(group)

    def test_reset_closes_and_forgets(self, pool):
        with pool.acquire() as producer:
            producer.publish('x', routing_key='q')
            shared = producer.connection
        leased = connections[URL].acquire().connect()
        pools.reset()
        assert not shared.connected and not leased.connected
        assert not connections and not producers
        with pytest.raises(RuntimeError, match='closed pool'):
            pool.acquire()

    def test_each_thread_has_its_own(self):
        mine = connections[URL]

        def other():
            found = connections[URL]
            found.acquire().release()
            return found, len(connections)

        theirs, number = green.in_thread(other)
        assert theirs is not mine and number == 1 and connections[URL] is mine

    def test_the_size_of_the_shelf_is_what_can_be_had(self, connection):
        # Programs that watch kombu's pools ask for it: these begin full.
        pool = connection.Pool(3)
        assert pool._resource.qsize() == 3
        with pool.acquire():
            assert pool._resource.qsize() == 2
        assert pool._resource.qsize() == 3
        pool.resize(5)
        assert pool._resource.qsize() == 5
        pool.force_close_all()

    def test_a_pool_that_a_thread_left_behind_is_the_next_ones(self):
        # Celery keeps the pool that the first thread looked up, and uses it from all.
        kept = []

        def first():
            pool = connections[Connection('memory://')]
            with pool.acquire(block=True) as connection:
                connection.connect()
            kept.extend([pool, connection])

        green.in_thread(first)
        pool, connection = kept
        # Its answer comes before the thread has ended.
        deadline = runtime.Deadline.after(10)
        while connection.connected and not deadline.expired():
            green.sleep(0.01)
        assert not connection.connected
        green.in_thread(lambda: pool.acquire(timeout=1).release())
        with pool.acquire(timeout=1) as mine:
            mine.connect()
            assert mine.connected
        pool.force_close_all()

    def test_set_limit_reaches_the_pools_of_other_threads(self):
        ours = runtime.hub_id()

        def other():
            found = connections[URL]
            for _ in range(found.limit):
                found.acquire()
            runtime.post(ours, pools.set_limit, 11)
            return found.acquire(timeout=10) and found.limit

        assert green.in_thread(other) == 11

    def test_a_forked_child_has_none(self):
        found = connections[URL]
        connections._after_fork()
        assert connections[URL] is not found


class TestProducers:

    def test_all_share_one_connection(self, pool, connection):
        leased = [pool.acquire() for _ in range(5)]
        for producer in leased:
            producer.publish('x', routing_key='q')
        assert len({id(producer.connection) for producer in leased}) == 1
        assert len({id(producer.channel) for producer in leased}) == 5
        assert counts(connections[connection]) == (1, 0, 0, 0)
        for producer in leased:
            producer.release()
        assert counts(pool) == (0, 5, 0, 0)

    def test_many_take_another_connection_and_never_more(self, connection, monkeypatch):
        monkeypatch.setattr(pooled, 'SPREAD', 3)
        own = ProducerPool(connection.Pool(10), limit=None)
        leased = [own.acquire() for _ in range(20)]
        assert len({id(producer.connection) for producer in leased}) == 2
        assert counts(own.connections)[0] == 2
        own.force_close_all()
        assert counts(own.connections) == (0, 2, 0, 0)
        own.connections.force_close_all()

    def test_one_connection_will_do_if_others_have_the_rest(self, connection, monkeypatch):
        monkeypatch.setattr(pooled, 'SPREAD', 1)
        own = ProducerPool(connection.Pool(1), limit=5)
        leased = [own.acquire() for _ in range(5)]
        assert len({id(producer.connection) for producer in leased}) == 1
        own.force_close_all()

    def test_it_connects_when_it_publishes(self, pool):
        with pool.acquire() as producer:
            assert not producer.connection.connected
            producer.publish('x', routing_key='q')
            assert producer.connection.connected

    def test_the_channel_is_used_again(self, pool):
        with pool.acquire() as producer:
            channel = producer.channel
        with pool.acquire() as producer:
            assert producer.channel is channel and not channel.closed

    def test_releasing_the_connection_of_a_producer_does_not_close_it(self, pool):
        with pool.acquire() as one, pool.acquire() as two:
            one.publish('x', routing_key='q')
            with one.connection:
                pass
            one.connection.release()
            two.publish('x', routing_key='q')
            assert one.connection.connected

    def test_an_error_in_the_with_costs_the_leased_channel_only(self, pool):
        other = pool.acquire()
        with pytest.raises(ValueError), pool.acquire() as producer:
            channel, shared = producer.channel, producer.connection
            raise ValueError
        settle()
        assert channel.closed and shared.connected and not other.channel.closed
        assert counts(pool) == (1, 0, 0, 0)
        with pool.acquire() as producer:
            assert producer.channel is not channel

    def test_an_error_that_was_there_before_costs_nothing(self, pool):
        try:
            raise KeyError
        except KeyError:
            with pool.acquire() as producer:
                channel = producer.channel
        assert not channel.closed and counts(pool) == (0, 1, 0, 0)

    def test_a_kill_in_the_with(self, pool):
        channels = []

        def publish():
            with pool.acquire() as producer:
                channels.append(producer.channel)
                green.sleep(60)

        task = green.spawn(publish)
        green.sleep(0)
        task.kill()
        settle()
        assert channels[0].closed and counts(pool) == (0, 0, 0, 0)

    def test_a_producer_whose_channel_was_closed_is_not_handed_out(self, pool):
        with pool.acquire() as producer:
            producer.channel.close()
        with pool.acquire() as other:
            assert other is not producer
            other.publish('x', routing_key='q')

    def test_a_producer_that_was_revived_elsewhere_is_not_handed_out(self, pool):
        with pool.acquire() as producer:
            leased = producer.channel
            producer.revive(producer.connection.default_channel)
        settle()
        assert leased.closed
        with pool.acquire() as other:
            assert other is not producer

    def test_a_shared_connection_that_somebody_closed_is_let_go_of(self, pool, connection):
        with pool.acquire() as producer:
            producer.publish('x', routing_key='q')
            shared = producer.connection
        shared.close()
        with pool.acquire() as other:
            other.publish('x', routing_key='q')
            assert other.connection is not shared
        assert messages(connection) == 2 and counts(pool.connections) == (1, 0, 0, 0)

    def test_a_shared_connection_that_is_lost_for_good_is_let_go_of(self, pool, connection):
        with pool.acquire() as producer:
            producer.publish('x', routing_key='q')
            shared = producer.connection
        shared.opener.drop()
        settle()
        with pool.acquire() as other:
            other.publish('x', routing_key='q')
            assert other.connection is not shared
        assert messages(connection) == 2

    def test_the_death_of_who_was_first_does_not_cost_the_shared_connection(self, pool, connection):
        # Given a greenlet that was the first to publish, and so took the shared connection
        def publish():
            with pool.acquire() as producer:
                producer.publish('x', routing_key='q')
                return producer.connection

        shared = green.spawn(publish).get()
        settle()
        # Then that is the pool's, and stays when the greenlet has ended
        with pool.acquire() as producer:
            assert producer.connection is shared and shared.connected
        assert not connections[connection].stats().discarded

    def test_a_connection_that_is_passed_on_belongs_to_who_uses_it(self, connection):
        own, passed = connection.Pool(1), []

        def use():
            with passed[0] as leased:
                leased.connect()
                green.sleep(0)
                green.sleep(0)
                assert leased.connected
            return own.stats().free

        def take():
            passed.append(own.acquire())
            passed.append(green.spawn(use))
            green.sleep(0)

        green.spawn(take).join()
        assert passed[1].get() == 1 and not own.stats().discarded
        own.force_close_all()

    def test_after_the_connection_was_lost_the_first_publish_works(self, pool, connection):
        with pool.acquire() as producer:
            producer.publish('x', routing_key='q')
            shared = producer.connection
        shared.collect()
        with pool.acquire() as producer:
            producer.publish('x', routing_key='q')
        assert messages(connection) == 2

    def test_greenlets_in_a_crowd(self, pool, connection):
        def publish(number):
            with pool.acquire(block=True) as producer:
                producer.publish(number, routing_key='q')
                green.sleep(0)

        tasks = [green.spawn(publish, number) for number in range(500)]
        green.sleep(0)
        for task in tasks[::10]:
            task.kill(block=False)
        green.joinall(tasks, raise_error=True)
        settle()
        stats = pool.stats()
        assert counts(connections[connection]) == (1, 0, 0, 0)
        assert (stats.in_use, stats.opening, stats.waiting) == (0, 0, 0) and stats.size <= stats.limit

    def test_a_throw_at_any_switch_leaves_it_sound(self, connection):
        def publish():
            with own.acquire(block=True) as producer:
                producer.publish('x', routing_key='q')

        for injection in injections():
            own = ProducerPool(connection.Pool(1), limit=1)
            busy = own.acquire()
            green.spawn(busy.release)
            injection.run(publish)
            settle()
            assert counts(own) in [(0, 1, 0, 0), (0, 0, 0, 0)]
            with own.acquire() as producer:
                producer.publish('x', routing_key='q')
            assert counts(own.connections) == (1, 0, 0, 0)
            own.force_close_all()
            own.connections.force_close_all()

    def test_the_wait_for_a_connection_has_the_callers_deadline(self, connection):
        own = ProducerPool(connection.Pool(1), limit=2)
        whole = own.connections.acquire()
        with pytest.raises(ConnectionLimitExceeded, match='within 0.001 s'):
            own.acquire(timeout=0.001)
        with pytest.raises(LimitExceeded, match='nothing free'):
            own.acquire()
        whole.release()
        own.acquire(timeout=60).release()

    def test_a_broker_with_few_channels_bounds_the_leases(self, connection):
        own = ProducerPool(connection.Pool(1), limit=50, max_connections=1)
        with own.acquire() as producer:
            producer.publish('x', routing_key='q')
            producer.connection.transport.max_channels = 5
        leased = [own.acquire() for _ in range(3)]
        with pytest.raises(LimitExceeded):
            own.acquire()
        for producer in leased:
            producer.release()
        own.force_close_all()

    def test_without_a_limit_the_channel_is_closed(self, connection):
        own = ProducerPool(connection.Pool(1))
        with own.acquire() as producer:
            channel, shared = producer.channel, producer.connection
        settle()
        assert channel.closed and shared.connected
        own.force_close_all()
        own.connections.force_close_all()

    def test_a_producer_class_of_ones_own(self, connection):
        class Mine(Producer):
            pass

        own = ProducerPool(connection.Pool(1), limit=1, Producer=Mine)
        with own.acquire() as producer:
            assert type(producer) is Mine
        own.force_close_all()

    def test_a_forked_child_begins_without(self, pool):
        with pool.acquire() as producer:
            producer.publish('x', routing_key='q')
        pool._after_fork()
        pool.connections._after_fork()
        assert counts(pool) == (0, 0, 0, 0)
        with pool.acquire() as other:
            assert other is not producer and other.connection is not producer.connection


    @pytest.mark.skipif(not hasattr(os, 'fork'), reason='forks')
    def test_a_real_fork(self, pool, connection):
        # Given pools in use, with a greenlet that waits for a lease
        pools.set_limit(1)
        busy = pool.acquire()
        busy.publish('x', routing_key='q')
        waiter = green.spawn(pool.acquire, block=True)
        green.sleep(0)
        # When a child publishes
        pid = os.fork()
        if not pid:
            status = 1
            try:
                with producers[URL].acquire() as producer:
                    producer.publish('y', routing_key='q')
                    status = 0 if producer is not busy and counts(producers[URL]) == (1, 0, 0, 0) else 2
            finally:
                os._exit(status)
        # Then it has begun with empty pools, and nothing changed here
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert counts(pool) == (1, 0, 0, 1) and messages(connection) == 1
        busy.release()
        waiter.get().release()


class TestWholeConnections:
    """What subclasses written for kombu get."""

    @pytest.fixture
    def own(self, connection):
        class Own(ProducerPool):
            def create_producer(self):
                return super().create_producer()

        found = Own(connection.Pool(2), limit=3)
        yield found
        found.force_close_all()
        found.connections.force_close_all()

    def test_each_producer_has_its_own(self, own):
        one, two = own.acquire(), own.acquire()
        assert one.connection is not two.connection
        assert counts(own.connections) == (2, 0, 0, 0)
        one.release()
        two.release()
        assert counts(own.connections) == (0, 2, 0, 0) and counts(own) == (0, 2, 0, 0)

    def test_a_producer_comes_back_with_a_connection(self, own, pool):
        with own.acquire() as producer:
            producer.publish('x', routing_key='q')
        with own.acquire() as again:
            again.publish('x', routing_key='q')
            assert again is producer
        assert counts(own.connections) == (0, 1, 0, 0)

    def test_an_error_closes_its_connection(self, own):
        with pytest.raises(ValueError), own.acquire() as producer:
            connection = producer.connection.connect()
            raise ValueError
        settle()
        assert not connection.connected and counts(own) == (0, 0, 0, 0)
        assert counts(own.connections) == (0, 0, 0, 0)

    def test_a_prepare_of_ones_own(self, connection):
        class Own(ProducerPool):
            def prepare(self, p):
                made = super().prepare(p)
                made.mark = True
                return made

        found = Own(connection.Pool(1), limit=1)
        with found.acquire() as producer:
            assert producer.mark and producer.connection.release is not None
            assert counts(found.connections) == (1, 0, 0, 0)
        assert counts(found.connections) == (0, 1, 0, 0)
        found.force_close_all()


def test_setting_the_limit_where_a_program_is_imported_chooses_no_library():
    # gunicorn's eventlet worker patches after a preloaded program was imported
    program = (
        "from greenmq import Connection, Queue, pools\n"
        "from greenmq.runtime.seam import chosen\n"
        "Connection('amqp://'), Queue('q'), pools.set_limit(50), pools.reset()\n"
        "assert not chosen() and pools.get_limit() == 50\n"
    )
    subprocess.run([sys.executable, '-c', program], check=True, timeout=60)
