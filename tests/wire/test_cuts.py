"""Whatever the broker says may arrive in two parts, cut at any byte."""

from __future__ import annotations

import pytest
from amqp import spec

from greenmq import Connection
from tests.support import green
from tests.support.amqp_frames import content, method
from tests.wire.conftest import SOON, Doing

#: Name of the call, its arguments, the reply's signature, types and values, and what the call returns.
CALLS = {
    'exchange_declare': (('e',), spec.Exchange.DeclareOk, '', (), None),
    'exchange_bind': (('e', 'f', 'k'), spec.Exchange.BindOk, '', (), None),
    'exchange_unbind': (('e', 'f', 'k'), spec.Exchange.UnbindOk, '', (), None),
    'exchange_delete': (('e',), spec.Exchange.DeleteOk, '', (), None),
    'queue_declare': (('q',), spec.Queue.DeclareOk, 'sll', ('q', 3, 1), ('q', 3, 1)),
    'queue_bind': (('q', 'e', 'k'), spec.Queue.BindOk, '', (), None),
    'queue_unbind': (('q', 'e', 'k'), spec.Queue.UnbindOk, '', (), None),
    'queue_purge': (('q',), spec.Queue.PurgeOk, 'l', (7,), 7),
    'queue_delete': (('q',), spec.Queue.DeleteOk, 'l', (2,), 2),
    'basic_qos': ((0, 5, False), spec.Basic.QosOk, '', (), None),
    'basic_recover': ((True,), spec.Basic.RecoverOk, '', (), None),
    'flow': ((True,), spec.Channel.FlowOk, 'b', (True,), True),
    'tx_select': ((), spec.Tx.SelectOk, '', (), None),
    'tx_commit': ((), spec.Tx.CommitOk, '', (), None),
    'tx_rollback': ((), spec.Tx.RollbackOk, '', (), None),
}


@pytest.mark.parametrize('name', CALLS)
def test_replies(talk, name):
    channel, broker = talk()
    arguments, signature, types, values, expected = CALLS[name]
    reply = method(1, signature, types, values)
    for cut in range(1, len(reply)):
        if name == 'basic_qos':
            arguments = (0, cut, False)  # the same again would not be sent
        calling = green.spawn(getattr(channel, name), *arguments)
        assert broker.recv().channel == 1
        broker.write(reply, cut)
        assert calling.get(timeout=SOON) == expected, cut


def test_opening_and_closing_channels(opened):
    connection, broker = opened()
    for cut in range(1, 16):
        channel = connection.channel()
        opening = green.spawn(channel.open)
        number = broker.recv(spec.Channel.Open).channel
        assert number == 1, 'the number of a closed channel is used again'
        broker.write(method(number, spec.Channel.OpenOk, 'S', ('',)), cut)
        opening.get(timeout=SOON)
        closing = green.spawn(channel.close)
        broker.recv(spec.Channel.Close)
        broker.write(method(number, spec.Channel.CloseOk), min(cut, 11))
        closing.get(timeout=SOON)


def test_the_answers_to_get(talk):
    channel, broker = talk()
    taken = method(1, spec.Basic.GetOk, 'Lbssl', (1, False, 'e', 'k', 4)) + content(1, b'body')
    number = 0
    for reply, expected in ((taken, b'body'), (method(1, spec.Basic.GetEmpty, 's', ('',)), None)):
        for cut in range(1, len(reply)):
            getting = green.spawn(channel.basic_get, 'q')
            broker.recv(spec.Basic.Get)
            if expected:
                number += 1
                reply = reply.replace((number - 1 or 1).to_bytes(8, 'big'), number.to_bytes(8, 'big'), 1)
            broker.write(reply, cut)
            message = getting.get(timeout=SOON)
            assert (message if message is None else message.body) == expected, cut


def start_consumer(channel, broker, callback, **options):
    starting = green.spawn(channel.basic_consume, 'q', consumer_tag='t', callback=callback, **options)
    while (found := broker.recv()).signature == spec.Basic.Qos:
        broker.send(found.channel, spec.Basic.QosOk)
    assert found.signature == spec.Basic.Consume
    broker.send(found.channel, spec.Basic.ConsumeOk, 's', ('t',))
    starting.get(timeout=SOON)


