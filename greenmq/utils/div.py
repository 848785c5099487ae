"""What is left to do when all else fails."""

from __future__ import annotations

import builtins
import pickle
import sys
from collections.abc import Callable
from typing import IO, Any


def emergency_dump_state(
    state: Any,
    open_file: Callable[..., Any] = builtins.open,
    dump: Callable[..., Any] | None = None,
    stderr: IO[str] | None = None,
) -> str:
    """Write messages that could not be given back to the broker to a new file, and say so on stderr.

    Arguments:
        state (object): pickled, or pretty-printed if that fails.
        open_file (Callable): opens the file for writing.
        dump (Callable): writes the state, called as `pickle.dump` is.
        stderr (file): where to say it; default `sys.stderr`.
    Returns:
        str: the path of the file.
    Switches: no.
    Source: kombu.utils.div.emergency_dump_state.
    """
    # Imported here: an emergency is no part of starting up.
    from pprint import pformat
    from tempfile import mkstemp

    report = sys.stderr if stderr is None else stderr
    handle, path = mkstemp()
    print(f'EMERGENCY DUMP STATE TO FILE -> {path} <-', file=report)
    with open_file(handle, 'wb') as target:
        try:
            (dump or pickle.dump)(state, target, protocol=0)
        except Exception as exc:  # whatever it is, the messages must be saved somehow
            print(f'Cannot pickle state: {exc!r}. Fallback to pformat.', file=report)
            target.seek(0)
            target.truncate()
            target.write(pformat(state).encode('utf-8', 'backslashreplace'))
    return path
