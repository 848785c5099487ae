"""`python -m tests.run_eventlet …` is `pytest …` in a process that eventlet patched before anything else.

eventlet has nothing like `python -m gevent.monkey --module`. With `--unpatched` first, eventlet runs but
patches nothing.
"""
from __future__ import annotations

import os
import sys
import warnings

os.environ['GREENMQ_RUNTIME'] = 'eventlet'
with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # it says of itself that it is deprecated
    import eventlet

arguments = sys.argv[1:]
if arguments[:1] == ['--unpatched']:
    del arguments[0]
else:
    eventlet.monkey_patch()

import logging  # noqa: E402

import pytest  # noqa: E402

threading = eventlet.patcher.original('threading')


def create_lock(handler, as_ever=logging.Handler.createLock):
    """A patched lock for which native threads wait wakes none: eventlet switches to another's greenlet."""
    as_ever(handler)
    handler.lock = threading.RLock()


logging.Handler.createLock = create_lock

if __name__ == '__main__':
    sys.exit(pytest.main(arguments))
