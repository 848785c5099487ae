"""Channels as other people wrote them for kombu run unchanged: each kind of override that is in use."""

from __future__ import annotations

import gc
import os
import weakref
from collections import deque
from json import dumps, loads
from queue import Empty

import pytest

from greenmq import Connection
from greenmq.core.retry import RetrySchedule
from greenmq.transport import virtual
from greenmq.transport.virtual.fetch import logger as fetch_logger
from tests.support import green


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    """The delays after failures, a hundredth of what they are."""
    for module in ('fetch', 'settle'):
        monkeypatch.setattr(
            f'greenmq.transport.virtual.{module}.RetrySchedule',
            lambda *args, **kwargs: RetrySchedule(None, 0.001, 0.004, 0.1),
        )


class DictChannel(virtual.Channel):
    """The least there is: a dict of deques."""

    store: dict = {}

    def _put(self, queue, message, **kwargs):
        self.store.setdefault(queue, deque()).append(dumps(message))

    def _get(self, queue, timeout=None):
        try:
            return loads(self.store[queue].popleft())
        except (KeyError, IndexError):
            raise Empty() from None

    def _size(self, queue):
        return len(self.store.get(queue, ()))

    def _purge(self, queue):
        return len(self.store.pop(queue, ()))


def transport_of(channel_cls, **attributes):
    attributes = {'Channel': channel_cls, 'polling_interval': 0.01, 'driver_type': 'dict', **attributes}
    return type('Transport', (virtual.Transport,), attributes)


@pytest.fixture
def connect(opened):
    DictChannel.store = {}

    def connect(transport_cls=None, **options):
        return opened(None, {'transport': transport_cls or transport_of(DictChannel)}, **options)

    return connect


def publish(channel, body, key='q', exchange='', **headers):
    message = channel.prepare_message(body, None, 'text/plain', 'utf-8', headers)
    channel.basic_publish(message, exchange, key)


def drain_until(connection, condition, seconds=5):
    with green.Timeout(seconds):
        while not condition():
            connection.drain_events(timeout=seconds)


def consume(channel, seen, queue='q', tag='t', no_ack=False, ack=True):
    def callback(message):
        seen.append(message)
        if ack and not no_ack:
            message.ack()

    channel.basic_consume(queue, no_ack, callback, tag)


def body(message):
    return message.body if isinstance(message.body, str) else bytes(message.body).decode()


# --------------------------------------------------------- _get, _put and so on


def test_get_and_put_are_enough(connect):
    connection = connect()
    channel, seen = connection.channel(), []
    publish(channel, 'before')
    consume(channel, seen)
    publish(channel, 'after', h=1)
    drain_until(connection, lambda: len(seen) == 2)
    assert [body(m) for m in seen] == ['before', 'after']
    assert seen[1].headers == {'h': 1} and seen[1].delivery_info['consumer_tag'] == 't'
    assert channel.qos._delivered == {}


def test_bodies_are_base64_in_the_store(connect):
    channel = connect().channel()
    publish(channel, b'\xff\x00')
    raw = loads(channel.store['q'][0])
    assert raw['body'] == '/wA=' and raw['properties']['body_encoding'] == 'base64'
    assert channel.basic_get('q').body == b'\xff\x00'


def test_a_look_comes_with_drain_events_even_between_two_polls(connect):
    connection = connect(transport_of(DictChannel, polling_interval=60.0))
    channel, seen = connection.channel(), []
    consume(channel, seen)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0)
    publish(channel, 'x')
    connection.drain_events(timeout=1)
    assert len(seen) == 1


def test_and_once_more_at_the_end(connect):
    connection = connect(transport_of(DictChannel, polling_interval=60.0))
    channel, seen = connection.channel(), []
    consume(channel, seen)
    green.spawn_later(0.01, publish, channel, 'x')
    connection.drain_events(timeout=0.03)
    assert len(seen) == 1


def test_the_polling_interval_is_an_option(connect):
    assert connect(polling_interval=0.5).transport.polling_interval == 0.5


def test_prefetch_is_honoured(connect):
    connection = connect()
    channel, seen = connection.channel(), []
    channel.basic_qos(0, 2, False)
    consume(channel, seen, ack=False)
    for n in range(5):
        publish(channel, n and str(n) or '0')
    drain_until(connection, lambda: len(seen) == 2)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.03)
    assert channel._size('q') == 3
    seen[0].ack()
    drain_until(connection, lambda: len(seen) == 3)


