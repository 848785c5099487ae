"""Handlers hear of what they asked for, later and elsewhere, and can't do harm to anybody."""

import gc
import logging
import os
import weakref

import pytest

from greenmq import events, runtime
from greenmq.exceptions import InvalidArgument


class Source:
    """A stand-in for a connection."""


class Heard(list):
    """A handler that notes what it is told and can be waited for."""

    def __init__(self):
        super().__init__()
        self.more = runtime.Event()

    def __call__(self, event):
        self.append((event.name, event.facts))
        self.more.set()

    def wait(self, count):
        while len(self) < count:
            self.more.clear()
            self.more.wait(5)
        return list(self)


@pytest.fixture
def subscribe():
    """events.subscribe, undone at the end."""
    made = []

    def subscribe(*args, **kwargs):
        made.append(events.subscribe(*args, **kwargs))
        return made[-1]

    yield subscribe
    for subscription in made:
        subscription.cancel()


@pytest.fixture
def heard():
    return Heard()


def _drained():
    # The dispatcher was there if anything was told; it ends when all is told.
    for dispatcher in list(events._dispatchers.values()):
        assert dispatcher._task.join(5)
    assert not events._dispatchers


def test_a_handler_gets_name_source_and_facts(subscribe):
    source, got = Source(), []
    subscribe('blocked', lambda event: got.append((event, event.source)))
    events.emit('blocked', source=source, reason='low on memory')
    _drained()
    ((event, seen),) = got
    assert seen is source
    assert event.name == 'blocked'
    assert event.facts == {'reason': 'low on memory'}
    assert repr(event) == "<Event blocked reason='low on memory'>"


def test_emit_runs_no_handler_itself(subscribe, heard):
    subscribe('lost', heard)
    events.emit('lost')
    assert heard == []
    assert heard.wait(1) == [('lost', {})]


def test_handlers_run_in_a_task_of_their_own_that_ends_when_all_is_told(subscribe):
    tasks = []
    subscribe('lost', lambda event: tasks.append((runtime.current(), runtime.current_name())))
    events.emit('lost')
    events.emit('lost')
    _drained()
    (first, name), (second, _) = tasks
    assert first is second is not runtime.current()
    assert name == 'greenmq.events'
    events.emit('lost')  # the next event starts another one
    _drained()
    assert len(tasks) == 3


def test_all_handlers_hear_of_all_events_in_order(subscribe, heard):
    other = Heard()
    subscribe('publish', heard)
    subscribe('publish', other)
    for number in range(20):
        events.emit('publish', number=number)
    expected = [('publish', {'number': number}) for number in range(20)]
    assert heard.wait(20) == expected
    assert other.wait(20) == expected


def test_emit_works_in_a_hub_callback(subscribe, heard):
    subscribe('lag', heard)
    runtime.run_soon(lambda: events.emit('lag', seconds=2.5))
    assert heard.wait(1) == [('lag', {'seconds': 2.5})]


def test_a_subscription_may_hear_of_one_source_only(subscribe, heard):
    one, other = Source(), Source()
    subscribe('lost', heard, source=one)
    events.emit('lost', other, n=1)
    events.emit('lost', n=2)
    events.emit('lost', one, n=3)
    _drained()
    assert heard == [('lost', {'n': 3})]


def test_a_source_may_be_a_name_when_nobody_holds_it_weakly(subscribe):
    got = []
    subscribe('gap', lambda event: got.append(event.source))
    events.emit('gap', source='exchange news')
    _drained()
    assert got == ['exchange news']


def test_a_cancelled_subscription_hears_nothing_not_even_what_waits(subscribe, heard):
    subscription = subscribe('lost', heard)
    assert subscription.active
    events.emit('lost')
    subscription.cancel()
    subscription.cancel()
    events.emit('lost')
    _drained()
    assert heard == []
    assert not subscription.active
    assert repr(subscription) == '<Subscription to lost, cancelled>'


