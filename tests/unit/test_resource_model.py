"""Anything may happen to a pool in any order: its numbers stay true and nobody is forgotten."""
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from greenmq import runtime
from greenmq.resource import Resource
from tests.support import green


class Thing:
    def __init__(self, pool):
        self.pool = pool
        self.alive = True
        pool.living.add(self)

    def close(self):
        self.pool.living.discard(self)


class Pool(Resource):
    gate = None
    fail = False
    renewing = 0

    def __init__(self, limit):
        self.living = set()
        super().__init__(limit, preload=1, max_idle=3600, max_age=7200)

    def setup(self):
        pass

    def new(self):
        thing = Thing(self)  # what is half open counts, too, until it is closed
        try:
            if self.gate is not None:
                self.gate.wait()
            if self.fail:
                raise OSError('refused')
        except BaseException:
            thing.close()
            raise
        return thing

    def is_alive(self, resource):
        return resource.alive

    def _renew(self):
        self.renewing += 1
        try:
            super()._renew()
        finally:
            self.renewing -= 1


class Client:
    """One greenlet that asks for a thing and keeps it, and what became of it."""

    def __init__(self, pool, order):
        self.thing = self.ended = None
        self.leave = runtime.Event()
        self.greenlet = green.spawn(self.run, pool, order)

    def run(self, pool, order):
        try:
            self.thing = pool.acquire(timeout=3600)
            order.append(self)
        except BaseException as exc:
            self.ended = exc
            return
        self.leave.wait()

    @property
    def waits(self):
        return self.thing is None and self.ended is None


class PoolMachine(RuleBasedStateMachine):

    def __init__(self):
        super().__init__()
        self.pool = Pool(2)
        self.clients = []
        self.leavers = []
        self.order = []

    def settle(self):
        # enough for a place to be handed down a line of waiters whose openings fail one after the other
        for _ in range(60):
            green.sleep(0)
        # those that gave back what they had end only now, and must not give back anything twice
        while self.leavers:
            self.leavers.pop().leave.set()
        for _ in range(3):
            green.sleep(0)

    def waiting(self):
        return [client for client in self.clients if client.waits]

    def holding(self):
        return [client for client in self.clients if client.thing is not None]

    def pick(self, data, clients):
        return data.draw(st.sampled_from(clients))

    def let_go(self, client):
        thing, client.thing = client.thing, None
        self.clients.remove(client)
        self.leavers.append(client)
        return thing

    @rule(number=st.integers(1, 3))
    def ask(self, number):
        self.clients += [Client(self.pool, self.order) for _ in range(number)]
        self.settle()

    @precondition(lambda self: self.holding())
    @rule(data=st.data())
    def release_twice(self, data):
        lease = self.let_go(self.pick(data, self.holding())).release
        lease()
        self.settle()
        lease()
        self.settle()

    @precondition(lambda self: self.holding())
    @rule(data=st.data())
    def replace(self, data):
        self.pool.replace(self.let_go(self.pick(data, self.holding())))
        self.settle()

    @precondition(lambda self: self.holding())
    @rule(data=st.data())
    def die_in_use(self, data):
        thing = self.let_go(self.pick(data, self.holding()))
        thing.alive = False
        thing.release()
        self.settle()

    @precondition(lambda self: self.holding())
    @rule(data=st.data(), killed=st.booleans())
    def end_while_holding(self, data, killed):
        client = self.pick(data, self.holding())
        before = self.pool.stats().discarded.get('orphaned', 0)
        thing, client.thing = client.thing, None
        self.clients.remove(client)
        if killed:
            client.greenlet.kill(block=False)
        else:
            client.leave.set()
        self.settle()
        assert thing not in self.pool.living
        assert self.pool.stats().discarded['orphaned'] == before + 1

    @precondition(lambda self: self.pool.stats().free)
    @rule(data=st.data(), old=st.booleans())
    def time_passes(self, data, old):
        reaper = self.pool._reaper
        thing = self.pick(data, self.pool._resource.queue)
        (reaper._ends if old else reaper._free)[id(thing)] = 0.0
        reaper._look()
        self.settle()
        assert thing not in self.pool._resource.queue

    @precondition(lambda self: self.holding())
    @rule(data=st.data())
    def grow_old_in_use(self, data):
        thing = self.let_go(self.pick(data, self.holding()))
        self.pool._reaper._ends[id(thing)] = 0.0
        thing.release()
        self.settle()
        assert thing not in self.pool.living

    @precondition(lambda self: self.waiting())
    @rule(data=st.data(), how=st.sampled_from([green.GreenletExit, green.Timeout]))
    def cut(self, data, how):
        client = self.pick(data, self.waiting())
        client.greenlet.kill(how(), block=False)
        self.settle()
        assert isinstance(client.ended, how)
        self.clients.remove(client)

    @precondition(lambda self: self.waiting() and self.holding())
    @rule(data=st.data(), how=st.sampled_from([green.GreenletExit, green.Timeout]))
    def cut_while_being_handed(self, data, how):
        thing = self.let_go(self.pick(data, self.holding()))
        victim = self.waiting()[0]
        victim.greenlet.kill(how(), block=False)  # comes first, and finds that it has accepted
        thing.release()
        self.settle()
        assert isinstance(victim.ended, how)
        self.clients.remove(victim)

    @rule(limit=st.integers(1, 5), force=st.booleans())
    def resize(self, limit, force):
        try:
            self.pool.resize(limit, force=force)
        except RuntimeError:
            assert not force
        self.settle()

    @rule()
    def stop_opening(self):
        if self.pool.gate is None:
            self.pool.gate = runtime.Event()

    @rule(fail=st.booleans())
    def open_again(self, fail):
        if self.pool.gate is not None:
            gate, self.pool.gate = self.pool.gate, None
            self.pool.fail = fail
            gate.set()
            self.settle()
            self.pool.fail = False
            self.clients = [client for client in self.clients if client.ended is None]

    @rule()
    def close_all(self):
        for client in self.holding():
            self.let_go(client)
        self.pool.force_close_all(close_pool=False)
        self.settle()

    @invariant()
    def numbers_are_true(self):
        stats = self.pool.stats()
        assert stats.in_use + stats.free + stats.opening == stats.size
        assert stats.in_use == len(self.holding())
        # what is opened in the background belongs to nobody yet
        assert stats.opening + stats.waiting == len(self.waiting()) + self.pool.renewing
        # the reaper knows what there is, and nothing else
        assert set(self.pool._reaper._free) == {id(thing) for thing in self.pool._resource.queue}
        assert set(self.pool._reaper._ends) <= {id(thing) for thing in self.pool.living}
        # each place is a thing that lives, and each living thing has a place
        assert len(self.pool.living) == stats.size
        assert stats.size <= max(stats.limit, stats.in_use + stats.opening)

    @invariant()
    def nobody_waits_while_there_is_room(self):
        stats = self.pool.stats()
        assert not stats.waiting or (stats.size >= stats.limit and not stats.free)

    @invariant()
    def things_are_held_by_one_only(self):
        held = [client.thing for client in self.holding()]
        assert len(set(held)) == len(held)

    def teardown(self):
        for client in self.clients:
            client.greenlet.kill()
        gate, self.pool.gate = self.pool.gate, None
        if gate is not None:
            gate.set()  # a renewal in the background may wait for it
        self.pool.force_close_all()
        self.settle()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
