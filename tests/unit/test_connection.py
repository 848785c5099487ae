"""Connection over a transport that is a few lines long: dialling, losing, closing, trying again."""
import copy
import pickle
import socket

import pytest

from greenmq import events, runtime
from greenmq.connection import Connection, PooledConnection, is_connection, maybe_channel
from greenmq.exceptions import (
    ConnectionClosed,
    ConnectionLost,
    InvalidArgument,
    OperationalError,
    PublishUnconfirmed,
    TimeoutError,
    UnknownOption,
    WrongHub,
)
from greenmq.transport.base import StdChannel, Transport
from tests.support import green


class Channel(StdChannel):
    closed = False

    def __init__(self, connection):
        self.connection = connection

    def close(self):
        self.closed = True


class Link:
    """What the transport opens: alive until the test says otherwise."""

    def __init__(self):
        self.alive = True


class Server:
    """What the transport talks to: how often it was dialled, what it answers, how long that takes."""

    def __init__(self):
        self.dials = []
        self.failures = []
        self.links = []
        self.closed = []
        self.gate = None
        self.closing_gate = None


class FakeTransport(Transport):
    default_port = 1234
    driver_type = 'fake'
    recoverable_channel_errors = (KeyError,)

    @property
    def server(self):
        return self.client.server

    def establish_connection(self):
        self.server.dials.append(self.client.hostname)
        if self.server.gate is not None:
            self.server.gate.wait()
        if self.server.failures:
            raise self.server.failures.pop(0)
        link = Link()
        self.server.links.append(link)
        return link

    def verify_connection(self, connection):
        return connection.alive

    def close_connection(self, connection):
        if self.server.closing_gate is not None:
            self.server.closing_gate.wait()
        connection.alive = False
        self.server.closed.append(connection)

    def create_channel(self, connection):
        return Channel(connection)

    @property
    def default_connection_params(self):
        return {'port': self.default_port, 'hostname': 'localhost', 'userid': 'guest'}


class Started:
    """A call in a greenlet of its own, and how it ended: `value` or `exception`."""

    def __init__(self, fun, *args, **kwargs):
        self.value = self.exception = None
        self.greenlet = green.spawn(self.run, fun, args, kwargs)

    def run(self, fun, args, kwargs):
        try:
            self.value = fun(*args, **kwargs)
        except BaseException as exc:
            self.exception = exc

    def get(self):
        self.greenlet.join()
        if self.exception is not None:
            raise self.exception
        return self.value


def join(tasks):
    green.joinall([task.greenlet for task in tasks])


def make(hostname=None, **kwargs):
    kwargs.setdefault('transport', FakeTransport)
    connection = Connection(hostname, **kwargs)
    connection.server = Server()
    return connection


@pytest.fixture
def connection():
    connection = make()
    yield connection
    connection.server.gate = connection.server.closing_gate = None
    connection.close()


def lost():
    return ConnectionLost('the broker went away')


class Revivable:
    def __init__(self):
        self.channels = []

    def revive(self, channel):
        self.channels.append(channel)


