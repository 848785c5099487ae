"""Which files came and went in folders, told by the system (inotify); elsewhere folders must be listed."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys

__all__ = ('Watch', 'start')

_CLOSE_WRITE, _MOVED_TO, _DELETE_SELF, _MOVE_SELF = 0x8, 0x80, 0x400, 0x800
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ONLYDIR = 0x01000000
_EVENT = struct.Struct('iIII')
_READ = 64 * 1024


class Watch:
    """The system's word on some folders, by a descriptor that can be waited for.

    Arguments:
        library (ctypes.CDLL): of C.
        descriptor (int): of inotify, non-blocking.
    """

    def __init__(self, library: ctypes.CDLL, descriptor: int) -> None:
        self.descriptor = descriptor
        self._library = library
        self._folders: dict[int, str] = {}

    def add(self, folder: str) -> None:
        """Watch a folder, too.

        Raises:
            OSError: it is not there, or the system watches enough.
        """
        mask = _CLOSE_WRITE | _MOVED_TO | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
        number = self._library.inotify_add_watch(self.descriptor, os.fsencode(folder), ctypes.c_uint32(mask))
        if number < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), folder)
        self._folders[number] = folder

    def read(self) -> tuple[list[tuple[str, str]], bool, bool]:
        """Read what was told; the descriptor is ready.

        Returns:
            tuple[list[tuple[str, str]], bool, bool]: folder and name of each file that is there and whole as
                far as its writer goes; whether some could not be told; whether a folder is gone.
        """
        came: list[tuple[str, str]] = []
        missed = gone = False
        # Once: what is left makes the descriptor ready again, and eventlet's `os.read` would wait for more.
        data = os.read(self.descriptor, _READ)
        at = 0
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            name = os.fsdecode(data[at : at + length].rstrip(b'\0'))
            at += length
            if mask & _OVERFLOW:
                missed = True
            elif mask & (_DELETE_SELF | _MOVE_SELF | _IGNORED):
                gone = True
            elif number in self._folders:
                came.append((self._folders[number], name))
        return came, missed, gone

    def close(self) -> None:
        """Watch no more."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def start() -> Watch | None:
    """Return a watch of no folder yet; None if the system has no inotify, or none left."""
    if not sys.platform.startswith('linux'):
        return None
    library = _library()
    if not hasattr(library, 'inotify_init1'):
        return None
    descriptor = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    return Watch(library, descriptor) if descriptor >= 0 else None


@functools.cache  # each is in cycles with its functions, so one for each watch would wait for the collector
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
