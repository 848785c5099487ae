"""The hub of callbacks: nothing is polled, every source wakes it."""

from __future__ import annotations

import os
import socket

import pytest

from greenmq import asynchronous, runtime
from greenmq.asynchronous import debug
from greenmq.asynchronous.hub import Hub, Stop, get_event_loop, set_event_loop
from greenmq.asynchronous.timer import Timer
from tests.support import green


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def pipe(hub):
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, write
    # Before they are closed: the numbers are given out again at once.
    hub.remove(read)
    hub.remove(write)
    os.close(read)
    os.close(write)


def test_the_names_of_the_package():
    assert asynchronous.Hub is Hub
    assert (
        (Hub.READ, Hub.WRITE, Hub.ERR)
        == (asynchronous.READ, asynchronous.WRITE, asynchronous.ERR)
        == (1, 4, 24)
    )


def test_the_program_s_loop(hub):
    assert get_event_loop() is None
    assert set_event_loop(hub) is hub
    assert get_event_loop() is hub
    set_event_loop(None)


class TestCalls:
    def test_soon_in_order(self, hub):
        calls = []
        for n in range(3):
            hub.call_soon(calls.append, n)
        hub.run_once()
        assert calls == [0, 1, 2]

    @pytest.mark.parametrize('ask', ['soon', 'later'])
    def test_asked_for_by_another_thread_while_the_loop_waits(self, hub, ask):
        # Given another thread that asks while there is nothing to do, round after round
        calls = []

        def other():
            for number in range(20):
                if ask == 'soon':
                    hub.call_soon(calls.append, number)
                else:
                    hub.call_later(0, calls.append, number)
                while len(calls) <= number:
                    green.sleep(0.002)

        thread = runtime.spawn(green.in_thread, other, name='another thread')
        # Then each is called
        rounds = 0
        while len(calls) < 20 and rounds < 200:
            hub.run_once()
            rounds += 1
        assert calls == list(range(20))
        assert thread.join(5)

    def test_cancelled(self, hub):
        calls = []
        hub.call_soon(calls.append, 1).cancel()
        hub.call_soon(calls.append, 2)
        hub.run_once()
        assert calls == [2]

    def test_an_error_is_logged_and_stops_nobody(self, hub, caplog):
        calls = []
        hub.call_soon(lambda: 1 / 0)
        hub.call_soon(calls.append, 1)
        hub.run_once()
        assert calls == [1]
        assert 'ZeroDivisionError' in caplog.text

    def test_an_error_that_is_wanted_passes_and_the_rest_stays(self, hub):
        calls = []
        hub.propagate_errors = (ZeroDivisionError,)
        hub.call_soon(lambda: 1 / 0)
        hub.call_soon(calls.append, 1)
        with pytest.raises(ZeroDivisionError):
            hub.run_once()
        hub.run_once()
        assert calls == [1]

    def test_another_greenlet_wakes_it(self, hub):
        calls = []
        task = runtime.spawn(hub.run_once, name='loop')
        runtime.sleep(0)
        hub.call_soon(calls.append, 1)
        task.join(5)
        assert task.done
        assert calls == [1]

    def test_forever_until_stopped(self, hub):
        calls = []
        hub.call_later(0, calls.append, 1)
        hub.call_later(0.001, hub.stop)
        hub.run_forever()
        assert calls == [1]

    def test_a_callback_may_raise_stop(self, hub):
        def stop():
            raise Stop

        hub.call_soon(stop)
        hub.run_forever()

    def test_on_tick(self, hub):
        ticks = []
        hub.on_tick.add(lambda: ticks.append(1))
        hub.call_soon(print)
        hub.run_once()
        hub.call_soon(print)
        hub.run_once()
        assert len(ticks) == 2

    def test_killed_while_waiting_it_can_go_on(self, hub):
        task = runtime.spawn(hub.run_forever, name='loop')
        runtime.sleep(0)
        task.kill()
        task.join(5)
        calls = []
        hub.call_soon(calls.append, 1)
        hub.run_once()
        assert calls == [1]

    def test_what_is_left_can_be_taken(self, hub):
        hub.call_soon(print, 1)
        (left,) = hub._pop_ready()
        assert left.args == (1,)
        assert not hub._ready