class TestParameters:

    @pytest.mark.parametrize(('url', 'expected'), [
        ('memory://', {'transport_cls': 'memory', 'hostname': 'localhost', 'virtual_host': '/'}),
        ('amqp://u:p@h:1/v',
         {'hostname': 'h', 'userid': 'u', 'password': 'p', 'port': 1, 'virtual_host': 'v'}),
        ('amqp://h//', {'hostname': 'h', 'virtual_host': '/'}),
        ('somehost', {'hostname': 'somehost', 'transport_cls': 'amqp'}),
        ('somehost:44', {'hostname': 'somehost', 'port': 44}),
        ('amqp://h?heartbeat=7&connect_timeout=2.5', {'heartbeat': 7.0, 'connect_timeout': 2.5}),
        ('sqla+sqlite:///x.db', {'hostname': 'sqla+sqlite:///x.db', 'uri_prefix': 'sqla'}),
    ])
    def test_a_url_becomes_attributes(self, url, expected):
        found = Connection(url)
        assert {name: getattr(found, name) for name in expected} == expected

    def test_the_query_becomes_options_of_their_type(self):
        assert Connection('memory://?close_timeout=2').transport_options == {'close_timeout': 2.0}

    @pytest.mark.parametrize('scheme', ['memory', 'amqp', 'redis', 'file', 'sqla+sqlite', 'pgmq'])
    def test_the_time_to_connect_is_also_an_option_on_every_transport(self, scheme):
        given = Connection(f'{scheme}:///x', connect_timeout=7, transport_options={'connect_timeout': '2'})
        assert given.connect_timeout == 2.0 and given.clone().connect_timeout == 2.0
        assert Connection(f'{scheme}:///x', connect_timeout=7).connect_timeout == 7
        with pytest.raises(InvalidArgument, match='connect_timeout'):
            Connection(f'{scheme}:///x', transport_options={'connect_timeout': 'soon'})

    def test_a_bad_option_is_refused_before_anything_is_opened(self):
        with pytest.raises(InvalidArgument, match='close_timeout'):
            Connection('memory://?close_timeout=soon')
        with pytest.raises(UnknownOption, match='close_timeout'):
            Connection('memory://', transport_options={'strict_options': True, 'close_timout': 1})
        with pytest.raises(InvalidArgument, match='heartbeat'):
            Connection('memory://?heartbeat=often')

    def test_a_url_wins_over_keywords_which_fill_what_it_leaves_out(self):
        found = Connection('amqp://a:b@h', userid='u', password='p', port=9, virtual_host='w')
        assert (found.userid, found.password, found.port, found.virtual_host) == ('a', 'b', 9, 'w')

    def test_options_are_copied(self):
        given = {'client_properties': {'a': [1]}}
        found = Connection('memory://', transport_options=given)
        found.transport_options['client_properties']['a'].append(2)
        assert given == {'client_properties': {'a': [1]}}

    @pytest.mark.parametrize(('given', 'kept'), [(None, None), (0, 0), (4, 4.0), ('2', 2.0)])
    def test_heartbeat_none_is_the_brokers_proposal_and_0_is_off(self, given, kept):
        assert Connection('amqp://', heartbeat=given).heartbeat == kept

    def test_as_uri_masks_the_password(self):
        found = Connection('amqp://u:secret@h:1/v')
        assert found.as_uri() == 'amqp://u:**@h:1/v'
        assert found.as_uri(include_password=True) == 'amqp://u:secret@h:1/v'
        assert 'secret' not in repr(found)

    @pytest.mark.parametrize('hosts', [
        'amqp://u:p@a:1//;amqp://b', ['amqp://u:p@a:1//', 'amqp://b'],
    ])
    def test_several_hosts(self, hosts):
        found = Connection(hosts)
        assert found.alt == ['amqp://u:p@a:1//', 'amqp://b']
        found.maybe_switch_next()
        # the second host gets neither password nor port of the first
        assert (found.hostname, found.userid, found.password, found.port) == ('b', None, None, None)
        found.maybe_switch_next()
        assert (found.hostname, found.password) == ('a', 'p')

    def test_alternates(self):
        found = Connection('amqp://a', alternates=['amqp://b', 'amqp://c'])
        seen = []
        for _ in range(4):
            seen.append(found.hostname)
            found.maybe_switch_next()
        assert seen == ['a', 'b', 'c', 'a']

    def test_one_host_has_nowhere_to_go(self):
        found = Connection('amqp://a')
        found.maybe_switch_next()
        assert found.hostname == 'a' and found.cycle is None

    def test_strategies(self):
        found = Connection('amqp://a;amqp://b;amqp://c', failover_strategy=lambda hosts: reversed(hosts))
        found.maybe_switch_next()
        assert found.hostname == 'c'
        shuffled = Connection('amqp://a;amqp://b', failover_strategy='shuffle')
        assert next(shuffled.cycle) in shuffled.alt
        with pytest.raises(InvalidArgument, match='failover_strategy'):
            Connection('amqp://a;amqp://b', failover_strategy='by luck')

    def test_completes_cycle(self):
        two = Connection('amqp://a;amqp://b')
        assert [two.completes_cycle(n) for n in range(4)] == [False, True, False, True]
        assert Connection('amqp://a').completes_cycle(0)

    @pytest.mark.parametrize('copied', [
        lambda c: pickle.loads(pickle.dumps(c)), copy.copy, lambda c: c.clone(),
    ], ids=['pickle', 'copy', 'clone'])
    def test_copies_have_the_same_settings(self, copied):
        options = {'close_timeout': 1}
        found = Connection(['amqp://u:p@a:1//', 'amqp://b'], heartbeat=3, transport_options=options)
        found.maybe_switch_next()
        other = copied(found)
        assert other.info() == found.info()
        other.maybe_switch_next()
        assert other.hostname == 'a'

    def test_clone_changes_what_it_is_told(self):
        assert Connection('amqp://h', heartbeat=1).clone(heartbeat=4).heartbeat == 4.0

    def test_eqhash_is_equal_for_equal_settings(self):
        one, two = Connection('amqp://h'), Connection('amqp://h')
        assert one.__eqhash__() == two.__eqhash__() and hash(one.__eqhash__()) == hash(two.__eqhash__())
        assert one.__eqhash__() != Connection('amqp://g').__eqhash__()

    def test_an_unknown_transport_is_named_when_it_is_used(self):
        with pytest.raises(KeyError, match='carrierpigeon'):
            Connection('carrierpigeon://h').connect()

    def test_an_unknown_keyword_is_logged_once(self, caplog):
        for _ in range(2):
            Connection('memory://', hertbeat=3)
        assert len([r for r in caplog.records if 'heartbeat' in r.getMessage()]) == 1

    def test_info_has_the_transports_defaults(self, connection):
        assert connection.info()['port'] == 1234 and connection.info()['userid'] == 'guest'
        assert connection.host == 'localhost:1234'


