"""Confirms in any order, returns before their confirms: each publish learns its own outcome, once."""

from __future__ import annotations

import time

import pytest
from amqp import spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenmq import events
from greenmq.exceptions import ConnectionLost, MessageNacked, NotFound, PublishUnconfirmed, Unroutable
from tests.support import green
from tests.support.amqp_frames import content, method
from tests.support.switches import assert_no_switch
from tests.wire.conftest import EXAMPLES, SOON, Doing, Publishers

#: For the examples of a soak.
pytestmark = pytest.mark.green_timeout(600)

ANSWERS = st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.booleans()), max_size=12)


def model(count, answers):
    """What each of the publishes 1..count must learn: the first answer that covers it."""
    outcomes = {}
    for tag, multiple, ack in answers:
        covered = range(1, (tag or count) + 1) if multiple else [tag]
        for number in covered:
            if 1 <= number <= count:
                outcomes.setdefault(number, ack)
    return [outcomes[number] for number in range(1, count + 1)]


@settings(
    deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(count=st.integers(1, 10), answers=ANSWERS, portion=st.integers(1, 60))
def test_any_order_of_acks_and_nacks_resolves_each_once(opened, count, answers, portion):
    connection, broker = opened()
    channel = connection.channel()
    settled = []
    crowd = Publishers(channel, broker)
    doing, _ = crowd.publish([b'%d' % number for number in range(count)])
    futures = [
        channel.basic_publish_nowait(channel.prepare_message(b'n'), '', 'q') for number in range(count)
    ]
    for future in futures:
        future.add_done_callback(settled.append)
    for _ in futures:
        broker.recv(spec.Basic.Publish)
    answers = [*answers, (0, True, True)]
    stream = b''.join(
        method(crowd.wire, spec.Basic.Ack, 'Lb', (tag, multiple))
        if ack
        else method(crowd.wire, spec.Basic.Nack, 'Lbb', (tag, multiple, False))
        for tag, multiple, ack in answers
    )
    broker.write(stream, *range(portion, len(stream), portion))
    got = [each.error() is None for each in doing]
    errors = [future.exception(2) for future in futures]
    assert got + [error is None for error in errors] == model(2 * count, answers)
    assert all(isinstance(error, MessageNacked) for error in errors if error is not None)
    assert len(settled) == len(futures), 'a future was resolved twice or never'
    assert channel.publishing.outstanding == 0
    broker.sock.close()
    connection.collect()


def answer_to(publish, tag):
    """return, with the content that was published, and the ack behind it."""
    _, exchange, key, _, _ = publish.read('Bssbb')
    came_back = method(publish.channel, spec.Basic.Return, 'Bsss', (312, 'NO_ROUTE', exchange, key))
    return came_back + content(publish.channel, publish.body, publish.properties), method(
        publish.channel, spec.Basic.Ack, 'Lb', (tag, False)
    )


@settings(
    deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_return_reaches_its_own_publish(opened, data):
    """Given publishes of few bodies to few keys, when any of them come back and are confirmed in any order,
    then exactly their publishers raise. Of messages equal in all things it may be any."""
    connection, broker = opened()
    crowd = Publishers(connection.channel(), broker)
    kinds = data.draw(st.lists(st.tuples(st.sampled_from('ab'), st.sampled_from('xy')), max_size=8))
    doing, publishes = [], []
    for key, body in kinds:
        more, found = crowd.publish([body.encode()], routing_key=key, mandatory=True)
        doing += more
        publishes += found
    lost = data.draw(st.sets(st.integers(0, len(kinds) - 1))) if kinds else set()
    order = data.draw(st.permutations(range(len(kinds))))
    stream = b''
    for number in sorted(lost):
        stream += answer_to(publishes[number], 0)[0]
    for number in order:
        stream += answer_to(publishes[number], number + 1)[1]
    broker.write(stream)
    errors = [each.error() for each in doing]
    for kind in set(kinds):
        of_kind = [number for number, each in enumerate(kinds) if each == kind]
        raised = [errors[number] for number in of_kind if errors[number] is not None]
        assert len(raised) == len(lost.intersection(of_kind)), kind
        assert all(isinstance(error, Unroutable) and error.routing_key == kind[0] for error in raised)
    broker.sock.close()
    connection.collect()


def test_equal_bodies_with_other_properties_are_told_apart(talk, publishers):
    channel, broker = talk()
    crowd = publishers(channel, broker)
    doing, publishes = [], []
    for number in range(20):
        more, found = crowd.publish([b'same'], mandatory=True, properties={'message_id': f'm{number}'})
        doing += more
        publishes += found
    lost = {3, 4, 11, 19}
    for number in sorted(lost, reverse=True):
        broker.write(answer_to(publishes[number], 0)[0])
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (20, True))
    raised = {number for number, each in enumerate(doing) if isinstance(each.error(), Unroutable)}
    assert raised == lost


def test_a_broker_that_takes_properties_away_is_still_understood(talk, publishers):
    channel, broker = talk()
    crowd = publishers(channel, broker)
    first, found = crowd.publish([b'one'], mandatory=True, properties={'message_id': 'm'})
    other, _ = crowd.publish([b'two'], mandatory=True, properties={'message_id': 'm'})
    broker.write(answer_to(found[0]._replace(properties=b'\x00\x00'), 0)[0])
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (2, True))
    assert isinstance(first[0].error(), Unroutable) and other[0].error() is None


