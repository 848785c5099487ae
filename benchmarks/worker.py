"""A daemon's messages a second on RabbitMQ, its callback sleeping 1 ms, at concurrency 1 to 1,000.

`python -m benchmarks.worker [--broker URL] [--rounds N] [--kombu-python PATH]`; without a URL a node of its
own is started. The ideal is concurrency / 1 ms; kombu's mixin, which has no concurrency, stands beside it.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from benchmarks import runner
from benchmarks.peers import add_options, pair

PROBE = 'benchmarks.probes.worker'
#: Concurrency → messages: about two seconds each where the sleep is the limit.
LOADS = {1: 1_500, 10: 10_000, 100: 30_000, 1_000: 30_000}
IDLE = 1_000


def of_ideal(concurrency: int, least: float) -> Callable[[runner.Row], bool]:
    return lambda row: row.ours.median >= least * concurrency * 1000


def rows(peers, url, rounds):
    found = []
    for concurrency, messages in LOADS.items():
        results = [runner.rounds([peer], PROBE, [url, str(concurrency), str(
            messages if peer.package == 'greenmq' else LOADS[1])], rounds)[peer.package] for peer in peers]
        ours, theirs = (runner.Figure.of(result, 'per_second') for result in results)
        # Above that the broker is the limit, not the sleep.
        target, met = ('', None) if concurrency > 10 else ('>= 0.8 of ideal', of_ideal(concurrency, 0.8))
        found.append(runner.Row(f'messages/s, {concurrency} at once', ours, theirs, target, met))
    results = [runner.rounds([peer], PROBE, [url, '0', str(IDLE)], rounds)[peer.package] for peer in peers]
    ours, theirs = (runner.Figure.of(result, 'kilobytes') for result in results)
    found.append(runner.Row('kB per idle consumer', ours, theirs, '<= 40', runner.below(40.01)))
    return found


def main(arguments):
    parser = argparse.ArgumentParser(prog='python -m benchmarks.worker', description=__doc__)
    parser.add_argument('--broker', default=None)
    parser.add_argument('--rounds', type=int, default=3)
    add_options(parser)
    options = parser.parse_args(arguments)
    peers = pair(options)
    if options.broker:
        found = rows(peers, options.broker, options.rounds)
        return runner.show('ConsumerMixin', peers, found, options.rounds)
    from tests.support.rabbitmq import RabbitMQ

    with RabbitMQ() as server:
        found = rows(peers, server.url(), options.rounds)
    return runner.show('ConsumerMixin', peers, found, options.rounds)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
