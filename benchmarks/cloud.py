"""Amazon SQS (fauxqs) and Azure Storage Queues (Azurite): calls and client CPU a message, against kombu."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from benchmarks import brokers, runner
from benchmarks.options import parse
from benchmarks.peers import Peer, pair
from benchmarks.runner import Figure, Result, Row, at_most, at_most_ratio

OPTIONS = ('rounds', 'messages', 'quick', 'kombu_python')
PROBE = 'benchmarks.probes.cloud'
#: kombu speaks to SQS in the clear, and long polls, only if it is told.
SQS_OPTIONS = {
    'greenmq': {'region': 'us-east-1'},
    'kombu': {'region': 'us-east-1', 'is_secure': False, 'wait_time_seconds': 10},
}
#: kombu makes and deletes messages one by one: what it needs for so many tells enough.
FEWER = 5
#: Seconds until a consumer's looks at an idle queue are as rare as they get.
SETTLING = 8


class Phases:
    """One peer on one broker, behind the counting proxy."""

    def __init__(self, peer: Peer, url: str, options: dict[str, object], proxy: brokers.Counting) -> None:
        self._peer = peer
        self._arguments = [url, json.dumps(options)]
        self._proxy = proxy

    def run(self, phase: str, count: int) -> Result:
        """The figures of one phase, the number of `calls` among them."""
        self._proxy.reset()
        result = runner.once(self._peer, PROBE, [*self._arguments, phase, str(count)])
        return {**result, 'calls': self._proxy.total}


def measured(phases: Phases, messages: int) -> Result:
    """All phases of one round with messages."""
    one, two = phases.run('declare', 1), phases.run('declare', 2)
    published = phases.run('publish', messages)
    consumed = phases.run('consume', int(published['messages']))  # what is left would not be an idle queue
    return {
        'declare': two['calls'] - one['calls'],
        'publish_calls': 1000 * published['calls'] / published['messages'],
        'publish_us': published['us'],
        'consume_calls': 1000 * consumed['calls'] / published['messages'],
        'consume_us': consumed['us'],
    }


def idled(phases: Phases, seconds: int) -> Result:
    """Calls a minute of a consumer to whom nothing comes; once, since they are counted and it takes long."""
    # The first pauses are shorter than those after them.
    settled, passed = phases.run('idle', SETTLING), phases.run('idle', SETTLING + seconds)
    return {'idle': 60 * (passed['calls'] - settled['calls']) / seconds}


def table(
    title: str, peers: tuple[Peer, Peer], phases: Sequence[Phases], messages: int, count: int, idle: int,
    targets: dict[str, dict[str, object]],
) -> int:  # fmt: skip
    found: list[list[Result]] = [[], []]
    for _ in range(count):
        for at, each in enumerate(phases):
            found[at].append(measured(each, messages // (FEWER if at else 1)))
    waited = [[idled(each, idle)] for each in phases]

    def row(what: str, name: str, results: Sequence[Sequence[Result]] = found) -> Row:
        figures = [Figure.of(each, name) for each in results]
        return Row(what, *figures, **targets.get(name, {}))  # type: ignore[arg-type]

    return runner.show(title, peers, [
        row('calls, to declare a queue that is there', 'declare'),
        row('calls, 1,000 publishes of 100 greenlets', 'publish_calls'),
        row('  µs CPU a message', 'publish_us'),
        row('calls, 1,000 received and acked', 'consume_calls'),
        row('  µs CPU a message', 'consume_us'),
        row('calls a minute, idle', 'idle', waited),
    ], count)  # fmt: skip


def target(limit: float) -> dict[str, object]:
    return {'target': f'≤ {limit:g}', 'met': at_most(limit)}


def quarter() -> dict[str, object]:
    return {'target': '≤ ¼ of kombu', 'met': at_most_ratio(0.25)}


def main(arguments: list[str]) -> int:
    options = parse('cloud', __doc__, OPTIONS, arguments, rounds=3, messages=5000)
    peers = pair(options.kombu_python)
    idle = 30 if options.quick else 60
    with brokers.sqs() as (url, proxy):
        phases = [Phases(peer, url, SQS_OPTIONS[peer.package], proxy) for peer in peers]
        missed = table('sqs://', peers, phases, options.messages, options.rounds, idle, {
            'declare': target(1), 'publish_calls': target(130), 'publish_us': target(120),
            'consume_calls': target(215), 'consume_us': target(180), 'idle': target(3),
        })  # fmt: skip
    with brokers.storage_queues() as (url, proxy):
        phases = [Phases(peer, url, {}, proxy) for peer in peers]
        missed |= table('azurestoragequeues://', peers, phases, options.messages, options.rounds, idle, {
            'declare': target(1), 'publish_us': quarter(), 'consume_us': quarter(), 'idle': target(12),
        })  # fmt: skip
    return missed


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
