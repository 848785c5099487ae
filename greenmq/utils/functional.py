"""Small tools on functions and values: lazy values, a bounded cache, number series, retrying.

Only what sleeps or waits says "Switches: yes"; the rest does not, unless a function that was passed in does.

Source: kombu.utils.functional.
"""

from __future__ import annotations

import inspect
import random
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any

from greenmq import runtime
from greenmq.runtime import sleep
from greenmq.utils.encoding import safe_repr

__all__ = (
    'LRUCache',
    'dictfilter',
    'is_list',
    'lazy',
    'maybe_evaluate',
    'maybe_list',
    'memoize',
    'retry_over_time',
)

#: Separates positional from keyword arguments in the key of a memoized call.
KEYWORD_MARK = object()


class ChannelPromise:
    """A channel that is opened by the first call and returned by every later one.

    Switches: the first call, if opening the channel does.
    Source: kombu.utils.functional.ChannelPromise; differs: greenlets that call at once all get the channel
    that was ready first.
    """

    __value__: Any

    def __init__(self, contract: Callable[[], Any]) -> None:
        self.__contract__ = contract

    def __call__(self) -> Any:
        try:
            return self.__value__
        except AttributeError:
            pass  # below, so that an error of the contract does not seem to come of this one
        return self.__dict__.setdefault('__value__', self.__contract__())

    def __repr__(self) -> str:
        try:
            return repr(self.__value__)
        except AttributeError:
            return f'<promise: 0x{id(self.__contract__):x}>'


