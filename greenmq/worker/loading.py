"""From ``module:Class`` to the class and to a worker, or to one line that says what is wrong."""

from __future__ import annotations

import inspect
import os
import sys
from importlib import import_module
from typing import Any

from greenmq.exceptions import KombuError
from greenmq.mixins import ConsumerMixin

__all__ = ('NotAWorker', 'build', 'load')


class NotAWorker(KombuError, ValueError):
    """What was named is no class that can be run."""


def load(target: str) -> type[ConsumerMixin]:
    """Import a worker class.

    Arguments:
        target (str): ``module:Class``; modules of the current directory are found as well.
    Raises:
        NotAWorker: no such module, no such class, or no ConsumerMixin. What a module raises while it is
            imported comes out as it is.
    Switches: as the module that is imported.
    """
    name, _, attribute = target.partition(':')
    if not name or not attribute:
        raise NotAWorker(f'{target!r} is not of the form module:Class')
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (name == exc.name or name.startswith(f'{exc.name}.')):
            raise  # the module is there, and one that it imports is not
        hint = ''
        if os.sep in name or name.endswith('.py'):
            dotted = name.removesuffix('.py').replace(os.sep, '.').strip('.')
            hint = f'; modules are named with dots: {dotted}:{attribute}'
        raise NotAWorker(f'there is no module {name!r} (looked in {here} and in sys.path){hint}') from exc
    found = getattr(module, attribute, None)
    if found is None:
        known = ', '.join(sorted(key for key, value in vars(module).items() if _is_worker(value)))
        raise NotAWorker(f'{name} has no {attribute!r}; its workers: {known or "none"}')
    if not _is_worker(found):
        raise NotAWorker(f'{target} is {found!r}, not a subclass of greenmq.mixins.ConsumerMixin')
    return found  # type: ignore[no-any-return]


def build(target: str, connection: Any) -> ConsumerMixin:
    """Import a worker class, and make a worker of it: ``Class(connection)``.

    Raises:
        NotAWorker: as `load`; or the class takes other arguments, or does not keep the connection. What it
            raises itself comes out as it is.
    Switches: as the class.
    """
    cls = load(target)
    name = cls.__name__
    try:
        inspect.signature(cls).bind(connection)
    except TypeError as exc:
        raise NotAWorker(f'{target} cannot be made as {name}(connection): {exc}') from exc
    worker = cls(connection)  # type: ignore[call-arg]
    if getattr(worker, 'connection', None) is None:
        raise NotAWorker(f'{target} has no attribute connection: its __init__ must set it')
    return worker


def _is_worker(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, ConsumerMixin) and \
        not value.__module__.startswith(('greenmq.', 'kombu.'))
