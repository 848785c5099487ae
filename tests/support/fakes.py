"""Three brokers inside the process that hold the base of transports to its contract: `lease`, `look`, `push`.

``fake-lease://host/name``: a long poll for one queue at a time, deliveries under a lease, at most ten
messages a call, partial failures. It must not be cut: who kills its `take` loses the next message for a
whole lease, as with SQS.
``fake-look://host/name``: it can only be looked at, for all queues at once; what was taken belongs to the
client until it's settled, and comes back when that is gone.

``fake-push://host/name``: it pushes as much as it was asked for; a lost connection gives back what was out.

Connections to one name share one `Broker`, whose `faults` tell it to fail, stall, cut, answer late or
answer twice.
"""

from __future__ import annotations

import bisect
import itertools
import weakref

from greenmq import runtime
from greenmq.exceptions import AccessRefused, ConnectionLost, NotFound
from greenmq.transport import TRANSPORT_ALIASES
from greenmq.transport.driver import REQUEUE, UNSEEN, Driver, Fault, Taken, Transport
from greenmq.transport.driver.errors import bounded

LEASE = 5.0

_brokers = {}


def broker_of(name):
    return _brokers.setdefault(name.strip('/') or '/', Broker())


def reset():
    """Empty all brokers; long polls end, since nobody may wait longer than a test."""
    for broker in _brokers.values():
        broker.ended = True
        broker._wake()
    _brokers.clear()


class ClientError(Exception):
    """What the fake client raises: nothing of greenmq's, as with a real one."""

    def __init__(self, code):
        super().__init__(f'the fake broker says {code}')
        self.code = code


class Planned:
    """What happens to the next calls of an operation."""

    def __init__(self, kind, value, times):
        self.kind, self.value, self.times = kind, value, times


class Faults:
    """Told what goes wrong; asked by every call."""

    def __init__(self):
        self._planned = {}
        self.calls = []  # (operation, size), in their order

    def fail(self, operation, code='unavailable', times=1):
        """The call fails, and nothing was done."""
        self._plan(operation, 'fail', code, times)

    def cut(self, operation, times=1):
        """The broker does it, and the answer never comes: the connection is cut."""
        self._plan(operation, 'cut', 'lost', times)

    def stall(self, operation, seconds, times=1):
        """The call hangs for so long, whatever its deadline, and then is done."""
        self._plan(operation, 'stall', seconds, times)

    def late(self, operation, seconds, times=1):
        """It is done at once, and answered so much later."""
        self._plan(operation, 'late', seconds, times)

    def twice(self, operation, times=1):
        """It is done twice."""
        self._plan(operation, 'twice', None, times)

    def partly(self, operation, at, code='unavailable', times=1):
        """One entry of the batch fails."""
        self._plan(operation, 'partly', (at, code), times)

    def clear(self):
        """Nothing goes wrong from now on."""
        self._planned.clear()

    def _plan(self, operation, kind, value, times):
        self._planned.setdefault(operation, []).append(Planned(kind, value, times))

    def take(self, operation):
        planned = self._planned.get(operation)
        if not planned:
            return None
        fault = planned[0]
        fault.times -= 1
        if fault.times <= 0:
            planned.pop(0)
        return fault

    def count(self, operation):
        return sum(1 for name, _ in self.calls if name == operation)


class Stored:
    """One message in a queue, or taken out of it."""

    def __init__(self, number, payload, priority=0, due=0.0):
        self.number, self.payload, self.priority, self.due = number, payload, priority, due
        self.count = 0

    @property
    def order(self):
        return -self.priority, self.number


