"""``greenmq publish``: texts from the command line or the lines of standard input, a message each."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from greenmq import Exchange, Producer, Queue, runtime
from greenmq.cli.broker import broker_option, opened
from greenmq.cli.interrupt import Interrupts
from greenmq.cli.session import Bar, in_task, said_at_the_end
from greenmq.exceptions import BufferFull, ConnectionLost, PublishUnconfirmed

READ_SIZE = 65536

# Messages of ``--count`` that wait for their confirms at once.
WINDOW = 1000

# Tries after the first, should the broker go away on the way; the publish deadline bounds them all.
RETRIES = {'max_retries': 3, 'interval_start': 0.2, 'interval_step': 0.5, 'interval_max': 2.0}


@dataclass
class Publishing:
    """Where messages go, and what they carry.

    Attributes:
        broker (str): URL.
        exchange (Exchange): its name is '' for the default exchange.
        queue (Queue | None): declared, and bound to the exchange, before the first message.
        routing_key (str): of every message.
        count (int): how often each body is sent.
        properties (Mapping[str, Any]): more arguments of Producer.publish.
        sent (int): messages the broker has.
    """

    broker: str
    exchange: Exchange
    queue: Queue | None
    routing_key: str
    count: int
    properties: Mapping[str, Any]
    sent: int = 0

    def run(self, bodies: Iterable[bytes]) -> int:
        """Publish all bodies; returns how many messages the broker took. Switches: yes."""
        with opened(self.broker) as connection, connection.Producer() as producer:
            for number, raw in enumerate(bodies, 1):
                body = self._decode(raw, number)
                self._publish(producer, body)
                if self.count > 1:
                    self._publish_again(producer, body)
        return self.sent

    def _publish(self, producer: Producer, body: Any) -> None:
        # A queue declares its exchange too, or looks for it. What reaches no queue is an error.
        place = self.queue or self.exchange
        producer.publish(body, declare=[place] if place.name else [], retry=True, retry_policy=RETRIES,
                         **self._where, **self.properties)
        self.sent += 1

    @property
    def _where(self) -> dict[str, Any]:
        return {'exchange': self.exchange, 'routing_key': self.routing_key, 'mandatory': True}

    def _publish_again(self, producer: Producer, body: Any) -> None:
        # One confirm after the other would cost a round trip each: so many are on their way at once.
        waiting: deque[Any] = deque()
        Bar.set_lock(runtime.RLock())
        with Bar(
            total=self.count, initial=1, unit=' messages', disable=None, leave=False, file=sys.stderr
        ) as bar:
            for _ in range(self.count - 1):
                if len(waiting) >= WINDOW:
                    self._await(producer, body, waiting.popleft(), bar)
                try:
                    future = producer.publish_nowait(body, **self._where, **self.properties)
                except BufferFull:  # large ones: then as many as there is room for
                    while waiting:
                        self._await(producer, body, waiting.popleft(), bar)
                    self._publish(producer, body)
                    bar.update()
                else:
                    waiting.append(future)
            while waiting:
                self._await(producer, body, waiting.popleft(), bar)

    def _await(self, producer: Producer, body: Any, future: Any, bar: Any) -> None:
        try:
            future.result()
            self.sent += 1
        except (PublishUnconfirmed, ConnectionLost):
            self._publish(producer, body)  # the broker went away on the way: as for a single message
        bar.update()

    def _decode(self, raw: bytes, number: int) -> Any:
        # Without a serializer a body is what it is: text, or bytes if it is none. With one it is JSON.
        serializer = self.properties['serializer']
        try:
            text = raw.decode()
            return text if serializer in (None, 'raw') else json.loads(text)
        except ValueError as exc:
            if serializer in (None, 'raw'):
                return raw
            raise click.UsageError(f'message {number} is not JSON, as --serializer asks for: {exc}') from exc


def standard_input() -> Iterator[bytes]:
    """The lines of standard input as they come, without their ends. Switches: yes, waiting for more."""
    left = b''
    while True:
        # A native thread waits, so that the connection's heartbeats go on while somebody types.
        data = runtime.offload(os.read, sys.stdin.fileno(), READ_SIZE, own_thread=True)
        if not data:
            break
        *lines, left = (left + data).split(b'\n')
        yield from lines
    if left:
        yield left


def headers_of(pairs: Iterable[str]) -> dict[str, str]:
    """Headers written as NAME=VALUE."""
    headers = {}
    for pair in pairs:
        name, equals, value = pair.partition('=')
        if not equals or not name:
            raise click.BadParameter(f'{pair!r} is not NAME=VALUE', param_hint='--header')
        headers[name] = value
    return headers


@click.command()
@click.argument('bodies', nargs=-1, metavar='[BODY]...')
@broker_option(required=True)
@click.option('--queue', metavar='NAME', help='Declare this queue first; alone, it is also the routing key.')
@click.option('--exchange', default='', metavar='NAME', help='Where to publish, if not the default exchange.')
@click.option('--exchange-type', metavar='TYPE', help='Declare the exchange first, as one of this type.')
@click.option('--routing-key', metavar='KEY', help='Of every message; alone, the name of a queue.')
@click.option('--serializer', metavar='NAME', help='Each BODY is JSON; encode it with this: json, yaml ...')
@click.option('--compression', metavar='NAME', help='gzip, bzip2, lzma, brotli, zstd ...')
@click.option('--header', 'pairs', multiple=True, metavar='NAME=VALUE', help='May be given several times.')
@click.option('--priority', type=click.IntRange(0, 255))
@click.option('--expiration', type=click.FloatRange(0), metavar='SECONDS')
@click.option('--count', default=1, show_default=True, type=click.IntRange(1), help='Send each so often.')
@click.pass_obj
def publish(interrupts: Interrupts, bodies: tuple[str, ...], broker: str, queue: str | None,
            exchange: str, exchange_type: str | None, routing_key: str | None, serializer: str | None,
            compression: str | None, pairs: tuple[str, ...], priority: int | None, expiration: float | None,
            count: int) -> int:
    """Publish each BODY, or else each line of standard input."""
    if not queue and not exchange and routing_key is None:
        raise click.UsageError('say where: --queue, --exchange or --routing-key')
    if exchange_type and not exchange:
        raise click.UsageError('--exchange-type is the type of an --exchange')
    properties = {'serializer': serializer, 'compression': compression, 'headers': headers_of(pairs),
                  'priority': priority or 0, 'expiration': expiration}
    place = Exchange(exchange, type=exchange_type or 'direct', passive=not exchange_type)
    key = routing_key if routing_key is not None else queue or ''
    work = Publishing(broker, place, _queue(queue, place, key), key, count, properties)
    given = [body.encode(errors='surrogateescape') for body in bodies]
    gone = ''
    if broker.partition('://')[0] == 'memory':
        gone = ', and gone: memory:// is a broker within this process'
    with said_at_the_end(lambda: f'{work.sent:,} published{gone}', lambda: work.sent > 0):
        in_task(lambda: work.run(given or standard_input()), interrupts)
    return 0


def _queue(name: str | None, exchange: Exchange, routing_key: str) -> Queue | None:
    if not name:
        return None
    return Queue(name, exchange, routing_key=routing_key) if exchange.name else Queue(name)
