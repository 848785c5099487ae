"""The engine: a native thread that writes to the store, all that waits in one transaction, and wakes others.

There is one for a process and a file, whatever number of hubs use it: SQLite cannot really close a file while
another connection of the process has it open.

Jobs that came while a transaction was being committed go into the next one together, so a hundred greenlets
share one write to the disk. A job is answered when its transaction holds. Processes take turns at a gate:
SQLite's own way of waiting is to sleep and try again, by which one of many writers may wait for seconds.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from collections import deque
from collections.abc import Callable, Container
from os import path
from typing import Any, NamedTuple

from greenmq import runtime
from greenmq.exceptions import ConnectionLost
from greenmq.log import get_logger
from greenmq.transport.gate import Gate
from greenmq.transport.owners import Mark, check_local, gone, wake
from greenmq.transport.sqlite.expiry import Expiry
from greenmq.transport.sqlite.file import connect, connect_made
from greenmq.transport.sqlite.store import Store

__all__ = ('Engine', 'Unusable')

logger = get_logger('greenmq.transport.sqlite')

_LARGEST_BATCH = 1000  # jobs of one transaction
#: Connections that a forked child inherited. They are neither used nor closed there: to close one would end
#: locks and remove files that the parent needs.
_inherited: list[Any] = []


class Unusable(ConnectionLost):
    """The file can't be written: no space, no permission, an error of the disk."""


class _Job:
    __slots__ = ('abandon', 'cancelled', 'done', 'error', 'fun', 'lasting', 'result')

    def __init__(
        self, fun: Callable[[Store], Any], abandon: Callable[[Store, Any], Any] | None, lasting: bool = True
    ) -> None:
        self.fun = fun
        self.abandon = abandon
        self.lasting = lasting
        self.cancelled = False
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


class Engine:
    """The store of one file, for the tasks of one hub, which is one owner of messages.

    Arguments:
        file (str): path of the database; its gate and its owners' marks lie beside it.
        durability (str): see `file.connect`.
        told (Callable[[set[str], bool], Any]): is told, in this hub, of queues that got messages in a
            transaction of this process, and whether bindings were changed by anybody.
        wanted (Container[str]): the queues of which it wants to be told; looked at in the engine's thread.
    """

    def __init__(
        self, file: str, durability: str, told: Callable[[set[str], bool], Any], wanted: Container[str]
    ) -> None:
        self._wanted = wanted
        self._file = file
        self._key = (file, durability)
        self._told = told
        self._entry: _Entry | None = None
        self._thread = _Thread.join(self._key)

    @property
    def mark(self) -> Mark:
        """Our mark among the owners; there after `open`."""
        assert self._entry is not None
        return self._entry.mark

    @property
    def owner(self) -> int:
        """Our number among the owners."""
        assert self._entry is not None
        return self._entry.owner

    @property
    def commits(self) -> int:
        """Transactions of this process so far."""
        return self._thread.side.commits

    def open(self, deadline: runtime.Deadline) -> None:
        """Open the file and enter as an owner.

        Raises:
            InvalidArgument: on a network file system. InconsistencyError: no database of ours.
            Unusable: not readable or not writable.
        """
        left = deadline.remaining()
        side, seconds = self._thread.side, 5.0 if left is None else left
        self._entry = self._thread.worker.call(
            side.enter, runtime.hub_id(), self._told, self._wanted, seconds,
            deadline=deadline, abandon=side.leave,
        )  # fmt: skip

    def do(
        self,
        fun: Callable[[Store], Any],
        deadline: runtime.Deadline,
        abandon: Callable[[Store, Any], Any] | None = None,
        lasting: bool = True,
    ) -> Any:
        """Run something on the store in the next transaction, and wait until it is committed.

        Arguments:
            fun (Callable[[Store], object]): runs in the thread. An error of its own undoes what it did alone.
            abandon (Callable[[Store, object], object]): undoes it, in a later transaction, if nobody waited
                for the result any more.
            lasting (bool): False if the loss of power may undo it: then nobody waits for the disk.
        Returns:
            object: what `fun` returned.
        Raises:
            TimeoutError: not in time; it may happen all the same. Unusable: the transaction failed.

        Killed while waiting: what has not begun never begins.
        """
        job, thread = _Job(fun, abandon, lasting), self._thread
        thread.side.jobs.append(job)
        try:
            result = thread.worker.call(thread.side.perform, job, deadline=deadline)
        except BaseException:
            job.cancelled = True
            if abandon is not None and job.error is None:
                thread.side.jobs.append(_Job(lambda store: job.done and abandon(store, job.result), None))
                thread.worker.tell(thread.side.run)
            raise
        if thread.side.wants_checkpoint:
            thread.worker.tell(thread.side.checkpoint)  # after the answers to all who share the transaction
        return result

    def sweep(self, deadline: runtime.Deadline) -> None:
        """Give back what dead owners hold, and delete queues that nobody has used for too long."""
        self._thread.worker.call(self._thread.side.sweep, deadline=deadline)

    def close(self, deadline: runtime.Deadline) -> None:
        """Leave, after all that was asked for: what we hold is given back. Not in time: later, by itself."""
        entry, self._entry = self._entry, None
        try:
            if entry is not None:
                self._thread.worker.call(self._thread.side.leave, entry, deadline=deadline)
        except BaseException as exc:
            self._thread.worker.tell(self._thread.side.leave, entry)  # it may not have begun
            if not isinstance(exc, TimeoutError):
                raise
            logger.warning('%s: could not leave in time', self._file)
        finally:
            self._thread.part(self._key)

    def forget(self) -> None:
        """In a forked child: let go of what belongs to the parent."""
        self._entry = None
        self._thread.side.forget()


