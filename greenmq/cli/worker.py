"""``greenmq worker``: a ConsumerMixin as a daemon."""

from __future__ import annotations

from functools import partial

import click

from greenmq import runtime
from greenmq.cli.broker import broker_option, checked
from greenmq.cli.complaint import complain
from greenmq.worker import logs
from greenmq.worker.loading import NotAWorker
from greenmq.worker.serving import Settings, serve
from greenmq.worker.supervision import Supervisor

LEVELS = ('debug', 'info', 'warning', 'error', 'critical')


class Address(click.ParamType):  # type: ignore[type-arg]  # not generic in older releases
    """HOST:PORT; a port alone is one of loopback."""

    name = 'HOST:PORT'

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """See `click.ParamType.convert`."""
        host, _, port = str(value).rpartition(':')
        if not port.isdigit() or int(port) > 65535:
            self.fail(f'{value!r} is not of the form HOST:PORT', param, ctx)
        return host.strip('[]') or '127.0.0.1', int(port)


@click.command()
@click.argument('target', metavar='MODULE:CLASS')
@broker_option(required=True)
@click.option('--concurrency', type=click.IntRange(1), default=None,
              help='Callbacks of one consumer that may run at once.  [default: as the class says]')
@click.option('--processes', type=click.IntRange(1, 256), default=1, show_default=True,
              help='Processes, forked and watched.')
@click.option('--drain-timeout', type=click.FloatRange(0), default=30.0, show_default=True,
              metavar='SECONDS', help='What callbacks may still take when the worker is told to end.')
@click.option('--log-level', type=click.Choice(LEVELS, case_sensitive=False), default='info',
              show_default=True)
@click.option('--log-format', type=click.Choice(logs.FORMATS), default='plain', show_default=True)
@click.option('--health', type=Address(), default=None,
              help='Serve /healthz, /readyz, /metrics and a page there; with several processes, each on a '
                   'port of its own, from this one on.')
def worker(target: str, broker: str, concurrency: int | None, processes: int, drain_timeout: float,
           log_level: str, log_format: str, health: tuple[str, int] | None) -> int:
    """Run CLASS of MODULE, a greenmq.mixins.ConsumerMixin, built as CLASS(connection).

    SIGTERM and SIGINT: stop consuming, finish what is in hand, give the rest back, end; a second one ends at
    once. SIGHUP: the same, and start anew. SIGQUIT: without waiting for callbacks.

    Exit codes: 0 ended in good order, 1 ended by an error, 2 asked for wrongly, 4 callbacks took longer than
    the drain timeout, 128+n ended at once by a second signal n.
    """
    logs.set_up(log_level, log_format)
    checked(broker)
    if health is not None:
        check_ports(health, processes)
    settings = Settings(target, broker, concurrency, drain_timeout, health)
    if processes > 1:
        return Supervisor(partial(_serve_numbered, settings), processes, drain_timeout, _complain).run()
    try:
        return serve(settings)
    except NotAWorker as exc:
        raise click.UsageError(str(exc)) from exc


def check_ports(address: tuple[str, int], processes: int) -> None:
    """See whether health can be served there, before anything is started that would only say so and end.

    Raises:
        UsageError: the last process would have a port above 65535.
        ClickException: somebody else listens there, or it is no address of ours.
    """
    host, first = address
    if first == 0:
        return
    if first + processes - 1 > 65535:
        raise click.UsageError(f'--health {host}:{first}: {processes} ports from there on, 65535 at most')
    for port in range(first, first + processes):
        reason = runtime.why_not_served(host, port)
        if reason is not None:
            raise click.ClickException(f'--health {host}:{port} cannot be served: {reason}')


def _serve_numbered(settings: Settings, number: int, supervisor: int) -> int:
    # In the child: it imports the class, so that a new one after SIGHUP has what is on the disk then.
    return serve(settings.numbered(number), supervisor)


def _complain(reason: str) -> None:
    complain('greenmq worker', f'{reason} (see --help)')
