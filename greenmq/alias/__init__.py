"""greenmq in kombu's place: ``import kombu`` gives greenmq, in programs that nobody can change.

Installing greenmq changes nothing; one of three doors does:

* ``GREENMQ_AS_KOMBU=1`` in the environment: for services. It reaches every process below, however started.
* ``greenmq run COMMAND …``: sets that variable for one command.
* `install`, first thing in a program that is imported before anything of kombu: scripts, WSGI applications.

``greenmq kombu on`` leaves a marker beside the .pth file for images in which no variable can be set. What is
replaced is told by ``greenmq doctor``, by ``greenmq kombu status``, and by a line in the log of the program
when its first connection opens. See docs/alias.rst.
"""

from __future__ import annotations

from greenmq_as_kombu import finder
from greenmq_as_kombu import install as _install

__all__ = ('active', 'door', 'install', 'replaced')


def install() -> bool:
    """Put greenmq in kombu's place in this process, for all imports from now on.

    Nothing else of greenmq is imported by it, so that monkey patching may still follow.

    Returns:
        bool: False if it stood there already.
    Raises:
        ImportError: kombu itself is imported already; says by whom, and which door to take instead.
    """
    return _install()


def active() -> bool:
    """Tell whether greenmq stands in kombu's place in this process."""
    return finder() is not None


def door() -> str | None:
    """What put it there: the variable with its value, the marker's path, or ``greenmq.alias.install()``."""
    found = finder()
    return None if found is None else found.door


def replaced() -> dict[str, str]:
    """What was replaced so far: name below kombu → the module of greenmq, or kombu's file that runs on it."""
    found = finder()
    return {} if found is None else dict(found.replaced)
