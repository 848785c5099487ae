"""Import of the package and of the five names every program takes, in fresh processes, against kombu."""
from __future__ import annotations

import argparse
import sys
import tempfile

from benchmarks import runner
from benchmarks.peers import Peer, add_options, pair
from benchmarks.runner import Figure, Row

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
    parser = argparse.ArgumentParser(prog='python -m benchmarks.imports', description=__doc__)
    parser.add_argument('--rounds', type=int, default=ROUNDS)
    add_options(parser)
    options = parser.parse_args(arguments)
    peers = pair(options)
    return runner.show('import', peers, rows(peers, options.rounds), options.rounds)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
