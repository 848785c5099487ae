"""qpid:// on a broker that cuts, detaches, falls silent, refuses and gives no credit."""

import pytest

from greenmq import Connection, runtime
from greenmq.exceptions import (
    AccessRefused,
    ConnectionBlocked,
    InvalidArgument,
    NotAllowed,
    PublishNacked,
    PublishUnconfirmed,
    Unroutable,
)
from greenmq.transport.amqp10 import receiving
from tests.support import green
from tests.support.amqp10_peer import Broker
from tests.support.amqp10_proton import need_proton, proton
from tests.support.http_peer import HTTPPeer, answer
from tests.support.stores import driver


@pytest.fixture
def broker():
    need_proton()
    broker = Broker()
    yield broker
    broker.stop()


@pytest.fixture
def connect(broker, opened):
    return lambda url=None, **options: opened(url or broker.url, **options)


def consume(connection, queue, seen, ack=True):
    def received(message):
        seen.append(bytes(message.body).decode())
        if ack:
            message.ack()

    channel = connection.channel()
    channel.basic_consume(queue=queue, no_ack=False, callback=received, consumer_tag='t')
    return channel


def drain(connection, condition, seconds=15):
    with green.Timeout(seconds):
        while not condition():
            try:
                connection.drain_events(timeout=0.1)
            except (TimeoutError, *connection.connection_errors):
                continue


def test_messages_go_round(connect, broker):
    connection, seen = connect(), []
    consume(connection, 'q', seen)
    producer = connection.Producer(serializer='raw')
    for number in range(20):
        producer.publish(str(number).encode(), routing_key='q')
    drain(connection, lambda: len(seen) == 20)
    assert seen == [str(number) for number in range(20)]
    drain(connection, lambda: broker.outcomes.count(proton.Delivery.ACCEPTED) == 20)


def test_the_settlements_come_after_the_callbacks(connect, broker):
    connection, seen = connect(), []
    broker.queues['q'].extend(raw for raw in published(connect, broker, 3))
    consume(connection, 'q', seen, ack=False)
    drain(connection, lambda: len(seen) == 3)
    green.sleep(0.1)
    assert not broker.outcomes


def published(connect, broker, count):
    connection = connect()
    for number in range(count):
        connection.Producer(serializer='raw').publish(str(number).encode(), routing_key='made')
    found = list(broker.queues['made'])
    broker.queues['made'].clear()
    return found


def test_a_broker_without_credit_blocks(connect, broker):
    broker.credit = 0
    producer = connect().Producer(serializer='raw')
    with pytest.raises(ConnectionBlocked, match='credit'):
        producer.publish(b'x', routing_key='q', timeout=0.3)
    assert not broker.received


def test_credit_is_shared_in_turn(connect, broker):
    broker.credit = 3
    connection = connect()
    producer = connection.Producer(serializer='raw')
    tasks = [green.spawn(producer.publish, b'%d' % number, routing_key='q') for number in range(50)]
    for task in tasks:
        green.join(task) if hasattr(green, 'join') else task.join()
    assert len(broker.received) == 50


@pytest.mark.parametrize('answer, error', [('REJECTED', PublishNacked), ('MODIFIED', PublishNacked),
                                           (None, PublishUnconfirmed)])
def test_what_the_broker_does_not_accept_is_told(connect, broker, answer, error):
    broker.answer = getattr(proton.Delivery, answer) if answer else None
    with pytest.raises(error):
        connect().Producer(serializer='raw').publish(b'x', routing_key='q', timeout=0.5)


def test_a_queue_that_is_refused_is_named(connect, broker):
    broker.refuse['secret'] = 'amqp:unauthorized-access'
    producer = connect().Producer(serializer='raw')
    with pytest.raises(AccessRefused, match='secret'):
        producer.publish(b'x', routing_key='secret', timeout=2)
    # And it costs nobody else anything
    producer.publish(b'x', routing_key='other', timeout=5)
    assert broker.accepted == 1


def test_a_queue_that_is_no_more_is_unroutable_where_somebody_asks(connect, broker):
    broker.refuse['none'] = 'amqp:not-found'
    with pytest.raises(Unroutable):
        connect().Producer(serializer='raw').publish(b'x', routing_key='none', mandatory=True, timeout=2)


def test_nobody_deletes_what_the_broker_does_not_let(connect):
    with pytest.raises(NotAllowed, match='cannot be deleted'):
        connect().channel().queue_delete('q')


def test_a_queue_is_deleted_when_the_broker_has_answered_that_nobody_consumes_it(connect, broker):
    """Also while there is still somebody who wants its messages."""
    ended = []

    def management(asked):
        if asked.method == 'DELETE':
            ended.append(broker.ended)
            green.sleep(0.05)
        return answer(204)

    with HTTPPeer(management) as http:
        connection, seen = connect(f'{broker.url}?address_style=rabbitmq3&management_url={http.url}'), []
        consume(connection, 'q', seen)
        drain(connection, lambda: broker.consumers == 1)
        broker.slow_end = 0.2
        wanting = green.spawn(want_again_and_again, driver(connection), 'q')
        driver(connection).delete('q', runtime.Deadline.after(10))
        wanting.kill()
        assert ended == [1] and broker.consumers == 1


def want_again_and_again(driver, queue):
    while True:
        driver.want(queue, 10)
        green.sleep(0.01)


