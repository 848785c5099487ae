"""kombu and greenmq on the same queues: each reads, settles and restores what the other left."""

from __future__ import annotations

import contextlib

import pytest

from greenmq import Connection
from tests.contract.conftest import Bench, text
from tests.support import green
from tests.support.kombu_process import Kombu
from tests.support.process import wait_until

pytest.importorskip('kombu')


@pytest.fixture
def kombu(redis_server):
    peers = []

    def kombu(**options):
        peers.append(Kombu(redis_server.url(), **options))
        return peers[-1]

    yield kombu
    for peer in peers:
        with contextlib.suppress(OSError):
            peer.close()


@pytest.fixture
def lease_timeout():
    return 1


@pytest.fixture
def here(redis_server, lease_timeout):
    options = {'sweep_interval': 0.2, 'visibility_timeout': 2, 'lease_timeout': lease_timeout}
    with Connection(redis_server.url(), transport_options=options) as connection:
        connection.connect()
        yield Bench(connection.channel())


@pytest.fixture
def raw(redis_server):
    with redis_server.client() as client:
        yield client


pytestmark = pytest.mark.slow


def publish_json(bench, body, exchange='', key='', **kwargs):
    producer = bench.client.Producer(serializer='json')
    producer.publish(body, exchange=exchange, routing_key=key, **kwargs)


def test_published_by_kombu_consumed_here(kombu, here, raw):
    there = kombu()
    there.declare('q', 'e', 'topic', 'a.#')
    there.publish({'n': 1, 'word': 'grün'}, 'e', 'a.b.c', 5, {'h': [1, {'x': None}]})
    message = here.get('q')
    assert message.payload == {'n': 1, 'word': 'grün'} and message.headers == {'h': [1, {'x': None}]}
    assert message.delivery_info['exchange'] == 'e' and message.delivery_info['routing_key'] == 'a.b.c'
    assert message.properties['priority'] == 5 and not message.delivery_info['redelivered']
    message.ack()
    wait_until(lambda: not raw.hlen('unacked'), 5, 'the ack')


def test_published_here_consumed_by_kombu(kombu, here, raw):
    here.channel.exchange_declare('e', 'topic')
    here.channel.queue_declare('q')
    here.channel.queue_bind('q', 'e', 'a.*')
    there = kombu()
    there.declare('q', 'e', 'topic', 'a.*')
    publish_json(here, {'n': 1}, 'e', 'a.b', headers={'h': 1}, priority=7)
    publish_json(here, {'n': 2}, 'e', 'a.b')
    first, second = there.get('q'), there.get('q')
    assert first[1:3] == [{'n': 2}, {}], 'priority 0 comes first in Redis'
    assert second[1:3] == [{'n': 1}, {'h': 1}] and second[4] == 7
    there.settle(first[0], 'ack')
    there.settle(second[0], 'requeue')
    again = here.get('q')
    assert again.payload == {'n': 1} and again.delivery_info['redelivered']
    again.ack()
    wait_until(lambda: not raw.hlen('unacked'), 5, 'the acks')


def test_kombu_publishes_by_our_bindings_and_we_by_its(kombu, here):
    there = kombu()
    there.declare('theirs', 'shared', 'direct', 'k')
    here.channel.exchange_declare('shared', 'direct')
    here.channel.queue_declare('ours')
    here.channel.queue_bind('ours', 'shared', 'k')
    there.publish('from kombu', 'shared', 'k')
    publish_json(here, 'from us', 'shared', 'k')
    for queue in ('ours', 'theirs'):
        assert [here.get(queue).payload for _ in range(2)] == ['from kombu', 'from us']


def test_what_a_dead_greenmq_consumer_had_kombu_restores(kombu, here, raw, redis_server):
    there = kombu(visibility_timeout=1)
    publish_json(here, {'n': 1}, key='q')
    assert here.get('q') is not None
    here.client.transport.driver.lease.stop()
    here.client.transport.driver.server.close()
    green.sleep(1.1)
    there.restore()
    found = there.get('q')
    assert found is not None and found[1] == {'n': 1}
    there.settle(found[0], 'ack')
    assert raw.hlen('unacked') == 0 and raw.zcard('unacked_index') == 0


# A lease that a machine under load keeps up, and shorter than kombu's patience.
@pytest.mark.parametrize('lease_timeout', [2])
def test_what_a_living_greenmq_consumer_has_kombu_leaves_alone(kombu, here, raw):
    there = kombu(visibility_timeout=4)
    publish_json(here, {'n': 1}, key='q')
    held = []
    here.consume('q', held.append)
    here.until(lambda: held)
    for _ in range(18):
        green.sleep(0.25)
        there.restore()
    assert raw.llen('q') == 0 and there.get('q') is None
    held[0].ack()
    wait_until(lambda: not raw.hlen('unacked'), 5, 'the ack')


def test_what_a_dead_kombu_worker_had_we_restore_after_the_visibility_timeout(kombu, here, raw):
    there = kombu()
    there.declare('q', 'e', 'direct', 'k')
    there.publish({'n': 1}, 'e', 'k', 4)
    assert there.get('q')[1] == {'n': 1}
    there.vanish()
    seen = []
    here.channel.exchange_declare('e', 'direct')
    here.consume('q', lambda message: (seen.append(message), message.ack()))
    green.sleep(0.4)
    assert not seen, 'a kombu worker may work on it for its visibility timeout'
    here.until(lambda: seen, seconds=5)
    assert seen[0].payload == {'n': 1} and seen[0].delivery_info['redelivered']
    wait_until(lambda: not raw.hlen('unacked') and not raw.zcard('unacked_index'), 5, 'the ack')


def test_what_we_gave_back_kombu_reads(kombu, here):
    there = kombu()
    publish_json(here, {'n': 1}, key='q')
    for _ in range(2):
        here.wait_get('q').requeue()
    wait_until(lambda: here.channel.session.settler.pending == 0, 5, 'the requeue')
    assert there.get('q')[1] == {'n': 1}


def test_fanout_reaches_both(kombu, here):
    there = kombu()
    there.consume('theirs', 'news', 'fanout', '')
    here.channel.exchange_declare('news', 'fanout')
    here.channel.queue_declare('ours')
    here.channel.queue_bind('ours', 'news', '')
    seen = []
    here.consume('ours', lambda message: (seen.append(message.payload), message.ack()))
    publish_json(here, 'from us', 'news')
    there.publish('from kombu', 'news', '')
    here.until(lambda: len(seen) == 2)
    assert sorted(seen) == ['from kombu', 'from us']
    assert sorted(there.drain(0.3)) == ['from kombu', 'from us']


def test_a_prefix_is_the_same_for_both(kombu, redis_server):
    there = kombu(global_keyprefix='app:')
    with Connection(redis_server.url(), transport_options={'global_keyprefix': 'app:'}) as connection:
        here = Bench(connection.channel())
        publish_json(here, 'one', key='q')
        there.publish('two', '', 'q')
        assert there.get('q')[1] == 'one'
        assert text(here.get('q', no_ack=True)) == '"two"'
