"""Redis: publish from one and from 100 greenlets, consume + ack, wake-up, idle consumers, against kombu."""

from __future__ import annotations

import sys
import time

from benchmarks import brokers, runner
from benchmarks.options import parse
from benchmarks.peers import Peer, pair
from benchmarks.runner import Figure, Row, at_least_ratio, at_most

OPTIONS = ('rounds', 'messages', 'quick', 'redis_url', 'kombu_python')


def rows(peers: tuple[Peer, Peer], url: str, messages: int, count: int) -> list[Row]:
    arguments = {'greenmq': [url, str(messages)], 'kombu': [url, str(messages // 10)]}
    found = runner.rounds(peers, 'benchmarks.probes.redis', arguments, count)
    ours, theirs = (found[peer.package] for peer in peers)

    def row(what: str, name: str, **target: object) -> Row:
        return Row(what, Figure.of(ours, name), Figure.of(theirs, name), **target)  # type: ignore[arg-type]

    return [
        row('publish, 1 greenlet, a second', 'alone_rate', target='≥ 4 × kombu', met=at_least_ratio(4)),
        row('  µs CPU a message', 'alone_us'),
        row('publish, 100 greenlets, a second', 'many_rate', target='≥ 20 × kombu', met=at_least_ratio(20)),
        row('  µs CPU a message', 'many_us', target='≤ 25', met=at_most(25)),
        row(
            'consume + ack, prefetch 200, a second',
            'consume_rate',
            target='≥ 20 × kombu',
            met=at_least_ratio(20),
        ),
        row('  µs CPU a message', 'consume_us', target='≤ 20', met=at_most(20)),
        row('wake-up of a waiting consumer, ms, p50', 'wake_p50'),
        row('wake-up of a waiting consumer, ms, p99', 'wake_p99', target='≤ 2', met=at_most(2)),
    ]


def idle(url: str, consumers: int, seconds: float) -> str:
    """What so many idle consumers, each on a connection of its own, cost the server."""
    from greenmq import Connection, Queue, runtime

    opened = [Connection(url) for _ in range(consumers)]
    for number, connection in enumerate(opened):
        connection.connect()
        connection.Consumer([Queue(f'idle{number}')], callbacks=[print]).consume()
    server = opened[0].transport.session.driver.server

    def used() -> tuple[float, int]:
        text = bytes(server.execute(('INFO', 'everything'))).decode()
        facts = dict(line.split(':', 1) for line in text.splitlines() if ':' in line)
        cpu = float(facts['used_cpu_user']) + float(facts['used_cpu_sys'])
        return cpu, int(facts['total_commands_processed'])

    runtime.sleep(1)
    start, (cpu, commands) = time.perf_counter(), used()
    runtime.sleep(seconds)
    passed, (cpu_after, commands_after) = time.perf_counter() - start, used()
    for connection in opened:
        connection.close()
    return (
        f'  {consumers} idle consumers: {100 * (cpu_after - cpu) / passed:.2f} % CPU of the server, '
        f'{(commands_after - commands) / passed:.1f} commands a second (target ≤ 1 %)'
    )


def main(arguments: list[str]) -> int:
    options = parse('redis', __doc__, OPTIONS, arguments)
    peers = pair(options.kombu_python)
    with brokers.redis(options.redis_url) as url:
        found = rows(peers, url, options.messages, options.rounds)
        outcome = runner.show('redis://', peers, found, options.rounds)
        print(idle(url, 50, 10.0))
    return outcome


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
