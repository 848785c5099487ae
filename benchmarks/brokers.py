"""The brokers that are measured against: started here, or given as a URL."""
from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator


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
def redis(url: str | None = None) -> Iterator[str]:
    """The URL of a Redis that runs meanwhile, and writes nothing to disk."""
    if url:
        yield url
        return
    from tests.support.redis_server import Redis

    with _quietly(), Redis(durable=False) as server:  # type: ignore[no-untyped-call]
        yield server.url()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    # What starts servers for the tests skips a test if there is none; here that is the end.
    try:
        yield
    except BaseException as reason:
        if type(reason).__name__ in ('Skipped', 'Failed'):
            raise SystemExit(f'no broker to measure against: {reason}; give its URL') from None
        raise
