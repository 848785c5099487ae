"""Objects by their dotted name.

Nothing here switches.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def symbol_by_name(
    name: Any,
    aliases: Mapping[str, str] | None = None,
    imp: Callable[..., Any] | None = None,
    package: str | None = None,
    sep: str = '.',
    default: Any = None,
    **kwargs: Any,
) -> Any:
    """Import an object: `'package.module:Name'`, `'package.module.Name'`, or an alias of one.

    Arguments:
        name (str): anything but a str comes back as it is.
        aliases (Mapping[str, str]): short names.
        imp (Callable): imports the module, called with (module, package=, and ``kwargs``); default
            `importlib.import_module`.
        package (str): what a relative name (`'.module:Name'`) starts from.
        sep (str): between module and object where there is no colon.
        default (object): returned when module or object does not exist, unless it is None.
    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such object.
        ValueError: that is not a name.
    Source: kombu.utils.imports.symbol_by_name.
    """
    if not isinstance(name, str):
        return name
    target = (aliases or {}).get(name) or name
    module_name, _, attribute = target.rpartition(':' if ':' in target else sep)
    if not module_name:
        # No object is named: with a package given, it is that package, else the name is a module's.
        module_name, attribute = package or attribute, ''
    try:
        try:
            if imp is None and package is None and not kwargs and module_name[:1] != '.':
                # As `import_module` does, in one call for a module that is there: Celery looks up the class
                # of a task's backend by its name for each task.
                __import__(module_name)
                module = sys.modules[module_name]
            else:
                module = (imp or importlib.import_module)(module_name, package=package, **kwargs)
        except ValueError as exc:
            raise ValueError(f"couldn't import {name!r}: {exc}") from exc
        return getattr(module, attribute) if attribute else module
    except (ImportError, AttributeError):
        if default is None:
            raise
    return default
