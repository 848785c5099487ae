"""The bindings, in kombu's exchange files: ``<exchange>.exchange``, a JSON list of [key, pattern, queue].

They are written in place under kombu's lock, and not replaced: kombu opens a file before it waits for the
lock, so what it adds would go to a file that is not there any more. One write, filled up with blanks to the
old length, leaves no half text behind whoever is killed.

What kombu has no place for (the type of an exchange, arguments of bindings) is in ``.greenmq`` beside them.
"""

from __future__ import annotations

import fcntl
import os
import re
from json import JSONDecodeError, JSONDecoder, dumps, loads
from os import path
from typing import Any
from uuid import uuid4

from greenmq.exceptions import InvalidArgument

__all__ = ('Bindings', 'Busy')

_NAME = re.compile(r'\A[A-Za-z0-9._-]+\Z')
_SUFFIX = '.exchange'
_decoder = JSONDecoder()


class Busy(Exception):
    """Somebody else has the lock of a file just now."""


class Bindings:
    """The exchange files of one control folder.

    Arguments:
        folder (str): it exists, and so does ``.greenmq`` in it.
        mode (int): permissions of new files.
    """

    def __init__(self, folder: str, mode: int) -> None:
        self._folder = folder
        self._mode = mode & 0o666

    @staticmethod
    def exchange_of(name: str) -> str | None:
        """Return the exchange that a file is about; None if it is about none."""
        return name[: -len(_SUFFIX)] if name.endswith(_SUFFIX) else None

    def _file(self, exchange: str) -> str:
        if exchange and (not _NAME.match(exchange) or not exchange.strip('.')):
            raise InvalidArgument('exchange', exchange, "is more than letters, digits, '.', '_' and '-'")
        return path.join(self._folder, f'{exchange}{_SUFFIX}')

    def _more_file(self, exchange: str) -> str:
        return path.join(self._folder, '.greenmq', f'{exchange}.json')

    def read(self, exchange: str) -> list[tuple[str, str, str, Any]]:
        """Return (kind, routing key, queue, arguments) of each binding, the kind '' if it is not known.

        Raises:
            Busy: somebody writes just now.
        """
        try:
            file = self._file(exchange)
        except InvalidArgument:
            return []  # none of that name was ever bound
        entries = self._entries(file)
        more = self._more(exchange) if entries else {}
        found = []
        for key, pattern, queue in entries:
            kind = more.get('kind') or ('topic' if pattern else '')
            given = [each for at, name, each in more.get('arguments', ()) if (at, name) == (key, queue)]
            found += [(kind, key, queue, arguments) for arguments in given or [None]]
        return found

    def _entries(self, file: str) -> list[list[str]]:
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        try:
            _lock(descriptor, fcntl.LOCK_SH)
            return _parse(_contents(descriptor))
        finally:
            os.close(descriptor)

    def _more(self, exchange: str) -> dict[str, Any]:
        try:
            with open(self._more_file(exchange), encoding='utf-8') as file:
                more: dict[str, Any] = loads(file.read())
        except FileNotFoundError:
            return {}
        return more

    def bind(self, exchange: str, kind: str, key: str, pattern: str, queue: str, arguments: Any) -> None:
        """Keep a binding; it may be there already.

        Raises:
            Busy: somebody else writes just now; nothing was changed.
        """
        entry = [key, pattern, queue]

        def change(entries: list[list[str]]) -> list[list[str]]:
            # First what kombu does not read: who finds the entry finds also its type.
            more = self._more(exchange)
            given = [each for each in more.get('arguments', ()) if each[2]]
            if arguments and [key, queue, arguments] not in given:
                given.append([key, queue, arguments])
            fresh = {'kind': kind, 'arguments': given}
            if more != fresh:
                self._write_more(exchange, fresh)
            return entries if entry in entries else [entry, *entries]

        self._change(exchange, change, [entry])

    def unbind(self, exchange: str, key: str, queue: str, arguments: Any) -> None:
        """Forget a binding; none like it is fine.

        Raises:
            Busy: somebody else writes just now; nothing was changed.
        """

        def change(entries: list[list[str]]) -> list[list[str]]:
            more = self._more(exchange)
            given = more.get('arguments', [])
            left = [each for each in given if each != [key, queue, arguments]]
            if left != given:
                self._write_more(exchange, {**more, 'arguments': left})
            if any((at, name) == (key, queue) for at, name, _ in left):
                return entries  # the same queue and key with other arguments
            return [each for each in entries if (each[0], each[2]) != (key, queue)]

        self._change(exchange, change, None)

    def exchanges(self) -> list[str]:
        """Return the exchanges that have a file."""
        return [name[: -len(_SUFFIX)] for name in os.listdir(self._folder) if name.endswith(_SUFFIX)]

    def bound(self, queue: str) -> list[tuple[str, str, Any]]:
        """Return (exchange, routing key, arguments) of each binding of a queue."""
        return [
            (exchange, key, arguments)
            for exchange in self.exchanges()
            for _, key, name, arguments in self.read(exchange)
            if name == queue
        ]

    def _change(self, exchange: str, change: Any, first: list[list[str]] | None) -> None:
        file = self._file(exchange)
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if first is None:
                return
            # With its text from the beginning: kombu reads no empty file.
            change([])
            if self._create(file, dumps(first)):
                return
            descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            _lock(descriptor, fcntl.LOCK_EX)
            old = _contents(descriptor)
            entries = _parse(old)
            fresh = change(entries)
            if fresh != entries:
                text = dumps(fresh).encode()
                os.pwrite(descriptor, text.ljust(len(old)), 0)
                os.ftruncate(descriptor, len(text))
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def _create(self, file: str, text: str) -> bool:
        aside = self._aside(text)
        try:
            os.link(aside, file)
        except FileExistsError:
            return False
        finally:
            os.unlink(aside)
        return True

    def _write_more(self, exchange: str, more: dict[str, Any]) -> None:
        os.replace(self._aside(dumps(more, default=str)), self._more_file(exchange))

    def _aside(self, text: str) -> str:
        aside = path.join(self._folder, '.greenmq', f'.tmp-{uuid4().hex}')
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode)
        try:
            os.write(descriptor, text.encode())
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        return aside


def _lock(descriptor: int, how: int) -> None:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy('a binding file is locked by another process') from error


def _contents(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0)


def _parse(text: bytes) -> list[list[str]]:
    # kombu has left a second text behind the first one, and files that it had only opened.
    stripped = text.decode(errors='replace').lstrip()
    if not stripped:
        return []
    try:
        entries, _ = _decoder.raw_decode(stripped)
    except JSONDecodeError:
        return []
    return [[str(part or '') for part in entry[:3]] for entry in entries if len(entry) >= 3]
