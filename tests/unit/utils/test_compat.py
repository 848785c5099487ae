"""What programs still call from kombu.utils.compat."""

from __future__ import annotations

import gc
import io
import os
import socket
import sys
from contextlib import contextmanager

import pytest

from greenmq import runtime
from greenmq.utils import compat


def test_coro_has_run_to_its_first_yield():
    @compat.coro
    def echo(start):
        value = yield
        while True:
            value = yield start + value

    assert echo(10).send(5) == 15


class TestDetectEnvironment:
    @pytest.mark.parametrize(
        ('module', 'expected'),
        [('socket', 'default'), ('gevent._socket3', 'gevent'), ('eventlet.greenio.base', 'eventlet')],
    )
    def test_by_the_socket_class(self, monkeypatch, module, expected):
        monkeypatch.setattr(socket, 'socket', type('socket', (), {'__module__': module}))
        assert compat.detect_environment() == compat._detect_environment() == expected

    def test_here(self):
        assert compat.detect_environment() == ('gevent' if runtime.patched().socket else 'default')


def test_get_gevent_concurrent_error(monkeypatch):
    import gevent.exceptions

    assert compat.get_gevent_concurrent_error() is gevent.exceptions.ConcurrentObjectUseError
    monkeypatch.delitem(sys.modules, 'gevent.exceptions')
    assert compat.get_gevent_concurrent_error() is None


def test_entrypoints():
    found = dict(compat.entrypoints('pytest11'))  # loaded already; others may lack what they import
    assert found
    assert all(loaded is not None for loaded in found.values())
    assert list(compat.entrypoints('greenmq.nobody')) == []


def test_fileno():
    with open(os.devnull) as file:
        assert compat.fileno(file) == compat.maybe_fileno(file) == file.fileno()
    assert compat.fileno(3) == 3
    assert compat.maybe_fileno(io.StringIO()) is None
    assert compat.maybe_fileno(object()) is None
    assert compat.maybe_fileno(None) is None
    with pytest.raises(ValueError):
        compat.fileno(None)


def test_nested():
    log = []

    @contextmanager
    def manager(name):
        log.append(name)
        try:
            yield name
        finally:
            log.append(f'-{name}')

    with pytest.raises(KeyError), compat.nested(manager('a'), manager('b')) as values:
        assert values == ['a', 'b']
        raise KeyError
    assert log == ['a', 'b', '-b', '-a']


class TestRegisterAfterFork:
    class Thing:
        pass

    @pytest.fixture(autouse=True)
    def _own_registrations(self, monkeypatch):
        registered = []
        monkeypatch.setattr(runtime, 'after_fork', registered.append)
        monkeypatch.setattr(compat, '_hooked', False)
        monkeypatch.setattr(compat, '_forked', type(compat._forked)())
        return registered

    def test_called_in_order_while_the_object_lives(self, caplog):
        called = []
        first, second, gone = self.Thing(), self.Thing(), self.Thing()
        compat.register_after_fork(second, lambda obj: called.append(obj))
        compat.register_after_fork(gone, lambda obj: called.append('gone'))
        compat.register_after_fork(first, lambda obj: 1 / 0)
        compat.register_after_fork(first, lambda obj: called.append(obj))
        del gone
        gc.collect()
        compat._run_after_fork()
        assert called == [second, first]
        assert 'ZeroDivisionError' in caplog.text

    def test_a_forked_child_runs_it(self, monkeypatch):
        monkeypatch.undo()
        read, write = os.pipe()
        thing = self.Thing()
        compat.register_after_fork(thing, lambda obj: os.write(write, b'ran'))
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        assert os.read(read, 10) == b'ran'
        os.close(read)
