"""Where things are in ZooKeeper: kombu's nodes, and ours beside them.

A queue is the node ``/<vhost>/<queue>``, a message its child ``entry-PPP-NNNNNNNNNN``, as kazoo's Queue names
them: PPP is 9 less the priority, N counts. What greenmq adds is below ``/<vhost>/.greenmq``, outside of the
queues, since kombu takes every child of a queue for a message:

* ``o/<owner>``: ephemeral, there while the owner's session lives; all owners watch these;
* ``n/<owner>``: ephemeral too; each publish raises its version, and nobody watches it;
* ``c/<queue>/<entry>,<owner>``: a message that the owner has taken: the entry was moved here with its data;
* ``b/<exchange>``: bindings, as JSON; ``q/<queue>``: what a queue was made with, as JSON;
* ``x/<queue>``: its owner and life, if it ends with either; ``sweeper``: ephemeral, of who sweeps now.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from greenmq.exceptions import InvalidArgument

__all__ = ('ENTRY', 'Claim', 'Layout', 'named', 'plain')

#: What the name of a message looks like.
ENTRY = re.compile(r'entry-\d{3}-?\d+\Z')

_SAFE = ' !"#$&\'()*+,-.:;<=>?@[]^_`{|}~'


def plain(name: str) -> str:
    """Return a name as one node of ours: no slash, and not '.' or '..'."""
    text = quote(name, safe=_SAFE)
    return text.replace('.', '%2E') if text in ('.', '..') else text


def named(node: str) -> str:
    """Undo `plain`."""
    return unquote(node)


class Claim(NamedTuple):
    """One message that somebody has taken.

    Attributes:
        entry (str): its name in the queue.
        owner (str): who has it.
        path (str): of its node.
    """

    queue: str
    entry: str
    owner: str
    path: str


class Layout:
    """The paths of one virtual host."""

    def __init__(self, virtual_host: str) -> None:
        inner = virtual_host.strip('/')
        self.root = f'/{inner}' if inner else ''
        ours = f'{self.root}/.greenmq'
        self.owners, self.counters = f'{ours}/o', f'{ours}/n'
        self.claims, self.bindings = f'{ours}/c', f'{ours}/b'
        self.facts, self.ends, self.sweeper = f'{ours}/q', f'{ours}/x', f'{ours}/sweeper'

    @property
    def folders(self) -> tuple[str, ...]:
        """The nodes that must be there."""
        return self.owners, self.counters, self.claims, self.bindings, self.facts, self.ends

    def queue(self, queue: str) -> str:
        """The node of a queue.

        Raises:
            InvalidArgument: a name that leads elsewhere.
        """
        parts = queue.split('/')
        if not queue or '\0' in queue or any(part in ('', '.', '..') for part in parts):
            raise InvalidArgument('queue', queue, 'is no name below a node of ZooKeeper')
        if parts[0] == '.greenmq' or (not self.root and parts[0] == 'zookeeper'):
            raise InvalidArgument('queue', queue, 'is a node that has another use')
        return f'{self.root}/{queue}'

    def claim(self, queue: str, entry: str, owner: str) -> Claim:
        """What an entry becomes when an owner takes it."""
        return Claim(queue, entry, owner, f'{self.claims}/{plain(queue)}/{entry},{owner}')

    def claim_of(self, folder: str, node: str) -> Claim | None:
        """Read the name of a claim; None if it is none."""
        entry, _, owner = node.partition(',')
        if not owner or not ENTRY.match(entry):
            return None
        return Claim(named(folder), entry, owner, f'{self.claims}/{folder}/{node}')
