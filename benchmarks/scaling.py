"""How a message's cost grows with greenlets, connections, queues, bindings, consumers, the unacknowledged."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import brokers, clients, report, runner
from benchmarks.options import parse
from benchmarks.peers import Peer, amqp_clients, environment
from benchmarks.runner import Figure

OPTIONS = ('rounds', 'messages', 'quick', 'amqp_url', 'redis_url')

PROBE = 'benchmarks.probes.scaling'
FLAT = 1.3


@dataclass(frozen=True)
class Growth:
    """What grows, on which transport, through which numbers."""

    what: str
    memory: Sequence[int] = ()
    amqp: Sequence[int] = ()
    redis: Sequence[int] = ()
    #: Of so many a message may cost `FLAT` times what it costs with one.
    flat: int = 0

    def numbers(self, scheme: str) -> Sequence[int]:
        return {'memory': self.memory, 'amqp': self.amqp, 'redis': self.redis}[scheme]


GROWTHS = (
    # On AMQP a publish waits for its confirm: alone it costs more than among others.
    Growth('greenlets', (1, 10, 100, 1000), (1, 10, 100, 1000), flat=1000),
    Growth('connections', (1, 10, 100), (1, 10, 100)),
    Growth('queues', (1, 10, 100, 1000), (1, 10, 100, 1000), (1, 10, 100, 1000), flat=1000),
    Growth('bindings', (1, 10, 100, 1000, 10_000), (1, 10, 100, 1000)),
    Growth('consumers', (1, 10, 100, 1000), (1, 10, 100, 1000), (1, 10, 100, 1000), flat=1000),
    Growth('outstanding', (1000, 10_000, 100_000, 1_000_000), (1000, 10_000, 100_000)),
)
#: From here on the set-up alone takes longer than the figure is worth in a quick run.
QUICK = 100_000


def grow(growth: Growth, urls: dict[str, str], count: int, quick: bool) -> bool:
    """A table and a plot: CPU a message on each transport. False if it grows more than it may."""
    flat = True
    costs: dict[str, list[tuple[float, float]]] = {}
    rows = []
    ours = [Peer('greenmq', environment())]
    for scheme, url in urls.items():
        for number in growth.numbers(scheme):
            if quick and number > QUICK:
                continue
            found = runner.rounds(ours, PROBE, [url, growth.what, str(number)], count)['greenmq']
            cost = Figure.of(found, 'cpu_us')
            costs.setdefault(scheme, []).append((number, cost.median))
            ratio = cost.median / costs[scheme][0][1]
            met = ratio <= FLAT or number != growth.flat
            flat = flat and met
            rows.append((scheme, f'{number:,}', str(cost), f'{ratio:.2f}',
                         f'≤ {FLAT} {"met" if met else "NOT MET"}' if number == growth.flat else '',
                         str(Figure.of(found, 'per_second')), f'{Figure.of(found, "peak_mb").median:.0f}'))
    head = ('transport', growth.what, 'µs CPU a message', 'of the first', 'target', 'per second', 'peak MB')
    report.table(f'scaling: {growth.what}', head, rows,
                 f'median [min–max] of {count} rounds')
    report.lines(f'scaling: {growth.what}', growth.what, 'µs of client CPU a message', costs)
    return flat


def confirms(url: str, count: int, messages: int) -> None:
    """Confirmed publishes from more and more callers, beside those clients that can have several."""
    rates: dict[str, list[tuple[float, float]]] = {}
    costs: dict[str, list[tuple[float, float]]] = {}
    rows = []
    peers = [peer for peer in amqp_clients() if peer.package in ('greenmq', 'aio_pika') or peer.patched]
    for callers in (1, 10, 100, 1000):
        # A connection a caller: a thousand of them are no rival but an outage.
        fit = [peer for peer in peers if callers <= 100 or not peer.patched]
        number = max(messages // 10 if callers == 1 else messages, callers)
        found = runner.rounds(fit, clients.PROBE, [url, 'confirm', str(number), '0', str(callers)], count)
        for label, results in found.items():
            rate, cost = Figure.of(results, 'per_second'), Figure.of(results, 'cpu_us')
            rates.setdefault(label, []).append((callers, rate.median))
            costs.setdefault(label, []).append((callers, cost.median))
            rows.append((label, f'{callers:,}', str(rate), str(cost),
                         f'{Figure.of(results, "connections").median:.0f}'))
    rows.sort(key=lambda row: row[0])
    title = 'scaling: confirmed publishes by callers'
    report.table(title, ('client', 'callers', 'per second', 'µs CPU a message', 'connections'), rows,
                 f'median [min–max] of {count} rounds in turns')
    report.lines(title, 'greenlets or tasks', 'messages a second', rates)
    report.lines(title, 'greenlets or tasks', 'µs of client CPU a message', costs)


def main(arguments: list[str]) -> int:
    options = parse('scaling', __doc__, OPTIONS, arguments, rounds=3, messages=5000)
    with brokers.amqp(options.amqp_url) as url, brokers.redis(options.redis_url) as redis:
        confirms(url, options.rounds, options.messages)
        urls = {'memory': 'memory://', 'amqp': url, 'redis': redis}
        flat = [grow(growth, urls, options.rounds, options.quick) for growth in GROWTHS]
    return int(not all(flat))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
