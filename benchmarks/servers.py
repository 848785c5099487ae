"""Queues in ZooKeeper and MongoDB (FerretDB) beside kombu's, and the Pyro daemon with a store and without."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from benchmarks import brokers, runner
from benchmarks.options import parse
from benchmarks.peers import Peer, pair
from benchmarks.runner import Figure, Row, at_least_ratio, at_most

OPTIONS = ('rounds', 'messages', 'quick', 'kombu_python')
#: kombu needs a round trip or more a message: so much fewer tell enough. On FerretDB both get as few: what
#: one of its commands costs depends on how many messages wait.
FEWER = 10
#: By server: what the ratios for one greenlet, a hundred, and consuming are to be, and ms of a wake-up.
GOALS = {'zookeeper': (1.5, 4.0, 4.0, 10.0), 'mongodb': (0.0, 5.0, 10.0, 200.0)}


def measured(
    peers: Sequence[Peer], urls: Sequence[str], messages: Sequence[int], count: int
) -> tuple[list[runner.Result], ...]:
    """The results of each peer on a URL of its own."""
    arguments = {peer.label: [url, str(n)] for peer, url, n in zip(peers, urls, messages, strict=True)}
    found = runner.rounds(peers, 'benchmarks.probes.stores', arguments, count)
    return tuple(found[peer.label] for peer in peers)


def rows(ours: list[runner.Result], theirs: list[runner.Result], goals: Sequence[float]) -> list[Row]:
    """The table: without goals nothing is promised."""
    one, many, consume, wake = goals or (0.0, 0.0, 0.0, 0.0)

    def row(what: str, name: str, ratio: float = 0.0, most: float = 0.0) -> Row:
        figures = Figure.of(ours, name), Figure.of(theirs, name)
        if ratio:
            return Row(what, *figures, target=f'≥ {ratio:g} × kombu', met=at_least_ratio(ratio))
        return Row(what, *figures, target=f'≤ {most:g}', met=at_most(most)) if most else Row(what, *figures)

    return [
        row('publish, 1 greenlet, a second', 'alone_rate', one),
        row('publish, 100 greenlets, a second', 'many_rate', many),
        row('  µs CPU a message', 'many_us'),
        row('consume + ack, prefetch 200, a second', 'consume_rate', consume),
        row('  µs CPU a message', 'consume_us'),
        row('wake-up of a waiting consumer, ms, p50', 'wake_p50'),
        row('wake-up of a waiting consumer, ms, p99', 'wake_p99', most=wake),
    ]


def main(arguments: list[str]) -> int:
    options = parse('servers', __doc__, OPTIONS, arguments, rounds=3)
    from tests.support.pyro import PyroBroker

    peers = pair(options.kombu_python)
    few = max(options.messages // FEWER, 100)

    def against_kombu(name: str, make: Callable[[str], str], counts: Sequence[int]) -> int:
        urls = [make(peer.package) for peer in peers]
        ours, theirs = measured(peers, urls, counts, options.rounds)
        return runner.show(f'{name}://', peers, rows(ours, theirs, GOALS[name]), options.rounds)

    with brokers.zookeeper() as make:
        missed = against_kombu('zookeeper', make, (options.messages, few))
    python = peers[0].python
    daemons = Peer('greenmq', python, 'in memory'), Peer('greenmq', python, 'with a store')
    with PyroBroker(durable=False) as one, PyroBroker() as other:  # type: ignore[no-untyped-call]
        both = [one.url(), other.url()]
        ours, theirs = measured(daemons, both, [options.messages] * 2, options.rounds)
        missed |= runner.show('pyro://', daemons, rows(ours, theirs, ()), options.rounds)
    # Last: it is built by hand, and may be what this machine has not.
    with brokers.mongodb() as make:
        missed |= against_kombu('mongodb', make, (few, few))
    return missed


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
