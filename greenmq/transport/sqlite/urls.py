"""Which file a URL means."""

from __future__ import annotations

from os import path

from greenmq.exceptions import InvalidArgument

__all__ = ('DATABASE', 'file_of')

#: Name of the database in the folder that ``file://`` names.
DATABASE = 'broker.db'


def file_of(scheme: str, host: str | None, name: str | None) -> str:
    """Return the absolute path of the database that a URL names.

    Arguments:
        scheme (str): of ``file:///dir``, the folder /dir with the database broker.db in it. ``sqlite:///a.db``
            is relative to the working directory and ``sqlite:////a.db`` absolute, as in SQLAlchemy.
        host (str), name (str): of the URL, the name without the slash before it.
    Raises:
        InvalidArgument: it names a host, or no path. The queues of a file are for one machine.
    """
    example = 'write file:///dir, sqlite:///relative.db or sqlite:////absolute.db'
    if host and host != 'localhost':
        raise InvalidArgument('host', host, f'a file has none: {example}')
    if not name or not name.strip('/') or '\0' in name:
        raise InvalidArgument('virtual_host', name, f'names no file: {example}')
    return path.join('/', name, DATABASE) if scheme == 'file' else path.abspath(name)
