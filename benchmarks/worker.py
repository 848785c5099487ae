"""A daemon's messages a second on RabbitMQ, its callback sleeping 1 ms, at concurrency 1 to 1,000.

`python -m benchmarks.worker [--amqp-url URL] [--rounds N] [--kombu-python PATH]`; without a URL a node of its
own is started. The ideal is concurrency / 1 ms; kombu's mixin, which has no concurrency, stands beside it.
"""
from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks import brokers, runner
from benchmarks.options import parse
from benchmarks.peers import Peer, pair

OPTIONS = ('rounds', 'amqp_url', 'kombu_python')

PROBE = 'benchmarks.probes.worker'
#: Concurrency → messages: about two seconds each where the sleep is the limit.
LOADS = {1: 1_500, 10: 10_000, 100: 30_000, 1_000: 30_000}
IDLE = 1_000


def of_ideal(concurrency: int, least: float) -> Callable[[runner.Row], bool]:
    return lambda row: row.ours.median >= least * concurrency * 1000


def rows(peers: tuple[Peer, Peer], url: str, rounds: int) -> list[runner.Row]:
    found = []
    for concurrency, messages in LOADS.items():
        # kombu does one at a time, however many are asked for.
        arguments = {'greenmq': [url, str(concurrency), str(messages)],
                     'kombu': [url, str(concurrency), str(LOADS[1])]}
        results = runner.rounds(peers, PROBE, arguments, rounds)
        ours, theirs = (runner.Figure.of(results[peer.package], 'per_second') for peer in peers)
        # Above that the broker is the limit, not the sleep.
        target, met = ('', None) if concurrency > 10 else ('>= 0.8 of ideal', of_ideal(concurrency, 0.8))
        found.append(runner.Row(f'messages/s, {concurrency} at once', ours, theirs, target, met))
    results = runner.rounds(peers, PROBE, [url, '0', str(IDLE)], rounds)
    ours, theirs = (runner.Figure.of(results[peer.package], 'kilobytes') for peer in peers)
    found.append(runner.Row('kB per idle consumer', ours, theirs, '<= 40', runner.below(40.01)))
    return found


def main(arguments: list[str]) -> int:
    options = parse('worker', __doc__, OPTIONS, arguments, rounds=3)
    peers = pair(options.kombu_python)
    with brokers.amqp(options.amqp_url) as url:
        found = rows(peers, url, options.rounds)
    return runner.show('ConsumerMixin', peers, found, options.rounds)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
