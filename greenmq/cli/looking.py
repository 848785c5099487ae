"""``greenmq ping``, ``queues`` and ``doctor``: a look at a broker, and at ourselves, that changes nothing."""

from __future__ import annotations

from typing import Any

import click

from greenmq import Connection, runtime
from greenmq.cli.broker import broker_option, opened
from greenmq.cli.interrupt import Interrupts
from greenmq.cli.session import in_task
from greenmq.diagnosis import doctor as diagnose
from greenmq.diagnosis import server_name
from greenmq.exceptions import ChannelError


@click.command()
@broker_option(required=False)
@click.option('--count', default=3, show_default=True, type=click.IntRange(1, 10_000), help='Round trips.')
@click.pass_obj
def ping(interrupts: Interrupts, broker: str, count: int) -> int:
    """Connect to the broker, and say how long it takes to answer."""
    def work() -> None:
        started = runtime.monotonic()
        with opened(broker) as connection:
            _tell(connection.as_uri(), server_name(connection), 'connected in', runtime.monotonic() - started)
            for _ in range(count):
                _tell('round trip', connection.ping())

    in_task(work, interrupts)
    return 0


def _tell(*words: str | float) -> None:
    click.echo(' '.join(f'{1000 * word:.2f} ms' if isinstance(word, float) else word for word in words))


@click.command()
@click.argument('names', nargs=-1, metavar='[NAME]...')
@broker_option(required=False)
@click.pass_obj
def queues(interrupts: Interrupts, names: tuple[str, ...], broker: str) -> int:
    """Print how many messages and consumers each queue has.

    Without NAME: all queues, where the broker can list them. RabbitMQ does not over AMQP.
    """
    def work() -> list[str]:
        with opened(broker) as connection:
            wanted = names or _all_names(connection)
            width = max(map(len, wanted), default=0)
            return _counted(connection, wanted, width)

    missing = in_task(work, interrupts)
    if missing:
        raise click.ClickException(f'no such queue: {", ".join(missing)}')
    return 0


def _counted(connection: Connection, names: Any, width: int) -> list[str]:
    missing = []
    for name in names:
        channel = connection.channel()  # one each: a queue that is missing closes it
        try:
            answer = channel.queue_declare(queue=name, passive=True)
        except ChannelError:
            missing.append(name)
        else:
            messages, consumers = answer.message_count, answer.consumer_count
            click.echo(f'{name:<{width}}  {messages:>9,} messages  {consumers:>5,} consumers')
        connection.maybe_close_channel(channel)
    return missing


def _all_names(connection: Connection) -> list[str]:
    try:
        found = connection.get_manager().get_queues()
    except (NotImplementedError, ImportError, AttributeError) as exc:
        raise click.UsageError(f'{connection.as_uri()} does not list its queues: name them') from exc
    return sorted({queue if isinstance(queue, str) else queue['name'] for queue in found})


@click.command()
@click.option('--broker', metavar='URL', envvar='GREENMQ_BROKER', show_envvar=True, default=None,
              help='A broker to reach for as well.')
@click.pass_obj
def doctor(interrupts: Interrupts, broker: str | None) -> int:
    """Say what is installed and patched, which drivers would block, and whether the broker answers."""
    diagnosis = in_task(lambda: diagnose(broker), interrupts)
    click.echo(str(diagnosis))
    return 0 if diagnosis else 1
