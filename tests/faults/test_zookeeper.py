"""Queues in ZooKeeper: sessions that expire, lost replies, a server that dies or stands, kombu beside."""
from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest
from kazoo.exceptions import ConnectionLoss

from greenmq import Connection, Exchange, Queue, events, runtime
from greenmq.exceptions import InvalidArgument, OperationalError, PublishUnconfirmed, Unroutable
from greenmq.transport.zookeeper import driver as driving
from tests.faults.stores import (
    consuming,
    count,
    drain_until,
    forks,
    shares_queues_with_kombu,
    survives,
    takes_are_killed,
    wait_get,
)
from tests.stress import FACTOR
from tests.support import green
from tests.support.kombu_process import Kombu
from tests.support.process import end, popen, wait_until
from tests.support.proxy import Proxy
from tests.support.stores import declare, driver

SHORT = {'session_timeout': 2, 'sweep_interval': 1}

#: Takes a session's id and password, and ends the session as if its time were over: kazoo's own client.
EXPIRE = """
import sys
from kazoo.client import KazooClient
client = KazooClient(sys.argv[1], client_id=(int(sys.argv[2]), bytes.fromhex(sys.argv[3])))
client.start()
client.stop()
"""


def expire(server, connection):
    number, password = driver(connection).nodes.client.client_id
    child = popen([sys.executable, '-c', EXPIRE, f'127.0.0.1:{server.port}', str(number), password.hex()],
                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: child.poll() is not None, 20, 'the end of the session')
    end(child)


# ------------------------------------------------------------------------------------------ what it costs


def test_a_hundred_greenlets_share_packets(zookeeper, zookeeper_url):
    with Connection(zookeeper_url) as connection:
        declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        before = zookeeper.received()
        green.joinall([green.spawn(producer.publish, n) for n in range(100)], raise_error=True)
        assert zookeeper.received() - before <= 10


def test_a_publish_wakes_no_owner(zookeeper, zookeeper_url):
    """Each session hears of the others' ends, and not of what they publish."""
    with Connection(zookeeper_url) as here, Connection(
        zookeeper_url, transport_options={'fetch_ahead': 7}
    ) as there:
        declare(here)
        heard, waiting = [], driver(there).waiting
        tell = waiting.heard
        waiting.heard = lambda event: heard.append(event.path) or tell(event)
        producer = here.Producer(routing_key='q')
        for n in range(5):
            producer.publish(n)
        green.sleep(0.2)
        assert not heard


def test_taking_costs_two_packets_a_message_and_settling_next_to_none(zookeeper, zookeeper_url):
    with Connection(zookeeper_url) as connection:
        declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        green.joinall([green.spawn(producer.publish, n) for n in range(300)], raise_error=True)
        before = zookeeper.received()
        with consuming(connection, prefetch_count=100) as seen:
            drain_until(connection, lambda: len(seen) == 300)
        assert sorted(seen) == list(range(300))
        assert zookeeper.received() - before <= 660


@pytest.mark.slow
def test_an_idle_consumer_asks_nothing(zookeeper, zookeeper_url):
    with Connection(zookeeper_url) as connection:
        declare(connection)
        with consuming(connection):
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=0.5)
            before = zookeeper.received()
            with pytest.raises(TimeoutError):
                connection.drain_events(timeout=2)
            assert zookeeper.received() - before <= 3  # this question, and a ping


@pytest.mark.parametrize('tree_watches', [True, False])
def test_a_publish_elsewhere_wakes_who_waits(zookeeper_url, monkeypatch, tree_watches):
    """Also with the watches of servers before 3.6."""
    begin = driving.ZooKeeperDriver.__init__

    def made(self, *args):
        begin(self, *args)
        self.waiting.tree_watches = tree_watches

    monkeypatch.setattr(driving.ZooKeeperDriver, '__init__', made)
    with Connection(zookeeper_url) as here, Connection(
        zookeeper_url, transport_options={'fetch_ahead': 7}
    ) as there:
        declare(here)
        with consuming(here) as seen:
            with pytest.raises(TimeoutError):
                here.drain_events(timeout=0.2)
            producer = there.Producer(routing_key='q', serializer='json')
            for n in range(3):
                producer.publish(n)
                drain_until(here, lambda n=n: len(seen) > n)
        assert seen == [0, 1, 2]


def test_a_queue_may_be_consumed_before_it_is_made(zookeeper_url):
    with Connection(zookeeper_url) as here, Connection(
        zookeeper_url, transport_options={'fetch_ahead': 7}
    ) as there:
        with consuming(here, auto_declare=False) as seen:
            with pytest.raises(TimeoutError):
                here.drain_events(timeout=0.2)
            with pytest.raises(Unroutable):
                there.Producer(routing_key='q').publish('x', mandatory=True, retry=False)
            declare(there)
            there.Producer(routing_key='q', serializer='json').publish('y')
            drain_until(here, lambda: seen == ['y'])


