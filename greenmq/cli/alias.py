"""``greenmq run`` and ``greenmq kombu``: greenmq in the place of kombu, for one command or for all."""

from __future__ import annotations

import os
from typing import NoReturn

import click

from greenmq import alias
from greenmq.alias import doors
from greenmq_as_kombu import VARIABLE, marker


@click.command(context_settings={'ignore_unknown_options': True, 'allow_interspersed_args': False})
@click.option('-v', '--verbose', is_flag=True, help='Write each module that is replaced to stderr.')
@click.argument('command', nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...], verbose: bool) -> NoReturn:
    """Run COMMAND with greenmq in kombu's place.

    It and every process that it starts get GREENMQ_AS_KOMBU=1: what they import as kombu is greenmq.
    """
    try:
        doors.run(command, verbose)
    except (doors.NotProcessed, OSError) as exc:
        raise click.ClickException(str(exc)) from exc


@click.command()
@click.argument('switch', type=click.Choice(['on', 'off', 'status']))
def kombu(switch: str) -> int:
    """Put greenmq in kombu's place for every process of this Python, end that, or say how it stands.

    A marker beside greenmq's files in site-packages keeps it. GREENMQ_AS_KOMBU=0 overrules it for a process.
    """
    try:
        if switch == 'on':
            click.echo(f'on: {doors.switch_on()}')
        elif switch == 'off':
            path = doors.switch_off()
            click.echo('off: there was no marker' if path is None else f'off: removed {path}')
            if os.environ.get(VARIABLE):
                click.echo(f'but {VARIABLE}={os.environ[VARIABLE]} is set here')
        else:
            click.echo('\n'.join(_status()))
    except (doors.NotProcessed, OSError) as exc:
        raise click.ClickException(str(exc)) from exc
    return 0


def _status() -> list[str]:
    by = alias.door()
    return [
        f'in this process: {"off" if by is None else f"on, by {by}"}',
        f'variable {VARIABLE}: {os.environ.get(VARIABLE, "not set")}',
        f'marker: {marker() or "none"}',
        f'read at start: {os.path.join(doors.startup_folder(), doors.STARTUP)}',
    ]