class TestTimers:
    def test_one_that_is_new_shortens_the_wait(self, hub):
        calls = []
        hub.call_later(1000, calls.append, 'late')
        task = runtime.spawn(self.run_until, hub, calls, name='loop')
        runtime.sleep(0)
        hub.call_later(0, calls.append, 'soon')
        task.join(5)
        assert calls == ['soon']

    def run_until(self, hub, calls):
        while not calls:
            hub.run_once()

    def test_repeatedly(self, hub):
        calls = []
        entry = hub.call_repeatedly(0, lambda: calls.append(1) or (len(calls) == 3 and hub.stop()))
        hub.run_forever()
        entry.cancel()
        assert len(calls) >= 3

    def test_an_error_is_logged(self, hub, caplog):
        hub.call_at(None, lambda: 1 / 0)
        assert hub.fire_timers() == 1
        assert 'ZeroDivisionError' in caplog.text

    def test_an_error_that_is_wanted_passes(self, hub):
        hub.call_at(None, lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            hub.fire_timers(propagate=(ZeroDivisionError,))

    def test_how_long_to_wait(self, hub):
        assert hub.fire_timers(min_delay=7) == 7
        hub.call_later(1000, print)
        assert hub.fire_timers(max_delay=1.5) == 1.5
        for _ in range(3):
            hub.call_at(None, list)
        assert hub.fire_timers(max_timers=2) == 0
        assert hub.fire_timers(max_timers=2) == 10
        assert hub._fire(())[1] > 900  # nothing makes it look before the timer is due

    def test_own_timer(self):
        timer = Timer(max_interval=9)
        assert Hub(timer).timer is timer


class TestDescriptors:
    def test_readable(self, hub, pipe):
        read, write = pipe
        got = []
        hub.add_reader(read, lambda fd: got.append(os.read(fd, 10)), read)
        os.write(write, b'one')
        hub.run_once()
        os.write(write, b'two')
        hub.run_once()
        assert got == [b'one', b'two']

    def test_still_readable_calls_again(self, hub, pipe):
        read, write = pipe
        got = []
        hub.add_reader(read, lambda: got.append(os.read(read, 1)))
        os.write(write, b'abc')
        for _ in range(3):
            hub.run_once()
        assert got == [b'a', b'b', b'c']

    def test_writable(self, hub, pipe):
        read, write = pipe
        hub.add_writer(write, lambda: os.write(write, b'x') and hub.remove_writer(write))
        hub.run_once()
        assert os.read(read, 10) == b'x'
        assert not hub.writers

    def test_the_other_side_is_gone(self, hub):
        ours, theirs = socket.socketpair()
        got = []
        hub.add_reader(ours, lambda: got.append(ours.recv(10)))
        theirs.close()
        hub.run_once()
        assert got == [b'']
        hub.remove(ours)
        ours.close()

    def test_a_waiting_loop_is_woken(self, hub, pipe):
        read, write = pipe
        got = []
        hub.add_reader(read, lambda: got.append(os.read(read, 10)))
        task = runtime.spawn(hub.run_once, name='loop')
        runtime.sleep(0)
        os.write(write, b'x')
        task.join(5)
        assert got == [b'x']

    def test_removed_is_silent(self, hub, pipe):
        read, write = pipe
        hub.add_reader(read, pytest.fail)
        os.write(write, b'x')
        hub.remove_reader(read)
        hub.remove(read)
        hub.call_later(0.01, hub.stop)
        hub.run_forever()
        assert not hub.readers

    def test_removed_by_the_callback_before_its_own(self, hub, pipe):
        read, write = pipe
        os.write(write, b'x')
        hub.add_reader(read, lambda: hub.remove(write))
        hub.add_writer(write, pytest.fail)
        while not any(flag == Hub.WRITE for _, flag in hub._events) or len(hub._events) < 2:
            runtime.sleep(0)
        hub._events = dict(sorted(hub._events.items(), key=lambda item: item[0][1]))
        hub.run_once()
        assert not hub.writers

    def test_added_again_replaces_the_callback(self, hub, pipe):
        read, write = pipe
        got = []
        hub.add_reader(read, pytest.fail)
        hub.add_reader(read, lambda: got.append(os.read(read, 10)))
        os.write(write, b'x')
        hub.run_once()
        assert got == [b'x']

    def test_an_error_passes_and_the_descriptor_stays(self, hub, pipe):
        read, write = pipe
        got = []

        def callback():
            got.append(os.read(read, 1))
            if len(got) == 1:
                raise KeyError('callback')

        hub.add_reader(read, callback)
        os.write(write, b'ab')
        with pytest.raises(KeyError, match='callback'):
            hub.run_once()
        hub.run_once()
        assert got == [b'a', b'b']

    def test_a_generator_goes_on_until_it_ends(self, hub, pipe):
        read, write = pipe
        got = []

        def reader():
            for _ in range(2):
                got.append(os.read(read, 1))
                yield

        hub.add_reader(read, reader())
        os.write(write, b'abc')
        while hub.readers:
            hub.run_once()
        assert got == [b'a', b'b']

    def test_a_generator_that_fails_is_removed(self, hub, pipe):
        read, write = pipe

        def reader():
            raise KeyError('reader')
            yield

        hub.add_reader(read, reader())
        os.write(write, b'x')
        with pytest.raises(KeyError):
            hub.run_once()
        assert not hub.readers

    def test_consolidated(self, hub, pipe):
        read, write = pipe
        got = []
        hub.consolidate_callback = lambda fds: got.append((fds, os.read(read, 1)))
        hub.add(read, None, Hub.READ, consolidate=True)
        os.write(write, b'xy')
        hub.run_once()
        hub.run_once()
        assert got == [([read], b'x'), ([read], b'y')]
        hub.remove(read)
        assert not hub.consolidate

    def test_no_descriptor(self, hub):
        with pytest.raises(ValueError):
            hub.add_reader(None, print)


class TestClose:
    def test_lets_go_of_everything_and_says_so(self, pipe):
        hub, closed = Hub(), []
        hub.on_close.add(closed.append)
        hub.add_reader(pipe[0], print)
        hub.call_soon(closed.append, 'left over')
        hub.close()
        assert closed == [hub, 'left over']
        assert not hub.readers
        assert not hub._watches

    def test_reset_and_used_again(self, hub, pipe):
        hub.add_reader(pipe[0], pytest.fail)
        hub.reset()
        calls = []
        hub.call_soon(calls.append, 1)
        hub.run_once()
        assert calls == [1]


class TestTexts:
    def test_active(self, hub, pipe):
        read, write = pipe
        hub.add_reader(read, print, 1)
        hub.add_writer(write, print)
        assert hub.repr_active() == f'({read})R!->print(1), ({write})W->print()'
        assert 'R:1 W:1 timers:0 ready:0' in repr(hub)

    def test_events(self, hub, pipe):
        read, _ = pipe
        hub.add_reader(read, print)
        assert hub.repr_events([(read, Hub.READ), (99, Hub.WRITE)]) == f'({read})R->{print!r}, (99)W->(GONE)'

    def test_callback_for(self, hub, pipe):
        hub.add_reader(pipe[0], print)
        assert debug.callback_for(hub, pipe[0], Hub.READ) is print
        assert debug.callback_for(hub, pipe[0], Hub.WRITE, None) is None
        with pytest.raises(KeyError):
            debug.callback_for(hub, pipe[0], Hub.WRITE)

    def test_consolidated(self, hub, pipe):
        hub.add(pipe[0], None, Hub.READ, consolidate=True)
        assert debug.repr_readers(hub) == [f'({pipe[0]})R!->consolidated']
