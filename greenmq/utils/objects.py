"""Attributes computed once: a `cached_property` that takes no lock."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ('alias', 'cached_property')

T = TypeVar('T')


def alias(*way: str, doc: str | None = None) -> Any:
    """Make a property for what an object has in one of its parts, or under another name.

    Arguments:
        way (str): names of attributes, one of the other; the last one is read and set.
        doc (str): the property's docstring.
    """
    *owners, name = way

    def owner(obj: Any) -> Any:
        for each in owners:
            obj = getattr(obj, each)
        return obj

    def change(obj: Any, value: Any) -> None:
        setattr(owner(obj), name, value)

    return property(lambda obj: getattr(owner(obj), name), change, doc=doc)


class cached_property(functools.cached_property[T]):
    """Compute an attribute at its first use and keep the value in the instance's `__dict__`.

    A setter receives `(obj, value)` and returns what is stored; a deleter receives `(obj, value)`, and is
    called only if a value is stored. Deleting an attribute that was never computed does nothing.

    Two greenlets may compute at once when the function switches; both then get the value that was stored
    first. A lock held over the computation, as before Python 3.12, would stop the hub for ever in an
    unpatched process.

    Switches: no (what the function itself does apart).
    Source: kombu.utils.objects.cached_property; differs: no lock, the first value stored wins.
    """

    #: Recorded name; there is no lock to take.
    lock: None = None

    def __init__(
        self,
        fget: Callable[[Any], T] | None = None,
        fset: Callable[[Any, Any], T] | None = None,
        fdel: Callable[[Any, Any], object] | None = None,
    ) -> None:
        # Not super().__init__(): up to Python 3.11 it makes the very lock that we do without.
        self.func = fget  # type: ignore[assignment]
        self.attrname: str | None = None
        self.__doc__ = getattr(fget, '__doc__', None)
        self._fset = fset
        self._fdel = fdel
        if fget is not None:
            self.__set_name__(None, fget.__name__)  # type: ignore[arg-type]

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.attrname = name

    def __get__(self, obj: Any, owner: type[Any] | None = None) -> Any:
        if obj is None:
            return self
        values = obj.__dict__
        try:
            return values[self.attrname]
        except KeyError:
            return values.setdefault(self.attrname, self.func(obj))

    def __set__(self, obj: Any, value: Any) -> Any:
        if obj is None:
            return self  # as __get__ does, for who calls it by hand
        if self._fset is not None:
            value = self._fset(obj, value)
        obj.__dict__[self.attrname] = value
        return None

    def __delete__(self, obj: Any) -> Any:
        if obj is None:
            return self
        missing = object()
        value = obj.__dict__.pop(self.attrname, missing)
        if self._fdel is not None and value is not missing:
            self._fdel(obj, value)
        return None

    def setter(self, fset: Callable[[Any, Any], Any]) -> cached_property[T]:
        """Return this property with a setter."""
        return type(self)(self.func, fset, self._fdel)

    def deleter(self, fdel: Callable[[Any, Any], object]) -> cached_property[T]:
        """Return this property with a deleter."""
        return type(self)(self.func, self._fset, fdel)