def test_without_prefetch_a_bounded_number_waits_here(connect):
    connection = connect(fetch_ahead=4)
    channel, seen = connection.channel(), []
    for n in range(20):
        publish(channel, str(n))
    consume(channel, seen, ack=False)
    with green.Timeout(5):
        while channel.fetcher.state != 'full':
            green.sleep(0.001)
    assert channel._size('q') == 16
    assert 'full' in repr(channel)
    drain_until(connection, lambda: len(seen) == 20)
    assert [body(m) for m in seen] == [str(n) for n in range(20)]


def test_requeue_goes_to_the_one_queue_marked_and_counted(connect):
    connection = connect()
    channel = connection.channel()
    channel.exchange_declare('e', 'direct')
    for queue in 'ab':
        channel.queue_bind(queue, 'e', 'k')
    publish(channel, 'x', 'k', 'e')
    channel.basic_get('a').requeue()
    assert (channel._size('a'), channel._size('b')) == (1, 1)
    message = channel.basic_get('a')
    assert message.delivery_info['redelivered'] and message.headers['x-delivery-count'] == 1


def test_one_message_in_two_queues_is_settled_apart(connect):
    channel = connect().channel()
    channel.exchange_declare('e', 'direct')
    for queue in 'ab':
        channel.queue_bind(queue, 'e', 'k')
    publish(channel, 'x', 'k', 'e')
    one, two = channel.basic_get('a'), channel.basic_get('b')
    assert one.delivery_tag != two.delivery_tag
    one.ack()
    assert list(channel.qos._delivered) == [two.delivery_tag]


def test_closing_gives_back_in_order(connect):
    connection = connect()
    channel, seen = connection.channel(), []
    for n in range(4):
        publish(channel, str(n))
    consume(channel, seen, ack=False)
    with green.Timeout(5):
        while channel._size('q'):
            green.sleep(0.001)
    drain_until(connection, lambda: len(seen) == 2)  # two had a callback, two wait for one
    channel.close()
    other = connection.channel()
    assert [body(other.basic_get('q')) for _ in range(4)] == ['0', '1', '2', '3']


def test_what_cannot_be_given_back_is_dumped_and_not_lost(connect, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))

    class Broken(DictChannel):
        def _restore(self, message):
            raise OSError('disk full')

    connection = connect(transport_of(Broken))
    channel = connection.channel()
    publish(channel, 'precious')
    channel.basic_get('q')
    channel.close()
    assert 'CANNOT GIVE BACK 1 MESSAGES' in capsys.readouterr().err
    assert any(tmp_path.iterdir())


def test_rejected_goes_to_the_dead_letters_if_the_queue_has_some(connect):
    channel = connect().channel()
    channel.queue_declare('q', arguments={'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead'})
    assert channel.has_dead_letter('q')
    publish(channel, b'\x00x', h=1)
    channel.basic_get('q').reject()
    message = channel.basic_get('dead')
    assert message.body == b'\x00x' and message.headers['h'] == 1
    assert message.headers['x-first-death-reason'] == 'rejected'


def test_max_deliveries(connect):
    channel = connect(max_deliveries=2).channel()
    publish(channel, 'x')
    channel.basic_get('q').requeue()
    channel.basic_get('q').requeue()
    assert channel.basic_get('q') is None


def test_what_no_callback_had_does_not_count_as_delivered(connect):
    connection = connect(max_deliveries=2)
    channel = connection.channel()
    publish(channel, 'x')
    for _ in range(4):
        consume(channel, [])
        with green.Timeout(5):
            while not connection.transport.events.pending:
                green.sleep(0.001)
        channel.basic_cancel('t')
    message = channel.basic_get('q')
    assert not message.delivery_info['redelivered'] and 'x-delivery-count' not in message.headers


def test_garbage_in_the_store_does_not_stop_the_consumer(connect, caplog):
    connection = connect()
    channel, seen = connection.channel(), []
    channel.store['q'] = deque([dumps(['no', 'message']), dumps({'body': 'no properties'})])
    publish(channel, 'good')
    consume(channel, seen)
    drain_until(connection, lambda: seen)
    assert body(seen[0]) == 'good'
    assert caplog.text.count('it is no message') == 2


def test_a_body_that_is_no_base64_is_a_matter_of_decode(connect):
    from greenmq.exceptions import DecodeError

    channel = connect().channel()
    publish(channel, 'x')
    raw = loads(channel.store['q'].popleft())
    raw['body'] = 'a'
    channel.store['q'].append(dumps(raw))
    message = channel.basic_get('q')
    with pytest.raises(DecodeError, match='base64'):
        message.decode()
    message.reject()