class _Thread:
    # The thread of one file, and how many engines use it. They come and go in several native threads.

    _all: dict[tuple[str, str], _Thread] = {}
    _lock: Any = None
    _epoch = -1

    def __init__(self, file: str, durability: str) -> None:
        self.users = 0
        self.side = _Side(file, durability)
        self.worker = runtime.Worker(f'sqlite {file}', leave=self.side.close)

    @classmethod
    def join(cls, key: tuple[str, str]) -> _Thread:
        if cls._epoch != runtime.fork_epoch():  # the threads of a parent do not exist here
            cls._epoch, cls._all, cls._lock = runtime.fork_epoch(), {}, runtime.NativeLock()
        with cls._lock:
            found = cls._all.get(key)
            if found is None:
                found = cls._all[key] = cls(*key)
            found.users += 1
            return found

    def part(self, key: tuple[str, str]) -> None:
        with self._lock:
            self.users -= 1
            if not self.users and self._all.get(key) is self:
                del self._all[key]
                self.worker.close()


class _Entry(NamedTuple):
    # One owner of this process: its number, its mark, and whom to tell in which hub.
    owner: int
    mark: Mark
    hub: Any
    told: Callable[[set[str], bool], Any]
    wanted: Container[str]


class _Side:
    # What lives in the thread. Its `jobs` are the one thing that both sides touch; a deque needs no lock.

    def __init__(self, file: str, durability: str) -> None:
        self.jobs: deque[_Job] = deque()
        self.commits = 0
        self._file = file
        self._folder = f'{file}.owners'
        self._durability = durability
        self._gate = Gate(file)
        self._expiry = Expiry(file)
        self._store: Store | None = None
        self._guard = runtime.fork_guard()  # held inside of SQLite: it has locks of its own
        self._topology = -1
        self._owners = -1
        self._entries: list[_Entry] = []
        self._others: list[tuple[str, str]] = []  # name and socket of each owner in another process

    def enter(
        self, hub: Any, told: Callable[[set[str], bool], Any], wanted: Container[str], seconds: float
    ) -> _Entry:
        try:
            self._open(seconds)
            mark = Mark(self._folder)
            try:
                where = (os.getpid(), socket.gethostname(), mark.name, mark.socket_path)
                entry = _Entry(self._transact(lambda store: store.enter(*where)), mark, hub, told, wanted)
            except BaseException:
                mark.close()
                raise
        except (OSError, sqlite3.Error) as exc:
            raise Unusable(f'{self._file}: {exc}') from exc
        self._entries.append(entry)
        self._owners = -1  # ours is no other one
        self.sweep()
        return entry

    def _open(self, seconds: float) -> None:
        if self._store is None:
            folder = path.dirname(self._file)
            os.makedirs(folder, 0o700, exist_ok=True)
            check_local(folder)
            place = self._file, self._durability, seconds
            with self._guard:
                connection = connect_made(*place)
            if connection is None:
                with self._gate, self._guard:
                    connection = connect(*place)
            with self._guard:
                log = f'{self._file}-wal' if self._durability == 'disk' else None
                self._store = Store(connection, log=log)

    def perform(self, job: _Job) -> Any:
        # An earlier call may have run it in its own transaction: then only the answer is left.
        while not job.done and job.error is None and not job.cancelled:
            self.run()
        if job.error is not None:
            raise job.error
        return job.result

    def run(self) -> None:
        batch: list[_Job] = []
        while self.jobs and len(batch) < _LARGEST_BATCH:
            job = self.jobs.popleft()
            if not job.cancelled:
                batch.append(job)
        if not batch:
            return
        try:
            lasting = any(job.lasting for job in batch)
            self._transact(lambda store: self._run_all(store, batch), lasting)
        except Exception as exc:
            for job in batch:
                job.error = job.error or exc
        else:
            for job in batch:
                job.done = job.error is None

    def _run_all(self, store: Store, batch: list[_Job]) -> None:
        if len(batch) == 1:  # nobody else's work to save
            batch[0].result = batch[0].fun(store)
            return
        for job in batch:
            store.begin_step()
            try:
                job.result = job.fun(store)
            except sqlite3.Error:
                raise  # the file, and so everybody in this transaction
            except Exception as exc:
                store.undo_step()
                job.error = exc
            else:
                store.end_step()

    def _transact(self, fun: Callable[[Store], Any], lasting: bool = True) -> Any:
        store = self._store
        if store is None:
            raise Unusable(f'{self._file} is not open')
        try:
            with self._gate, self._guard:
                result = self._commit(store, fun)
        except (OSError, sqlite3.Error) as exc:
            raise self._lost(store, exc) from exc
        self.commits += 1
        self._tell(store)
        if lasting:
            try:
                store.sync()  # the turn is somebody else's by now: many processes wait for the disk together
            except OSError as exc:
                raise self._lost(store, exc) from exc
        return result

    @property
    def wants_checkpoint(self) -> bool:
        store = self._store
        return store is not None and store.wants_checkpoint

    def checkpoint(self) -> None:
        store = self._store
        if store is None or not store.wants_checkpoint:
            return  # another job of the same transaction asked for it
        try:
            with self._guard:
                store.checkpoint()
        except sqlite3.Error as exc:  # the next transaction meets it, and somebody is told
            logger.warning('%s: the log was not brought into the database: %s', self._file, exc)

    def _lost(self, store: Store, exc: Exception) -> Unusable:
        # Opened anew by who recovers: the file may be another one by then.
        self._store = None
        with self._guard:
            store.close()
        return Unusable(f'{self._file}: {exc}')

    def _commit(self, store: Store, fun: Callable[[Store], Any]) -> Any:
        try:
            store.begin()
            result = fun(store)
            if store.owners != self._owners:
                self._owners = store.owners
                here = {entry.owner for entry in self._entries}
                self._others = [
                    (name, where) for number, name, where in store.all_owners() if number not in here
                ]
            store.commit()
        except BaseException:
            store.rollback()
            raise
        return result

    def _tell(self, store: Store) -> None:
        changed = store.topology != self._topology
        self._topology = store.topology
        for entry in self._entries:
            # Who begins to wait after this look finds the messages: its claim is a later transaction.
            if changed or any(name in entry.wanted for name in store.touched):
                runtime.post(entry.hub, entry.told, store.touched, changed)
        if self._others and self._entries and (store.touched or store.changed):
            wake(self._entries[0].mark.socket, [at for _, at in self._others], store.touched, store.changed)

    def sweep(self) -> None:
        dead = {name for name, _ in self._others if gone(self._folder, name)}

        def clean(store: Store) -> None:
            for number, name, _ in store.all_owners():
                if name in dead:
                    logger.warning('%s: a process is gone; what it held goes back to the queues', self._file)
                    store.leave(number)
            self._expiry.work(store)

        if self._look_at_queues() or dead:
            self._transact(clean, lasting=False)

    def _look_at_queues(self) -> bool:
        with self._guard:
            return self._store is not None and self._expiry.look(self._store, self._waited)

    def _waited(self, queue: str) -> bool:
        return any(queue in entry.wanted for entry in self._entries)

    def leave(self, entry: _Entry) -> None:
        if entry not in self._entries:
            return
        self.run()
        try:
            self._transact(lambda store: store.leave(entry.owner))
        except ConnectionLost as exc:
            logger.warning('%s: could not leave in order: %s', self._file, exc)
        self._entries.remove(entry)
        entry.mark.close()

    def close(self) -> None:
        while self._entries:
            self.leave(self._entries[-1])
        store, self._store = self._store, None
        if store is not None:
            with self._guard:
                store.close()
        self._gate.close()

    def forget(self) -> None:
        if self._store is not None:
            _inherited.append(self._store)
            self._store = None
        self._gate.close()
        for entry in self._entries:
            entry.mark.forget()
        self._entries.clear()
