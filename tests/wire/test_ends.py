"""Channels and connections that the broker ends, that we end, and that both end at once."""

from __future__ import annotations

import pytest
from amqp import exceptions, spec

from greenmq.exceptions import (
    ConnectionClosed,
    ConnectionError,
    ConnectionLost,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
    PublishUnconfirmed,
)
from greenmq.transport.pyamqp import recovery
from tests.support import green
from tests.support.amqp_frames import content, method
from tests.wire.conftest import SOON, Doing
from tests.wire.test_cuts import start_consumer, start_second


def test_a_publish_that_goes_down_with_anothers_is_sent_again(talk, publishers):
    channel, broker = talk()
    channel.connection.known_exchanges |= {'gone', 'there'}
    crowd = publishers(channel, broker)
    innocent, _ = crowd.publish([b'1', b'2'], exchange='there')
    guilty, _ = crowd.publish([b'3'], exchange='gone')
    broker.close_channel(crowd.wire, 404, "NOT_FOUND - no exchange 'gone' in vhost '/'", (60, 40))
    assert isinstance(guilty[0].error(), NotFound)
    looked_up = broker.open_channel()  # whether the exchanges are still there is no longer known
    again = None
    while True:
        found = broker.recv()
        if found.signature == spec.Channel.Open:
            again = found.channel
            broker.send(again, spec.Channel.OpenOk, 'S', ('',))
        elif found.signature == spec.Exchange.Declare:
            assert found.channel == looked_up
            broker.send(looked_up, spec.Exchange.DeclareOk)
        elif found.signature == spec.Confirm.Select:
            broker.send(again, spec.Confirm.SelectOk)
            break
    assert {broker.recv(spec.Basic.Publish).body for _ in innocent} == {b'1', b'2'}
    broker.send(again, spec.Basic.Ack, 'Lb', (2, True))
    assert [each.error() for each in innocent] == [None, None]


@pytest.mark.parametrize('nowait', [False, True])
def test_an_error_that_names_nobody_ends_after_a_few_tries(talk, publishers, nowait):
    channel, broker = talk()
    if nowait:
        future = channel.basic_publish_nowait(channel.prepare_message(b'bad'), '', 'q')
        guilty = Doing(future.result)
    else:
        guilty = Doing(channel.basic_publish, channel.prepare_message(b'bad'), '', 'q')
    tries = 0
    while not guilty.done:
        wire = broker.open_confirms()
        broker.recv(spec.Basic.Publish)
        tries += 1
        broker.close_channel(wire, 406, 'PRECONDITION_FAILED - something', (60, 40))
        green.idle()
    assert isinstance(guilty.error(), PreconditionFailed) and 1 < tries < 9


def test_a_wrong_user_id_harms_nobody_else(talk, publishers):
    channel, broker = talk()
    crowd = publishers(channel, broker)
    innocent, _ = crowd.publish([b'fine'])
    guilty, _ = crowd.publish([b'bad'], properties={'user_id': 'mallory'})
    text = "PRECONDITION_FAILED - user_id property set to 'mallory' but authenticated user was 'guest'"
    broker.close_channel(crowd.wire, 406, text, (60, 40))
    assert isinstance(guilty[0].error(), PreconditionFailed)
    again = broker.open_confirms()
    assert broker.recv(spec.Basic.Publish).body == b'fine'
    broker.send(again, spec.Basic.Ack, 'Lb', (1, False))
    assert innocent[0].error() is None


def test_a_call_behind_a_failed_one_is_made_on_the_next_wire(talk):
    channel, broker = talk()
    failing = Doing(channel.queue_declare, 'wrong')
    behind = [Doing(channel.queue_declare, f'q{number}') for number in range(3)]
    broker.recv(spec.Queue.Declare)
    broker.close_channel(1, 406, 'PRECONDITION_FAILED - inequivalent arg', (50, 10))
    assert isinstance(failing.error(), PreconditionFailed)
    again = broker.open_channel()
    for number in range(3):
        assert broker.recv(spec.Queue.Declare).read('Bs')[1] == f'q{number}'
        broker.send(again, spec.Queue.DeclareOk, 'sll', (f'q{number}', 0, 0))
    assert [each.result().queue for each in behind] == ['q0', 'q1', 'q2']


