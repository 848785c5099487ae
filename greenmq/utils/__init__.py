"""kombu's small tools; those that programs import from here are gathered from a module each."""

from __future__ import annotations

# Not by a module-level __getattr__: the function `uuid` has the name of its module, and must win over it.
from greenmq.utils.collections import EqualityDict
from greenmq.utils.compat import fileno, maybe_fileno, nested, register_after_fork
from greenmq.utils.div import emergency_dump_state
from greenmq.utils.functional import (
    fxrange,
    fxrangemax,
    maybe_list,
    reprcall,
    reprkwargs,
    retry_over_time,
)
from greenmq.utils.imports import symbol_by_name
from greenmq.utils.objects import cached_property
from greenmq.utils.uuid import uuid

__all__ = (
    'EqualityDict',
    'cached_property',
    'emergency_dump_state',
    'fileno',
    'fxrange',
    'fxrangemax',
    'maybe_fileno',
    'maybe_list',
    'nested',
    'register_after_fork',
    'reprcall',
    'reprkwargs',
    'retry_over_time',
    'symbol_by_name',
    'uuid',
)
