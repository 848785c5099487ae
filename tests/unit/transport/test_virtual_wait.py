"""Channels that wait at their broker: long polls, batches, leases, late answers, broken brokers."""

from __future__ import annotations

from collections import deque
from queue import Empty

import pytest

from greenmq import runtime
from greenmq.core.retry import RetrySchedule
from greenmq.exceptions import ConnectionLost, PublishUnconfirmed
from greenmq.transport import virtual
from greenmq.transport.options import Option
from tests.support import green


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    """The delays after failures, a hundredth of what they are."""
    for module in ('fetch', 'settle'):
        monkeypatch.setattr(
            f'greenmq.transport.virtual.{module}.RetrySchedule',
            lambda *args, **kwargs: RetrySchedule(None, 0.001, 0.004, 0.1),
        )


class Broker:
    """A remote broker: queues of payloads, what is leased, and who waits."""

    def __init__(self):
        self.queues = {}
        self.leased = {}
        self.came = green.Event()
        self.log = []
        self.error = None
        self.gate = None  # closed: an answer is on its way, and does not arrive

    def put(self, queue, payload):
        self.queues.setdefault(queue, deque()).append(payload)
        self.came.set()

    def take(self, queues, n, timeout):
        """Wait for a message, as a long poll."""
        self.log.append((tuple(queues), n))
        if self.error is not None:
            raise self.error
        if not any(self.queues.get(queue) for queue in queues):
            self.came.clear()
            self.came.wait(timeout)
        items = []
        for queue in queues:
            while self.queues.get(queue) and len(items) < n:
                payload = self.queues[queue].popleft()
                self.leased[payload['properties']['delivery_tag']] = (queue, payload)
                items.append((queue, payload))
        return items


class WaitChannel(virtual.Channel):
    delivery = 'wait'
    body_encoding = None
    wait_timeout = 5.0

    @property
    def broker(self):
        return self.connection.client.transport_options['broker']

    def _put(self, queue, message, **kwargs):
        self.broker.put(queue, message)

    def _size(self, queue):
        return len(self.broker.queues.get(queue, ()))

    def _purge(self, queue):
        return len(self.broker.queues.pop(queue, ()))


class ManyChannel(WaitChannel):
    """A long poll for all queues, whose answer is given back if the task dies on the way."""

    def _get_many(self, queues, n, timeout):
        items = self.broker.take(queues, n, timeout)
        if items and self.broker.gate is not None:
            try:
                self.broker.gate.wait()
            except BaseException:
                self._abandon(items)
                raise
        return items

    def _abandon(self, items):
        self.broker.log.append(('abandon', [queue for queue, _ in items]))
        for queue, payload in reversed(items):
            self.broker.queues.setdefault(queue, deque()).appendleft(payload)


class OneChannel(WaitChannel):
    """A long poll for each queue."""

    def _get(self, queue, timeout=None):
        for _, payload in self.broker.take([queue], 1, timeout):
            return payload
        raise Empty()


class SettlingChannel(ManyChannel):
    lease_seconds = 0.03

    def _settle(self, acks, rejects):
        if self.broker.error is not None:
            raise self.broker.error
        green.sleep(0)
        self.broker.log.append(('settle', list(acks), list(rejects)))
        for tag in acks:
            self.broker.leased.pop(tag, None)
        for tag, requeue in reversed(rejects):
            queue, payload = self.broker.leased.pop(tag)
            if requeue:
                self.broker.queues[queue].appendleft(payload)

    def _extend(self, tags, seconds):
        self.broker.log.append(('extend', list(tags), seconds))


@pytest.fixture
def broker():
    return Broker()


@pytest.fixture
def connect(broker, opened):
    def connect(channel_cls, errors=None, **options):
        names = {'Channel': channel_cls, 'driver_type': 'wait', 'errors': errors or {}}
        cls = type('Transport', (virtual.Transport,), names)
        cls.options = {'broker': Option(None)}
        return opened(None, {'transport': cls}, broker=broker, **options)

    return connect


@pytest.fixture(params=[ManyChannel, OneChannel, SettlingChannel], ids=['many', 'one', 'settling'])
def connection(request, connect):
    return connect(request.param)


