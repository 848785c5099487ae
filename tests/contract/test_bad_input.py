"""A caller's bad input costs nobody else anything: refused before anything is sent, by its name."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal

import pytest

from greenmq import Connection, Consumer, Exchange, Producer, Queue
from greenmq.exceptions import InvalidArgument
from tests.support import green

# Refused before anything is sent, whatever the runtime.
pytestmark = [pytest.mark.one_of_a_kind, pytest.mark.once]

LONG = 'a' * 300
DEEP = {}
for _ in range(80):
    DEEP = {'d': DEEP}


class Shared:
    """A connection with a consumer that must go on, whatever others do."""

    def __init__(self, connection, name):
        self.connection, self.name = connection, name
        self.channel = connection.channel()
        self.queue = Queue(name, durable=False)(self.channel)
        self.queue.declare()
        self.seen = []
        self.consumer = Consumer(self.channel, [self.queue], callbacks=[self._received], auto_declare=False)
        self.consumer.consume()
        self.producer = Producer(connection)
        self.epoch = getattr(connection.connection, 'epoch', 0)

    def _received(self, body, message):
        self.seen.append(body)
        message.ack()

    def check(self):
        """The consumer still gets what is published: once, and nothing that was refused."""
        self.producer.publish('fine', routing_key=self.name)
        with green.Timeout(10):
            while not self.seen:
                self.connection.drain_events(timeout=5)
        assert self.seen == ['fine']
        self.seen.clear()
        assert getattr(self.connection.connection, 'epoch', 0) == self.epoch and self.connection.connected


@pytest.fixture
def shared(connection, name):
    shared = Shared(connection, name)
    yield shared
    shared.consumer.cancel()
    shared.queue.delete()


#: What no broker takes in a message.
MESSAGES = {
    'routing key': {'routing_key': LONG},
    'routing key, no text': {'routing_key': 5},
    'priority': {'priority': 256},
    'expiration': {'expiration': -1},
    'expiration, no seconds': {'expiration': datetime.timedelta(seconds=5)},
    'timeout': {'timeout': -1},
    'headers, no mapping': {'headers': ['a']},
    'name of a header': {'headers': {LONG: 1}},
    'name of a header, no text': {'headers': {5: 1}},
    'NaN': {'headers': {'h': float('nan')}},
    'infinity, deep inside': {'headers': {'a': [{'b': float('-inf')}]}},
    'headers, too deep': {'headers': DEEP},
    'headers, no such type': {'headers': {'h': object()}},
    'delivery mode': {'delivery_mode': 3},
}  # fmt: skip
#: What AMQP has no room for, or RabbitMQ no taste.
ONLY_AMQP = {
    'header beyond a frame': {'headers': {'h': 'a' * 132_000}},
    'header beyond 64 bits': {'headers': {'h': 2**63}},
    'header of a date': {'headers': {'h': datetime.date(2026, 1, 1)}},
    'header before 1970': {'headers': {'h': datetime.datetime(1960, 1, 1)}},
    'header with a surrogate': {'headers': {'h': '\ud800'}},
    'decimal that is none': {'headers': {'h': Decimal('NaN')}},
    'decimal of many digits': {'headers': {'h': Decimal('1.23456789012345')}},
    'correlation_id': {'correlation_id': LONG},
    'message_id': {'message_id': '\ud800'},
    'content_type': {'content_type': LONG},
    'timestamp': {'timestamp': 'now'},
    'timestamp before 1970': {'timestamp': -1},
}


@pytest.mark.parametrize('how', ['publish', 'retry', 'nowait'])
def test_messages(shared, broker_url, how):
    cases = {**MESSAGES, **(ONLY_AMQP if broker_url.startswith('amqp') else {})}
    shared.check()
    for case, given in cases.items():
        given = {'routing_key': shared.name, **given}
        if how == 'nowait':
            if 'timeout' in given:
                continue
            try:
                future = shared.producer.publish_nowait('bad', **given)
            except InvalidArgument:
                continue
            with pytest.raises(InvalidArgument):
                future.result(5)
        else:
            options = {'retry': True, 'retry_policy': {'max_retries': 3}} if how == 'retry' else {}
            with pytest.raises(InvalidArgument) as caught:
                shared.producer.publish('bad', **given, **options)
            assert len(str(caught.value)) < 1000, case
    shared.check()


def test_headers_that_travel(shared, broker_url):
    """The other side of the limits: what is just within comes back."""
    some = uuid.UUID(int=5)
    given = {'n' * 255: 1, 'big': 2**63 - 1, 'small': -(2**63), 'f': -0.5, 'none': None, 'list': [1, 'two'],
             'deep': {'er': {'er': True}}, 'bytes': bytearray(b'x'), 'id': some}  # fmt: skip
    shared.consumer.cancel()
    shared.producer.publish('x', routing_key=shared.name, headers=given)
    with green.Timeout(10):
        while (message := shared.queue.get(no_ack=True)) is None:
            green.sleep(0.005)
    found = message.headers
    assert str(found.pop('id')) == str(some)
    assert found.pop('bytes') in ('x', b'x', bytearray(b'x'))
    assert found == {key: value for key, value in given.items() if key not in ('id', 'bytes')}


ENTITIES = {
    'expires 0': lambda q: Queue(q, expires=0),
    'expires, no seconds': lambda q: Queue(q, expires=datetime.timedelta(seconds=5)),
    'expires of years': lambda q: Queue(q, expires=2**33),
    'expires, no time': lambda q: Queue(q, expires=float('nan')),
    'message_ttl, no seconds': lambda q: Queue(q, message_ttl=datetime.timedelta(seconds=5)),
    'message_ttl negative': lambda q: Queue(q, message_ttl=-1),
    'max_length half': lambda q: Queue(q, max_length=1.5),
    'max_priority': lambda q: Queue(q, max_priority=256),
    'x-expires float': lambda q: Queue(q, queue_arguments={'x-expires': 30000.0}),
    'x-expires 0': lambda q: Queue(q, queue_arguments={'x-expires': 0}),
    'x-message-ttl text': lambda q: Queue(q, queue_arguments={'x-message-ttl': '5'}),
    'x-max-length negative': lambda q: Queue(q, queue_arguments={'x-max-length': -1}),
    'x-dead-letter-exchange': lambda q: Queue(q, queue_arguments={'x-dead-letter-exchange': 5}),
    'argument': lambda q: Queue(q, queue_arguments={'a': object()}),
    'argument NaN': lambda q: Queue(q, queue_arguments={'a': float('nan')}),
    'name of an argument': lambda q: Queue(q, queue_arguments={LONG: 1}),
    'arguments, no mapping': lambda q: Queue(q, queue_arguments=['x-expires']),
    'name': lambda q: Queue(LONG),
    'routing key': lambda q: Queue(q, Exchange('amq.direct'), LONG),
    'binding argument': lambda q: Queue(q, Exchange('amq.headers', 'headers'), binding_arguments={5: 1}),
    'exchange': lambda q: Queue(q, Exchange(LONG)),
    'type of an exchange': lambda q: Exchange(q, LONG),
    'argument of an exchange': lambda q: Exchange(q, arguments={'a': object()}),
}


@pytest.mark.parametrize('case', ENTITIES)
def test_entities(shared, case):
    entity = ENTITIES[case](f'{shared.name}-{len(case)}')
    with pytest.raises(InvalidArgument) as caught:
        entity(shared.connection.default_channel).declare()
    if 'no seconds' in case:
        assert 'seconds' in str(caught.value)
    shared.check()


USES = {
    'purge': lambda q, x: q.purge(),
    'delete': lambda q, x: q.delete(),
    'get': lambda q, x: q.get(),
    'consume': lambda q, x: q.consume(),
    'bind_to': lambda q, x: q.bind_to('amq.direct', 'k'),
    'unbind_from': lambda q, x: q.unbind_from('amq.direct', 'k'),
    'exchange delete': lambda q, x: x.delete(),
    'exchange bind_to': lambda q, x: x.bind_to('amq.direct', 'k'),
    'exchange unbind_from': lambda q, x: x.unbind_from('amq.direct', 'k'),
}


@pytest.mark.parametrize('wrong', [LONG, '\ud800' * 100, 5], ids=['long', 'surrogates', 'number'])
def test_names_wherever_they_are_used(shared, wrong):
    queue, exchange = Queue('q')(shared.channel), Exchange('x')(shared.channel)
    queue.name = exchange.name = wrong
    for case, use in USES.items():
        with pytest.raises(InvalidArgument, match='queue|exchange|destination'):
            use(queue, exchange)
            pytest.fail(case)
    # On the very channel: no turn of it was kept.
    with green.Timeout(5):
        assert shared.queue.queue_declare(passive=True).consumer_count == 1
    shared.check()


def test_a_consumer_that_cannot_be_started(shared):
    queue = Queue(shared.name, consumer_arguments={'x-priority': object()})(shared.channel)
    with pytest.raises(InvalidArgument, match='consumer_arguments'):
        queue.consume('tag')
    with pytest.raises(InvalidArgument, match='consumer_tag'):
        shared.queue.consume(LONG)
    shared.check()


@pytest.mark.rabbitmq
class TestRabbitMQ:
    """Arguments that only the wire looks at, on channels spoken to in AMQP's words."""

    @pytest.fixture
    def shared(self, amqp_url, name):
        with Connection(amqp_url) as connection:
            shared = Shared(connection, name)
            yield shared
            shared.queue.delete()

    def test_the_turn_is_given_back(self, shared):
        channel = shared.channel
        for call in (
            lambda: channel.basic_get('a' * 300),
            lambda: channel.basic_consume('a' * 300),
            lambda: channel.basic_consume(shared.name, 'a' * 300),
            lambda: channel.basic_consume(shared.name, 't', arguments={'a': 2**63}),
            lambda: channel.basic_consume(shared.name, 'u', arguments={'a': float('nan')}, nowait=True),
            lambda: channel.queue_purge('a' * 300),
            lambda: channel.queue_declare('q', arguments={'a': 2**63}),
            lambda: channel.queue_declare('q', arguments={'a': 'x' * 140_000}),
            lambda: channel.queue_declare('q', arguments={'a': 'x' * 140_000}, nowait=True),
            lambda: channel.queue_declare('q', arguments=[1]),
            lambda: channel.exchange_declare('x', 'direct', arguments={'a': float('inf')}),
            lambda: channel.queue_bind(shared.name, 'amq.headers', '', arguments={'a': 2**70}),
            lambda: channel.basic_publish(channel.prepare_message(b'x'), '', 'k' * 300),
        ):
            with pytest.raises(InvalidArgument):
                call()
            with green.Timeout(5):
                assert channel.queue_declare(shared.name, passive=True).queue == shared.name
        shared.check()

    def test_a_loss_is_not_taken_for_it(self, shared):
        """A callback that publishes what cannot travel gets its error, and is not given its message again."""
        errors = []

        def received(body, message):
            try:
                shared.producer.publish('x', routing_key=shared.name, headers={'h': 2**63}, retry=True)
            except shared.connection.connection_errors as exc:
                raise AssertionError('it would be tried again') from exc
            except InvalidArgument as exc:
                errors.append(exc)
            message.ack()

        shared.consumer.callbacks[:] = [received]
        shared.producer.publish('one', routing_key=shared.name)
        with green.Timeout(10):
            while not errors:
                shared.connection.drain_events(timeout=5)
        assert len(errors) == 1 and "headers['h'] needs more than the 64 bits" in str(errors[0])
        shared.consumer.callbacks[:] = [shared._received]
        shared.check()
