"""The tables of the local store, one transaction after the other, with a clock of the test."""
from __future__ import annotations

import sqlite3

import pytest

from greenmq import runtime
from greenmq.exceptions import InconsistencyError, NotFound, PublishNacked
from greenmq.transport.sqlite.expiry import Expiry
from greenmq.transport.sqlite.file import connect, connect_made
from greenmq.transport.sqlite.store import Store


class World:
    def __init__(self, path):
        self.path = str(path / 'broker.db')
        self.now = 1000.0
        self.store = self.open()

    def open(self):
        return Store(connect(self.path, 'none', 1.0), lambda: self.now)

    def do(self, name, *args, store=None):
        store = store or self.store
        store.begin()
        result = getattr(store, name)(*args)
        store.commit()
        return result

    def do_by(self, fun):
        self.store.begin()
        fun(self.store)
        self.store.commit()

    def put(self, queue, *bodies, priority=0, due=None, expires=None):
        return self.do('put', [(queue, priority, due, expires, body) for body in bodies], 1)

    def take(self, *queues, n=100, max_bytes=1 << 20, owner=1):
        return self.do('take', owner, queues, n, max_bytes)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.store.close()


def bodies(rows):
    return [row.payload for row in rows]


def test_messages_come_in_order_and_once(world):
    world.do('make', 'q', {})
    assert world.put('q', b'1', b'2', b'3') == ([None] * 3, [])
    assert bodies(world.take('q', n=2)) == [b'1', b'2']
    assert bodies(world.take('q', owner=2)) == [b'3']
    assert world.take('q') == [] and world.do('size', 'q') == 0


def test_more_messages_than_one_statement_takes(world):
    world.do('make', 'q', {})
    sent = [b'%d' % number for number in range(50)]
    items = [('q' if number != 21 else 'nowhere', 0, None, None, each) for number, each in enumerate(sent)]
    outcomes, _ = world.do('put', items, 1)
    assert [number for number, outcome in enumerate(outcomes) if outcome is not None] == [21]
    del sent[21]
    assert bodies(world.take('q', n=41)) == sent[:41] and world.do('held', 1) == 41
    assert bodies(world.take('q', owner=2)) == sent[41:] and world.do('held', 2) == 8


def test_of_many_that_are_settled_only_those_are_told_that_were_not_held(world):
    world.do('make', 'q', {})
    world.put('q', *[b'%d' % number for number in range(50)])
    mine = [row.id for row in world.take('q', n=45)]
    others = [row.id for row in world.take('q', owner=2)]
    assert world.do('settle', 1, mine[:20], ()) == []
    stale = [others[0], mine[20], mine[0]]
    assert world.do('settle', 1, [*mine[20:], *stale], ()) == stale
    assert world.do('held', 1) == 0 and world.do('held', 2) == 5


def test_a_queue_that_is_not_there(world):
    outcomes, _ = world.put('nowhere', b'x')
    assert isinstance(outcomes[0], NotFound)
    assert world.take('nowhere') == [] and world.do('size', 'nowhere') == 0 and not world.do('has', 'nowhere')
    world.do('delete', 'nowhere')


def test_higher_priority_first(world):
    world.do('make', 'q', {})
    for priority in (0, 9, 5):
        world.put('q', b'%d' % priority, b'%d again' % priority, priority=priority)
    assert bodies(world.take('q')) == [b'9', b'9 again', b'5', b'5 again', b'0', b'0 again']


def test_what_goes_back_stands_in_its_old_place_and_is_counted(world):
    world.do('make', 'q', {})
    world.put('q', b'1', b'2', b'3')
    rows = world.take('q', n=2)
    assert world.do('settle', 1, [], [(rows[1].id, True), (rows[0].id, False)]) == []
    assert [(row.payload, row.deliveries) for row in world.take('q')] == [(b'1', 0), (b'2', 1), (b'3', 0)]


def test_only_the_owner_settles(world):
    world.do('make', 'q', {})
    world.put('q', b'1', b'2')
    one, two = (row.id for row in world.take('q', owner=1))
    assert world.do('settle', 2, [one], [(two, True)]) == [one, two]
    assert world.do('settle', 1, [one], [(two, True)]) == []
    assert world.do('settle', 1, [one], [(two, True)]) == [one, two]


def test_the_first_message_is_taken_however_large(world):
    world.do('make', 'q', {})
    world.put('q', b'x' * 1000, b'y' * 1000)
    assert len(world.take('q', max_bytes=10)) == 1


