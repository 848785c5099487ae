"""kombu's names of this transport that programs import, and that nothing here needs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis.exceptions

from greenmq.log import get_logger
from greenmq.transport.redis import bindings, errors

__all__ = (
    'BINDING_EXPIRES_FACTOR', 'BINDING_SWEEP_INTERVAL', 'DEFAULT_REAUTH_CHECK_INTERVAL', 'MIN_BINDING_TTL',
    'SUBCLIENT_MAX_MISSED_HEALTH_CHECKS', 'Mutex', 'MutexHeld', 'crit', 'error_classes_t',
    'get_redis_ConnectionError', 'get_redis_error_classes', 'warning',
)  # fmt: skip

logger = get_logger('greenmq.transport.redis')
crit, warning = logger.critical, logger.warning

BINDING_EXPIRES_FACTOR = bindings.EXPIRES_FACTOR
BINDING_SWEEP_INTERVAL = 60
MIN_BINDING_TTL = bindings.MIN_TTL
DEFAULT_REAUTH_CHECK_INTERVAL = 10
SUBCLIENT_MAX_MISSED_HEALTH_CHECKS = 2

_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class error_classes_t(NamedTuple):
    """What is raised when a connection, and when a command fails.

    Source: kombu error_classes_t.
    """

    connection_errors: tuple[type[BaseException], ...]
    channel_errors: tuple[type[BaseException], ...]


def get_redis_error_classes() -> error_classes_t:
    """Return the error classes of the transport.

    Source: kombu get_redis_error_classes.
    """
    return error_classes_t(errors.connection_errors, errors.channel_errors)


def get_redis_ConnectionError() -> type[Exception]:
    """Return redis-py's ConnectionError.

    Source: kombu get_redis_ConnectionError.
    """
    return redis.exceptions.ConnectionError


class MutexHeld(Exception):
    """Somebody else has the lock of `Mutex`.

    Source: kombu MutexHeld.
    """


@contextmanager
def Mutex(client: Any, name: str, expire: float) -> Iterator[None]:
    """A lock in Redis, for as long as the block runs and at most `expire` seconds.

    Arguments:
        client (redis.Redis): the caller's own; it blocks as that does.
        name (str): the key.
        expire (float): seconds.
    Raises:
        MutexHeld: somebody else has it.
    Switches: as the client's calls.
    Source: kombu Mutex.
    """
    token = uuid.uuid4().hex
    if not client.set(name, token, nx=True, px=int(expire * 1000)):
        raise MutexHeld()
    try:
        yield
    finally:
        client.eval(_RELEASE, 1, name, token)
