"""gevent's words for the tests, on the runtime under test: `green.spawn`, `green.sleep`, `green.Timeout`, …

On gevent each is gevent's own. A test that is about gevent itself imports gevent, and does not run on
eventlet.
"""
from __future__ import annotations

import os

from greenmq import runtime

RUNTIME = os.environ.get('GREENMQ_RUNTIME') or 'gevent'

if RUNTIME == 'eventlet':
    from tests.support.green_eventlet import (
        AsyncResult,
        Event,
        Greenlet,
        GreenletExit,
        Timeout,
        getcurrent,
        idle,
        joinall,
        killall,
        run_callback,
        sleep,
        socket,
        spawn,
        spawn_later,
        spawn_raw,
        subprocess,
    )
else:
    from gevent import (
        Greenlet,
        GreenletExit,
        Timeout,
        get_hub,
        getcurrent,
        idle,
        joinall,
        killall,
        sleep,
        socket,
        spawn,
        spawn_later,
        spawn_raw,
        subprocess,
    )
    from gevent.event import AsyncResult, Event

    def run_callback(function, *args):
        """Have the hub call it in its next round."""
        get_hub().loop.run_callback(function, *args)


def in_thread(function, *args):
    """Call it in a native thread, which has a hub of its own; the hub of this one goes on."""
    return runtime.offload(function, *args, own_thread=True)


#: What the library's own tasks and ours are instances of.
GREENLETS = Greenlet.__base__ if RUNTIME == 'eventlet' else Greenlet

#: Options of a python that shall say nothing of eventlet's being deprecated.
QUIET = [] if RUNTIME == 'gevent' else [
    '-W', 'ignore::Warning:greenmq.runtime.hub_eventlet', '-W', 'ignore::Warning:__main__',
    '-W', 'ignore::Warning:tests.support.green_eventlet',
]  # fmt: skip

#: Whether this process is patched.
PATCHED = runtime.patched().socket

#: How a program is patched before anything else, as its first lines.
PATCH_ALL = {
    'gevent': 'from gevent import monkey; monkey.patch_all()\n',
    'eventlet': 'import eventlet; eventlet.monkey_patch()\n',
}[RUNTIME]

__all__ = (
    'GREENLETS', 'PATCHED', 'PATCH_ALL', 'QUIET', 'RUNTIME', 'AsyncResult', 'Event', 'Greenlet',
    'GreenletExit', 'Timeout', 'getcurrent', 'idle', 'in_thread', 'joinall', 'killall',
    'run_callback', 'sleep', 'socket',
    'spawn', 'spawn_later', 'spawn_raw', 'subprocess',
)  # fmt: skip
