"""What is left to do when all else fails."""

from __future__ import annotations

import builtins
import logging
import pickle
from collections.abc import Callable
from typing import IO, Any

logger = logging.getLogger('greenmq.utils')


def emergency_dump_state(
    state: Any,
    open_file: Callable[..., Any] = builtins.open,
    dump: Callable[..., Any] | None = None,
    stderr: IO[str] | None = None,
) -> str:
    """Write messages that could not be given back to the broker to a new file, and say so.

    Arguments:
        state (object): pickled, or pretty-printed if that fails.
        open_file (Callable): opens the file for writing.
        dump (Callable): writes the state, called as `pickle.dump` is.
        stderr (file): where to say it; default: the log, where nothing else shows it on stderr.
    Returns:
        str: the path of the file.
    Switches: no.
    Source: kombu.utils.div.emergency_dump_state.
    """
    # Imported here: an emergency is no part of starting up.
    from pprint import pformat
    from tempfile import mkstemp

    def report(text: str) -> None:
        if stderr is None:
            logger.critical(text)
        else:
            print(text, file=stderr)

    handle, path = mkstemp()
    report(f'EMERGENCY DUMP STATE TO FILE -> {path} <-')
    with open_file(handle, 'wb') as target:
        try:
            (dump or pickle.dump)(state, target, protocol=0)
        except Exception as exc:  # whatever it is, the messages must be saved somehow
            report(f'Cannot pickle state. Falling back to pformat. {exc!r}')
            target.seek(0)
            target.truncate()
            text = pformat(state)
            try:
                target.write(text.encode('utf-8', 'backslashreplace'))
            except TypeError:
                target.write(text)  # `open_file` opened it for text
    return path
