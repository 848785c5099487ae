"""Several hosts: whose turn it is, and for how long, when some of them are silent."""
import time

import pytest

from greenmq import Connection, runtime
from greenmq.core import retry
from greenmq.exceptions import ConnectionLost, OperationalError, TimeoutError
from greenmq.transport.memory import Transport

#: Seconds of a clock that stands while nobody waits for a silent host, but for what the test itself takes.
WHOLE = 300


class Silent(Transport):
    """Hosts whose name begins with `silent` never answer, those with `dead` refuse at once."""

    tried: list = []
    passed = 0.0

    def establish_connection(self):
        deadline = self.client.connect_deadline
        self.tried.append((self.client.hostname, round(deadline.remaining(), -1)))
        if self.client.hostname.startswith('silent'):
            type(self).passed += deadline.remaining()
            raise deadline.error('no answer')
        if self.client.hostname.startswith('dead'):
            raise ConnectionLost('refused')
        return super().establish_connection()


@pytest.fixture
def connecting(monkeypatch):
    monkeypatch.setattr(retry, 'LOOK_SECONDS', 0.0)
    monkeypatch.setattr(Silent, 'tried', [])
    monkeypatch.setattr(Silent, 'passed', 0.0)
    monkeypatch.setattr('greenmq.runtime.clock.monotonic', lambda: time.monotonic() + Silent.passed)
    opened = []

    def make(hosts, **kwargs):
        opened.append(Connection(';'.join(hosts.split()), transport=Silent, connect_timeout=WHOLE, **kwargs))
        return opened[-1]
    yield make
    for connection in opened:
        connection.close()


def test_a_good_host_behind_silent_ones_is_found_when_each_had_its_share(connecting):
    connecting('silent-a silent-b good').connect()
    assert Silent.tried == [('silent-a', 100), ('silent-b', 100), ('good', 100)]


def test_silent_hosts_have_the_whole_time_in_the_second_round(connecting):
    with pytest.raises((ConnectionLost, TimeoutError)):
        connecting('silent-a silent-b silent-c').connect()
    assert Silent.tried == [('silent-a', 100), ('silent-b', 100), ('silent-c', 100),
                            ('silent-a', 300), ('silent-b', 300)]


def test_hosts_that_refuse_are_tried_once_each(connecting):
    with pytest.raises((ConnectionLost, TimeoutError)):
        connecting('dead-a dead-b dead-c').connect()
    assert [host for host, _ in Silent.tried] == ['dead-a', 'dead-b', 'dead-c']


def test_what_hosts_that_refuse_do_not_take_goes_to_the_others(connecting):
    connecting('dead silent good').connect()
    assert Silent.tried == [('dead', 100), ('silent', 150), ('good', 150)]


def test_one_host_has_all_of_it(connecting):
    with pytest.raises((ConnectionLost, TimeoutError)):
        connecting('silent').connect()
    assert Silent.tried == [('silent', 300)]


@pytest.mark.parametrize('hosts', ['silent-a silent-b silent-c', 'silent-a dead silent-b silent-c'])
def test_a_first_publish_to_silent_hosts_is_given_up_after_one_round_as_in_kombu(connecting, hosts):
    connection = connecting(hosts)
    with pytest.raises(OperationalError):
        connection.Producer().publish({}, routing_key='q', retry=True, retry_policy={'max_retries': 3})
    known = hosts.split()
    assert [host for host, _ in Silent.tried][:len(known)] == known and len(Silent.tried) == len(known)


def test_a_callers_shorter_time_is_what_they_share(connecting):
    with pytest.raises(OperationalError):
        connecting('silent-a silent-b').ensure_connection(timeout=200, max_retries=1)
    assert Silent.tried == [('silent-a', 100), ('silent-b', 100)]


def test_a_silent_host_does_not_count_as_one_of_the_tries(connecting):
    told = []
    connection = connecting('silent dead')
    with pytest.raises(OperationalError):
        connection.ensure_connection(lambda exc, seconds: told.append(seconds), 1, 0, 0, 0)
    # Its share, the dead one; then whole: with that it is the second that counts.
    assert [host for host, _ in Silent.tried] == ['silent', 'dead', 'silent'] and told == [0, 0]


def test_who_recovers_asks_whose_turn_it_is(connecting):
    connection, whole = connecting('good dead-a dead-b'), runtime.Deadline.after(9)
    connection.connect()
    turns = []
    for _ in range(7):
        turns.append(round(connection.opener.turn(whole).remaining()))
        connection.next_host()
    assert turns == [3, 3, 3, 9, 9, 9, 3]
    connection.begin_epoch()
    assert round(connection.opener.turn(whole).remaining()) == 3
    assert connecting('good').opener.turn(whole) is whole