def deliver(broker, wire, tag, body=b'x'):
    broker.write(method(wire, spec.Basic.Deliver, 'sLbss', ('t', tag, False, 'e', 'k')) + content(wire, body))


def test_consumers_are_started_again_and_old_tags_are_stale(talk):
    """Given one delivery in hand and one that no callback has seen, when the broker closes the channel, then
    the consumer consumes on a new one, the old delivery can't be acked and the unseen one is forgotten."""
    channel, broker = talk()
    seen = []
    start_consumer(channel, broker, seen.append)
    deliver(broker, 1, 1, b'in hand')
    channel.connection.drain_events(timeout=SOON)
    deliver(broker, 1, 2, b'unseen')
    broker.close_channel(1, 406, 'PRECONDITION_FAILED - unknown delivery tag 9', (60, 80))
    wire = broker.open_channel()
    assert broker.recv(spec.Basic.Qos).channel == wire
    broker.send(wire, spec.Basic.QosOk)
    assert broker.recv(spec.Basic.Consume).read('Bss')[2] == 't'
    broker.send(wire, spec.Basic.ConsumeOk, 's', ('t',))
    deliver(broker, wire, 1, b'again')
    channel.connection.drain_events(timeout=SOON)
    assert [each.body for each in seen] == [b'in hand', b'again']
    assert channel.basic_ack(seen[0].delivery_tag) is False
    assert channel.basic_ack(seen[1].delivery_tag) is True
    assert broker.recv(spec.Basic.Ack).read('Lb') == [1, False]


def test_an_ack_while_the_other_consumers_are_still_being_started_is_sent(talk):
    channel, broker = talk()
    seen = []
    start_consumer(channel, broker, seen.append)
    start_second(channel, broker, seen.append)
    broker.close_channel(1, 541, 'INTERNAL_ERROR', (0, 0))
    wire = broker.open_channel()
    broker.recv(spec.Basic.Qos)
    broker.send(wire, spec.Basic.QosOk)
    broker.recv(spec.Basic.Consume)
    broker.send(wire, spec.Basic.ConsumeOk, 's', ('t',))
    broker.recv(spec.Basic.Consume)  # of u: not answered yet
    deliver(broker, wire, 1)
    channel.connection.drain_events(timeout=SOON)
    assert channel.basic_ack(seen[-1].delivery_tag)
    assert broker.recv(spec.Basic.Ack).read('Lb') == [1, False]
    broker.send(wire, spec.Basic.ConsumeOk, 's', ('u',))
    deliver(broker, wire, 2)
    channel.connection.drain_events(timeout=SOON)
    channel.basic_reject(seen[-1].delivery_tag, requeue=True)
    assert broker.recv(spec.Basic.Reject).read('Lb') == [2, True]


CODES = [
    (320, exceptions.ConnectionForced), (402, exceptions.InvalidPath), (403, exceptions.AccessRefused),
    (501, exceptions.FrameError), (502, exceptions.FrameSyntaxError), (503, exceptions.InvalidCommand),
    (505, exceptions.UnexpectedFrame), (506, exceptions.ResourceError), (530, exceptions.NotAllowed),
    (540, exceptions.AMQPNotImplementedError), (541, exceptions.InternalError),
]  # fmt: skip


@pytest.mark.parametrize(('code', 'kind'), CODES)
def test_connection_close_tells_everybody_its_code(talk, publishers, code, kind):
    channel, broker = talk()
    crowd = publishers(channel, broker)
    (publishing,), _ = crowd.publish([b'x'])
    calling = Doing(channel.queue_declare, 'q')
    draining = Doing(channel.connection.drain_events)
    broker.recv(spec.Queue.Declare)
    broker.send(0, spec.Connection.Close, 'BsBB', (code, 'the reason', 0, 0))
    error = calling.error()
    assert isinstance(error, (ConnectionError, kind)) and 'the reason' in str(error)
    assert error.reply_code == code
    assert 'the reason' in str(draining.error())
    assert isinstance(publishing.error(), PublishUnconfirmed) and 'the reason' in str(publishing.error())
    assert broker.wait_end().endswith(method(0, spec.Connection.CloseOk))


