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
    """Print how many messages each queue has, and on RabbitMQ how many consumers.

    Without NAME: all queues, where the broker can list them. RabbitMQ does not over AMQP.
    """
    def work() -> list[str]:
        with opened(broker) as connection:
            known = {} if names else _all_queues(connection)
            wanted = names or sorted(known)
            width = max(map(len, wanted), default=0)
            return _counted(connection, wanted, width, known)

    missing = in_task(work, interrupts)
    if missing:
        raise click.ClickException(f'no such queue: {", ".join(missing)}')
    return 0


def _counted(connection: Connection, names: Any, width: int, known: dict[str, Any]) -> list[str]:
    missing = []
    # The other brokers would tell of this process's consumers, and it has none.
    tells_consumers = connection.transport.driver_type == 'amqp'
    for name in names:
        channel = connection.channel()  # one each: a queue that is missing closes it
        try:
            answer = channel.queue_declare(queue=name, passive=True)
        except ChannelError:
            missing.append(name)
        else:
            consumers = f'  {answer.consumer_count:>5,} consumers' if tells_consumers else ''
            more = _more(known.get(name) or {})
            click.echo(f'{name:<{width}}  {answer.message_count:>9,} messages{consumers}{more}')
        connection.maybe_close_channel(channel)
    return missing


def _more(facts: Any) -> str:
    # What only some brokers tell, and of it only what is worth a look.
    parts = [f'  {facts[name]:,} {name}' for name in ('unacked', 'delayed') if facts.get(name)]
    if facts.get('oldest') is not None:
        parts.append(f'  oldest {facts["oldest"]:,.0f} s')
    if facts.get('dead_letters'):
        parts.append(f'  dead letters to {facts["dead_letters"]}')
    return ''.join(parts)


def _all_queues(connection: Connection) -> dict[str, Any]:
    try:
        found = connection.get_manager().get_queues()
    except (NotImplementedError, ImportError, AttributeError) as exc:
        raise click.UsageError(f'{connection.as_uri()} does not list its queues: name them') from exc
    every = [{'name': queue} if isinstance(queue, str) else queue for queue in found]
    return {queue['name']: queue for queue in every}


@click.command()
@click.option('--broker', metavar='URL', envvar='GREENMQ_BROKER', show_envvar=True, default=None,
              help='A broker to reach for as well.')
@click.pass_obj
def doctor(interrupts: Interrupts, broker: str | None) -> int:
    """Say what is installed and patched, which drivers would block, and whether the broker answers."""
    diagnosis = in_task(lambda: diagnose(broker), interrupts)
    click.echo(str(diagnosis))
    return 0 if diagnosis else 1
