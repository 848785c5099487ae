"""kombu's two tables, and ours beside them.

kombu keeps a message as a row that is *visible* until somebody takes it; it is never deleted. What greenmq
takes is invisible too, and has a row in ``greenmq_delivery`` with its owner. A row of ``greenmq_owner`` is a
session, alive for as long as it renews its lease. So kombu's workers leave our deliveries alone, and of what
is invisible only that with a delivery row is ever given back: what kombu took stays taken.

``greenmq_queue`` has what a queue was declared with, ``greenmq_binding`` the routes, which kombu keeps in
each process.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from greenmq.exceptions import InvalidArgument

__all__ = ('MAX_NAME', 'Tables')

#: Characters of a queue's name that kombu's table has room for.
MAX_NAME = 200

_SOUND = re.compile(r'[A-Za-z_][A-Za-z0-9_]{0,39}\Z')


class Tables(NamedTuple):
    """The names of the tables of one broker."""

    queue: str
    message: str
    delivery: str
    owner: str
    facts: str
    binding: str

    @classmethod
    def of(cls, queue: str, message: str) -> Tables:
        """Return the names of all of them, given kombu's.

        Raises:
            InvalidArgument: a name with other than letters, digits and underscores, or more than 40 of them.
        """
        for option, name in (('queue_tablename', queue), ('message_tablename', message)):
            if not _SOUND.match(name):
                raise InvalidArgument(option, name, 'has other than up to 40 letters, digits and underscores')
        more = '' if message == 'kombu_message' else f'_{message}'
        return cls(
            queue, message, f'greenmq_delivery{more}', f'greenmq_owner{more}', f'greenmq_queue{more}',
            f'greenmq_binding{more}',
        )  # fmt: skip
