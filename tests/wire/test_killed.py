"""A call whose greenlet was killed: its late reply is thrown away, and what it did is undone (P5)."""

from __future__ import annotations

import pytest
from amqp import spec

from greenmq.exceptions import ConnectionLost, TimeoutError
from tests.support import green
from tests.support.amqp_frames import content, method
from tests.wire.conftest import SOON, Doing
from tests.wire.test_cuts import start_consumer


def killed(broker, *signatures, call):
    """Start a call, let the broker have its method, kill it."""
    doing = Doing(*call)
    found = broker.recv(*signatures)
    doing.kill()
    return found


def still_works(channel, broker, wire=1):
    calling = Doing(channel.queue_declare, 'q')
    assert broker.recv(spec.Queue.Declare).channel == wire
    broker.send(wire, spec.Queue.DeclareOk, 'sll', ('q', 0, 0))
    assert calling.result().queue == 'q'


def test_a_late_reply_is_not_the_next_callers(talk):
    channel, broker = talk()
    killed(broker, spec.Queue.Declare, call=(channel.queue_declare, 'first'))
    following = Doing(channel.queue_declare, 'second')
    green.idle()
    assert not following.done
    broker.send(1, spec.Queue.DeclareOk, 'sll', ('first', 1, 1))
    assert broker.recv(spec.Queue.Declare).read('Bs')[1] == 'second'
    broker.send(1, spec.Queue.DeclareOk, 'sll', ('second', 2, 2))
    assert following.result() == ('second', 2, 2)


def test_consume_is_cancelled_before_the_same_tag_is_used_again(talk):
    channel, broker = talk()
    seen = []
    start_consumer(channel, broker, seen.append)
    cancelling = Doing(channel.basic_cancel, 't')
    broker.recv(spec.Basic.Cancel)
    broker.send(1, spec.Basic.CancelOk, 's', ('t',))
    cancelling.result()
    call = (channel.basic_consume, 'q', 't', False, False, False, False, seen.append)
    killed(broker, spec.Basic.Consume, call=call)
    again = Doing(*call)
    deliveries = b''.join(
        method(1, spec.Basic.Deliver, 'sLbss', ('t', tag, False, 'e', 'k')) + content(1, b'x')
        for tag in (1, 2)
    )
    broker.write(method(1, spec.Basic.ConsumeOk, 's', ('t',)) + deliveries)
    assert broker.recv(spec.Basic.Cancel).read('sb') == ['t', True]
    found = sorted((broker.recv() for _ in range(3)), key=lambda each: each.signature)
    assert [each.signature for each in found] == [spec.Basic.Consume, spec.Basic.Reject, spec.Basic.Reject]
    assert [each.read('Lb') for each in found[1:]] == [[1, True], [2, True]]
    broker.send(1, spec.Basic.ConsumeOk, 's', ('t',))
    assert again.result() == 't'
    assert list(channel.callbacks) == ['t'] and not seen


def test_a_consume_without_acks_rejects_nothing(talk):
    """A reject of what is settled already would close the channel (406)."""
    channel, broker = talk()
    killed(broker, spec.Basic.Consume, call=(channel.basic_consume, 'q', 't', False, True))
    broker.send(1, spec.Basic.ConsumeOk, 's', ('t',))
    broker.send(1, spec.Basic.Deliver, 'sLbss', ('t', 1, False, 'e', 'k'), b'x')
    assert broker.recv().signature == spec.Basic.Cancel
    still_works(channel, broker)


def test_get_gives_its_message_back_before_the_next_get(talk):
    channel, broker = talk()
    killed(broker, spec.Basic.Get, call=(channel.basic_get, 'q'))
    getting = Doing(channel.basic_get, 'q')
    broker.send(1, spec.Basic.GetOk, 'Lbssl', (1, False, 'e', 'k', 0), b'body')
    assert broker.recv(spec.Basic.Reject).read('Lb') == [1, True]
    broker.recv(spec.Basic.Get)
    broker.send(1, spec.Basic.GetOk, 'Lbssl', (2, True, 'e', 'k', 0), b'body')
    message = getting.result()
    assert message.delivery_info['redelivered'] and channel.basic_ack(message.delivery_tag)
    assert broker.recv(spec.Basic.Ack).read('Lb') == [2, False]


