"""The store: queues, messages, bindings and owners as tables of one SQLite file. Statements only, no waiting.

One native thread of a process uses it; other processes have their own. Every method runs inside a transaction
that the engine has begun with BEGIN IMMEDIATE (a deferred one that turns to writing later fails at once when
somebody else writes), and is in force when the engine has committed.

A message that somebody has taken names its owner, a row of `owner`. Who is dead is told by the kernel, by the
lock on the owner's file (see `transport.owners`): no clock, no lease. A message that goes back gets its old
place, since the order of a queue is that of `id`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from json import dumps, loads
from typing import Any, NamedTuple

from greenmq.exceptions import NotFound, PublishNacked
from greenmq.transport.limits import QueueLimits

__all__ = ('Queue', 'Row', 'Store')

#: Pages, nearly, that a process writes to the log before it has them brought into the database, outside of
#: any transaction (`Store.checkpoint`).
_CHECKPOINT = 1000
#: Pages, nearly, of a commit, and changes that take one more.
_COMMIT_PAGES, _CHANGES_PAGE = 4, 4
_COUNTERS = (
    "SELECT t.value, o.value FROM meta t, meta o WHERE t.name = 'topology' AND o.name = 'owners'"
)
#: Messages of one statement: to run one for each costs as much as the message itself, and with each the
#: thread asks for the interpreter anew. Beyond so many there is no more to gain.
_TOGETHER = 20
_FIELDS = 'queue, priority, due, expires, put_at, payload'
_WIDTH = _FIELDS.count(',') + 1
#: The statements, by the number of messages.
_PUT = [
    f'INSERT INTO message ({_FIELDS}) VALUES {", ".join(["(?, ?, ?, ?, ?, ?)"] * count)}'
    for count in range(_TOGETHER + 1)
]
#: By their numbers: "+" keeps SQLite from the index of owners, which takes half as long again.
_DONE = [
    f'DELETE FROM message WHERE +owner = ? AND id IN ({", ".join("?" * count)})'
    for count in range(_TOGETHER + 1)
]
_TAKE = [
    f'UPDATE message SET owner = ? WHERE id IN ({", ".join("?" * count)})' for count in range(_TOGETHER + 1)
]


class Queue(NamedTuple):
    """A queue as the store has it.

    Attributes:
        arguments (dict): as it was declared with them; `limits` is what they say.
    """

    id: int
    name: str
    arguments: dict[str, Any]
    limits: QueueLimits


class Row(NamedTuple):
    """A message that was taken.

    Attributes:
        deliveries (int): how often it was delivered before.
        payload (bytes): as it was put.
        expires (float | None): when its time is over, in seconds since 1970.
    """

    id: int
    queue: str
    deliveries: int
    payload: bytes
    expires: float | None = None


class Store:
    """The tables, and what is remembered of them between two transactions.

    Arguments:
        connection (sqlite3.Connection): of `connect`.
        clock (Callable[[], float]): seconds since 1970.
        log (str | None): the write-ahead log, for `sync`; None if nobody waits for the disk.
    Attributes:
        topology (int), owners (int): counted up in the file by whoever changes queues or bindings, or comes
            and goes.
        touched (set[str]): queues that got messages in this transaction.
        changed (bool): queues or bindings were changed in it.
    """

    def __init__(
        self, connection: sqlite3.Connection, clock: Callable[[], float] = time.time, log: str | None = None
    ) -> None:
        self._db = connection
        self._clock = clock
        # SQLite has locks on the database and its shared memory and none on the log, so that to open it once
        # more and to close that frees nobody's.
        self._log = -1 if log is None else os.open(log, os.O_RDWR | os.O_CLOEXEC)
        self._synced = self._counted = connection.total_changes
        self._pages = 0  # written to the log since the last checkpoint of ours, nearly
        self._queues: dict[str, Queue] = {}
        self._names: dict[int, str] = {}
        self.topology = -1
        self.owners = -1
        self.touched: set[str] = set()
        self.changed = False

    def sync(self) -> None:
        """Wait until all that was committed is on the disk, if anything was written since the last wait.

        Outside of any transaction: who writes meanwhile does not wait. What others see before it is on the
        disk stands in the log before all that they write.

        Raises:
            OSError: of the disk.
        """
        written = self._db.total_changes
        if self._log >= 0 and written != self._synced:
            os.fdatasync(self._log)
            self._synced = written

    def begin(self) -> None:
        """Begin a transaction: forget what others have changed since the last one."""
        self._db.execute('BEGIN IMMEDIATE')
        topology = self.topology
        self.touched = set()
        self.changed = False
        self.topology, self.owners = self._db.execute(_COUNTERS).fetchone()
        if topology != self.topology:
            self._queues.clear()
            self._names.clear()

    def commit(self) -> None:
        """End it: from now on it holds."""
        self._db.execute('COMMIT')
        changes, self._counted = self._db.total_changes - self._counted, self._db.total_changes
        if changes:
            self._pages += _COMMIT_PAGES + changes // _CHANGES_PAGE

    @property
    def wants_checkpoint(self) -> bool:
        """Has so much been written that `checkpoint` is due?"""
        return self._pages >= _CHECKPOINT

    def checkpoint(self) -> None:
        """Bring what is in the log into the database, as far as nobody reads what was there before.

        Outside of any transaction: nobody waits for it, neither who writes nor who does the same.

        Raises:
            sqlite3.Error: of the disk. Nothing is lost: all is in the log.
        """
        self._pages = 0
        self._db.execute('PRAGMA wal_checkpoint(PASSIVE)').fetchall()

    def begin_step(self) -> None:
        """Begin a part of a transaction that may be undone alone."""
        self._db.execute('SAVEPOINT step')

    def end_step(self) -> None:
        """It belongs to the transaction."""
        self._db.execute('RELEASE step')

    def undo_step(self) -> None:
        """It has not happened."""
        self._queues.clear()
        self._names.clear()
        self._db.execute('ROLLBACK TO step')
        self._db.execute('RELEASE step')

    def rollback(self) -> None:
        """End it: nothing of it has happened."""
        self._queues.clear()
        self._names.clear()
        if self._db.in_transaction:
            self._db.execute('ROLLBACK')

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    def _count_up(self, name: str) -> None:
        self._db.execute('UPDATE meta SET value = value + 1 WHERE name = ?', (name,))
        setattr(self, name, getattr(self, name) + 1)
        self.changed = self.changed or name == 'topology'
        self._queues.clear()
        self._names.clear()

    # ---- owners

    def enter(self, pid: int, host: str, name: str, socket: str) -> int:
        """Register an owner and return its number."""
        cursor = self._db.execute(
            'INSERT INTO owner (pid, host, name, socket, since) VALUES (?, ?, ?, ?, ?)',
            (pid, host, name, socket, self._clock()),
        )
        self._count_up('owners')
        return int(cursor.lastrowid or 0)

    def all_owners(self) -> list[tuple[int, str, str]]:
        """Return (number, name, path of the socket) of every owner."""
        return self._db.execute('SELECT id, name, socket FROM owner').fetchall()

    def leave(self, owner: int) -> None:
        """Give back all that an owner holds, delete its exclusive queues, and forget it."""
        held = self._db.execute('SELECT DISTINCT queue FROM message WHERE owner = ?', (owner,))
        for (queue,) in held.fetchall():
            self._touch(queue)
        self._db.execute(
            'UPDATE message SET owner = NULL, deliveries = deliveries + 1 WHERE owner = ?', (owner,)
        )
        for (name,) in self._db.execute('SELECT name FROM queue WHERE owner = ?', (owner,)).fetchall():
            self.delete(name)
        self._db.execute('DELETE FROM owner WHERE id = ?', (owner,))
        self._count_up('owners')

    def _touch(self, queue: int) -> None:
        name = self._name(queue)
        if name is not None:
            self.touched.add(name)

    def held(self, owner: int) -> int:
        """Return how many messages an owner holds."""
        return int(self._db.execute('SELECT count(*) FROM message WHERE owner = ?', (owner,)).fetchone()[0])

    # ---- queues

    def make(
        self, name: str, arguments: dict[str, Any], owner: int | None = None, unused_for: float | None = None
    ) -> None:
        """Make a queue; one that exists keeps its messages and gets these arguments.

        Arguments:
            owner (int): whose exclusive queue it is: deleted with it.
            unused_for (float): seconds after which it is deleted if nobody uses it; None for never.
        """
        text = _text(arguments)
        known = self._find(name)
        now = self._clock()
        if known is None:
            self._db.execute(
                'INSERT INTO queue (name, arguments, owner, unused_for, used) VALUES (?, ?, ?, ?, ?)',
                (name, text, owner, unused_for, now),
            )
            self._count_up('topology')
        elif _text(known.arguments) != text:
            self._db.execute(
                'UPDATE queue SET arguments = ?, unused_for = ?, used = ? WHERE id = ?',
                (text, unused_for, now, known.id),
            )
            self._count_up('topology')
        else:
            self.use(name)

    def use(self, name: str) -> None:
        """Note that somebody uses a queue: it expires later."""
        self._db.execute(
            'UPDATE queue SET used = ? WHERE name = ? AND unused_for IS NOT NULL', (self._clock(), name)
        )

    def has(self, name: str) -> bool:
        """Tell whether there is such a queue."""
        return self._find(name) is not None

    def arguments(self, name: str) -> dict[str, Any] | None:
        """Return what a queue was made with; None if there is none."""
        queue = self._find(name)
        return None if queue is None else queue.arguments

    def _find(self, name: str) -> Queue | None:
        queue = self._queues.get(name)
        if queue is None:
            row = self._db.execute('SELECT id, arguments FROM queue WHERE name = ?', (name,)).fetchone()
            if row is not None:
                arguments = loads(row[1])
                queue = self._queues[name] = Queue(row[0], name, arguments, QueueLimits.of(arguments))
                self._names[row[0]] = name
        return queue

    def _name(self, queue: int) -> str | None:
        name = self._names.get(queue)
        if name is None:
            row = self._db.execute('SELECT name FROM queue WHERE id = ?', (queue,)).fetchone()
            if row is not None:
                name = self._names[queue] = row[0]
        return name

    def size(self, name: str) -> int:
        """Return how many messages wait in a queue and may be taken now."""
        queue = self._find(name)
        if queue is None:
            return 0
        self._release_due()
        return self._ready(queue.id)

    def _ready(self, queue: int) -> int:
        return int(
            self._db.execute(
                'SELECT count(*) FROM message WHERE queue = ? AND owner IS NULL AND due IS NULL', (queue,)
            ).fetchone()[0]
        )

    def purge(self, name: str) -> int:
        """Remove the messages that nobody has taken, delayed ones too; return how many."""
        queue = self._find(name)
        if queue is None:
            return 0
        return self._db.execute(
            'DELETE FROM message WHERE queue = ? AND owner IS NULL', (queue.id,)
        ).rowcount

    def delete(self, name: str) -> None:
        """Delete a queue with its messages and bindings; none of that name is fine."""
        queue = self._find(name)
        if queue is not None:
            self._db.execute('DELETE FROM message WHERE queue = ?', (queue.id,))
            self._db.execute('DELETE FROM queue WHERE id = ?', (queue.id,))
            self._db.execute('DELETE FROM binding WHERE queue = ?', (name,))
            self._count_up('topology')

    def queues(self) -> list[dict[str, Any]]:
        """Return what there is to know of each queue, by name; for people."""
        self._release_due()
        now = self._clock()
        found = self._db.execute(
            'SELECT name, arguments, '
            '(SELECT count(*) FROM message m WHERE m.queue = q.id AND m.owner IS NULL AND m.due IS NULL), '
            '(SELECT count(*) FROM message m WHERE m.queue = q.id AND m.owner IS NOT NULL), '
            '(SELECT count(*) FROM message m '
            'WHERE m.queue = q.id AND m.owner IS NULL AND m.due IS NOT NULL), '
            '(SELECT min(m.put_at) FROM message m WHERE m.queue = q.id) FROM queue q ORDER BY name'
        ).fetchall()
        return [
            {'name': name, 'ready': ready, 'unacked': held, 'delayed': delayed,
             'oldest': None if oldest is None else max(now - oldest, 0.0),
             'dead_letters': _dead_letters(loads(arguments))}
            for name, arguments, ready, held, delayed, oldest in found
        ]  # fmt: skip

    # ---- bindings

    def bindings(self, exchange: str) -> list[tuple[str, str, str, Any]]:
        """Return (kind, routing key, queue, arguments) of each binding of an exchange."""
        return [
            (kind, key, queue, loads(arguments))
            for kind, key, queue, arguments in self._db.execute(
                'SELECT kind, routing_key, queue, arguments FROM binding WHERE exchange = ?', (exchange,)
            )
        ]

    def bind(self, exchange: str, kind: str, key: str, queue: str, arguments: Any) -> bool:
        """Keep a binding; return whether it is new."""
        changed = self._db.execute(
            'INSERT OR IGNORE INTO binding VALUES (?, ?, ?, ?, ?)',
            (exchange, kind, key, queue, _text(arguments)),
        ).rowcount
        if changed:
            self._count_up('topology')
        return bool(changed)

    def unbind(self, exchange: str, key: str, queue: str, arguments: Any) -> bool:
        """Forget a binding; return whether there was one."""
        changed = self._db.execute(
            'DELETE FROM binding WHERE exchange = ? AND routing_key = ? AND queue = ? AND arguments = ?',
            (exchange, key, queue, _text(arguments)),
        ).rowcount
        if changed:
            self._count_up('topology')
        return bool(changed)

    # ---- messages

    def put(
        self, items: Sequence[tuple[str, int, float | None, float | None, bytes]], owner: int
    ) -> tuple[list[Exception | None], list[Row]]:
        """Put messages, each (queue, priority, due, expires, payload), into their queues.

        Returns:
            tuple[list[Exception | None], list[Row]]: what each met: NotFound, or PublishNacked of a queue
                that is full; and the messages that had to go because a queue was full, taken for the owner if
                their queue has a place for dead letters. Others that had to go are not told.
        """
        now = self._clock()
        values: list[Any] = []
        outcomes: list[Exception | None] = []
        room: dict[int, list[float]] = {}
        full: dict[int, Queue] = {}
        for name, priority, due, expires, payload in items:
            queue = self._find(name)
            if queue is None:
                outcomes.append(NotFound(f'no queue {name!r}'))
                continue
            if queue.limits.limited:
                if queue.limits.rejects and not self._fits(queue, len(payload), room):
                    outcomes.append(PublishNacked(f'queue {name!r} is full'))
                    continue
                full[queue.id] = queue
            if queue.limits.ttl is not None:
                over = now + queue.limits.ttl
                expires = over if expires is None else min(expires, over)
            values += queue.id, priority, due, expires, now, payload
            self.touched.add(name)
            outcomes.append(None)
        for at in range(0, len(values), _TOGETHER * _WIDTH):
            some = values[at : at + _TOGETHER * _WIDTH]
            self._db.execute(_PUT[len(some) // _WIDTH], some)
        dropped = [
            row for queue in full.values() if not queue.limits.rejects for row in self._drop(queue, owner)
        ]
        return outcomes, dropped

    def _held(self, queue: int) -> tuple[int, int]:
        count, size = self._db.execute(
            'SELECT count(*), total(length(payload)) FROM message '
            'WHERE queue = ? AND owner IS NULL AND due IS NULL',
            (queue,),
        ).fetchone()
        return count, int(size)

    def _fits(self, queue: Queue, size: int, room: dict[int, list[float]]) -> bool:
        # Counted once a transaction, by which it is bounded: a queue with a limit is no longer than that.
        left = room.get(queue.id)
        if left is None:
            count, held = self._held(queue.id)
            most, most_bytes = queue.limits.max_length, queue.limits.max_bytes
            left = room[queue.id] = [
                float('inf') if most is None else most - count,
                float('inf') if most_bytes is None else most_bytes - held,
            ]
        if left[0] < 1 or left[1] < size:
            return False
        left[0] -= 1
        left[1] -= size
        return True

    def _drop(self, queue: Queue, owner: int) -> list[Row]:
        # The oldest of the lowest priority goes, as long as there are too many, or too large ones together.
        count, held = self._held(queue.id)
        most = float('inf') if queue.limits.max_length is None else queue.limits.max_length
        most_bytes = float('inf') if queue.limits.max_bytes is None else queue.limits.max_bytes
        dropped: list[Row] = []
        if count > most or held > most_bytes:
            for number, deliveries, payload in self._db.execute(
                'SELECT id, deliveries, payload FROM message '
                'WHERE queue = ? AND owner IS NULL AND due IS NULL ORDER BY priority, id',
                (queue.id,),
            ):
                if count <= most and held <= most_bytes:
                    break
                dropped.append(Row(number, queue.name, deliveries, payload))
                count -= 1
                held -= len(payload)
        if queue.limits.dead_exchange is not None:
            # Not deleted before they are where the dead letters go: whoever does that may die first.
            self._hold(owner, dropped)
            return dropped
        self._db.executemany('DELETE FROM message WHERE id = ?', [(row.id,) for row in dropped])
        return []

    def take(self, owner: int, names: Iterable[str], n: int, max_bytes: int) -> list[Row]:
        """Take messages for an owner: of each queue in turn, those of higher priority first, then the oldest.

        Arguments:
            n (int): at most so many.
            max_bytes (int): stop when so many bytes are there; one message is always taken.
        """
        self._release_due()
        taken: list[Row] = []
        room = max_bytes
        for name in names:
            queue = self._find(name)
            if queue is None or len(taken) >= n or room <= 0:
                continue
            if queue.limits.expires is not None:
                self.use(name)
            for number, deliveries, payload, expires in self._db.execute(
                'SELECT id, deliveries, payload, expires FROM message '
                'WHERE queue = ? AND owner IS NULL AND due IS NULL ORDER BY priority DESC, id LIMIT ?',
                (queue.id, n - len(taken)),
            ):
                taken.append(Row(number, name, deliveries, payload, expires))
                room -= len(payload)
                if room <= 0:
                    break
        self._hold(owner, taken)
        return taken

    def _hold(self, owner: int, rows: Sequence[Row]) -> None:
        for at in range(0, len(rows), _TOGETHER):
            some = rows[at : at + _TOGETHER]
            self._db.execute(_TAKE[len(some)], (owner, *[row.id for row in some]))

    def settle(self, owner: int, done: Sequence[int], back: Sequence[tuple[int, bool]]) -> list[int]:
        """Forget messages that are done, and give others back to their old places.

        Arguments:
            done (Sequence[int]): their numbers.
            back (Sequence[tuple[int, bool]]): numbers, and whether the delivery is counted.
        Returns:
            list[int]: those that are not the owner's any more.
        """
        gone: list[int] = []
        for at in range(0, len(done), _TOGETHER):
            gone += self._forget(owner, done[at : at + _TOGETHER])
        for number, counted in back:
            queue = self._db.execute(
                'SELECT queue FROM message WHERE id = ? AND owner = ?', (number, owner)
            ).fetchone()
            if queue is None:
                gone.append(number)
                continue
            self._db.execute(
                'UPDATE message SET owner = NULL, deliveries = deliveries + ? WHERE id = ?',
                (int(counted), number),
            )
            self._touch(queue[0])
        return gone

    def _forget(self, owner: int, numbers: Sequence[int]) -> list[int]:
        if len(numbers) > 1:  # nearly always all are there; which are not is found one by one
            self._db.execute('SAVEPOINT together')
            all_there = self._db.execute(_DONE[len(numbers)], (owner, *numbers)).rowcount == len(numbers)
            if not all_there:
                self._db.execute('ROLLBACK TO together')
            self._db.execute('RELEASE together')
            if all_there:
                return []
        return [
            number for number in numbers if not self._db.execute(_DONE[1], (owner, number)).rowcount
        ]

    def _release_due(self) -> None:
        now = self._clock()
        first = self.next_due()
        if first is not None and first <= now:
            self._db.execute('UPDATE message SET due = NULL WHERE due IS NOT NULL AND due <= ?', (now,))

    def next_due(self) -> float | None:
        """Return when the next delayed message may be taken, in seconds since 1970; None if there is none."""
        found = self._db.execute('SELECT min(due) FROM message WHERE due IS NOT NULL').fetchone()[0]
        return None if found is None else float(found)

    def unused(self) -> dict[str, float]:
        """Return for how long nobody has used each queue that expires, in parts of the time that it lives.

        One of which somebody holds messages is used. Needs no transaction.
        """
        found = self._db.execute(
            'SELECT name, (? - used) / max(unused_for, 0.001) FROM queue q WHERE unused_for IS NOT NULL '
            'AND NOT EXISTS (SELECT 1 FROM message m WHERE m.owner IS NOT NULL AND m.queue = q.id)',
            (self._clock(),),
        )
        return {name: float(part) for name, part in found}


def _dead_letters(arguments: dict[str, Any]) -> str | None:
    limits = QueueLimits.of(arguments)
    return limits.dead_exchange or limits.dead_key


def _text(arguments: Any) -> str:
    return dumps(arguments, sort_keys=True, default=str)
