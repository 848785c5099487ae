"""AMQP on RabbitMQ through every client a user may pick: rate, CPU, memory, connections, latency, sizes."""
from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence

from benchmarks import brokers, report, runner
from benchmarks.options import parse
from benchmarks.peers import Peer, amqp_clients
from benchmarks.runner import Figure, Result

OPTIONS = ('rounds', 'messages', 'quick', 'peers', 'amqp_url')

PROBE = 'benchmarks.probes.clients'
#: Task of the probe, callers at once, and the part of --messages it gets: a confirm is a round trip.
WORK = (
    ('publish', 'publish', 1, 1.0),
    ('consume + ack', 'consume', 1, 1.0),
    ('confirmed publish, 1 caller', 'confirm', 1, 0.1),
    ('confirmed publish, 100 callers', 'confirm', 100, 0.4),
)
#: It looks for a confirm every 10 ms: of its messages a tenth tells as much in a tenth of the time.
POLLS = 'amqpstorm'
SIZES = (16, 256, 4096, 65_536, 1_048_576)
COLUMNS = ('per second', 'ratio', 'µs CPU', 'ratio', 'peak MB', 'connections')


def compare(peers: Sequence[Peer], url: str, messages: int, count: int) -> None:
    versions = {peer.label: f'{peer.label} {peer.version()}' for peer in peers}
    for title, task, callers, part in WORK:
        fit = [peer for peer in peers if _can(peer, task, callers)]
        numbers = {peer.label: int(messages * part) for peer in fit}
        if task == 'confirm' and POLLS in numbers:
            numbers[POLLS] //= 10
        arguments = {label: [url, task, str(number), '0', str(callers)] for label, number in numbers.items()}
        results = runner.rounds(fit, PROBE, arguments, count)
        report.table(title, (f'client, {int(messages * part)} messages', *COLUMNS),
                     [_row(versions[label], found, results) for label, found in results.items()],
                     f'median [min–max] of {count} rounds in turns, ratio greenmq to it; {runner.machine()}')
        for unit, name in (('messages a second', 'per_second'), ('µs of client CPU a message', 'cpu_us')):
            report.bars(title, unit, {label: _spread(found, name) for label, found in results.items()})
        if task == 'confirm':
            _latencies(title, results)


def _can(peer: Peer, task: str, callers: int) -> bool:
    if task != 'confirm':
        return True
    # The C client waits for nothing by itself; of the others only these have more than one caller.
    return not peer.program and (callers == 1 or peer.package in ('greenmq', 'aio_pika') or peer.patched)


def _row(name: str, found: Sequence[Result], results: Mapping[str, Sequence[Result]]) -> tuple[str, ...]:
    cells = [name]
    for column in ('per_second', 'cpu_us'):
        figure = Figure.of(found, column)
        ours = Figure.of(results['greenmq'], column).median if 'greenmq' in results else float('nan')
        cells += [str(figure), f'{ours / figure.median:.2f}']
    cells += [f'{Figure.of(found, "peak_mb").median:.0f}', f'{Figure.of(found, "connections").median:.0f}']
    return tuple(cells)


def _spread(found: Sequence[Result], name: str) -> tuple[float, float, float]:
    figure = Figure.of(found, name)
    return figure.median, min(figure.values), max(figure.values)


def _latencies(title: str, results: Mapping[str, Sequence[Result]]) -> None:
    def curve(found: Sequence[Result]) -> list[tuple[float, float]]:
        steps = len(found[0]['latency_ms']) - 1
        return [(100 * step / steps, statistics.median(each['latency_ms'][step] for each in found))
                for step in range(steps + 1)]

    report.lines(f'{title}: latency distribution', '% of the publishes that took at most so long', 'ms',
                 {label: curve(found) for label, found in results.items()}, log_x=False, log_y=True)


def sizes(peers: Sequence[Peer], url: str, messages: int, count: int) -> None:
    fit = [peer for peer in peers if peer.label in ('greenmq', 'kombu', 'py-amqp', 'librabbitmq (C)')]
    rates: dict[str, list[tuple[float, float]]] = {}
    costs: dict[str, list[tuple[float, float]]] = {}
    rows = []
    for size in SIZES:
        number = max(40, min(messages, 40_000_000 // max(size, 2000)))
        results = runner.rounds(fit, PROBE, [url, 'publish', str(number), str(size)], count)
        for label, found in results.items():
            rates.setdefault(label, []).append((size, size / 1e6 * Figure.of(found, 'per_second').median))
            costs.setdefault(label, []).append((size, Figure.of(found, 'cpu_us').median))
        rows.append((f'{size} B', *(f'{costs[label][-1][1]:.3g} µs, {rates[label][-1][1]:.3g} MB/s'
                                    for label in costs)))
    report.table('publish by message size', ('size', *costs), rows, 'CPU a message and rate')
    report.lines('publish by message size', 'bytes', 'MB a second', rates, log_y=True)
    report.lines('publish by message size', 'bytes', 'µs of client CPU a message', costs, log_y=True)


def main(arguments: list[str]) -> int:
    options = parse('clients', __doc__, OPTIONS, arguments)
    peers = amqp_clients(options.peers)
    with brokers.amqp(options.amqp_url) as url:
        compare(peers, url, options.messages, options.rounds)
        sizes(peers, url, options.messages, options.rounds)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
