"""The loop, hidden: tasks, locks, deadlines, streams and native threads, on gevent or another hub library.

What holds for every name here:

*Which library.* gevent, unless the process is patched by eventlet, or `use()` or the variable GREENMQ_RUNTIME
says otherwise. It is chosen when a name is first *used*; importing decides nothing. Whether and when the
process is monkey patched makes no difference.

*Switching.* With greenlets a switch point cannot be seen in the code, so the docstring of what may switch
says it. Without a line "Switches:" no other task of this thread can run before the call returns. A call that
would have to wait in a hub callback raises `WouldBlock` (see `in_hub`).

*Cancellation.* `Task.kill()` never switches: it leaves a TaskExit to be raised where the task waits, or keeps
the task from starting. TaskExit and a Timeout of the caller are no `Exception`s and pass through everything
here untouched. What each call leaves behind then is said in its docstring. A wait that was already answered
when the kill came gives the answer back to the `decline` function of `Waiter.wait` and `Handoff.wait`.

*Order.* Who waits first is served first.

*Threads.* All state belongs to the hub of the thread that made it. Another thread may call `post` and nothing
else; it gets `WrongHub` where that can be noticed. `take_over` is how something changes its thread.

*Time.* Each wait takes None (no limit), seconds, or a `Deadline`, and raises `TimeoutError` (socket.timeout).

*Fork.* In the child the hub is new, inherited streams are closed without a byte, tasks end (without
`on_exit`; see `after_fork`), queued callbacks and timers are dropped, and every copied greenlet that waits
here gets `Forked`. Two exceptions: the task that forked goes on, and a main greenlet that waits while another
one forks stays parked until nothing else is left to run in that child, since an error there would end the
process.
"""

from __future__ import annotations

from greenmq.runtime.children import exit_code as exit_code
from greenmq.runtime.children import fork_child as fork_child
from greenmq.runtime.children import output_of as output_of
from greenmq.runtime.clock import NEVER as NEVER
from greenmq.runtime.clock import Deadline as Deadline
from greenmq.runtime.clock import Timer as Timer
from greenmq.runtime.clock import call_later as call_later
from greenmq.runtime.clock import hub_id as hub_id
from greenmq.runtime.clock import in_hub as in_hub
from greenmq.runtime.clock import is_here as is_here
from greenmq.runtime.clock import monotonic as monotonic
from greenmq.runtime.clock import post as post
from greenmq.runtime.clock import run_soon as run_soon
from greenmq.runtime.descriptor import wait_ready as wait_ready
from greenmq.runtime.dial import addresses_of as addresses_of
from greenmq.runtime.dial import dial as dial
from greenmq.runtime.dial import dial_unix as dial_unix
from greenmq.runtime.epoch import fork_epoch as fork_epoch
from greenmq.runtime.errors import again as again
from greenmq.runtime.errors import forget_traces as forget_traces
from greenmq.runtime.exits import at_exit as at_exit
from greenmq.runtime.fork import after_fork as after_fork
from greenmq.runtime.fork import fork_guard as fork_guard
from greenmq.runtime.future import Future as Future
from greenmq.runtime.limits import Limits as Limits
from greenmq.runtime.losses import DialError as DialError
from greenmq.runtime.losses import DialRefused as DialRefused
from greenmq.runtime.moving import take_over as take_over
from greenmq.runtime.net import Stream as Stream
from greenmq.runtime.offload import offload as offload
from greenmq.runtime.once import Once as Once
from greenmq.runtime.patching import Patched as Patched
from greenmq.runtime.patching import patched as patched
from greenmq.runtime.periodic import every as every
from greenmq.runtime.seam import library as _library
from greenmq.runtime.seam import name as name
from greenmq.runtime.seam import use as use
from greenmq.runtime.shared import SharedStream as SharedStream
from greenmq.runtime.strangers import speaks as speaks
from greenmq.runtime.sync import Event as Event
from greenmq.runtime.sync import Local as Local
from greenmq.runtime.sync import Lock as Lock
from greenmq.runtime.sync import NativeLock as NativeLock
from greenmq.runtime.sync import RLock as RLock
from greenmq.runtime.sync import Semaphore as Semaphore
from greenmq.runtime.tasks import Task as Task
from greenmq.runtime.tasks import TaskExit as TaskExit
from greenmq.runtime.tasks import TaskGroup as TaskGroup
from greenmq.runtime.tasks import current as current
from greenmq.runtime.tasks import current_name as current_name
from greenmq.runtime.tasks import is_task as is_task
from greenmq.runtime.tasks import link as link
from greenmq.runtime.tasks import spawn as spawn
from greenmq.runtime.threadend import at_thread_end as at_thread_end
from greenmq.runtime.threadend import end_hub_with_thread as end_hub_with_thread
from greenmq.runtime.tls import TLSCodec as TLSCodec
from greenmq.runtime.tls import TLSOptions as TLSOptions
from greenmq.runtime.waiter import Handoff as Handoff
from greenmq.runtime.waiter import Waiter as Waiter
from greenmq.runtime.waiter import sleep as sleep
from greenmq.runtime.watchdog import Ticker as Ticker
from greenmq.runtime.watchdog import Watchdog as Watchdog
from greenmq.runtime.worker import Worker as Worker


def timeout_class() -> type[BaseException]:
    """The hub library's own Timeout, a BaseException that a caller may let fire in any wait here.

    Source: gevent.Timeout.
    """
    return _library.Timeout


def wsgi_server(address: tuple[str, int], application: object, log: object = None) -> object:
    """Make the hub library's WSGI server: `start()`, `stop(timeout)`, `serve_forever()`, `address`.

    For small answers: a connection has 5 seconds for all of it, and of more than 64 the oldest is closed.

    Arguments:
        address (tuple[str, int]): where to listen; port 0 takes a free one.
        application (Callable): a WSGI application; each request runs in a greenlet of its own.
        log (object): has `write` or is a logger; None logs nothing.
    Switches: no; `serve_forever` and `stop` do.
    Source: gevent.pywsgi.WSGIServer.
    """
    return _library.wsgi_server(address, application, log)


def why_not_served(host: str, port: int) -> str | None:
    """Say why nothing can listen there, e.g. because somebody else does; None if it can."""
    import _socket

    family = _socket.AF_INET6 if ':' in host else _socket.AF_INET
    listener = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as exc:
        return exc.strerror or str(exc)
    finally:
        listener.close()
    return None