def publish(channel, *bodies, queue='q'):
    for body in bodies:
        channel.basic_publish(channel.prepare_message(body), '', queue)


def consume(channel, seen, queue='q', tag='t', ack=True, no_ack=False):
    def callback(message):
        seen.append(message.body.decode())
        if ack and not no_ack:
            message.ack()

    channel.basic_consume(queue, no_ack, callback, tag)


def drain_until(connection, condition, seconds=5):
    with green.Timeout(seconds):
        while not condition():
            connection.drain_events(timeout=seconds)


def wait_until(condition, seconds=5):
    with green.Timeout(seconds):
        while not condition():
            green.sleep(0.001)


# --------------------------------------------------------------------- fetches


def test_consumes_what_is_there_and_what_comes(connection):
    channel, seen = connection.channel(), []
    publish(channel, 'a')
    consume(channel, seen)
    drain_until(connection, lambda: len(seen) == 1)
    green.spawn(publish, channel, 'b', 'c')
    drain_until(connection, lambda: len(seen) == 3)
    assert seen == ['a', 'b', 'c']


def test_one_task_for_all_queues_or_one_for_each(connect, broker):
    for cls, tasks in ((ManyChannel, [None]), (OneChannel, ['q', 'r'])):
        channel = connect(cls).channel()
        for queue in 'qr':
            consume(channel, [], queue, tag=queue)
        assert list(channel.fetcher._tasks) == tasks
        assert channel.fetcher.state == ('fetching' if tasks == [None] else 'q: fetching, r: fetching')
        channel.close()


def test_a_fetch_asks_for_the_free_prefetch(connect, broker):
    connection = connect(ManyChannel)
    channel, held = connection.channel(), []
    channel.basic_qos(0, 3, False)
    channel.basic_consume('q', False, held.append, 't')
    publish(channel, *'abcde')
    drain_until(connection, lambda: len(held) == 3)
    wait_until(lambda: channel.fetcher.state == 'full')
    assert broker.log[0] == (('q',), 3) and channel._size('q') == 2
    held[0].ack()
    drain_until(connection, lambda: len(held) == 4)
    assert broker.log[-1] == (('q',), 1)


def test_without_prefetch_a_fetch_is_bounded_too(connect, broker):
    connection = connect(ManyChannel, fetch_ahead=4)
    channel, seen = connection.channel(), []
    publish(channel, *'abcdefgh')
    consume(channel, seen, ack=False)
    wait_until(lambda: channel.fetcher.state == 'full')
    assert broker.log == [(('q',), 4)] and connection.transport.events.pending == 4
    drain_until(connection, lambda: len(seen) == 8)
    assert seen == list('abcdefgh')


def test_a_consumer_added_during_a_long_poll_is_fetched_for(connection):
    channel, seen = connection.channel(), []
    consume(channel, seen, 'q', 'one')
    green.sleep(0.005)
    consume(channel, seen, 'r', 'two')
    publish(channel, 'x', queue='r')
    drain_until(connection, lambda: seen)


def test_cancelling_ends_the_long_poll(connection, broker):
    channel, seen = connection.channel(), []
    consume(channel, seen)
    green.sleep(0.005)
    channel.basic_cancel('t')
    green.sleep(0.005)
    publish(channel, 'x')
    green.sleep(0.005)
    assert channel._size('q') == 1 and channel.fetcher._tasks == {}


def test_an_answer_to_a_killed_fetch_is_given_back(connect, broker):
    connection = connect(ManyChannel)
    channel, seen = connection.channel(), []
    broker.gate = green.Event()
    publish(channel, 'a', 'b')
    consume(channel, seen)
    wait_until(lambda: not channel._size('q'))
    channel.basic_cancel('t')
    wait_until(lambda: channel._size('q') == 2)
    assert ('abandon', ['q', 'q']) in broker.log
    broker.gate = None
    consume(channel, seen)
    drain_until(connection, lambda: len(seen) == 2)
    assert seen == ['a', 'b']


