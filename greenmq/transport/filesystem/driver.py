"""Queues as files: what the base needs of them, with the file calls in a thread."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from os import path
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionLost
from greenmq.transport.driver import REQUEUE, Binding, Driver, Place, Put, Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.filesystem import names
from greenmq.transport.filesystem.bindings import Bindings, Busy
from greenmq.transport.filesystem.folder import Claim, Folder
from greenmq.transport.filesystem.writer import Folders
from greenmq.transport.limits import QueueLimits
from greenmq.transport.options import Option, seconds, truth
from greenmq.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES
from greenmq.transport.waiters import Waiters

__all__ = ('FilesystemDriver',)

#: Seconds for what the base gives no deadline, and between two tries for a lock that another process has.
_OPERATION, _LOCK_AGAIN = 30.0, 0.01


def _mode(value: Any) -> int:
    return int(value, 8) if isinstance(value, str) else int(value)


class FilesystemDriver(Driver):
    """Messages as files in a folder, in kombu's layout, for any number of processes.

    A delivery belongs to the process that took it until it is settled or the process ends.
    """

    delivery = 'wait'
    groups = 'all'
    wait_seconds = 30.0
    take_batch = 100
    settle_batch = 200
    settle_hold = 0.005
    put_batch = 100
    max_puts = 2  # one is being written, the next gathers
    survives_loss = False
    max_delay = None
    shared_bindings = True
    options = {
        'data_folder_in': Option(str, 'data_in', 'the folder that messages are taken from'),
        'data_folder_out': Option(str, 'data_out', 'the folder that messages are put into'),
        'store_processed': Option(truth, False, 'keep messages that are done, in `processed_folder`'),
        'processed_folder': Option(str, 'processed', 'where `store_processed` keeps them'),
        'control_folder': Option(str, 'control', 'the folder of the bindings'),
        'durable_writes': Option(truth, True, 'a publish returns when its message is on the disk'),
        'mode': Option(_mode, 0o700, 'permissions of the folders that are made, as in `0o770` or "770"'),
        'sweep_interval': Option(seconds, 2.0, 'seconds between two looks for what dead processes hold'),
    }

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        super().__init__(place, settings, owner)
        self._folder: Folder | None = None
        self._worker: runtime.Worker | None = None
        self._waiters = Waiters()
        self._listener: runtime.Task | None = None

    # ---- the connection

    def open(self, deadline: runtime.Deadline) -> None:
        self._leave(deadline)
        folder = Folder(self._folders())
        worker = runtime.Worker(f'filesystem {folder.folders.into}', leave=folder.close)
        try:
            worker.call(folder.open, deadline=deadline)
        except BaseException:
            worker.close()
            raise
        self._folder, self._worker = folder, worker
        if folder.watch is not None:
            self._listener = runtime.spawn(
                _listen, weakref.ref(self), folder, name='filesystem-watch', owner=self
            )

    def _folders(self) -> Folders:
        given = self.settings
        into, out, control, processed = (
            path.abspath(given[name])
            for name in ('data_folder_in', 'data_folder_out', 'control_folder', 'processed_folder')
        )
        return Folders(
            into, out, control, processed if given['store_processed'] else None, given['mode'],
            given['durable_writes'],
        )  # fmt: skip

    def close(self, deadline: runtime.Deadline) -> None:
        self._leave(deadline)

    def _leave(self, deadline: runtime.Deadline) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.kill()
        folder, self._folder = self._folder, None
        worker, self._worker = self._worker, None
        if worker is not None and folder is not None:
            try:
                worker.call(folder.close, deadline=deadline)
            finally:
                worker.close()

    def forget(self) -> None:
        folder, self._folder, self._worker = self._folder, None, None
        if folder is not None:
            folder.forget()

    def ping(self, deadline: runtime.Deadline) -> None:
        self._do(Folder.size, deadline, 'ping')

    def _do(
        self,
        fun: Callable[..., Any],
        deadline: runtime.Deadline,
        *args: Any,
        abandon: Callable[[Any], Any] | None = None,
    ) -> Any:
        while True:
            if self._worker is None:
                raise ConnectionLost('the folders are closed')
            try:
                return self._worker.call(fun, self._folder, *args, deadline=deadline, abandon=abandon)
            except Busy:
                deadline.check('a binding file stays locked by another process')
                runtime.sleep(_LOCK_AGAIN)

    def _told(self, folder: Folder, came: list[tuple[str, str]], missed: bool) -> None:
        # In the hub: files came into one of the folders.
        folder.news.extend(came)
        control, into = folder.folders.control, folder.folders.into
        queues: set[str] | None = set()
        for where, name in came:
            if where == control:
                exchange = Bindings.exchange_of(name)
                if exchange is not None:
                    self.owner.changed(exchange)
            elif where == into:
                queue = names.queue_of(name)
                if queue is not None and queues is not None:
                    queues.add(queue)
            else:
                queues = None  # a delayed one: who waits learns when it is due
        if missed:
            folder.news.append(('', ''))
            self.owner.changed()
            queues = None
        self._waiters.wake(queues)
        if not self._waiters and len(folder.news) > 10_000:
            folder.news.clear()  # nobody takes: one listing is less than so many names
            folder.news.append(('', ''))

    # ---- messages

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None]:
        now = time.time()
        files = [
            (item.queue, item.payload.encode(), item.priority, now + item.delay if item.delay else None)
            for item in items
        ]
        outcomes: list[Exception | None] = self._do(Folder.put, deadline, files)
        return outcomes

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> list[Taken]:
        claims = self._waiters.take(queues, seconds, lambda woken: self._take(queues, n, max_bytes))
        return [Taken(claim.queue, claim.payload, claim, claim.deliveries) for claim in claims]

    def _take(self, queues: list[str], n: int, max_bytes: int) -> tuple[list[Claim], float | None]:
        folder = self._folder
        assert folder is not None
        result: tuple[list[Claim], float | None] = self._do(
            Folder.take, runtime.Deadline.after(_OPERATION), queues, n, max_bytes,
            abandon=lambda taken: folder.give_back(taken[0]),
        )  # fmt: skip
        return result

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> Iterable[tuple[Taken, Exception | None]]:
        finished = [taken.receipt.name for taken in done]
        returned = [(taken.receipt.name, fate == REQUEUE) for taken, fate in back]
        lost = set(self._do(Folder.settle, deadline, finished, returned))
        return [
            (taken, None) for taken in [*done, *(taken for taken, _ in back)] if taken.receipt.name in lost
        ]

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> None:
        arguments = dict(facts.get('arguments') or {})
        QueueLimits.of(arguments)
        self._do(Folder.make, deadline, queue, arguments, bool(facts.get('exclusive')))

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        return bool(self._do(Folder.has, deadline, queue))

    def facts(self, queue: str, deadline: runtime.Deadline) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self._do(Folder.facts, deadline, queue)
        return found

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        return int(self._do(Folder.size, deadline, queue))

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        return int(self._do(Folder.purge, deadline, queue))

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        self._do(Folder.delete, deadline, queue)

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._do(Folder.queues, deadline)
        return found

    # ---- bindings

    def bindings(self, exchange: str, deadline: runtime.Deadline) -> list[Binding]:
        found = self._do(_read, deadline, exchange)
        return [Binding(exchange, kind, key, queue, arguments) for kind, key, queue, arguments in found]

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        exchange, kind, key, queue, arguments = binding
        names.check_queue(queue)
        prepared = STANDARD_EXCHANGE_TYPES[kind](None).prepare_bind(queue, exchange, key, arguments)
        self._do(_bind, deadline, exchange, kind, key or '', prepared[1] or '', queue, arguments)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        exchange, _, key, queue, arguments = binding
        self._do(_unbind, deadline, exchange, key or '', queue, arguments)

    # ---- now and then

    def sweep(self, deadline: runtime.Deadline) -> None:
        if self._worker is not None:
            self._do(Folder.sweep, deadline)

    def stats(self) -> dict[str, Any]:
        folder = self._folder
        if folder is None:
            return {}
        return {
            'listings': folder.listings, 'syncs': folder.writer.syncs, 'quarantined': folder.quarantined,
        }  # fmt: skip


def _read(folder: Folder, exchange: str) -> list[tuple[str, str, str, Any]]:
    return folder.bindings.read(exchange)


def _bind(folder: Folder, *binding: Any) -> None:
    folder.bindings.bind(*binding)


def _unbind(folder: Folder, *binding: Any) -> None:
    folder.bindings.unbind(*binding)


def _listen(driver: Any, folder: Folder) -> None:
    # Waits for the system's word; holds the driver only while it tells it.
    watch = folder.watch
    assert watch is not None
    while True:
        runtime.wait_ready(watch.descriptor)
        came, missed, gone = watch.read()
        found = driver()
        if found is None:
            return
        found._told(folder, came, missed)
        if gone:
            found.owner.lost(ConnectionLost(f'{folder.folders.into}, or a folder in it, was removed'))
            return
        del found
