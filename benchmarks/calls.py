"""Calls of Python functions a message: an exact figure, so a regression shows without a clock.

`python -m benchmarks.calls [memory amqp redis] [--record] [--top N]` prints them, against `calls.json` beside
this file; `tests/unit/test_call_counts.py` holds the code to what is recorded there. Calls of C functions are
not counted, nor those inside the hub's library.
"""
from __future__ import annotations

import argparse
import collections
import importlib
import json
import pathlib
import platform
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from benchmarks import brokers

RECORDED = pathlib.Path(__file__).with_name('calls.json')
STAGES = ('publish', 'deliver', 'ack')
#: Below the default prefetch, so that all are outstanding at once.
MESSAGES = 500
#: The least of so many turns: how many messages a read brings from a real broker is not ours to say.
TURNS = 3
BODY = {'id': 7, 'name': 'greenlet', 'tags': ['a', 'b'], 'ok': True}
#: Where calls are not the package's doing.
OUTSIDE = ('/gevent/', '/greenlet/', '/eventlet/', '/tests/', '/benchmarks/', '/pytest', '/_pytest/')

Found = collections.Counter[CodeType]


class Counter:
    """While entered: how often each Python function was called in this thread, in all its greenlets."""

    def __init__(self) -> None:
        self.calls: Found = collections.Counter()
        self._before: Any = None

    def __enter__(self) -> Counter:
        self._before = sys.getprofile()
        sys.setprofile(self._called)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(self._before)

    def _called(self, frame: FrameType, event: str, argument: object) -> None:
        if event == 'call':
            self.calls[frame.f_code] += 1

    def inside(self) -> Found:
        """Those that the package is responsible for."""
        return collections.Counter({code: count for code, count in self.calls.items()
                                    if not any(part in code.co_filename for part in OUTSIDE)})


def measure(url: str, package: str = 'greenmq') -> dict[str, Found]:
    """The calls of `MESSAGES` messages in each stage, from the turn that had the fewest."""
    library = importlib.import_module(package)
    # Unconfirmed, so that no count depends on how the broker groups its confirms.
    options = {'confirm_publish': False} if url.startswith('amqp') else {}
    with library.Connection(url, transport_options=options) as connection:
        queue = library.Queue('calls', library.Exchange('calls'), 'calls')(connection.default_channel)
        queue.declare()
        turns = [_turn(connection, queue) for _ in range(TURNS + 1)][1:]  # the first fills caches
        queue.delete()
    return {stage: min((turn[stage] for turn in turns), key=Found.total) for stage in STAGES}


def _turn(connection: Any, queue: Any) -> dict[str, Found]:
    producer = connection.Producer()
    messages: list[Any] = []
    found = {}

    def publish() -> None:
        for _ in range(MESSAGES):
            producer.publish(BODY, exchange='calls', routing_key='calls', delivery_mode=1)
        _settle(queue)

    def deliver() -> None:
        while len(messages) < MESSAGES:
            connection.drain_events(timeout=10)

    def ack() -> None:
        for message in messages:
            message.ack()
        _settle(queue)

    found['publish'] = _counted(publish)
    consumer = connection.Consumer([queue], on_message=messages.append)
    with Counter() as counter:
        consumer.consume()
        deliver()
    found['deliver'] = counter.inside()
    for message in messages:
        assert message.payload == BODY
    found['ack'] = _counted(ack)
    consumer.cancel()
    return found


def _counted(work: Callable[[], None]) -> Found:
    with Counter() as counter:
        work()
    return counter.inside()


def _settle(queue: Any) -> None:
    # An answer of the broker: all that was written before it has been taken.
    queue.queue_declare(passive=True)


def figures(found: dict[str, Found]) -> dict[str, float]:
    """Calls a message."""
    return {stage: round(calls.total() / MESSAGES, 2) for stage, calls in found.items()}


def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    return found


def key(name: str) -> str:
    """Under which name a transport's figures are recorded: hiredis packs commands in C."""
    if name != 'redis':
        return name
    # What it does use: one that was installed since it was imported could be found, and is not used.
    resp = importlib.import_module('greenmq.transport.redis.resp')
    return 'redis with hiredis' if resp.hiredis is not None else name


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.calls', description=__doc__)
    parser.add_argument('transports', nargs='*', default=['memory', 'amqp', 'redis'])
    parser.add_argument('--record', action='store_true', help='write what was found into calls.json')
    parser.add_argument('--top', type=int, default=0, help='also the functions that are called most')
    options = parser.parse_args(arguments)
    known = recorded()
    for name in options.transports:
        with _broker(name) as url:
            found = measure(url)
        for stage, calls in found.items():
            before = known.get(key(name), {}).get(stage, '–')
            print(f'{name:8} {stage:8} {calls.total() / MESSAGES:7.2f} calls a message, recorded {before}')
            for code, count in calls.most_common(options.top):
                where = code.co_filename.rpartition('site-packages/')[2].rpartition('/greenmq/')[2]
                print(f'    {count / MESSAGES:7.2f}  {where}:{code.co_firstlineno} {code.co_name}')
        known[key(name)] = figures(found)
    if options.record:
        known['python'] = '.'.join(platform.python_version_tuple()[:2])
        RECORDED.write_text(json.dumps(known, indent=1, sort_keys=True) + '\n')
    return 0


def _broker(name: str) -> Any:
    if name == 'memory':
        return brokers.given('memory://')
    return {'amqp': brokers.amqp, 'redis': brokers.redis}[name]()


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