def test_an_answer_for_a_queue_nobody_consumes_any_more_is_given_back(connect, broker):
    connection = connect(ManyChannel)
    channel, seen = connection.channel(), []
    consume(channel, seen)
    payload = channel.prepare_message('x')
    payload['properties']['delivery_tag'] = 'tag'
    channel.fetcher._arrived(channel, [('gone', payload), ('q', payload)])
    assert broker.log[-1] == ('abandon', ['gone'])
    drain_until(connection, lambda: seen)


def test_closing_gives_back_and_ends_everything(connection, broker):
    channel, held = connection.channel(), []
    channel.basic_consume('q', False, held.append, 't')
    publish(channel, 'a', 'b', 'c')
    drain_until(connection, lambda: len(held) == 1)
    channel.close()
    green.sleep(0.005)
    assert sorted(p['body'] for p in broker.queues['q']) == ['a', 'b', 'c']
    assert held[0].ack() is False


def test_a_broker_that_fails_is_asked_again_and_the_drains_are_told(connection, broker):
    channel, seen = connection.channel(), []
    broker.error = ConnectionResetError('broker away')
    errors = []

    def drain():
        try:
            connection.drain_events(timeout=5)
        except ConnectionResetError as error:
            errors.append(error)

    drainers = [green.spawn(drain) for _ in range(3)]
    green.sleep(0)
    consume(channel, seen)
    green.joinall(drainers)
    assert len(errors) == 3 and 'backoff' in channel.fetcher.state
    broker.error = None
    publish(channel, 'x')
    with green.Timeout(5):
        while not seen:
            try:
                connection.drain_events(timeout=5)
            except ConnectionResetError:
                continue  # one more that was on its way
    assert seen == ['x']


def test_a_fetch_that_never_waits_does_not_spin(connect, broker):
    class Hasty(ManyChannel):
        def _get_many(self, queues, n, timeout):
            self.broker.log.append('asked')
            return []

    channel = connect(Hasty).channel()
    consume(channel, [])
    green.sleep(0.1)
    assert 1 <= broker.log.count('asked') <= 20


def test_basic_get_by_get_many(connect, broker):
    channel = connect(ManyChannel).channel()
    publish(channel, 'x')
    assert channel.basic_get('q').body == b'x'
    channel.wait_timeout = 0
    assert channel.basic_get('q') is None


def test_flow_stops_the_fetches(connect, broker):
    connection = connect(ManyChannel)
    channel, seen = connection.channel(), []
    channel.flow(False)
    consume(channel, seen)
    publish(channel, 'x')
    green.sleep(0.005)
    assert channel._size('q') == 1
    channel.flow(True)
    drain_until(connection, lambda: seen)


def test_a_prefetch_counts_over_all_long_polls_in_flight(connect, broker):
    connection = connect(OneChannel, fetch_ahead=10)
    channel, seen = connection.channel(), []
    channel.wait_timeout = 0.02
    channel.basic_qos(0, 1, False)
    for queue in 'abc':
        consume(channel, seen, queue, tag=queue, ack=False)
    wait_until(lambda: broker.log)
    for queue in 'abc':
        publish(channel, queue, queue=queue)
    for _ in range(20):
        green.sleep(0.005)
    assert len(channel.qos._delivered) == 1
    for count in (1, 2, 3):
        drain_until(connection, lambda count=count: len(seen) == count)
        assert len(channel.qos._delivered) == 1
        channel.basic_ack(next(iter(channel.qos._delivered)))
    assert sorted(seen) == ['a', 'b', 'c']


@pytest.mark.parametrize('how', ['publish', 'error'])
def test_a_publish_keeps_its_deadline_whatever_put_does(connect, broker, how):
    class Slow(ManyChannel):
        def _put(self, queue, message, **kwargs):
            green.sleep(0.03)
            if how == 'error':
                raise TimeoutError('the socket')
            green.sleep(30)

    producer = connect(Slow).Producer()
    with pytest.raises(PublishUnconfirmed) as caught:
        producer.publish('x', routing_key='q', timeout=0.02 if how == 'error' else 0.05)
    assert caught.value.sent == 'unknown'


# ------------------------------------------------------------ settling, leases


