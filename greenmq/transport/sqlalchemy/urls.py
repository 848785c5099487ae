"""Which database a URL means."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = ('Database', 'database_of')


class Database(NamedTuple):
    """One database.

    Attributes:
        dialect (str): 'postgresql', 'mysql', 'sqlite' and so on.
        url (str): for its client: libpq if it is PostgreSQL, else SQLAlchemy.
        shown (str): its name for texts, without a password.
    """

    dialect: str
    url: str
    shown: str

    @property
    def is_postgresql(self) -> bool:
        """Is it for psycopg?"""
        return self.dialect == 'postgresql'


def database_of(url: str) -> Database:
    """Read a URL, with or without ``sqla+`` before it.

    SQLAlchemy's name of a driver, as in ``postgresql+psycopg2``, says nothing here for PostgreSQL.
    """
    for prefix in ('sqla+', 'sqlalchemy+'):
        if url.startswith(prefix):
            url = url[len(prefix) :]
    scheme, _, rest = url.partition('://')
    dialect = scheme.partition('+')[0].lower()
    if dialect in ('postgres', 'postgresql'):
        dialect = 'postgresql'
        url = f'postgresql://{rest}'
    place = urlsplit(url).netloc.rpartition('@')[2]
    path = urlsplit(url).path
    return Database(dialect, url, f'{place}{path}' or dialect)