def test_get_killed_after_its_reply_was_handed_over(talk):
    channel, broker = talk()
    doing = Doing(channel.basic_get, 'q')
    broker.recv(spec.Basic.Get)
    link = channel.consuming.wire.link
    on_content = link.on_content

    def on_content_then_kill(channel_id, found):
        # in one round of the hub: the getter is woken, and killed before it runs
        doing._greenlet.kill(block=False)
        on_content(channel_id, found)

    link.on_content = on_content_then_kill
    broker.send(1, spec.Basic.GetOk, 'Lbssl', (1, False, 'e', 'k', 0), b'body')
    assert broker.recv(spec.Basic.Reject).read('Lb') == [1, True]
    still_works(channel, broker)


def test_get_empty_needs_nothing(talk):
    channel, broker = talk()
    killed(broker, spec.Basic.Get, call=(channel.basic_get, 'q'))
    broker.send(1, spec.Basic.GetEmpty, 's', ('',))
    still_works(channel, broker)


def test_open_is_closed_again(opened):
    connection, broker = opened()
    channel = connection.channel()
    killed(broker, spec.Channel.Open, call=(channel.open,))
    broker.send(1, spec.Channel.OpenOk, 'S', ('',))
    assert broker.recv(spec.Channel.Close).channel == 1
    broker.send(1, spec.Channel.CloseOk)
    green.idle()
    opening = Doing(channel.open)
    assert broker.open_channel() == 1, 'the number was not given back'
    opening.result()
    still_works(channel, broker)


@pytest.mark.parametrize('step', [spec.Channel.Open, spec.Basic.Qos, spec.Basic.Consume])
def test_restoring_consumers_is_taken_over_by_another(talk, step):
    """Killed while it has the consumers started again on a new wire: the channel does not stay deaf."""
    channel, broker = talk()
    seen = []
    start_consumer(channel, broker, seen.append)
    broker.close_channel(1, 541, 'INTERNAL_ERROR', (0, 0))
    answers = {
        spec.Channel.Open: (spec.Channel.OpenOk, 'S', ('',)),
        spec.Basic.Qos: (spec.Basic.QosOk, '', ()),
        spec.Basic.Consume: (spec.Basic.ConsumeOk, 's', ('t',)),
        spec.Channel.Close: (spec.Channel.CloseOk, '', ()),
    }
    wire, kills, consuming = None, 0, False
    while not consuming:
        found = broker.recv(*answers)
        if found.signature == step and not kills:
            kills += 1
            for each in gc_greenlets('amqp-reopen'):
                each.kill()
            calling = Doing(channel.open)  # whoever needs the channel next starts them
        wire = found.channel
        broker.send(wire, *answers[found.signature])
        consuming = kills and found.signature == spec.Basic.Consume and found.channel == wire
        if consuming and step == spec.Basic.Consume and kills == 1:
            kills, consuming = 2, False
    calling.result()
    live = channel.consuming.wire.id
    broker.send(live, spec.Basic.Deliver, 'sLbss', ('t', 1, False, 'e', 'k'), b'x')
    channel.connection.drain_events(timeout=SOON)
    assert [each.body for each in seen] == [b'x']
    assert len(channel.connection.link.wires) == 1


def gc_greenlets(prefix):
    import gc

    return [
        each
        for each in gc.get_objects()
        # Not isinstance: a weak proxy that is dead raises for that.
        if issubclass(type(each), green.GREENLETS)
        and str(getattr(each, 'name', '')).startswith(prefix)
        and each
    ]


def test_a_timeout_says_what_was_not_answered(talk):
    channel, broker = talk(operation_timeout=0.03)
    with pytest.raises(TimeoutError, match=r'channel 1 .*no reply to method \(50, 10\) within 0.03 s'):
        channel.queue_declare('q')
    with pytest.raises(TimeoutError, match='busy for 0.03 s'):
        channel.queue_declare('q')
    broker.recv(spec.Queue.Declare)
    broker.send(1, spec.Queue.DeclareOk, 'sll', ('q', 0, 0))
    channel.connection.settings.operation_timeout = 5
    still_works(channel, broker)


