"""What a transport is given: the URLs of the brokers there are, a connection factory, and small ways to
look.
"""

from __future__ import annotations

import os

import pytest

from tests.support import brokers, green, programs

#: The brokers of the table; GREENMQ_CONTRACT_URLS, separated by blanks, names others instead.
GIVEN = os.environ.get('GREENMQ_CONTRACT_URLS', '').split()
ROWS = [brokers.Row(url.partition(':')[0], url) for url in GIVEN] or brokers.TABLE

#: Rows that differ from another one in how they are reached alone: left out by tests that take their time.
#: mariadb has the tables, the envelopes and the base of postgresql, by another client.
REACHED_OTHERWISE = ['mariadb', 'redis_tls', 'redis_unix', 'redis_untold', 'sentinel', 'redis_six']

PUBSUB = 'a fanout exchange is pub/sub, as in kombu: only who consumes now hears it'
#: What a broker rightly does otherwise: (row, test) → why. Such a test must fail there.
DIFFERS: dict[tuple[str, str], str] = {
    (row.name, test): PUBSUB
    for row in brokers.TABLE
    if row.mark == 'redis'
    for test in (
        'test_fanout_reaches_every_queue',
        'test_requeue_returns_to_the_one_queue',
        'test_both_copies_are_settled_apart',
    )
}

NO_ORDER = 'a standard queue of SQS keeps no order (SQS developer guide, "Amazon SQS standard queues")'
PURGES_ALL = 'PurgeQueue deletes what consumers hold, too (SQS API reference, "PurgeQueue")'
NO_FIFO = 'a queue of Azure Storage keeps no order (its docs, "Compare queues", "Ordering guarantee")'
CLEARS_ALL = 'Clear Messages deletes all messages, hidden ones too (REST API, "Clear Messages")'
NO_RELEASE = 'SoftLayer MQ shows no message again: what goes back is a copy at the end (SLMQ API, "Messages")'
SUB_QUEUE = 'each queue has a place for dead letters (Service Bus, "Overview of dead-letter queues")'
DIFFERS |= {
    ('servicebus', 'test_dead_letters'): SUB_QUEUE,
    ('slmq', 'test_requeued_comes_back_first_and_marked'): NO_RELEASE,
    ('slmq', 'test_a_settle_before_the_callback_fails_the_suite'): NO_RELEASE,
    ('azure', 'test_requeued_comes_back_first_and_marked'): NO_FIFO,
    ('azure', 'test_purge_leaves_what_is_unsettled'): CLEARS_ALL,
    ('sqs', 'test_requeued_comes_back_first_and_marked'): NO_ORDER,
    ('sqs', 'test_purge_leaves_what_is_unsettled'): PURGES_ALL,
}
if not programs.CURRENT:  # RabbitMQ 4 says that it was released
    DIFFERS |= {
        ('qpid', 'test_mandatory_and_no_queue_raises'):
            "the plugin accepts what no queue gets (README of rabbitmq_amqp1_0, 'Limitations')",
    }
DIFFERS |= {
    ('artemis', 'test_mandatory_and_no_queue_raises'):
        'a multicast address takes what no queue gets (Artemis documentation, "Address Model")',
}
DIFFERS |= {
    (row, 'test_a_queue_without_a_name_gets_one'):
        "names with 'amq.' are the broker's own (RabbitMQ queues guide, 'Queue Names')"
    for row in ('qpid', 'rabbitmq4')
}
#: As `DIFFERS`, where the broker may also do it like the others, by chance.
DIFFERS_AT_TIMES: dict[tuple[str, str], str] = {
    ('sqs', test): NO_ORDER
    for test in (
        'test_closing_a_channel_gives_back_in_order', 'test_a_cancelled_consumer_gives_back_in_order',
    )
} | {
    (row, test): why
    for row, why in (('azure', NO_FIFO), ('slmq', NO_RELEASE))
    for test in (
        'test_closing_a_channel_gives_back_in_order', 'test_a_cancelled_consumer_gives_back_in_order',
    )
}

#: Whether the whole suite has asked these brokers already, on gevent and unpatched.
AGAIN = (green.PATCHED or green.RUNTIME != 'gevent') and not GIVEN


def pytest_generate_tests(metafunc):
    if 'broker_url' not in metafunc.fixturenames:
        return
    params = []
    one_of_a_kind = metafunc.definition.get_closest_marker('one_of_a_kind') is not None
    core = metafunc.definition.get_closest_marker('core') is not None
    for row in ROWS:
        if one_of_a_kind and row.name in REACHED_OTHERWISE:
            continue
        if AGAIN and not core and row.name not in brokers.IN_FULL:
            continue
        marks = [getattr(pytest.mark, row.mark)] if row.mark else []
        reason = DIFFERS.get((row.name, metafunc.function.__name__))
        if reason is not None:
            marks.append(pytest.mark.xfail(reason=reason, strict=True))
        reason = DIFFERS_AT_TIMES.get((row.name, metafunc.function.__name__))
        if reason is not None:
            marks.append(pytest.mark.xfail(reason=reason, strict=False))
        params.append(pytest.param(row, id=row.name, marks=marks))
    metafunc.parametrize('broker_url', params, indirect=True)


@pytest.fixture
def broker_url(request):
    row = request.param
    return request.getfixturevalue(row.url) if row.is_fixture else row.url


@pytest.fixture
def connect(broker_url, opened):
    """Open a connection; closed at the end of the test."""
    return lambda **arguments: opened(broker_url, arguments)


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def channel(connection):
    return connection.channel()


@pytest.fixture
def queue(channel, name):
    channel.queue_declare(queue=name, auto_delete=False, durable=False)
    yield name
    if not channel.closed:
        channel.queue_delete(queue=name)


class Bench:
    """A channel, spoken to in one line."""

    def __init__(self, channel):
        self.channel = channel
        self.client = channel.connection.client

    def put(self, queue, body, **kwargs):
        self.publish(body, '', queue, **kwargs)

    def publish(self, body, exchange, key='', mandatory=False, headers=None, priority=None, **properties):
        body = body if isinstance(body, bytes) else str(body).encode()
        message = self.channel.prepare_message(
            body, priority, 'application/data', 'binary', headers=headers or {}, properties=properties
        )
        self.channel.basic_publish(message, exchange=exchange, routing_key=key, mandatory=mandatory)

    def consume(self, queue, callback, tag='t', no_ack=False):
        def received(message):
            callback(self.channel.message_to_python(message))

        self.channel.basic_consume(queue=queue, no_ack=no_ack, callback=received, consumer_tag=tag)

    def drain(self, seconds=0.05):
        """Handle what is there."""
        try:
            while True:
                self.client.drain_events(timeout=seconds)
        except TimeoutError:
            return

    def until(self, condition, seconds=10):
        """Handle events until the condition holds."""
        with green.Timeout(seconds):
            while not condition():
                self.client.drain_events(timeout=seconds)

    def get(self, queue, no_ack=False):
        raw = self.channel.basic_get(queue=queue, no_ack=no_ack)
        return None if raw is None else self.channel.message_to_python(raw)

    def wait_get(self, queue, seconds=10):
        """Get a message that may still be on its way inside the broker."""
        with green.Timeout(seconds):
            while (message := self.get(queue)) is None:
                green.sleep(0)
        return message

    def size(self, queue):
        return self.channel.queue_declare(queue=queue, passive=True).message_count

    def get_all(self, queue):
        return [text(message) for message in iter(lambda: self.get(queue, no_ack=True), None)]


def text(message):
    body = message.body
    return bytes(body).decode() if not isinstance(body, str) else body


@pytest.fixture
def bench():
    return Bench
