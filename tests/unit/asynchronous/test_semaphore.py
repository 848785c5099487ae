"""The semaphore that calls back."""

from __future__ import annotations

from greenmq.asynchronous.semaphore import DummyLock, LaxBoundedSemaphore


def test_first_come_first_served():
    semaphore, called = LaxBoundedSemaphore(2), []
    assert [semaphore.acquire(called.append, n) for n in range(4)] == [True, True, False, False]
    assert called == [0, 1]
    assert 'value:0 waiting:2' in repr(semaphore)
    semaphore.release()
    assert called == [0, 1, 2]
    semaphore.release()
    assert called == [0, 1, 2, 3]


def test_keywords_are_passed_on():
    got = []
    LaxBoundedSemaphore(1).acquire(lambda *args, **kwargs: got.append((args, kwargs)), 1, a=2)
    assert got == [((1,), {'a': 2})]


def test_releasing_too_often_is_harmless():
    semaphore = LaxBoundedSemaphore(2)
    semaphore.release()
    assert semaphore.value == 2


def test_grow_and_shrink():
    semaphore, called = LaxBoundedSemaphore(1), []
    for n in range(3):
        semaphore.acquire(called.append, n)
    semaphore.grow(3)
    assert called == [0, 1, 2]
    assert (semaphore.initial_value, semaphore.value) == (4, 1)
    semaphore.shrink(2)
    assert (semaphore.initial_value, semaphore.value) == (2, 0)
    for _ in range(3):
        semaphore.release()
    assert semaphore.value == 2


def test_clear():
    semaphore, called = LaxBoundedSemaphore(1), []
    semaphore.acquire(called.append, 1)
    semaphore.acquire(called.append, 2)
    semaphore.clear()
    assert semaphore.value == 1
    semaphore.release()
    assert called == [1]


def test_dummy_lock():
    lock = DummyLock()
    with lock as entered, lock:
        assert entered is lock
