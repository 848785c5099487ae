"""What a program holds outlives the loss of its connection: entities, consumers, channels (P24, P36, P37)."""
from __future__ import annotations

import time

import pytest

from greenmq import Consumer, Exchange, Queue
from greenmq.exceptions import ConsumerCancelled, PublishUnconfirmed, StaleDelivery, Unroutable
from greenmq.transport.pyamqp import rebinding, recovery
from tests.faults.conftest import SOAK, SOON, Consuming, outcome, queue, wait_open
from tests.support import green
from tests.support.process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def lose(proxy, connection):
    """Cut the connection, and wait until it is back."""
    epoch = connection.connection.epoch
    proxy.cut()
    wait_until(lambda: connection.connection.epoch > epoch and connection.connected, SOON, 'the recovery')


def test_entities_that_go_with_the_connection_are_declared_again(rig, proxy):
    connection = rig.connection(proxy)
    facts = rig.facts('lost', 'recovered')
    exchange = Exchange('again', type='topic', durable=False, auto_delete=True)
    second = Exchange('again-second', type='fanout', durable=False, auto_delete=True)
    first = Queue('again', exchange, routing_key='a.*', durable=False, exclusive=True)
    fanned = Queue('again-fanned', second, durable=False, exclusive=True)
    channel = connection.default_channel
    for entity in (exchange, second, first, fanned):
        entity(channel).declare()
    second(channel).bind_to('again', 'a.b')
    lose(proxy, connection)
    producer = connection.Producer()
    producer.publish({'id': 1}, exchange='again', routing_key='a.b', mandatory=True)
    assert first(channel).get(no_ack=True).payload == {'id': 1}
    assert fanned(channel).get(no_ack=True).payload == {'id': 1}
    facts.wait('recovered')
    assert len(facts['lost']) == 1


@pytest.mark.parametrize('kind', ['topic', 'direct', 'fanout'])
def test_an_exclusive_queue_is_not_deaf_after_a_recovery(rig, proxy, kind):
    """RabbitMQ 4 takes the new binding of a topic away with the old one, in one of twenty recoveries."""
    connection = rig.connection(proxy)
    exchange = Exchange('deaf', type=kind, durable=False, auto_delete=True)
    bound = Queue('deaf', exchange, routing_key='a.b', durable=False, exclusive=True)
    bound = bound(connection.default_channel)
    bound.declare()
    producer = connection.Producer(exchange=exchange, routing_key='a.b')
    for number in range(200 if SOAK else 4):
        lose(proxy, connection)
        producer.publish({'id': number}, mandatory=True)
        assert bound.get(no_ack=True).payload == {'id': number}


def test_a_binding_that_the_broker_took_away_with_the_old_one_is_made_once_more(rig, proxy, monkeypatch):
    monkeypatch.setattr(rebinding, '_LATER', 0.5)
    connection = rig.connection(proxy)
    exchange = Exchange('once-more', type='topic', durable=False, auto_delete=False)
    bound = Queue('once-more', exchange, routing_key='a.*', durable=False, auto_delete=True)
    consuming = Consuming(rig, connection, bound)
    lose(proxy, connection)
    # What the broker does by itself, at times.
    bound(rig.control.default_channel).unbind_from('once-more', 'a.*')
    producer = rig.control.Producer(exchange='once-more', routing_key='a.b')
    assert isinstance(outcome(producer.publish, {'id': 0}, mandatory=True)[0], Unroutable)
    wait_until(lambda: outcome(producer.publish, {'id': 1}, mandatory=True)[0] is None, SOON, 'the binding')
    consuming.wait(1)


def test_no_message_misses_its_way_while_a_binding_is_made_once_more(
    rig, proxy, rabbitmq, amqp_vhost, monkeypatch
):
    monkeypatch.setattr(rebinding, '_LATER', 0.3)
    connection = rig.connection(proxy)
    exchange = Exchange('no-gap', type='topic', durable=False, auto_delete=True)
    consuming = Consuming(rig, connection, Queue('no-gap', exchange, 'a.*', durable=False, exclusive=True))
    lose(proxy, connection)
    producer, published = rig.control.Producer(exchange='no-gap', routing_key='a.b'), 0
    end = time.monotonic() + 1
    while time.monotonic() < end:
        producer.publish({'id': published}, mandatory=True)
        published += 1
    consuming.wait(*range(published))
    assert len(consuming.seen) == published
    bindings = rabbitmq.list('bindings', 'source_name', 'arguments', vhost=amqp_vhost)
    assert [row['arguments'] for row in bindings if row['source_name'] == 'no-gap'] in ([[]], [{}])