def test_a_delayed_message_comes_when_it_is_due(world):
    world.do('make', 'q', {})
    world.put('q', b'later', due=1010.0)
    world.put('q', b'now')
    assert world.do('size', 'q') == 1 and world.do('next_due') == 1010.0
    assert bodies(world.take('q')) == [b'now']
    world.now = 1010.0
    assert world.do('size', 'q') == 1
    assert bodies(world.take('q')) == [b'later'] and world.do('next_due') is None


def test_the_time_of_a_queue_counts_if_it_is_shorter(world):
    world.do('make', 'q', {'x-message-ttl': 5000})
    world.put('q', b'1')
    world.put('q', b'2', expires=1002.0)
    world.put('q', b'3', expires=1200.0)
    assert [row.expires for row in world.take('q')] == [1005.0, 1002.0, 1005.0]


@pytest.mark.parametrize(('arguments', 'left', 'gone'), [
    ({'x-max-length': 2}, [b'bb', b'cc'], [b'aa']),
    ({'x-max-length-bytes': 4}, [b'bb', b'cc'], [b'aa']),
    ({'x-max-length': 0}, [], [b'aa', b'bb', b'cc']),
])
def test_of_a_full_queue_the_oldest_goes(world, arguments, left, gone):
    world.do('make', 'q', arguments)
    outcomes, dropped = world.put('q', b'aa', b'bb', b'cc')
    assert outcomes == [None] * 3 and dropped == []
    assert bodies(world.take('q')) == left
    # And with a place for dead letters it is ours, to be brought there
    world.do('make', 'dead', {**arguments, 'x-dead-letter-exchange': ''})
    dropped = world.put('dead', b'aa', b'bb', b'cc')[1]
    assert bodies(dropped) == gone and bodies(world.take('dead')) == left
    assert world.do('settle', 1, [row.id for row in dropped], []) == []


def test_a_full_queue_that_rejects_takes_no_more(world):
    world.do('make', 'q', {'x-max-length': 2, 'x-overflow': 'reject-publish'})
    outcomes, dropped = world.put('q', b'1', b'2', b'3')
    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), PublishNacked]
    assert dropped == [] and bodies(world.take('q')) == [b'1', b'2']
    assert world.put('q', b'4')[0] == [None]


def test_what_an_owner_held_goes_back_when_it_leaves(world):
    me, other = world.do('enter', 1, 'h', 'one', 's1'), world.do('enter', 2, 'h', 'two', 's2')
    world.do('make', 'q', {})
    world.do('make', 'mine', {}, me)
    world.put('q', b'1', b'2', b'3')
    world.take('q', n=2, owner=me)
    world.take('q', n=1, owner=other)
    world.do('leave', me)
    assert world.store.touched == {'q'}
    assert [(row.payload, row.deliveries) for row in world.take('q')] == [(b'1', 1), (b'2', 1)]
    assert not world.do('has', 'mine') and [name for _, name, _ in world.do('all_owners')] == ['two']


def test_purge_leaves_what_is_in_hand(world):
    world.do('make', 'q', {})
    world.put('q', b'1', b'2')
    world.put('q', b'3', due=2000.0)
    held = world.take('q', n=1)
    assert world.do('purge', 'q') == 2
    assert world.do('settle', 1, [], [(held[0].id, True)]) == [] and world.do('size', 'q') == 1


def test_bindings_are_seen_by_others_and_go_with_their_queue(world):
    other = world.open()
    world.do('make', 'q', {})
    assert world.do('bind', 'x', 'topic', 'a.*', 'q', {'n': 1}) and world.store.changed
    assert not world.do('bind', 'x', 'topic', 'a.*', 'q', {'n': 1}) and not world.store.changed
    assert world.do('bindings', 'x', store=other) == [('topic', 'a.*', 'q', {'n': 1})]
    assert not world.do('unbind', 'x', 'a.*', 'q', None)
    assert world.do('unbind', 'x', 'a.*', 'q', {'n': 1})
    world.do('bind', 'x', 'direct', 'k', 'q', None)
    world.do('delete', 'q', store=other)
    assert world.do('bindings', 'x') == []
    other.close()


class Looks:
    """A process that sweeps, with a clock of its own that does not jump."""

    def __init__(self, world, monkeypatch):
        self.world, self.expiry, self.at, self.waits = world, Expiry('q.db', 5.0), 0.0, False
        monkeypatch.setattr(runtime, 'monotonic', lambda: self.at)

    def sweep(self, seconds=0.0):
        self.at += seconds
        self.world.now += seconds
        work = self.expiry.look(self.world.store, lambda name: self.waits)
        if work:
            self.world.do_by(self.expiry.work)
        return work


