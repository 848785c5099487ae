"""The net under the suite catches what it is there for: tried on small suites of their own."""
from __future__ import annotations

import pathlib
import time

import gevent
import pytest

from tests.support import guard

pytest_plugins = 'pytester'

HEADER = 'import gevent, gevent.event, pytest, time\n'


@pytest.fixture
def run(pytester, hub_errors, monkeypatch):
    """Run a test file under the real conftest, in this process or in one of its own; gives the outcome."""
    monkeypatch.setenv('PYTHONPATH', str(pathlib.Path(__file__).parents[3]))
    pytester.makeconftest('from tests.conftest import *\n'
                          'import tests.conftest as real\n'
                          'for name in dir(real):\n'
                          '    if name.startswith(("pytest_", "_")) and not name.startswith("__"):\n'
                          '        globals()[name] = getattr(real, name)\n')

    def run(source, *options, alone=False):
        pytester.makepyfile(HEADER + source)
        start = pytester.runpytest_subprocess if alone else pytester.runpytest_inprocess
        result = start('-p', 'no:cacheprovider', '-p', 'no:hypothesispytest', *options)
        hub_errors.clear()  # both suites share this hub; the inner one has judged them
        return result

    return run


def test_a_test_that_waits_too_long_fails_and_every_greenlet_is_shown(run):
    result = run('''
def parked_for_ever():
    gevent.sleep(1000)

@pytest.mark.green_timeout(0.05)
def test_it():
    gevent.spawn(parked_for_ever)
    gevent.sleep(1000)
''')
    assert result.parseoutcomes()['failed'] == 1
    result.stdout.fnmatch_lines(['*in parked_for_ever*'])
    result.stdout.fnmatch_lines(['*did not end within 0.05 s*'])


def test_a_picture_that_cannot_be_drawn_keeps_no_test_from_its_end(run):
    result = run('''
from gevent.local import local

class Shy:
    def __repr__(self):
        raise RuntimeError('not for you')

@pytest.mark.green_timeout(0.05)
def test_it():
    here = local()
    here.value = Shy()
    gevent.sleep(1000)
''')
    assert result.parseoutcomes() == {'failed': 1}
    result.stdout.fnmatch_lines(['*could not be shown*', '*not for you*'])


def test_a_test_cannot_swallow_its_time_limit(run):
    result = run('''
@pytest.mark.green_timeout(0.05)
def test_it():
    try:
        gevent.sleep(1000)
    except BaseException:
        return
''')
    assert result.parseoutcomes() == {'failed': 1}


@pytest.mark.own_process
def test_a_fixture_that_takes_too_long_fails_its_test_alone(run):
    result = run('''
import tests.conftest as real
real.SETUP_LIMIT, turns = 0.05, []

@pytest.fixture
def slow_at_first():
    turns.append(1)
    gevent.sleep(1000 if len(turns) == 1 else 0)
    yield

@pytest.mark.green_timeout(0.05)
def test_first(slow_at_first):
    pass

def test_second(slow_at_first):
    pass
''', alone=True)
    assert result.parseoutcomes() == {'passed': 1, 'errors': 1}


@pytest.mark.own_process
def test_a_deadlock_is_noticed_at_once_and_shown(run):
    result = run('''
def stuck(event):
    event.wait()

def test_it():
    event = gevent.event.Event()
    gevent.spawn(stuck, event)
    event.wait()
''', alone=True)  # here a thread of an earlier test may still owe the hub an answer
    assert result.parseoutcomes()['failed'] == 1
    result.stdout.fnmatch_lines(['*hub had nothing left to do*', '*in stuck*'])


def test_an_error_in_the_hub_fails_the_test(run):
    result = run('''
def test_it():
    gevent.get_hub().loop.run_callback(lambda: 1 / 0)
''')
    assert result.parseoutcomes() == {'passed': 1, 'errors': 1}
    result.stdout.fnmatch_lines(['*errors in the hub*', '*ZeroDivisionError*'])


def test_an_error_in_the_hub_that_is_expected_can_be_taken(hub_errors):
    gevent.get_hub().loop.run_callback(lambda: 1 / 0)
    gevent.sleep(0)
    assert len(hub_errors.take(ZeroDivisionError)) == 1
    assert not hub_errors


