"""Import of the package and of the five names every program takes, in fresh processes, against kombu."""
from __future__ import annotations

import sys
import tempfile

from benchmarks import runner
from benchmarks.options import parse
from benchmarks.peers import Peer, pair
from benchmarks.runner import Figure, Row

OPTIONS = ('rounds', 'kombu_python')

#: A single import jitters by a third; its median over so many does not.
ROUNDS = 11


def rows(peers: tuple[Peer, Peer], count: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as cache:
        runner.rounds(peers, 'benchmarks.probes.imports', [cache], 1)  # compiles
        results = runner.rounds(peers, 'benchmarks.probes.imports', [cache], count)
    ours, theirs = (results[peer.package] for peer in peers)
    return [
        Row(what, Figure.of(ours, name), Figure.of(theirs, name), "≤ kombu's", runner.at_most_ratio(1.0))
        for what, name in (('import of the package, ms', 'alone_ms'),
                           ('import of Connection … Consumer, ms', 'names_ms'))
    ]


def main(arguments: list[str]) -> int:
    options = parse('imports', __doc__, OPTIONS, arguments, rounds=ROUNDS)
    peers = pair(options.kombu_python)
    return runner.show('import', peers, rows(peers, options.rounds), options.rounds)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