def test_a_binding_that_cannot_be_had_again_keeps_nothing_else_away(rig, proxy):
    # Given a binding to somebody else's exchange, which is gone when the connection is back
    theirs = Exchange('theirs', durable=False, auto_delete=False)(rig.control.default_channel)
    theirs.declare()
    connection = rig.connection(proxy)
    facts = rig.facts('consumer_lost')
    bound = queue('bound-to-theirs')(connection.default_channel)
    bound.declare()
    bound.bind_to('theirs', 'key')
    theirs.delete()
    lose(proxy, connection)
    fact = facts.wait('consumer_lost')[0]
    assert fact['kind'] == 'binding' and fact['name'] == bound.name and fact['entity']['source'] == 'theirs'
    producer = connection.Producer(exchange=bound.exchange, routing_key=bound.routing_key)
    producer.publish({'id': 1}, mandatory=True)
    assert bound.get(no_ack=True).payload == {'id': 1}


def test_an_exchange_that_goes_with_the_last_connection_s_queue_while_we_declare_is_declared_once_more(
    rig, proxy, monkeypatch
):
    connection = rig.connection(proxy)
    exchange = Exchange('late', durable=False, auto_delete=True)
    bound = Queue('late', exchange, 'key', exclusive=True, durable=False)(connection.default_channel)
    bound.declare()
    declare_queue, deleted = recovery._declare_queue, []

    def late(*args):
        declare_queue(*args)
        if not deleted:
            deleted.append(rig.control.default_channel.exchange_delete('late'))

    monkeypatch.setattr(recovery, '_declare_queue', late)
    lose(proxy, connection)
    assert deleted
    connection.Producer().publish({'id': 1}, exchange='late', routing_key='key', mandatory=True)
    assert bound.get(no_ack=True).payload == {'id': 1}


def test_what_was_deleted_is_not_declared_again(rig, proxy):
    connection = rig.connection(proxy)
    kept, deleted = queue('kept', auto_delete=False), queue('deleted')
    channel = connection.default_channel
    kept(channel).declare()
    deleted(channel).declare()
    deleted(channel).delete()
    lose(proxy, connection)
    with pytest.raises(connection.channel_errors, match='NOT_FOUND'):
        rig.connection().channel().queue_declare('deleted', passive=True)


def test_the_objects_stay_and_consume_again_with_their_prefetch(rig, proxy, rabbitmq):
    connection = rig.connection(proxy)
    channel = connection.default_channel
    bound = queue('same')
    consuming = Consuming(rig, connection, bound, prefetch_count=7)
    producer = connection.Producer()
    producer.publish({'id': 0}, exchange=bound.exchange, routing_key='same', retry=True)
    consuming.wait(0)
    for number in range(1, 4):
        lose(proxy, connection)
        producer.publish({'id': number}, exchange=bound.exchange, routing_key='same', retry=True)
        consuming.wait(number)
    assert connection.default_channel is channel
    assert consuming.consumer.channel is channel
    assert producer.channel is channel
    rows = rabbitmq.list('consumers', 'queue_name', 'prefetch_count', 'active', vhost=rig.vhost)
    assert rows == [{'queue_name': 'same', 'prefetch_count': 7, 'active': True}]
    # The program that was told of each loss may consume or revive as kombu's would: nothing changes.
    consuming.consumer.revive(channel)
    consuming.consumer.consume()
    assert len(rabbitmq.list('consumers', 'queue_name', vhost=rig.vhost)) == 1
    assert len(consuming.errors) == 3


def test_a_queue_that_the_broker_named_keeps_its_identity_for_its_consumer(rig, proxy):
    connection = rig.connection(proxy)
    exchange = Exchange('named', type='fanout', durable=False, auto_delete=False)
    consuming = Consuming(rig, connection, Queue('', exchange, durable=False, exclusive=True))
    assert consuming.consumer.queues[0].name.startswith('amq.gen')
    producer = rig.control.Producer()
    for number in range(3):
        producer.publish({'id': number}, exchange='named')
        consuming.wait(number)
        lose(proxy, connection)
    consuming.consumer.cancel()


