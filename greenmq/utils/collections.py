"""Containers: a list that can be a key, a dict keyed by equality.

Nothing here switches.
"""

from __future__ import annotations

from typing import Any


class HashedSeq(list):  # type: ignore[type-arg]
    """A list that is hashed once, by its elements at construction. Do not change it afterwards.

    Source: kombu.utils.collections.HashedSeq.
    """

    __slots__ = ('hashvalue',)

    def __init__(self, *seq: Any) -> None:
        super().__init__(seq)
        self.hashvalue = hash(seq)

    def __hash__(self) -> int:  # type: ignore[override]
        return self.hashvalue


def eqhash(o: Any) -> Any:
    """Return what stands for the object in an `EqualityDict`: its `__eqhash__()`, or itself.

    Source: kombu.utils.collections.eqhash.
    """
    try:
        return o.__eqhash__()
    except AttributeError:
        return o


class EqualityDict(dict):  # type: ignore[type-arg]
    """A dict in which objects with equal `__eqhash__()` are one key.

    Source: kombu.utils.collections.EqualityDict; differs: `in`, `get` and `setdefault` follow the same rule.
    """

    def __getitem__(self, key: Any) -> Any:
        stand_in = eqhash(key)
        if not dict.__contains__(self, stand_in):
            return self.__missing__(key)
        return super().__getitem__(stand_in)

    def __missing__(self, key: Any) -> Any:
        raise KeyError(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(eqhash(key), value)

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(eqhash(key))

    def __contains__(self, key: Any) -> bool:
        return super().__contains__(eqhash(key))

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of the key, or the default."""
        return super().get(eqhash(key), default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value of the key, storing the default if there is none."""
        return super().setdefault(eqhash(key), default)

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove the key and return its value, or the default if one is given."""
        return super().pop(eqhash(key), *default)