def test_what_needs_no_ack_is_settled_when_it_is_handed_over(connect, broker):
    connection = connect(SettlingChannel)
    channel, seen = connection.channel(), []
    publish(channel, 'x')
    consume(channel, seen, no_ack=True)
    drain_until(connection, lambda: seen)
    wait_until(lambda: not broker.leased)
    publish(channel, 'y', queue='other')
    assert channel.basic_get('other', no_ack=True) is not None
    wait_until(lambda: not broker.leased)
    assert not broker.queues['q'] and not broker.queues['other']


def test_what_a_fetch_brought_too_late_is_given_back_and_not_put_again(connect, broker):
    class Plain(SettlingChannel):
        _abandon = virtual.Channel._abandon

    channel = connect(Plain).channel()
    publish(channel, 'x')
    items = channel._get_many(['q'], 1, 0)
    channel._abandon(items)
    wait_until(lambda: not broker.leased)
    assert len(broker.queues['q']) == 1


def test_acks_are_sent_together(connect, broker):
    connection = connect(SettlingChannel)
    channel, seen = connection.channel(), []
    publish(channel, *'abcd')
    consume(channel, seen)
    drain_until(connection, lambda: len(seen) == 4)
    wait_until(lambda: not broker.leased)
    settled = [entry for entry in broker.log if entry[0] == 'settle']
    assert sum(len(acks) for _, acks, _ in settled) == 4 and len(settled) < 4


def test_rejects_are_sent_with_their_fate(connect, broker):
    channel = connect(SettlingChannel).channel()
    publish(channel, 'back', 'gone')
    one, two = channel.basic_get('q'), channel.basic_get('q')
    one.requeue()
    two.reject()
    wait_until(lambda: not broker.leased)
    assert [p['body'] for p in broker.queues['q']] == ['back']


def test_a_failed_settle_is_repeated_and_told(connect, broker):
    connection = connect(SettlingChannel)
    channel = connection.channel()
    publish(channel, 'x')
    message = channel.basic_get('q')
    broker.error = ConnectionResetError('away')
    message.ack()
    with pytest.raises(ConnectionResetError):
        connection.drain_events(timeout=5)
    broker.error = None
    wait_until(lambda: not broker.leased)


def test_closing_sends_the_acks_first(connect, broker):
    channel = connect(SettlingChannel).channel()
    publish(channel, 'done', 'open')
    channel.basic_get('q').ack()
    channel.basic_get('q')
    channel.close()
    assert [p['body'] for p in broker.queues['q']] == ['open'] and broker.leased == {}


def test_closing_does_not_wait_for_a_settle_that_hangs(connect, broker):
    class Hanging(SettlingChannel):
        def _settle(self, acks, rejects):
            green.Event().wait()

    channel = connect(Hanging, close_timeout=0.05).channel()
    publish(channel, 'x')
    channel.basic_get('q').ack()
    channel.close()
    assert channel.closed and channel.connection is None


def test_a_settle_that_hangs_ends_with_who_waits_for_it(connect, broker):
    begun, ended = green.Event(), green.Event()

    class Hanging(SettlingChannel):
        def _settle(self, acks, rejects):
            begun.set()
            try:
                green.Event().wait()
            finally:
                ended.set()

    channel = connect(Hanging, close_timeout=0.05).channel()
    publish(channel, 'x')
    channel.basic_get('q').ack()
    wait_until(begun.is_set)
    begun.clear()
    closing = green.spawn(channel.settling.close, runtime.Deadline.after(30))
    wait_until(lambda: begun.is_set() and ended.is_set())  # the sender was ended, and the last try hangs
    ended.clear()
    closing.kill()
    wait_until(ended.is_set)


def test_cancelled_messages_go_back_by_the_broker_not_as_copies(connect, broker):
    channel = connect(SettlingChannel).channel()
    publish(channel, *'abc')
    consume(channel, [])
    wait_until(lambda: len(broker.leased) == 3)
    channel.basic_cancel('t')
    wait_until(lambda: not broker.leased)
    assert [p['body'] for p in broker.queues['q']] == ['a', 'b', 'c']


def test_leases_are_renewed_while_a_message_is_in_work_and_not_longer(connect, broker):
    channel = connect(SettlingChannel).channel()
    publish(channel, 'x')
    message = channel.basic_get('q')
    tag = message.delivery_tag
    wait_until(lambda: broker.log.count(('extend', [tag], 0.03)) >= 2)
    message.ack()
    wait_until(lambda: channel.settling._keeper.done)