def test_a_handler_may_cancel_itself_and_others(subscribe, heard):
    # 'gap': what pools listen to as well would still be wanted
    made = []

    def cancel_all(event):
        for subscription in made:
            subscription.cancel()

    made += [subscribe('gap', cancel_all), subscribe('gap', heard)]
    events.emit('gap')
    _drained()
    assert heard == []
    assert not events.wanted('gap')


def test_wanted_says_whether_anybody_listens(subscribe):
    listeners = events.listeners('deliver')
    assert not events.wanted('deliver') and not listeners
    subscription = subscribe('deliver', print)
    assert events.wanted('deliver') and listeners
    assert not events.wanted('settle')
    subscription.cancel()
    assert not events.wanted('deliver') and not listeners


def test_a_handler_that_raises_is_logged_and_stops_nobody(subscribe, heard, caplog):
    before = events.counters()['failed']

    def broken(event):
        raise ZeroDivisionError('of a handler')

    subscribe('nacked', broken)
    subscribe('nacked', heard)
    with caplog.at_level(logging.ERROR, 'greenmq.events'):
        events.emit('nacked')
        events.emit('nacked')
        assert len(heard.wait(2)) == 2
        _drained()
    assert len([record for record in caplog.records if record.name == 'greenmq.events']) == 2
    assert 'ZeroDivisionError: of a handler' in caplog.text
    assert events.counters()['failed'] == before + 2


def test_a_handler_that_is_cut_by_a_kill_or_a_timeout_stops_nobody(subscribe, heard, caplog):
    cuts = [runtime.TaskExit(), runtime.timeout_class()(None)]

    def cut(event):
        raise cuts.pop()

    subscribe('nacked', cut)
    subscribe('nacked', heard)
    with caplog.at_level(logging.CRITICAL, 'greenmq.runtime'):
        events.emit('nacked')
        events.emit('nacked')
        assert len(heard.wait(2)) == 2
        _drained()
    assert not cuts


def test_a_dispatcher_killed_before_its_start_still_tells(subscribe, heard):
    subscribe('lost', heard)
    events.emit('lost')
    (dispatcher,) = events._dispatchers.values()
    dispatcher._task.kill()
    assert heard.wait(1) == [('lost', {})]


def test_a_handler_that_waits_keeps_the_emitter_running(subscribe, heard):
    go = runtime.Event()
    subscribe('returned', lambda event: go.wait(5))
    subscribe('returned', heard)
    for _ in range(3):
        events.emit('returned')
    assert heard == []
    go.set()
    heard.wait(3)


def test_what_waits_is_bounded_and_what_is_dropped_is_counted(subscribe, heard, caplog, monkeypatch):
    monkeypatch.setattr(events, 'QUEUE_LIMIT', 5)
    before = events.counters()['dropped']
    subscribe('publish', heard)
    with caplog.at_level(logging.WARNING, 'greenmq.events'):
        for number in range(12):
            events.emit('publish', number=number)
    assert [facts['number'] for _, facts in heard.wait(5)] == [0, 1, 2, 3, 4]
    _drained()
    assert events.counters()['dropped'] == before + 7
    assert len(caplog.records) == 1  # one warning for all of it
    assert 'is a handler stuck?' in caplog.text
    events.emit('publish', number=12)
    assert heard.wait(6)[-1] == ('publish', {'number': 12})


def test_a_handler_that_causes_its_own_event_leaves_the_hub_to_others(subscribe):
    stop = []

    def again(event):
        if not stop:
            events.emit('publish')

    subscribe('publish', again)
    events.emit('publish')
    for _ in range(3):
        runtime.sleep(0)  # comes back, or this test would never end
    stop.append(True)
    _drained()


def test_counters_count_what_nobody_hears_too():
    before = events.counters()
    events.emit('recovered')
    after = events.counters()
    assert after['recovered'] == before['recovered'] + 1
    assert {name: count for name, count in after.items() if name != 'recovered'} == {
        name: count for name, count in before.items() if name != 'recovered'
    }
    assert set(after) == {*events.NAMES, 'dropped', 'failed'}
    after['recovered'] = 0
    assert events.counters()['recovered'] == before['recovered'] + 1


