"""The doors that stand outside a program: ``greenmq run``, and the marker of ``greenmq kombu on``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import NoReturn

from greenmq import runtime
from greenmq.exceptions import InvalidArgument
from greenmq_as_kombu import MARKER, VARIABLE, marker, site_folders

__all__ = ('NotProcessed', 'interpreter_of', 'run', 'startup_folder', 'switch_off', 'switch_on')

STARTUP = 'greenmq-as-kombu.pth'

#: What a child says when the .pth did its work.
_CHECK = 'import sys; print(any(type(each).__module__ == "greenmq_as_kombu" for each in sys.meta_path))'
_CHECK_SECONDS = 30


class NotProcessed(RuntimeError):
    """The interpreter does not read greenmq's .pth, so that the variable would do nothing."""


def run(command: Sequence[str], verbose: bool = False) -> NoReturn:
    """Replace this process by a command in which greenmq stands in kombu's place.

    Arguments:
        command (Sequence[str]): the program, looked up in PATH, and its arguments.
        verbose (bool): the command, and what it starts, write each replaced module to stderr.
    Raises:
        InvalidArgument: there is no such program.
        NotProcessed: its interpreter would not switch: greenmq is not installed there, or only unpacked.
    Switches: no; blocks for the start of one interpreter.
    """
    program = shutil.which(command[0]) if command else None
    if program is None:
        raise InvalidArgument('command', command[0] if command else '', 'is no program that can be run')
    environment = {**os.environ, VARIABLE: 'verbose' if verbose else '1'}
    python = interpreter_of(program)
    code, told = runtime.output_of([python, '-c', _CHECK], environment, _CHECK_SECONDS)
    if code != 0 or told.strip() != 'True':
        raise NotProcessed(
            f'{python} does not process {STARTUP}: greenmq must be installed into its site-packages by pip '
            '(not with --target, not in a zip file, no -S); greenmq.alias.install() works without')
    sys.stdout.flush()
    os.execve(program, list(command), environment)


def interpreter_of(program: str) -> str:
    """The Python that runs a program: itself, the one its first line names, or ours for whatever else."""
    if os.path.basename(program).startswith('python'):
        return program
    with open(program, 'rb') as file:
        first = file.readline(512).decode(errors='replace')
        if first.startswith('#!/bin/sh'):  # pip writes so for long paths: '''exec' PATH "$0" "$@"
            second = file.readline(4096).decode(errors='replace')
            first = '#!' + second.partition("exec' ")[2].partition(' "$0"')[0]
    words = first.removeprefix('#!').strip().strip('"').split()
    if not first.startswith('#!') or not words:
        return sys.executable
    if os.path.basename(words[0]) == 'env':
        words = words[1:]
    found = shutil.which(words[0]) if words else None
    return found if found is not None and 'python' in os.path.basename(found) else sys.executable


def startup_folder() -> str:
    """The folder of site-packages that holds greenmq's .pth.

    Raises:
        NotProcessed: none that this interpreter reads does.
    """
    for folder in site_folders():
        if os.path.exists(os.path.join(folder, STARTUP)):
            return folder
    where = ', '.join(site_folders()) or 'any site-packages'
    raise NotProcessed(f'no {STARTUP} in {where}: install greenmq by pip')


def switch_on() -> str:
    """Leave the marker: every process of this interpreter has greenmq in kombu's place. Returns its path."""
    path = os.path.join(startup_folder(), MARKER)
    with open(path, 'w', encoding='utf-8') as file:
        file.write('greenmq stands in kombu\'s place; `greenmq kombu off`, or removing this file, ends it.\n')
    return path


def switch_off() -> str | None:
    """Remove the marker. Returns its path; None if there was none."""
    path = marker()
    if path is not None:
        os.unlink(path)
    return path
