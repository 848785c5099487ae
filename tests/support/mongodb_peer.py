"""A server of MongoDB's protocol that fails when it is told to; its documents are kept by mongomock.

A process of its own: prints its port, then reads orders from stdin, a line of JSON each, and answers each
with one. It proves what the client does; what a database does, FerretDB proves.
"""
from __future__ import annotations

import collections
import datetime
import itertools
import json
import socketserver
import struct
import sys
import threading
import time

import bson
import mongomock

LOCK = threading.RLock()
NEWS = threading.Condition(LOCK)
CLIENT = mongomock.MongoClient()
CURSORS, NUMBERS = {}, itertools.count(1)
CAPPED, CHANGES = {}, []  # (database, collection) → bytes
COUNTS = collections.Counter()
FAULTS = []  # [command, how, times left, seconds]
DONE = {}  # (session, number) → the reply of a write that the client may repeat
STATE = {'set': True, 'streams': True, 'port': 0}


class Refusal(Exception):
    def __init__(self, code, name, text):
        super().__init__({'ok': 0.0, 'errmsg': text, 'code': code, 'codeName': name})


class Cut(Exception):
    pass


def hello():
    found = {
        'isWritablePrimary': True, 'ismaster': True, 'helloOk': True, 'readOnly': False,
        'maxBsonObjectSize': 16777216, 'maxMessageSizeBytes': 48000000, 'maxWriteBatchSize': 100000,
        'minWireVersion': 0, 'maxWireVersion': 21, 'logicalSessionTimeoutMinutes': 30,
        'localTime': datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None),
    }
    if STATE['set']:
        me = f'127.0.0.1:{STATE["port"]}'
        found.update(setName='rs', hosts=[me], me=me, primary=me, setVersion=1, secondary=False)
    return found


