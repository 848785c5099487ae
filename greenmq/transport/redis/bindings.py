"""Exchanges' bindings, kept in Redis as kombu keeps them, and remembered here while they don't change.

CLIENT TRACKING tells when somebody changed one; where that is not to be had, what is remembered counts for
one second. What this client bound itself is asserted again when the key has vanished (P30).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from greenmq import runtime
from greenmq.core.routing import match_topic
from greenmq.log import get_logger
from greenmq.transport.redis.keys import Keys
from greenmq.transport.redis.replies import TEXTS, fits
from greenmq.transport.redis.scripts import BIND
from greenmq.transport.redis.server import Server
from greenmq.transport.redis.watches import Watch

__all__ = ('Bindings', 'declaration', 'pattern_of', 'split_binding')

logger = get_logger('greenmq.transport.redis')

#: Seconds that bindings are believed where nobody tells of changes.
BELIEVED = 1.0
#: Routes remembered for each exchange; then the memory starts anew.
MAX_ROUTES = 10_000
#: An expiring queue's binding counts this many times its `x-expires`, and at least MIN_TTL ms (as in kombu).
EXPIRES_FACTOR = 2
MIN_TTL = 3_600_000

PERMANENT = '_kombu.binding_permanent.%s'
DEADLINES = '_kombu.binding_deadlines'

Entry = tuple[str, str, str]


def _is_page(reply: Any) -> bool:
    # a page of SCAN: where to go on, and what was found
    return reply.__class__ is list and len(reply) == 2 and fits(reply[0], bytes) and fits(reply[1], TEXTS)


class Table(Watch):
    """The bindings of one exchange as they were read."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.routes: dict[tuple[str, str], tuple[str, ...]] = {}
        self.valid = True
        #: Does the server tell of changes? Its loss is one: then it is hit.
        self.told = False
        self.read_at = runtime.monotonic()

    def hit(self) -> None:
        """They changed."""
        self.valid = False


class Bindings:
    """The bindings of one database.

    Arguments:
        server (Server): where they are.
        keys (Keys): their names.
        state (BrokerState): what this client declared.
        queue_key (str): kombu's pattern of the key.
    """

    def __init__(self, server: Server, keys: Keys, state: Any, queue_key: str, sep: str) -> None:
        self._server = server
        self._keys = keys
        self._state = state
        self._queue_key = queue_key
        self._sep = sep
        self._tables: dict[str, Table] = {}
        self._reading = runtime.Once()
        self._told: set[str] = set()  # exchanges of which it was said that they have foreign members
        #: Counts what this client changed: a read that began before does not count for who changed it.
        self._changes = 0

    def kind(self, exchange: str) -> str:
        """The type of an exchange; direct if it was not declared here."""
        return (self._state.exchanges.get(exchange) or {}).get('type') or 'direct'

    def key(self, exchange: str) -> str:
        """The key of an exchange's bindings."""
        return self._keys.binding(self._queue_key % (exchange,))

    def table(self, exchange: str, deadline: runtime.Deadline | None = None) -> Table:
        """The bindings of an exchange.

        Raises: as `Server.execute`.
        Switches: only if they are not known.
        """
        table = self._tables.get(exchange)
        if table is not None and table.valid:
            if self._server.tracks or runtime.monotonic() - table.read_at < BELIEVED:
                return table
        # Thousands of greenlets may publish while they are not known: one reads them for all.
        what = f'the bindings of exchange {exchange!r}: another greenlet reads them; they did not come'
        key = exchange, self._changes
        read: Table = self._reading.do(key, lambda: self._read(exchange, deadline), what, deadline)[0]
        return read

    def _read(self, exchange: str, deadline: runtime.Deadline | None) -> Table:
        key = self.key(exchange)
        changes = self._changes
        members, table = self._members(key, deadline)
        if not members and self._assert(exchange, deadline):
            changes = self._changes
            members, table = self._members(key, deadline)
        table.told = self._server.tracks
        entries = [self._split(member) for member in members]
        table.entries = sorted(entry for entry in entries if entry is not None)
        strangers = len(entries) - len(table.entries)
        if strangers and exchange not in self._told:
            self._told.add(exchange)
            logger.warning('%d members of %r are no bindings: they are passed over', strangers, key)
        if changes == self._changes:
            self._tables[exchange] = table
        return table

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

    def _members(self, key: str, deadline: runtime.Deadline | None) -> tuple[Any, Table]:
        # Watched before it is read: a change right behind the reply must not be missed.
        table = Table()
        self._server.watchers.watch([key], table)
        return self._server.execute(('SMEMBERS', key), key, deadline, TEXTS), table

    def _split(self, member: bytes) -> Entry | None:
        return split_binding(member, self._sep)

    def route(
        self, exchange: str, kind: str, routing_key: str, deadline: runtime.Deadline | None = None
    ) -> tuple[str, ...]:
        """The queues that get a message, each once, in a stable order.

        Arguments:
            kind (str): direct, topic or fanout; kombu stores no types.
        Switches: as `table`.
        """
        table = self._tables.get(exchange)
        if table is None or not table.valid or not table.told:
            table = self.table(exchange, deadline)
        found = table.routes.get((kind, routing_key))
        if found is None:
            if len(table.routes) >= MAX_ROUTES:
                table.routes.clear()
            found = table.routes[kind, routing_key] = _matching(table.entries, kind, routing_key)
        return found

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
        key, member = self.key(exchange), self._sep.join((routing_key or '', pattern or '', queue or ''))
        permanent, deadlines = (self._keys.binding(name) for name in (PERMANENT % (exchange,), DEADLINES))
        with self._changing(exchange):
            if expires_ms is not None:
                bound = self._keys.bound(queue)
                self._server.execute(('SADD', bound, f'{exchange}{self._sep}{member}'), bound, deadline)
            if expires_ms is None:
                self._server.execute(('SADD', key, member), key, deadline)
                self._server.execute(('SADD', permanent, member), permanent, deadline)
            elif self._keys.cluster:
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
        member = self._sep.join((routing_key or '', pattern or '', queue or ''))
        with self._changing(exchange):
            for key in (self.key(exchange), self._keys.binding(PERMANENT % (exchange,))):
                self._server.execute(('SREM', key, member), key, deadline)

    @contextmanager
    def _changing(self, exchange: str) -> Iterator[None]:
        self._forget(exchange)
        try:
            yield
        finally:
            self._forget(exchange)  # what was read meanwhile may be what was before

    def _forget(self, exchange: str) -> None:
        self._changes += 1
        table = self._tables.pop(exchange, None)
        if table is not None:
            table.valid = False


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


def _matching(entries: list[Entry], kind: str, routing_key: str) -> tuple[str, ...]:
    if kind == 'fanout':
        found = [queue for _, _, queue in entries]
    elif kind == 'topic':
        found = [queue for key, _, queue in entries if match_topic(key, routing_key)]
    else:
        found = [queue for key, _, queue in entries if key == routing_key]
    return tuple(dict.fromkeys(found))


def pattern_of(kind: str | None, routing_key: str) -> str | None:
    """The regular expression of a binding's key that kombu's workers read."""
    if kind != 'topic':
        return None
    from greenmq.transport.virtual.exchange import TopicExchange

    return TopicExchange(None).key_to_pattern(routing_key)
