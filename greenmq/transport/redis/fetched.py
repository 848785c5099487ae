"""What `fetch.lua` returns: its shape, the messages in it, and what becomes of it if nobody waits for it."""

from __future__ import annotations

from functools import partial
from typing import Any

from greenmq.log import get_logger
from greenmq.transport.redis.replies import expect
from greenmq.transport.redis.settling import UNTOUCHED

__all__ = ('FETCH_BYTES', 'MORE', 'Orphan', 'is_fetched', 'tagged', 'tell_of_strangers')

logger = get_logger('greenmq.transport.redis')

#: Bytes after which a fetch takes no more messages: what it brings is made into messages in one stretch, and
#: nobody else on the hub has a turn meanwhile.
FETCH_BYTES = 1024 * 1024
#: What a fetch says in the place of a time, if not all lists were read to their end.
MORE = -2

#: Queue and step of each list that was asked.
Pairs = list[tuple[str, int]]


def is_fetched(lists: int, reply: Any) -> bool:
    """Is it what the script returns for so many lists? Switches: no."""
    if reply.__class__ is not list or len(reply) < 3 or set(map(type, reply[:3])) != {int}:
        return False
    at = 3 + 2 * reply[2]
    runs = reply[3:at]
    if not 3 <= at <= len(reply) or not set(map(type, runs)) <= {int} or min(runs, default=0) < 0:
        return False
    if max(runs[::2], default=-1) >= lists:
        return False
    return sum(runs[1::2]) == len(reply) - at and set(map(type, reply[at:])) <= {bytes, int}


def tagged(reply: list[Any], pairs: Pairs, keys: Any, number: int) -> list[tuple[str, str, Any]]:
    """The queue, the tag and the text of each message. Switches: no.

    Arguments:
        number (int): of the first message.
    """
    found: list[tuple[str, str, Any]] = []
    at = 3 + 2 * reply[2]
    start = f'gm:{keys.consumer}:'
    for place in range(3, at, 2):
        queue, step = pairs[reply[place]]
        end = at + reply[place + 1]
        for raw in reply[at:end]:
            found.append((queue, f'{start}{number}:{step}', raw))
            number += 1
        at = end
    return found


def tell_of_strangers(key: str, count: int) -> None:
    """Members of the ZSET of delayed messages were none, and were taken out. Switches: no."""
    logger.error('%d members of %r are no delayed messages; they are kept in %r', count, key, f'{key}.dead')


class Orphan:
    """What becomes of a fetch's reply that nobody waits for any more: it goes back."""

    __slots__ = ('_keys', '_number', '_pairs', '_settler')

    def __init__(self, settler: Any, keys: Any, pairs: Pairs, number: int) -> None:
        self._settler = settler
        self._keys = keys
        self._pairs = pairs
        self._number = number

    def __call__(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            return  # an error, or the end of the link: nothing was taken, or the lease will tell
        expect(reply, partial(is_fetched, len(self._pairs)), 'server')
        for queue, tag, _ in tagged(reply, self._pairs, self._keys, self._number):
            self._settler.give_back(queue, tag, UNTOUCHED)
