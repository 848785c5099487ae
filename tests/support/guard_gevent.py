"""What is watched round every test on gevent: its time, the errors of the hub, the greenlets it leaves."""
from __future__ import annotations

import contextlib
import gc
import weakref

import gevent
from gevent.exceptions import LoopExit
from gevent.util import format_run_info

from tests.support.guard_common import GRACE, HubErrorList, shown

#: Tasks of greenmq that may outlive a test: shared by a whole hub and documented as such.
LONG_LIVED: tuple[str, ...] = ()


def run_info() -> str:
    """Where every greenlet of every thread stands now."""
    return shown(lambda: '\n'.join(format_run_info()))


class GreenTimeout(gevent.Timeout):
    """Ends the block after `seconds`, having noted first where every greenlet stood.

    pytest-timeout alone would show the stack of the hub, whoever waits for what. The picture has to be
    taken before the exception is thrown: it unwinds the very frames that matter.
    """

    def __init__(self, seconds):
        # ref=False: our own timer must not hide from gevent that nobody else can wake the test.
        super().__init__(seconds, ref=False)
        self.report = ''

    @property
    def fired(self):
        return bool(self.report)

    def _on_expiration(self, prev_greenlet, ex):
        self.report = run_info()
        super()._on_expiration(prev_greenlet, ex)

    def __str__(self):
        return f'the test did not end within {self.seconds:g} s'


def settle():
    """Let the hub finish what is due.

    Patched, a closed selector leaves a watcher for the loop's next round, which would keep gevent from
    noticing a deadlock. Only `idle` waits for a whole round: `sleep(0)` comes back within the same one.
    """
    gevent.idle()


@contextlib.contextmanager
def limited(seconds, report):
    """Fail the block after `seconds`; `report(title, text)` gets the stacks of all greenlets."""
    timeout = GreenTimeout(seconds)
    timeout.start()
    try:
        settle()
        yield timeout
    except LoopExit:
        # Nobody can ever wake the test: gevent says so at once, and the stacks say why.
        report('greenlets when the hub had nothing left to do', run_info())
        raise
    finally:
        timeout.close()
        if timeout.fired:
            report(f'greenlets after {seconds:g} s', timeout.report)
    if timeout.fired:
        raise AssertionError(f'{timeout}, and swallowed the exception that told it so')


class HubErrors(HubErrorList):
    """What was given to `hub.handle_error`: (context, exception) of any hub of the process."""

    def __init__(self):
        super().__init__()
        self._hub_class = type(gevent.get_hub())
        self._original = None

    def __enter__(self):
        original = self._original = self._hub_class.handle_error

        def handle_error(hub, context, type, value, tb):
            if type is not None and not issubclass(type, hub.NOT_ERROR):
                self.append((repr(context), value if isinstance(value, BaseException) else type(value)))
            return original(hub, context, type, value, tb)

        self._hub_class.handle_error = handle_error
        return self

    def __exit__(self, *exc_info):
        self._hub_class.handle_error = self._original


class Spawned:
    """The greenlets started since this object was made, held weakly."""

    def __init__(self):
        self._seen = weakref.WeakSet()

    def __enter__(self):
        gevent.Greenlet.add_spawn_callback(self._seen.add)
        return self

    def __exit__(self, *exc_info):
        gevent.Greenlet.remove_spawn_callback(self._seen.add)

    def alive(self):
        """Those that still run or wait, but for greenmq's documented long-lived ones."""
        hub = gevent.get_hub()
        return [g for g in list(self._seen)
                if not g.ready() and g.parent is hub and getattr(g, 'name', '') not in LONG_LIVED]

    def leftover(self, grace=GRACE):
        """Those alive after `grace` seconds: the killed and the just woken get that long to end."""
        for wait, collect in ((0, False), (0.05, True), (grace, False)):
            if not self.alive():
                return []
            # The loop's idea of now is as old as its round: else what the collector took was the grace.
            gevent.get_hub().loop.update_now()
            gevent.joinall(self.alive(), timeout=wait)
            if collect:
                gc.collect()  # what waits for an object that only a dead traceback still holds
        return self.alive()


def kill(greenlets):
    """End what is left, with a bound."""
    gevent.killall(greenlets, timeout=5)
