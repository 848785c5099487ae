"""The ``greenmq`` command: a demo, and one message or many in and out of any broker from a shell.

Nothing is loaded before ``main`` runs, and Ctrl-C is in hand before anything else is.
"""

from __future__ import annotations

import sys
import warnings

from greenmq.cli.interrupt import INTERRUPTED, Interrupts

__all__ = ('main',)


def main() -> None:
    """Run the command line of this process and end it.

    Raises:
        SystemExit: always; 0 done, 1 it did not work out, 2 it was asked for wrongly, 130 Ctrl-C.
    Switches: yes.
    """
    interrupts = Interrupts()
    interrupts.install()
    warnings.formatwarning = _in_one_line
    code = INTERRUPTED
    try:
        from greenmq.cli.commands import run

        code = run(sys.argv[1:], interrupts)
        interrupts.ignore()
    except KeyboardInterrupt:
        interrupts.ignore()
    sys.exit(code)


def _in_one_line(message: Warning | str, category: type[Warning], filename: str, lineno: int,
                 line: str | None = None) -> str:
    # Who typed a command has no use for the line of our code that has doubts about it.
    return f'greenmq: {message}\n'
