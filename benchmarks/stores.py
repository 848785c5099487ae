"""Stores as brokers, and kombu's beside: file:// and filesystem:// on the local disk, PostgreSQL, pgmq."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import NamedTuple

from benchmarks import brokers, runner
from benchmarks.options import parse
from benchmarks.peers import Peer, pair
from benchmarks.runner import Figure, Row, at_least, at_least_ratio, at_most

OPTIONS = ('rounds', 'messages', 'quick', 'folder', 'kombu_python')


class Pair(NamedTuple):
    """What is compared: greenmq's store and kombu's, and how many times faster ours shall be.

    Attributes:
        goals: publish from 1 and from 100 greenlets, consume and ack; none where kombu is not durable.
    """

    ours: str
    theirs: str
    shown: str
    goals: tuple[float, float, float] | None = None
    server: bool = False


PAIRS = (
    Pair('file', 'sqlite', 'sqla+sqlite', (10, 70, 10)),
    Pair('filesystem', 'filesystem', 'filesystem'),
    Pair('postgresql', 'postgresql', 'sqla+postgresql', (4, 50, 20), True),
    Pair('pgmq', 'pgmq', 'pgmq', (4, 50, 20), True),
)


def rows(peers: tuple[Peer, Peer], stores: Pair, messages: int, count: int, url: str | None) -> list[Row]:
    # Fewer for who is much slower; kombu's files get slower with each one that waits, so not too few.
    theirs_count = min(messages, 3000) if stores.goals is None else max(messages // 20, 100)
    place = [url] if url and stores.server else []
    arguments = {
        'greenmq': [stores.ours, str(messages), *place], 'kombu': [stores.theirs, str(theirs_count), *place]
    }
    found = runner.rounds(peers, 'benchmarks.probes.stores', arguments, count)
    ours, theirs = (found[peer.package] for peer in peers)
    goals = stores.goals or (0, 0, 0)

    def row(what: str, name: str, **target: object) -> Row:
        return Row(what, Figure.of(ours, name), Figure.of(theirs, name), **target)  # type: ignore[arg-type]

    def ratio(limit: float) -> dict[str, object]:
        return {'target': f'≥ {limit:g} × kombu', 'met': at_least_ratio(limit)} if limit else {}

    def asked(name: str, **target: object) -> list[Row]:
        return [row('  statements a message', name, **target)] if place else []

    bare = 'INSERT and commit' if place else 'write and fdatasync'
    crowd = [
        row('consume + ack, prefetch 1, a second', 'crowd_1_rate'),
        row('  of 8 processes', 'crowd_8_rate'),
        row('  8 processes, of one', 'crowd_ratio', target='≥ 4', met=at_least(4)),
        row('publish while it is declared, ms, p99', 'declared_p99', target='≤ 50', met=at_most(50)),
    ] if place else []  # fmt: skip
    idle = {'target': '≤ 0.5', 'met': at_most(0.5)}
    return [
        row('publish, 1 greenlet, a second', 'alone_rate', **ratio(goals[0])),
        row('  µs CPU a message', 'alone_us'),
        *asked('alone_statements', target='≤ 1.2', met=at_most(1.2)),
        row('publish, 100 greenlets, a second', 'many_rate', **ratio(goals[1])),
        row('  µs CPU a message', 'many_us'),
        *asked('many_statements', target='≤ 0.03', met=at_most(0.03)),
        row('consume + ack, prefetch 200, a second', 'consume_rate', **ratio(goals[2])),
        row('  µs CPU a message', 'consume_us'),
        *asked('consume_statements', target='≤ 0.04', met=at_most(0.04)),
        row('wake-up of a waiting consumer, ms, p50', 'wake_p50', target='≤ 2', met=at_most(2)),
        row('wake-up of a waiting consumer, ms, p99', 'wake_p99', target='≤ 10', met=at_most(10)),
        row('  of it after the publish has returned, p50', 'after_p50'),
        row('  of it after the publish has returned, p99', 'after_p99'),
        row(f'  one bare {bare}, with the same pauses, p50', 'floor_p50'),
        row(f'  one bare {bare}, with the same pauses, p99', 'floor_p99'),
        *([row('statements a second, idle', 'idle_statements', **idle)] if place else []),
        *crowd,
        row(f'a bare loop of {bare}, a second', 'floor_rate'),
    ]


def main(arguments: list[str]) -> int:
    options = parse('stores', __doc__, OPTIONS, arguments, rounds=3)
    if options.folder:
        os.environ['TMPDIR'] = tempfile.tempdir = os.path.abspath(options.folder)
    peers = pair(options.kombu_python)
    missed = 0
    with brokers.postgresql() as url:
        for stores in PAIRS:
            found = rows(peers, stores, options.messages, options.rounds, url)
            title = f'{stores.ours}:// and kombu {stores.shown}://'
            missed |= runner.show(title, peers, found, options.rounds)
    return missed


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