def test_a_greenlet_left_over_fails_the_test_and_does_not_meet_the_next_one(run):
    result = run('''
left = []

def forgotten():
    gevent.sleep(1000)

def test_first():
    left.append(gevent.spawn(forgotten))
    gevent.sleep(0)

def test_second():
    assert left[0].dead
''')
    assert result.parseoutcomes() == {'passed': 2, 'errors': 1}
    result.stdout.fnmatch_lines(['*1 greenlets left over*', '*in forgotten*'])


def test_a_greenlet_that_is_about_to_end_is_no_leftover():
    with guard.Spawned() as spawned:
        gevent.spawn(gevent.sleep, 0.001)
        dying = gevent.spawn(gevent.sleep, 1000)
        gevent.sleep(0)
        dying.kill(block=False)
    assert spawned.leftover() == []


def test_what_a_collection_takes_is_not_taken_from_the_grace(monkeypatch):
    def collect():
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            pass  # not even a patched sleep lets the hub run

    monkeypatch.setattr('gc.collect', collect)
    with guard.Spawned() as spawned:
        ends = gevent.spawn(gevent.sleep, 1000)
        gevent.spawn_later(0.2, ends.kill, block=False)
        gevent.sleep(0)
    assert spawned.leftover(0.4) == []


def test_the_in_memory_broker_is_empty_for_each_test(run):
    result = run('''
def fill():
    memory = pytest.importorskip('greenmq.transport.memory')
    from greenmq import Connection
    with Connection('memory://') as connection:
        simple = connection.SimpleQueue('kept')
        simple.put({'a': 1})
        size = simple.qsize()
        simple.close()
    return size

def test_first():
    assert fill() == 1

def test_second():
    assert fill() == 1
''')
    outcomes = result.parseoutcomes()
    assert outcomes.get('failed', 0) == outcomes.get('errors', 0) == 0


def test_what_a_server_wrote_is_shown_with_the_test_that_failed(run):
    result = run('''
from tests.support import process

class Server:
    name, text = 'a server', ''

    def new_output(self):
        text, self.text = self.text, ''
        return text

server = Server()
process.RUNNING.append(server)

def test_first():
    server.text = 'written before'

def test_second():
    server.text = 'written while it failed'
    assert 0

def test_third():
    process.RUNNING.clear()
''')
    assert result.parseoutcomes() == {'passed': 2, 'failed': 1}
    result.stdout.fnmatch_lines(['*output of a server*', 'written while it failed'])
    result.stdout.no_fnmatch_line('*written before*')


@pytest.mark.own_process
def test_what_spins_in_the_hub_is_ended_by_the_last_net_and_the_suite_goes_on(run):
    result = run('''
def spin():
    while True:
        pass

@pytest.mark.timeout(0.5)
def test_first():
    gevent.get_hub().loop.run_callback(spin)
    gevent.sleep(1000)

def test_second():
    gevent.sleep(0)
''', alone=True)
    assert result.parseoutcomes() == {'passed': 1, 'failed': 1, 'errors': 1}
    result.stdout.fnmatch_lines(['*errors in the hub*'])
    result.stdout.fnmatch_lines(['*test_first: nothing could end it within 0.5 s*'])


@pytest.mark.own_process
@pytest.mark.parametrize('rerun', [(), ('--reruns', '1')])
def test_where_the_hub_lost_its_timers_the_last_net_ends_the_test_each_time(run, rerun):
    result = run('''
@pytest.mark.timeout(0.5)
def test_first(monkeypatch):
    monkeypatch.setattr('tests.support.guard_gevent.GreenTimeout._on_expiration', lambda *args: None)
    gevent.get_hub().loop.timer(1000).start(print)
    gevent.sleep(1000)
''', *rerun, alone=True)
    assert result.parseoutcomes() == {'failed': 1} | ({'rerun': 1} if rerun else {})
    result.stderr.fnmatch_lines(['*in test_first*', '*gevent.sleep(1000)*'])


@pytest.mark.own_process
def test_the_last_net_ends_a_process_that_hears_nothing_any_more(run):
    result = run('''
import signal
from tests.support import last_net

last_net.GRACE, last_net.SLACK = 0.5, 0

@pytest.mark.timeout(0.5)
def test_first():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    while True:
        pass
''', alone=True)
    assert result.ret == 1
    result.stderr.fnmatch_lines(['Timeout*', '*in test_first'])