def test_both_close_the_connection_at_once(talk):
    channel, broker = talk()
    connection = channel.connection
    closing = Doing(connection.close)
    green.idle()
    broker.send(0, spec.Connection.Close, 'BsBB', (320, 'CONNECTION_FORCED', 0, 0))
    assert closing.error() is None
    broker.recv(spec.Connection.Close)
    broker.wait_end()
    with pytest.raises(ConnectionClosed):
        connection.drain_events(timeout=1)


def test_the_broker_ends_the_socket_instead_of_answering_close(talk):
    channel, broker = talk()
    closing = Doing(channel.connection.close)
    broker.recv(spec.Connection.Close)
    broker.reset()
    assert closing.error() is None


def test_a_broker_that_answers_nothing_does_not_hold_up_close(talk):
    channel, broker = talk(close_timeout=0.05)
    waiting = [Doing(channel.queue_declare, 'q'), Doing(channel.connection.drain_events)]
    green.idle()
    closing = [Doing(channel.connection.close) for _ in range(5)]
    assert [each.error() for each in closing] == [None] * 5
    for each in waiting:
        assert isinstance(each.error(), ConnectionClosed)
    broker.wait_end()


def test_closing_waits_for_the_confirms_that_are_due(talk, publishers):
    """The channel's own close and the connection's, at once: neither takes the other's place."""
    channel, broker = talk()
    crowd = publishers(channel, broker)
    doing, _ = crowd.publish([b'1', b'2'])
    closing = [Doing(channel.close), Doing(channel.connection.close)]
    green.idle()
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (1, False))
    assert doing[0].error() is None
    assert not any(each.done for each in (doing[1], *closing))
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (2, False))
    assert doing[1].error() is None
    told = {broker.recv().signature for _ in range(2)}
    assert told == {spec.Channel.Close, spec.Connection.Close}
    broker.send(0, spec.Connection.CloseOk)
    assert [each.error() for each in closing] == [None, None]


def test_a_loss_ends_the_wait_for_confirms(talk, publishers):
    channel, broker = talk(close_timeout=30.0)
    (pending,), _ = publishers(channel, broker).publish([b'1'])
    closing = [Doing(channel.close), Doing(channel.connection.close)]
    green.idle()
    broker.reset()
    assert [each.error() for each in closing] == [None, None]
    assert isinstance(pending.error(), PublishUnconfirmed)


def test_each_new_secret_gets_its_own_answer(talk):
    channel, broker = talk(operation_timeout=0.05)
    update = channel.connection.update_secret
    late = Doing(update, 'late')
    assert broker.recv().payload == b'\0\0\0\4late\0'
    assert 'update-secret' in str(late.error())
    doing = [Doing(update, 'two', 'expires'), Doing(update, 'three')]
    assert [broker.recv().signature for _ in doing] == [(10, 70)] * 2
    broker.send(0, (10, 71))
    broker.send(0, (10, 71))
    assert doing[0].error() is None
    lost = Doing(update, 'four')
    broker.recv()
    broker.send(0, (10, 71))
    assert doing[1].error() is None
    broker.reset()
    assert isinstance(lost.error(), ConnectionLost)


def test_both_close_a_channel_at_once(talk):
    """And the number can be used again at once, whatever late answer is still under way."""
    channel, broker = talk()
    closing = Doing(channel.close)
    broker.recv(spec.Channel.Close)
    broker.send(1, spec.Channel.Close, 'BsBB', (406, 'crossed', 0, 0))
    assert broker.recv().signature == spec.Channel.CloseOk
    assert closing.error() is None
    broker.send(1, spec.Channel.CloseOk)
    other = channel.connection.channel()
    opening = Doing(other.open)
    assert broker.open_channel() == 1
    opening.result()
    calling = Doing(other.queue_declare, 'q')
    broker.recv(spec.Queue.Declare)
    broker.send(1, spec.Queue.DeclareOk, 'sll', ('q', 0, 0))
    assert calling.result().queue == 'q'


