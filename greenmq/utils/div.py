"""What is left to do when all else fails."""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
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
        open_file (Callable): opens a path for writing; called with path and mode. It need not be a file that
            can seek.
        dump (Callable): writes the state, called as `pickle.dump` is. The file is opened for text then,
            unless `open_file` does otherwise.
        stderr (file): where to say it; default: the log, where nothing else shows it on stderr.
    Returns:
        str: the path of the file.
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
    os.close(handle)
    report(f'EMERGENCY DUMP STATE TO FILE -> {path} <-')
    target = open_file(path, 'wb' if dump is None else 'w')
    try:
        try:
            (dump or pickle.dump)(state, target, protocol=0)
        except Exception as exc:  # whatever it is, the messages must be saved somehow
            report(f'Cannot pickle state. Falling back to pformat. {exc!r}')
            _rewind(target)
            text = pformat(state)
            try:
                target.write(text.encode('utf-8', 'backslashreplace'))
            except TypeError:
                target.write(text)  # it was opened for text
    finally:
        target.close()
    return path


def _rewind(target: Any) -> None:
    try:
        target.seek(0)
        target.truncate()
    except (OSError, ValueError) as exc:  # the half that is written stays before the text
        logger.debug('what was written to %r before stays there: %r', target, exc)
        with contextlib.suppress(OSError, ValueError):  # a pipe is always at its end
            target.seek(0, os.SEEK_END)
