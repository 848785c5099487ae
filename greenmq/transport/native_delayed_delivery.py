"""Delayed messages on RabbitMQ without a plugin: a chain of queues whose time to live is a power of two.

A delay of n seconds is written as 28 binary digits in front of the routing key. Level k holds a message for
2**k seconds if its digit is 1 and passes it on at once if it is 0; behind level 0 stands the delivery
exchange, to which the exchanges of the real queues are bound. Names and patterns are those Celery's workers
expect.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from greenmq.entity import Exchange, Queue, binding
from greenmq.log import get_logger

if TYPE_CHECKING:
    from greenmq.connection import Connection

logger = get_logger(__name__)

MAX_NUMBER_OF_BITS_TO_USE = 28
MAX_LEVEL = MAX_NUMBER_OF_BITS_TO_USE - 1
CELERY_DELAYED_DELIVERY_EXCHANGE = 'celery_delayed_delivery'
_DELAYED = re.compile(rf'^(?:[01]\.){{{MAX_NUMBER_OF_BITS_TO_USE}}}')

QUEUE_TYPES = ('classic', 'quorum')


def _named(name: str, prefix: str | None) -> str:
    return f'{prefix}_{name}' if prefix else name


def level_name(level: int, prefix: str | None = None) -> str:
    """The name of the exchange and the queue of one level.

    Arguments:
        level (int): 0 to `MAX_LEVEL`.
        prefix (str): keeps several chains of one virtual host apart.
    Raises:
        ValueError: a level below 0.
    Source: kombu.transport.native_delayed_delivery.level_name.
    """
    if level < 0:
        raise ValueError(f'level must be a non-negative number: {level!r}')
    return _named(f'celery_delayed_{level}', prefix)


def declare_native_delayed_delivery_exchanges_and_queues(
    connection: Connection, queue_type: str, prefix: str | None = None
) -> None:
    """Declare the whole chain: 28 exchanges, 28 queues and the delivery exchange.

    Arguments:
        connection (Connection): to a RabbitMQ.
        queue_type (str): 'classic', or 'quorum', whose messages are dead-lettered at least once.
        prefix (str): as for `level_name`.
    Raises:
        ValueError: another queue type.
        PreconditionFailed: a chain of the other queue type is there.
    Switches: yes.
    Source: kombu.transport.native_delayed_delivery.
    """
    if queue_type not in QUEUE_TYPES:
        raise ValueError(f'queue_type must be either classic or quorum, not {queue_type!r}')
    channel = connection.channel()
    try:
        delivery = _named(CELERY_DELAYED_DELIVERY_EXCHANGE, prefix)
        Exchange(delivery, type='topic')(channel).declare()
        for level in range(MAX_LEVEL + 1):
            name = level_name(level, prefix)
            below = level_name(level - 1, prefix) if level else delivery
            _declare_level(channel, level, name, below, queue_type)
    finally:
        channel.close()


def _declare_level(channel: Any, level: int, name: str, below: str, queue_type: str) -> None:
    # The digits of the levels above this one stand before its own, so that many words are skipped.
    skipped = '*.' * (MAX_LEVEL - level)
    exchange = Exchange(name, type='topic')(channel)
    exchange.declare()
    arguments = {
        'x-queue-type': queue_type,
        'x-overflow': 'reject-publish',
        'x-message-ttl': 2**level * 1000,
        'x-dead-letter-exchange': below,
    }
    if queue_type == 'quorum':
        arguments['x-dead-letter-strategy'] = 'at-least-once'
    waits = binding(exchange, routing_key=f'{skipped}1.#')
    Queue(name, bindings=[waits], queue_arguments=arguments, durable=True)(channel).declare()
    Exchange(below, type='topic')(channel).bind_to(name, routing_key=f'{skipped}0.#')


def bind_queue_to_native_delayed_delivery_exchange(
    connection: Connection, queue: Queue, prefix: str | None = None
) -> None:
    """Let delayed messages reach a queue.

    A direct exchange compares whole routing keys, digits and all, so nothing delayed can pass one: such
    bindings are logged and left alone.

    Arguments:
        queue (Queue): declared, with its exchange or bindings.
        prefix (str): as for `level_name`.
    Switches: yes.
    Source: kombu.transport.native_delayed_delivery.
    """
    channel = connection.channel()
    try:
        bound: Queue = queue.bind(channel)
        for each in bound.bindings or [binding(bound.exchange, routing_key=bound.routing_key)]:
            if each.exchange is not None:
                _bind(channel, bound, each, prefix)
    finally:
        channel.close()


def _bind(channel: Any, queue: Queue, each: binding, prefix: str | None) -> None:
    source = each.exchange
    exchange = (source if isinstance(source, Exchange) else Exchange(source or '', type='topic')).bind(
        channel
    )
    if exchange.type == 'direct' or not exchange.name:
        logger.warning(
            'Exchange %r is a direct exchange: delayed messages for queue %r cannot pass it',
            exchange.name,
            queue.name,
        )
        return
    key = each.routing_key or ''
    pattern = key if key.startswith('#') else f'#.{key}'
    exchange.bind_to(_named(CELERY_DELAYED_DELIVERY_EXCHANGE, prefix), routing_key=pattern)
    queue.bind_to(exchange.name, routing_key=pattern)


def calculate_routing_key(countdown: int, routing_key: str) -> str:
    """The routing key under which a message is published to the chain.

    Arguments:
        countdown (int): seconds, 1 to 2**28 - 1 (eight and a half years).
        routing_key (str): under which it shall arrive in the end.
    Returns:
        str: 28 binary digits and the routing key, joined by dots; digits that it had already are replaced.
    Raises:
        ValueError: a countdown out of range, or no routing key.
    Source: kombu.transport.native_delayed_delivery.calculate_routing_key; differs: a countdown that is too
        long is refused; its first digit would be taken for the routing key.
    """
    if countdown < 1:
        raise ValueError(f'countdown must be a positive number, not {countdown!r}')
    if countdown >= 2**MAX_NUMBER_OF_BITS_TO_USE:
        raise ValueError(
            f'countdown is {countdown} s, at most {2**MAX_NUMBER_OF_BITS_TO_USE - 1} s can be delayed'
        )
    if not routing_key:
        raise ValueError('routing_key must be non-empty')
    # Celery publishes a retry under the key that the task came with: that would grow by 56 bytes each time,
    # and the fifth would be refused.
    routing_key = _DELAYED.sub('', routing_key)
    return '.'.join(f'{countdown:0{MAX_NUMBER_OF_BITS_TO_USE}b}') + f'.{routing_key}'
