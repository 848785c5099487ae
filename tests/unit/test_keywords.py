"""A misspelt keyword is named before anything is sent; what others pass through goes through."""

import inspect

import pytest

from greenmq import Connection, Exchange, Producer, Queue
from greenmq.common import Broadcast
from greenmq.exceptions import InvalidArgument
from greenmq.types import PUBLISH_KEYWORDS, RECEIVED, ExchangeOptions, QueueOptions
from greenmq.utils import validate

#: What Celery's apply_async lets through to publish, and properties of transports that have their own.
OF_OTHERS = (
    'add_to_parent', 'chain', 'chord', 'connection', 'countdown', 'eta', 'expires', 'group_id', 'group_index',
    'id', 'ignore_result', 'immutable', 'link', 'link_error', 'options', 'parent_id', 'publisher', 'queue',
    'replaced_task_nesting', 'result_cls', 'retries', 'root_id', 'route_name', 'shadow', 'soft_time_limit',
    'stamped_headers', 'task_id', 'task_type', 'taskset', 'time_limit', 'utc', 'x-delay', 'redelivered',
    'session_id', 'partition_key', 'subject', 'types', 'trace_id', 'tenant_id',
)  # fmt: skip


@pytest.fixture
def producer():
    with Connection('memory://') as connection:
        queue = Queue('jobs', Exchange('jobs', 'direct'), 'jobs', channel=connection)
        queue.declare()
        yield Producer(connection, exchange=queue.exchange, routing_key='jobs')
        assert queue.get() is None, 'something was sent'


@pytest.mark.parametrize('publish', ['publish', 'publish_nowait'])
@pytest.mark.parametrize('wrong, meant', [
    ('routng_key', 'routing_key'), ('exchnge', 'exchange'), ('header', 'headers'), ('replyto', 'reply_to'),
    ('corelation_id', 'correlation_id'), ('routingKey', 'routing_key'), ('mesage_id', 'message_id'),
    ('messageGroupId', 'MessageGroupId'), ('expiraton', 'expiration'), ('typ', 'type'),
])
def test_publish_names_the_keyword_that_was_meant(producer, publish, wrong, meant):
    with pytest.raises(InvalidArgument, match=f'{wrong}.* of publish.*did you mean {meant!r}'):
        getattr(producer, publish)({}, **{wrong: 'jobs'})


@pytest.mark.parametrize('timeout', [-1, -0.001])
def test_no_time_at_all_is_refused(producer, timeout):
    with pytest.raises(InvalidArgument, match='timeout is negative'):
        producer.publish({}, timeout=timeout)


def test_publish_lets_the_properties_of_others_through():
    with Connection('memory://') as connection:
        queue = Queue('jobs', Exchange('jobs', 'direct'), 'jobs', channel=connection)
        queue.declare()
        producer = Producer(connection, exchange=queue.exchange, routing_key='jobs')
        given = dict.fromkeys(OF_OTHERS, 'x')
        producer.publish('of others', **given)
        message = queue.get()
        assert given.items() <= message.properties.items()
        # and those of a message that is sent on
        properties = {name: value for name, value in message.properties.items()
                      if name not in ('priority', 'delivery_mode')}
        producer.publish('again', **properties)
        assert given.items() <= queue.get().properties.items()


def test_the_table_of_keywords_is_the_signature():
    named = set(inspect.signature(Producer.publish).parameters) - {'self', 'properties'}
    assert named <= PUBLISH_KEYWORDS
    assert not named & RECEIVED
    for cls, options in ((Queue, QueueOptions), (Exchange, ExchangeOptions)):
        named = set(inspect.signature(cls).parameters)
        fields = {name for name, _ in cls.attrs}
        assert set(options.__annotations__) - {'key'} == fields - named


@pytest.mark.parametrize('make, wrong, meant', [
    (Queue, 'exchnge', 'exchange'), (Queue, 'routng_key', 'routing_key'), (Queue, 'durabel', 'durable'),
    (Queue, 'queue_argument', 'queue_arguments'), (Queue, 'chanel', 'channel'),
    (Exchange, 'typ', 'type'), (Exchange, 'autodelete', 'auto_delete'), (Exchange, 'durabl', 'durable'),
    (Broadcast, 'uniqe', 'unique'), (Broadcast, 'exclusiv', 'exclusive'),
    (Queue.from_dict, 'exchange_typ', 'exchange_type'), (Queue.from_dict, 'bindingkey', 'binding_key'),
])
def test_entities_name_the_keyword_that_was_meant(make, wrong, meant):
    with pytest.raises(InvalidArgument, match=f'{wrong}.*did you mean {meant!r}'):
        make('name', **{wrong: None})


def test_entities_ignore_what_is_like_nothing_as_kombu_does():
    assert Queue('name', exchange_type='topic', colour='red') == Queue('name')
    assert Exchange('name', routing_key='key') == Exchange('name')
    assert Queue.from_dict('name', colour='red') == Queue('name', Exchange(''))


class Coloured(Queue):
    attrs = (*Queue.attrs, ('colour', None))

    def __init__(self, *args, shade=None, **kwargs):
        super().__init__(*args, **kwargs)


def test_a_subclass_adds_its_own_words():
    assert Coloured('name', colour='red').colour == 'red'
    with pytest.raises(InvalidArgument, match="did you mean 'colour'"):
        Coloured('name', color='red')
    with pytest.raises(InvalidArgument, match="did you mean 'shade'"):
        Coloured('name', shad='red')


def test_a_name_that_is_used_for_each_message_is_looked_at_once():
    before = validate._meant.cache_info().misses
    for _ in range(5):
        validate.keywords('publish()', {'tenant': 1}, PUBLISH_KEYWORDS)
    assert validate._meant.cache_info().misses <= before + 1
