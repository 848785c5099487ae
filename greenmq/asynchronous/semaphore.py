"""A counting semaphore that calls back instead of waiting, and a lock that does nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ('DummyLock', 'LaxBoundedSemaphore')


class LaxBoundedSemaphore:
    """Calls back when a place is free; releasing more often than acquiring is harmless.

    Arguments:
        value (int): places.
    No method switches (what the callbacks do apart). To *wait* for a place, use `greenmq.runtime.Semaphore`.

    Source: kombu.asynchronous.semaphore.LaxBoundedSemaphore.
    """

    def __init__(self, value: int) -> None:
        self.initial_value = self.value = value
        self._waiting: deque[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = deque()

    def acquire(self, callback: Callable[..., Any], *partial_args: Any, **partial_kwargs: Any) -> bool:
        """Call back now if there is a place, else when there is one, first come first served.

        Returns:
            bool: whether it was called now.
        """
        if self.value <= 0:
            self._waiting.append((callback, partial_args, partial_kwargs))
            return False
        self.value -= 1
        callback(*partial_args, **partial_kwargs)
        return True

    def release(self) -> None:
        """Give a place back: to the one that has waited longest, if any."""
        if self._waiting:
            callback, args, kwargs = self._waiting.popleft()
            callback(*args, **kwargs)
        else:
            self.value = min(self.value + 1, self.initial_value)

    def grow(self, n: int = 1) -> None:
        """Add places. Differs from kombu: each counts once."""
        for _ in range(n):
            self.initial_value += 1
            self.release()

    def shrink(self, n: int = 1) -> None:
        """Take places away; those in use go when they are given back."""
        self.initial_value = max(self.initial_value - n, 0)
        self.value = max(self.value - n, 0)

    def clear(self) -> None:
        """Forget who waits, and make every place free."""
        self._waiting.clear()
        self.value = self.initial_value

    def __repr__(self) -> str:
        return f'<{type(self).__name__} at 0x{id(self):x} value:{self.value} waiting:{len(self._waiting)}>'


class DummyLock:
    """A context manager that locks nothing.

    Source: kombu.asynchronous.semaphore.DummyLock.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        pass
