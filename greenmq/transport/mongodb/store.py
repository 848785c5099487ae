"""What is kept in MongoDB, and the commands on it, all made in one native thread.

``messages`` is kombu's: ``{_id, queue, priority: 9 - p, payload}`` and, where it expires, ``expire_at``; a
document waits in the queue that it names. One that was taken is moved to a queue that nobody reads, and has
its lease beside it: ``gmq: {q: its queue, by: owner, t: of which claim, until}``. So kombu's workers neither
see nor count it. ``gmq_n`` counts deliveries. The clock is the server's.
"""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any, NamedTuple

import pymongo
from bson import ObjectId
from pymongo.errors import BulkWriteError, ConnectionFailure, OperationFailure, ServerSelectionTimeoutError

from greenmq import runtime
from greenmq.log import get_logger

__all__ = ('DUPLICATE', 'LEASED', 'Found', 'Settings', 'Store', 'moment', 'stamp')

logger = get_logger('greenmq.transport.mongodb')

#: The queue of what was taken.
LEASED = '\x01leased'
#: Error of a unique key that is there already.
DUPLICATE = 11000
#: Seconds in which pymongo's monitors see that their client is closed.
_MONITORS_END = 0.7
#: Documents that one round of a sweep gives back.
_BATCH = 1000


class Settings(NamedTuple):
    """Where and how.

    Attributes:
        options (dict): for pymongo, where the URI says nothing.
        owner (str): by whom leases are. lease (float): their seconds.
        names (dict): of the collections, by 'messages', 'routing', 'queues', 'broadcast'.
    """

    uri: str
    database: str
    options: dict[str, Any]
    owner: str
    lease: float
    names: dict[str, str]


class Found(NamedTuple):
    """One message that was taken.

    Attributes:
        expires (datetime | None): its ``expire_at``.
        deliveries (int): how often it was delivered before.
    """

    id: Any
    queue: str
    payload: Any
    expires: Any
    deliveries: int


def moment(seconds: float) -> datetime:
    """A time as MongoDB has it. Arguments: seconds since 1970."""
    return datetime(1970, 1, 1) + timedelta(seconds=seconds)


def stamp(value: datetime) -> float:
    """Undo `moment`."""
    return value.replace(tzinfo=timezone.utc).timestamp()