def test_no_confirm_in_time_is_unconfirmed_and_the_late_one_finds_nobody(talk, publishers):
    channel, broker = talk()
    crowd = publishers(channel, broker)
    crowd.publish([b'first'])
    with pytest.raises(PublishUnconfirmed) as caught:
        channel.basic_publish(channel.prepare_message(b'late'), '', 'q', timeout=0.02)
    assert caught.value.sent == 'unknown'
    broker.recv(spec.Basic.Publish)
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (2, True))
    (third,), _ = crowd.publish([b'third'])
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (3, False))
    assert third.error() is None


def test_the_event_confirmed_says_how_long_it_took(talk, publishers):
    channel, broker = talk()
    crowd, told = publishers(channel, broker), []
    crowd.publish([b'nobody listens yet'], routing_key='before')
    subscription = events.subscribe('confirmed', told.append)
    start = time.monotonic()
    doing, _ = crowd.publish([b'1', b'2'], routing_key='q')
    nowait = channel.basic_publish_nowait(channel.prepare_message(b'3'), '', 'q')
    broker.recv(spec.Basic.Publish)
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (2, True))
    broker.send(crowd.wire, spec.Basic.Nack, 'Lb', (3, False))
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (4, False))
    assert nowait.result(timeout=SOON) is None and doing[0].error() is None
    assert isinstance(doing[1].error(), MessageNacked)
    with green.Timeout(SOON):
        while len(told) < 2:
            green.idle()
    subscription.cancel()
    for event in told:
        assert event.source is channel.connection.client
        assert (event.facts['exchange'], event.facts['routing_key']) == ('', 'q')
        assert 0 < event.facts['seconds'] <= time.monotonic() - start


def test_a_killed_publisher_leaves_the_count_right(talk, publishers):
    channel, broker = talk()
    crowd = publishers(channel, broker)
    (killed, other), _ = crowd.publish([b'killed', b'other'])
    killed.kill()
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (1, False))
    green.idle()
    assert not other.done
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (2, False))
    assert other.error() is None


def test_the_end_of_the_connection_says_unconfirmed(talk, publishers):
    channel, broker = talk()
    crowd = publishers(channel, broker)
    doing, _ = crowd.publish([b'1', b'2', b'3'])
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (1, False))
    broker.reset()
    errors = [each.error() for each in doing]
    assert errors[0] is None
    for error in errors[1:]:
        assert isinstance(error, PublishUnconfirmed) and error.sent == 'unknown'
        assert isinstance(error.__cause__, ConnectionLost)


def test_nowait_in_line_gets_its_answer_and_never_switches(opened):
    connection, broker = opened()
    channel = connection.channel()
    with assert_no_switch():
        futures = [channel.basic_publish_nowait(channel.prepare_message(b'x' * 100_000), '', 'q')]
    wire = broker.open_confirms()
    broker.recv(spec.Basic.Publish)
    with assert_no_switch():
        futures += [
            channel.basic_publish_nowait(channel.prepare_message(b'x' * 100_000), '', 'q') for _ in range(9)
        ]
    for _ in range(9):
        broker.recv(spec.Basic.Publish)
    broker.send(wire, spec.Basic.Ack, 'Lb', (10, True))
    assert [future.result(2) for future in futures] == [None] * 10


def test_a_missing_exchange_is_found_out_beside_the_publishes(talk, publishers):
    """The look-up has a wire of its own: whoever publishes elsewhere meanwhile does not notice."""
    channel, broker = talk()
    crowd = publishers(channel, broker)
    (patient,), _ = crowd.publish([b'patient'])
    def publish(exchange):
        channel.basic_publish(channel.prepare_message(b'x'), exchange, 'k', timeout=5)

    missing, there = Doing(publish, 'missing'), Doing(publish, 'there')
    control = broker.open_channel()
    assert broker.recv(spec.Exchange.Declare).read('Bss')[1] == 'missing'
    broker.close_channel(control, 404, "NOT_FOUND - no exchange 'missing' in vhost '/'", (40, 10))
    again = broker.open_channel()
    assert broker.recv(spec.Exchange.Declare).read('Bss')[1] == 'there'
    broker.send(again, spec.Exchange.DeclareOk)
    assert broker.recv(spec.Basic.Publish).channel == crowd.wire
    broker.send(crowd.wire, spec.Basic.Ack, 'Lb', (2, True))
    assert isinstance(missing.error(), NotFound)
    assert there.error() is None and patient.error() is None
