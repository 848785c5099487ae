"""The message files: all calls on them, made in one native thread of a driver.

A message is taken by a rename into the folder of its owner, ``<in>/.greenmq/claimed/<owner>/``: of several
that try, one succeeds. Whether the owner lives is told by its lock (see `transport.owners`). Names are known
from one listing, and from then on from what the system tells (`watch.py`).
"""

from __future__ import annotations

import heapq
import os
import time
from collections import deque
from collections.abc import Iterable, Sequence
from json import dumps, loads
from os import path
from typing import Any, NamedTuple
from uuid import uuid4

from greenmq.exceptions import ConnectionLost, InvalidArgument
from greenmq.log import get_logger
from greenmq.transport.filesystem import names, watch
from greenmq.transport.filesystem.bindings import Bindings
from greenmq.transport.filesystem.writer import OURS, Folders, Writer
from greenmq.transport.limits import QueueLimits
from greenmq.transport.owners import Mark, check_local, gone

__all__ = ('Claim', 'Folder')

logger = get_logger('greenmq.transport.filesystem')

#: Seconds that a file that is no message may yet become one, and between two looks at it.
DOUBTFUL, DOUBT_AGAIN = 2.0, 0.1
#: Seconds between two listings where the system does not tell what came: the first, and the longest.
LIST_AGAIN, LIST_SELDOM = 0.2, 1.0
#: Seconds after which nobody moves a file into place any more that was written aside.
FORGOTTEN = 3600.0
#: Seconds after which the names of a queue are not kept that nobody takes from.
UNUSED = 60.0


class Claim(NamedTuple):
    """A message that was taken: the name of its file in the owner's folder, and what is in it."""

    queue: str
    name: str
    payload: bytes
    deliveries: int


class _Line:
    # The names of one queue that may be there, first the one to take first.

    __slots__ = ('heap', 'known', 'used')

    def __init__(self) -> None:
        self.heap: list[tuple[tuple[int, float, int, str], str]] = []
        self.known: set[str] = set()
        self.used = time.monotonic()

    def add(self, name: str, older: float | None = None) -> None:
        if name not in self.known:
            self.known.add(name)
            read = names.parse(name)
            boot = float('inf') if older is None else older
            heapq.heappush(self.heap, ((-read.priority, boot, read.number, read.rest), name))

    def pop(self) -> str:
        name = heapq.heappop(self.heap)[1]
        self.known.discard(name)
        return name