class Store:
    """The database, as the thread sees it that alone uses this.

    Attributes:
        streams (bool): may the server have change streams? It says so, but it may still refuse.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.streams = False
        self._client: Any = None
        self._ahead = 0.0  # seconds that the server's clock is before ours
        self._claims = count(1)
        self._crowd = 0  # others take from the same queues: begin so far behind the front, at most

    def connect(self, index: bool = True) -> None:
        """Connect, and make what is needed."""
        settings = self.settings
        given = {pair.partition('=')[0].lower() for pair in settings.uri.partition('?')[2].split('&')}
        options = {name: value for name, value in settings.options.items() if name.lower() not in given}
        self._client = pymongo.MongoClient(settings.uri, **options)
        self.look_at_the_clock()
        if index:
            self._make_indexes()

    def close(self) -> None:
        """Let go of the servers."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
            if runtime.patched().threading:
                # Its monitors are greenlets of this thread then, and see the end within half a second. Those
                # that the thread leaves behind are waited for when the process ends, a second each.
                runtime.sleep(_MONITORS_END)

    def look_at_the_clock(self) -> None:
        """Have the server answer, and tell the time."""
        before = time.time()
        hello = self._client.admin.command('hello')
        self.streams = 'setName' in hello or hello.get('msg') == 'isdbgrid'
        local = hello.get('localTime')
        if isinstance(local, datetime):
            self._ahead = stamp(local) - (before + time.time()) / 2

    def now(self) -> datetime:
        """The server's time."""
        return moment(time.time() + self._ahead)

    def collection(self, name: str) -> Any:
        """A collection by its part: 'messages', 'routing', 'queues', 'broadcast'."""
        return self._client[self.settings.database][self.settings.names[name]]

    @property
    def database(self) -> Any:
        """pymongo's database."""
        return self._client[self.settings.database]

    def _make_indexes(self) -> None:
        messages = self.collection('messages')
        messages.create_index([('queue', 1), ('priority', 1), ('_id', 1)])
        self.collection('routing').create_index([('queue', 1), ('exchange', 1)])
        for options in ({'partialFilterExpression': {'gmq.by': {'$exists': True}}}, {'sparse': True}):
            try:
                messages.create_index([('gmq.by', 1)], name='gmq_by', **options)
                break
            except OperationFailure as error:  # another server, or made otherwise before
                runtime.forget_traces(error)
                logger.debug('no index of leases with %r: %s', options, error)
        try:
            messages.create_index([('expire_at', 1)], expireAfterSeconds=0)
        except OperationFailure as error:  # the sweep deletes what has expired
            runtime.forget_traces(error)
            logger.debug('no index of expiries: %s', error)

    # ---- putting

    def insert(self, documents: list[dict[str, Any]], until: float, part: str = 'messages') -> None:
        """Insert messages, each exactly once, although a reply may be lost.

        Arguments:
            documents (list[dict]): without ``_id``, which says the order.
            until (float): `time.monotonic` of when to give up.
            part (str): of which collection, see `collection`.
        Raises:
            ConnectionFailure: it is not known which of them are there.
        """
        messages, sent = self.collection(part), False
        for document in documents:
            document['_id'] = ObjectId()
        while True:
            try:
                messages.insert_many(documents, ordered=not sent)
                return
            except BulkWriteError as error:
                failures = error.details.get('writeErrors') or ()
                if not sent or any(failure.get('code') != DUPLICATE for failure in failures):
                    raise
                return  # those are there from before
            except ServerSelectionTimeoutError:
                if not sent or time.monotonic() > until:
                    raise
            except ConnectionFailure:
                sent = True
                if time.monotonic() > until:
                    raise

    # ---- taking

    def claim(self, queues: list[str], n: int, max_bytes: int) -> list[Found]:
        """Take up to n messages, in two commands, or in one if it is one."""
        token = next(self._claims)
        if n == 1 and len(queues) == 1:
            document = self.collection('messages').find_one_and_update(
                {'queue': queues[0]}, self._lease({'queue': queues[0]}, token),
                sort=[('priority', 1), ('_id', 1)],
            )  # fmt: skip
            return [] if document is None else [_found(document)]
        documents = self._waiting(queues, n, max_bytes)
        if not documents:
            return []
        messages, wanted = self.collection('messages'), len(documents)
        # Each document is asked for its queue, so of several takers one gets it.
        changes = [
            pymongo.UpdateMany({'_id': {'$in': ids}, 'queue': alike['queue']}, self._lease(alike, token))
            for alike, ids in _alike(documents)
        ]
        try:
            matched = messages.bulk_write(changes, ordered=False).matched_count
        except ConnectionFailure:
            matched = -1  # it may have happened, and the claim has a name
        if matched != wanted:
            mine = {
                each['_id']
                for each in messages.find({'gmq.by': self.settings.owner, 'gmq.t': token}, {'_id': 1})
            }
            documents = [each for each in documents if each['_id'] in mine]
        self._crowd = min(2 * n, 1000) if 0 <= matched < wanted else 0
        return [_found(each) for each in documents]

    def _waiting(self, queues: list[str], n: int, max_bytes: int) -> list[dict[str, Any]]:
        name: Any = queues[0] if len(queues) == 1 else {'$in': queues}
        order = [('priority', 1), ('_id', 1)]
        found: list[dict[str, Any]] = []
        for skip in {random.randrange(self._crowd) if self._crowd else 0: None, 0: None}:
            cursor = self.collection('messages').find({'queue': name}).sort(order)
            found = list(cursor.skip(skip).limit(n).batch_size(n + 1))
            if found:
                break
        room = max_bytes
        for at, document in enumerate(found):
            if room <= 0:
                return found[:at]
            room -= len(document['payload'])
        return found

    def _lease(self, document: dict[str, Any], token: int) -> dict[str, Any]:
        lease = {
            'q': document['queue'], 'by': self.settings.owner, 't': token,
            'until': self.now() + timedelta(seconds=self.settings.lease),
        }  # fmt: skip
        if document.get('expire_at') is not None:
            lease['exp'] = document['expire_at']
        return {'$set': {'queue': LEASED, 'gmq': lease}, '$unset': {'expire_at': ''}}

    # ---- settling

    def settle(self, done: list[Any], back: list[tuple[Found, bool]]) -> set[Any]:
        """Delete what is done, and give back the rest, counted or not.

        Returns:
            set: ids of those that somebody else has, or had after us.
        """
        messages, owner = self.collection('messages'), self.settings.owner
        gone: set[Any] = set()
        if done:
            deleted = messages.delete_many({'_id': {'$in': done}, 'gmq.by': owner}).deleted_count
            if deleted < len(done):
                # What is there no more was deleted before: by an earlier try, or with its queue.
                gone = {each['_id'] for each in messages.find({'_id': {'$in': done}}, {'_id': 1})}
        if back:
            ids = [each.id for each, _ in back]
            groups: dict[Any, list[Any]] = {}
            for each, counted in back:
                groups.setdefault((each.queue, each.expires, counted), []).append(each.id)
            changes = [
                pymongo.UpdateMany({'_id': {'$in': some}, 'gmq.by': owner}, _free(*alike))
                for alike, some in groups.items()
            ]
            if messages.bulk_write(changes, ordered=False).matched_count < len(back):
                others = messages.find({'_id': {'$in': ids}, 'queue': LEASED}, {'gmq.by': 1})
                gone |= {each['_id'] for each in others if each['gmq']['by'] != owner}
        return gone

    def extend(self, ids: list[Any], seconds: float) -> set[Any]:
        """Have leases last some seconds from now; return those that are not ours any more."""
        messages = self.collection('messages')
        mine = {'_id': {'$in': ids}, 'gmq.by': self.settings.owner}
        until = self.now() + timedelta(seconds=seconds)
        if messages.update_many(mine, {'$set': {'gmq.until': until}}).matched_count == len(ids):
            return set()
        return set(ids) - {each['_id'] for each in messages.find(mine, {'_id': 1})}

    # ---- now and then

    def sweep(self) -> int:
        """Give back what is leased for too long; return how many messages."""
        self.look_at_the_clock()
        messages = self.collection('messages')
        over = {'queue': LEASED, 'gmq.until': {'$lt': self.now()}}
        groups: dict[Any, list[Any]] = {}
        for each in messages.find(over, {'gmq': 1}).limit(_BATCH):
            groups.setdefault((each['gmq']['q'], each['gmq'].get('exp'), True), []).append(each['_id'])
        changes = [
            pymongo.UpdateMany({'_id': {'$in': ids}, **over}, _free(*alike)) for alike, ids in groups.items()
        ]
        return messages.bulk_write(changes, ordered=False).matched_count if changes else 0


def _found(document: dict[str, Any]) -> Found:
    return Found(document['_id'], document['queue'], document['payload'], document.get('expire_at'),
                 int(document.get('gmq_n') or 0))  # fmt: skip


def _alike(documents: list[dict[str, Any]]) -> list[tuple[dict[str, Any], list[Any]]]:
    # Those of one queue that expire at one time, or never, with one of them.
    groups: dict[Any, tuple[dict[str, Any], list[Any]]] = {}
    for each in documents:
        groups.setdefault((each['queue'], each.get('expire_at')), (each, []))[1].append(each['_id'])
    return list(groups.values())


def _free(queue: str, expires: Any, counted: bool) -> dict[str, Any]:
    fields = {'queue': queue} if expires is None else {'queue': queue, 'expire_at': expires}
    change: dict[str, Any] = {'$set': fields, '$unset': {'gmq': ''}}
    if counted:
        change['$inc'] = {'gmq_n': 1}
    return change
