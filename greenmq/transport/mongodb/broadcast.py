"""kombu's fanout, so that programs on either library hear of each other.

kombu writes what goes to a fanout exchange into one capped collection, ``messages.broadcast``: ``{payload,
queue: its exchange}``, and each of its consumers follows that. Ours have a copy in each bound queue. So what
kombu wrote is copied from there into the queues that are bound here; and where programs on kombu are bound,
ours write there as well, marked with ``gmq``, so that nobody copies it back.

All of it happens in the thread of the store.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pymongo
from bson import ObjectId
from pymongo.errors import BulkWriteError, CollectionInvalid, OperationFailure

from greenmq import runtime
from greenmq.log import get_logger
from greenmq.transport.mongodb.store import DUPLICATE, Store

__all__ = ('BROADCAST', 'Broadcasts', 'Collected')

logger = get_logger('greenmq.transport.mongodb')

#: With an exchange behind it: the queue that stands for all of kombu's that are bound to the exchange.
BROADCAST = '\x01broadcast:'
#: Seconds for which a queue is fed that was bound here, or taken from: others may consume it then.
_FED = 60.0
_THEIRS = {'gmq': {'$exists': False}}


class Collected(NamedTuple):
    """What one look brought.

    Attributes:
        queues (set[str]): those that got something.
        missed (bool): something was overwritten before it was read.
        since (float): `time.monotonic` of the look before.
    """

    queues: set[str]
    missed: bool
    since: float = 0.0


class Broadcasts:
    """What one driver has of kombu's fanout: its place in the collection outlives the connection.

    Arguments:
        size (int): bytes of the collection, if it is made here.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._store: Store | None = None
        self._bound: dict[str, dict[str, float]] = {}  # exchange → queue → when it was bound
        self._taken: dict[str, float] = {}
        self._cursor: Any = None
        self._last: Any = None  # the newest that was read; None while there was nothing
        self._begun = False

    def __bool__(self) -> bool:
        return bool(self._bound)

    def queues(self, exchange: str) -> Iterable[str]:
        """The queues bound here to an exchange."""
        return list(self._bound.get(exchange, ()))

    @property
    def exchanges(self) -> list[str]:
        """The exchanges that queues are bound to here."""
        return list(self._bound)

    def begin(self, store: Store) -> None:
        """There is a new connection."""
        self._store, self._cursor = store, None

    # ---- who is bound

    def bind(self, exchange: str, queue: str) -> None:
        """Copy what comes from now on into a queue."""
        if not self._begun:
            try:
                self._find_the_end()
            except OperationFailure as error:  # no capped collections, or no right to it
                runtime.forget_traces(error)
                logger.warning("kombu's fanout cannot be followed: %s", error)
                return
        self._bound.setdefault(exchange, {})[queue] = time.monotonic()

    def unbind(self, exchange: str | None, queue: str) -> None:
        """Copy nothing more into a queue, of one exchange or of any."""
        for name in [exchange] if exchange is not None else list(self._bound):
            bound = self._bound.get(name, {})
            if bound.pop(queue, None) is not None and not bound:
                del self._bound[name]

    # ---- copying

    def collect(
        self, queues: Iterable[str], copy: Callable[[str, Any], dict[str, Any] | None]
    ) -> Collected:
        """Copy what is new.

        Arguments:
            queues (Iterable[str]): from which somebody here takes now.
            copy (Callable): queue, payload → a document for it; None without that queue.
        """
        now = time.monotonic()
        self._taken.update(dict.fromkeys(queues, now))
        try:
            found, missed = self._read()
        except OperationFailure as error:  # the next look tries again
            runtime.forget_traces(error)
            logger.info("kombu's fanout was not read: %s", error)
            return Collected(set(), False)
        copies = []
        for each in found:
            for queue, at in self._bound.get(each.get('queue') or '', {}).items():
                if now - max(at, self._taken.get(queue, at)) > _FED:
                    continue
                document = copy(queue, each['payload'])
                if document is not None:
                    copies.append({**document, '_id': _named(each['_id'], queue)})
        if copies and self._store is not None:
            try:
                self._store.collection('messages').insert_many(copies, ordered=False)
            except BulkWriteError as error:  # another consumer of the queue copied it before
                if any(each.get('code') != DUPLICATE for each in error.details.get('writeErrors') or ()):
                    raise
        return Collected({each['queue'] for each in copies}, missed)

    def _read(self) -> tuple[list[dict[str, Any]], bool]:
        if self._cursor is None:
            return self._resume()
        try:
            found = self._drain()
        except OperationFailure as error:  # it was idle for too long, or too slow
            runtime.forget_traces(error)
            logger.debug('the cursor of broadcasts ended: %s', error)
            return self._resume()
        return found, False

    def _drain(self) -> list[dict[str, Any]]:
        found = list(self._cursor)
        if found:
            self._last = found[-1]['_id']
        if not self._cursor.alive:
            self._cursor = None  # the collection is empty, or gone
        return found

    def _resume(self) -> tuple[list[dict[str, Any]], bool]:
        # From the beginning: the order of a capped collection is that of its documents, not of their ids.
        last, self._cursor = self._last, None
        self._open()
        found = self._drain()
        if last is None or not found:
            return found, False
        ids = [each['_id'] for each in found]
        if last in ids:
            return found[ids.index(last) + 1 :], False
        return found, True

    def _find_the_end(self) -> None:
        assert self._store is not None
        collection = self._make()
        newest = collection.find_one(_THEIRS, {'_id': 1}, sort=[('$natural', -1)])
        self._last = None if newest is None else newest['_id']
        self._open(collection.count_documents(_THEIRS) if newest is not None else 0)
        self._drain()
        self._begun = True

    def _make(self) -> Any:
        assert self._store is not None
        collection = self._store.collection('broadcast')
        try:
            collection.database.create_collection(collection.name, capped=True, size=self._size)
        except (CollectionInvalid, OperationFailure) as error:
            runtime.forget_traces(error)
            logger.debug('the collection of broadcasts is there: %s', error)
        return collection

    def _open(self, skip: int = 0) -> None:
        assert self._store is not None
        collection = self._store.collection('broadcast')
        self._cursor = collection.find(_THEIRS, cursor_type=pymongo.CursorType.TAILABLE).skip(skip)

    # ---- the other way

    def write(self, rows: list[tuple[str, Any]], until: float) -> None:
        """Let kombu's consumers have messages: (exchange, payload) each.

        Arguments:
            until (float): see `Store.insert`.
        """
        if self._store is not None and rows:
            self._store.insert(
                [{'payload': payload, 'queue': exchange, 'gmq': 1} for exchange, payload in rows], until,
                'broadcast',
            )  # fmt: skip


def _named(name: Any, queue: str) -> ObjectId:
    # The same for everybody who copies it, another for each queue, and in the order of one publisher.
    data = name.binary if isinstance(name, ObjectId) else hashlib.sha256(repr(name).encode()).digest()[:12]
    mask = hashlib.sha256(queue.encode()).digest()
    return ObjectId(data[:4] + bytes(a ^ b for a, b in zip(data[4:9], mask, strict=False)) + data[9:12])