def test_a_failing_get_is_told_and_tried_again(connect, caplog):
    class Flaky(DictChannel):
        failures = 2

        def _get(self, queue, timeout=None):
            if Flaky.failures and self.store.get(queue):
                Flaky.failures -= 1
                raise ConnectionResetError('broker away')
            return super()._get(queue, timeout)

    connection = connect(transport_of(Flaky))
    channel, seen = connection.channel(), []
    consume(channel, seen)
    publish(channel, 'x')
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            connection.drain_events(timeout=5)
    drain_until(connection, lambda: seen)
    assert fetch_logger.name == 'greenmq.transport.virtual' and 'tries again' in caplog.text


def test_cancelling_ends_the_task(connect):
    connection = connect()
    channel, seen = connection.channel(), []
    consume(channel, seen)
    green.sleep(0.01)
    channel.basic_cancel('t')
    green.sleep(0.01)
    publish(channel, 'x')
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.03)
    assert channel._size('q') == 1 and channel.fetcher._tasks == {}


def test_an_abandoned_connection_ends_its_task(connect):
    connection = Connection(transport=transport_of(DictChannel, polling_interval=60.0))
    channel = connection.channel()
    consume(channel, [])
    green.sleep(0.01)
    (task,) = channel.fetcher._tasks.values()
    forgotten = weakref.ref(connection)
    del connection, channel
    gc.collect()
    assert forgotten() is None
    assert task.join(5)


def test_two_channels_of_one_connection_may_consume_one_queue(connect):
    connection = connect()
    seen = {'a': [], 'b': []}
    for tag, messages in seen.items():
        channel = connection.channel()
        channel.basic_qos(0, 1, False)
        consume(channel, messages, tag=tag)
    for n in range(10):
        publish(channel, str(n))
    drain_until(connection, lambda: sum(map(len, seen.values())) == 10)
    assert seen['a'] and seen['b']


def test_mandatory(connect):
    from greenmq.exceptions import Unroutable

    channel = connect().channel()
    channel.exchange_declare('e', 'topic')
    channel.queue_bind('q', 'e', 'a.#')
    message = channel.prepare_message('x')
    channel.basic_publish(message, 'e', 'a', mandatory=True)
    with pytest.raises(Unroutable):
        channel.basic_publish(channel.prepare_message('x'), 'e', 'b', mandatory=True)


# ----------------------------------------------------------------- a file store


class FileChannel(virtual.Channel):
    """Messages as files, as kombu's filesystem transport keeps them."""

    @property
    def folder(self):
        return self.connection.client.transport_options['data_folder']

    def _put(self, queue, payload, **kwargs):
        name = f'{len(os.listdir(self.folder)):06}_{payload["properties"]["delivery_tag"]}.{queue}.msg'
        with open(os.path.join(self.folder, name), 'w') as file:
            file.write(dumps(payload))

    def _get(self, queue):
        for name in sorted(os.listdir(self.folder)):
            if name.endswith(f'.{queue}.msg'):
                path = os.path.join(self.folder, name)
                with open(path) as file:
                    payload = file.read()
                os.remove(path)
                return loads(payload)
        raise Empty()

    def _size(self, queue):
        return sum(name.endswith(f'.{queue}.msg') for name in os.listdir(self.folder))

    def _purge(self, queue):
        count = 0
        while self._size(queue):
            self._get(queue)
            count += 1
        return count


def test_a_get_without_a_timeout_argument(connect, tmp_path):
    cls = transport_of(FileChannel, options={})
    with pytest.warns(UserWarning, match='data_folder'):
        connection = connect(cls, data_folder=str(tmp_path))
    channel, seen = connection.channel(), []
    consume(channel, seen)
    for n in range(3):
        publish(channel, str(n))
    drain_until(connection, lambda: len(seen) == 3)
    assert [body(m) for m in seen] == ['0', '1', '2']
    publish(channel, 'left')
    channel.basic_cancel('t')
    assert channel.queue_purge('q') == channel._size('q') + 1 or channel._size('q') == 0


# ------------------------------------------------------------------- overrides


def test_poll_is_called_with_cycle_and_callback(connect):
    calls = []

    class Polling(DictChannel):
        def _poll(self, cycle, callback, timeout=None):
            calls.append(timeout)
            return cycle.get(callback)

    connection = connect(transport_of(Polling))
    channel, seen = connection.channel(), []
    consume(channel, seen)
    publish(channel, 'x')
    drain_until(connection, lambda: seen)
    assert calls and all(timeout is not None for timeout in calls)