class Broker:
    """Queues, and what was taken of them."""

    def __init__(self):
        self.queues = {}
        self.out = {}  # receipt → [queue, Stored, owner, until]
        self.bindings = []
        self.faults = Faults()
        self.down = self.ended = False
        self.cuts = 0  # takes that were killed while they waited at the broker
        self._numbers = itertools.count(1)
        self._receipts = itertools.count(1)
        self._waiters = []

    # ---- what every call goes through

    def call(self, operation, size, work):
        """A round trip, and what the faults make of it."""
        self.faults.calls.append((operation, size))
        runtime.sleep(0)
        if self.down:
            raise ClientError('lost')
        fault = self.faults.take(operation)
        kind = fault.kind if fault else None
        if kind == 'fail':
            raise ClientError(fault.value)
        if kind == 'stall':
            runtime.sleep(fault.value)
        result = work()
        if kind == 'twice':
            again = work()
            result = [*result, *again] if isinstance(result, list) and operation == 'take' else again
        if kind == 'cut':
            raise ClientError('lost')
        if kind == 'late':
            runtime.sleep(fault.value)
        if kind == 'partly':
            at, code = fault.value
            result = list(result or [None] * size)
            result[at] = ClientError(code)
        runtime.sleep(0)
        return result

    # ---- messages

    def put(self, queue, payload, priority=0, delay=0.0):
        if queue not in self.queues:
            raise ClientError('no queue')
        due = runtime.monotonic() + delay if delay else 0.0
        self._enter(queue, Stored(next(self._numbers), payload, priority, due))

    def _enter(self, queue, stored):
        if queue in self.queues:
            bisect.insort(self.queues[queue], stored, key=lambda each: each.order)
            self._wake()

    def _wake(self):
        waiters, self._waiters = self._waiters, []
        for hub, waiter in waiters:
            if runtime.is_here(hub):
                waiter.wake()
            else:
                runtime.post(hub, waiter.wake)

    def wait(self, seconds):
        waiter = runtime.Waiter('no message')
        self._waiters.append((runtime.hub_id(), waiter))
        try:
            waiter.wait(seconds)
        except TimeoutError:
            return False
        return True

    def take(self, queues, n, owner, lease=None):
        now = runtime.monotonic()
        self.end_leases(now)
        found = []
        for queue in queues:
            waiting = self.queues.get(queue, [])
            for stored in [stored for stored in waiting if stored.due <= now][: n - len(found)]:
                waiting.remove(stored)
                receipt = next(self._receipts)
                self.out[receipt] = [queue, stored, owner, now + lease if lease else None]
                found.append((queue, stored, receipt))
        return found

    def end_leases(self, now):
        for receipt, (queue, stored, _, until) in list(self.out.items()):
            if until is not None and until <= now:
                del self.out[receipt]
                stored.count += 1
                self._enter(queue, stored)

    def give_back(self, receipt, counted, payload=None):
        queue, stored, _, _ = self.out.pop(receipt)
        stored.count += counted
        if payload is not None:
            stored.payload = payload
        self._enter(queue, stored)

    def owner_gone(self, owner):
        for receipt, (_, _, who, _) in list(self.out.items()):
            if who is owner:
                self.give_back(receipt, 0)


class FakeDriver(Driver):
    """What both have in common."""

    errors = {
        lambda error: isinstance(error, ClientError) and error.code == 'lost': ConnectionLost,
        lambda error: isinstance(error, ClientError) and error.code == 'refused': Fault(ConnectionLost, 'no'),
        lambda error: isinstance(error, ClientError) and error.code == 'no queue': NotFound,
        lambda error: isinstance(error, ClientError) and error.code == 'forbidden': AccessRefused,
    }
    max_delay = None

    def __init__(self, *args):
        super().__init__(*args)
        self.broker = broker_of(self.place.virtual_host)

    def _call(self, operation, work, size=1):
        return self.broker.call(operation, size, work)

    def open(self, deadline):
        self._call('open', lambda: None)

    def ping(self, deadline):
        self._call('ping', lambda: None)

    def put(self, items, deadline):
        def work():
            outcomes = []
            for item in items:
                try:
                    outcomes.append(self.broker.put(item.queue, item.payload, item.priority, item.delay))
                except ClientError as error:
                    outcomes.append(error)
            return outcomes

        return self._call('put', work, len(items))

    def make(self, queue, facts, deadline):
        self._call('make', lambda: self.broker.queues.setdefault(queue, []))

    def has(self, queue, deadline):
        return self._call('has', lambda: queue in self.broker.queues)

    def size(self, queue, deadline):
        return self._call('size', lambda: len(self.broker.queues.get(queue, ())))

    def purge(self, queue, deadline):
        def work():
            waiting = self.broker.queues.get(queue, [])
            count = len(waiting)
            waiting.clear()
            return count

        return self._call('purge', work)

    def delete(self, queue, deadline):
        self._call('delete', lambda: self.broker.queues.pop(queue, None))


class LeaseDriver(FakeDriver):
    """A leased long poll for one queue, counted by the broker."""

    delivery = 'wait'
    groups = 'each'
    uncut = True
    wait_seconds = 2.0
    take_batch = 10
    lease_seconds = LEASE
    settle_batch = 10
    settle_hold = 0.02
    put_batch = 10
    max_puts = 2

    def take(self, queues, n, max_bytes, seconds):
        assert len(queues) == 1 and n <= self.take_batch, (queues, n)
        deadline = runtime.Deadline.after(seconds)

        def work():
            return self.broker.take(queues, n, self, self.lease_seconds)

        found = self._call('take', work)
        while not found and not deadline.expired() and not self.broker.ended:
            try:
                came = self.broker.wait(min(deadline.remaining(), 0.25))
            except BaseException:
                self.broker.cuts += 1
                raise
            found = self._call('look', work) if came else work()
        return [Taken(queue, stored.payload, receipt, stored.count) for queue, stored, receipt in found]

    def settle(self, done, back, deadline):
        assert len(done) + len(back) <= self.settle_batch

        def work():
            gone = []
            for taken in done:
                if self.broker.out.pop(taken.receipt, None) is None:
                    gone.append((taken, None))
            for taken, fate in reversed(back):
                if taken.receipt in self.broker.out:
                    self.broker.give_back(taken.receipt, fate == REQUEUE)
            return gone

        result = self._call('settle', work, len(done) + len(back))
        failed = [
            (([*done, *(taken for taken, _ in back)])[at], error)
            for at, error in enumerate(result)
            if isinstance(error, Exception)
        ]
        return failed or [entry for entry in result if isinstance(entry, tuple)]

    def extend(self, takens, seconds, deadline):
        def work():
            until, gone = runtime.monotonic() + seconds, []
            for taken in takens:
                if taken.receipt in self.broker.out:
                    self.broker.out[taken.receipt][3] = until
                else:
                    gone.append(taken)
            return gone

        return self._call('extend', work, len(takens))