class Folder:
    """The folders of one broker, for one owner of messages.

    Attributes:
        watch (Watch | None): what the system tells; None where folders are listed.
        news (deque): folder and name of files that came, from the hub that reads `watch`; ('', '') if some
            were missed.
        writer (Writer): puts messages.
        listings (int), quarantined (int): how many there were.
    """

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.watch: watch.Watch | None = None
        self.news: deque[tuple[str, str]] = deque()
        self.bindings = Bindings(folders.control, folders.mode)
        self.listings = self.quarantined = 0
        self.writer = Writer(folders)
        self._ours = path.join(folders.into, OURS)
        self._owners = path.join(self._ours, 'owners')
        self._claimed = path.join(self._ours, 'claimed')
        self._queues = path.join(folders.control, OURS, 'queues')
        self._delayed = list(dict.fromkeys([self.writer.delayed, path.join(self._ours, 'delayed')]))
        self._mark: Mark | None = None
        self._mine = ''
        self._booted = names.booted_at()
        self._lines: dict[str, _Line] = {}
        self._doubtful: dict[str, dict[str, float]] = {}
        self._due: list[tuple[float, str]] = []
        self._stale = True  # the folder must be listed
        self._list_at = 0.0
        self._pause = LIST_AGAIN

    # ---- from open to close

    def open(self) -> None:
        """Make the folders that are missing, enter as an owner, and give back what dead ones hold."""
        folders = self.folders
        made = (folders.into, folders.out, folders.control, self._owners, self._claimed, self._queues,
                self.writer.aside, *self._delayed)  # fmt: skip
        for each in [*made, *([folders.processed] if folders.processed else [])]:
            self._make_folder(each)
        if folders.processed and os.stat(folders.processed).st_dev != os.stat(folders.into).st_dev:
            raise InvalidArgument(
                'processed_folder', folders.processed,
                'is on another file system than data_folder_in: a message could be lost on the way',
            )  # fmt: skip
        self._mark = Mark(self._owners, folders.mode, listens=False)
        self._mine = path.join(self._claimed, self._mark.name)
        os.mkdir(self._mine, folders.mode)
        self._watch_folders()
        self._stale = True
        self.sweep()
        self._list_delayed()

    def _make_folder(self, folder: str) -> None:
        try:
            os.makedirs(folder, self.folders.mode, exist_ok=True)
            usable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
        except OSError as error:
            raise ConnectionLost(f'{folder} cannot be made by user {os.getuid()}: {error}') from error
        if not usable:
            raise ConnectionLost(f'{folder} cannot be read and written by user {os.getuid()}')

    def _watch_folders(self) -> None:
        try:
            check_local(self.folders.into)
        except InvalidArgument as error:
            logger.warning('%s: files of other machines are not told by the system; listing', error)
            return
        found = watch.start()
        if found is None:
            return
        try:
            for each in {self.folders.into, self.folders.control, *self._delayed}:
                found.add(each)
        except OSError as error:
            found.close()
            logger.warning('%s: the system does not watch it (%s); listing', self.folders.into, error)
            return
        self.watch = found

    def close(self) -> None:
        """Give back what is still held, and leave. Idempotent."""
        mark, self._mark = self._mark, None
        if mark is not None:
            try:
                self._empty(self._mine)
            finally:
                mark.close()
        if self.watch is not None:
            self.watch.close()

    def forget(self) -> None:
        """In a forked child: let go of the copies."""
        mark, self._mark = self._mark, None
        if mark is not None:
            mark.forget()
        if self.watch is not None:
            self.watch.close()

    # ---- names

    def _read_news(self) -> None:
        now_ms = time.monotonic() * 1000
        while True:
            try:
                folder, name = self.news.popleft()
            except IndexError:
                return
            if not folder:
                self._stale = True
            elif folder == self.folders.into:
                queue = names.queue_of(name)
                line = None if queue is None else self._lines.get(queue)
                if line is None:
                    continue
                fresh = now_ms - 10_000 < names.parse(name).number <= now_ms + 1000
                older = None if fresh else self._older(path.join(folder, name))
                line.add(name, older)
            elif folder in self._delayed:
                self._note_delayed(folder, name)

    def _older(self, file: str) -> float | None:
        # When a file of an earlier boot was written; None for those of this one.
        try:
            written = os.stat(file).st_mtime
        except FileNotFoundError:
            return None
        return written if written < self._booted else None

    def _list(self) -> None:
        self._stale = False
        self.listings += 1
        with os.scandir(self.folders.into) as entries:
            for entry in entries:
                queue = names.queue_of(entry.name)
                line = None if queue is None else self._lines.get(queue)
                if line is not None and entry.name not in line.known:
                    line.add(entry.name, self._older(entry.path))

    def _files(self, queue: str) -> list[str]:
        return [name for name in os.listdir(self.folders.into) if names.queue_of(name) == queue]

    # ---- taking and settling

    def take(self, queues: Sequence[str], n: int, max_bytes: int) -> tuple[list[Claim], float | None]:
        """Take up to n messages; if there are none, tell in how many seconds to look again.

        Returns:
            tuple[list[Claim], float | None]: None is: when something came.
        """
        self._read_news()
        self.release_due()
        now = time.monotonic()
        for queue in queues:
            if queue not in self._lines:
                self._lines[queue] = _Line()
                self._stale = True
            self._lines[queue].used = now
            for name in self._doubtful.get(queue, ()):
                self._lines[queue].add(name)
        if self._stale or (self.watch is None and now >= self._list_at):
            self._list()
        taken: list[Claim] = []
        room = max_bytes
        try:
            for queue in queues:
                line = self._lines[queue]
                while line.heap and len(taken) < n and room > 0:
                    claim = self._claim(queue, line.pop())
                    if claim is not None:
                        taken.append(claim)
                        room -= len(claim.payload)
        except BaseException:
            self.give_back(taken)
            raise
        return taken, None if taken else self._look_again(queues, now)

    def _look_again(self, queues: Sequence[str], now: float) -> float | None:
        waits = [] if not self._due else [max(self._due[0][0] - time.time(), 0.001)]
        if any(self._doubtful.get(queue) for queue in queues):
            waits.append(DOUBT_AGAIN)
        if self.watch is None:
            waits.append(self._pause)
            self._list_at = now + self._pause * 0.9
            self._pause = min(self._pause * 1.5, LIST_SELDOM)
        return min(waits, default=None)

    def _claim(self, queue: str, name: str) -> Claim | None:
        read = names.parse(name)
        source, mine = path.join(self.folders.into, name), path.join(self._mine, name)
        if not read.ours and not self._is_whole(queue, name, source):
            return None
        try:
            os.rename(source, mine)
        except FileNotFoundError:
            if not path.isdir(self._mine):
                raise ConnectionLost(f'{self._mine} was removed') from None
            return None  # somebody else has it
        with open(mine, 'rb', buffering=0) as file:
            payload = file.read()
        self._pause = LIST_AGAIN
        return Claim(queue, name, payload, read.deliveries)

    def _is_whole(self, queue: str, name: str, source: str) -> bool:
        # kombu writes a message where it will be read: until it is a whole text it's left alone.
        doubtful = self._doubtful.setdefault(queue, {})
        try:
            with open(source, 'rb', buffering=0) as file:
                whole = isinstance(loads(file.read()), dict)
        except FileNotFoundError:
            doubtful.pop(name, None)
            return False
        except ValueError:
            whole = False
        now = time.monotonic()
        if whole:
            doubtful.pop(name, None)
        elif now - doubtful.setdefault(name, now) > DOUBTFUL:
            del doubtful[name]
            self._quarantine(name, source)
        return whole

    def _quarantine(self, name: str, source: str) -> None:
        folder = path.join(self._ours, 'quarantine')
        os.makedirs(folder, self.folders.mode, exist_ok=True)
        try:
            os.rename(source, path.join(folder, name))
        except FileNotFoundError:
            return  # somebody else has it
        self.quarantined += 1
        logger.warning('%s is no message, and stays none: it was moved to %s', source, folder)

    def settle(self, done: Iterable[str], back: Iterable[tuple[str, bool]]) -> list[str]:
        """Forget messages that are done, and move others back to their old places.

        Arguments:
            done (Iterable[str]): names of their files.
            back (Iterable[tuple[str, bool]]): names, and whether the delivery is counted.
        Returns:
            list[str]: those that are not the owner's any more.
        """
        processed = self.folders.processed
        lost: list[str] = []
        for name in done:
            mine = path.join(self._mine, name)
            try:
                if processed is None:
                    os.unlink(mine)
                else:
                    os.rename(mine, path.join(processed, name))
            except FileNotFoundError:
                lost.append(name)
        for name, counted in back:
            if not self._return(self._mine, name, counted):
                lost.append(name)
        return lost

    def give_back(self, claims: Iterable[Claim]) -> None:
        """Nobody got these: as if they had never been taken."""
        for claim in claims:
            self._return(self._mine, claim.name, counted=False)

    def _return(self, folder: str, name: str, counted: bool) -> bool:
        fresh = names.again(name) if counted else name
        try:
            os.rename(path.join(folder, name), path.join(self.folders.into, fresh))
        except FileNotFoundError:
            return False
        self._note(fresh)
        return True

    # ---- putting

    def put(self, items: Sequence[tuple[str, bytes, int, float | None]]) -> list[Exception | None]:
        """See `Writer.put`."""
        outcomes = self.writer.put(items)
        for place in self.writer.placed:
            folder, name = path.split(place)
            if folder == self.folders.into:
                self._note(name)
        return outcomes

    def _note(self, name: str) -> None:
        # We have put a file there: known before the system tells, for a take that comes earlier.
        line = self._lines.get(names.queue_of(name) or '')
        if line is not None:
            line.add(name, self._older(path.join(self.folders.into, name)))

    # ---- delayed messages: <due in ms>~<name> in a folder of their own

    def _note_delayed(self, folder: str, name: str) -> None:
        due = name.partition('~')[0]
        if due.isdecimal():
            heapq.heappush(self._due, (int(due) / 1000, path.join(folder, name)))

    def _list_delayed(self) -> None:
        self._due = []
        for folder in self._delayed:
            for name in os.listdir(folder):
                self._note_delayed(folder, name)

    def release_due(self) -> None:
        """Move the delayed messages that are due to where they are taken from."""
        now = time.time()
        while self._due and self._due[0][0] <= now:
            source = heapq.heappop(self._due)[1]
            name = path.basename(source).partition('~')[2]
            queue = names.queue_of(name)
            if queue is None:
                continue
            folder = path.dirname(path.dirname(path.dirname(source)))
            fresh = self.writer.namer.name(queue, names.parse(name).priority)
            try:
                os.rename(source, path.join(folder, fresh))
            except FileNotFoundError:
                continue  # another process was faster
            if self.watch is None:
                self._stale = True

    # ---- queues

    def _queue_file(self, queue: str) -> str:
        return path.join(self._queues, f'{queue}.json')

    def make(self, queue: str, arguments: dict[str, Any], exclusive: bool) -> None:
        """Note that there is a queue, and what it was made with."""
        names.check_queue(queue)
        assert self._mark is not None
        facts = {'arguments': arguments, 'owner': self._mark.name if exclusive else None}
        text = dumps(facts, default=str, sort_keys=True)
        file = self._queue_file(queue)
        try:
            with open(file, encoding='utf-8') as old:
                same = old.read() == text
        except FileNotFoundError:
            same = False
        if same:
            os.utime(file)
            return
        aside = path.join(self._queues, f'.tmp-{uuid4().hex}')
        os.close(self.writer.write(aside, text.encode()))
        os.replace(aside, file)

    def facts(self, queue: str) -> dict[str, Any] | None:
        """Return what a queue was made with; None if it is not known."""
        try:
            names.check_queue(queue)
            with open(self._queue_file(queue), encoding='utf-8') as file:
                facts: dict[str, Any] = loads(file.read())
        except (FileNotFoundError, InvalidArgument):
            return None
        return facts

    def has(self, queue: str) -> bool:
        """Tell whether a queue was declared, is bound, or has messages: kombu's are declared nowhere."""
        return (
            self.facts(queue) is not None
            or bool(self._files(queue))
            or bool(self.bindings.bound(queue))
            or any(names.queue_of(name) == queue for _, name in self._all_claimed())
        )

    def _all_claimed(self) -> list[tuple[str, str]]:
        # Folder and name of what is in work anywhere.
        folders = [path.join(self._claimed, owner) for owner in os.listdir(self._claimed)]
        return [(folder, name) for folder in folders for name in _listed(folder)]

    def size(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        self.release_due()
        return len(self._files(queue))

    def purge(self, queue: str) -> int:
        """Remove the messages that nobody has taken, delayed ones too; return how many."""
        files = [path.join(self.folders.into, name) for name in self._files(queue)]
        for folder in self._delayed:
            found = os.listdir(folder)
            files += [
                path.join(folder, name) for name in found if names.queue_of(name.partition('~')[2]) == queue
            ]
        return sum(_unlink(file) for file in files)

    def delete(self, queue: str) -> None:
        """Delete a queue with its messages and bindings; none of that name is fine.

        Raises:
            Busy: somebody writes a binding file just now; again, please.
        """
        for exchange, key, arguments in self.bindings.bound(queue):
            self.bindings.unbind(exchange, key, queue, arguments)
        self.purge(queue)
        if self.facts(queue) is not None:
            _unlink(self._queue_file(queue))
        self._lines.pop(queue, None)
        self._doubtful.pop(queue, None)

    def queues(self) -> list[dict[str, Any]]:
        """Return what there is to know of each queue, by name; for people."""
        found: dict[str, dict[str, Any]] = {}

        def of(name: str) -> dict[str, Any]:
            return found.setdefault(
                name, {'name': name, 'ready': 0, 'unacked': 0, 'delayed': 0, 'oldest': None}
            )

        now = time.time()
        for file in os.listdir(self._queues):
            if not file.startswith('.'):
                name = file.removesuffix('.json')
                limits = QueueLimits.of((self.facts(name) or {}).get('arguments'))
                of(name)['dead_letters'] = limits.dead_exchange or limits.dead_key
        places = [(self.folders.into, 'ready'), *((each, 'delayed') for each in self._delayed)]
        places += [(path.join(self._claimed, each), 'unacked') for each in os.listdir(self._claimed)]
        for folder, kind in places:
            for file in _listed(folder):
                queue = names.queue_of(file.partition('~')[2] if kind == 'delayed' else file)
                if queue is not None:
                    facts = of(queue)
                    facts[kind] += 1
                    written = _written(path.join(folder, file))
                    if written is not None:
                        facts['oldest'] = max(facts['oldest'] or 0.0, now - written)
        return [found[name] for name in sorted(found)]

    # ---- now and then

    def sweep(self) -> None:
        """Give back what dead owners hold, release what is due, and delete queues that nobody uses."""
        for name in os.listdir(self._claimed):
            if gone(self._owners, name):
                logger.warning(
                    '%s: a process is gone; what it held goes back to the queues', self.folders.into
                )
                self._empty(path.join(self._claimed, name))
                self._drop_exclusive(name)
        self._read_news()
        self.release_due()
        self._expire_queues()
        now = time.monotonic()
        for queue, line in list(self._lines.items()):
            if now - line.used > UNUSED:
                del self._lines[queue]
                self._doubtful.pop(queue, None)
        for name in os.listdir(self.writer.aside):
            file = path.join(self.writer.aside, name)
            if time.time() - (_written(file) or time.time()) > FORGOTTEN:
                _unlink(file)

    def _empty(self, folder: str) -> None:
        for name in sorted(_listed(folder)):
            self._return(folder, name, counted=True)
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            pass  # another one swept at the same time

    def _drop_exclusive(self, owner: str) -> None:
        for file in os.listdir(self._queues):
            queue = file.removesuffix('.json')
            if (self.facts(queue) or {}).get('owner') == owner:
                self.delete(queue)

    def _expire_queues(self) -> None:
        now, alive = time.time(), time.monotonic()
        for file in os.listdir(self._queues):
            queue = file.removesuffix('.json')
            facts = self.facts(queue)
            expires = QueueLimits.of((facts or {}).get('arguments')).expires
            if facts is None or expires is None:
                continue
            line = self._lines.get(queue)
            marker = self._queue_file(queue)
            if line is not None and alive - line.used < expires:
                os.utime(marker)
            elif now - (_written(marker) or now) > expires:
                logger.info('queue %r was not used for so long that it has expired', queue)
                self.delete(queue)


def _unlink(file: str) -> bool:
    try:
        os.unlink(file)
    except FileNotFoundError:
        return False  # somebody else has removed it
    return True


def _written(file: str) -> float | None:
    try:
        return os.stat(file).st_mtime
    except FileNotFoundError:
        return None


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
