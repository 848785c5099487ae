"""greenmq in kombu's place: the part that runs at the start of an interpreter.

``greenmq-as-kombu.pth`` (``.start`` from Python 3.15 on) in site-packages calls `start` here, and only the
variable GREENMQ_AS_KOMBU or the marker of ``greenmq kombu on`` makes that do anything. It stands outside the
package and imports nothing of it: monkey patching comes later than this, and must come before greenmq's
runtime. The first ``import kombu`` loads `greenmq.alias`, which does the rest.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ('MARKER', 'VARIABLE', 'Finder', 'finder', 'install', 'marker', 'site_folders', 'start', 'wanted')

#: Name of the environment variable. Set, it decides; unset or empty, the marker does.
VARIABLE = 'GREENMQ_AS_KOMBU'
#: File beside the .pth that switches on where variables are hard to set.
MARKER = 'greenmq-as-kombu.on'

_ON = ('1', 'true', 'yes', 'on', 'verbose')
_OFF = ('0', 'false', 'no', 'off')

_said: set[str] = set()


class Finder:
    """On `sys.meta_path`: answers ``import kombu``, and looks at what is loaded of greenmq.

    Attributes:
        door (str): what switched it on.
        verbose (bool): write each replaced module to stderr.
        replaced (dict[str, str]): name below kombu → what it is: a module of greenmq, or a file of kombu's.
    """

    def __init__(self, door: str, verbose: bool = False) -> None:
        self.door = door
        self.verbose = verbose
        self.replaced: dict[str, str] = {}

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The importer's question; None for whatever is neither kombu's nor greenmq's."""
        top, _, below = name.partition('.')
        if top == 'kombu':
            from greenmq.alias.standing import spec_of

            # An import is told why there is nothing; who only looks (importlib.util.find_spec) gets None.
            asks = sys._getframe(1).f_back
            return spec_of(name, self, asks is not None and asks.f_code.co_name == '_find_and_load_unlocked')
        if top == 'greenmq' and below and below.partition('.')[0] != 'alias':
            from greenmq.alias.standing import watched

            return watched(name, path, target)
        return None


def finder() -> Finder | None:
    """The finder, if greenmq stands in kombu's place in this process."""
    return next((found for found in sys.meta_path if isinstance(found, Finder)), None)


def install(door: str = 'greenmq.alias.install()', verbose: bool = False) -> bool:
    """Put greenmq in kombu's place in this process, for all imports from now on.

    Returns:
        bool: False if it stood there already.
    Raises:
        ImportError: kombu itself is imported already; says by whom, and what to do instead.
    """
    if finder() is not None:
        return False
    if 'kombu' in sys.modules:
        from greenmq.alias.importers import too_late

        raise ImportError(too_late(), name='kombu')
    sys.meta_path.insert(0, Finder(door, verbose))
    if any(name.startswith('greenmq.') and name.partition('.')[2].partition('.')[0] != 'alias'
           for name in list(sys.modules)):
        from greenmq.alias.standing import adopt_loaded

        adopt_loaded()
    return True


def start() -> None:
    """Install if the variable or the marker says so. Raises nothing: no program ends by it."""
    door, verbose = wanted()
    if door is None:
        return
    try:
        install(door, verbose)
    except ImportError as exc:
        _complain(f"not in kombu's place, though {door} says so: {exc}")


def wanted() -> tuple[str | None, bool]:
    """What the environment asks for: the door, None if nothing does; whether replaced modules are told."""
    word = os.environ.get(VARIABLE, '').strip()
    if not word:
        path = marker()
        return (None if path is None else f'the marker {path}'), False
    if word.lower() in _ON:
        return f'{VARIABLE}={word}', word.lower() == 'verbose'
    if word.lower() not in _OFF:
        known = ', '.join((*_ON, *_OFF))
        _complain(f'{VARIABLE}={word!r} is none of {known}: kombu stays kombu')
    return None, False


def _complain(text: str) -> None:
    # The .pth files of a virtual environment are read twice, by some versions of Python.
    if text not in _said:
        _said.add(text)
        sys.stderr.write(f'greenmq: {text}\n')


def marker() -> str | None:
    """Path of the marker, None if there is none."""
    for folder in site_folders():
        path = os.path.join(folder, MARKER)
        if os.path.exists(path):
            return path
    return None


def site_folders() -> list[str]:
    """The folders whose .pth files this interpreter reads; none under -S."""
    site = sys.modules.get('site')
    if site is None:
        return []
    folders = list(site.getsitepackages())
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return folders
