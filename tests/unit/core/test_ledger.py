"""Deliveries against a naive list, acks against what a broker would make of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenmq.core.ledger import UNLIMITED, AckBuffer, DeliveryLedger

MILLION = 1_000_000


class NaiveLedger:
    """A list of pairs, searched from the front each time."""

    def __init__(self):
        self.pairs = []

    def settle(self, tag, multiple):
        tags = [pair[0] for pair in self.pairs]
        if multiple and tag == 0 and 0 not in tags:
            settled, self.pairs = self.pairs, []
            return settled
        if tag not in tags:
            raise KeyError(tag)
        at = tags.index(tag)
        first = 0 if multiple else at
        settled = self.pairs[first : at + 1]
        del self.pairs[first : at + 1]
        return settled


_TAGS = st.integers(0, 25)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just('add'), _TAGS),
        st.tuples(st.just('settle'), _TAGS, st.booleans()),
        st.tuples(st.just('drain')),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(_STEPS, st.integers(0, 10))
def test_ledger_does_what_a_list_of_pairs_would(steps, prefetch):
    ledger, naive = DeliveryLedger(), NaiveLedger()
    for number, step in enumerate(steps):
        if step[0] == 'add':
            known = step[1] in [pair[0] for pair in naive.pairs]
            assert (step[1] in ledger) is known
            if known:
                with pytest.raises(ValueError, match='outstanding already'):
                    ledger.add(step[1], number)
            else:
                ledger.add(step[1], number)
                naive.pairs.append((step[1], number))
        elif step[0] == 'drain':
            assert ledger.drain() == naive.pairs
            naive.pairs = []
        else:
            try:
                expected = naive.settle(step[1], step[2])
            except KeyError:
                with pytest.raises(KeyError):
                    ledger.settle(step[1], step[2])
            else:
                assert ledger.settle(step[1], step[2]) == expected
        assert ledger.items() == naive.pairs
        assert ledger.outstanding == len(ledger) == len(naive.pairs)
        assert ledger.oldest() == (naive.pairs[0][0] if naive.pairs else None)
        assert ledger.free(prefetch) == (max(prefetch - len(naive.pairs), 0) if prefetch else UNLIMITED)


def test_tags_may_be_any_hashable_value():
    ledger = DeliveryLedger()
    ledger.add('gm:c:1', 'a')
    ledger.add('gm:c:2', 'b')
    assert ledger.get('gm:c:2') == 'b'
    assert ledger.pop('gm:c:2') == 'b'
    assert ledger.get('gm:c:2') is None
    with pytest.raises(KeyError):
        ledger.pop('gm:c:2')
    assert repr(ledger) == '<DeliveryLedger: 1 outstanding>'


class Broker:
    """What a broker keeps of one channel: the tags it has not heard of yet."""

    def __init__(self):
        self.out = []

    def ack(self, tag, multiple):
        assert tag in self.out, f'406 PRECONDITION_FAILED unknown delivery tag {tag}'
        taken = [t for t in self.out if t <= tag] if multiple else [tag]
        self.out = [t for t in self.out if t not in taken]
        return taken


_ACK_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just('deliver'), st.integers(1, 3)),  # steps to the next tag: no_ack uses some
        st.tuples(st.just('ack'), st.integers(0, 30)),
        st.tuples(st.just('ack_multiple'), st.integers(0, 30)),
        st.tuples(st.just('reject'), st.integers(0, 30)),
        st.tuples(st.just('flush')),
    ),
    max_size=80,
)


@settings(deadline=None)
@given(_ACK_STEPS)
def test_the_broker_hears_of_exactly_the_acks_given(steps):
    ledger, broker, tag, acked = DeliveryLedger(), Broker(), 0, []
    buffer = AckBuffer(ledger)

    def flush():
        frames = buffer.flush()
        heard = [t for frame in frames for t in broker.ack(*frame)]
        assert sorted(heard) == sorted(acked)
        if frames and frames[0][1]:
            # Given a multiple ack: it took all it could, the rest really waits for an older delivery.
            assert all(not multiple and t > ledger.oldest() for t, multiple in frames[1:])
        acked.clear()
        assert len(buffer) == 0
        assert broker.out == [t for t, _ in ledger.items()]

    for step in [*steps, ('flush',)]:
        out = [t for t, _ in ledger.items()]
        if step[0] == 'deliver':
            tag += step[1]
            ledger.add(tag, str(tag))
            broker.out.append(tag)
        elif step[0] == 'flush':
            flush()
        elif out:
            chosen = out[step[1] % len(out)]
            if step[0] == 'ack':
                assert buffer.ack(chosen) == str(chosen)
                acked.append(chosen)
            elif step[0] == 'ack_multiple':
                acked += [t for t, _ in buffer.ack_multiple(chosen)]
            else:
                ledger.pop(chosen)
                broker.ack(chosen, False)


def _delivered(count):
    ledger = DeliveryLedger()
    for tag in range(1, count + 1):
        ledger.add(tag, None)
    return ledger, AckBuffer(ledger)


@pytest.mark.parametrize(
    ('acked', 'frames'),
    [
        ([], []),
        ([1], [(1, False)]),
        ([3], [(3, False)]),
        ([1, 2], [(2, True)]),
        ([2, 1], [(2, True)]),
        ([2, 3], [(2, False), (3, False)]),
        ([1, 3], [(1, False), (3, False)]),
        ([4, 1, 2], [(2, True), (4, False)]),
        ([5, 4, 3, 2, 1], [(5, True)]),
    ],
)
def test_acks_of_the_oldest_five_become_few_frames(acked, frames):
    _, buffer = _delivered(5)
    for tag in acked:
        buffer.ack(tag)
    assert buffer.flush() == frames
    assert buffer.flush() == []


def test_an_ack_is_given_once():
    ledger, buffer = _delivered(2)
    buffer.ack(1)
    for again in (buffer.ack, buffer.ack_multiple):
        with pytest.raises(KeyError):
            again(1)
    assert repr(buffer) == '<AckBuffer: 1 to send, 1 outstanding>'
    assert buffer.flush() == [(1, False)]
    assert ledger.oldest() == 2


def test_a_single_ack_is_never_said_as_a_multiple_one():
    _, buffer = _delivered(1)
    buffer.ack(1)
    assert buffer.flush() == [(1, False)]


def test_ack_of_all_by_tag_zero():
    _, buffer = _delivered(3)
    assert [tag for tag, _ in buffer.ack_multiple(0)] == [1, 2, 3]
    assert buffer.flush() == [(3, True)]


def test_acks_of_an_ended_epoch_are_handed_back_and_never_sent():
    ledger, buffer = _delivered(3)
    buffer.ack(2)
    ledger.drain()
    assert buffer.clear() == [2]
    assert buffer.flush() == []


class CountedTag(int):
    """A tag that counts how often it is looked at: work, measured without a clock."""

    looks = 0

    def __hash__(self):
        CountedTag.looks += 1
        return int.__hash__(self)

    def __lt__(self, other):
        CountedTag.looks += 1
        return int.__lt__(self, other)

    def __gt__(self, other):
        CountedTag.looks += 1
        return int.__gt__(self, other)


def test_work_per_ack_does_not_grow_with_what_is_outstanding():
    def looks_per_ack(outstanding):
        ledger = DeliveryLedger()
        for tag in range(1, outstanding + 1):
            ledger.add(CountedTag(tag), None)
        buffer = AckBuffer(ledger)
        CountedTag.looks = 0
        for tag in range(2, 202):  # the oldest stays out, so nothing can be coalesced: the worst case
            buffer.ack(CountedTag(tag))
            buffer.flush()
        return CountedTag.looks / 200

    assert looks_per_ack(20_000) == looks_per_ack(300)


@pytest.mark.slow
@pytest.mark.timeout(20)  # linear: about 1 s; quadratic: an hour
def test_a_million_outstanding_are_settled_from_the_front():
    ledger, buffer = _delivered(MILLION)
    frames = 0
    for tag in range(1, MILLION // 2 + 1):
        buffer.ack(tag)
        if not tag % 50:
            frames += len(buffer.flush())
    assert frames == MILLION // 2 // 50
    for tag in range(MILLION // 2 + 20, MILLION + 1, 20):
        assert len(ledger.settle(tag, multiple=True)) == 20
    assert ledger.oldest() is None