class TestOpening:

    def test_it_is_lazy(self, connection):
        assert not connection.connected
        assert connection.heartbeat_check() is None
        assert connection.server.dials == []

    def test_connect_returns_the_connection(self, connection):
        assert connection.connect() is connection
        assert connection.connected and connection.connection is connection.server.links[0]
        assert connection.connect().epoch == 1

    def test_ensure_connection_works_in_a_with(self, connection):
        with connection.ensure_connection(max_retries=1) as same:
            assert same is connection and same.connected
        assert not connection.connected

    def test_greenlets_that_connect_at_once_share_one_dial(self, connection):
        connection.server.gate = runtime.Event()
        tasks = [Started(connection.connect) for _ in range(20)]
        green.sleep(0)
        assert connection.server.dials == ['localhost']
        connection.server.gate.set()
        [task.get() for task in tasks]
        assert connection.server.dials == ['localhost'] and connection.epoch == 1

    def test_they_share_its_failure_too(self, connection):
        connection.server.gate = runtime.Event()
        connection.server.failures = [lost()]
        tasks = [Started(connection.ensure_connection, max_retries=0) for _ in range(20)]
        green.sleep(0)
        connection.server.gate.set()
        join(tasks)
        assert {type(task.exception) for task in tasks} == {OperationalError}
        assert len(connection.server.dials) == 1

    @pytest.mark.parametrize('how', [green.GreenletExit, green.Timeout])
    def test_a_dialler_that_is_cut_leaves_its_place_to_the_next(self, connection, how):
        connection.server.gate = runtime.Event()
        first, second = Started(connection.connect), Started(connection.connect)
        green.sleep(0)
        first.greenlet.kill(how(), block=False)
        green.sleep(0)
        green.sleep(0)
        assert len(connection.server.dials) == 2
        connection.server.gate.set()
        second.get()
        assert connection.connected and connection.epoch == 1
        assert isinstance(first.exception, how)

    def test_a_waiter_that_is_killed_does_not_matter(self, connection):
        connection.server.gate = runtime.Event()
        first, second = Started(connection.connect), Started(connection.connect)
        green.sleep(0)
        second.greenlet.kill()
        connection.server.gate.set()
        first.get()
        assert connection.connected

    def test_somebody_elses_short_deadline_is_not_ours(self, connection):
        # Given a dialler that has hardly any time, and one with plenty behind it
        connection.server.gate = runtime.Event()
        connection.server.failures = [TimeoutError('too slow')]
        hasty = Started(connection._ensure_connection, max_retries=0, timeout=0.5)
        patient = Started(connection._ensure_connection, max_retries=0, timeout=60)
        green.sleep(0)
        # When the attempt times out
        connection.server.gate.set()
        join([hasty, patient])
        # Then only the one whose time was too short fails
        assert isinstance(hasty.exception, OperationalError)
        assert patient.value is connection.server.links[0]

    def test_a_waiter_has_its_own_deadline(self, connection):
        connection.server.gate = runtime.Event()
        first = Started(connection.connect)
        green.sleep(0)
        with pytest.raises(OperationalError) as caught:
            connection.ensure_connection(timeout=0.01)
        assert isinstance(caught.value.__cause__, TimeoutError)
        connection.server.gate.set()
        first.get()

    def test_the_transport_can_see_the_deadline(self, connection):
        seen = []
        establish = FakeTransport.establish_connection
        connection.connect_timeout = 3

        class Looking(FakeTransport):
            def establish_connection(self):
                seen.append(self.client.connect_deadline.remaining())
                return establish(self)

        connection.transport_cls = Looking
        connection.connect()
        assert 0 < seen[0] <= 3 and connection.connect_deadline is None

    def test_errors_of_connect_are_the_transports(self, connection):
        connection.server.failures = [lost(), lost()]
        with pytest.raises(ConnectionLost):
            connection._ensure_connection(max_retries=1, interval_start=0, reraise_as_library_errors=False)
        assert len(connection.server.dials) == 2

    def test_an_error_that_is_not_recoverable_is_not_retried(self, connection):
        connection.server.failures = [ValueError('bug')]
        with pytest.raises(ValueError):
            connection.ensure_connection()
        assert len(connection.server.dials) == 1

    @pytest.mark.parametrize(('retries', 'dials'), [(0, 1), (1, 2), (3, 4)])
    def test_max_retries_counts_as_kombu(self, connection, retries, dials):
        connection.server.failures = [lost() for _ in range(10)]
        with pytest.raises(OperationalError) as caught:
            connection.ensure_connection(max_retries=retries, interval_start=0, interval_step=0)
        assert isinstance(caught.value.__cause__, ConnectionLost)
        assert len(connection.server.dials) == dials

    def test_errback_gets_the_error_and_the_interval(self, connection):
        failures = connection.server.failures = [lost(), lost(), lost()]
        errors, seen = list(failures), []
        connection.ensure_connection(
            lambda exc, interval: seen.append((exc, interval)),
            interval_start=0, interval_step=0.001, interval_max=5,
        )
        assert seen == [(errors[0], 0.0), (errors[1], 0.001), (errors[2], 0.002)]

    def test_each_host_is_tried_before_a_pause(self):
        found = make(['fakehost1', 'fakehost2', 'fakehost3'])
        found.server.failures = [lost() for _ in range(4)]
        seen = []
        found.ensure_connection(
            lambda exc, interval: seen.append((found.hostname, interval)), interval_start=0.001
        )
        assert found.server.dials == ['fakehost1', 'fakehost2', 'fakehost3', 'fakehost1', 'fakehost2']
        # the error handler still sees the host that failed
        assert seen == [('fakehost1', 0), ('fakehost2', 0), ('fakehost3', 0.001), ('fakehost1', 0)]
        found.close()

    def test_greenlets_that_share_a_failure_skip_no_host(self):
        found = make(['fakehost1', 'fakehost2', 'fakehost3'])
        found.server.failures = [lost()]
        found.server.gate = runtime.Event()
        tasks = [Started(found.connect) for _ in range(5)]
        green.sleep(0)
        found.server.gate.set()
        [task.get() for task in tasks]
        assert found.server.dials == ['fakehost1', 'fakehost2']
        found.close()

    def test_connect_tries_all_hosts(self):
        found = make(['fakehost1', 'fakehost2', 'fakehost3'])
        found.server.failures = [lost(), lost()]
        assert found.connect().hostname == 'fakehost3'
        found.close()

    def test_a_callback_can_end_the_pause(self, connection):
        class Stop(Exception):
            pass

        def stop():
            raise Stop

        connection.server.failures = [lost()]
        with pytest.raises(Stop):
            connection.ensure_connection(callback=stop)

    def test_the_default_channel_is_opened_once(self, connection):
        channels = [Started(lambda: connection.default_channel) for _ in range(5)]
        join(channels)
        assert {task.value for task in channels} == {connection.default_channel}
        assert maybe_channel(connection) is connection.default_channel
        assert is_connection(connection)

    def test_a_closed_default_channel_is_replaced(self, connection):
        old = connection.default_channel
        old.close()
        assert connection.default_channel is not old

    def test_a_publish_connects_within_its_own_deadline(self, connection):
        connection.server.failures = [lost() for _ in range(100000)]
        connection.transport_options.update(interval_start=0.02, interval_step=0)
        with pytest.raises(OperationalError) as caught:
            connection.Producer().publish('x', routing_key='q', timeout=0.3)
        assert isinstance(caught.value.__cause__, ConnectionLost)
        assert 1 < len(connection.server.dials) < 30

    def test_the_default_channel_follows_the_options(self):
        found = make(transport_options={'max_retries': 1, 'interval_start': 0, 'interval_step': 0})
        found.server.failures = [lost() for _ in range(5)]
        with pytest.raises(OperationalError):
            maybe_channel(found)
        assert len(found.server.dials) == 2

    def test_revive_lets_go_of_the_default_channel(self, connection):
        old = connection.default_channel
        connection.revive(connection.channel())
        assert old.closed and connection.default_channel is not old

    def test_another_threads_hub_is_refused(self, connection):
        connection.default_channel.close()
        assert not connection.default_channel.closed

        def use():
            with pytest.raises(WrongHub):
                connection.connect()
            with pytest.raises(WrongHub):
                connection.channel()
            with pytest.raises(WrongHub):
                maybe_channel(connection)
            with pytest.raises(WrongHub):
                connection.drain_events(timeout=0)
            return True

        assert green.in_thread(use)


