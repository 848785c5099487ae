"""Child processes: forked by the interpreter's own call, and looked at without waiting."""

from __future__ import annotations

import os

from greenmq.runtime.seam import library

__all__ = ('exit_code', 'fork_child')


def fork_child() -> int:
    """Fork the process; what happens in the child first is said in `runtime.fork`.

    A patched `os.fork` would have the hub wait for the child and take its exit code away from `exit_code`.

    Returns:
        int: the child's pid; 0 in the child.
    Switches: no.
    Source: os.fork.
    """
    return int(library.original('os', 'fork')())


def exit_code(pid: int) -> int | None:
    """Look whether a child has ended, and let the system forget it then.

    Returns:
        int | None: its exit code, negative for the signal that killed it; None while it runs.
    Raises:
        ChildProcessError: it is no child of this process, or was forgotten already.
    Switches: no.
    Source: os.waitpid.
    """
    found, status = library.original('os', 'waitpid')(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None
