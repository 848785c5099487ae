"""How ``import kombu.x`` becomes ``greenmq.x``, and what is done to greenmq's modules meanwhile.

One module object has both names, so no two copies of a class, a registry or a pool can exist. Only the
package itself is a module of its own, for its version: what it has otherwise, it takes from greenmq.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import greenmq
from greenmq.alias.names import API, CLASSES
from greenmq_as_kombu import finder as finder_here

if TYPE_CHECKING:
    from greenmq_as_kombu import Finder

__all__ = ('Kombu', 'adopt', 'adopt_loaded', 'spec_of', 'watched')

#: Schemes of kombu's own transports that greenmq has not: they run from kombu's files, on greenmq's base.
SCHEMES = {
    'confluentkafka': 'confluentkafka',
    'consul': 'consul',
    'etcd': 'etcd',
    'gcpubsub': 'gcpubsub',
    'kafka': 'confluentkafka',
}

_VERSION = '.'.join(map(str, API))
_INFO = greenmq.version_info_t(*API, '', '')


class Kombu(ModuleType):
    """The module ``kombu``: greenmq's names, also to set and to delete, and the version of kombu's API."""

    _own = frozenset(('VERSION', 'version_info'))

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(greenmq, name)
        except AttributeError:
            raise AttributeError(
                f'module {self.__name__!r}, in whose place greenmq stands, has no attribute {name!r}'
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._own or name.startswith('__'):
            super().__setattr__(name, value)
        else:
            setattr(greenmq, name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__:
            super().__delattr__(name)
        else:
            delattr(greenmq, name)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *dir(greenmq)})


class _Top(Loader):
    """Loader of ``kombu``."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Kombu('kombu', greenmq.__doc__)

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = greenmq.__file__
        module.__path__ = list(greenmq.__path__)
        vars(module).update(__version__=_VERSION, VERSION=_INFO, version_info=_INFO)


class _Twin(Loader):
    """Loader of ``kombu.x`` that gives ``greenmq.x``, and leaves its `__spec__` as it was."""

    def __init__(self, ours: str) -> None:
        self.ours = ours
        self.spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.ours)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the importer has put the one of kombu.x there


