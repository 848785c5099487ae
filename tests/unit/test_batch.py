"""Producer.batch on a channel that can: what kombu 5.7 promises, and greenlets kept apart."""

import pytest

from greenmq.exceptions import InvalidArgument
from greenmq.messaging import Producer
from tests.support import green
from tests.unit.recorder import Recorder


class Batch:
    def __init__(self, log):
        self.log = log

    def publish(self, message, **options):
        self.log.append(('publish', options['routing_key']))

    def flush(self):
        self.log.append('flush')
        return 'flushed'

    def discard(self):
        self.log.append('discard')

    def close(self):
        self.log.append('close')


class Channel(Recorder):
    supports_batch_publish = True

    def __init__(self):
        super().__init__()
        self.log = []

    def create_publish_batch(self, max_size):
        self.log.append(('batch', max_size))
        return Batch(self.log)


@pytest.fixture
def channel():
    return Channel()


@pytest.fixture
def producer(channel):
    return Producer(channel)


def test_what_is_published_inside_is_flushed_together(channel, producer):
    assert producer.supports_batch_publish
    with producer.batch(2) as batch:
        for key in 'ab':
            producer.publish('x', key)
        assert batch.flush() == 'flushed'
        producer.publish('x', 'c')
    assert channel.log == [
        ('batch', 2), ('publish', 'a'), ('publish', 'b'), 'flush', ('publish', 'c'), 'flush', 'close',
    ]  # fmt: skip
    assert 'basic_publish' not in channel.names()
    producer.publish('x', 'd')
    assert 'basic_publish' in channel.names()


def test_an_exception_discards(channel, producer):
    with pytest.raises(KeyError), producer.batch():
        producer.publish('x', 'a')
        raise KeyError
    assert channel.log[1:] == [('publish', 'a'), 'discard', 'close']


def test_only_the_outermost_flushes(channel, producer):
    with producer.batch(2):
        with producer.batch(3):
            producer.publish('x', 'a')
        assert 'flush' not in channel.log
    assert channel.log == [('batch', 2), ('publish', 'a'), 'flush', 'close']


def test_an_empty_batch_costs_nothing(channel, producer):
    with producer.batch():
        pass
    assert channel.log == []


def test_other_greenlets_publish_at_once(channel, producer):
    with producer.batch():
        producer.publish('x', 'mine')
        green.spawn(producer.publish, 'x', 'theirs').get()
    assert [call['routing_key'] for call in channel.of('basic_publish')] == ['theirs']
    assert ('publish', 'theirs') not in channel.log


def test_a_changed_channel_ends_the_batch(channel, producer):
    with pytest.raises(RuntimeError, match='channel changed'), producer.batch():
        producer.publish('x', 'a')
        producer.revive(Channel())
        producer.publish('x', 'b')
    assert channel.log[-2:] == ['discard', 'close']


def test_a_failing_flush_still_closes(channel, producer):
    def flush(self):
        raise OSError('gone')

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match='gone'), producer.batch():
        patch.setattr(Batch, 'flush', flush)
        producer.publish('x', 'a')
    assert channel.log[-1] == 'close'


def test_use_outside_of_the_block(producer):
    batch = producer.batch()
    with pytest.raises(RuntimeError, match='not active'):
        batch.flush()
    with batch:
        with pytest.raises(RuntimeError, match='re-entered'), batch:
            pass
    with pytest.raises(RuntimeError, match='not active'):
        batch.flush()


@pytest.mark.parametrize('size', [0, -1, None, '2', 2.0, True])
def test_sizes(producer, size):
    with pytest.raises(InvalidArgument, match='max_size must be a positive integer'):
        producer.batch(size)


def test_an_exception_inside_ends_the_blocks_around_it(channel, producer):
    with producer.batch() as outer:
        producer.publish('1', routing_key='a')
        with pytest.raises(ValueError, match='inner'), producer.batch():
            raise ValueError('inner')
        for call in (lambda: producer.publish('2', routing_key='b'), outer.flush):
            with pytest.raises(RuntimeError, match='aborted batch'):
                call()
    assert channel.log == [('batch', 1000), ('publish', 'a'), 'discard', 'close']
    producer.publish('3', routing_key='c')
    assert channel.names()[-1] == 'basic_publish'


@pytest.mark.parametrize('broken', [('discard',), ('close',), ('discard', 'close')])
def test_the_first_error_is_the_one_that_counts(channel, producer, monkeypatch, caplog, broken):
    def fail(self):
        raise OSError('while cleaning up')

    for name in broken:
        monkeypatch.setattr(Batch, name, fail)
    with pytest.raises(KeyError, match='body'), producer.batch():
        producer.publish('1', routing_key='a')
        raise KeyError('body')
    assert caplog.text.count('a batch that was given up') == len(broken)


def test_an_error_of_close_alone_is_raised(channel, producer, monkeypatch):
    monkeypatch.setattr(Batch, 'close', lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError), producer.batch():
        producer.publish('1', routing_key='a')


@pytest.mark.parametrize('says, batched', [(None, True), (True, True), (False, False)])
def test_a_channel_is_known_by_its_method(says, batched):
    class Other(Recorder):
        def create_publish_batch(self, max_size):
            return Batch(log)

    log, channel = [], Other()
    if says is not None:
        channel.supports_batch_publish = says
    producer = Producer(channel)
    assert producer.supports_batch_publish is batched
    with producer.batch():
        producer.publish('1', routing_key='a')
    assert log == ([('publish', 'a'), 'flush', 'close'] if batched else [])