class TestClosing:

    def test_it_is_idempotent(self, connection):
        connection.connect()
        connection.close()
        connection.close()
        connection.release()
        assert connection.server.closed == connection.server.links
        assert not connection.connected and connection.connection is None

    def test_after_close_only_an_explicit_open_opens(self, connection):
        connection.connect()
        connection.close()
        with pytest.raises(ConnectionClosed):
            connection.channel()
        with pytest.raises(ConnectionClosed):
            connection.drain_events()
        assert connection.connect().connected and connection.epoch == 2

    def test_what_was_declared_is_forgotten(self, connection):
        connection.connect()
        connection.declared_entities.add('q')
        connection.close()
        assert connection.declared_entities == set()

    def test_who_waits_for_it_to_open_is_told(self, connection):
        connection.server.gate = runtime.Event()
        tasks = [Started(connection.connect) for _ in range(3)]
        green.sleep(0)
        connection.close()
        green.sleep(0)
        green.sleep(0)
        # those behind the dialler at once, the dialler when its attempt ends
        assert [type(task.exception) for task in tasks[1:]] == [ConnectionClosed, ConnectionClosed]
        connection.server.gate.set()
        join(tasks[:1])
        assert isinstance(tasks[0].exception, ConnectionClosed)
        green.sleep(0)
        green.sleep(0)
        assert connection.server.closed == connection.server.links and not connection.connected

    def test_it_ends_recovery(self, connection):
        connection.server.failures = [lost() for _ in range(3)]
        failed = runtime.Event()
        task = Started(connection.ensure_connection, lambda exc, interval: failed.set(), interval_start=60)
        failed.wait()
        green.sleep(0)
        connection.close()
        join([task])
        assert isinstance(task.exception, ConnectionClosed)

    def test_who_pauses_is_woken_by_somebody_elses_success(self, connection):
        connection.server.failures = [lost()]
        failed = runtime.Event()
        task = Started(connection.ensure_connection, lambda exc, interval: failed.set(), interval_start=60)
        failed.wait()
        green.sleep(0)
        connection.connect()
        task.get()
        assert len(connection.server.dials) == 2

    def test_a_silent_broker_does_not_hold_it(self, connection, caplog):
        connection.transport_options['close_timeout'] = 0.01
        connection.connect()
        connection.server.closing_gate = runtime.Event()
        connection.close()
        assert not connection.connected and 'abandoned' in caplog.text

    def test_closing_in_time_leaves_no_timer(self, connection, monkeypatch):
        timers = []
        call_later = runtime.call_later
        monkeypatch.setattr(
            runtime, 'call_later', lambda *args: timers.append(call_later(*args)) or timers[-1]
        )
        for close in (connection.close, connection.collect, lambda: connection.collect(socket_timeout=0)):
            connection.connect()
            close()
        green.sleep(0)
        green.sleep(0)
        assert [timer.active for timer in timers] == [False] * 3

    def test_a_kill_of_the_closer_closes_all_the_same(self, connection):
        connection.connect()
        connection.server.closing_gate = runtime.Event()
        closer = Started(connection.close)
        green.sleep(0)
        closer.greenlet.kill()
        connection.server.closing_gate.set()
        green.sleep(0)
        green.sleep(0)
        assert connection.server.closed == connection.server.links

    def test_collect_does_not_wait_and_the_next_use_opens(self, connection):
        connection.connect()
        connection.server.closing_gate = runtime.Event()
        connection.collect(socket_timeout=0)
        assert not connection.connected
        assert connection.channel() is not None and connection.epoch == 2
        connection.server.closing_gate.set()

    def test_a_with_closes(self, connection):
        with connection:
            connection.connect()
        assert not connection.connected

    def test_switch_closes_and_goes_elsewhere(self, connection):
        connection.connect()
        connection.switch('elsewhere')
        assert not connection.connected
        connection.connect()
        assert connection.server.dials == ['localhost', 'elsewhere']

    def test_a_forked_child_has_no_connection(self, connection):
        connection.connect()
        connection.opener.after_fork()
        assert not connection.connected and connection.server.closed == []
        connection.connect()
        assert connection.epoch == 2


