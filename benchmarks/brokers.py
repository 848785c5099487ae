"""The brokers that are measured against: started here, or given as a URL."""
from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Protocol


class Missing(SystemExit):
    """There is no such broker on this machine: what is measured on it is left out."""


@contextlib.contextmanager
def given(url: str) -> Iterator[str]:
    """A URL that needs nothing started."""
    yield url


@contextlib.contextmanager
def amqp(url: str | None = None) -> Iterator[str]:
    """The URL of a RabbitMQ that runs meanwhile."""
    if url:
        yield url
        return
    from tests.support.rabbitmq import RabbitMQ

    with _quietly(), RabbitMQ() as server:  # type: ignore[no-untyped-call]
        server.create_vhost(name := f'bench-{uuid.uuid4().hex[:8]}')
        yield server.url(name)


@contextlib.contextmanager
def postgresql(url: str | None = None) -> Iterator[str]:
    """The URL of a PostgreSQL that runs meanwhile, brings commits to the disk, and counts statements."""
    if url:
        yield url
        return
    from tests.support.postgresql import PostgreSQL

    settings = {'fsync': 'on', 'shared_preload_libraries': 'pg_stat_statements'}
    with _quietly(), PostgreSQL(**settings) as server:  # type: ignore[no-untyped-call]
        yield server.url()


@contextlib.contextmanager
def mariadb() -> Iterator[tuple[str, Callable[[str], object]]]:
    """The URL of a database in a MariaDB that runs meanwhile, and what runs a statement there."""
    from tests.support.mariadb import MariaDB

    with _quietly(), MariaDB() as server:  # type: ignore[no-untyped-call]
        name = server.create_database()
        yield server.url(name), lambda statement: server.run(statement, database=name)


@contextlib.contextmanager
def redis(url: str | None = None) -> Iterator[str]:
    """The URL of a Redis that runs meanwhile, and writes nothing to disk."""
    if url:
        yield url
        return
    from tests.support.redis_server import Redis

    with _quietly(), Redis(durable=False) as server:  # type: ignore[no-untyped-call]
        yield server.url()


@contextlib.contextmanager
def zookeeper() -> Iterator[Callable[[str], str]]:
    """The URL of a ZooKeeper that runs meanwhile, by package."""
    from tests.support.zookeeper import ZooKeeper

    with _quietly(), ZooKeeper() as server:  # type: ignore[no-untyped-call]
        yield server.url


@contextlib.contextmanager
def mongodb() -> Iterator[Callable[[str], str]]:
    """The URL of a database in a FerretDB that runs meanwhile, by package."""
    from tests.support.mongodb import FerretDB

    with _quietly(), FerretDB() as server:  # type: ignore[no-untyped-call]
        yield server.url


#: What the probe of cloud queues finds there.
QUEUES = ('bench', 'bench-0', 'bench-1')


class Counting(Protocol):
    """What counts the calls between a client and its service."""

    @property
    def total(self) -> int:
        """Calls since the last reset."""

    def reset(self) -> None:
        """Begin to count anew."""


@contextlib.contextmanager
def sqs() -> Iterator[tuple[str, Counting]]:
    """The URL of an emulator of SQS that runs meanwhile, and what counts its calls."""
    from tests.support.http_proxy import HTTPProxy
    from tests.support.sqs_servers import Fauxqs

    with _quietly(), Fauxqs() as server, HTTPProxy(server.port) as proxy:  # type: ignore[no-untyped-call]
        for name in QUEUES:
            server.client().create_queue(QueueName=name)
        yield server.url(proxy.port).rstrip('/'), proxy


@contextlib.contextmanager
def storage_queues() -> Iterator[tuple[str, Counting]]:
    """The URL of an emulator of Azure Storage Queues that runs meanwhile, and what counts its calls."""
    from greenmq import Connection
    from tests.support.azurite import Azurite
    from tests.support.http_proxy import HTTPProxy

    # kombu knows this account alone, and its SDK asks for the newest version of the API.
    server = Azurite('--skipApiVersionCheck')  # type: ignore[no-untyped-call]
    with _quietly(), server, HTTPProxy(server.port) as proxy:  # type: ignore[no-untyped-call]
        with Connection(server.url(account='devstoreaccount1')) as connection:
            for name in QUEUES:
                connection.default_channel.queue_declare(name)
        yield server.url(proxy.port, account='devstoreaccount1'), proxy


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    # What starts servers for the tests skips a test if there is none.
    try:
        yield
    except BaseException as reason:
        if type(reason).__name__ in ('Skipped', 'Failed'):
            raise Missing(f'no broker to measure against: {reason}') from None
        raise