def test_neither_subscription_nor_waiting_event_keeps_a_source_alive(subscribe, heard):
    source = Source()
    gone = weakref.ref(source)
    gc.disable()  # it must go by itself
    try:
        subscription = subscribe('lost', heard, source=source)
        everything = subscribe('lost', heard)
        events.emit('lost', source)
        del source
        assert gone() is None
    finally:
        gc.enable()
    assert not subscription.active
    assert everything.active
    assert heard.wait(1) == [('lost', {})]
    _drained()
    assert len(heard) == 1


def test_a_source_that_listens_to_itself_is_not_kept_alive():
    class Listener(Source):
        def on_lost(self, event):
            raise AssertionError('is gone')

    listener = Listener()
    gone = weakref.ref(listener)
    subscription = events.subscribe('lost', listener.on_lost, source=listener)
    gc.disable()
    try:
        del listener
        assert gone() is None
    finally:
        gc.enable()
    assert not subscription.active


def test_a_source_that_listens_to_itself_hears(subscribe):
    class Listener(Source):
        def __init__(self):
            self.told = 0

        def on_lost(self, event):
            self.told += 1

    listener = Listener()
    subscribe('lost', listener.on_lost, source=listener)
    events.emit('lost', listener)
    _drained()
    assert listener.told == 1


@pytest.mark.parametrize('name', ['', 'Lost', 'on_lost', None])
def test_an_unknown_event_is_refused_by_name(name):
    with pytest.raises(InvalidArgument, match='event must be one of blocked, unblocked'):
        events.subscribe(name, print)


def test_an_emitter_that_mistypes_learns_of_it():
    with pytest.raises(KeyError):
        events.emit('lsot')
    with pytest.raises(KeyError):
        events.wanted('lsot')


def test_a_handler_must_be_callable_and_a_source_weakly_referable():
    before = events.wanted('lost')  # a pool of an earlier test may still listen
    with pytest.raises(InvalidArgument, match='handler must be callable'):
        events.subscribe('lost', None)
    with pytest.raises(InvalidArgument, match='source must be weakly referable'):
        events.subscribe('lost', print, source='connection 1')
    assert events.wanted('lost') == before


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')  # of threads; the child uses none
def test_a_forked_child_tells_only_what_happens_in_the_child(subscribe):
    told = []
    subscribe('lost', lambda event: told.append(event.facts['where']))
    events.emit('lost', where='parent')
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            events.emit('lost', where='child')
            _drained()
        finally:
            os.write(write, b'told: ' + ','.join(told).encode())
            os._exit(0)
    # One read, not to the end: patched, a close takes effect when the hub runs next, and here it does not.
    answer = os.read(read, 1000)
    os.close(read)
    os.close(write)
    os.waitpid(child, 0)
    _drained()
    assert answer == b'told: child'
    assert told == ['parent']


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')  # of threads; the child uses none
def test_a_fork_in_a_handler_leaves_what_waits_to_the_parent(subscribe):
    read, write = os.pipe()
    children = []

    def fork(event):
        if event.facts['number']:
            return
        (dispatcher,) = events._dispatchers.values()
        child = os.fork()
        if child:
            children.append(child)
            return
        os.write(write, b'waits: %d' % len(dispatcher._queue))
        os._exit(0)

    subscribe('lag', fork)
    for number in range(3):
        events.emit('lag', number=number)
    _drained()
    answer = os.read(read, 100)
    os.close(read)
    os.close(write)
    os.waitpid(children[0], 0)
    assert answer == b'waits: 0'


def test_each_hub_tells_its_own_handlers(subscribe):
    threads = []
    subscribe('lost', lambda event: threads.append((event.facts['hub'], runtime.hub_id())))

    def elsewhere():
        hub = runtime.hub_id()
        events.emit('lost', hub=hub)
        assert events._dispatchers[hub]._task.join(5)

    runtime.offload(elsewhere, own_thread=True)
    events.emit('lost', hub=runtime.hub_id())
    _drained()
    assert len(threads) == 2
    assert all(emitted is told for emitted, told in threads)
    assert threads[0][0] is not threads[1][0]
