"""The history of a message that died, in its headers as RabbitMQ writes it: one for all transports."""

from __future__ import annotations

import datetime
from typing import Any

__all__ = ('died',)


def died(
    headers: Any, properties: Any, queue: str, reason: str, exchange: str, routing_key: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Headers and properties of a message as it goes to the dead-letter exchange of `queue`.

    Arguments:
        headers (dict[str, object] | None), properties (dict[str, object]): of the message; never changed.
        reason (str): rejected, expired, maxlen, delivery_limit.
        exchange (str), routing_key (str): by which it came into the queue.
    Returns:
        tuple[dict, dict]: the headers with ``x-death``, the newest death first, a further one of the same
            queue and reason counted; the properties without `expiration`.
    Source: RabbitMQ "Dead Letter Exchanges", effects on the message.
    """
    headers, properties = dict(headers or ()), dict(properties)
    known = headers.get('x-death')
    # A publisher may have written anything there.
    deaths = [dict(entry) for entry in known if isinstance(entry, dict)] if isinstance(known, list) else []
    entry = next((e for e in deaths if e.get('queue') == queue and e.get('reason') == reason), None)
    if entry is None:
        entry = {'reason': reason, 'queue': queue, 'count': 0}
    else:
        deaths.remove(entry)
    count = entry.get('count')
    entry.update(
        {
            'count': (count if isinstance(count, int) else 0) + 1,
            'time': datetime.datetime.now(tz=datetime.timezone.utc),
            'exchange': exchange,
            'routing-keys': [routing_key],
        }
    )
    expiration = properties.pop('expiration', None)
    if expiration is not None:
        entry['original-expiration'] = expiration
    headers['x-death'] = [entry, *deaths]
    headers.setdefault('x-first-death-reason', reason)
    headers.setdefault('x-first-death-queue', queue)
    headers.setdefault('x-first-death-exchange', exchange)
    return headers, properties
