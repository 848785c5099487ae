"""What a command says on standard error when something is wrong: one line, without any URL's password."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from greenmq.utils.url import hide_passwords, maybe_sanitize_url

__all__ = ('complain',)


def complain(name: str, what: object, arguments: Sequence[str] = ()) -> None:
    """Write a line to standard error.

    Arguments:
        name (str): of the command.
        what (object): its text is put into one line.
        arguments (Sequence[str]): of the command line. What click quotes of them is masked whole: a password
            with a space in it, or a URL without its scheme, is found in no text.
    """
    line = f'{name}: {what}'
    for given, shown in _secrets(arguments):
        line = line.replace(given, shown).replace(repr(given)[1:-1], shown)
    click.echo(hide_passwords(' '.join(line.split())), err=True)


def _secrets(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for argument in arguments:
        # `--option=value`, where the option is one that nobody knows.
        for given in (argument.partition('=')[2], argument) if argument.startswith('-') else (argument,):
            shown = maybe_sanitize_url(given)
            if shown != given:
                yield given, shown