def test_a_cancel_that_did_not_get_its_turn_is_sent_all_the_same(talk):
    """Or the broker would deliver for ever to a consumer that nobody has, and be given it back for ever."""
    channel, broker = talk()
    start_consumer(channel, broker, print)
    getting = Doing(channel.basic_get, 'q2')
    broker.recv(spec.Basic.Get)
    cancelling = Doing(channel.basic_cancel, 't')
    green.idle()
    cancelling.kill()
    assert broker.recv(spec.Basic.Cancel).read('sb') == ['t', True]
    assert channel.callbacks == {}
    broker.send(1, spec.Basic.GetEmpty, 's', ('',))
    assert getting.result() is None


def test_a_consumer_that_is_cancelled_while_its_channel_is_opened_again_is_not_started(talk):
    """Given a consumer that the broker ended, and its channel closed too, when the program cancels it before
    it had its turn to be started again, then it is not."""
    channel, broker = talk()
    start_consumer(channel, broker, print)
    broker.send(1, spec.Basic.Cancel, 'sb', ('t', True))
    control = broker.open_channel()
    declare = broker.recv(spec.Queue.Declare)
    broker.close_channel(1, 541, 'INTERNAL_ERROR', (0, 0))
    broker.send(control, spec.Queue.DeclareOk, 'sll', ('q', 0, 0))
    assert declare.channel == control
    opening = broker.recv(spec.Channel.Open)
    green.idle()  # it is there: now it waits for the channel
    channel.basic_cancel('t')
    broker.send(opening.channel, spec.Channel.OpenOk, 'S', ('',))
    broker.recv(spec.Basic.Qos)
    broker.send(opening.channel, spec.Basic.QosOk)
    green.idle()
    getting = Doing(channel.basic_get, 'q2')
    assert broker.recv().signature == spec.Basic.Get
    broker.send(opening.channel, spec.Basic.GetEmpty, 's', ('',))
    assert getting.result() is None


def test_tags_of_consumers_that_ended_are_not_kept(talk):
    """A program that consumes each of its answers under a new tag must not grow with them."""
    channel, broker = talk()
    for number in range(20):
        tag = f't{number}'
        starting = Doing(channel.basic_consume, 'q', consumer_tag=tag, no_ack=True, callback=print)
        broker.recv(spec.Basic.Consume)
        broker.send(1, spec.Basic.ConsumeOk, 's', (tag,))
        starting.result()
        cancelling = Doing(channel.basic_cancel, tag)
        broker.recv(spec.Basic.Cancel)
        broker.send(1, spec.Basic.CancelOk, 's', (tag,))
        cancelling.result()
    assert not channel.consuming._gone_no_ack


def test_a_timeout_of_the_callers_own_comes_out_of_a_publish_as_it_is(talk, publishers):
    channel, broker = talk()
    crowd = publishers(channel, broker)
    (first,), _ = crowd.publish([b'first'])
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (1, False))
    assert first.error() is None
    mine = TimeoutError('of the caller')

    def publish():
        with green.Timeout(0.1, mine):
            channel.basic_publish(channel.prepare_message(b'x'), '', 'q', timeout=30)

    publishing = Doing(publish)
    broker.recv(spec.Basic.Publish)
    assert publishing.error() is mine


def test_who_waits_for_messages_is_told_when_the_recovery_is_killed(peer, talk):
    channel, broker = talk(recover=True)
    connection = channel.connection
    draining = Doing(connection.drain_events)
    broker.reset()
    assert isinstance(draining.error(), ConnectionLost)
    again = Doing(connection.drain_events)
    peer.accept()  # of the recovery, which waits for the handshake
    for each in gc_greenlets('amqp-recovery'):
        each.kill()
    assert isinstance(again.error(), ConnectionLost)
    opening = Doing(connection.client.ensure_connection, timeout=SOON)
    peer.accept().handshake()
    opening.result()
    assert connection.connected and connection.epoch == 2
