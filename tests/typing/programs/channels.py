"""The channels of all transports are what `greenmq.types` says a channel is, and so are futures."""

from __future__ import annotations

from greenmq import runtime
from greenmq.transport import memory, pyamqp, redis, virtual
from greenmq.types import Channel, Future


def channels(
    amqp: pyamqp.Channel, in_process: memory.Channel, on_redis: redis.Channel, of_others: virtual.Channel
) -> list[Channel]:
    return [amqp, in_process, on_redis, of_others]


def future(found: runtime.Future) -> Future:
    return found
