"""Who holds the real kombu, when greenmq comes too late to stand in its place."""

from __future__ import annotations

import sys
from types import ModuleType

__all__ = ('importers', 'real_kombu', 'too_late')


def real_kombu() -> ModuleType | None:
    """The module kombu if it is loaded and no stand-in."""
    found = sys.modules.get('kombu')
    return None if found is None or type(found).__name__ == 'Kombu' else found


def importers() -> list[str]:
    """The modules that hold something of the real kombu, the one that was imported when it came first."""
    if real_kombu() is None:
        return []
    names = list(sys.modules)
    came = names.index('kombu')
    seen: set[int] = set()  # a module may have several names
    return [name for name in (*reversed(names[:came]), *names[came:])
            if not _of_kombu(name) and _holds(sys.modules.get(name), seen)]


def too_late() -> str:
    """The error's text: who imported kombu, and which door is early enough."""
    holders = importers()
    by = f'by {holders[0]}' if holders else 'by a module that keeps nothing of it'
    if len(holders) > 1:
        by += f' (also held by {", ".join(holders[1:4])}{", …" if len(holders) > 4 else ""})'
    return (
        f'kombu itself is imported already, {by}: what holds its classes would not see greenmq\'s. Call '
        'greenmq.alias.install() before that import, or set GREENMQ_AS_KOMBU=1 in the environment, or start '
        'the program as `greenmq run COMMAND`: both come before any import')


def _of_kombu(name: str) -> bool:
    return name == 'kombu' or name.startswith('kombu.')


def _holds(module: ModuleType | None, seen: set[int]) -> bool:
    if not isinstance(module, ModuleType) or id(module) in seen:
        return False
    seen.add(id(module))
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType):
            if _of_kombu(value.__name__):
                return True
        elif isinstance(value, type) or callable(value):
            where = getattr(value, '__module__', None)
            if isinstance(where, str) and _of_kombu(where):
                return True
    return False