def test_a_queue_that_the_broker_named_keeps_its_name_for_the_program(rig, proxy):
    connection = rig.connection(proxy)
    channel = connection.default_channel
    name = channel.queue_declare('', exclusive=True, auto_delete=False).queue
    channel.exchange_declare('named', 'fanout', auto_delete=False)
    channel.queue_bind(name, 'named')
    for number in range(3):
        rig.control.Producer().publish({'id': number}, exchange='named')
        got = wait_until(lambda: channel.basic_get(name, no_ack=True), SOON, 'a message')
        assert got.payload == {'id': number}
        lose(proxy, connection)
        # What is published to the name goes where the name points now.
        connection.Producer().publish({'id': -1}, routing_key='amq.gen-nobody', retry=True)
        channel.queue_unbind(name, 'named')
        channel.queue_bind(name, 'named')
        assert channel.queue_purge(name) == 0
    assert len(connection.connection.names) == 2, 'one for each recovery'
    channel.queue_delete(name)
    assert not len(connection.connection.names)


def test_what_takes_longer_than_one_deadline_to_declare_again_comes_back_too(rig, proxy, monkeypatch):
    monkeypatch.setattr(recovery, 'PATIENCE', 0.5)
    connection = rig.connection(proxy, connect=False)
    connection.connect_timeout = 0.5
    channel = connection.connect().default_channel
    names = [channel.queue_declare('', exclusive=True).queue for _ in range(30)]
    proxy.latency(0.02)
    inner = connection.connection
    start, epoch = time.monotonic(), inner.epoch
    proxy.cut()
    wait_until(lambda: inner.epoch > epoch and inner.connected, SOON, 'recovery')
    assert time.monotonic() - start > 0.5, 'the proxy is too fast to show anything'
    proxy.heal()
    assert [channel.queue_purge(name) for name in names] == [0] * 30


def test_an_exclusive_queue_is_waited_for_while_the_broker_keeps_the_old_connection(rig, rabbitmq):
    old, new = rig.proxy(), rig.proxy()
    connection = rig.connection(url=f'{rig.url(old)};{rig.url(new)}', heartbeat=1)
    consuming = Consuming(rig, connection, Queue('locked', durable=False, exclusive=True))
    inner = connection.connection
    # The broker hears nothing of the end, and would notice our silence 2 to 3 s after it.
    old.blackhole()
    wait_until(lambda: not inner.connected, SOON, 'the loss')
    wait_open(inner, 2)
    rig.control.Producer().publish({'id': 1}, routing_key='locked')
    consuming.wait(1)


def test_resource_locked_is_tried_again_until_the_deadline(rig, proxy):
    connection = rig.connection(proxy)
    consuming = Consuming(rig, connection, Queue('locked', durable=False, exclusive=True))
    # A stranger takes the name between the loss and the recovery: as the lingering connection would.
    proxy.refuse()
    proxy.cut()
    stranger = rig.connection()
    wait_until(lambda: outcome(stranger.channel().queue_declare, 'locked', exclusive=True)[0] is None, SOON,
               'the queue to be free')
    attempts = proxy.total_connections
    proxy.accept()
    wait_until(lambda: proxy.total_connections > attempts, SOON, 'an attempt')
    assert not connection.connected
    stranger.close()
    wait_open(connection, 2)
    rig.control.Producer().publish({'id': 1}, routing_key='locked')
    consuming.wait(1)


def test_publishes_that_may_be_retried_survive_and_others_say_what_became_of_them(rig, proxy):
    connection = rig.connection(proxy)
    bound = queue('survive')
    bound(connection.default_channel).declare()
    producer = connection.Producer(exchange=bound.exchange, routing_key='survive')
    producer.publish({'id': -1})
    proxy.blackhole('up')
    retried = [rig.spawn(outcome, lambda n=n: producer.publish({'id': n}, retry=True)) for n in range(50)]
    plain = [rig.spawn(outcome, lambda n=n: producer.publish({'id': n})) for n in range(50, 100)]
    link = connection.connection.link
    wait_until(lambda: link.out_bytes == 0 and producer.channel.publishing.outstanding == 100, SOON,
               'the publishes to be sent')
    proxy.cut()
    proxy.heal()
    green.joinall(retried + plain, timeout=SOON, raise_error=True)
    assert [each.value[0] for each in retried] == [None] * 50
    for each in plain:
        error = each.value[0]
        assert type(error) is PublishUnconfirmed and error.sent == 'unknown', repr(error)
    # Not one byte of the others had arrived, so the broker has exactly the retried ones.
    channel = connection.default_channel
    got = [message.payload['id'] for message in iter(lambda: channel.basic_get('survive', no_ack=True), None)]
    assert sorted(got) == [-1, *range(50)]


