"""How queues are called at the service."""

from __future__ import annotations

import hashlib
import re

from greenmq.exceptions import InvalidArgument

__all__ = ('Names', 'canonical', 'poison')

SHORTEST, LONGEST = 3, 63

_OTHERS = re.compile(r'[^a-z0-9-]')
_LEGAL = re.compile(r'[a-z0-9](?:-?[a-z0-9])*')
_HASH = 8


def canonical(name: str, prefix: str = '') -> str:
    """Return what a queue is called at the service: 3 to 63 of a-z, 0-9 and single dashes within.

    As kombu, which makes punctuation to dashes, wherever the service takes that. Else letters become small,
    dashes single, and what is too short, too long or has lost letters gets a hash of the whole.

    Raises:
        InvalidArgument: it is empty.
    """
    whole = prefix + name
    if not name:
        raise InvalidArgument('queue', name, 'is no name')
    found = re.sub('-+', '-', _OTHERS.sub('-', whole.lower())).strip('-')
    lost = not whole.isascii()
    if not lost and SHORTEST <= len(found) <= LONGEST and _LEGAL.fullmatch(found):
        return found
    return _hashed(found, whole)


def _hashed(found: str, whole: str) -> str:
    digest = hashlib.sha256(whole.encode('utf-8', 'surrogatepass')).hexdigest()[:_HASH]
    kept = found[: LONGEST - _HASH - 1].rstrip('-')
    return f'{kept}-{digest}' if kept else f'q-{digest}'


def poison(name: str, suffix: str) -> str:
    """Return the name of the queue beside another one, for what nobody could handle."""
    found = f'{name}{suffix}'
    return found if len(found) <= LONGEST and _LEGAL.fullmatch(found) else canonical(found)


class Names:
    """The names of one driver's queues. Two queues that would be one at the service are refused.

    Arguments:
        prefix (str): before each.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._known: dict[str, str] = {}
        self._owners: dict[str, str] = {}

    def of(self, queue: str) -> str:
        """Return what a queue is called at the service.

        Raises:
            InvalidArgument: another queue of this program is called the same there.
        """
        found = self._known.get(queue)
        if found is None:
            found = canonical(queue, self._prefix)
            owner = self._owners.setdefault(found, queue)
            if owner != queue:
                raise InvalidArgument('queue', queue, f'would be {found!r} at the service, as {owner!r} is')
            self._known[queue] = found
        return found

    def back(self, name: str) -> str:
        """Return what a queue of the service is called here."""
        owner = self._owners.get(name)
        if owner is not None:
            return owner
        prefix = _OTHERS.sub('-', self._prefix.lower())
        return name[len(prefix) :] if prefix and name.startswith(prefix) else name

    def listed(self) -> str:
        """Return the prefix that all names at the service have."""
        return re.sub('-+', '-', _OTHERS.sub('-', self._prefix.lower()))