def test_bindings_made_elsewhere_are_known_at_once(zookeeper_url):
    exchange = Exchange('x', type='topic')
    with Connection(zookeeper_url) as here, Connection(
        zookeeper_url, transport_options={'fetch_ahead': 7}
    ) as there:
        producer = here.Producer(exchange=exchange, serializer='json')
        producer.publish('nobody', routing_key='a.b')
        # Ten at once: none overwrites another
        queues = [Queue(f'q{n}', exchange, routing_key='a.#')(there.channel()) for n in range(10)]
        green.joinall([green.spawn(queue.declare) for queue in queues], raise_error=True)
        producer.publish('all', routing_key='a.b')
        assert [Queue(f'q{n}')(there.default_channel).get().payload for n in range(10)] == ['all'] * 10


def test_queues_with_a_life_of_their_own_end(zookeeper_url):
    with Connection(zookeeper_url, transport_options={'sweep_interval': 0.3}) as connection:
        declare(connection, 'brief', queue_arguments={'x-expires': 500})
        declare(connection, 'lasting')
        names = lambda: [queue['name'] for queue in connection.get_manager().get_queues()]  # noqa: E731
        assert names() == ['brief', 'lasting']
        wait_until(lambda: names() == ['lasting'], 20, 'the end of the queue')


# ---------------------------------------------------------------------------------------- bad input


def test_what_does_not_fit_is_refused_before_it_is_sent(zookeeper_url):
    with Connection(zookeeper_url) as connection:
        bound = declare(connection)
        producer = connection.Producer(routing_key='q')
        with pytest.raises(InvalidArgument, match='1048063|1,048,063'):
            producer.publish('x' * 800_000)  # a third more in base64
        producer.publish('x' * 700_000)
        assert len(bound.get().payload) == 700_000
        assert driver(connection).nodes.client.connected


@pytest.mark.parametrize('name', ['/elsewhere', 'a//b', '..', '.greenmq/o'])
def test_a_name_that_leads_elsewhere_is_refused(zookeeper_url, name):
    with Connection(zookeeper_url) as connection, pytest.raises(InvalidArgument):
        connection.default_channel.queue_declare(queue=name)


@pytest.mark.parametrize('option', ['auth=digest', 'acl=all', 'session_timeout=-1'])
def test_a_bad_option_is_refused_by_name(zookeeper_url, option):
    with pytest.raises(InvalidArgument, match=option.partition('=')[0]):
        Connection(f'{zookeeper_url}?{option}').connect()


def test_rights_of_the_creator_alone(zookeeper, zookeeper_url):
    with Connection(f'{zookeeper_url}?acl=creator&auth=digest:me:secret') as connection:
        bound = declare(connection)
        connection.Producer(routing_key='q').publish('x')
        with Connection(zookeeper_url) as stranger:
            with pytest.raises(OperationalError, match='NoAuth'):
                stranger.Producer(routing_key='q').publish('x', retry=False)
        assert bound.get().payload == 'x'
    assert 'secret' not in repr(connection) + connection.as_uri()


def test_tls(zookeeper, zookeeper_url, certificates):
    url = zookeeper_url.replace(f'127.0.0.1:{zookeeper.port}', f'localhost:{zookeeper.tls_port}')
    with Connection(url, ssl={'ca_certs': str(certificates.ca)}) as connection:
        bound = declare(connection)
        connection.Producer(routing_key='q').publish('x')
        assert bound.get().payload == 'x'
    with pytest.raises(OSError), Connection(url, ssl=True, connect_timeout=2) as connection:
        connection.connect()


# ------------------------------------------------------------------------------------------ what breaks


@pytest.mark.slow
@pytest.mark.faults
def test_a_session_that_expires_loses_what_it_held_and_nothing_else(zookeeper, zookeeper_url):
    with Connection(zookeeper_url) as here, Connection(
        zookeeper_url, transport_options={'fetch_ahead': 7}
    ) as there:
        bound, lost = declare(here), []
        here.Producer(routing_key='q').publish('x')
        held = bound.get()
        listening = events.subscribe('stale_ack', lost.append)
        expire(zookeeper, here)
        again = wait_get(Queue('q')(there.default_channel))
        assert again.headers['x-delivery-count'] == 1 and again.delivery_info['redelivered']
        here.default_channel.connection.client.ensure_connection(timeout=10)
        held.ack()
        wait_until(lambda: lost, 10, 'the word that it was too late')
        listening.cancel()
        again.requeue()
        assert wait_get(Queue('q')(here.default_channel)).headers['x-delivery-count'] == 2


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.green_timeout(200)
def test_sessions_that_expire_while_many_work(zookeeper, zookeeper_url):
    with Connection(zookeeper_url, transport_options=SHORT) as first:
        survives(zookeeper_url, lambda: expire(zookeeper, first), 12 if FACTOR > 1 else 2, SHORT)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.green_timeout(200)