def test_poll_that_delivers_by_the_connection(connect):
    class Direct(DictChannel):
        def _poll(self, cycle, callback, timeout=None):
            for queue in list(self._active_queues):
                self.connection._deliver(self._get(queue), queue)

    connection = connect(transport_of(Direct))
    channel, seen, greenlets = connection.channel(), [], []
    channel.basic_consume('q', False, lambda m: (seen.append(m), greenlets.append(green.getcurrent())), 't')
    publish(channel, 'x')
    drain_until(connection, lambda: seen)
    assert greenlets == [green.getcurrent()]  # not the task that fetched
    assert list(channel.qos._delivered) == [seen[0].delivery_tag]


def test_get_and_deliver_may_bring_several(connect):
    class Batches(DictChannel):
        def _get_and_deliver(self, queue, callback):
            first = self._get(queue)
            callback(first, queue)
            try:
                callback(self._get(queue), queue)
            except Empty:
                return

    connection = connect(transport_of(Batches))
    channel, seen = connection.channel(), []
    for n in range(4):
        publish(channel, str(n))
    consume(channel, seen)
    drain_until(connection, lambda: len(seen) == 4)
    assert [body(m) for m in seen] == ['0', '1', '2', '3']


def test_get_many_of_kombu(connect):
    class Many(DictChannel):
        def _get_many(self, queues, timeout=None):
            for queue in queues:
                self.connection._deliver(self._get(queue), queue)

    connection = connect(transport_of(Many))
    channel, seen = connection.channel(), []
    consume(channel, seen)
    publish(channel, 'x')
    drain_until(connection, lambda: seen)


def test_drain_events_of_a_channel(connect):
    class Draining(DictChannel):
        def drain_events(self, timeout=None, callback=None):
            for queue in list(self._tag_to_queue.values()):
                if self._size(queue):
                    callback(self._get(queue), queue)
                    return
            raise Empty()

    connection = connect(transport_of(Draining))
    channel, seen = connection.channel(), []
    consume(channel, seen)
    publish(channel, 'x')
    drain_until(connection, lambda: seen)


def test_deliver_of_a_transport_sees_each_payload_once(connect):
    delivered = []

    def deliver(self, message, queue):
        delivered.append((message['headers'], queue))
        virtual.Transport._deliver(self, message, queue)

    connection = connect(transport_of(DictChannel, _deliver=deliver))
    channel, seen = connection.channel(), []
    consume(channel, seen)
    publish(channel, 'x', h=1)
    drain_until(connection, lambda: seen)
    assert delivered == [({'h': 1}, 'q')]
    assert channel.qos._delivered == {}


def test_callbacks_are_a_view_that_can_be_called_and_set(connect):
    connection = connect()
    transport = connection.transport
    channel, seen = connection.channel(), []
    consume(channel, seen)
    assert 'q' in transport._callbacks and list(transport._callbacks) == ['q']
    assert len(transport._callbacks) == 1 and 'other' not in transport._callbacks
    publish(channel, 'x')
    raw = channel._get('q')
    transport._callbacks['q'](raw)
    assert body(seen[0]) == 'x'
    transport.on_message_ready(channel, {**raw, 'body': 'eQ=='}, 'q')
    assert body(seen[1]) == 'y'
    raws = []
    transport._callbacks['q'] = raws.append
    publish(channel, 'z')
    drain_until(connection, lambda: raws)
    assert raws[0]['body'] == 'eg==' and len(seen) == 2
    del transport._callbacks['q']
    with pytest.raises(KeyError, match='without consumers'):
        transport.on_message_ready(channel, raw, 'nobody')
    with pytest.raises(KeyError, match='without destination'):
        transport._deliver(raw, None)


def test_a_delivery_for_a_queue_nobody_consumes_goes_back(connect, caplog):
    connection = connect()
    channel = connection.channel()
    publish(channel, 'x')
    raw = channel._get('q')
    connection.transport._deliver(raw, 'q')
    assert channel._size('q') == 1 and 'nobody consumes' in caplog.text


def test_drain_events_of_a_transport_fetches_by_itself(connect):
    """As a transport with a loop of its own: its look must find what no task of ours took."""

    def drain_events(self, connection, timeout=None):
        while True:
            try:
                return self.cycle.get(self._deliver, timeout=timeout)
            except Empty:
                if timeout is not None:
                    raise TimeoutError() from None
                green.sleep(0)

    connection = connect(transport_of(DictChannel, drain_events=drain_events))
    channel, seen = connection.channel(), []
    consume(channel, seen)
    publish(channel, 'x')
    green.sleep(0.02)
    assert channel._size('q') == 1
    connection.drain_events()
    assert body(seen[0]) == 'x'
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0)