class _Wrapped(Loader):
    """A loader that does something more; importers that look closer see the loader inside."""

    def __init__(self, loader: Loader, around: Callable[[Loader, ModuleType], None]) -> None:
        self.loader = loader
        self.around = around

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.around(self.loader, module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def spec_of(name: str, finder: Finder, for_import: bool) -> ModuleSpec | None:
    """Say what ``kombu`` or ``kombu.x`` is.

    Arguments:
        name (str): kombu's name.
        finder (Finder): notes the answer.
        for_import (bool): it is imported now; else somebody only looks whether it is there.
    Returns:
        ModuleSpec | None: None only if somebody looks and there is nothing.
    Raises:
        ModuleNotFoundError: neither greenmq has it, nor is it a transport that kombu could bring.
    """
    if name == 'kombu':
        found, what = ModuleSpec(name, _Top(), origin=greenmq.__file__, is_package=True), greenmq.__name__
    else:
        ours = 'greenmq' + name.removeprefix('kombu')
        spec = _look(ours)
        if spec is not None:
            package = spec.submodule_search_locations is not None
            found, what = ModuleSpec(name, _Twin(ours), origin=spec.origin, is_package=package), ours
        else:
            theirs = _of_kombu(name)
            if theirs is None:
                if not for_import:
                    return None
                raise ModuleNotFoundError(_lacking(name, ours), name=name)
            found, what = theirs, f'the file of kombu {theirs.origin}'
    if for_import:
        finder.replaced[name] = what
        if finder.verbose:
            sys.stderr.write(f'greenmq: {name} is {what}\n')
    return found


def _look(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:  # a package above it is not there
        return None


def _lacking(name: str, ours: str) -> str:
    text = f'No module named {name!r}: greenmq stands in kombu\'s place here and has no {ours}'
    if name.startswith('kombu.transport.') and _kombu_folders() is None:
        text += '; kombu, whose transports could be loaded, is not installed'
    return text


def _of_kombu(name: str) -> ModuleSpec | None:
    """A transport that kombu has and greenmq has not, or a module below it: loaded from kombu's own file."""
    if not name.startswith('kombu.transport.'):
        return None
    transport, _, below = name.removeprefix('kombu.transport.').partition('.')
    if _look(f'greenmq.transport.{transport}') is not None:
        return None  # the rest of a transport that is ours: its parts are ours, or are not there
    folders = _kombu_folders()
    if folders is None:
        return None
    if below:
        folders = list(sys.modules[name.rpartition('.')[0]].__path__)
    else:
        folders = [f'{folder}/transport' for folder in folders]
    found = importlib.machinery.PathFinder.find_spec(name, folders)
    if found is not None and found.loader is not None:
        found.loader = _Wrapped(found.loader, _load_of_kombu)
    return found


def _kombu_folders() -> list[str] | None:
    """Where the package kombu is installed, without importing it."""
    for other in sys.meta_path:
        if type(other).__module__ != 'greenmq_as_kombu' and hasattr(other, 'find_spec'):
            spec = other.find_spec('kombu', None)
            if spec is not None and spec.submodule_search_locations:
                return list(spec.submodule_search_locations)
    return None


def _load_of_kombu(loader: Loader, module: ModuleType) -> None:
    try:
        loader.exec_module(module)
    except Exception as exc:  # not only ImportError: without its driver one of them ends in a NameError
        name = getattr(exc, 'name', None) or module.__name__
        raise ImportError(
            f'{module.__name__} is no transport of greenmq, and kombu\'s own file {module.__file__} does not '
            f'load: {exc or type(exc).__name__}', name=name, path=module.__file__) from exc


# ------------------------------------------------------- modules of greenmq, while they stand there


def watched(name: str, path: Any, target: ModuleType | None) -> ModuleSpec | None:
    """The spec of a module of greenmq, which will be adopted when it is loaded; None if there is none."""
    for other in sys.meta_path:
        if type(other).__module__ == 'greenmq_as_kombu' or not hasattr(other, 'find_spec'):
            continue
        spec = other.find_spec(name, path, target)
        if spec is not None:
            if spec.loader is not None:
                spec.loader = _Wrapped(spec.loader, _load_of_ours)
            return spec
    return None


def _load_of_ours(loader: Loader, module: ModuleType) -> None:
    loader.exec_module(module)
    adopt(module)


def adopt_loaded() -> None:
    """Adopt what was loaded of greenmq before it was put in kombu's place."""
    for name, module in list(sys.modules.items()):
        if name.startswith('greenmq.'):
            adopt(module)


def adopt(module: ModuleType) -> None:
    """Give the classes and loggers of a module kombu's names, and do what kombu does where that differs."""
    name = module.__name__.removeprefix('greenmq.')
    for known in CLASSES.get(name, '').split():
        cls = vars(module).get(known)
        if isinstance(cls, type) and cls.__module__.startswith('greenmq.'):
            cls.__module__ = f'kombu.{name}'
    _rename_loggers(module)
    further = _FURTHER.get(name)
    if further is not None:
        further(module)


def _rename_loggers(module: ModuleType) -> None:
    # Applications name kombu's loggers in their LOGGING; the module gets the one that such a setting reaches.
    logging = sys.modules.get('logging')
    if logging is None:
        return
    for attribute, value in list(vars(module).items()):
        if isinstance(value, logging.Logger) and value.name.startswith('greenmq.'):
            renamed = logging.getLogger(f'kombu{value.name.removeprefix("greenmq")}')
            if not renamed.handlers and value.handlers:
                renamed.addHandler(logging.NullHandler())
            setattr(module, attribute, renamed)


def _announce(module: ModuleType) -> None:
    found = finder_here()
    by = 'nothing' if found is None else found.door
    module.notice(
        f'greenmq {greenmq.__version__} stands in kombu\'s place (API {_VERSION}), by {by}')


def _name_loggers(module: ModuleType) -> None:
    module.DEFAULT_LOGGERS = ('kombu',)  # type: ignore[attr-defined]


def _leave_expired(module: ModuleType) -> None:
    # Celery's worker tells of an expired task: a result, an event, a signal. Nobody tells of a dropped one.
    options: dict[str, Any] = module.EXPIRY_OPTIONS
    options['drop_expired'] = options['drop_expired']._replace(default=False)


def _add_schemes(module: ModuleType) -> None:
    table: dict[str, str] = module.TRANSPORT_ALIASES
    for scheme, path in table.items():
        if _look(path.partition(':')[0]) is None:  # not in this version
            table[scheme] = path.replace('greenmq', 'kombu', 1)
    for scheme, transport in SCHEMES.items():
        table.setdefault(scheme, f'kombu.transport.{transport}:Transport')


_FURTHER: dict[str, Callable[[ModuleType], None]] = {
    'log': _announce,
    'transport': _add_schemes,
    'transport.options': _leave_expired,
    'utils.debug': _name_loggers,
}
