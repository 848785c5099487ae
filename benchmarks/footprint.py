"""Memory of an idle connection, channel, consumer, and of a greenlet that waits for its publish."""
from __future__ import annotations

import sys
from collections.abc import Mapping

from benchmarks import brokers, runner
from benchmarks.options import parse
from benchmarks.peers import Peer, pair
from benchmarks.runner import Figure, Row, at_most

OPTIONS = ('rounds', 'amqp_url', 'redis_url', 'kombu_python')

PROBE = 'benchmarks.probes.footprint'
#: Of each that are made: fewer than a hundred, and what is made once for all counts too much.
NUMBER = 100
#: KB that each may take: what it took when this was written, and a fifth more.
TARGETS: Mapping[str, Mapping[str, float]] = {
    'amqp': {'connection': 40, 'channel': 2.7, 'consumer': 4, 'publish': 7},
    'redis': {'connection': 52, 'channel': 1.5, 'publish': 8},
    'memory': {'connection': 11, 'channel': 2.3, 'consumer': 7},
}
#: kombu's greenlets cannot share a connection: beside one that waits for its publish stands one that sleeps.
ALONE = ('publish',)
NAMES = {'publish': 'greenlet that waits for its publish'}


def rows(peers: tuple[Peer, Peer], scheme: str, url: str, count: int) -> list[Row]:
    ours, theirs = peers
    found = []
    for what, most in TARGETS[scheme].items():
        name = NAMES.get(what, what)
        if what in ALONE:
            own = runner.rounds([ours], PROBE, [url, what, str(NUMBER)], count)[ours.label]
            bare = runner.rounds([ours], PROBE, ['memory://', 'sleep', str(NUMBER)], count)[ours.label]
            name += ' (beside: a bare one that sleeps)'
        else:
            both = runner.rounds(peers, PROBE, [url, what, str(NUMBER)], count)
            own, bare = both[ours.label], both[theirs.label]
        found.append(Row(f'{name}, KB allocated', Figure.of(own, 'allocated'), Figure.of(bare, 'allocated'),
                         f'≤ {most:g}', at_most(most)))
        found.append(Row('  KB resident', Figure.of(own, 'resident'), Figure.of(bare, 'resident')))
    return found


def main(arguments: list[str]) -> int:
    options = parse('footprint', __doc__, OPTIONS, arguments, rounds=3)
    peers = pair(options.kombu_python)
    missed = 0
    with brokers.amqp(options.amqp_url) as amqp, brokers.redis(options.redis_url) as redis:
        for scheme, url in (('amqp', amqp), ('redis', redis), ('memory', 'memory://')):
            found = rows(peers, scheme, url, options.rounds)
            missed |= runner.show(f'{scheme}:// memory of each', peers, found, options.rounds)
    return missed


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
