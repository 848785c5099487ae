"""Stores on the local disk: file:// and filesystem:// beside kombu's sqla+sqlite and filesystem."""

from __future__ import annotations

import sys

from benchmarks import runner
from benchmarks.options import parse
from benchmarks.peers import Peer, pair
from benchmarks.runner import Figure, Row, at_least_ratio, at_most

OPTIONS = ('rounds', 'messages', 'quick', 'kombu_python')

#: What is compared: greenmq's store, and kombu's.
PAIRS = (('file', 'sqlite'), ('filesystem', 'filesystem'))


def rows(peers: tuple[Peer, Peer], stores: tuple[str, str], messages: int, count: int) -> list[Row]:
    # Fewer for who is much slower; kombu's files get slower with each one that waits, so not too few.
    theirs_count = max(messages // 20, 100) if stores[1] == 'sqlite' else min(messages, 3000)
    arguments = {'greenmq': [stores[0], str(messages)], 'kombu': [stores[1], str(theirs_count)]}
    found = runner.rounds(peers, 'benchmarks.probes.stores', arguments, count)
    ours, theirs = (found[peer.package] for peer in peers)
    fast = stores[0] == 'file'  # kombu's files are not brought to the disk: no ratio is promised for them

    def row(what: str, name: str, **target: object) -> Row:
        return Row(what, Figure.of(ours, name), Figure.of(theirs, name), **target)  # type: ignore[arg-type]

    def ratio(limit: float) -> dict[str, object]:
        return {'target': f'≥ {limit:g} × kombu', 'met': at_least_ratio(limit)} if fast else {}

    return [
        row('publish, 1 greenlet, a second', 'alone_rate', **ratio(10)),
        row('  µs CPU a message', 'alone_us'),
        row('publish, 100 greenlets, a second', 'many_rate', **ratio(70)),
        row('  µs CPU a message', 'many_us'),
        row('consume + ack, prefetch 200, a second', 'consume_rate', **ratio(10)),
        row('  µs CPU a message', 'consume_us'),
        row('wake-up of a waiting consumer, ms, p50', 'wake_p50', target='≤ 2', met=at_most(2)),
        row('wake-up of a waiting consumer, ms, p99', 'wake_p99', target='≤ 10', met=at_most(10)),
    ]


def main(arguments: list[str]) -> int:
    options = parse('stores', __doc__, OPTIONS, arguments, rounds=3)
    peers = pair(options.kombu_python)
    missed = 0
    for stores in PAIRS:
        found = rows(peers, stores, options.messages, options.rounds)
        theirs = 'sqla+sqlite' if stores[1] == 'sqlite' else stores[1]
        missed |= runner.show(f'{stores[0]}:// and kombu {theirs}://', peers, found, options.rounds)
    return missed


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