def test_qos_of_a_channel_sees_every_step(connect):
    steps = []

    class Watching(virtual.QoS):
        def append(self, message, delivery_tag):
            steps.append('append')
            super().append(message, delivery_tag)

        def ack(self, delivery_tag):
            steps.append('ack')
            super().ack(delivery_tag)

        def reject(self, delivery_tag, requeue=False):
            steps.append(('reject', requeue))
            super().reject(delivery_tag, requeue=requeue)

    channel_cls = type('Channel', (DictChannel,), {'QoS': Watching})
    connection = connect(transport_of(channel_cls))
    channel, seen = connection.channel(), []
    consume(channel, seen)
    publish(channel, 'x')
    drain_until(connection, lambda: seen)
    publish(channel, 'y')
    channel.basic_cancel('t')
    steps.append('---')
    channel.basic_get('q').requeue()
    assert steps[:2] == ['append', 'ack']
    assert steps[steps.index('---') + 1 :][:2] == ['append', ('reject', True)]


def test_qos_that_collects_in_dirty(connect):
    class Lazy(virtual.QoS):
        def ack(self, delivery_tag):
            self._dirty.add(delivery_tag)

    channel_cls = type('Channel', (DictChannel,), {'QoS': Lazy})
    connection = connect(transport_of(channel_cls))
    channel, seen = connection.channel(), []
    channel.basic_qos(0, 1, False)
    consume(channel, seen)
    for n in range(3):
        publish(channel, str(n))
    drain_until(connection, lambda: len(seen) == 3)
    channel.close()
    assert channel._size('q') == 0


def test_a_front_of_ones_own(connect):
    class Front(DictChannel):
        def _restore_at_beginning(self, message):
            self.store.setdefault(message.queue, deque()).appendleft(dumps(message.serializable()))

    connection = connect(transport_of(Front))
    channel = connection.channel()
    for n in range(4):
        publish(channel, str(n))
    channel.basic_get('q')
    channel.basic_get('q')
    channel.close()
    other = connection.channel()
    assert [body(other.basic_get('q')) for _ in range(4)] == ['0', '1', '2', '3']


def test_tables_kept_elsewhere(connect):
    tables = {}

    class Tables(DictChannel):
        supports_fanout = True

        def get_table(self, exchange):
            return list(tables.get(exchange, ()))

        def _queue_bind(self, exchange, routing_key, pattern, queue):
            tables.setdefault(exchange, []).append((routing_key or '', pattern or '', queue or ''))

        def _put_fanout(self, exchange, message, routing_key, **kwargs):
            for _, _, queue in tables[exchange]:
                self._put(queue, message)

    channel = connect(transport_of(Tables)).channel()
    for kind in ('topic', 'fanout'):
        channel.exchange_declare(kind, kind)
        channel.queue_bind('q', kind, 'a.#')
    assert tables['topic'] == [('a.#', r'^a\..*?$', 'q')]
    publish(channel, 'topic', 'a', 'topic')
    publish(channel, 'none', 'b', 'topic')
    publish(channel, 'fanout', 'b', 'fanout')
    assert [body(channel.basic_get('q')) for _ in range(2)] == ['topic', 'fanout']
    assert channel.basic_get('q') is None
    with pytest.raises(NotImplementedError):
        channel.exchange_bind('a', 'b')


def test_an_exchange_type_of_ones_own(connect):
    class Shout(virtual.base.STANDARD_EXCHANGE_TYPES['direct']):
        type = 'shout'

        def lookup(self, table, exchange, routing_key, default):
            return [queue for rkey, _, queue in table if rkey.upper() == routing_key]

    types = {**virtual.Channel.exchange_types, 'shout': Shout}
    channel = connect(transport_of(type('Channel', (DictChannel,), {'exchange_types': types}))).channel()
    channel.exchange_declare('e', 'shout')
    channel.queue_bind('q', 'e', 'hey')
    publish(channel, 'x', 'HEY', 'e')
    publish(channel, 'y', 'hey', 'e')
    assert channel._size('q') == 1


def test_the_constructor_may_fail_and_leaves_nothing(connect):
    class Broken(DictChannel):
        def __init__(self, connection, **kwargs):
            super().__init__(connection, **kwargs)
            raise OSError('no broker')

    transport = transport_of(Broken)(Connection('memory://'))
    with pytest.raises(OSError, match='no broker'):
        transport.establish_connection()
    assert transport.channels == [] and transport._used_channel_ids == set()