def test_what_is_held_stays_held_when_its_consumer_is_cancelled(connect, broker, monkeypatch):
    monkeypatch.setattr(receiving, 'LINGER', 0.02)
    connection, held = connect(), []
    channel = connection.channel()
    channel.basic_consume(queue='q', no_ack=False, callback=held.append, consumer_tag='t')
    connect().Producer(serializer='raw').publish(b'x', routing_key='q')
    drain(connection, lambda: held)
    channel.basic_cancel('t')
    green.sleep(0.2)
    assert not broker.queues['q']
    held[0].ack()
    drain(connection, lambda: broker.outcomes == [proton.Delivery.ACCEPTED])


def test_what_was_got_from_many_queues_stays_held(connect, broker):
    connection = connect()
    producer, channel = connection.Producer(serializer='raw'), connection.channel()
    held = []
    for number in range(receiving.GETTERS + 5):
        producer.publish(b'x', routing_key=f'q{number}')
        held.append(channel.basic_get(f'q{number}'))
    for message in held:
        message.ack()
    drain(connection, lambda: len(broker.outcomes) == len(held))
    assert set(broker.outcomes) == {proton.Delivery.ACCEPTED} and not any(broker.queues.values())


def test_many_looks_at_once_leave_no_link_behind(connect, broker):
    channel = connect().channel()
    looks = [green.spawn(channel.basic_get, f'q{number}') for number in range(3 * receiving.GETTERS)]
    green.joinall(looks)
    channel.basic_get('last')
    links = [link for peer in broker.peers for link in peer.links]
    assert sum(bool(link.state & proton.Endpoint.REMOTE_ACTIVE) for link in links) <= receiving.GETTERS


@pytest.mark.parametrize('fault', ['cut', 'detach', 'close_all'])
def test_a_consumer_goes_on_after(connect, broker, fault):
    connection, seen = connect(), []
    consume(connection, 'q', seen)
    producer = connect().Producer(serializer='raw')
    for round in range(4):
        producer.publish(b'%d' % round, routing_key='q', timeout=10, retry=True)
        drain(connection, lambda: str(round) in seen)  # noqa: B023 - used within the round
        getattr(broker, fault)()
    assert sorted(set(seen)) == ['0', '1', '2', '3']


def test_a_consumer_goes_on_after_a_silence(connect, broker):
    connection, seen = connect(idle_timeout=0.8), []
    consume(connection, 'q', seen)
    drain(connection, lambda: broker.consumers == 1)
    broker.silent = True
    green.sleep(1.0)
    broker.silent = False
    connect().Producer(serializer='raw').publish(b'x', routing_key='q')
    drain(connection, lambda: seen)
    assert broker.accepted >= 3


def test_a_link_that_is_deaf_is_made_anew(connect, broker, monkeypatch):
    monkeypatch.setattr(receiving, 'PROOF', 0.3)
    monkeypatch.setattr(receiving, 'ANSWER', 0.3)
    monkeypatch.setattr('greenmq.transport.qpid.driver.LOOK', 0.1)
    connection, seen = connect(), []
    consume(connection, 'q', seen)
    drain(connection, lambda: broker.consumers == 1)
    # When the broker forgets the consumer
    for peer in broker.peers:
        for link in peer.links:
            link.queue = 'forgotten'
        peer.on_link_flow = lambda event: None
        peer.transport.push = forgetful(peer)
    drain(connection, lambda: broker.consumers >= 2)
    assert broker.accepted == 1


def forgetful(peer):
    # It hears flows no more: an echo of a link is what Proton answers by itself.
    push = peer.transport.push

    def heard(data):
        if b'\x00\x53\x13' in data and b'\x00\x53\x12' not in data and b'\x00\x53\x16' not in data:
            return len(data)
        return push(data)

    return heard


def test_a_refused_address_is_tried_again_while_it_is_wanted(connect, broker):
    broker.refuse['q'] = 'amqp:not-found'
    connection, seen = connect(), []
    consume(connection, 'q', seen)
    green.sleep(0.3)
    broker.refuse.clear()
    connect().Producer(serializer='raw').publish(b'x', routing_key='q')
    drain(connection, lambda: seen == ['x'])


def test_what_comes_after_a_cancel_goes_back(connect, broker):
    connection, seen = connect(), []
    channel = consume(connection, 'q', seen, ack=False)
    channel.basic_qos(0, 10)
    drain(connection, lambda: broker.consumers == 1)
    producer = connect().Producer(serializer='raw')
    for number in range(10):
        producer.publish(b'%d' % number, routing_key='q')
    channel.basic_cancel('t')
    channel.close()
    drain(connect(), lambda: len(broker.queues['q']) == 10)


@pytest.mark.parametrize('query, named', [
    ('address_style=rabbit', 'address_style'), ('idle_timeout=-1', 'idle_timeout'),
    ('max_message_bytes=x', 'max_message_bytes'),
    ('management_url=http://127.0.0.1:1', 'management_url')])
def test_options_that_mean_nothing_are_refused_by_name(broker, query, named):
    with pytest.raises(InvalidArgument, match=named):
        Connection(f'{broker.url}?{query}').connect()


@pytest.mark.parametrize('user', ['joe@', ':secret@'])
def test_half_a_login_is_refused_before_anything_is_dialled(broker, user):
    with pytest.raises(InvalidArgument):
        Connection(broker.url.replace('://', f'://{user}')).connect()
    assert not broker.accepted
