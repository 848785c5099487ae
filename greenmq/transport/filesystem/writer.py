"""Putting messages: each file is written aside, and moved to its name when it is whole and on the disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from os import path
from typing import NamedTuple

from greenmq.exceptions import InvalidArgument
from greenmq.transport.filesystem import names

__all__ = ('OURS', 'Folders', 'Writer')

#: The folder, in each of kombu's, of what kombu does not know. Its listings pass over it.
OURS = '.greenmq'
_START_WRITING = getattr(os, 'POSIX_FADV_DONTNEED', None)


class Folders(NamedTuple):
    """Where everything is.

    Attributes:
        into (str): kombu's data_folder_in: taken from.
        out (str): data_folder_out: put into.
        control (str): the bindings.
        processed (str | None): where messages go that are done; None: they are removed.
        mode (int): permissions of folders that are made; files get them without the right to execute.
        durable (bool): a put returns when its messages are on the disk.
    """

    into: str
    out: str
    control: str
    processed: str | None
    mode: int
    durable: bool


class Writer:
    """Puts messages into the folder that messages are put into.

    Attributes:
        aside (str), delayed (str): where files are written, and where those lie that may not be taken yet.
        namer (Namer): makes their names.
        syncs (int): how often something was written to the disk.
        placed (list[str]): the files of the last put.
    """

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.aside = path.join(folders.out, OURS, 'tmp')
        self.delayed = path.join(folders.out, OURS, 'delayed')
        self.namer = names.Namer()
        self.syncs = 0
        self.placed: list[str] = []

    def put(self, items: Sequence[tuple[str, bytes, int, float | None]]) -> list[Exception | None]:
        """Put messages, each (queue, payload, priority, due in seconds since 1970).

        Returns:
            list[Exception | None]: what each met: a queue whose name cannot be.
        """
        self.placed = []
        outcomes: list[Exception | None] = []
        written: list[tuple[str, str, int]] = []
        delayed = False
        folder, durable = self.folders.out, self.folders.durable
        try:
            for queue, payload, priority, due in items:
                try:
                    names.check_queue(queue)
                except InvalidArgument as error:
                    outcomes.append(error)
                    continue
                name = self.namer.name(queue, priority)
                place = path.join(folder, name)
                if due is not None:
                    place, delayed = path.join(self.delayed, f'{int(due * 1000)}~{name}'), True
                aside = path.join(self.aside, name)
                written.append((aside, place, self.write(aside, payload)))
                outcomes.append(None)
            if durable and _START_WRITING is not None and len(written) > 1:
                # All on their way before the first is waited for: the disk's journal is then written once and
                # not once a file.
                for _, _, descriptor in written:
                    os.posix_fadvise(descriptor, 0, 0, _START_WRITING)
            for number, (aside, place, descriptor) in enumerate(written):
                if durable:
                    os.fdatasync(descriptor)
                    self.syncs += 1
                os.close(descriptor)
                written[number] = (aside, place, -1)
            for number, (aside, place, _) in enumerate(written):
                os.rename(aside, place)
                written[number] = ('', place, -1)
        except BaseException:
            for aside, _, descriptor in written:
                if descriptor >= 0:
                    os.close(descriptor)
                if aside:
                    os.unlink(aside)
            raise
        self.placed = [place for _, place, _ in written]
        if durable and written:
            self._sync(folder)
            if delayed:
                self._sync(self.delayed)
        return outcomes

    def write(self, file: str, payload: bytes) -> int:
        """Write a new file, and return its open descriptor."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(file, flags, self.folders.mode & 0o666)
        try:
            view = memoryview(payload)
            while view:
                view = view[os.write(descriptor, view) :]
        except BaseException:
            os.close(descriptor)
            os.unlink(file)
            raise
        return descriptor

    def _sync(self, folder: str) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            self.syncs += 1
        finally:
            os.close(descriptor)
