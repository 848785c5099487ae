"""The keys of this transport, and what each holds. The only place that knows a key's name.

kombu's, shared with kombu's workers (each behind `global_keyprefix`, if one is set):

``<queue>``, ``<queue>\\x06\\x16<step>``
    LIST, one for each priority step; step 0 is the bare name. LPUSH adds a message, the right end is the
    front. An element is the message as JSON, see `virtual.envelope`. One that was given back by us begins
    with ``{"redelivered":<times>,``.
``_kombu.binding.<exchange>``
    SET of ``<routing key>\\x06\\x16<pattern>\\x06\\x16<queue>``; the pattern is kombu's regular expression
    for topics.
``_kombu.binding_permanent.<exchange>``, ``_kombu.binding_deadlines``
    SET of those bindings that never expire; ZSET exchange → ms until which the others count.
``unacked``
    HASH tag → what was taken and is not settled. By kombu ``[message, exchange, routing key]``; by us
    ``[message,"",queue]``, so that kombu too restores it to that one queue.
``unacked_index``
    ZSET tag → time in seconds when it was taken; ours are refreshed while we live.
``/<db>.<exchange>[/<routing key>]``
    pub/sub channel of a fanout exchange.

Ours, `<consumer>` being one transport's random name; a tag of ours is ``gm:<consumer>:<number>:<step>``:

``greenmq.lease.<consumer>``   STRING with PX: while it is there, the consumer lives.
``greenmq.tags.<consumer>``    ZSET tag → number: what the consumer has, in the order in which it took it.
``greenmq.consumers``          SET of consumers that may have something.
``greenmq.sweep``              STRING with PX: somebody has looked for dead consumers just now.
``greenmq.expires``            HASH queue → its `x-expires` in ms.
``greenmq.expiring``           ZSET of those queues → ms when they expire unless they are used before.
``greenmq.bound.<queue>``      SET of ``<exchange>\\x06\\x16<binding>``: what goes with such a queue.
``greenmq.delayed``            ZSET ``<length of key>:<key><nonce>:<message>`` → ms when it is due.
``greenmq.queues``             HASH queue → its declaration as JSON: an empty queue has no list in Redis.
``greenmq.dead.<queue>``       LIST of messages that were delivered too often or can't be read, newest left.
``greenmq.stream.<exchange>``  STREAM of a fanout exchange with fanout_mode='stream'.

In a cluster each queue has a set of its own of all that a script touches, in the slot of the tag
``{<queue>}``: the lists are ``{<queue>}…``, and ``unacked`` is ``{<queue>}.unacked``, and so on. kombu has
no cluster layout.
"""

from __future__ import annotations

import functools
import json
from typing import Any, NamedTuple

from greenmq.exceptions import InvalidArgument

__all__ = ('Home', 'Keys')


#: Queues of which it is remembered that their names are fit; then the memory starts anew.
MAX_NAMES = 10_000
#: Names of queues may not begin so: those are keys of ours and kombu's; but dead letters may be consumed.
_RESERVED = ('greenmq.', '_kombu.binding')


class Home(NamedTuple):
    """The keys that a queue shares with all queues of its home: of the database, or in a cluster its own."""

    unacked: str
    times: str
    own: str
    lease: str
    consumers: str
    sweep: str
    delayed: str
    expires: str
    expiring: str
    #: What stands before a consumer's name in the keys of leases and tags.
    lease_of: str
    tags_of: str


@functools.lru_cache(maxsize=16)
def _step_of(steps: tuple[int, ...]) -> list[int]:
    """The step of each priority: one list of 2 KB for all connections with the same steps."""
    return [max(step for step in steps if step <= n) for n in range(256)]


