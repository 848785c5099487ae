"""What the names of message files mean.

``<number>_<uuid>.<queue>.msg`` is kombu's, with milliseconds of the monotonic clock as number. Ours have a
UUID of version 8 that counts on within a millisecond, and before the first dot, where kombu does not look,
the priority and the number of deliveries: ``123_<uuid>_p5_r1.<queue>.msg``.
"""

from __future__ import annotations

import os
import re
import time
from typing import NamedTuple

from greenmq.exceptions import InvalidArgument

__all__ = ('LONGEST_QUEUE', 'Name', 'Namer', 'again', 'booted_at', 'check_queue', 'parse', 'queue_of')

#: Bytes of a queue's name: the system takes 255 for a file, and some are for ours.
LONGEST_QUEUE = 160

_HEAD = re.compile(r'(\d+)_([0-9a-fA-F-]{36})(?:_p(\d))?(?:_r(\d+))?')
_SUFFIX = '.msg'


class Name(NamedTuple):
    """A message file's name, read.

    Attributes:
        number (int): milliseconds of the monotonic clock when it was put.
        rest (str): orders those of one millisecond.
        priority (int), deliveries (int): how often it was delivered before.
        ours (bool): it was moved here whole; other files may be half written.
    """

    number: int
    rest: str
    priority: int
    deliveries: int
    ours: bool


def queue_of(name: str) -> str | None:
    """Return the queue that a file belongs to; None if it is no message."""
    head, _, rest = name.partition('.')
    return rest[: -len(_SUFFIX)] if head and rest.endswith(_SUFFIX) and rest != _SUFFIX else None


def parse(name: str) -> Name:
    """Read a message file's name; of one that is nobody's, the number is as far as there is one."""
    head = name.partition('.')[0]
    found = _HEAD.fullmatch(head)
    if found is None:
        digits = head.partition('_')[0]
        return Name(int(digits) if digits.isdecimal() else 0, head, 0, 0, False)
    number, unique, priority, deliveries = found.groups()
    return Name(int(number), unique, int(priority or 0), int(deliveries or 0), unique[14] == '8')


def again(name: str) -> str:
    """Return the name of a message that was delivered once more. Its place in the queue is the same."""
    head, _, rest = name.partition('.')
    found = _HEAD.fullmatch(head)
    if found is None or found[4] is None:
        return f'{head}_r1.{rest}' if found is not None else name
    return f'{head[: found.start(4)]}{int(found[4]) + 1}.{rest}'


def check_queue(queue: str) -> None:
    """Refuse a queue whose name is no part of a file's name.

    Raises:
        InvalidArgument: it has a slash or NUL, begins with a dot, is empty or too long.
    """
    if not queue or queue.startswith('.') or '/' in queue or '\0' in queue:
        raise InvalidArgument('queue', queue, "is no file name: no '/', no NUL and no leading dot, please")
    if len(os.fsencode(queue)) > LONGEST_QUEUE:
        raise InvalidArgument('queue', queue, f'is longer than {LONGEST_QUEUE} bytes')


class Namer:
    """Makes names, each after the one before."""

    def __init__(self) -> None:
        self._last = 0

    def name(self, queue: str, priority: int = 0) -> str:
        """Return the name for a message that is put now."""
        self._last = now = max(self._last + 1, time.monotonic_ns())
        chance = os.urandom(7).hex()
        count = f'{now:016x}'
        unique = f'{count[:8]}-{count[8:12]}-8{count[12:15]}-8{count[15]}{chance[:2]}-{chance[2:]}'
        return f'{round(now / 1_000_000)}_{unique}{f"_p{priority}" if priority else ""}.{queue}{_SUFFIX}'


def booted_at() -> float:
    """Return when the clock of the numbers began, in seconds since 1970, about."""
    clock = getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC)
    return time.time() - time.clock_gettime(clock)