def test_a_retried_publish_that_finds_no_broker_tells_of_the_first_try(rig, proxy):
    connection = rig.connection(proxy)
    producer = connection.Producer()
    producer.publish({}, routing_key='nowhere')
    proxy.blackhole('up')
    waiting = rig.spawn(outcome, lambda: producer.publish({}, routing_key='nowhere', retry=True, timeout=2))
    wait_until(lambda: producer.channel.publishing.outstanding, SOON, 'the publish')
    proxy.refuse()
    proxy.cut()
    error, _ = waiting.get(timeout=SOON)
    assert type(error) is PublishUnconfirmed and error.sent == 'unknown', repr(error)
    proxy.heal()


def test_publishes_without_waiting_resolve_over_a_loss(rig, proxy):
    connection = rig.connection(proxy)
    producer = connection.Producer()
    producer.publish({}, routing_key='nowhere')
    proxy.blackhole('up')
    futures = [producer.publish_nowait({'id': n}, routing_key='nowhere') for n in range(20)]
    wait_until(lambda: connection.connection.link.out_bytes == 0, SOON, 'the publishes to be sent')
    proxy.cut()
    proxy.heal()
    for future in futures:
        assert isinstance(future.exception(timeout=SOON), PublishUnconfirmed)
    wait_open(connection, 2)
    producer.publish_nowait({}, routing_key='nowhere').result(timeout=SOON)


@pytest.mark.parametrize('stale', ['drop', 'raise'])
def test_stale_acks_stay_here_and_the_broker_delivers_again(rig, proxy, stale):
    connection = rig.connection(proxy, stale_ack=stale)
    told = rig.facts('stale_ack', 'lost')
    bound, held = queue('stale'), []
    consumer = Consumer(connection, [bound], on_message=held.append, prefetch_count=50, accept=['json'])
    consumer.consume()
    producer = rig.control.Producer(exchange=bound.exchange, routing_key='stale')
    for number in range(50):
        producer.publish({'id': number})

    def drain(count):
        while len(held) < count:
            connection.drain_events(timeout=SOON)

    drain(50)
    first = list(held)
    lose(proxy, connection)
    channel = connection.default_channel
    with pytest.raises(connection.connection_errors):
        connection.drain_events(timeout=SOON)  # the notice of the loss
    wires = channel.consuming.wire
    for message in first:
        if stale == 'raise':
            with pytest.raises(StaleDelivery):
                message.ack()
        else:
            message.ack()
    held.clear()
    drain(50)
    assert all(message.delivery_info['redelivered'] for message in held)
    assert sorted(message.payload['id'] for message in held) == list(range(50))
    for message in held:
        message.ack()
    channel.queue_declare('stale', passive=True)  # behind the acks: had one been wrong, this would fail
    assert channel.consuming.wire is wires and wires.error is None
    told.wait('stale_ack', 50)
    consumer.cancel()
    assert rig.messages('stale') == 0


def test_a_consumer_whose_queue_was_deleted_consumes_again(rig):
    connection = rig.connection()
    bound = queue('deleted')
    consuming = Consuming(rig, connection, bound)
    other = Consuming(rig, connection, queue('other'))
    producer = rig.control.Producer()
    stop = []

    def load():
        number = 0
        while not stop:
            for name in ('deleted', 'other'):
                producer.publish({'id': number}, exchange=f'{name}-exchange', routing_key=name)
            number += 1

    loading = rig.spawn(load)
    for _ in range(3):
        consuming.wait_more(1)
        rig.control.default_channel.queue_delete('deleted')
        consuming.wait_more(10)
    stop.append(1)
    loading.get(timeout=SOON)
    wait_until(lambda: len(other.seen) == len(set(other.seen)) == max(other.seen) + 1, SOON,
               'the neighbour to miss nothing')
    assert not other.redelivered


