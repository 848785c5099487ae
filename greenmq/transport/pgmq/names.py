"""What kombu calls queues and bindings in pgmq, which takes up to 47 characters and few signs."""

from __future__ import annotations

import re
import string
from hashlib import sha1
from typing import NamedTuple

from greenmq.exceptions import InvalidArgument

__all__ = ('Name', 'fanout_pattern', 'is_pattern', 'name_of', 'topic_prefix')

#: Bytes of a name that leave room for what pgmq and its partitions put before it.
LONGEST = 47
_DIGITS = 8

_REPLACED = {ord(each): '_' for each in string.punctuation if each != '_'}
_PATTERN = re.compile(r'(?!\.)(?!.*(\.\.|[*#]{2}))[A-Za-z0-9._*#-]{1,255}(?<!\.)\Z')
_SPELLED = {'-': '--', '.': '-d-', '*': '-s-', '#': '-h-', '_': '_'}


class Name(NamedTuple):
    """One queue in pgmq.

    Attributes:
        name (str): what pgmq calls it. key (str): two queues of one key are one in pgmq.
        table (str): its table, to stand in SQL.
        channel (str): where pgmq itself notifies of inserts, if that is enabled there.
    """

    name: str
    key: str
    table: str
    channel: str


def name_of(queue: str, prefix: str = '') -> Name:
    """Return what a queue is called in pgmq.

    A name that is too long for it is cut, and ends in digits made of all of it.

    Raises:
        InvalidArgument: it has a NUL, which PostgreSQL cannot keep.
    """
    full = prefix + queue
    if '\0' in full:
        raise InvalidArgument('queue', queue, 'has a NUL')
    name = full.translate(_REPLACED)
    if len(name.encode()) > LONGEST:
        head = name.encode()[: LONGEST - _DIGITS - 1].decode(errors='ignore')
        name = f'{head}_{sha1(full.encode(), usedforsecurity=False).hexdigest()[:_DIGITS]}'
    key = name.lower()
    return Name(name, key, f'pgmq."q_{key}"', f'pgmq.q_{key}.INSERT')


def _exchange(exchange: str) -> str:
    # One word of a pattern, whatever the exchange is called.
    return ''.join(
        each if each.isascii() and each.isalnum() else _SPELLED.get(each) or f'-x{ord(each):02x}-'
        for each in exchange
    ) or '_'  # fmt: skip


def fanout_pattern(exchange: str) -> str:
    """Return the pattern by which kombu binds queues to a fanout exchange."""
    return f'kombu.fanout.{_exchange(exchange)}'


def topic_prefix(exchange: str) -> str:
    """Return what stands before the routing keys of a topic exchange."""
    return f'kombu.topic.{_exchange(exchange)}.'


def is_pattern(pattern: str) -> bool:
    """Does pgmq take it as a pattern? It refuses others, so kombu cannot have them either."""
    return _PATTERN.match(pattern) is not None
