"""How queues are called at the service."""

from __future__ import annotations

import string

from greenmq.exceptions import InvalidArgument

__all__ = ('DEAD_LETTERS', 'Names', 'canonical', 'is_dead_letters')

#: Ends the address of the sub-queue for dead letters that each queue has.
DEAD_LETTERS = '/$DeadLetterQueue'
LONGEST = 260

_KEPT = '_.-'
_TABLE = {ord(each): '_' for each in string.punctuation if each not in _KEPT}


def is_dead_letters(queue: str) -> bool:
    """Is it the name of a sub-queue for dead letters?"""
    return queue.lower().endswith(DEAD_LETTERS.lower())


def canonical(name: str, prefix: str = '', dots: str = 'keep') -> str:
    """Return what a queue is called at the service, as kombu has it: punctuation becomes an underscore.

    Arguments:
        dots (str): 'keep', or 'dash' as kombu had it up to 5.6.
    Raises:
        InvalidArgument: it is empty, or longer than the service takes.
    """
    if not name:
        raise InvalidArgument('queue', name, 'is no name')
    found = (prefix + name).translate(_TABLE)
    if dots == 'dash':
        found = found.replace('.', '-')
    if len(found) > LONGEST:
        raise InvalidArgument('queue', name, f'is longer than the {LONGEST} letters that the service takes')
    return found


class Names:
    """The names of one driver's queues. Two queues that would be one at the service are refused.

    Arguments:
        prefix (str): before each. dots (str): see `canonical`.
    """

    def __init__(self, prefix: str, dots: str) -> None:
        self._prefix = prefix
        self._dots = dots
        self._known: dict[str, str] = {}
        self._owners: dict[str, str] = {}

    def of(self, queue: str) -> str:
        """Return the address of a queue, or of its dead letters.

        Raises:
            InvalidArgument: another queue of this program is called the same there, whatever the case of its
                letters.
        """
        found = self._known.get(queue)
        if found is None:
            found = self._known[queue] = self._new(queue)
        return found

    def _new(self, queue: str) -> str:
        if is_dead_letters(queue):
            return self.of(queue[: -len(DEAD_LETTERS)]) + DEAD_LETTERS
        found = canonical(queue, self._prefix, self._dots)
        owner = self._owners.setdefault(found.lower(), queue)
        if owner != queue:
            raise InvalidArgument('queue', queue, f'would be {found!r} at the service, as {owner!r} is')
        return found

    def back(self, address: str) -> str | None:
        """Return what a queue of the service is called here; None if it has not our prefix."""
        owner = self._owners.get(address.lower())
        if owner is not None:
            return owner
        prefix = canonical(self._prefix, '', self._dots) if self._prefix else ''
        return address[len(prefix) :] if address.startswith(prefix) else None
