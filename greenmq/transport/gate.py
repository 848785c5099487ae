"""Turns at a file that several processes write: who asks first comes first, nearly.

One lock is not enough: who frees it and wants it again has it before the one that was woken for it runs. So
there are two. Who holds the *turn* is the next one, and waits alone for the *gate*: nobody passes it, nor
does who leaves the gate. All others wait for the turn. Linux wakes all of them, in the order in which they
came, and the first to run has it.

The kernel frees both when a process dies.
"""

from __future__ import annotations

import fcntl
import os

__all__ = ('Gate',)


class Gate:
    """The two locks of one file, for one native thread at a time: `with` it is our turn.

    They are opened at the first one.

    Arguments:
        file (str): what is written. The locks lie beside it, as ``<file>.gate`` and ``<file>.turn``.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._turn = self._gate = -1

    def __enter__(self) -> None:
        """Wait for our turn, and have the file for ourselves until `__exit__`.

        Raises:
            OSError: the locks can't be made.
        Blocks the native thread.
        """
        if self._gate < 0:
            how = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._turn = os.open(f'{self._file}.turn', how, 0o600)
            self._gate = os.open(f'{self._file}.gate', how, 0o600)
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._gate, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def __exit__(self, *exc: object) -> None:
        """Let the next one have it."""
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close them; also in a forked child, where they are the parent's."""
        for descriptor in (self._turn, self._gate):
            if descriptor >= 0:
                os.close(descriptor)
        self._turn = self._gate = -1