def test_a_lease_that_cannot_be_renewed_is_told_and_tried_again(connect, broker):
    class Failing(SettlingChannel):
        failed = 0

        def _extend(self, tags, seconds):
            if not Failing.failed:
                Failing.failed = 1
                raise ConnectionResetError('away')
            super()._extend(tags, seconds)

    connection = connect(Failing)
    channel = connection.channel()
    publish(channel, 'x')
    channel.basic_get('q')
    with pytest.raises(ConnectionResetError):
        connection.drain_events(timeout=5)
    wait_until(lambda: any(entry[0] == 'extend' for entry in broker.log))


# ------------------------------------------------------------------ many of one queue, errors, ping


class EachChannel(ManyChannel):
    """Many in one call, of one queue: SQS, storage queues."""

    groups = 'each'


def test_many_messages_of_one_queue_come_in_one_fetch(connect, broker):
    connection = connect(EachChannel)
    channel, seen = connection.channel(), []
    for queue in 'ab':
        for n in range(100):
            publish(channel, f'{queue}{n}', queue=queue)
    for queue in 'ab':
        consume(channel, seen, queue=queue, tag=queue)
    drain_until(connection, lambda: len(seen) == 200)
    assert len(broker.log) <= 20
    assert all(len(queues) == 1 for queues, _ in broker.log)


def test_fetches_of_single_queues_share_the_prefetch(connect, broker):
    connection = connect(EachChannel)
    channel, seen = connection.channel(), []
    for queue in 'abc':
        for n in range(10):
            publish(channel, f'{queue}{n}', queue=queue)
    channel.basic_qos(0, 6, False)
    for queue in 'abc':
        consume(channel, seen, queue=queue, tag=queue, ack=False)
    drain_until(connection, lambda: len(seen) == 6)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.05)
    assert len(channel.qos.unsettled) == 6


class ClientError(Exception):
    """What the broker's client raises."""


def failing(connect):
    class Failing(ManyChannel):
        def _put(self, queue, message, **kwargs):
            if self.broker.error is not None:
                raise self.broker.error
            super()._put(queue, message, **kwargs)

        def _size(self, queue):
            if self.broker.error is not None:
                raise self.broker.error
            return super()._size(queue)

    connection = connect(Failing, errors={ClientError: ConnectionLost})
    connection.transport_options['broker'].error = ClientError('the client says no')
    return connection


def test_an_error_of_the_client_is_ours_wherever_it_comes_from(connect, broker):
    connection = failing(connect)
    channel = connection.channel()
    for use in (lambda: publish(channel, 'x'), lambda: channel.queue_declare('q'), connection.ping):
        with pytest.raises(ConnectionLost, match='the client says no') as caught:
            use()
        assert isinstance(caught.value.__cause__, ClientError)
    consume(channel, [])
    with pytest.raises(ConnectionLost):
        connection.drain_events(timeout=5)
    broker.error = KeyError('not in the table')
    with pytest.raises(KeyError):
        publish(channel, 'x')


def test_a_publish_is_tried_again_after_an_error_of_the_client(connect, broker):
    connection = failing(connect)
    green.spawn_later(0.05, setattr, broker, 'error', None)
    with connection.Producer() as producer:
        policy = {'interval_start': 0.01, 'interval_step': 0.01, 'max_retries': 100}
        producer.publish('x', routing_key='q', retry=True, retry_policy=policy)
    assert len(broker.queues['q']) == 1


def test_ping_asks_the_broker_and_keeps_its_deadline(connect, broker):
    asked = []

    class Pinged(ManyChannel):
        def _ping(self, deadline):
            asked.append(deadline.remaining())
            green.sleep(broker.pause)

    broker.pause = 0
    connection = connect(Pinged)
    connection.ping(timeout=5)
    assert len(asked) == 1 and 0 < asked[0] <= 5
    broker.pause = 30
    with pytest.raises(TimeoutError), runtime.timeout_class()(10):
        connection.ping(timeout=0.05)