class LRUCache(UserDict):  # type: ignore[type-arg]
    """A mapping that forgets the least recently used items.

    Arguments:
        limit (int): items kept; None keeps all.

    No operation switches, and each step is a single call into `OrderedDict`, so greenlets and native threads
    may share one without a lock. Views (`keys`, `values`, `items`) are over a copy of the moment.

    Source: kombu.utils.functional.LRUCache; differs: `mutex` is taken by `incr` alone and made at first use.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.data: OrderedDict[Any, Any] = OrderedDict()

    @property
    def mutex(self) -> Any:
        """A native lock for programs that want to combine several steps; do not switch while holding it."""
        values = self.__dict__
        return values.get('_mutex') or values.setdefault('_mutex', runtime.NativeLock())

    def __getitem__(self, key: Any) -> Any:
        value = self.data[key]
        try:
            self.data.move_to_end(key)
        except KeyError:  # another thread dropped it meanwhile; what we read is still right
            return value
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        self.data[key] = value
        self.data.move_to_end(key)
        self._trim()

    def _trim(self) -> None:
        if self.limit is not None:
            while len(self.data) > self.limit:
                self.data.popitem(last=False)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add items as `dict.update` does, then forget the oldest above the limit."""
        self.data.update(*args, **kwargs)
        self._trim()

    def popitem(self, last: bool = True) -> tuple[Any, Any]:
        """Remove and return the newest item, or the oldest with `last=False`."""
        return self.data.popitem(last)

    def incr(self, key: Any, delta: int = 1) -> int:
        """Add to a number and return the sum; it is stored as text, as memcached does.

        Raises:
            KeyError: there is no such key.
        """
        with self.mutex:  # no switch
            total = int(self.data[key]) + delta
            self[key] = str(total)
            return total

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.data))

    def keys(self) -> Any:
        """Iterate over the keys, least recently used first."""
        return iter(list(self.data))

    def values(self) -> Any:
        """Iterate over the values, least recently used first."""
        return iter(list(self.data.values()))

    def items(self) -> Any:
        """Iterate over (key, value), least recently used first."""
        return iter(list(self.data.items()))

    iterkeys, itervalues, iteritems = keys, values, items

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != '_mutex'}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def memoize(
    maxsize: int | None = None,
    keyfun: Callable[..., Any] | None = None,
    Cache: type[LRUCache] = LRUCache,
) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function so that it remembers its results.

    Arguments:
        maxsize (int): results kept; None keeps all.
        keyfun (Callable): takes the call's arguments, as a tuple and a dict, and returns the key; default:
            all arguments.
        Cache (type): the mapping class that holds the results.

    The decorated function has `hits`, `misses`, `clear()` and `original_func`. Callers that miss at the same
    time each compute; no lock is held meanwhile.

    Source: kombu.utils.functional.memoize.
    """

    def _memoize(fun: Callable[..., Any]) -> Any:
        cache = Cache(limit=maxsize)

        @wraps(fun)
        def call(*args: Any, **kwargs: Any) -> Any:
            key = keyfun(args, kwargs) if keyfun else _call_key(args, kwargs)
            try:
                value = cache[key]
            except KeyError:
                value = cache[key] = fun(*args, **kwargs)
                counted.misses += 1
            else:
                counted.hits += 1
            return value

        def clear() -> None:
            """Forget every result and set the counters to 0."""
            cache.clear()
            counted.hits = counted.misses = 0

        counted: Any = call
        counted.hits = counted.misses = 0
        counted.clear = clear
        counted.original_func = fun
        return call

    return _memoize


def _call_key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    return (*args, KEYWORD_MARK, *sorted(kwargs.items()))


class lazy:
    """A value that is computed anew every time it is called, printed or compared.

    Source: kombu.utils.functional.lazy. Unhashable, as there: its value may change.
    """

    def __init__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._fun = fun
        self._args = args
        self._kwargs = kwargs

    def __call__(self) -> Any:
        return self.evaluate()

    def evaluate(self) -> Any:
        """Compute the value."""
        return self._fun(*self._args, **self._kwargs)

    def __str__(self) -> str:
        return str(self())

    def __repr__(self) -> str:
        return repr(self())

    def __eq__(self, rhs: object) -> bool:
        return bool(self() == rhs)

    def __ne__(self, rhs: object) -> bool:
        return bool(self() != rhs)

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> lazy:
        memo[id(self)] = self
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._fun,), {'_args': self._args, '_kwargs': self._kwargs}


def maybe_evaluate(value: Any) -> Any:
    """Compute the value if it is lazy, else return it."""
    return value.evaluate() if isinstance(value, lazy) else value


def is_list(
    obj: Any, scalars: tuple[type, ...] = (Mapping, str), iters: tuple[type, ...] = (Iterable,)
) -> bool:
    """Tell whether the object holds several values: iterable, but neither a mapping nor text."""
    return isinstance(obj, iters) and not isinstance(obj, scalars or ())


def maybe_list(obj: Any, scalars: tuple[type, ...] = (Mapping, str)) -> Any:
    """Return None and iterables as they are, anything else in a list of its own."""
    return obj if obj is None or is_list(obj, scalars) else [obj]


def dictfilter(d: Mapping[Any, Any] | None = None, **kw: Any) -> dict[Any, Any]:
    """Return the items whose value is not None, of a mapping and of keywords (which win)."""
    merged = kw if d is None else {**d, **kw}
    return {key: value for key, value in merged.items() if value is not None}


def shufflecycle(it: Iterable[Any]) -> Iterator[Any]:
    """Yield a random element for ever: the order is drawn anew each time.

    Source: kombu.utils.functional.shufflecycle.
    """
    items = list(it)
    while True:
        random.shuffle(items)
        yield items[0]


def fxrange(
    start: float = 1.0, stop: float | None = None, step: float = 1.0, repeatlast: bool = False
) -> Iterator[float]:
    """Yield `start`, `start + step`, … up to `stop`; with `repeatlast` go on with the last for ever.

    `stop` None or 0 means no end.
    Source: kombu.utils.functional.fxrange.
    """
    current = start * 1.0
    while not stop or current <= stop:
        yield current
        current += step
    while repeatlast:
        yield current - step


def fxrangemax(
    start: float = 1.0, stop: float | None = None, step: float = 1.0, max: float = 100.0
) -> Iterator[float]:
    """Yield as `fxrange` does, capped at `stop`, as long as all yielded numbers sum up to at most `max`.

    The first number is always yielded.
    Source: kombu.utils.functional.fxrangemax.
    """
    current = total = start * 1.0
    yield current
    while True:
        current = min(current + step, stop) if stop else current + step
        total += current
        if total > max:
            return
        yield current


def retry_over_time(
    fun: Callable[..., Any],
    catch: type[BaseException] | tuple[type[BaseException], ...],
    args: Iterable[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    errback: Callable[[Any, Iterator[float], int], Any] | None = None,
    max_retries: int | None = None,
    interval_start: float = 2,
    interval_step: float = 2,
    interval_max: float = 30,
    callback: Callable[[], Any] | None = None,
    timeout: float | None = None,
) -> Any:
    """Call a function until it works, sleeping longer after each failure.

    Arguments:
        catch (type or tuple): errors after which to try again; others pass.
        errback (Callable): called after each failure with (error, iterator over the coming delays, failures
            before this one); returns the seconds to sleep now, at most `interval_max`.
        max_retries (int): calls after the first; 0 is none, None no limit.
        interval_start (float): seconds of the first sleep.
        interval_step (float): seconds added for each further one.
        interval_max (float): seconds of the longest.
        callback (Callable): called before each new try and about every second of a sleep; what it raises ends
            the retrying.
        timeout (float): seconds after which there is no further try; None or 0 is no limit.
    Returns:
        whatever the function returned.
    Raises:
        the function's last error, when tries or time are used up.
    Switches: while it sleeps (and as the functions do). Killed: nothing is left behind.
    Source: kombu.utils.functional.retry_over_time; differs: a sleep never goes beyond `timeout`.
    """
    call_args, call_kwargs = tuple(args or ()), dict(kwargs or {})
    delays = _delays(interval_start, interval_step, interval_max)
    deadline = runtime.Deadline.after(timeout or None)
    retries = 0
    while True:
        try:
            return fun(*call_args, **call_kwargs)
        except catch as exc:
            if max_retries is not None and retries >= max_retries or deadline.expired():
                raise
            if callback is not None:
                callback()
            # However long the errback would sleep: `interval_max` is the caller's word.
            delay = min(float(errback(exc, delays, retries) if errback else next(delays)), interval_max)
        retries += 1
        remaining = deadline.remaining()
        _sleep(delay if remaining is None else min(delay, remaining), callback)


def _delays(start: float, step: float, longest: float) -> Iterator[float]:
    current = float(start)
    while True:
        yield min(current, longest)
        current += step


def _sleep(seconds: float, callback: Callable[[], Any] | None) -> None:
    # Programs stop a long retry by raising from their callback, so it must get its turn during the sleep.
    while callback is not None and seconds > 1.0:
        sleep(1.0)
        seconds -= 1.0
        callback()
    if seconds > 0:
        sleep(seconds)


def reprkwargs(kwargs: Mapping[str, Any], sep: str = ', ', fmt: str = '{0}={1}') -> str:
    """Return keyword arguments as they would be written in a call."""
    return sep.join(fmt.format(name, safe_repr(value)) for name, value in kwargs.items())


def reprcall(
    name: str, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, sep: str = ', '
) -> str:
    """Return a call as it would be written: `name(1, two=2)`."""
    parts = [safe_repr(value) for value in args or ()]
    if kwargs:
        parts.append(reprkwargs(kwargs, sep))
    return f'{name}({sep.join(parts)})'


def accepts_argument(func: Callable[..., Any], argument_name: str) -> bool:
    """Tell whether a function has a parameter of this name (`**kwargs` does not count).

    Raises:
        TypeError: that is no function whose signature can be read.
    """
    try:
        parameters = inspect.signature(func).parameters
    except (TypeError, ValueError):
        raise TypeError(f'unsupported callable: {safe_repr(func)}') from None
    if inspect.ismethod(func) and argument_name == next(iter(func.__code__.co_varnames), None):
        return True  # `self`, which the signature of a bound method leaves out
    found = parameters.get(argument_name)
    return found is not None and found.kind not in (found.VAR_POSITIONAL, found.VAR_KEYWORD)


#: Names of an older API.
maybe_promise = maybe_evaluate
promise = lazy
