"""The commands and their options, and what each error comes out as: one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

import greenmq
from greenmq import runtime
from greenmq.cli import corpus as texts
from greenmq.cli.alias import kombu
from greenmq.cli.alias import run as run_command
from greenmq.cli.broker import BROKER_ERRORS, broker_option
from greenmq.cli.complaint import complain
from greenmq.cli.consume import consume
from greenmq.cli.demo import Demo
from greenmq.cli.interrupt import INTERRUPTED, Interrupts
from greenmq.cli.looking import doctor, ping, queues
from greenmq.cli.move import move
from greenmq.cli.publish import publish
from greenmq.cli.pyro import pyro_broker
from greenmq.cli.report import differences, report
from greenmq.cli.session import Bar, in_task
from greenmq.cli.worker import worker
from greenmq.exceptions import InvalidArgument, UnknownOption

FAILED, MISUSED = 1, 2


@click.group(context_settings={'help_option_names': ['-h', '--help'], 'max_content_width': 100})
@click.version_option(greenmq.__version__, prog_name='greenmq')
def greenmq_command() -> None:
    """Messaging for greenlets: see it work, or move messages from a shell."""


@greenmq_command.command()
@click.argument('paths', nargs=-1, metavar='[PATH]...', type=click.Path(exists=True, path_type=Path))
@broker_option(required=False)
@click.option('--producers', default=4, show_default=True, type=click.IntRange(1, 10_000),
              help='Greenlets that publish.')
@click.option('--consumers', default=4, show_default=True, type=click.IntRange(1, 1_000),
              help='Consumers that count.')
@click.option('--seconds', default=60.0, show_default=True, type=click.FloatRange(min=0),
              help='Publish no further line after so long: some services take one message a call.')
@click.pass_obj
def demo(interrupts: Interrupts, paths: tuple[Path, ...], broker: str, producers: int, consumers: int,
         seconds: float) -> int:
    """Count the words of all texts below PATH by way of a broker.

    Each line is a message. Producers publish it, consumers count its words and send the result to a reply
    queue. At the end the totals are held against a direct count. Without PATH the package reads its own
    sources.
    """
    corpus = texts.read(paths or [Path(greenmq.__file__).parent])
    if not corpus.lines:
        raise click.ClickException(f'no text in {", ".join(map(str, paths))}: nothing to publish')
    Bar.set_lock(runtime.RLock())
    with Bar(total=corpus.lines, unit=' lines', disable=None, leave=False, file=sys.stderr) as bar:
        run = Demo(broker, corpus, producers, consumers, seconds, bar.update)
        tally = in_task(run.run, interrupts)
    corpus = corpus.first(tally.lines)
    click.echo(report(corpus, tally))
    if tally.words == corpus.words:
        return 0
    raise click.ClickException(differences(corpus, tally))


greenmq_command.add_command(publish)
greenmq_command.add_command(consume)
greenmq_command.add_command(move)
for command in (worker, queues, ping, doctor, run_command, kombu, pyro_broker):
    greenmq_command.add_command(command)


def run(arguments: Sequence[str], interrupts: Interrupts | None = None) -> int:
    """Run one command.

    Arguments:
        arguments (Sequence[str]): without the program's name.
        interrupts (Interrupts): who knows of Ctrl-C; a new one knows of none.
    Returns:
        int: the exit code: 0, 1 did not work out, 2 asked for wrongly, 130 interrupted.
    Switches: yes.
    """
    def failed(name: str, what: str, code: int) -> int:
        complain(name, what, arguments)
        return code

    name = 'greenmq'
    given = list(arguments) or ['--help']
    try:
        with greenmq_command.make_context(name, given, obj=interrupts or Interrupts()) as context:
            name = ' '.join([name, *arguments[:1]])
            return greenmq_command.invoke(context) or 0
    except click.exceptions.Exit as exc:                    # --help and --version
        return exc.exit_code
    except click.UsageError as exc:
        return failed(_command(exc.ctx, name), f'{exc.format_message()} (see --help)', MISUSED)
    except (InvalidArgument, UnknownOption) as exc:
        return failed(name, str(exc), MISUSED)
    except click.ClickException as exc:
        return failed(name, exc.format_message(), FAILED)
    except BrokenPipeError:
        # Whoever read our output has gone; let nothing more go there, not even when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except BROKER_ERRORS as exc:
        return failed(name, f'{type(exc).__name__}: {exc}', FAILED)
    except (KeyboardInterrupt, click.Abort):
        click.echo(err=True)                                # the line that ^C stands on
        return INTERRUPTED


def _command(context: click.Context | None, otherwise: str) -> str:
    return context.command_path if context is not None else otherwise
