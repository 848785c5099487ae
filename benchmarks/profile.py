"""Where the CPU of a message goes: `python -m benchmarks.profile amqp-publish|amqp-consume|memory-publish|…`.

By samples of the running stack at each tick of the CPU clock (1–4 ms), so that greenlets are told apart and
the figures are those of the undisturbed program; beside them, counted in another run, the calls a message.
"""
from __future__ import annotations

import argparse
import collections
import importlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

from benchmarks import brokers
from benchmarks import options as common
from benchmarks.calls import Counter

TASKS = ('publish', 'confirm', 'consume')
INTERVAL = 0.001
BODY = {'id': 123456, 'name': 'a name of some length', 'tags': ['red', 'green', 'blue'], 'ok': True,
        'text': 'x' * 152}


class Sampler:
    """While entered: how often each function was running (`self`), and was on the stack (`total`)."""

    def __init__(self) -> None:
        self.own: collections.Counter[CodeType] = collections.Counter()
        self.total: collections.Counter[CodeType] = collections.Counter()
        self.samples = 0
        self.cpu = 0.0

    def __enter__(self) -> Sampler:
        self.cpu = time.process_time()
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        return self

    def __exit__(self, *exc_info: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.cpu = time.process_time() - self.cpu
        signal.signal(signal.SIGPROF, signal.SIG_IGN)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        if frame is not None:
            self.samples += 1
            self.own[frame.f_code] += 1
            self.total.update({each.f_code for each in _stack(frame)})


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


class Work:
    """Connected, with a queue; `ready(messages)` gives what is to be measured."""

    def __init__(self, url: str, task: str, package: str) -> None:
        self.module = importlib.import_module(package)
        options = {'confirm_publish': task == 'confirm'} if url.startswith('amqp') else {}
        self.connection = self.module.Connection(url, transport_options=options)
        self.queue = self.module.Queue('profile', self.module.Exchange('profile'), 'profile')
        self.queue = self.queue(self.connection.default_channel)
        self.queue.declare()
        self.producer: Any = self.connection.Producer()
        self.task, self.seen = task, 0

    def ready(self, messages: int) -> Callable[[], None]:
        self.queue.purge()
        if self.task != 'consume':
            return lambda: self._publish(messages)
        self._publish(messages)
        return lambda: self._consume(messages)

    def _publish(self, messages: int) -> None:
        for _ in range(messages):
            self.producer.publish(BODY, exchange='profile', routing_key='profile', delivery_mode=1)
        self.queue.queue_declare(passive=True)

    def _consume(self, messages: int) -> None:
        target = self.seen + messages
        with self.connection.Consumer([self.queue], callbacks=[self._on_message], prefetch_count=500):
            while self.seen < target:
                self.connection.drain_events(timeout=10)

    def _on_message(self, body: Any, message: Any) -> None:
        self.seen += 1
        message.ack()


def show(sampler: Sampler, counter: Counter, messages: int, counted: int, rows: int) -> None:
    """A line a function, the most expensive first."""
    cost = 1e6 * sampler.cpu / messages
    print(f'{messages} messages, {sampler.samples} samples: {cost:.1f} µs of CPU a message')
    print('   self %   µs a message   with callees %   calls a message')
    for code, own in sampler.own.most_common(rows):
        where = code.co_filename.rpartition('site-packages/')[2].rpartition('/greenmq/')[2]
        share, total = own / sampler.samples, sampler.total[code] / sampler.samples
        print(f'{100 * share:8.1f} {cost * share:14.2f} {100 * total:16.1f} '
              f'{counter.calls[code] / counted:17.2f}  {where}:{code.co_firstlineno} {code.co_name}')


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.profile', description=__doc__)
    parser.add_argument('what', help=f'(memory|amqp|redis)-({"|".join(TASKS)})')
    parser.add_argument('--messages', type=int, default=50_000)
    parser.add_argument('--rows', type=int, default=30)
    parser.add_argument('--package', default='greenmq', help='kombu, under an interpreter that has it')
    common.add(parser, ('amqp_url', 'redis_url'))
    options = parser.parse_args(arguments)
    transport, _, task = options.what.partition('-')
    if transport not in ('memory', 'amqp', 'redis') or task not in TASKS:
        parser.error(f'{options.what}: say (memory|amqp|redis)-({"|".join(TASKS)})')
    place = brokers.given('memory://') if transport == 'memory' else \
        brokers.amqp(options.amqp_url) if transport == 'amqp' else brokers.redis(options.redis_url)
    with place as url:
        work = Work(url, task, options.package)
        work.ready(1000)()
        run = work.ready(options.messages)
        with Sampler() as sampler:
            run()
        counted = min(2000, options.messages)
        run = work.ready(counted)
        with Counter() as counter:
            run()
        work.connection.close()
    show(sampler, counter, options.messages, counted, options.rows)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