def test_a_consumer_of_a_queue_that_is_not_ours_is_reported_lost(rig):
    strange = rig.control.channel()
    strange.queue_declare('foreign', durable=False, auto_delete=False)
    connection = rig.connection()
    facts = rig.facts('consumer_lost')
    channel = connection.channel()
    channel.basic_consume('foreign', callback=lambda message: None, consumer_tag='mine')
    draining = rig.spawn(outcome, connection.drain_events)
    strange.queue_delete('foreign')
    fact = facts.wait('consumer_lost', seconds=30)[0]
    assert (fact['consumer_tag'], fact['queue']) == ('mine', 'foreign')
    error, _ = draining.get(timeout=SOON)
    assert isinstance(error, ConsumerCancelled), repr(error)


def test_a_program_that_asked_is_told_of_the_cancel_and_nothing_starts_again(rig):
    connection = rig.connection()
    channel, told = connection.channel(), []
    channel.queue_declare('asked', durable=False, auto_delete=False)
    channel.basic_consume('asked', callback=lambda message: None, consumer_tag='mine', on_cancel=told.append)
    rig.control.channel().queue_delete('asked')
    while not told:
        connection.drain_events(timeout=SOON)
    assert told == ['mine']
    assert not channel.consuming.consumers


def test_an_abandoned_connection_is_closed(rig, rabbitmq):
    import gc

    connection = rig.connection(connect=False)
    rig._open.pop_all()  # the rig must not be the one who keeps it
    connection.connect()
    Consumer(connection, [queue('left')], callbacks=[lambda body, message: message.ack()]).consume()
    assert len(rabbitmq.list_connections()) == 1
    del connection
    gc.collect()
    rabbitmq.wait_connections(0)


def test_a_consumer_that_was_restored_is_taken_over_by_who_consumes_again(rig, proxy):
    # kombu's programs consume again after a loss, with the tag they had: oslo.messaging does
    connection = rig.connection(proxy)
    channel, bound, old, new = connection.default_channel, queue('taken-over'), [], []
    bound = bound(channel)
    bound.declare()

    def take(into):
        def callback(delivery):
            message = channel.message_to_python(delivery)
            into.append(message.payload['id'])
            message.ack()

        return callback

    bound.consume('mine', callback=take(old))
    with pytest.raises(ValueError, match='mine'):
        bound.consume('mine', callback=take(new))  # its own, a moment ago
    lose(proxy, connection)
    with pytest.raises(connection.connection_errors):
        connection.drain_events(timeout=SOON)
    bound.consume('mine', callback=take(new))
    for number in range(4):
        connection.Producer().publish({'id': number}, exchange=bound.exchange, routing_key='taken-over')
    while len(new) < 4:
        connection.drain_events(timeout=SOON)
    assert (old, new) == ([], [0, 1, 2, 3])
    assert bound.queue_declare(passive=True).consumer_count == 1
    # and one that asks for something else, once more
    lose(proxy, connection)
    with pytest.raises(connection.connection_errors):
        connection.drain_events(timeout=SOON)
    bound.consume('mine', callback=lambda got: old.append(channel.message_to_python(got).payload['id']),
                  no_ack=True)
    connection.Producer().publish({'id': 4}, exchange=bound.exchange, routing_key='taken-over')
    assert connection.drain_events(timeout=SOON) is None
    assert (old, len(channel.consuming.ledger)) == ([4], 0)  # without acks, as it was asked for now
    assert bound.queue_declare(passive=True).consumer_count == 1


def test_the_first_prefetch_is_told_once_and_zero_is_a_priority(rig, proxy, monkeypatch):
    connection = rig.connection(proxy)
    channel, told = connection.channel(), []
    send = type(channel.consuming)._send_qos
    monkeypatch.setattr(type(channel.consuming), '_send_qos',
                        lambda self, *args: (told.append(args[1]), send(self, *args))[1])
    call = type(channel.consuming).call
    monkeypatch.setattr(type(channel.consuming), 'call',
                        lambda self, method, arguments, *args, **kwargs: (
                            told.append(arguments) if method.signature == (60, 10) else None,
                            call(self, method, arguments, *args, **kwargs))[1])
    channel.basic_qos(0, 7, False)
    assert told == [(0, 7, False)]
    bound = queue('zero')(channel)
    bound.declare()
    connection.Producer().publish({}, exchange=bound.exchange, routing_key='zero')
    assert bound.get(no_ack=True).properties['priority'] == 0
