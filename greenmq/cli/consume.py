"""``greenmq consume``: messages from queues to standard output, a line each."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import click

from greenmq import Connection, Exchange, Queue
from greenmq.cli.broker import broker_option, opened
from greenmq.cli.complaint import complain
from greenmq.cli.interrupt import Interrupts
from greenmq.cli.session import in_task, said_at_the_end
from greenmq.exceptions import TimeoutError
from greenmq.message import Message, settle_undecodable

# What we may hold unprinted: the rest stays with the broker, for others to take.
PREFETCH = 100


@dataclass
class Consuming:
    """What to take, and until when.

    Attributes:
        broker (str): URL.
        queues (list[Queue]): declared before they are consumed from.
        count (int | None): messages to take; None takes all.
        patience (float | None): seconds without a message after which to end; None waits for ever.
        accept (list[str]): names of the serializers whose messages are decoded.
        envelope (bool): print where a message came from and what it carries, too.
        taken (int): messages printed.
        refused (int): messages that could not be decoded.
    """

    broker: str
    queues: list[Queue]
    count: int | None
    patience: float | None
    accept: list[str]
    envelope: bool
    taken: int = 0
    refused: int = 0

    def run(self) -> None:
        """Print and acknowledge what comes. Switches: yes. What was not printed stays in its queue."""
        with opened(self.broker) as connection:
            prefetch = min(self.count or PREFETCH, PREFETCH)
            with connection.Consumer(self.queues, callbacks=[self._print], accept=self.accept,
                                     on_decode_error=self._refuse, prefetch_count=prefetch):
                self._drain(connection)

    def summary(self) -> str:
        """How many messages came."""
        return f'{self.taken:,} consumed' + (f', {self.refused:,} refused' if self.refused else '')

    def _drain(self, connection: Connection) -> None:
        while self.count is None or self.taken + self.refused < self.count:
            try:
                connection.drain_events(timeout=self.patience)
            except TimeoutError:
                return

    def _refuse(self, message: Message, exc: BaseException) -> None:
        settle_undecodable(message, exc)  # the next one may be fine
        self.refused += 1
        complain('greenmq consume', f'not decoded: {exc}')

    def _print(self, body: Any, message: Message) -> None:
        if self.count is not None and self.taken + self.refused >= self.count:
            return                                  # one too many was on its way; it goes back when we close
        output = sys.stdout.buffer
        output.write((_envelope(body, message) if self.envelope else _plain(body)) + b'\n')
        output.flush()
        # Printed, then acknowledged: cut in between, a message is seen twice rather than never.
        message.ack()
        self.taken += 1


def _plain(body: Any) -> bytes:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    return body.encode() if isinstance(body, str) else _json(body)


def _envelope(body: Any, message: Message) -> bytes:
    where = message.delivery_info
    if isinstance(body, (bytes, bytearray, memoryview)):
        body = bytes(body).decode(errors='backslashreplace')
    return _json({'exchange': where.get('exchange'), 'routing_key': where.get('routing_key'),
                  'redelivered': where.get('redelivered'), 'content_type': message.content_type,
                  'headers': message.headers, 'properties': message.properties, 'body': body})


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=str).encode(errors='backslashreplace')


@click.command()
@click.argument('names', nargs=-1, metavar='QUEUE...', required=True)
@broker_option(required=True)
@click.option('--exchange', metavar='NAME', help='Bind the queues to this exchange.')
@click.option('--exchange-type', default='direct', show_default=True, metavar='TYPE')
@click.option('--routing-key', metavar='KEY', help="Of the binding; the queue's name if not given.")
@click.option('--count', type=click.IntRange(1), help='End after so many messages.')
@click.option('--follow', '-f', is_flag=True, help='Wait for more, for ever.')
@click.option('--timeout', default=1.0, show_default=True, type=click.FloatRange(0), metavar='SECONDS',
              help='Without --follow, end when nothing has come for so long.')
@click.option('--accept', multiple=True, default=['json', 'text/plain'], show_default=True, metavar='NAME',
              help='Serializers or content types to decode; may be given several times.')
@click.option('--envelope', is_flag=True, help='Print headers and the like too, as one JSON object a line.')
@click.pass_obj
def consume(interrupts: Interrupts, names: tuple[str, ...], broker: str, exchange: str | None,
            exchange_type: str, routing_key: str | None, count: int | None, follow: bool, timeout: float,
            accept: tuple[str, ...], envelope: bool) -> int:
    """Print the messages of each QUEUE and take them out."""
    bound = Exchange(exchange, type=exchange_type) if exchange else None
    queues = [Queue(name, bound, routing_key=routing_key or name) if bound else Queue(name) for name in names]
    work = Consuming(broker, queues, count, None if follow else timeout, list(accept), envelope)
    with said_at_the_end(work.summary, lambda: work.taken + work.refused > 0):
        in_task(work.run, interrupts)
    return 1 if work.refused else 0
