"""``greenmq pyro-broker``: the daemon of ``pyro://``."""

from __future__ import annotations

import click

from greenmq.cli.interrupt import Interrupts
from greenmq.cli.session import in_task
from greenmq.worker import logs


@click.command('pyro-broker')
@click.option('--host', default='127.0.0.1', show_default=True,
              help='Address to listen on. Whoever reaches it may read and delete all messages.')
@click.option('--port', default=9090, show_default=True, type=click.IntRange(0, 65535),
              help='Port to listen on; 0 takes a free one.')
@click.option('--store', metavar='DIR', default=None, type=click.Path(file_okay=False),
              help='Folder to keep the queues in: nothing is lost when the daemon is killed. Without it they '
                   'live as long as the daemon.')
@click.pass_obj
def pyro_broker(interrupts: Interrupts, host: str, port: int, store: str | None) -> int:
    """Be the broker of pyro:// URLs, and of whatever else speaks Pyro5.

    Its object is called greenmq.broker, and kombu.broker too. Prints where it listens. Ends with Ctrl-C.
    """
    logs.set_up('info', 'plain')
    try:
        from greenmq.transport.pyro.broker import Broker
    except ImportError as exc:
        raise click.ClickException(str(exc)) from exc
    try:
        broker = Broker(host, port, store)
    except OSError as exc:
        raise click.ClickException(f'{host}:{port}: {exc.strerror or exc}') from exc
    click.echo(f'listening on {broker.address[0]}:{broker.address[1]}')
    in_task(broker.serve, interrupts)
    return 0