class Commands:
    """One method a command; what it returns is the reply."""

    def hello(self, db, command, value):
        return hello()

    ismaster = hello

    def ping(self, db, command, value):
        return {}

    endsessions = killcursors = ping

    def buildinfo(self, db, command, value):
        return {'version': '7.0.0', 'versionArray': [7, 0, 0, 0], 'maxBsonObjectSize': 16777216}

    def create(self, db, command, value):
        if value in db.list_collection_names():
            raise Refusal(48, 'NamespaceExists', 'exists')
        db.create_collection(value)
        if command.get('capped'):
            CAPPED[db.name, value] = command['size']
        return {}

    def listcollections(self, db, command, value):
        names = [name for name in db.list_collection_names()
                 if (command.get('filter') or {}).get('name', name) == name]
        return cursor(0, db, '$cmd.listCollections', [
            {'name': name, 'type': 'collection', 'options': {'capped': (db.name, name) in CAPPED}}
            for name in names
        ])

    def createindexes(self, db, command, value):
        return {'createdCollectionAutomatically': False, 'numIndexesBefore': 1, 'numIndexesAfter': 2}

    def insert(self, db, command, value):
        failures = []
        for at, document in enumerate(command['documents']):
            try:
                db[value].insert_one(document)
            except mongomock.DuplicateKeyError as error:
                failures.append({'index': at, 'code': 11000, 'errmsg': str(error)})
                if command.get('ordered', True):
                    break
                continue
            changed(db, value, operationType='insert', fullDocument=document)
        evict(db, value)
        NEWS.notify_all()
        reply = {'n': len(command['documents']) - len(failures)}
        return {**reply, 'writeErrors': failures} if failures else reply

    def delete(self, db, command, value):
        deleted = 0
        for each in command['deletes']:
            delete = db[value].delete_one if each.get('limit') else db[value].delete_many
            deleted += delete(each['q']).deleted_count
        return {'n': deleted}

    def update(self, db, command, value):
        matched, upserted = 0, []
        for at, each in enumerate(command['updates']):
            update = db[value].update_many if each.get('multi') else db[value].update_one
            result = update(each['q'], each['u'], upsert=each.get('upsert', False))
            matched += result.matched_count
            if result.upserted_id is not None:
                matched += 1
                upserted.append({'index': at, '_id': result.upserted_id})
            self.tell(db, value, each['u'], result.matched_count)
        return dict(n=matched, nModified=matched, **({'upserted': upserted} if upserted else {}))

    def tell(self, db, name, update, times):
        fields = update.get('$set') or {}
        for _ in range(times):
            changed(db, name, operationType='update', updateDescription={'updatedFields': fields})
        NEWS.notify_all()

    def findandmodify(self, db, command, value):
        order = list(command['sort'].items()) if command.get('sort') else None
        query = command.get('query') or {}
        if command.get('remove'):
            found = db[value].find_one_and_delete(query, sort=order)
        else:
            found = db[value].find_one_and_update(query, command['update'], sort=order)
            self.tell(db, value, command['update'], int(found is not None))
        return {'value': found, 'lastErrorObject': {'n': int(found is not None)}}

    def aggregate(self, db, command, value):
        pipeline = command['pipeline']
        if pipeline and '$changeStream' in pipeline[0]:
            if not STATE['streams']:
                raise Refusal(40573, 'Location40573', '$changeStream: only on replica sets')
            number = next(NUMBERS)
            CURSORS[number] = ('stream', db, value, pipeline[1:], [len(CHANGES)])
            name = '$cmd.aggregate' if value == 1 else value
            return {**cursor(number, db, name, []), 'operationTime': bson.Timestamp(1, 1)}
        return cursor(0, db, value, list(db[value].aggregate(pipeline)))

    def find(self, db, command, value):
        if not command.get('tailable'):
            return cursor(0, db, value, self.look(db, value, command))
        if (db.name, value) not in CAPPED:
            raise Refusal(2, 'BadValue', 'tailable cursor requested on non capped collection')
        if not db[value].count_documents({}):
            return cursor(0, db, value, [])  # dead at once, as the real one
        number, position = next(NUMBERS), [None, command.get('skip', 0)]
        CURSORS[number] = ('tail', db, value, command, position)
        return cursor(number, db, value, follow(db, value, command, position))

    def look(self, db, name, command):
        found = db[name].find(command.get('filter') or {}, command.get('projection') or None)
        if '$natural' in (command.get('sort') or {}):
            found = list(found)[::command['sort']['$natural']]
            return found[:command.get('limit') or None]
        if command.get('sort'):
            found = found.sort(list(command['sort'].items()))
        return list(found.skip(command.get('skip', 0)).limit(command.get('limit', 0)))

    def getmore(self, db, command, value):
        if value not in CURSORS:
            raise Refusal(43, 'CursorNotFound', f'cursor id {value} not found')
        kind, db, name, what, position = CURSORS[value]
        waits = kind == 'stream' or what.get('awaitData')
        end = time.monotonic() + (command.get('maxTimeMS', 1000) / 1000 if waits else 0)
        while True:
            if kind == 'stream':
                fresh, position[0] = CHANGES[position[0]:], len(CHANGES)
                fresh = filtered(
                    [each for place, each in fresh if place[0] == db.name and name in (1, place[1])], what
                )
            else:
                fresh = follow(db, name, what, position)
            left = end - time.monotonic()
            if fresh or left <= 0 or value not in CURSORS:
                break
            NEWS.wait(min(left, 0.5))
        if value not in CURSORS:
            raise Refusal(43, 'CursorNotFound', f'cursor id {value} not found')
        return {'cursor': {'id': bson.Int64(value), 'ns': f'{db.name}.{name}', 'nextBatch': fresh}}


def follow(db, name, command, position):
    """What is new for a tailable cursor. `position`: the last document that it passed, how many to skip."""
    everything = list(db[name].find())
    ids = [each['_id'] for each in everything]
    if position[0] is not None and position[0] not in ids:
        raise Refusal(136, 'CappedPositionLost', 'the position of the cursor was overwritten')
    fresh = everything[ids.index(position[0]) + 1 if position[0] is not None else 0:]
    wanted = {each['_id'] for each in db[name].find(command.get('filter') or {})}
    fresh = [each for each in fresh if each['_id'] in wanted]
    skipped = min(position[1], len(fresh))
    position[:] = [ids[-1] if ids else None, position[1] - skipped]
    return fresh[skipped:]


