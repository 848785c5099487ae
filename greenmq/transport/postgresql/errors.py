"""What the errors of PostgreSQL mean, by their SQLSTATE; where a connection failed there is only a text."""

from __future__ import annotations

import re
from typing import Any

from greenmq.exceptions import AccessRefused, ConnectionLost, InvalidArgument, NotFound, OperationalError
from greenmq.transport.driver import Fault
from greenmq.transport.postgresql.connection import psycopg

__all__ = ('ERRORS',)

#: What a server says of a login, in the language that nearly all speak.
_REFUSED = re.compile(
    r'authentication failed|no password supplied|no pg_hba\.conf entry|role ".*" does not exist'
    r'|permission denied for database|not permitted to log in'
)
_MISSING = re.compile(r'database ".*" does not exist')


def _state(error: Exception) -> str:
    return (error.sqlstate or '') if isinstance(error, psycopg.Error) else ''


def _of(*prefixes: str) -> Any:
    return lambda error: _state(error).startswith(prefixes)


def _says(pattern: re.Pattern[str]) -> Any:
    return lambda error: _lost_by(error) and pattern.search(str(error)) is not None


def _refused(text: str) -> Exception:
    return AccessRefused(f'ACCESS_REFUSED - {text.strip()}', (10, 10), 'connect', 403)


def _missing(text: str) -> Exception:
    return NotFound(f'NOT_FOUND - {text.strip()}', (40, 10), 'connect', 404)


def _lost_by(error: Exception) -> bool:
    return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) and not _state(error)


#: For `Driver.errors`.
ERRORS: dict[Any, Any] = {
    _says(_REFUSED): _refused,
    _says(_MISSING): _missing,
    _of('28', '42501'): _refused,
    _of('3D000', '42P01', '42883', '3F000'): _missing,
    # Somebody deleted the queue in this moment: it is made again.
    _of('23503'): Fault(_missing, 'no'),
    # The server ends, starts, has no room for one more, or went over to read-only.
    _of('57P', '08', '53300', '25006'): ConnectionLost,
    _of('22P05', '22021'): lambda text: InvalidArgument('message', '(hidden)', text.strip()),
    _lost_by: ConnectionLost,
    psycopg.Error: OperationalError,
}
