"""Pools: what a lease costs, fairness under contention, and publishing from 100 greenlets, against kombu."""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks import brokers, runner
from benchmarks.options import parse
from benchmarks.peers import Peer, pair
from benchmarks.runner import Figure, Row, at_least_ratio, at_most

OPTIONS = ('rounds', 'amqp_url', 'kombu_python')


def rows(peers: tuple[Peer, Peer], url: str, count: int) -> list[Row]:
    results = runner.rounds(peers, 'benchmarks.probes.pools', [url], count)
    ours, theirs = (results[peer.package] for peer in peers)

    def row(what: str, name: str, target: str = '', met: Callable[[Row], bool] | None = None) -> Row:
        return Row(what, Figure.of(ours, name), Figure.of(theirs, name), target, met)

    return [
        row('acquire + release of a connection, µs CPU', 'connection_us', '≤ 5', at_most(5)),
        row('  of a producer, µs CPU', 'producer_us', '≤ 5', at_most(5)),
        row('1,000 greenlets, 10 resources: hand-offs/s', 'handoffs', '≥ 5 × kombu', at_least_ratio(5)),
        row('  acquired a second, by whomever', 'acquires'),
        row('  longest wait / median wait', 'fairness', '≤ 3', at_most(3)),
        row('100 greenlets publish, confirmed, a second', 'publish_rate', '≥ 5 × kombu', at_least_ratio(5)),
        row('  µs CPU a message', 'publish_us'),
        row('  sockets', 'sockets', '≤ 2', at_most(2)),
    ]


def main(arguments: list[str]) -> int:
    options = parse('pools', __doc__, OPTIONS, arguments, rounds=9)
    peers = pair(options.kombu_python)
    with brokers.amqp(options.amqp_url) as url:
        return runner.show('pools', peers, rows(peers, url, options.rounds), options.rounds)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
