"""A broker's URL from the command line: opened, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from greenmq import Connection
from greenmq.exceptions import ChannelError, ConnectionError, KombuError, OperationalError

F = TypeVar('F', bound=Callable[..., Any])

# What a broker, or the way to it, may do to us; everything else is a bug and keeps its traceback.
BROKER_ERRORS = (KombuError, ConnectionError, ChannelError, OSError)


def broker_option(required: bool) -> Callable[[F], F]:
    """The option every command has; where it is not required, the broker inside the process will do."""
    need: dict[str, Any] = {'required': True} if required else {'default': 'memory://', 'show_default': True}
    return click.option('--broker', metavar='URL', envvar='GREENMQ_BROKER', show_envvar=True, **need,
                        help='Where the broker is, as in amqp://user:password@host:5672/vhost.')


@contextmanager
def opened(url: str) -> Iterator[Connection]:
    """An open connection to the broker, closed at the end.

    Raises:
        UsageError: no such transport, or no such option.
        ClickException: the broker does not answer.
    Switches: yes.
    """
    connection = checked(url)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
    except OperationalError as exc:
        connection.release()
        raise click.ClickException(f'{connection.as_uri()} cannot be reached: {exc}') from exc
    with connection:
        yield connection


def checked(url: str) -> Connection:
    """A connection to the broker, not opened.

    Raises:
        UsageError: no such transport, or no such option.
    """
    if not url.strip():
        raise click.UsageError('the URL of the broker is empty')
    try:
        connection = Connection(url)
        _ = connection.transport                # looked at: this is where an unknown one is refused
    except (KeyError, ValueError, ImportError) as exc:
        # str() of a KeyError is the repr of its text.
        text = str(exc.args[0]) if isinstance(exc, KeyError) and exc.args else str(exc)
        raise click.UsageError(text) from exc
    return connection
