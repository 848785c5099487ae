"""AMQP 1.0: what a message costs, how many frames it takes, and what idle queues do.

`python -m benchmarks.amqp10 [--url qpid://…] [--messages 5000] [--rounds 5]` starts a RabbitMQ with its
plugin, or goes to the broker of the URL.

CPU is that of the client's process, user and system. Frames are counted as they are sent: flows and
dispositions for 1,000 messages received and acknowledged at a prefetch of 100. Idle queues: sockets, threads
and waits of the process a second, of 100 queues that are consumed and empty.
"""
from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks import brokers
from greenmq import Connection, Queue, runtime
from greenmq.transport.amqp10.session import Session

#: What is promised: µs of CPU, and frames for 1,000 messages.
MICROSECONDS, FLOWS, DISPOSITIONS = 40.0, 40, 120
GREENLETS, PREFETCH, IDLE = 100, 100, 100
BODY = b'x' * 300


@contextlib.contextmanager
def broker(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    with brokers.amqp() as amqp:
        from tests.support.process import RUNNING

        vhost = amqp.rpartition('/')[2]
        yield RUNNING[-1].qpid_url(vhost)


class Frames:
    """Counts what sessions say, by its kind."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self._send, self._settle = Session.send, Session.settle

    def __enter__(self) -> Frames:
        send, settle, sent = self._send, self._settle, self.sent

        def counted_send(session: Session, body: Any) -> None:
            sent[type(body).__name__] += 1
            send(session, body)

        def counted_settle(session: Session, numbers: Any, state: Any) -> int:
            frames = settle(session, numbers, state)
            sent['Disposition'] += frames
            return frames

        Session.send, Session.settle = counted_send, counted_settle  # type: ignore[method-assign]
        return self

    def __exit__(self, *exc_info: object) -> None:
        Session.send, Session.settle = self._send, self._settle  # type: ignore[method-assign]


def publish(connection: Connection, queue: str, messages: int) -> tuple[float, float]:
    """Seconds, and seconds of CPU, until the broker has confirmed all."""
    producer = connection.Producer(serializer='raw', routing_key=queue)
    producer.publish(BODY)
    each = messages // GREENLETS

    def work() -> None:
        for _ in range(each):
            producer.publish(BODY)

    began, spent = time.perf_counter(), time.process_time()
    tasks = [runtime.spawn(work, name='publisher') for _ in range(GREENLETS)]
    for task in tasks:
        task.join()
    return time.perf_counter() - began, time.process_time() - spent


def consume(connection: Connection, queue: Queue, messages: int) -> tuple[float, float, Counter[str]]:
    """Seconds, seconds of CPU, and frames sent, until all are received and settled."""
    got = 0

    def received(message: Any) -> None:
        nonlocal got
        got += 1
        message.ack()

    channel = connection.channel()
    began, spent = time.perf_counter(), time.process_time()
    with Frames() as frames:
        consumer = connection.Consumer([queue(channel)], on_message=received, channel=channel)
        consumer.qos(prefetch_count=PREFETCH)
        with consumer:
            while got < messages:
                connection.drain_events(timeout=60)
        channel.close()
    return time.perf_counter() - began, time.process_time() - spent, frames.sent


def switches() -> int:
    """Switches of context that this process made of its own will: the hub waits once for each."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def idle(url: str) -> tuple[int, int, float]:
    """Sockets and threads more, and waits a second, of many consumed queues that are empty."""
    sockets, threads = len(os.listdir('/proc/self/fd')), threading.active_count()
    with Connection(url) as connection:
        connection.connect()
        channel = connection.channel()
        names = [f'bench-idle-{number}' for number in range(IDLE)]
        for name in names:
            channel.queue_declare(queue=name, durable=False, auto_delete=False)
            channel.basic_consume(queue=name, no_ack=False, callback=print, consumer_tag=name)
        runtime.sleep(3)
        before = switches()
        runtime.sleep(5)
        found = (len(os.listdir('/proc/self/fd')) - sockets, threading.active_count() - threads,
                 (switches() - before) / 5)
        for name in names:
            channel.basic_cancel(name)
        for name in names:
            channel.queue_delete(queue=name)
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.amqp10', description=__doc__)
    parser.add_argument('--url', help='of a broker, else one is started')
    parser.add_argument('--messages', type=int, default=5000)
    parser.add_argument('--rounds', type=int, default=5)
    options = parser.parse_args(arguments)
    messages = max(options.messages // 1000, 1) * 1000
    missed = 0
    with broker(options.url) as url:
        turns = []
        for _ in range(options.rounds):
            with Connection(url) as connection:
                queue = Queue('bench-amqp10', durable=False)
                declared = queue(connection.default_channel)
                declared.declare()
                declared.purge()
                sent = publish(connection, queue.name, messages)
                got = consume(connection, queue, messages + 1)
                declared.delete()
            turns.append((*sent, *got[:2], got[2]['Flow'] * 1000 / messages,
                          got[2]['Disposition'] * 1000 / messages))
        middle = [statistics.median(column) for column in zip(*turns, strict=True)]
        rows = [
            ('publish confirmed, 100 greenlets, µs of CPU', middle[1] * 1e6 / messages, MICROSECONDS),
            ('  a second', messages / middle[0], None),
            ('receive + ack, µs of CPU', middle[3] / messages * 1e6, MICROSECONDS),
            ('  a second', messages / middle[2], None),
            ('flows sent for 1,000 received', middle[4], FLOWS),
            ('dispositions sent for 1,000 received', middle[5], DISPOSITIONS),
        ]
        sockets, threads, waits = idle(url)
        rows += [(f'{IDLE} idle queues: descriptors', sockets, None), ('  threads', threads, None),
                 ('  waits a second', waits, None)]
    for what, figure, limit in rows:
        verdict = '' if limit is None else f'   at most {limit:g}' + ('' if figure <= limit else ': MISSED')
        missed |= limit is not None and figure > limit
        print(f'{what:48} {figure:12,.1f}{verdict}')
    print(f'load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors')
    return int(missed)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
