"""How a consumer learns that there are messages: a change stream, else a collection of signals, else looks.

Whatever it is, it is a signal only: what it tells is looked for, and what it does not tell is found by a look
later. All of it happens in a native thread with a client of its own, which waits at the server.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import pymongo
from pymongo.errors import CollectionInvalid, ConnectionFailure, OperationFailure

from greenmq import runtime
from greenmq.log import get_logger
from greenmq.transport.mongodb.broadcast import BROADCAST
from greenmq.transport.mongodb.store import LEASED, Settings, Store

__all__ = ('WAITERS', 'WAKE', 'Listener')

logger = get_logger('greenmq.transport.mongodb')

#: The collection of signals, capped at so many bytes, and the one of who waits for them.
WAKE, WAKE_BYTES, WAITERS = 'greenmq.wake', 1024 * 1024, 'greenmq.waiters'
#: Seconds after which somebody who waits says so again, and for which it is believed.
_AGAIN, BELIEVED = 20.0, 60.0
_UPDATED = 'updateDescription.updatedFields'
#: Changes after which a message waits: it is new, or it came back. (What ours broadcast is marked.)
_WAITS = {'$or': [
    {'operationType': {'$in': ['insert', 'replace']}, 'fullDocument.gmq': {'$exists': False}},
    {'operationType': 'update', f'{_UPDATED}.queue': {'$exists': True, '$ne': LEASED}},
]}  # fmt: skip
_PARTS = {'$project': {'ns.coll': 1, 'fullDocument.queue': 1, f'{_UPDATED}.queue': 1}}


class _Ear:
    """What listens, in its thread."""

    def __init__(self, settings: Settings, seconds: float) -> None:
        self._store = Store(settings)
        self._milliseconds = max(int(seconds * 1000), 100)
        self._cursor: Any = None
        self._said = 0.0
        self.hears_broadcasts = False

    def open(self) -> str | None:
        """Begin to listen; return how: 'stream', 'signals', or None if the server has no such thing."""
        self.close()
        self._store.connect(index=False)
        if self._store.streams and self._watch():
            return 'stream'
        return 'signals' if self._tail() else None

    def _watch(self) -> bool:
        # Of the whole database, or where one may not, of the messages alone.
        names = self._store.settings.names
        both = {'ns.coll': {'$in': [names['messages'], names['broadcast']]}}
        for what, match in ((self._store.database, both), (self._store.collection('messages'), {})):
            try:
                self._cursor = what.watch(
                    [{'$match': {**match, **_WAITS}}, _PARTS], max_await_time_ms=self._milliseconds
                )
            except OperationFailure as error:
                runtime.forget_traces(error)
                logger.info('no change stream of %s: %s', what.name, error)
                continue
            self.hears_broadcasts = bool(match)
            return True
        return False

    def _tail(self) -> bool:
        database = self._store.database
        try:
            database.create_collection(WAKE, capped=True, size=WAKE_BYTES)
        except CollectionInvalid:
            logger.debug('the collection of signals is there')
        signals = database[WAKE]
        # A cursor at the end of an empty collection is dead at once.
        mark = signals.insert_one({'queue': None}).inserted_id
        self._cursor = signals.find(
            {'_id': {'$gte': mark}}, cursor_type=pymongo.CursorType.TAILABLE_AWAIT
        ).max_await_time_ms(self._milliseconds)
        for _ in self._cursor:
            break
        return bool(self._cursor.alive)

    def hear(self) -> list[str]:
        """Wait for a while; return the queues in which messages may wait."""
        cursor = self._cursor
        if hasattr(cursor, 'try_next'):
            change = cursor.try_next()
            return [] if change is None else [self._queue_of(change)]
        if time.monotonic() - self._said > _AGAIN:
            self._said = time.monotonic()
            self._store.database[WAITERS].update_one(
                {'_id': self._store.settings.owner}, {'$set': {'at': self._store.now()}}, upsert=True
            )
        for signal in cursor:
            return [signal['queue']] if signal.get('queue') else []
        if not cursor.alive:
            raise ConnectionFailure('the cursor of signals ended')
        return []

    def _queue_of(self, change: Any) -> str:
        update = change.get('updateDescription') or {}
        document = change.get('fullDocument') or update.get('updatedFields') or {}
        queue = str(document.get('queue') or '')
        broadcast = (change.get('ns') or {}).get('coll') == self._store.settings.names['broadcast']
        return BROADCAST + queue if broadcast else queue

    def close(self) -> None:
        """Let go of the server."""
        self._cursor = None
        self.hears_broadcasts = False
        self._store.close()


class Listener:
    """Listens, and tells in the hub.

    Arguments:
        seconds (float): that one wait at the server takes.
        told (Callable[[list[str] | None], Any]): a method, held weakly; gets the queues, None for any.
    Attributes:
        how (str | None): 'stream', 'signals', or None while nothing is told.
        hears_broadcasts (bool): is it told of kombu's fanout, too?
    """

    def __init__(self, settings: Settings, seconds: float, told: Callable[[Any], Any]) -> None:
        self.how: str | None = None
        self.hears_broadcasts = False
        self._told = weakref.WeakMethod(told)
        ear = _Ear(settings, seconds)
        self._worker = runtime.Worker('mongodb listener', ear.close)
        self._task = runtime.spawn(
            _listen, weakref.ref(self), self._worker, ear, name='mongodb-listener', owner=self
        )

    def tell(self, queues: list[str] | None) -> bool:
        """Tell the driver; False if it is gone."""
        told = self._told()
        if told is None:
            return False
        told(queues)
        return True

    def close(self) -> None:
        """Listen no more: the thread ends after its present wait."""
        self._task.kill()
        self._worker.close()


def _listen(reference: Callable[[], Listener | None], worker: runtime.Worker, ear: _Ear) -> None:
    pause = 0.1
    while True:
        try:
            how = worker.call(ear.open)
            listener = reference()
            if listener is None:
                return
            listener.how, listener.hears_broadcasts = how, ear.hears_broadcasts
            if how is None or not listener.tell(None):
                return
            del listener
            while True:
                queues = worker.call(ear.hear)
                pause = 0.1
                listener = reference()
                if listener is None or (queues and not listener.tell(queues)):
                    return
                del listener
        except Exception as error:  # looks go on meanwhile, and find what is not told
            runtime.forget_traces(error)
            logger.info('not told of messages for a while: %s', error)
        listener = reference()
        if listener is None:
            return
        listener.how, listener.hears_broadcasts = None, False
        del listener
        runtime.sleep(pause)
        pause = min(pause * 2, 5.0)