class Keys:
    """Makes the names of keys.

    Arguments:
        consumer (str): the transport's own name, without a colon.
        prefix (str): global_keyprefix.
        steps (Sequence[int]): priority steps, ascending; the first is 0.
        sep (str): between a queue and its step.
        cluster (bool): the layout with hash tags.
        unacked (str), index (str): unacked_key, unacked_index_key.
        fanout (str): before the exchange in the names of pub/sub channels.
        patterns (bool): does the routing key follow in them?
    """

    def __init__(
        self,
        consumer: str,
        prefix: str = '',
        steps: Any = (0, 3, 6, 9),
        sep: str = '\x06\x16',
        cluster: bool = False,
        unacked: str = 'unacked',
        index: str = 'unacked_index',
        fanout: str = '/0.',
        patterns: bool = True,
    ) -> None:
        self.consumer = consumer
        self.prefix = prefix
        self.steps = tuple(sorted({0, *steps}))
        self.sep = sep
        self.cluster = cluster
        #: A queue's list is head + queue + tail, and for a step above 0 also sep + step.
        self.head = prefix + '{' if cluster else prefix
        self.tail = '}' if cluster else ''
        self._unacked = unacked
        self._index = index
        self._fanout = fanout
        self._patterns = patterns
        self._home = None if cluster else self._make_home(prefix)
        self._homes: dict[str, Home] = {}
        self.queues = f'{prefix}greenmq.queues'
        self._step_of = _step_of(self.steps)
        self._bases: dict[str, str] = {}
        self._reserved = {unacked, index, 'unacked_mutex'}

    def _make_home(self, prefix: str) -> Home:
        return Home(
            prefix + self._unacked,
            prefix + self._index,
            f'{prefix}greenmq.tags.{self.consumer}',
            f'{prefix}greenmq.lease.{self.consumer}',
            f'{prefix}greenmq.consumers',
            f'{prefix}greenmq.sweep',
            f'{prefix}greenmq.delayed',
            f'{prefix}greenmq.expires',
            f'{prefix}greenmq.expiring',
            f'{prefix}greenmq.lease.',
            f'{prefix}greenmq.tags.',
        )

    def home(self, queue: str) -> Home:
        """The home of a queue."""
        if self._home is not None:
            return self._home
        found = self._homes.get(queue)
        if found is None:
            if queue.startswith('}'):
                raise InvalidArgument('queue', queue, 'can have no slot of its own in a cluster')
            found = self._homes[queue] = self._make_home(f'{self.prefix}{{{queue}}}.')
        return found

    def homes(self) -> list[Home]:
        """All homes that this transport had to do with."""
        return [self._home] if self._home is not None else list(self._homes.values())

    def step(self, priority: int) -> int:
        """The step of a priority: the highest that is not above it."""
        return self._step_of[min(max(priority, 0), 255)]

    def list_of(self, queue: str, step: int = 0) -> str:
        """The list of a queue and step."""
        base = self._bases.get(queue) or self._base_of(queue)
        return f'{base}{self.sep}{step}' if step else base

    def _base_of(self, queue: str) -> str:
        self.check('queue', queue)
        if not self.cluster and (queue in self._reserved or queue.startswith(_RESERVED)):
            if not queue.startswith('greenmq.dead.'):
                raise InvalidArgument('queue', queue, 'is the name of a key that this transport needs')
        if len(self._bases) >= MAX_NAMES:
            self._bases.clear()
        base = self._bases[queue] = f'{self.head}{queue}{self.tail}'
        return base

    def check(self, what: str, name: str) -> None:
        """Refuse a name that would be taken apart in another place than where it was put together.

        Raises:
            InvalidArgument: it holds the separator.
        """
        if self.sep in name:
            raise InvalidArgument(what, name, f'holds {self.sep!r}, which separates names in Redis')

    def lists(self, queue: str) -> list[str]:
        """All lists of a queue, step 0 first."""
        return [self.list_of(queue, step) for step in self.steps]

    def binding(self, name: str) -> str:
        """Put a key of bindings behind the prefix."""
        return self.prefix + name

    def dead(self, queue: str) -> str:
        """The list of a queue's dead letters."""
        return self._of_queue(queue, 'dead')

    def bound(self, queue: str) -> str:
        """The bindings of a queue that expires."""
        return self._of_queue(queue, 'bound')

    def _of_queue(self, queue: str, what: str) -> str:
        if self.cluster:
            return f'{self.prefix}{{{queue}}}.greenmq.{what}'
        return f'{self.prefix}greenmq.{what}.{queue}'

    def channel(self, exchange: str, routing_key: str) -> str:
        """The pub/sub channel that a message of a fanout exchange is published on."""
        key = f'/{routing_key}' if routing_key and self._patterns else ''
        return f'{self.prefix}{self._fanout}{exchange}{key}'

    def channels(self, exchange: str, routing_key: str) -> str:
        """The pattern of those that a binding hears: a star of its routing key means any text there."""
        key = f'/{routing_key}' if routing_key and self._patterns else ''
        return _escaped(f'{self.prefix}{self._fanout}{exchange}', '*') + _escaped(key)

    def stream(self, exchange: str) -> str:
        """The stream of a fanout exchange."""
        return f'{self.prefix}greenmq.stream.{exchange}'

    def tag(self, number: int, step: int) -> str:
        """The delivery tag of the n-th message that this transport takes."""
        return f'gm:{self.consumer}:{number}:{step}'

    @staticmethod
    def value_end(queue: str) -> str:
        """What stands behind the message in `unacked`."""
        return f',"",{json.dumps(queue)}]'

    def delayed_member(self, key: str, nonce: str, raw: str) -> str:
        """A member of the ZSET of delayed messages."""
        return f'{len(key.encode())}:{key}{nonce}:{raw}'


def _escaped(text: str, more: str = '') -> str:
    """Text as it stands in a pattern of Redis."""
    return ''.join(f'\\{char}' if char in '[]?\\' or char in more else char for char in text)