def evict(db, name):
    """A capped collection loses its oldest documents."""
    room = CAPPED.get((db.name, name))
    if room is not None:
        everything = list(db[name].find())
        while sum(len(bson.encode(each)) for each in everything) > room:
            db[name].delete_one({'_id': everything.pop(0)['_id']})


def cursor(number, db, name, batch):
    return {'cursor': {'id': bson.Int64(number), 'ns': f'{db.name}.{name}', 'firstBatch': batch}}


def changed(db, name, **change):
    facts = {'_id': {'_data': f'{len(CHANGES):08d}'}, 'ns': {'db': db.name, 'coll': name}}
    CHANGES.append(((db.name, name), {**facts, **change}))


def filtered(changes, pipeline):
    """What a pipeline makes of changes. (mongomock keeps no documents as _id: numbers stand for them.)"""
    if not changes:
        return []
    scratch = mongomock.MongoClient().db.changes
    scratch.insert_many([{**each, '_id': at} for at, each in enumerate(changes)])
    return [{**each, '_id': changes[each['_id']]['_id']} for each in scratch.aggregate(pipeline)]


class Handler(socketserver.BaseRequestHandler):
    def read(self, n):
        data = b''
        while len(data) < n:
            part = self.request.recv(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def handle(self):
        try:
            while True:
                length, number, _, operation = struct.unpack('<iiii', self.read(16))
                body = self.read(length - 16)
                if operation == 2013:
                    reply = struct.pack('<I', 0) + b'\0' + bson.encode(self.answer(parsed(body)))
                    self.request.sendall(struct.pack('<iiii', 16 + len(reply), 0, number, 2013) + reply)
                elif operation == 2004:
                    reply = struct.pack('<iqii', 8, 0, 0, 1) + bson.encode(dict(hello(), ok=1.0))
                    self.request.sendall(struct.pack('<iiii', 16 + len(reply), 0, number, 1) + reply)
        except (EOFError, OSError, Cut):
            return

    def answer(self, command):
        name = next(iter(command))
        lower = name.lower()
        run = getattr(Commands(), lower, None)
        if run is None:
            return Refusal(59, 'CommandNotFound', f'no such command: {name!r}').args[0]
        key = None
        if 'txnNumber' in command:
            key = bytes(command['lsid']['id']), command['txnNumber']
        try:
            with LOCK:
                if lower not in ('hello', 'ismaster'):
                    COUNTS[lower] += 1
                after = self.fault(lower)
                reply = DONE.get(key) if key is not None else None
                if reply is None:
                    reply = dict(run(CLIENT[command['$db']], command, command[name]), ok=1.0)
                    if key is not None:
                        DONE[key] = reply
                if after:
                    raise Cut
                return reply
        except Refusal as refusal:
            return refusal.args[0]

    def fault(self, name):
        """Fail as ordered; True: after it was done."""
        for order in FAULTS:
            command, how, left, seconds = order
            if command != name or not left:
                continue
            order[2] -= 1
            if how == 'before':
                raise Cut
            if how == 'after':
                return True
            if how == 'NotWritablePrimary':
                raise Refusal(10107, how, 'not primary')
            if how == 'CursorNotFound':
                CURSORS.clear()
            elif how == 'slow':
                NEWS.wait(seconds)
        return False


def parsed(body):
    flags, = struct.unpack('<I', body[:4])
    at, end, command, more = 4, len(body) - (4 if flags & 1 else 0), {}, {}
    while at < end:
        kind = body[at]
        at += 1
        size, = struct.unpack('<i', body[at:at + 4])
        if kind == 0:
            command = bson.decode(body[at:at + size])
        else:
            stop = body.index(b'\0', at + 4)
            more[body[at + 4:stop].decode()] = bson.decode_all(body[stop + 1:at + size])
        at += size
    return {**command, **more}


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main():
    with Server(('127.0.0.1', 0), Handler) as server:
        STATE['port'] = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(STATE['port'], flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            with LOCK:
                STATE.update(order.get('state') or {})
                FAULTS.extend(order.get('faults') or ())
                if order.get('heal'):
                    FAULTS.clear()
                print(json.dumps(dict(COUNTS)), flush=True)


if __name__ == '__main__':
    main()
