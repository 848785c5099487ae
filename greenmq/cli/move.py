"""``greenmq move``: messages from one queue to another, e.g. dead letters back to where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from greenmq import Connection, Producer, Queue
from greenmq.cli.broker import broker_option, opened
from greenmq.cli.complaint import complain
from greenmq.cli.interrupt import Interrupts
from greenmq.cli.session import in_task, said_at_the_end
from greenmq.exceptions import DecodeError
from greenmq.message import Message

#: What says how a message travelled, or when it was over: it travels anew.
_OF_THE_WAY = frozenset((
    'body_encoding', 'cluster_id', 'delivery_info', 'delivery_mode', 'delivery_tag', 'expiration',
    'expires_at', 'priority', 'user_id',
))  # fmt: skip
_COUNTS = (
    'x-death', 'x-delivery-count', 'x-first-death-exchange', 'x-first-death-queue', 'x-first-death-reason',
)  # fmt: skip


@dataclass
class Moving:
    """What to move.

    Attributes:
        source (str): queue to take from.
        target (str | None): queue to put into; None: the one in which each message died first.
        count (int | None): messages at most; None: as many as there are when it begins.
        moved (int), kept (int): done so far, and those that cannot be moved.
    """

    broker: str
    source: str
    target: str | None
    count: int | None
    moved: int = 0
    kept: int = 0

    def run(self) -> None:
        """Move them. Each is settled when the broker has its copy: cut in between, it is there twice.

        Switches: yes.
        """
        with opened(self.broker) as connection, connection.channel() as channel:
            queue = Queue(self.source)(channel)
            waiting = queue.queue_declare(passive=True).message_count
            left = waiting if self.count is None else min(self.count, waiting)
            held: list[Message] = []  # given back at the end: given back before, they would come again
            producer = Producer(connection, auto_declare=False)
            try:
                while self.moved + self.kept < left and self._move_one(queue, producer, connection, held):
                    continue
            finally:
                for message in held:
                    message.requeue()

    def _move_one(self, queue: Any, producer: Producer, connection: Connection, held: list[Message]) -> bool:
        try:
            message = queue.get(accept=[])
        except DecodeError as exc:
            self.kept += 1
            complain('greenmq move', f'left where it is: {exc}')
            return True
        if message is None:
            return False
        target = self.target or _died_in(message)
        if target is None:
            held.append(message)
            self.kept += 1
            return True
        body = message.body  # first: it takes out of the headers how it travelled
        headers = {name: value for name, value in message.headers.items() if name not in _COUNTS}
        properties = {
            name: value for name, value in message.properties.items()
            if name not in _OF_THE_WAY and value is not None
        }  # fmt: skip
        producer.publish(
            body, routing_key=target, exchange='', mandatory=True, headers=headers,
            content_type=message.content_type, content_encoding=message.content_encoding,
            priority=message.properties.get('priority'),
            delivery_mode=message.properties.get('delivery_mode') or 2, **properties,
        )  # fmt: skip
        message.ack()
        self.moved += 1
        return True

    def summary(self) -> str:
        """How many were moved."""
        if not self.kept:
            return f'{self.moved:,} moved'
        return f'{self.moved:,} moved, {self.kept:,} left: they do not say where they came from'


def _died_in(message: Message) -> str | None:
    deaths = message.headers.get('x-death') or ()
    found = message.headers.get('x-first-death-queue') or (deaths[-1].get('queue') if deaths else None)
    return str(found) if found else None


@click.command()
@click.argument('source', metavar='FROM')
@click.argument('target', metavar='[TO]', required=False)
@broker_option(required=True)
@click.option('--count', type=click.IntRange(1), help='At most so many; all that are there if not given.')
@click.pass_obj
def move(interrupts: Interrupts, source: str, target: str | None, broker: str, count: int | None) -> int:
    """Move the messages of a queue to another one.

    Without TO each message of a dead-letter queue goes back to the queue in which it died, as if it had never
    been there.
    """
    if source == target:
        raise click.UsageError(f'{source!r} is both FROM and TO')
    work = Moving(broker, source, target, count)
    with said_at_the_end(work.summary, lambda: True):
        in_task(work.run, interrupts)
    return 1 if work.kept else 0
