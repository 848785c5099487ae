"""One deadline for a whole publish, and what it says when it ends (P17); one declaration an epoch (P20)."""

from __future__ import annotations

import collections

import pytest
from amqp import spec

from greenmq import Exchange, Queue
from greenmq.exceptions import OperationalError, PublishUnconfirmed, Unroutable
from tests.support.amqp_frames import content, method
from tests.wire.conftest import Doing

ANSWERS = {
    spec.Channel.Open: (spec.Channel.OpenOk, 'S', ('',)),
    spec.Channel.Close: (spec.Channel.CloseOk, '', ()),
    spec.Confirm.Select: (spec.Confirm.SelectOk, '', ()),
    spec.Exchange.Declare: (spec.Exchange.DeclareOk, '', ()),
    spec.Queue.Declare: (spec.Queue.DeclareOk, 'sll', ('q', 0, 0)),
    spec.Queue.Bind: (spec.Queue.BindOk, '', ()),
    spec.Queue.Delete: (spec.Queue.DeleteOk, 'l', (0,)),
}


class Obedient:
    """Answers everything, but for the `silent` methods; confirms each publish, returns it if told so."""

    def __init__(self, broker, silent=None):
        self.broker = broker
        self.silent = silent
        self.counts = collections.Counter()
        self.tags = collections.Counter()
        self.returns = False

    def until(self, doing):
        """Serve until that is done."""
        while not doing.done:
            self.broker.guard = 0.05
            try:
                found = self.broker.recv()
            except AssertionError:
                continue
            self.counts[found.signature] += 1
            if found.signature == self.silent:
                continue
            if found.signature == spec.Basic.Publish:
                self.confirm(found)
            else:
                self.broker.send(found.channel, *ANSWERS[found.signature])
        return self.counts

    def confirm(self, publish):
        self.tags[publish.channel] += 1
        data = b''
        if self.returns:
            self.returns = False
            _, exchange, key, _, _ = publish.read('Bssbb')
            data = method(publish.channel, spec.Basic.Return, 'Bsss', (312, 'NO_ROUTE', exchange, key))
            data += content(publish.channel, publish.body, publish.properties)
        ack = method(publish.channel, spec.Basic.Ack, 'Lb', (self.tags[publish.channel], False))
        self.broker.write(data + ack)


@pytest.mark.parametrize(
    ('silent', 'sent'),
    [
        (spec.Channel.Open, 'no'),
        (spec.Exchange.Declare, 'no'),
        (spec.Confirm.Select, 'no'),
        (spec.Basic.Publish, 'unknown'),
    ],
    ids=['open', 'look-up', 'select', 'confirm'],
)
def test_a_broker_that_stops_answering(opened, silent, sent):
    connection, broker = opened()
    channel = connection.channel()
    message = channel.prepare_message(b'x')
    doing = Doing(channel.basic_publish, message, 'exchange', 'key', timeout=0.05)
    serving = Obedient(broker, silent)
    counts = serving.until(doing)
    error = doing.error()
    assert isinstance(error, PublishUnconfirmed) and isinstance(error, (OperationalError, TimeoutError))
    assert error.sent == sent, f'{error!r} after {counts}'
    assert counts[spec.Basic.Publish] == (sent == 'unknown'), 'what was not sent must not arrive'


@pytest.mark.parametrize('silent', [spec.Queue.Declare, spec.Queue.Bind, spec.Exchange.Declare])
def test_what_publish_declares_has_the_deadline_of_the_publish(opened, silent):
    connection, broker = opened()
    queue = Queue('q', Exchange('exchange'), routing_key='key')
    doing = Doing(
        connection.Producer().publish, b'x', routing_key='key', exchange=queue.exchange, declare=[queue],
        timeout=0.2,
    )  # fmt: skip
    Obedient(broker, silent).until(doing)
    error = doing.error()
    assert isinstance(error, PublishUnconfirmed) and error.sent == 'no', error


def test_entities_are_declared_once_an_epoch(opened):
    connection, broker = opened()
    serving = Obedient(broker)
    queue = Queue('q', Exchange('e', durable=False), routing_key='k', durable=False)
    producer = Doing(connection.Producer)
    serving.until(producer)
    producer = producer.result()

    def publish(count, **options):
        for number in range(count):
            producer.publish({'n': number}, exchange='e', routing_key='k', declare=[queue], **options)

    doing = Doing(publish, 50)
    counts = serving.until(doing)
    doing.result()
    assert counts[spec.Basic.Publish] == 50
    assert counts[spec.Queue.Declare] == counts[spec.Queue.Bind] == counts[spec.Exchange.Declare] == 1
    # Given that somebody else deleted the queue, a mandatory publish comes back: declared and sent once more.
    serving.returns = True
    doing = Doing(publish, 3, mandatory=True)
    serving.until(doing)
    doing.result()
    assert counts[spec.Queue.Declare] == 2 and counts[spec.Basic.Publish] == 54
    # Given that we delete it ourselves, the next publish declares it.
    doing = Doing(connection.default_channel.queue_delete, 'q')
    serving.until(doing)
    doing.result()
    doing = Doing(publish, 3)
    serving.until(doing)
    doing.result()
    assert counts[spec.Queue.Declare] == 3 and counts[spec.Basic.Publish] == 57


def test_what_is_still_unroutable_after_a_new_declaration_is_said(opened):
    connection, broker = opened()
    channel = connection.channel()
    serving = Obedient(broker)
    serving.returns = True
    doing = Doing(channel.basic_publish, channel.prepare_message(b'x'), 'e', 'k', mandatory=True)
    serving.until(doing)
    assert isinstance(doing.error(), Unroutable)