@pytest.fixture
def looks(world, monkeypatch):
    world.do('make', 'q', {'x-expires': 9000}, None, 9.0)
    world.do('make', 'stays', {})
    return Looks(world, monkeypatch)


def test_a_queue_that_is_not_used_expires(world, looks):
    assert not any(looks.sweep(2) for _ in range(4))
    world.do('use', 'q')
    assert not any(looks.sweep(2) for _ in range(6))
    assert looks.sweep(4)
    assert not world.do('has', 'q') and world.do('has', 'stays')


def test_a_queue_on_which_somebody_waits_does_not_expire(world, looks):
    looks.waits = True
    assert sum(looks.sweep(2) for _ in range(20)) <= 10  # a wait costs no write at each look
    assert world.do('has', 'q')


def test_a_queue_from_which_somebody_takes_does_not_expire(world, looks):
    for _ in range(8):
        looks.sweep(4)
        world.take('q')
    world.put('q', b'1')
    world.take('q')  # and holds it for long
    for _ in range(8):
        looks.sweep(4)
    assert world.do('has', 'q')


def test_a_clock_that_jumps_expires_no_queue_that_is_used(world, looks):
    for jump in (3600, -3600):
        world.now += jump
        looks.waits = False  # who waits is another process, whose sweep comes a little later
        looks.sweep()
        looks.sweep(2)
        looks.waits = True
        looks.sweep(1)
        looks.waits = False
        assert world.store.unused()['q'] == 0
        looks.sweep(5)
        assert world.do('has', 'q')


def test_what_others_changed_is_seen_in_the_next_transaction(world):
    other = world.open()
    world.do('make', 'q', {})
    world.do('put', [('q', 0, None, None, b'1')], 1, store=other)
    world.do('make', 'q', {'x-max-length': 1})
    world.do('put', [('q', 0, None, None, b'2')], 1, store=other)
    assert bodies(world.take('q')) == [b'2']
    other.close()


def test_a_step_is_undone_alone(world):
    world.store.begin()
    world.store.make('q', {})
    world.store.begin_step()
    world.store.make('undone', {})
    world.store.undo_step()
    world.store.begin_step()
    world.store.make('kept', {})
    world.store.end_step()
    world.store.commit()
    assert [each['name'] for each in world.do('queues')] == ['kept', 'q']


def test_taking_is_flat_however_many_are_held_or_wait_elsewhere(world):
    # Given 5,000 messages in hand, 5,000 delayed and 5,000 in another queue
    world.do('make', 'q', {})
    world.do('make', 'other', {})
    world.put('q', *[b'x'] * 5000)
    world.take('q', n=5000, owner=7)
    world.put('q', *[b'x'] * 5000, due=5000.0)
    world.put('other', *[b'x'] * 5000)
    world.put('q', b'1')
    # When the plan of the one statement that looks for messages is asked for
    plan = world.store._db.execute(
        'EXPLAIN QUERY PLAN SELECT id, deliveries, payload, expires FROM message '
        'WHERE queue = ? AND owner IS NULL AND due IS NULL ORDER BY priority DESC, id LIMIT ?', (1, 10),
    ).fetchall()
    # Then it reads along the index of what is ready, and sorts nothing
    assert len(plan) == 1 and 'message_ready' in plan[0][3]


def test_a_newer_version_is_refused(world, tmp_path):
    world.store._db.execute("UPDATE meta SET value = 99 WHERE name = 'version'")
    with pytest.raises(InconsistencyError, match='version 99'):
        connect(world.path, 'disk', 1.0)


def test_a_database_of_something_else_is_left_alone(tmp_path):
    path = str(tmp_path / 'other.db')
    other = sqlite3.connect(path)
    other.execute('CREATE TABLE theirs (a)')
    other.commit()
    with pytest.raises(InconsistencyError, match='something else'):
        connect(path, 'disk', 1.0)
    assert other.execute('SELECT name FROM sqlite_master').fetchall() == [('theirs',)]
    other.close()


def test_opening_what_is_made_waits_for_nobody_who_writes(world):
    world.store.begin()
    connection = connect_made(world.path, 'disk', 0.0)
    assert connection is not None
    connection.close()
    world.store.rollback()


def test_a_file_without_tables_is_not_made_by_the_way(tmp_path):
    path = str(tmp_path / 'new.db')
    assert connect_made(path, 'disk', 0.0) is None
    connect(path, 'disk', 0.0).close()
    connect_made(path, 'disk', 0.0).close()
