"""How long a claim takes with up to a million rows beside: kombu's dead ones, or messages that wait."""
from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks import brokers, report, runner
from benchmarks.options import parse

OPTIONS = ('quick', 'folder')

#: Rows beside those that are taken.
ROWS = (1000, 10_000, 100_000, 1_000_000)
#: In a quick run up to here.
QUICK = 100_000
#: Claims that are timed, and the messages of each.
CLAIMS, BATCH = 20, 100

#: As kombu leaves a row that it delivered, and as it publishes one; n from 1 on in a table `numbers`.
_DEAD = "false, CURRENT_TIMESTAMP, '{text}', 2"
_WAITING = "true, NULL, '{text}', 1"
_TEXT = '{}'.ljust(300)
_TO = (
    'INSERT INTO kombu_message ({id}visible, timestamp, payload, version, queue_id) '
    "SELECT {next}{row}, q.id FROM numbers JOIN kombu_queue q ON q.name = 'q'"
)


class Place(NamedTuple):
    """A store with a queue `q`: its URL, and how statements are run there."""

    url: str
    run: Callable[[str], Any]


@contextlib.contextmanager
def file() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as folder:
        yield Place(f'file://{folder}', lambda statement: _sqlite(f'{folder}/broker.db', statement))


@contextlib.contextmanager
def sqla_sqlite() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/kombu.db'
        yield Place(f'sqla+sqlite:///{path}', lambda statement: _sqlite(path, statement))


def _sqlite(path: str, statement: str) -> None:
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(statement)


@contextlib.contextmanager
def postgresql() -> Iterator[Place]:
    with brokers.postgresql() as url:
        yield Place(url, lambda statement: _psycopg(url, statement))


@contextlib.contextmanager
def pgmq() -> Iterator[Place]:
    from pgmq.install import get_embedded_install_sql, install_pgmq_sql

    with brokers.postgresql() as url:
        install_pgmq_sql(get_embedded_install_sql(), dsn=url)
        yield Place(url.replace('postgresql', 'pgmq', 1), lambda statement: _psycopg(url, statement))


def _psycopg(url: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as client:
        client.execute(statement)


@contextlib.contextmanager
def mariadb() -> Iterator[Place]:
    with brokers.mariadb() as (url, run):
        yield Place(url, run)


def _numbers(count: int, first: int = 1) -> str:
    return (
        'WITH RECURSIVE numbers(n) AS '
        f'(SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n < {first + count - 1}) '
    )


def _series(count: int) -> str:
    return f'WITH numbers AS (SELECT generate_series(1, {count})) '


class Store(NamedTuple):
    """Where claims are timed: how it is begun, and the statements that add rows beside."""

    begin: Callable[[], Any]
    add: dict[str, Callable[[int], str]]


def _sql(row: str) -> Callable[[int], str]:
    def text(count: int) -> str:
        return _numbers(count) + _TO.format(id='', next='', row=row.format(text=_TEXT))

    return text


def _mysql(row: str) -> Callable[[int], str]:
    def text(count: int) -> str:
        more = {'id': 'id, ', 'next': 'NEXTVAL(message_id_sequence), '}
        insert, _, select = _TO.format(**more, row=row.format(text=_TEXT)).partition('SELECT')
        limit = f'SET STATEMENT max_recursive_iterations = {count} FOR '
        return f'{limit}{insert}{_numbers(count)}SELECT{select}'

    return text


def _postgresql(row: str) -> Callable[[int], str]:
    def text(count: int) -> str:
        more = {'id': 'id, ', 'next': "nextval('message_id_sequence'), "}
        return _series(count) + _TO.format(**more, row=row.format(text=_TEXT))

    return text


STORES = {
    'file': Store(file, {
        'waiting': lambda count: _numbers(count) + (
            'INSERT INTO message (queue, priority, put_at, payload) '
            f"SELECT q.id, 0, 0, '{_TEXT}' FROM numbers JOIN queue q ON q.name = 'q'"
        ),
    }),
    'postgresql': Store(postgresql, {'dead': _postgresql(_DEAD), 'waiting': _postgresql(_WAITING)}),
    'pgmq': Store(pgmq, {
        'waiting': lambda count: _series(count) + (
            f"INSERT INTO pgmq.q_q (vt, message) SELECT now(), '{_TEXT}'::jsonb FROM numbers"
        ),
    }),
    'mariadb': Store(mariadb, {'dead': _mysql(_DEAD), 'waiting': _mysql(_WAITING)}),
    'sqla+sqlite': Store(sqla_sqlite, {'dead': _sql(_DEAD), 'waiting': _sql(_WAITING)}),
}  # fmt: skip


def timed(place: Place) -> list[float]:
    """Milliseconds of some claims, each settled before the next."""
    from greenmq import Connection, runtime

    found = []
    with Connection(place.url, connect_timeout=60) as connection:
        producer = connection.Producer(routing_key='q', serializer='json')
        tasks = [
            runtime.spawn(producer.publish, {'n': n}, name='publish') for n in range((CLAIMS + 3) * BATCH)
        ]
        for task in tasks:
            task.join(runtime.Deadline.after(120))
        driver = connection.transport.session.driver
        for turn in range(CLAIMS + 3):  # the first ones have their statements prepared
            start = time.perf_counter()
            taken = driver.take(['q'], BATCH, 1 << 30, 0.0)
            seconds = time.perf_counter() - start
            if len(taken) != BATCH:
                raise SystemExit(f'{place.url}: {len(taken)} messages in a claim of {BATCH}')
            driver.settle(taken, [], runtime.Deadline.after(30))
            if turn >= 3:
                found.append(1000 * seconds)
    return found


def grow(name: str, most: int) -> dict[str, list[tuple[int, list[float]]]]:
    """The times of claims, by what is beside."""
    from greenmq import Connection, Queue

    store: Store = STORES[name]
    points: dict[str, list[tuple[int, list[float]]]] = {}
    for what, add in store.add.items():
        with store.begin() as place:
            with Connection(place.url, connect_timeout=60) as connection:
                Queue('q', routing_key='q')(connection.default_channel).declare()
            there = 0
            for count in ROWS:
                if count > most:
                    continue
                place.run(add(count - there))
                there = count
                points.setdefault(f'{name}, {what}', []).append((count, timed(place)))
    return points


def main(arguments: list[str]) -> int:
    options = parse('claims', __doc__, OPTIONS, arguments)
    if options.folder:
        os.environ['TMPDIR'] = tempfile.tempdir = os.path.abspath(options.folder)
    found: dict[str, list[tuple[int, list[float]]]] = {}
    for name in STORES:
        found.update(grow(name, QUICK if options.quick else ROWS[-1]))
    title = f'a claim of {BATCH} messages, by the rows beside'
    rows = [
        (line, f'{count:,}', f'{min(times):.2f}', f'{min(times) / min(points[0][1]):.2f}',
         f'{statistics.median(times):.2f}')
        for line, points in found.items() for count, times in points
    ]
    # The least says what the statement costs; the median also what the machine did meanwhile.
    report.table(title, ('store', 'rows', 'ms, least', 'of the first', 'median'), rows,
                 f'of {CLAIMS} claims; {runner.machine()}')
    least = {line: [(count, min(times)) for count, times in points] for line, points in found.items()}
    report.lines(title, 'rows beside', 'ms', least, log_y=True)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