def test_a_server_that_is_killed_and_comes_back(zookeeper, zookeeper_url):
    survives(zookeeper_url, zookeeper.restart, 12 if FACTOR > 1 else 2, SHORT)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.green_timeout(200)
def test_a_server_that_stands_still_for_longer_than_a_session(zookeeper, zookeeper_url):
    def freeze():
        zookeeper.pause()
        try:
            green.sleep(3)
        finally:
            zookeeper.resume()

    survives(zookeeper_url, freeze, 1, SHORT, timeout=20)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.green_timeout(200)
def test_a_hub_that_stood_still_for_longer_than_a_session(zookeeper_url):
    """One clean session after it: what was held is somebody else's then, and nobody is deaf."""
    def burn():
        end = time.monotonic() + 1.5 * SHORT['session_timeout']
        while time.monotonic() < end:
            pass

    survives(zookeeper_url, burn, 3 if FACTOR > 1 else 1, SHORT, timeout=20)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.green_timeout(200)
def test_a_server_that_lost_its_data(zookeeper, zookeeper_url):
    """The old session is asked for no longer than it may live; then queues are declared anew."""
    with Connection(zookeeper_url, transport_options=SHORT) as connection:
        declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        with consuming(connection) as seen:
            producer.publish('before')
            drain_until(connection, lambda: seen == ['before'])
            zookeeper.kill()
            shutil.rmtree(zookeeper.directory / 'data')
            zookeeper.start()
            wait_until(lambda: _published(producer, 'after'), 40, 'a publish')
            with green.Timeout(40):
                while 'after' not in seen:
                    try:
                        connection.drain_events(timeout=1)
                    except (TimeoutError, *connection.connection_errors):
                        continue


def _published(producer, body):
    try:
        producer.publish(body, timeout=1)
    except OperationalError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.green_timeout(200)
def test_replies_that_are_lost(zookeeper, zookeeper_url):
    """Cut after n bytes of replies, for n after n: each message comes once, whatever was on its way."""
    with Proxy(zookeeper.port) as proxy:
        url = zookeeper_url.replace(str(zookeeper.port), str(proxy.port))
        with Connection(url, transport_options={'session_timeout': 20}) as connection:
            bound = declare(connection)
            producer = connection.Producer(routing_key='q', serializer='json')
            total = 60 if FACTOR > 1 else 12
            for n in range(total):
                proxy.half(1 + 37 * n % 400, 'down', 'cut')
                producer.publish(n, timeout=20)
                proxy.heal()
            wait_until(lambda: _size(bound) == total, 20, 'the messages')
            seen = []
            for n in range(total):
                proxy.half(1 + 53 * n % 400, 'down', 'cut')
                message = _get(bound)
                seen.append(message.payload)
                proxy.heal()
                _again(connection, message.ack)
            connection.transport.session.settler.wait(runtime.Deadline.after(20))
            assert seen == list(range(total))
            assert _size(bound) == 0
            claims = driver(connection).nodes.layout.claims
            wait_until(lambda: _again(connection, lambda: driver(connection).nodes.children(
                f'{claims}/q', runtime.Deadline.after(5))) == [], 20, 'no claim to be left')


@pytest.mark.slow
@pytest.mark.faults
def test_a_sweep_that_is_cut_keeps_nobody_from_sweeping(zookeeper, zookeeper_url):
    """The mark of who sweeps lives as long as his session does: whoever left it there takes it away."""
    still = {'sweep_interval': 0}
    with Proxy(zookeeper.port) as proxy, Connection(
        zookeeper_url.replace(str(zookeeper.port), str(proxy.port)),
        transport_options={**still, 'session_timeout': 30},
    ) as here, Connection(zookeeper_url, transport_options=still) as there:
        bound = declare(there)
        here.connect()
        cut, nodes = driver(here), driver(there).nodes
        me = cut.nodes.member
        for each in (cut, driver(there)):
            each._sweep.join(10)
            each.ping(runtime.Deadline.after(10))  # what the sweep sent last has arrived

        def marked():
            return nodes.stat(nodes.layout.sweeper, runtime.Deadline.after(10)) is not None

        def sweep():
            with pytest.raises(ConnectionLoss):
                cut.sweep(runtime.Deadline.after(20))

        assert not marked()
        proxy.blackhole('down')
        sweeping = green.spawn(sweep)
        wait_until(marked, 10, 'the mark')
        proxy.refuse()
        proxy.cut()
        sweeping.get()
        there.Producer(routing_key='q').publish('x')
        with Connection(zookeeper_url, transport_options={**still, 'fetch_ahead': 7}) as dying:
            Queue('q')(dying.channel()).get()
            expire(zookeeper, dying)
            proxy.heal()
            proxy.accept()
            assert wait_get(bound).payload == 'x'
        assert cut.nodes.member is me  # its session lives on
        wait_until(lambda: not marked(), 10, 'the end of the mark')


