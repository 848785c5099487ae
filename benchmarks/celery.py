"""Celery's gevent worker and its `delay()`, with greenmq in kombu's place and on kombu itself, in turns."""
from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks import brokers, runner
from benchmarks.options import parse
from benchmarks.peers import Peer
from benchmarks.runner import Figure, Row

OPTIONS = ('rounds', 'quick', 'amqp_url', 'redis_url')

#: Seconds after which a worker's rate is told, done or not: kombu's would need minutes with heartbeats.
SECONDS = 10
UNCONFIRMED = {'options': {'confirm_publish': False}}
CONFIRMED = {'options': {'confirm_publish': True}}


def workers(broker: str) -> list[tuple[str, dict[str, Any], float]]:
    """What is measured of a worker: what the table calls it, settings, the ratio to reach."""
    if broker == 'redis':
        return [('Redis, worker', {}, 5)]
    return [('RabbitMQ, worker, heartbeats', {'heartbeat': 120}, 50),
            ('RabbitMQ, worker, no heartbeats', {'heartbeat': 0}, 1.2)]


def senders(broker: str) -> list[tuple[str, dict[str, Any]]]:
    if broker == 'redis':
        return [('Redis, delay() from 1 greenlet', {'greenlets': 1}),
                ('Redis, delay() from 100', {'greenlets': 100})]
    return [
        ('RabbitMQ, delay() from 1, each by its default', {'greenlets': 1}),
        ('RabbitMQ, delay() from 1, confirms', {'greenlets': 1, **CONFIRMED}),
        ('RabbitMQ, delay() from 1, confirmed later', {'greenlets': 1, 'later': True, **CONFIRMED}),
        ('RabbitMQ, delay() from 1, no confirms', {'greenlets': 1, **UNCONFIRMED}),
        ('RabbitMQ, delay() from 100, confirms', {'greenlets': 100, **CONFIRMED}),
        ('RabbitMQ, delay() from 100, no confirms', {'greenlets': 100, **UNCONFIRMED}),
    ]


def rows(broker: str, url: str, peers: tuple[Peer, Peer], count: int, tasks: int) -> list[Row]:
    found = []
    for what, settings, ratio in workers(broker):
        wanted = {'url': url, 'tasks': tasks, 'seconds': SECONDS, **settings}
        ours, theirs = measured('worker', wanted, peers, count)
        found += [Row(f'{what}, tasks/s', Figure.of(ours, 'rate'), Figure.of(theirs, 'rate'), f'≥ {ratio} ×',
                      runner.at_least_ratio(ratio)),
                  Row(f'{what}, µs of CPU a task', Figure.of(ours, 'cpu_us'), Figure.of(theirs, 'cpu_us'))]
    for what, settings in senders(broker):
        ours, theirs = measured('send', {'url': url, 'tasks': tasks, **settings}, peers, count)
        found += [Row(f'{what}, sends/s', Figure.of(ours, 'rate'), Figure.of(theirs, 'rate')),
                  Row(f'{what}, µs of CPU a send', Figure.of(ours, 'cpu_us'), Figure.of(theirs, 'cpu_us'))]
    return found


def measured(what: str, settings: dict[str, Any], peers: tuple[Peer, Peer],
             count: int) -> tuple[list[runner.Result], list[runner.Result]]:
    results = runner.rounds(peers, 'benchmarks.probes.celery', [what, json.dumps(settings)], count)
    return results[peers[0].label], results[peers[1].label]


def main(arguments: list[str]) -> int:
    options = parse('celery', __doc__, OPTIONS, arguments, rounds=3)
    # Both by this interpreter: Celery, its drivers and its hub are the same, and kombu is a variable away.
    peers = Peer('greenmq', sys.executable), Peer('kombu', sys.executable)
    tasks, found = 500 if options.quick else 2000, []
    for name, start, url in (('rabbitmq', brokers.amqp, options.amqp_url),
                             ('redis', brokers.redis, options.redis_url)):
        with start(url) as address:
            found += rows(name, address, peers, options.rounds, tasks)
    return runner.show('celery', peers, found, options.rounds)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
