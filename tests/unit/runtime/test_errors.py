"""An error that was handled is gone, with all that its traceback leads to, without the collector (P47)."""
from __future__ import annotations

import logging

import pytest

from greenmq import runtime
from tests.support import census
from tests.support.guard import settle

#: As all tests of what stays, and so not on eventlet, whose own frames and cancelled timers stay a while.
pytestmark = pytest.mark.slow


def _fail():
    raise ValueError('refused')


def _future():
    future = runtime.Future()
    future.set_exception(ValueError('refused'))
    return future


def _of_a_future():
    _future().result()


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


@pytest.mark.parametrize('failing', [_of_a_future, _of_a_thread, _of_a_worker, _of_a_task])
def test_a_handled_error_leaves_nothing_for_the_collector(failing, caplog):
    caplog.set_level(logging.CRITICAL, 'greenmq.runtime')  # a record of a task's end would keep its error

    def meet():
        with pytest.raises(ValueError, match='refused'):
            failing()
        settle()

    grown = census.growth(meet, 20)
    assert grown.objects_per_round < 1, str(grown)