def start_second(channel, broker, callback, **options):
    """One more consumer of the channel, `u` of `q2`; gives the wire on which its queue is looked up."""
    starting = Doing(channel.basic_consume, 'q2', consumer_tag='u', callback=callback, **options)
    control = broker.open_channel()
    assert broker.recv(spec.Queue.Declare).read('Bsb')[1:3] == ['q2', True], 'is it there?'
    broker.send(control, spec.Queue.DeclareOk, 'sll', ('q2', 0, 0))
    broker.recv(spec.Basic.Consume)
    broker.send(1, spec.Basic.ConsumeOk, 's', ('u',))
    starting.result()
    return control


@pytest.mark.parametrize('size', [0, 1, 30])
def test_deliveries(talk, size):
    channel, broker = talk()
    bodies, cut, tag = [], 0, 0
    start_consumer(channel, broker, lambda delivery: bodies.append((delivery.delivery_tag, delivery.body)))
    while True:
        cut, tag = cut + 1, tag + 1
        message = method(1, spec.Basic.Deliver, 'sLbss', ('t', tag, False, 'e', 'k'))
        message += content(1, b'x' * size, piece=7)
        if cut == len(message):
            break
        broker.write(message, cut)
        channel.connection.client.drain_events(timeout=SOON)
        assert bodies.pop() == (tag, b'x' * size), cut


def test_returns_and_confirms(talk, publishers):
    channel, broker = talk()
    crowd = publishers(channel, broker)
    came_back = method(2, spec.Basic.Return, 'Bsss', (312, 'NO_ROUTE', '', 'q')) + content(2, b'body')
    for tag in range(1, 500):
        (publisher,), _ = crowd.publish([b'body'], mandatory=True)
        answer = came_back + method(2, spec.Basic.Ack, 'Lb', (tag, False))
        if tag == len(answer):
            broker.write(answer)
            break
        broker.write(answer, tag)
        assert 'NO_ROUTE' in str(publisher.error()), tag
    else:
        raise AssertionError('not all cuts were tried')


def test_channel_and_connection_end(opened):
    error = method(1, spec.Channel.Close, 'BsBB', (404, 'NOT_FOUND', 50, 10))
    connection, broker = opened()
    channel = connection.channel()
    for cut in range(1, len(error)):
        declaring = Doing(channel.queue_declare, 'q', passive=True)
        broker.open_channel()
        broker.recv(spec.Queue.Declare)
        broker.write(error, cut)
        broker.recv(spec.Channel.CloseOk)
        assert declaring.error().code == 404


HELLO = (
    method(0, spec.Connection.Start, 'ooFSS', (0, 9, {'product': 'Script'}, 'PLAIN', 'en_US')),
    method(0, spec.Connection.Tune, 'BlB', (2047, 131072, 0)),
    method(0, spec.Connection.OpenOk, 's', ('',)),
)

ANSWERS = ((spec.Connection.StartOk,), (spec.Connection.TuneOk, spec.Connection.Open), ())


@pytest.mark.parametrize('step', range(3))
def test_the_handshake(peer, step):
    for cut in range(1, len(HELLO[step]), 1 if step else 5):
        connection = Connection(peer.url, heartbeat=0)
        opening = green.spawn(connection.connect)
        broker = peer.accept()
        broker.read(8)
        for number, frame in enumerate(HELLO):
            broker.write(frame, *([cut] if number == step else []))
            for answer in ANSWERS[number]:
                broker.recv(answer)
        opening.get(timeout=SOON)
        broker.sock.close()
        connection.collect()


def test_everything_byte_by_byte(talk):
    channel, broker = talk()
    seen = []
    start_consumer(channel, broker, lambda delivery: seen.append(delivery.body), no_ack=True)
    stream = b''.join(
        method(1, spec.Basic.Deliver, 'sLbss', ('t', tag, False, 'e', 'k')) + content(1, b'%d' % tag, piece=1)
        for tag in range(1, 12)
    )
    broker.write(stream, *range(1, len(stream)))
    while len(seen) < 11:
        channel.connection.client.drain_events(timeout=SOON)
    assert seen == [b'%d' % tag for tag in range(1, 12)]