class TestEnsure:

    def call(self, connection, outcomes, obj=None, **kwargs):
        """Call a function that raises the outcomes one after the other, then returns 'ok'."""
        self.log = []

        def fun(value):
            self.log.append('fun')
            if outcomes:
                outcome = outcomes.pop(0)
                if callable(outcome):
                    outcome = outcome()
                raise outcome
            return value

        kwargs.setdefault('errback', lambda exc, interval: self.log.append(('errback', interval)))
        kwargs.setdefault('interval_start', 0)
        kwargs.setdefault('interval_step', 0)
        return connection.ensure(obj or Revivable(), fun, **kwargs)('ok')

    def cut(self, connection):
        def happens():
            connection._connection.alive = False
            return lost()
        return happens

    def test_it_passes_through(self, connection):
        assert self.call(connection, []) == 'ok'
        assert connection.server.dials == []

    def test_its_name_says_what_it_is(self, connection):
        ensured = connection.ensure(None, Connection.drain_events)
        assert ensured.__name__ == 'drain_events(ensured)'
        assert ensured.__doc__ == Connection.drain_events.__doc__

    def test_after_a_loss_it_connects_revives_and_repeats(self, connection):
        connection.connect()
        obj, revived = Revivable(), []
        assert self.call(connection, [self.cut(connection)], obj, on_revive=revived.append) == 'ok'
        assert self.log == ['fun', ('errback', 0), 'fun']
        assert connection.epoch == 2 and obj.channels == revived == [connection.default_channel]

    @pytest.mark.parametrize(('failures', 'retries', 'calls'), [(1, 0, 1), (3, 2, 3)])
    def test_it_gives_up_as_kombu_does(self, connection, failures, retries, calls):
        connection.connect()
        with pytest.raises(OperationalError) as caught:
            self.call(connection, [self.cut(connection)] * failures, max_retries=retries)
        assert isinstance(caught.value.__cause__, ConnectionLost)
        assert self.log.count('fun') == calls

    def test_as_many_losses_as_retries_are_survived(self, connection):
        connection.connect()
        assert self.call(connection, [self.cut(connection)] * 3, max_retries=3) == 'ok'

    def test_a_channel_error_tears_nothing_down(self, connection):
        connection.connect()
        obj = Revivable()
        assert self.call(connection, [KeyError('x')], obj) == 'ok'
        assert connection.epoch == 1 and obj.channels == []

    def test_a_connection_that_works_is_never_closed(self, connection):
        # An OSError of something else in the function: others go on using the connection.
        connection.connect()
        assert self.call(connection, [OSError(2, 'no such file')]) == 'ok'
        assert connection.epoch == 1 and connection.server.closed == []

    def test_a_transport_that_cannot_tell_is_believed(self):
        class Blind(FakeTransport):
            verify_connection = Transport.verify_connection

        found = make(transport=Blind)
        found.connect()
        assert self.call(found, [OSError(104, 'reset')]) == 'ok'
        assert found.epoch == 2
        found.close()

    def test_one_loss_is_one_reconnect_for_all(self, connection):
        connection.connect()
        gate = runtime.Event()
        objs = [Revivable() for _ in range(10)]
        tries = []

        def fun(obj):
            tries.append(obj)
            if tries.count(obj) == 1:
                gate.wait()
                raise lost()
            return connection.epoch

        tasks = [Started(connection.ensure(obj, fun), obj) for obj in objs]
        green.sleep(0)
        connection._connection.alive = False
        gate.set()
        [task.get() for task in tasks]
        assert [task.value for task in tasks] == [2] * 10
        assert len(connection.server.dials) == 2
        assert all(obj.channels == [connection.default_channel] for obj in objs)

    def test_errors_named_by_the_caller_are_retried_without_a_word(self, connection):
        assert self.call(connection, [ValueError(), ValueError()], retry_errors=(ValueError,)) == 'ok'
        assert self.log == ['fun', 'fun', 'fun']
        with pytest.raises(ValueError):
            self.call(connection, [ValueError(), ValueError()], retry_errors=(ValueError,), max_retries=1)

    @pytest.mark.parametrize('exc', [
        ValueError('bug'), ConnectionClosed('done'), PublishUnconfirmed('late'),
        InvalidArgument('a', 1, 'is bad'),
    ])
    def test_what_a_retry_cannot_help_passes_as_it_is(self, connection, exc):
        connection.connect()
        with pytest.raises(type(exc)) as caught:
            self.call(connection, [exc])
        assert caught.value is exc and self.log == ['fun']

    def test_repeated_losses_are_paced(self, connection):
        connection.connect()
        self.call(connection, [self.cut(connection)] * 3, interval_start=0.001, interval_step=0.001)
        assert [entry[1] for entry in self.log if entry != 'fun'] == [0, 0.001, 0.002]

    def test_the_deadline_ends_it(self, connection):
        connection.connect()
        connection.server.failures = [lost() for _ in range(1000)]
        with pytest.raises(OperationalError):
            self.call(connection, [self.cut(connection)], timeout=0.02, interval_start=0.005)

    def test_close_ends_it(self, connection):
        connection.connect()
        connection.server.failures = [lost() for _ in range(10)]
        pausing = runtime.Event()
        task = Started(
            self.call, connection, [self.cut(connection)], interval_start=60, interval_max=60,
            errback=lambda exc, interval: interval and pausing.set(),
        )
        pausing.wait()
        green.sleep(0)
        connection.close()
        join([task])
        assert isinstance(task.exception, ConnectionClosed)

    def test_a_transport_that_keeps_channels_gets_its_own_back(self, connection):
        class Keeping(FakeTransport):
            keeps_channels = True

            def recover_connection(self, link, deadline):
                link.alive = True
                self.client.begin_epoch()
                return link

        found = make(transport=Keeping)
        found.connect()
        obj = Revivable()
        obj.channel = kept = found.channel()
        link, default = found._connection, found.default_channel
        assert self.call(found, [self.cut(found)], obj) == 'ok'
        assert obj.channels == [kept] and found._connection is link and found.epoch == 2
        assert found.default_channel is default
        found.close()

    def test_a_transport_that_keeps_channels_walks_the_hosts_itself(self):
        class Keeping(FakeTransport):
            keeps_channels = True
            refusals = 1

            def recover_connection(self, link, deadline):
                if self.refusals:
                    self.refusals -= 1
                    raise lost()
                link.alive = True
                self.client.begin_epoch()
                return link

        found = make(['fakehost1', 'fakehost2'], transport=Keeping)
        found.connect()
        link, transport = found._connection, found.transport
        assert self.call(found, [self.cut(found)]) == 'ok'
        assert found._connection is link and found.transport is transport and found.server.closed == []
        assert found.hostname == 'fakehost1'
        found.close()

    def test_it_says_what_was_lost_and_recovered(self, connection):
        seen = []
        subscriptions = [events.subscribe(name, seen.append, connection) for name in ('lost', 'recovered')]
        connection.connect()
        self.call(connection, [self.cut(connection)])
        connection.close()
        connection.connect()
        green.sleep(0)
        green.sleep(0)
        assert [(event.name, event.facts['epoch']) for event in seen] == [('lost', 1), ('recovered', 2)]
        for subscription in subscriptions:
            subscription.cancel()

    def test_autoretry_gives_a_channel(self, connection):
        connection.connect()
        seen, failures = [], [self.cut(connection)]

        def fun(value, channel):
            seen.append(channel)
            if failures:
                raise failures.pop()()
            return value

        value, channel = connection.autoretry(fun)(7)
        assert value == 7 and channel is seen[-1] is connection.default_channel and len(seen) == 2

    def test_autoretry_opens_as_often_as_it_was_told_and_no_more(self):
        # On AMQP, whose table of errors has OperationalError itself: the call's retries came on top.
        with socket.socket() as nobody:
            nobody.bind(('127.0.0.1', 0))
            port, told = nobody.getsockname()[1], []
            connection = Connection(f'amqp://127.0.0.1:{port}', transport_options={'max_retries': 0})
            retried = connection.autoretry(
                lambda channel: 1, max_retries=2, interval_start=0, interval_step=0, interval_max=0,
                errback=lambda exc, seconds: told.append(seconds))
            with pytest.raises(OperationalError):
                retried()
        assert told == [0.0, 0.0]

    def test_library_errors(self, connection):
        with pytest.raises(OperationalError) as caught, connection._reraise_as_library_errors():
            raise lost()
        assert isinstance(caught.value.__cause__, ConnectionLost)
        with pytest.raises(KeyError), connection._reraise_as_library_errors(ChannelError=KeyError):
            raise KeyError('x')
        with pytest.raises(LookupError), connection._reraise_as_library_errors(LookupError):
            raise lost()


