"""An error that was handled is gone, with all that its traceback leads to, without the collector (P47)."""
from __future__ import annotations

import logging

import pytest

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, InvalidArgument, NotFound, PublishUnconfirmed
from tests.support import census
from tests.support.guard import settle

#: As all tests of what stays, and so not on eventlet, whose own frames and cancelled timers stay a while.
pytestmark = pytest.mark.slow


class _Fields(OSError):
    def __init__(self, address):
        super().__init__(5, 'no answer')
        self.address = address


class _OnlyNamed(Exception):
    def __init__(self, *, queue):
        super().__init__(f'no queue {queue}')
        self.queue = queue


def _missing_file():
    open('/no/such/file')


def _bad_text():
    b'\xff'.decode()


def _with_a_cause():
    try:
        _bad_text()
    except UnicodeDecodeError as error:
        raise PublishUnconfirmed('no answer', sent='no') from error


def _without_context():
    try:
        _bad_text()
    except UnicodeDecodeError:
        raise InvalidArgument('priority', -1, '0 to 255') from None


def _raiser(error):
    def failing():
        raise error

    return failing


@pytest.mark.parametrize(
    'failing',
    [
        _missing_file,
        _bad_text,
        _with_a_cause,
        _without_context,
        _raiser(_Fields('10.0.0.1')),
        _raiser(_OnlyNamed(queue='orders')),
        _raiser(NotFound("no queue 'orders'", (50, 10), 'Queue.declare')),
        _raiser(ConnectionLost('closed')),
        _raiser(ImportError('no module', name='psycopg', path='/lib')),
    ],
)
def test_a_kept_error_is_raised_as_a_copy_that_says_the_same(failing):
    with pytest.raises(Exception) as caught:
        failing()
    kept, trace = caught.value, caught.value.__traceback__
    if hasattr(kept, 'add_note'):
        kept.add_note('told once')
    copies = [runtime.again(kept) for _ in range(2)]
    for told in copies:
        with pytest.raises(type(kept)) as caught:
            raise told
        assert caught.value is told
        assert (str(told), repr(told), told.args) == (str(kept), repr(kept), kept.args)
        assert vars(told) == vars(kept)
        for field in ('errno', 'filename', 'object', 'start', 'name', 'path'):
            assert getattr(told, field, None) == getattr(kept, field, None)
        assert told.__cause__ is kept.__cause__
        assert told.__suppress_context__ == kept.__suppress_context__
    assert kept.__traceback__ is trace
    if hasattr(kept, 'add_note'):
        copies[0].add_note('the first alone')
        assert kept.__notes__ == copies[1].__notes__ == ['told once']


def _fail():
    raise ValueError('refused')


def _future():
    future = runtime.Future()
    future.set_exception(ValueError('refused'))
    return future


def _of_a_future():
    _future().result()


def _of_a_local():
    future = _future()
    future.result()


def _of_a_thread():
    runtime.offload(_fail, deadline=10)


def _of_a_worker():
    worker = runtime.Worker('failing')
    try:
        worker.call(_fail, deadline=10)
    finally:
        worker.close()


def _of_a_task():
    task = runtime.spawn(_fail, name='failing')
    assert task.join(10)
    raise ValueError(str(task.error))


@pytest.mark.parametrize('failing', [_of_a_future, _of_a_local, _of_a_thread, _of_a_worker, _of_a_task])
def test_a_handled_error_leaves_nothing_for_the_collector(failing, caplog):
    caplog.set_level(logging.CRITICAL, 'greenmq.runtime')  # a record of a task's end would keep its error

    def meet():
        with pytest.raises(ValueError, match='refused'):
            failing()
        settle()

    grown = census.growth(meet, 20)
    assert grown.objects_per_round < 1, str(grown)