def test_nothing_follows_a_channel_close(talk, publishers):
    """RabbitMQ answers a frame on a closed channel by closing the connection (504)."""
    channel, broker = talk()
    crowd = publishers(channel, broker)
    got = []
    start_consumer(channel, broker, got.append)
    deliver(broker, 1, 1)
    channel.connection.drain_events(timeout=SOON)
    (pending,), _ = crowd.publish([b'pending'])
    closing = Doing(channel.close)
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (1, False))
    assert pending.error() is None, 'close() did not wait for the confirm that was due'
    assert broker.recv(spec.Channel.Close).channel == 1
    for refused in (
        Doing(channel.basic_publish, channel.prepare_message(b'x'), '', 'q'),
        Doing(channel.queue_declare, 'q'),
        Doing(channel.basic_consume, 'q'),
        Doing(channel.basic_get, 'q'),
    ):
        assert isinstance(refused.error(), ConnectionClosed)
    assert channel.basic_ack(got[0].delivery_tag) is False
    broker.send(1, spec.Channel.CloseOk)
    assert broker.recv().signature == spec.Channel.Close
    broker.send(crowd.wire, spec.Channel.CloseOk)
    assert closing.error() is None


def test_closing_a_channel_ends_the_calls_of_others_on_it(talk):
    channel, broker = talk()
    calling = Doing(channel.queue_declare, 'q')
    broker.recv(spec.Queue.Declare)
    closing = Doing(channel.close)
    broker.recv(spec.Channel.Close)
    assert isinstance(calling.error(), ConnectionClosed)
    broker.send(1, spec.Queue.DeclareOk, 'sll', ('q', 0, 0))
    broker.send(1, spec.Channel.CloseOk)
    assert closing.error() is None


def test_a_tag_in_use_is_refused_here(talk):
    """The broker would close the connection over it (530)."""
    channel, broker = talk()
    start_consumer(channel, broker, None)
    with pytest.raises(InvalidArgument, match='consumer_tag'):
        channel.basic_consume('q', consumer_tag='t')


def test_end_of_file_is_an_error_at_the_first_read(talk):
    channel, broker = talk()
    draining = Doing(channel.connection.drain_events)
    green.idle()
    broker.sock.close()
    assert isinstance(draining.error(), ConnectionLost)


def test_closing_while_it_is_opened_again_leaves_no_socket(peer, opened):
    """Given a connection that was lost and is being opened again by its user, when another greenlet closes
    it, then the link that is ready a moment later is closed too: nobody else would ever do that."""
    connection, broker = opened()
    transport_connection = connection.connection
    broker.reset()
    while transport_connection.connected:
        green.idle()
    opening = Doing(connection.ensure_connection, max_retries=1)
    again = peer.accept()
    again.start()
    again.tune()
    again.recv(spec.Connection.Open)
    connection.close()
    again.send(0, spec.Connection.OpenOk, 's', ('',))
    again.wait_end()
    assert isinstance(opening.error(), ConnectionClosed)
    assert not transport_connection.connected


def test_each_consumer_is_started_again_under_the_limit_that_it_had(talk):
    """Given two consumers started under a prefetch each, and one for the channel, when the broker closes the
    channel, then a new one says all three, in an order in which each means what it meant."""
    channel, broker = talk()

    def limit(count, of_channel=False):
        telling = Doing(channel.basic_qos, 0, count, of_channel)
        assert broker.recv(spec.Basic.Qos).read('lBb') == [0, count, of_channel]
        broker.send(1, spec.Basic.QosOk)
        telling.result()

    limit(500, True)
    limit(1)
    start_consumer(channel, broker, print)
    limit(50)
    start_second(channel, broker, print)
    limit(7)
    broker.close_channel(1, 541, 'INTERNAL_ERROR', (0, 0))
    wire, said = broker.open_channel(), []
    while len(said) < 6:
        found = broker.recv(spec.Basic.Qos, spec.Basic.Consume)
        if found.signature == spec.Basic.Qos:
            said.append(tuple(found.read('lBb')[1:]))
            broker.send(wire, spec.Basic.QosOk)
        else:
            said.append(found.read('Bss')[2])
            broker.send(wire, spec.Basic.ConsumeOk, 's', (said[-1],))
    assert said == [(500, True), (1, False), 't', (50, False), 'u', (7, False)]