class TestPools:

    def pool(self, connection, limit=2, **kwargs):
        pool = connection.Pool(limit, **kwargs)
        new = pool.new

        def with_server():
            made = new()
            made.server = connection.server
            return made

        pool.new = with_server
        return pool

    def test_connections_come_unopened_and_go_back_open(self, connection):
        pool = self.pool(connection)
        leased = pool.acquire()
        assert isinstance(leased, PooledConnection) and not leased.connected
        leased.connect()
        leased.release()
        assert leased.connected and pool.acquire() is leased
        pool.force_close_all()

    def test_an_error_in_the_with_closes_the_connection(self, connection):
        pool = self.pool(connection)
        with pytest.raises(ValueError), pool.acquire() as leased:
            leased.connect()
            raise ValueError
        assert not leased.connected and pool.stats().size == 0
        green.sleep(0)
        green.sleep(0)

    def test_leaving_a_with_does_not_release_the_next_ones_lease(self, connection):
        pool = self.pool(connection, 1)
        with pool.acquire() as leased:
            leased.release()
            other = Started(pool.acquire).get()
            assert other is leased
        assert pool.stats().in_use == 1
        pool.release(other)

    def test_a_lost_one_is_not_handed_out(self, connection):
        pool = self.pool(connection)
        leased = pool.acquire()
        leased.connect()
        leased.release()
        leased._connection.alive = False
        assert pool.acquire() is not leased
        assert pool.stats().discarded == {'dead': 1}
        green.sleep(0)
        green.sleep(0)

    def test_one_that_its_user_closed_is_not_handed_out(self, connection):
        pool = self.pool(connection)
        with pool.acquire() as leased:
            leased.connect()
            leased.close()
        with pool.acquire() as other:
            assert other is not leased and other.channel() is not None
        pool.force_close_all()

    def test_acquire_channel(self, connection):
        pool = self.pool(connection)
        with pool.acquire_channel() as (leased, channel):
            assert channel is leased.default_channel
        assert pool.stats().in_use == 0
        pool.force_close_all()

    def test_a_copy_of_a_pooled_one_is_a_plain_one(self, connection):
        leased = self.pool(connection).acquire()
        assert type(leased.clone()) is Connection
        assert type(pickle.loads(pickle.dumps(Connection('memory://').Pool(1).acquire()))) is Connection
        leased.release()

    def test_preload(self, connection):
        assert connection.Pool(3, preload=2).stats().free == 2

    def test_channels(self, connection):
        pool = connection.ChannelPool(2)
        one = pool.acquire()
        one.release()
        assert pool.acquire() is one
        assert not one.closed

    def test_a_closed_channel_is_not_handed_out_nor_counted(self, connection):
        pool = connection.ChannelPool(1)
        with pool.acquire() as one:
            pass
        assert one.closed
        assert pool.acquire() is not one

    def test_channels_of_a_lost_connection_are_not_handed_out(self, connection):
        pool = connection.ChannelPool(1)
        one = pool.acquire()
        one.release()
        connection._connection.alive = False
        connection.ensure_connection()
        two = pool.acquire()
        assert two is not one and two.connection is connection._connection
