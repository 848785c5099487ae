"""However a broker orders, repeats and bundles its confirms, every publish is resolved exactly once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenmq.core.confirms import ConfirmLedger

MILLION = 1_000_000


class NaiveLedger:
    """One list of records, gone through from the front for everything."""

    def __init__(self):
        self.records = []  # [seq, waiter, key, state], state None or how it came out
        self.returns = []  # (key, info) of what came back and is not confirmed

    def publish(self, waiter, key):
        self.records.append([len(self.records) + 1, waiter, key, None])
        return len(self.records)

    def waiting(self, key):
        return sum(record[2] == key and record[3] is None for record in self.records)

    def returned(self, key, info):
        free = self.waiting(key) > sum(other == key for other, _ in self.returns)
        if free:
            self.returns.append((key, info))
        return free

    def came_back(self, record, ack, which):
        """Its info, if it is taken to be one that came back: told while it still waits."""
        infos = [info for key, info in self.returns if key == record[2]]
        if not infos or record[2] is None or not (ack or len(infos) == self.waiting(record[2])):
            return ack
        self.returns.remove((record[2], infos[which]))
        return infos[which]

    def confirm(self, seq, multiple, ack):
        hit = [record for record in self.records if record[3] is None
               and (record[0] == seq or (multiple and (seq == 0 or record[0] < seq)))]
        resolved = []
        for record in reversed(hit):
            resolved.insert(0, (record[1], self.came_back(record, ack, -1 if multiple else 0)))
            record[3] = 'confirmed'
        return resolved

    def forget(self, seq):
        for record in self.records:
            if record[0] == seq and record[3] is None:
                self.came_back(record, False, 0)
                record[3] = 'forgotten'
                return True
        return False

    def outstanding(self):
        return [record[1] for record in self.records if record[3] is None]


_SEQ = st.integers(0, 30)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just('publish'), st.none()),
        st.tuples(st.just('publish'), st.sampled_from('abc')),
        st.tuples(st.just('returned'), st.sampled_from('abcd')),
        st.tuples(st.just('confirm'), _SEQ, st.booleans(), st.booleans()),
        st.tuples(st.just('confirm'), _SEQ, st.booleans(), st.booleans()),
        st.tuples(st.just('forget'), _SEQ),
        st.tuples(st.just('fail_all')),
    ),
    max_size=80,
)


@settings(deadline=None)
@given(_STEPS)
def test_any_order_of_confirms_does_what_a_list_of_records_would(steps):
    ledger, naive, came_out, waiters = ConfirmLedger(), NaiveLedger(), [], 0
    for number, step in enumerate(steps):
        if step[0] == 'publish':
            assert ledger.publish(waiters, step[1]) == naive.publish(waiters, step[1])
            waiters += 1
        elif step[0] == 'returned':
            info = f'info {number}'
            assert ledger.returned(step[1], info) is naive.returned(step[1], info)
        elif step[0] == 'confirm':
            resolved = ledger.confirm(*step[1:])
            assert resolved == naive.confirm(*step[1:])
            came_out += [waiter for waiter, _ in resolved]
        elif step[0] == 'forget':
            waiting = naive.outstanding()
            assert ledger.forget(step[1]) is naive.forget(step[1])
            came_out += [waiter for waiter in waiting if waiter not in naive.outstanding()]
        else:
            failed = ledger.fail_all()
            assert failed == naive.outstanding()
            came_out += failed
            naive = NaiveLedger()
        assert ledger.outstanding == len(ledger) == len(naive.outstanding())
        assert ledger.published == len(naive.records)
    came_out += ledger.fail_all()
    assert sorted(came_out) == list(range(waiters))


@settings(deadline=None)
@given(st.data())
def test_reordered_bundled_and_doubled_confirms_resolve_every_waiter_once(data):
    # Given: a broker that answers for all of n publishes, in chunks, shuffled, some of them twice.
    count = data.draw(st.integers(1, 40))
    nacked = data.draw(st.sets(st.integers(1, count)))
    frames = [(seq, False, seq not in nacked) for seq in range(1, count + 1)]
    frames += data.draw(st.lists(st.sampled_from(frames), max_size=20))
    frames = data.draw(st.permutations(frames))
    ledger = ConfirmLedger()
    for seq in range(1, count + 1):
        assert ledger.publish(f'w{seq}') == seq
    # When: all of it arrives
    outcomes = [pair for frame in frames for pair in ledger.confirm(*frame)]
    # Then: one outcome a waiter, and the right one.
    assert sorted(outcomes) == sorted((f'w{seq}', seq not in nacked) for seq in range(1, count + 1))
    assert len(ledger) == 0


def test_one_multiple_confirm_resolves_all_before_it_in_order():
    ledger = ConfirmLedger()
    for name in 'abcde':
        ledger.publish(name)
    assert ledger.confirm(2) == [('b', True)]
    assert ledger.confirm(4, multiple=True) == [('a', True), ('c', True), ('d', True)]
    assert ledger.confirm(4, multiple=True) == []
    assert repr(ledger) == '<ConfirmLedger: 1 of 5 unconfirmed>'
    assert ledger.confirm(0, multiple=True, ack=False) == [('e', False)]


def test_a_confirm_of_what_was_never_published_resolves_nobody_in_advance():
    ledger = ConfirmLedger()
    ledger.publish('a')
    assert ledger.confirm(7) == []
    assert ledger.confirm(7, multiple=True) == [('a', True)]
    ledger.publish('b')
    assert ledger.outstanding == 1
    assert ledger.confirm(2) == [('b', True)]


def test_a_returned_message_is_the_outcome_of_its_own_publish_only():
    # Given: three equal bodies, one of which is unroutable (P23).
    ledger = ConfirmLedger()
    for number in range(3):
        ledger.publish(f'w{number}', key=number)
    # When: the return comes before its ack, the acks come as one.
    assert ledger.returned(1, 'NO_ROUTE')
    # Then: only that waiter hears of it.
    assert ledger.confirm(3, multiple=True) == [('w0', True), ('w1', 'NO_ROUTE'), ('w2', True)]
    assert not ledger.returned(1, 'late')


def test_equal_keys_are_returned_with_the_next_confirms():
    # Given: equal messages, the first of which a queue takes its time to confirm.
    ledger = ConfirmLedger()
    for name in 'abcd':
        ledger.publish(name, key='k')
    # When: two come back, which the broker confirms at once, and the others later, one of them refused.
    assert ledger.returned('k', 'first')
    assert ledger.returned('k', 'second')
    # Then: the returns belong to these.
    assert ledger.confirm(3) == [('c', 'first')]
    assert ledger.confirm(2, ack=False) == [('b', False)]
    assert ledger.confirm(4) == [('d', 'second')]
    assert ledger.confirm(1) == [('a', True)]


def test_of_equal_keys_confirmed_as_one_the_last_came_back():
    ledger = ConfirmLedger()
    for name in 'abc':
        ledger.publish(name, key='k')
    assert ledger.returned('k', 'first') and ledger.returned('k', 'second')
    assert ledger.confirm(3, multiple=True) == [('a', True), ('b', 'first'), ('c', 'second')]
    assert not ledger.returned('k', 'third')


def test_no_more_come_back_than_wait():
    ledger = ConfirmLedger()
    ledger.publish('a', key='k')
    assert ledger.returned('k', 'first')
    assert not ledger.returned('k', 'second')
    assert ledger.confirm(1, ack=False) == [('a', 'first')]


def test_a_waiter_that_gave_up_is_not_found_by_return_or_confirm():
    ledger = ConfirmLedger()
    seq = ledger.publish(None, key='k')  # None is a waiter like any other
    assert seq in ledger
    assert ledger.forget(seq)
    assert not ledger.forget(seq)
    assert not ledger.returned('k', 'info')
    assert ledger.confirm(seq) == []


def test_after_a_loss_counting_begins_anew():
    ledger = ConfirmLedger()
    ledger.publish('a')
    ledger.publish('b', key='k')
    ledger.returned('k', 'info of the old channel')
    assert ledger.fail_all() == ['a', 'b']
    assert ledger.fail_all() == []
    assert ledger.publish('c', key='k') == 1
    assert ledger.confirm(1) == [('c', True)]


def test_a_return_passes_over_what_was_confirmed_meanwhile():
    ledger = ConfirmLedger()
    for name in 'abc':
        ledger.publish(name, key='k')
    ledger.confirm(2)
    assert ledger.returned('k', 'first')
    assert ledger.returned('k', 'second')
    assert ledger.confirm(3, multiple=True) == [('a', 'first'), ('c', 'second')]


@pytest.mark.parametrize('stuck', [False, True])
@pytest.mark.parametrize('unroutable', [False, True])
def test_nothing_is_kept_of_what_was_resolved(stuck, unroutable):
    # An endless run of mandatory publishes under one key, the first of them perhaps never answered.
    ledger = ConfirmLedger()
    if stuck:
        ledger.publish('stuck', key='k')
        if unroutable:
            ledger.returned('k', 'info')
    for _ in range(500):
        seq = ledger.publish('w', key='k')
        if unroutable:
            ledger.returned('k', 'info')
        ledger.confirm(seq)
    kept = [len(ledger._waiting), len(ledger._keys), sum(ledger._open.values())]
    assert kept == [stuck, stuck, stuck]
    assert sum(map(len, ledger._returns.values())) == (stuck and unroutable)


@pytest.mark.slow
@pytest.mark.timeout(20)  # linear: about 1 s
def test_a_million_outstanding_are_confirmed_bundled_and_backwards():
    ledger = ConfirmLedger()
    for number in range(MILLION):
        ledger.publish(number)
    for seq in range(25, MILLION // 2 + 1, 25):
        assert len(ledger.confirm(seq, multiple=True)) == 25
    for seq in range(MILLION, MILLION // 2, -1):
        ledger.confirm(seq)
    assert len(ledger) == 0
    for _ in range(1000):  # what was answered is not gone through again
        ledger.publish('w')
        assert ledger.confirm(ledger.published, multiple=True) == [('w', True)]


def test_keys_lists_what_may_still_come_back_oldest_first():
    ledger = ConfirmLedger()
    for key in ('a', 'b', None, 'c'):
        ledger.publish(object(), key)
    ledger.returned('b', 'back')
    ledger.confirm(1)
    assert ledger.keys() == ['c']