class LookDriver(FakeDriver):
    """A plain look at all queues; what was taken is the client's until it goes."""

    delivery = 'poll'
    groups = 'all'
    survives_loss = False
    shared_bindings = True

    def bindings(self, exchange, deadline):
        known = self.broker.bindings
        return self._call('bindings', lambda: [each for each in known if each.exchange == exchange])

    def bind(self, binding, deadline):
        def work():
            if binding not in self.broker.bindings:
                self.broker.bindings.append(binding)

        self._call('bind', work)

    def unbind(self, binding, deadline):
        def work():
            self.broker.bindings[:] = [
                each for each in self.broker.bindings
                if (each.exchange, each.routing_key, each.queue) != (
                    binding.exchange, binding.routing_key, binding.queue)
                or binding.arguments and each.arguments != binding.arguments
            ]

        self._call('unbind', work)

    def open(self, deadline):
        super().open(deadline)
        self.broker.owner_gone(self)

    def close(self, deadline):
        self.broker.owner_gone(self)

    def take(self, queues, n, max_bytes, seconds):
        held = []

        def work():
            held[:] = self.broker.take(queues, n, self)
            return held

        try:
            return [
                Taken(queue, stored.payload, receipt) for queue, stored, receipt in self._call('take', work)
            ]
        except BaseException:
            for _, _, receipt in held:  # killed, or cut: nobody will ever settle these
                if receipt in self.broker.out:
                    self.broker.give_back(receipt, 0)
            raise

    def settle(self, done, back, deadline):
        def work():
            for taken in done:
                self.broker.out.pop(taken.receipt, None)
            for taken, fate in reversed(back):
                if taken.receipt in self.broker.out:
                    payload = None if fate == UNSEEN else self.again(taken, fate)
                    self.broker.give_back(taken.receipt, 0, payload)

        self._call('settle', work, len(done) + len(back))


class PushDriver(FakeDriver):
    """Pushes within a credit for each queue; publishes go out by the publisher's own greenlet."""

    delivery = 'push'
    survives_loss = False
    put_direct = True

    def __init__(self, *args):
        super().__init__(*args)
        self.credit = {}
        self.task = None

    def open(self, deadline):
        super().open(deadline)
        self.broker.owner_gone(self)
        self.credit.clear()
        if self.task is not None:
            self.task.kill()
        self.task = runtime.spawn(_push, weakref.ref(self), self.broker, name='fake-push', owner=self)

    def close(self, deadline):
        self.task.kill()
        self.task.join(deadline)
        self.broker.owner_gone(self)

    def forget(self):
        self.credit.clear()

    def want(self, queue, n):
        self.credit[queue] = n
        self.broker._wake()

    def put(self, items, deadline):
        put = super().put
        return bounded('put', deadline, put, items, deadline)  # it keeps its deadline by itself

    def take(self, queues, n, max_bytes, seconds):
        return LookDriver.take(self, queues, n, max_bytes, seconds)

    settle = LookDriver.settle

    def push(self):
        for queue, credit in list(self.credit.items()):
            found = self.broker.take([queue], credit, self) if credit else ()
            self.credit[queue] = credit - len(found)
            self.broker.faults.calls.extend(('push', 1) for _ in found)
            self.owner.arrived([Taken(queue, stored.payload, receipt) for queue, stored, receipt in found])


def _push(ref, broker):
    while not broker.ended:
        driver = ref()
        if driver is None:
            return
        if not broker.down:
            driver.push()
        del driver
        broker.wait(0.05)


class LeaseTransport(Transport):
    Driver = LeaseDriver
    driver_type = driver_name = 'fake-lease'
    default_port = 1


class PushTransport(Transport):
    Driver = PushDriver
    driver_type = driver_name = 'fake-push'
    default_port = 1


class LookTransport(Transport):
    Driver = LookDriver
    driver_type = driver_name = 'fake-look'
    default_port = 1


TRANSPORT_ALIASES['fake-lease'] = 'tests.support.fakes:LeaseTransport'
TRANSPORT_ALIASES['fake-push'] = 'tests.support.fakes:PushTransport'
TRANSPORT_ALIASES['fake-look'] = 'tests.support.fakes:LookTransport'
