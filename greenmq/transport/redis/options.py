"""The transport options of Redis: kombu's names, and ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenmq.transport.options import Option, seconds, tcp_options, truth, whole
from greenmq.transport.redis.resp import MAX_BYTES

__all__ = (
    'CHANNEL_OPTIONS', 'OPTIONS', 'SENTINEL_CHANNEL_OPTIONS', 'SENTINEL_OPTIONS', 'with_options',
)  # fmt: skip


def _steps(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        value = [part for part in value.replace(' ', '').split(',') if part]
    return tuple(sorted({int(step) for step in value}))


def _one_of(*words: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in words:
            raise ValueError(f'none of {", ".join(words)}')
        return str(value)

    return convert


def _retries(value: Any) -> Any:
    return truth(value) if isinstance(value, str) else value


OPTIONS: dict[str, Option] = {
    # kombu's
    'visibility_timeout': Option(
        seconds,
        3600.0,
        'seconds after which a message of a kombu worker is restored; also bounds lease_timeout',
    ),
    'fanout_prefix': Option(
        None, True, 'True, or text that stands before fanout channels; {db} is the database'
    ),
    'fanout_patterns': Option(truth, True, 'fanout channels carry the routing key'),
    'priority_steps': Option(_steps, (0, 3, 6, 9), 'priorities that have a list of their own'),
    'sep': Option(str, '\x06\x16', 'between a queue and its priority step'),
    'queue_order_strategy': Option(
        _one_of('round_robin', 'priority', 'sorted'), 'round_robin', 'which queue is looked at first'
    ),
    'global_keyprefix': Option(str, '', 'stands before every key'),
    'socket_timeout': Option(seconds, None, 'seconds that the server may take to answer a health check'),
    'socket_connect_timeout': Option(seconds, None, 'as connect_timeout'),
    'socket_keepalive': Option(truth, True, 'kept for kombu: it is always on'),
    'socket_keepalive_options': Option(tcp_options, None, 'TCP option → value, for setsockopt'),
    'retry_on_timeout': Option(_retries, None, 'kept for kombu: what may be repeated is repeated'),
    'max_connections': Option(whole, 10, 'kept for kombu: one connection serves any number of greenlets'),
    'health_check_interval': Option(seconds, 15.0, 'seconds of silence after which the server is asked'),
    'client_name': Option(str, None, 'what CLIENT LIST shows'),
    'ack_emulation': Option(truth, True, 'kept for kombu: messages are always acknowledged'),
    'unacked_key': Option(str, 'unacked', 'HASH of what is not settled'),
    'unacked_index_key': Option(str, 'unacked_index', 'ZSET of when that was taken'),
    'unacked_mutex_key': Option(str, 'unacked_mutex', "kept for kombu: its workers' lock"),
    'unacked_mutex_expire': Option(None, 300, "kept for kombu: its workers' lock"),
    'unacked_restore_limit': Option(None, None, 'kept for kombu: ours is bounded by itself'),
    'unacked_restore_interval': Option(None, 10, 'kept for kombu; see sweep_interval'),
    'unacked_restore_throttle': Option(None, 10, 'kept for kombu; see sweep_interval'),
    'brpop_timeout': Option(None, 1, 'kept for kombu: nothing waits in a command'),
    'username': Option(str, None, 'ACL user, if the URL names none'),
    # ours
    'lease_timeout': Option(
        seconds,
        None,
        'seconds after which a consumer that says nothing is dead; at most visibility_timeout, 60',
    ),
    'sweep_interval': Option(
        seconds, 5.0, 'seconds between two looks for dead consumers, of all workers together'
    ),
    'priority_order': Option(
        _one_of('kombu', 'amqp'), 'kombu', "'amqp': a higher number is sooner, not later"
    ),
    'fanout_mode': Option(
        _one_of('pubsub', 'stream', 'queues'),
        'pubsub',
        "'stream': kept and resumed after a loss; 'queues': one list a queue, as in AMQP",
    ),
    'stream_maxlen': Option(whole, 10_000, "messages that fanout_mode 'stream' keeps, about"),
    'tracking': Option(truth, True, 'let the server tell of new messages (RESP3, CLIENT TRACKING)'),
    'max_message_bytes': Option(
        whole, MAX_BYTES, 'largest message, as it stands in Redis, that is accepted from the server'
    ),
    'fetch_batch': Option(whole, 100, 'messages taken at once, at most'),
}

SENTINEL_OPTIONS: dict[str, Option] = {
    'master_name': Option(str, None, 'what the sentinels call the primary'),
    'service_name': Option(str, None, 'as master_name'),
    'min_other_sentinels': Option(whole, 0, 'how many others a sentinel must know to be believed'),
    'sentinel_kwargs': Option(None, None, 'username, password, ssl of the sentinels themselves'),
    'sentinel_fanout_compat': Option(truth, False, 'kept for kombu'),
}

#: Options that kombu copies to attributes of the same names of its channels.
CHANNEL_OPTIONS = (
    'body_encoding', 'deadletter_queue', 'sep', 'ack_emulation', 'unacked_key', 'unacked_index_key',
    'unacked_mutex_key', 'unacked_mutex_expire', 'visibility_timeout', 'unacked_restore_limit',
    'unacked_restore_interval', 'unacked_restore_throttle', 'fanout_prefix', 'fanout_patterns',
    'global_keyprefix', 'socket_timeout', 'socket_connect_timeout', 'socket_keepalive',
    'socket_keepalive_options', 'queue_order_strategy', 'max_connections', 'health_check_interval',
    'retry_on_timeout', 'priority_steps', 'client_name',
)  # fmt: skip
SENTINEL_CHANNEL_OPTIONS = ('master_name', 'min_other_sentinels', 'sentinel_kwargs', 'sentinel_fanout_compat')


def with_options(cls: Any) -> Any:
    """Give a channel class an attribute for each of its `from_transport_options`: kombu's have them."""
    table = {**SENTINEL_OPTIONS, **OPTIONS}
    for name in cls.from_transport_options:
        if not hasattr(cls, name):
            setattr(cls, name, table[name].default if name in table else None)
    return cls
