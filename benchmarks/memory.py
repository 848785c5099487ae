"""memory://: publish + consume + ack, wake-up of a waiting consumer, and the import, against kombu."""
from __future__ import annotations

import sys

from benchmarks import imports, runner
from benchmarks.options import parse
from benchmarks.peers import Peer, pair
from benchmarks.runner import Figure, Row

OPTIONS = ('rounds', 'messages', 'quick', 'kombu_python')


def throughput_rows(peers: tuple[Peer, Peer], messages: int, count: int) -> list[Row]:
    results = runner.rounds(peers, 'benchmarks.probes.throughput', [str(messages)], count)
    ours, theirs = (results[peer.package] for peer in peers)

    def row(what: str, name: str, **target: object) -> Row:
        return Row(what, Figure.of(ours, name), Figure.of(theirs, name), **target)  # type: ignore[arg-type]

    return [
        row('publish + consume + ack, µs CPU a message', 'total_us',
            target='≤ half of kombu', met=runner.at_most_ratio(0.5)),
        row('  publish', 'publish_us'),
        row('  consume + ack', 'consume_us'),
        row('messages a second', 'per_second'),
    ]


def wakeup_rows(peers: tuple[Peer, Peer], messages: int, count: int) -> list[Row]:
    results = runner.rounds(peers, 'benchmarks.probes.wakeup', [str(messages)], count)
    ours, theirs = (results[peer.package] for peer in peers)
    return [
        Row('wake-up of a waiting consumer, ms, p50', Figure.of(ours, 'p50_ms'), Figure.of(theirs, 'p50_ms')),
        Row('wake-up of a waiting consumer, ms, p99', Figure.of(ours, 'p99_ms'), Figure.of(theirs, 'p99_ms'),
            '< 2 ms', runner.below(2.0)),
    ]


def main(arguments: list[str]) -> int:
    options = parse('memory', __doc__, OPTIONS, arguments)
    peers = pair(options.kombu_python)
    rows = throughput_rows(peers, options.messages, options.rounds)
    rows += wakeup_rows(peers, 500, options.rounds)
    rows += imports.rows(peers, max(options.rounds, imports.ROUNDS))
    return runner.show('memory://', peers, rows, options.rounds)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