def test_each_consumer_has_its_own_time_to_be_started_again(monkeypatch, peer, talk):
    """Or a channel with thousands of them would pass the time for all in each try, and never come back."""
    monkeypatch.setattr(recovery, 'PATIENCE', 1.0)
    channel, broker = talk(recover=True)
    channel.connection.settings.connect_timeout = 0
    starting = [
        Doing(channel.basic_consume, 'q', consumer_tag=tag, no_ack=True, callback=print, nowait=True)
        for tag in 'tuv'
    ]
    for each in starting:
        broker.recv(spec.Basic.Consume)
        each.result()
    broker.reset()
    again = peer.accept().handshake()
    wire = again.open_channel()
    for _ in starting:
        tag = again.recv(spec.Basic.Consume).read('Bss')[2]
        green.sleep(0.5)
        again.send(wire, spec.Basic.ConsumeOk, 's', (tag,))
    with green.Timeout(SOON):
        while not channel.connection.connected:
            green.idle()
    assert channel.connection.epoch == 2


def declare(channel, broker, name, wire):
    declaring = Doing(channel.queue_declare, name, auto_delete=True)
    assert broker.recv(spec.Queue.Declare).channel == wire
    broker.send(wire, spec.Queue.DeclareOk, 'sll', (name, 0, 0))
    declaring.result()


@pytest.mark.parametrize('by_cancel', [True, False])
def test_an_auto_delete_queue_ends_with_the_channel_of_its_last_consumer(talk, by_cancel):
    """Given two channels, each with a consumer `t` of an auto-delete queue of its own, when both are gone,
    then a recovery declares neither queue: they would be without consumers, and never end."""
    channel, broker = talk()
    connection, topology = channel.connection, channel.connection.topology
    declare(channel, broker, 'q', 1)
    start_consumer(channel, broker, print, no_ack=True)
    other = connection.channel()
    opening = Doing(other.open)
    wire = broker.open_channel()
    opening.result()
    declare(other, broker, 'yours', wire)
    starting = Doing(other.basic_consume, 'yours', consumer_tag='t', no_ack=True, callback=print)
    broker.recv(spec.Basic.Consume)
    broker.send(wire, spec.Basic.ConsumeOk, 's', ('t',))
    starting.result()
    for each, number in ((channel, 1), (other, wire)):
        if by_cancel:
            ending = Doing(each.basic_cancel, 't')
            broker.recv(spec.Basic.Cancel)
            broker.send(number, spec.Basic.CancelOk, 's', ('t',))
        else:
            ending = Doing(each.close)
            broker.recv(spec.Channel.Close)
            broker.send(number, spec.Channel.CloseOk)
        ending.result()
    assert list(topology.replay()) == []


@pytest.mark.parametrize('consuming', [False, True])
@pytest.mark.parametrize(('method', 'given'), [('bind', ('e', 'k')), ('unbind', ('e', 'k')), ('purge', ())])
def test_a_call_that_waits_for_a_recovery_names_the_queue_as_it_is_called_then(
    peer, talk, method, given, consuming
):
    """Given a queue that the broker has named, when the connection is lost, and its user asks something of
    the queue before it is back, then that is asked under the name that the broker gives it now."""
    channel, broker = talk(recover=True)
    declaring = Doing(channel.queue_declare)
    broker.recv(spec.Queue.Declare)
    broker.send(1, spec.Queue.DeclareOk, 'sll', ('amq.gen-1', 0, 0))
    assert declaring.result().queue == 'amq.gen-1'
    if consuming:
        start_consumer(channel, broker, print, no_ack=True)
    broker.reset()
    while channel.connection.connected:
        green.idle()
    asking = Doing(getattr(channel, f'queue_{method}'), 'amq.gen-1', *given)
    again = peer.accept().handshake()
    control = again.open_channel()
    assert again.recv(spec.Queue.Declare).read('Bs')[1] == ''
    again.send(control, spec.Queue.DeclareOk, 'sll', ('amq.gen-2', 0, 0))
    wire = again.open_channel()
    if consuming:
        again.recv(spec.Basic.Consume)
        again.send(wire, spec.Basic.ConsumeOk, 's', ('t',))
    found = again.recv(getattr(spec.Queue, method.capitalize()))
    assert found.read('Bs')[1] == 'amq.gen-2'
    types = 'l' if method == 'purge' else ''
    again.send(found.channel, getattr(spec.Queue, f'{method.capitalize()}Ok'), types, (0,) if types else ())
    asking.result()
    entries = channel.connection.topology.replay()
    bound = [facts['destination'] for kind, facts in entries if kind == 'binding']
    assert bound == (['amq.gen-2'] if method == 'bind' else [])
