"""Child processes: forked by the interpreter's own call, and looked at without waiting."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from greenmq.runtime.seam import library

__all__ = ('exit_code', 'fork_child', 'output_of')


def fork_child() -> int:
    """Fork the process; what happens in the child first is said in `runtime.fork`.

    A patched `os.fork` would have the hub wait for the child and take its exit code away from `exit_code`.

    Returns:
        int: the child's pid; 0 in the child.
    Source: os.fork.
    """
    return int(library.original('os', 'fork')())


def exit_code(pid: int) -> int | None:
    """Look whether a child has ended, and let the system forget it then.

    Returns:
        int | None: its exit code, negative for the signal that killed it; None while it runs.
    Raises:
        ChildProcessError: it is no child of this process, or was forgotten already.
    Source: os.waitpid.
    """
    found, status = library.original('os', 'waitpid')(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def output_of(command: Sequence[str], environment: Mapping[str, str], timeout: float) -> tuple[int, str]:
    """Run a short program to its end; for command lines that have nothing else to do meanwhile.

    Arguments:
        command (Sequence[str]): the program's path and its arguments.
        environment (Mapping[str, str]): all of it.
        timeout (float): seconds; then it is killed.
    Returns:
        tuple[int, str]: its exit code, and what it wrote to stdout. What it writes to stderr goes to ours.
    Raises:
        OSError: it cannot be started.
        TimeoutError: it did not end in time.
    Switches: no, it blocks the thread.
    Source: subprocess.run.
    """
    try:
        done = subprocess.run(command, env=environment, timeout=timeout, stdout=subprocess.PIPE, text=True,
                              stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f'{command[0]} did not end within {timeout} s') from None
    return done.returncode, done.stdout
