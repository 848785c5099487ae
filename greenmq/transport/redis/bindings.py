"""Exchanges' bindings, kept in Redis as kombu keeps them. `driver.router` remembers them.

CLIENT TRACKING tells when somebody changed one. What this client bound itself is asserted again when the key
has vanished (P30).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from greenmq import runtime
from greenmq.log import get_logger
from greenmq.transport.driver.contract import Owner
from greenmq.transport.redis.keys import Keys
from greenmq.transport.redis.replies import TEXTS, fits
from greenmq.transport.redis.scripts import BIND
from greenmq.transport.redis.server import Server
from greenmq.transport.redis.watches import Watch

__all__ = ('Bindings', 'declaration', 'pattern_of', 'split_binding')

logger = get_logger('greenmq.transport.redis')

#: An expiring queue's binding counts this many times its `x-expires`, and at least MIN_TTL ms (as in kombu).
EXPIRES_FACTOR = 2
MIN_TTL = 3_600_000

#: kombu's keys.
BINDINGS_OF = '_kombu.binding.%s'
PERMANENT = '_kombu.binding_permanent.%s'
DEADLINES = '_kombu.binding_deadlines'

Entry = tuple[str, str, str]


def _is_page(reply: Any) -> bool:
    # a page of SCAN: where to go on, and what was found
    return reply.__class__ is list and len(reply) == 2 and fits(reply[0], bytes) and fits(reply[1], TEXTS)


class Changes(Watch):
    """Has the owner of a driver told that the bindings of an exchange changed."""

    def __init__(self, owner: Owner, exchange: str) -> None:
        self._owner = owner
        self._exchange = exchange

    def hit(self) -> None:
        """They changed, or nobody tells of it any more."""
        self._owner.changed(self._exchange)


class Bindings:
    """The bindings of one database.

    Arguments:
        server (Server): where they are.
        keys (Keys): their names.
        state (BrokerState): what this client declared.
        owner (Owner): who is told when they change.
    """

    def __init__(self, server: Server, keys: Keys, state: Any, owner: Owner) -> None:
        self._server = server
        self._keys = keys
        self._state = state
        self._owner = owner
        self._changes: dict[str, Changes] = {}
        self._told: set[str] = set()  # exchanges of which it was said that they have foreign members

    def key(self, exchange: str) -> str:
        """The key of an exchange's bindings."""
        return self._keys.binding(BINDINGS_OF % (exchange,))

    def entries(self, exchange: str, deadline: runtime.Deadline) -> list[Entry]:
        """Read the bindings of an exchange, each as routing key, pattern and queue.

        Raises, Switches: as `Server.execute`.
        """
        key = self.key(exchange)
        changes = self._changes.setdefault(exchange, Changes(self._owner, exchange))
        # Watched before it is read: a change right behind the reply must not be missed.
        self._server.watchers.watch([key], changes)
        members = self._server.execute(('SMEMBERS', key), key, deadline, TEXTS)
        if not members and self._assert(exchange, deadline):
            members = self._server.execute(('SMEMBERS', key), key, deadline, TEXTS)
        entries = [self._split(member) for member in members]
        found = sorted(entry for entry in entries if entry is not None)
        strangers = len(entries) - len(found)
        if strangers and exchange not in self._told:
            self._told.add(exchange)
            logger.warning('%d members of %r are no bindings: they are passed over', strangers, key)
        return found

    def all_queues(self, deadline: runtime.Deadline | None) -> set[str]:
        """Names of all queues that are bound to anything, by whatever program. Looks through the database.

        Switches: yes.
        """
        found: set[str] = set()
        cursor, pattern = b'0', re.sub(r'([\\*?\[\]])', r'\\\1', self.key('')) + '*'
        while True:
            command = ('SCAN', cursor, 'MATCH', pattern, 'COUNT', 1000, 'TYPE', 'set')
            cursor, keys = self._server.execute(command, None, deadline, _is_page)
            for key in keys:
                name = bytes(key).decode(errors='replace')
                members = self._server.execute(('SMEMBERS', name), name, deadline, TEXTS)
                entries = (self._split(member) for member in members)
                found.update(entry[2] for entry in entries if entry is not None)
            if bytes(cursor) == b'0':
                return found

    def restore(self, deadline: runtime.Deadline) -> None:
        """Assert what we bound where the key has vanished. Switches: yes."""
        for exchange in {binding.exchange for binding in self._state.bindings}:
            key = self.key(exchange)
            if not self._server.execute(('EXISTS', key), key, deadline):
                self._assert(exchange, deadline)

    def _assert(self, exchange: str, deadline: runtime.Deadline | None) -> bool:
        """Evicted, or removed by somebody: what we bound ourselves still holds (P30)."""
        mine = [binding for binding in self._state.bindings if binding.exchange == exchange]
        for binding in mine:
            kind = self._state.exchanges.get(exchange, {}).get('type')
            pattern = pattern_of(kind, binding.routing_key)
            expires = (self._state.queues.get(binding.queue) or {}).get('arguments', {}).get('x-expires')
            if expires is None or self._still_there(binding.queue, deadline):
                self.add(exchange, binding.routing_key, pattern, binding.queue, expires, deadline)
        return bool(mine)

    def _still_there(self, queue: str, deadline: runtime.Deadline | None) -> bool:
        expires = self._keys.home(queue).expires
        return bool(self._server.execute(('HEXISTS', expires, queue), expires, deadline))

    def _split(self, member: bytes) -> Entry | None:
        return split_binding(member, self._keys.sep)

    def add(
        self,
        exchange: str,
        routing_key: str,
        pattern: str | None,
        queue: str,
        expires_ms: int | None,
        deadline: runtime.Deadline | None = None,
    ) -> None:
        """Bind a queue.

        Arguments:
            expires_ms (int): `x-expires` of the queue, if it has that.
        Switches: yes.
        """
        for what, name in (('exchange', exchange), ('routing_key', routing_key or ''), ('queue', queue)):
            self._keys.check(what, name)
        key, member = self.key(exchange), self._keys.sep.join((routing_key or '', pattern or '', queue or ''))
        permanent, deadlines = (self._keys.binding(name) for name in (PERMANENT % (exchange,), DEADLINES))
        if expires_ms is None:
            self._server.execute(('SADD', key, member), key, deadline)
            self._server.execute(('SADD', permanent, member), permanent, deadline)
            return
        bound = self._keys.bound(queue)
        self._server.execute(('SADD', bound, f'{exchange}{self._keys.sep}{member}'), bound, deadline)
        if self._keys.cluster:
            # Two slots: the binding is what counts, and no kombu sweeps a cluster.
            self._server.execute(('SADD', key, member), key, deadline)
        else:
            ttl = max(int(expires_ms) * EXPIRES_FACTOR, MIN_TTL)
            self._server.run(BIND, (key, deadlines), (member, exchange, ttl), deadline)

    def remove(
        self,
        exchange: str,
        routing_key: str,
        pattern: str | None,
        queue: str,
        deadline: runtime.Deadline | None = None,
    ) -> None:
        """Undo `add`. Switches: yes."""
        member = self._keys.sep.join((routing_key or '', pattern or '', queue or ''))
        for key in (self.key(exchange), self._keys.binding(PERMANENT % (exchange,))):
            self._server.execute(('SREM', key, member), key, deadline)


def split_binding(member: bytes, sep: str) -> Entry | None:
    """Routing key, pattern and queue of a binding; None if a stranger wrote it."""
    try:
        parts = member.decode().split(sep)
    except UnicodeDecodeError:
        return None
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None


def declaration(facts: Mapping[str, Any]) -> str:
    """What is noted of a queue that was declared so."""
    names = ('durable', 'auto_delete', 'arguments')
    return json.dumps({name: facts[name] for name in names if facts.get(name)}, default=str)


def pattern_of(kind: str | None, routing_key: str) -> str | None:
    """The regular expression of a binding's key that kombu's workers read."""
    if kind != 'topic':
        return None
    from greenmq.transport.virtual.exchange import TopicExchange

    return TopicExchange(None).key_to_pattern(routing_key)
