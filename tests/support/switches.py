"""Switches of greenlets: count them, and throw an exception into a greenlet at the k-th.

Raising inside the trace function would hit whoever is running and end the tracing, so the trace only counts
and leaves the throw to the hub, which is also how a kill and a timeout reach a greenlet in real life.
"""
from __future__ import annotations

import contextlib

import greenlet

from tests.support import green

#: What a caller can be hit by: a kill, and a timeout of somebody above that is not ours to swallow.
KINDS = (greenlet.GreenletExit, green.Timeout)


@contextlib.contextmanager
def tracing(function):
    """Call `function(event, origin, target)` at each switch of this thread; an earlier trace goes on."""
    previous = greenlet.gettrace()

    def trace(event, args):
        if previous is not None:
            previous(event, args)
        if event in ('switch', 'throw'):
            function(event, *args)

    greenlet.settrace(trace)
    try:
        yield
    finally:
        greenlet.settrace(previous)


class SwitchCounter:
    """How often a greenlet of this thread was left in the block: `with SwitchCounter() as switches: …`."""

    def __init__(self, of=None):
        self.count = 0
        self._of = of
        self._tracing = None

    def __enter__(self):
        self._tracing = tracing(self._note)
        self._tracing.__enter__()
        return self

    def __exit__(self, *exc_info):
        self._tracing.__exit__(*exc_info)

    def _note(self, event, origin, target):
        if self._of is None or origin is self._of:
            self.count += 1


@contextlib.contextmanager
def assert_no_switch():
    """The block must not leave the running greenlet: what the mark `# no switch` promises."""
    with SwitchCounter(of=green.getcurrent()) as switches:
        yield
    assert switches.count == 0, f'{switches.count} switches in a stretch that promises none'


@contextlib.contextmanager
def assert_switches():
    """The block must leave the running greenlet: the counterpart, for what promises to wait."""
    with SwitchCounter(of=green.getcurrent()) as switches:
        yield
    assert switches.count, 'no switch in a stretch that was to wait'


class Outcome:
    """How a call ended: `value`, or `error` that it raised."""

    def __init__(self, value=None, error=None):
        self.value = value
        self.error = error

    def __repr__(self):
        return f'<raised {self.error!r}>' if self.error is not None else f'<returned {self.value!r}>'


class Injection:
    """One run of a call that is hit at its k-th switch.

    With `rounds` 0 the throw is in the hub's queue before the caller switches, so nothing can wake the caller
    first. 1, 2, … queue it after the switch and that many rounds later: it lands where somebody has already
    woken the caller, or at a later switch. `twice` throws again at the switch that follows: undo steps that
    wait would be cut in half there.
    """

    def __init__(self, k, kind, rounds=0, twice=False):
        self.k = k
        self.kind = kind
        self.rounds = rounds
        self.twice = twice
        self.switches = 0
        self.thrown = []
        self.outcome = None
        self._victim = None

    def __repr__(self):
        again = ', again at the next' if self.twice else ''
        return f'<{self.kind.__name__} at switch {self.k}, {self.rounds} rounds later{again}>'

    @property
    def reached(self):
        """Whether the call had a k-th switch."""
        return self.switches >= self.k

    def run(self, function, *args, **kwargs):
        """Call it in a greenlet of its own, hit it, and give its Outcome."""
        outcome = self.outcome = Outcome()

        def body():
            try:
                outcome.value = function(*args, **kwargs)
            except BaseException as exc:  # what is injected is no Exception, and ends here
                outcome.error = exc

        self._victim = green.Greenlet(body)
        with tracing(self._note):
            self._victim.start()
            self._victim.join()
        self._judge(outcome)
        return outcome

    def _note(self, event, origin, target):
        if origin is self._victim and not self._victim.dead:
            self.switches += 1
            if self.rounds and self.switches == self.k:
                self._schedule(self.rounds - 1)
        elif target is self._victim:
            # It is about to run: a throw that is queued now comes before any wake it arranges for itself.
            early = not self.rounds and self.switches == self.k - 1
            if (early and not self.thrown) or (self.twice and len(self.thrown) == 1):
                self._schedule(0)

    def _schedule(self, rounds):
        green.run_callback(self._hit, rounds, len(self.thrown))

    def _hit(self, rounds, earlier):
        if rounds:
            green.run_callback(self._hit, rounds - 1, earlier)
        elif not self._victim.dead and len(self.thrown) == earlier:
            exc = self.kind()
            self.thrown.append(exc)
            self._victim.throw(exc)

    def _judge(self, outcome):
        if self.thrown:
            assert outcome.error in self.thrown, f'{self!r} was swallowed: {outcome!r}'


def injections(kinds=KINDS, rounds=(0, 1, 2), twice=(False, True), limit=400):
    """Every injection in turn: for each kind, k = 1, 2, … until the call is through before its k-th switch.

    The loop body prepares a fresh world, calls `injection.run(call)` and checks what is left.
    """
    for kind in kinds:
        for later in rounds:
            for again in twice:
                for k in range(1, limit + 1):
                    injection = Injection(k, kind, later, again)
                    yield injection
                    if not injection.reached:
                        break
                else:
                    raise AssertionError(f'still switching after {limit} switches: {injection!r}')


def cuts(must_switch=True, may_raise=(), **options):
    """Each injection; what was not hit must have succeeded, and something must have been hit."""
    hit = 0
    for injection in injections(**options):
        yield injection
        error = injection.outcome.error
        if error is not None and not injection.thrown and not isinstance(error, may_raise):
            raise error
        hit += len(injection.thrown)
    assert hit or not must_switch, 'the call never switched'
