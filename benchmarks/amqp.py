"""AMQP against its targets: CPU a message, rates against the C client and kombu, and an idle connection.

`clients` has the other clients: here they would cost an hour, and no target names them.
"""
from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from benchmarks import brokers, report, runner
from benchmarks.options import parse
from benchmarks.peers import Peer, amqp_clients
from benchmarks.runner import Figure, Result

OPTIONS = ('rounds', 'messages', 'quick', 'peers', 'amqp_url')

PROBE = 'benchmarks.probes.clients'
#: Name, task of the probe, callers at once, part of --messages, bytes of the body (0: a JSON object of 256).
WORK = (
    ('publish', 'publish', 1, 1.0, 0),
    ('consume', 'consume', 1, 1.0, 0),
    ('confirm 1', 'confirm', 1, 0.3, 0),
    ('confirm 100', 'confirm', 100, 0.5, 0),
    # Enough of them for the first pages that are touched not to be what is measured.
    ('publish 1 MB', 'publish', 1, 0.02, 1_000_000),
    ('consume 1 MB', 'consume', 1, 0.02, 1_000_000),
)
C, KOMBU = 'librabbitmq (C)', 'kombu patched'
#: Those that a target names.
JUDGED = ('greenmq', KOMBU, C)
IDLE_SECONDS = 10

Results = Mapping[str, Mapping[str, Sequence[Result]]]


def measure(peers: Sequence[Peer], url: str, messages: int, count: int) -> Results:
    """Results by the name of the work, then by peer."""
    found = {}
    for name, task, callers, part, size in WORK:
        number = max(100, int(messages * part))
        fit = [peer for peer in peers if _can(peer, task, callers, size)]
        found[name] = runner.rounds(fit, PROBE, [url, task, str(number), str(size), str(callers)], count)
    return found


def _can(peer: Peer, task: str, callers: int, size: int) -> bool:
    if size and peer.label not in ('greenmq', C):
        return False  # hundreds of megabytes at the broker: some give up before it has read them
    if task != 'confirm':
        return True
    # The C client waits for nothing by itself; of the others only these have more than one caller.
    return not peer.program and (callers == 1 or peer.package in ('greenmq', 'aio_pika') or peer.patched)


def targets(found: Results, idle: Sequence[Result]) -> list[tuple[str, ...]]:
    """Each target with what was measured, and whether it is met."""
    def figure(work: str, name: str, peer: str = 'greenmq') -> Figure | None:
        results = found[work].get(peer)
        return Figure.of(results, name) if results else None

    def ratio(work: str, peer: str, base: str | None = None) -> Figure | None:
        ours, theirs = figure(work, 'per_second'), figure(base or work, 'per_second', peer)
        if ours is None or theirs is None:
            return None
        # Of each turn by itself: what slowed the machine down in one slowed both.
        return Figure(tuple(one / other for one, other in zip(ours.values, theirs.values, strict=True)))

    wakeups = Figure.of(idle, 'switches_per_beat') if idle else None
    return [
        _most('publish, µs CPU', figure('publish', 'cpu_us'), 7),
        _most('consume + ack, µs CPU', figure('consume', 'cpu_us'), 12),
        _least('publish, rate to the C client', ratio('publish', C), 0.95),
        _least('consume, rate to the C client', ratio('consume', C), 0.95),
        _least('confirm, 1 caller, rate to kombu', ratio('confirm 1', KOMBU), 1),
        _least('confirm, 100 callers, rate to kombu', ratio('confirm 100', KOMBU), 5),
        _least('confirm, 100 callers, to unconfirmed', ratio('confirm 100', 'greenmq', 'publish'), 0.6),
        _most('confirm, 100 callers, µs CPU', figure('confirm 100', 'cpu_us'), 18),
        _least('1 MB publish, rate to the C client', ratio('publish 1 MB', C), 0.8),
        _least('1 MB consume, rate to the C client', ratio('consume 1 MB', C), 0.8),
        # The beat's task and the writer for ours, the reader for the broker's, each to and from the hub.
        _most('idle, switches a half heartbeat', wakeups, 8),
    ]


def _most(what: str, value: Figure | None, limit: float) -> tuple[str, ...]:
    return _verdict(what, value, f'≤ {limit:g}', lambda found: found <= limit)


def _least(what: str, value: Figure | None, limit: float) -> tuple[str, ...]:
    return _verdict(what, value, f'≥ {limit:g}', lambda found: found >= limit)


def _verdict(what: str, value: Figure | None, target: str, met: Callable[[float], bool]) -> tuple[str, ...]:
    if value is None:
        return what, '–', target, 'not measured'
    return what, str(value), target, 'met' if met(value.median) else 'NOT MET'


def show(found: Results, rows: Sequence[tuple[str, ...]], versions: Mapping[str, str], count: int) -> None:
    for name, results in found.items():
        report.table(name, ('client', 'per second', 'µs CPU'),
                     [(versions[label], str(Figure.of(each, 'per_second')), str(Figure.of(each, 'cpu_us')))
                      for label, each in results.items()],
                     f'median [min–max] of {count} rounds in turns; {runner.machine()}')
    note = f'median [min–max] of {count} turns of one run'
    report.table('targets', ('', 'measured', 'target', ''), rows, note)


def main(arguments: list[str]) -> int:
    options = parse('amqp', __doc__, OPTIONS, arguments, rounds=9)
    peers = [peer for peer in amqp_clients(options.peers) if options.peers or peer.label in JUDGED]
    ours = [peer for peer in peers if peer.label == 'greenmq']
    versions = {peer.label: f'{peer.label} {peer.version()}' for peer in peers}
    with brokers.amqp(options.amqp_url) as url:
        found = measure(peers, url, options.messages, options.rounds)
        idle = runner.rounds(ours, 'benchmarks.probes.idle', [url, str(IDLE_SECONDS)], 1).get('greenmq', [])
    rows = targets(found, idle)
    show(found, rows, versions, options.rounds)
    return int(any(row[-1] == 'NOT MET' for row in rows))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
