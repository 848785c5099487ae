"""Queues and bindings in MongoDB, in the thread of the store.

``messages.queues`` has a document each queue, as kombu makes them with its option `ttl`: ``{_id, options}``;
``gmq`` beside that says when the queue is over. ``messages.routing`` is kombu's: ``{exchange, queue,
routing_key, pattern}``, the pattern of a topic being kombu's regular expression; ``gmq`` beside that has the
type of the exchange and the arguments.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pymongo

from greenmq.transport.driver import Binding
from greenmq.transport.limits import QueueLimits, arguments_text
from greenmq.transport.mongodb.store import LEASED, Store
from greenmq.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES
from greenmq.utils.json import loads

__all__ = ('Facts', 'Topology')

#: Queues that one sweep ends.
_BATCH = 100


class Facts(NamedTuple):
    """What is known of a queue.

    Attributes:
        arguments (dict): as it was declared.
    """

    arguments: dict[str, Any]
    limits: QueueLimits


class Topology:
    """The queues and bindings of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # ---- queues

    def make(self, queue: str, facts: dict[str, Any], lives: float | None, exclusive: bool) -> None:
        """Make a queue; it may exist.

        Arguments:
            facts (dict): durable, auto_delete, exclusive, arguments.
            lives (float): seconds that it lives while nobody uses it; None for ever.
        """
        ours = {
            'lives': lives, 'owner': self._store.settings.owner if exclusive else None,
            'ends': None if lives is None else self._store.now() + timedelta(seconds=lives),
        }  # fmt: skip
        self._store.collection('queues').update_one(
            {'_id': queue}, {'$set': {'options': facts, 'gmq': ours}}, upsert=True
        )

    def known(self, queues: list[str]) -> dict[str, Facts]:
        """Return what is known of queues: those that are not there are left out."""
        found: dict[str, Facts] = {}
        for each in self._store.collection('queues').find({'_id': {'$in': queues}}):
            arguments = dict((each.get('options') or {}).get('arguments') or {})
            found[each['_id']] = Facts(arguments, QueueLimits.of(arguments))
        # kombu writes no record of a queue, but bindings and messages are enough of one.
        for queue in queues:
            if queue not in found and (
                self._store.collection('routing').find_one({'queue': queue}, {'_id': 1}) is not None
                or self._store.collection('messages').find_one({'queue': queue}, {'_id': 1}) is not None
            ):
                found[queue] = Facts({}, QueueLimits())
        return found

    def size(self, queue: str) -> int:
        """How many messages wait."""
        return int(self._store.collection('messages').count_documents({'queue': queue}))

    def purge(self, queue: str) -> int:
        """Delete the messages that wait; return how many."""
        return int(self._store.collection('messages').delete_many({'queue': queue}).deleted_count)

    def delete(self, queue: str) -> None:
        """Delete a queue, its messages, those that are leased, and its bindings."""
        store = self._store
        store.collection('queues').delete_one({'_id': queue})
        store.collection('routing').delete_many({'queue': queue})
        store.collection('messages').delete_many({'queue': queue})
        store.collection('messages').delete_many({'queue': LEASED, 'gmq.q': queue})

    def listed(self) -> list[dict[str, Any]]:
        """All queues, for people."""
        store = self._store
        facts = {each['_id']: each for each in store.collection('queues').find()}
        names = set(facts) | {row['queue'] for row in store.collection('routing').find({}, {'queue': 1})}
        ready: dict[str, int] = {}
        for each in store.collection('messages').aggregate([{'$group': {'_id': '$queue', 'n': {'$sum': 1}}}]):
            ready[each['_id']] = each['n']
        unacked: dict[str, int] = {}
        for each in store.collection('messages').find({'queue': LEASED}, {'gmq.q': 1}):
            unacked[each['gmq']['q']] = unacked.get(each['gmq']['q'], 0) + 1
        ready.pop(LEASED, None)
        found = []
        for name in sorted(names | set(ready) | set(unacked)):
            arguments = ((facts.get(name) or {}).get('options') or {}).get('arguments') or {}
            each = {'name': name, 'messages': ready.get(name, 0), 'unacked': unacked.get(name, 0)}
            dead = arguments.get('x-dead-letter-exchange')
            found.append(each if dead is None else {**each, 'dead_letters': dead})
        return found

    def use(self, queues: list[str]) -> None:
        """These are in use: their lives begin anew, and those of our exclusive ones."""
        records = self._store.collection('queues')
        used = {'gmq.lives': {'$gt': 0}, '_id': {'$in': queues}}
        mine = {'gmq.lives': {'$gt': 0}, 'gmq.owner': self._store.settings.owner}
        for which in (used, mine):
            for each in records.find(which, {'gmq.lives': 1}):
                ends = self._store.now() + timedelta(seconds=each['gmq']['lives'])
                records.update_one({'_id': each['_id']}, {'$set': {'gmq.ends': ends}})

    def end_those_that_are_over(self) -> None:
        """Delete the queues that nobody has used for as long as they live."""
        over = {'gmq.ends': {'$lt': self._store.now()}}
        for each in list(self._store.collection('queues').find(over, {'gmq.ends': 1}).limit(_BATCH)):
            if isinstance(each['gmq']['ends'], datetime):
                self.delete(each['_id'])

    # ---- bindings

    def bindings(self, exchange: str) -> list[Binding]:
        """The bindings of an exchange, those that kombu made too."""
        found = []
        for row in list(self._store.collection('routing').find({'exchange': exchange})):
            ours = row.get('gmq')
            if ours is not None:
                found.append(Binding(exchange, ours['kind'], row['routing_key'], row['queue'],
                                     loads(ours['arguments'])))  # fmt: skip
            else:
                kind = 'topic' if row.get('pattern') else ''
                found.append(Binding(exchange, kind, row.get('routing_key') or '', row['queue']))
        return found

    def bind(self, binding: Binding) -> None:
        """Keep a binding."""
        row = self._row(binding)
        ours = {'gmq.kind': binding.kind}
        self._store.collection('routing').update_one(row, {'$set': ours}, upsert=True)

    def unbind(self, binding: Binding) -> None:
        """Forget a binding, whoever made it."""
        row = self._row(binding)
        arguments = row.pop('gmq.arguments')
        row.pop('pattern')
        self._store.collection('routing').bulk_write([
            pymongo.DeleteMany({**row, 'gmq.arguments': arguments}),
            pymongo.DeleteMany({**row, 'gmq': {'$exists': False}}),
        ])

    def _row(self, binding: Binding) -> dict[str, Any]:
        exchange, kind, key, queue, arguments = binding
        maker = STANDARD_EXCHANGE_TYPES.get(kind, STANDARD_EXCHANGE_TYPES['direct'])
        pattern = maker(None).prepare_bind(queue, exchange, key, arguments)[1]
        return {
            'exchange': exchange, 'queue': queue, 'routing_key': key or '',
            'pattern': pattern if isinstance(pattern, str) else None,
            'gmq.arguments': arguments_text(arguments or None),
        }  # fmt: skip
