"""Long messages on Redis: how long they take, and for how long nothing else has a turn on the hub.

`python -m benchmarks.redis_large [--count 100] [--size 1000000] [--rounds 3]` starts a Redis, puts so many
messages into a queue and consumes them, once with greenmq's own parser and once with hiredis' reader in its
place, if that is installed. Then the parser alone, with replies of 1, 4 and 16 MB, whole and in pieces of 400
bytes: the time grows as the size does.
"""
from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import brokers
from greenmq import Connection, Queue, runtime
from greenmq.transport.redis import resp

#: What is promised: seconds that the hub is busy in one stretch, and the time against hiredis'.
BLOCK, RATIO = 0.05, 2.0
TICK = 0.001


class Hiredis:
    """hiredis' reader, with our parser's methods; it keeps none of our limits."""

    failure = None

    def __init__(self, max_bytes: int = 0) -> None:
        import hiredis

        self._reader = hiredis.Reader(notEnoughData=resp.MORE)

    def take(self, data: bytes) -> list[Any]:
        self._reader.feed(data)
        found = list(iter(self._reader.gets, resp.MORE))
        return [resp.Push(each) if type(each).__name__ == 'PushNotification' else each for each in found]


class Lag:
    """Measures how late a greenlet is that wants to run each millisecond.

    Attributes:
        worst (float): seconds by the clock; on a busy machine other processes are in it.
        work (float): seconds of CPU that this thread took in the longest stretch.
    """

    def __init__(self) -> None:
        self.worst = self.work = 0.0
        self._task = runtime.spawn(self._run, name='lag')

    def _run(self) -> None:
        while True:
            before, spent = time.perf_counter(), time.thread_time()
            runtime.sleep(TICK)
            self.worst = max(self.worst, time.perf_counter() - before - TICK)
            self.work = max(self.work, time.thread_time() - spent)

    def stop(self) -> tuple[float, float]:
        self._task.kill()
        return self.worst, self.work


def consume(url: str, count: int, size: int, make: Callable[..., Any]) -> tuple[float, float, float]:
    """Seconds to consume and acknowledge, and the longest stretch without a turn for others, see `Lag`."""
    before, resp.make_parser = resp.make_parser, make
    try:
        with Connection(url) as connection:
            queue = Queue('large')(connection.default_channel)
            queue.declare()
            queue.purge()
            producer = connection.Producer()
            for _ in range(count):
                producer.publish(b'x' * size, routing_key='large', content_type='application/data')
            got = 0

            def received(message: Any) -> None:
                nonlocal got
                assert len(message.body) == size
                got += 1
                message.ack()

            lag, began = Lag(), time.perf_counter()
            with connection.Consumer([queue], on_message=received):
                while got < count:
                    connection.drain_events(timeout=60)
            seconds = time.perf_counter() - began
            queue.delete()
            return (seconds, *lag.stop())
    finally:
        resp.make_parser = before


def parse(size: int, piece: int) -> float:
    """Seconds to read one reply."""
    data = b'*2\r\n:1\r\n$%d\r\n%b\r\n' % (size, b'x' * size)
    parser, began = resp.Parser(), time.perf_counter()
    found = [reply for at in range(0, len(data), piece) for reply in parser.take(data[at : at + piece])]
    assert len(found) == 1
    return time.perf_counter() - began


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.redis_large', description=__doc__)
    parser.add_argument('--count', type=int, default=100)
    parser.add_argument('--size', type=int, default=1_000_000, help='bytes of a body')
    parser.add_argument('--rounds', type=int, default=3)
    options = parser.parse_args(arguments)
    makers: dict[str, Callable[..., Any]] = {'greenmq': resp.Parser}
    if resp.hiredis is not None:
        makers['hiredis'] = Hiredis
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in makers}
    with brokers.redis() as url:
        for _ in range(options.rounds):
            for name, make in makers.items():
                found[name].append(consume(url, options.count, options.size, make))
    middle = {}
    for name, turns in found.items():
        middle[name], block, work = (statistics.median(column) for column in zip(*turns, strict=True))
        print(f'{options.count} x {options.size} bytes, {name:8} {middle[name]:6.2f} s, '
              f'longest stretch {block * 1000:5.1f} ms, {work * 1000:5.1f} ms of CPU')
        if name == 'greenmq' and work > BLOCK:
            print(f'  more than {BLOCK * 1000:.0f} ms')
    if 'hiredis' in middle:
        print(f'greenmq / hiredis {middle["greenmq"] / middle["hiredis"]:.2f}, at most {RATIO:g}')
    for piece in (65536, 400):
        times = ', '.join(f'{size} MB {parse(size * 10**6, piece) * 1000:.1f} ms' for size in (1, 4, 16))
        print(f'one reply in pieces of {piece} bytes: {times}')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
