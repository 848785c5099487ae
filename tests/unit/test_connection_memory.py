"""Connection over memory://: what the documents show, and who is woken by a close."""
import pytest

from greenmq import Connection, Queue, pools
from greenmq.common import eventloop
from greenmq.exceptions import ConnectionClosed, TimeoutError
from tests.support import green

URL = 'memory://localhost/test_connection_memory'


@pytest.fixture
def connection():
    with Connection(URL) as found:
        yield found


def outcome(fun, *args, **kwargs):
    try:
        return fun(*args, **kwargs)
    except Exception as exc:
        return exc


def test_close_wakes_all_who_drain(connection):
    connection.connect()
    drains = [green.spawn(outcome, connection.drain_events, timeout=60) for _ in range(3)]
    green.sleep(0)
    closers = [green.spawn(connection.close) for _ in range(3)]
    green.joinall([*drains, *closers])
    assert [type(drain.value) for drain in drains] == [ConnectionClosed] * 3


def test_close_from_another_thread(connection):
    connection.connect()
    drain = green.spawn(outcome, connection.drain_events, timeout=60)
    green.sleep(0)
    green.in_thread(connection.close)
    drain.join()
    assert isinstance(drain.value, ConnectionClosed) and not connection.connected


def test_close_in_a_callback_of_the_hub(connection):
    connection.connect()
    done = green.Event()
    green.run_callback(lambda: (connection.close(), done.set()))
    done.wait()
    assert not connection.connected


def test_drain_events_times_out(connection):
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.001)


def test_a_channel_of_a_closed_connection_is_closed(connection):
    channel = connection.default_channel
    connection.close()
    assert channel.closed and connection.default_channel is not channel


def test_heartbeats_need_no_call(connection):
    assert connection.connect().heartbeat_check() is None
    assert not connection.supports_heartbeats and connection.get_heartbeat_interval() == 0
    assert not connection.is_evented


def test_what_the_transport_can_do(connection):
    assert connection.supports_exchange_type('topic') and not connection.supports_exchange_type('carrier')
    assert connection.qos_semantics_matches_spec in (True, False)
    assert connection.manager is not connection.get_manager()
    assert connection.transport.client is connection


class TestDocuments:
    """The examples of the user's documents, with memory:// for their brokers."""

    def test_basic_connection(self):
        with Connection(hostname='localhost', userid='guest', password='guest', virtual_host='/',
                        transport='memory') as conn:
            assert conn.channel() is not None

    def test_connect_and_release(self):
        conn = Connection(URL)
        assert conn.connect() is conn
        conn.release()
        assert not conn.connected

    def test_connection_with_retry_logic(self):
        conn = Connection(URL)
        seen = []
        with conn.ensure_connection(
            errback=lambda exc, interval: seen.append(exc),
            max_retries=5, interval_start=1, interval_step=2, interval_max=10,
        ):
            assert conn.channel() is not None and not seen

    def test_pools_by_url(self):
        with pools.connections[URL].acquire() as conn:
            queue = Queue('test', routing_key='test')
            conn.Producer().publish({'msg': 'hello'}, routing_key='test', declare=[queue])
            with conn.channel() as channel:
                assert channel.queue_declare('test', passive=True).message_count == 1
        with pools.producers[URL].acquire(timeout=5.0) as producer:
            producer.publish({'msg': 'hello'}, routing_key='test')

    def test_event_processing(self):
        seen = []

        def process_message(body, message):
            seen.append(body)
            message.ack()

        queue = Queue('test_queue')
        with Connection(URL) as conn:
            consumer = conn.Consumer(queue, callbacks=[process_message])
            consumer.consume()
            conn.Producer().publish({'n': 1}, routing_key='test_queue')
            for _ in eventloop(conn, limit=1, timeout=5.0):
                pass
        assert seen == [{'n': 1}]

    def test_simple_queues(self, connection):
        with connection.SimpleQueue('simple') as queue:
            queue.put('a')
            assert queue.get(timeout=5).payload == 'a'
        with connection.SimpleBuffer('buffer') as queue:
            queue.put('b')
            assert queue.get(timeout=5).payload == 'b'

    def test_autoretry(self, connection):
        def publish_messages(channel):
            channel.Producer().publish('x', routing_key='nowhere')
            return 1

        channel = connection.channel()
        try:
            ret, channel = connection.autoretry(publish_messages, channel)()
        finally:
            channel.close()
        assert ret == 1

    def test_a_channel_pool(self, connection):
        pool = connection.ChannelPool(2)
        c1, c2 = pool.acquire(), pool.acquire()
        with pytest.raises(pool.LimitExceeded) as caught:
            pool.acquire()
        assert caught.value.args[0] == 2
        c1.release()
        assert pool.acquire() is c1
        assert not c2.closed
