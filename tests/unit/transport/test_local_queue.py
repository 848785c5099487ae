"""One queue in the process, against a plain list that does the same slowly."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from greenmq.transport.memory.queue import LocalQueue, Record


def record(queue, priority=0, due=None, body=b'x'):
    made = Record({'body': body}, '', queue.name, queue)
    made.priority, made.due, made.size = priority, due, len(body)
    return made


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just('put'), st.integers(0, 12), st.one_of(st.none(), st.integers(0, 20))),
        st.tuples(st.just('take')),
        st.tuples(st.just('back'), st.integers(0, 50)),
        st.tuples(st.just('expire'), st.integers(0, 20)),
        st.tuples(st.just('clear')),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_it_does_what_a_sorted_list_does(steps):
    queue, model, out = LocalQueue('q', {'x-max-length': 1000}), [], []

    def key(each):
        return (-each.priority, each.number)

    for name, *values in steps:
        if name == 'put':
            each = record(queue, *values)
            queue.append(each)
            model.append(each)
        elif name == 'take':
            taken = queue.take()
            model.sort(key=key)
            assert taken is (model.pop(0) if model else None)
            if taken is not None:
                out.append(taken)
        elif name == 'back' and out:
            each = out.pop(values[0] % len(out))
            queue.put_back(each)
            model.append(each)
        elif name == 'expire':
            expired = queue.expire(values[0])
            gone = [each for each in model if each.due is not None and each.due <= values[0]]
            assert sorted(map(key, expired)) == sorted(map(key, gone))
            model = [each for each in model if each not in gone]
        elif name == 'clear':
            model.sort(key=key)
            assert queue.clear() == model
            model = []
        assert len(queue) == queue.ready == len(model)
        assert queue.ready_bytes == len(model)
        assert list(queue) == sorted(model, key=key)
        dues = [each.due for each in model if each.due is not None]
        assert queue.next_due() == (min(dues) if dues else None)


def test_many_given_back_from_the_last_to_the_first():
    queue = LocalQueue('q')
    records = [record(queue) for _ in range(20_000)]
    for each in records:
        queue.append(each)
    taken = [queue.take() for _ in records]
    for each in reversed(taken):
        queue.put_back(each)
    assert [queue.take() for _ in records] == records


def test_repr_says_how_many():
    queue = LocalQueue('orders')
    queue.append(record(queue))
    assert repr(queue) == '<LocalQueue orders: 1 messages>' and bool(LocalQueue('empty'))