@pytest.mark.slow
@pytest.mark.faults
def test_who_dies_while_others_are_swept_is_swept_too(zookeeper, zookeeper_url, monkeypatch):
    """A sweep that has looked at who lives sees no end that comes after."""
    still = {'sweep_interval': 0}
    looked, held = green.Event(), green.Event()
    with Connection(zookeeper_url, transport_options=still) as here, Connection(
        zookeeper_url, transport_options={**still, 'fetch_ahead': 7}
    ) as dying:
        bound = declare(here)
        driver(here)._sweep.join(10)
        here.Producer(routing_key='q').publish('x')
        Queue('q')(dying.channel()).get()
        sweeping = driver(here).sweeping
        give_back = sweeping._give_back

        def hold(deadline):
            give_back(deadline)
            if not looked.is_set():
                looked.set()
                assert held.wait(20)

        monkeypatch.setattr(sweeping, '_give_back', hold)
        driver(here)._sweep_soon()
        assert looked.wait(10)
        expire(zookeeper, dying)
        nodes = driver(here).nodes
        wait_until(lambda: driver(here).sweep_again, 10, 'the word of its end')
        assert nodes.children(nodes.layout.claims, runtime.Deadline.after(10))
        held.set()
        assert wait_get(bound).payload == 'x'


def _again(connection, fun):
    while True:
        try:
            return fun()
        except connection.connection_errors:
            green.sleep(0.02)


def _size(bound):
    return _again(bound.channel.connection.client, lambda: count(bound))


def _get(bound):
    return wait_until(lambda: _again(bound.channel.connection.client, bound.get), 20, 'a message')


@pytest.mark.faults
def test_a_killed_take_gives_back_what_it_took(zookeeper_url):
    takes_are_killed(zookeeper_url)


@pytest.mark.faults
def test_publishes_that_are_killed_or_late_leave_the_next_ones_alone(zookeeper, zookeeper_url):
    """What is known of the version that each publish raises must not depend on who reads his reply."""
    with Connection(zookeeper_url) as connection:
        bound = declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        safe = 0
        for turn in range(20):
            task = green.spawn(producer.publish, turn)
            green.sleep(0.0004 * turn)
            task.kill()
            producer.publish(turn, timeout=20)
            safe += 1
        zookeeper.pause()
        try:
            green.sleep(0.1)
            with pytest.raises(PublishUnconfirmed):
                producer.publish('late', timeout=0.1)
        finally:
            zookeeper.resume()
        producer.publish('after', timeout=20)
        assert safe + 1 <= count(bound) <= 2 * safe + 2


@pytest.mark.own_process
@pytest.mark.slow
def test_a_forked_child_leaves_the_parents_session_alone(zookeeper_url):
    assert forks(zookeeper_url) == '3 3\n'


# ------------------------------------------------------------------------------------------ kombu beside


@pytest.mark.slow
def test_kombu_and_greenmq_share_queues(zookeeper_url):
    shares_queues_with_kombu(zookeeper_url)


@pytest.mark.slow
def test_kombu_and_greenmq_consume_one_queue(zookeeper_url):
    total = 60
    with Kombu(zookeeper_url) as kombu, Connection(zookeeper_url) as connection:
        declare(connection)
        producer = connection.Producer(routing_key='q', serializer='json')
        green.joinall([green.spawn(producer.publish, n) for n in range(total)], raise_error=True)
        theirs = []
        with consuming(connection, prefetch_count=1) as ours:
            while len(ours) + len(theirs) < total:
                got = kombu.get('q')
                if got is not None:
                    theirs.append(got[1])
                    kombu.settle(got[0], 'ack')
                if len(ours) + len(theirs) < total:
                    try:
                        connection.drain_events(timeout=0.05)
                    except TimeoutError:
                        continue
        assert sorted(ours + theirs) == list(range(total))
