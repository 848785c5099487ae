"""``redis://``: Redis as a broker that does not lose, does not go deaf and does not poll.

It stands on `transport.driver`, whose parts do what every broker needs. Here: `keys` says what stands in
Redis; `resp` and `link` speak with one server; `server` keeps a link alive; `handshake`, `sentinel` and
`cluster` find the server; `driver` has the queue verbs and holds the parts `bindings`, `fetching`,
`settling`, `leases`, `expiry`, `pubsub` and `blocking`; `session` joins them with `publishing` and
`arrival`; `channel` and `transport` are kombu's names on top. What must happen in one step at the server is
in `scripts`.
"""

from __future__ import annotations

from greenmq.exceptions import InconsistencyError, VersionMismatch
from greenmq.transport.redis.channel import PRIORITY_STEPS, Channel, QoS, SentinelChannel
from greenmq.transport.redis.cluster import ClusterTransport
from greenmq.transport.redis.compat import (
    BINDING_EXPIRES_FACTOR,
    BINDING_SWEEP_INTERVAL,
    DEFAULT_REAUTH_CHECK_INTERVAL,
    MIN_BINDING_TTL,
    SUBCLIENT_MAX_MISSED_HEALTH_CHECKS,
    Mutex,
    MutexHeld,
    crit,
    error_classes_t,
    get_redis_ConnectionError,
    get_redis_error_classes,
    warning,
)
from greenmq.transport.redis.publishing import PublishBatch
from greenmq.transport.redis.sentinel import SentinelManagedSSLConnection, SentinelTransport
from greenmq.transport.redis.transport import (
    DEFAULT_DB,
    DEFAULT_HEALTH_CHECK_INTERVAL,
    DEFAULT_PORT,
    Transport,
)

__all__ = (
    'BINDING_EXPIRES_FACTOR', 'BINDING_SWEEP_INTERVAL', 'DEFAULT_DB', 'DEFAULT_HEALTH_CHECK_INTERVAL',
    'DEFAULT_PORT', 'DEFAULT_REAUTH_CHECK_INTERVAL', 'MIN_BINDING_TTL', 'PRIORITY_STEPS',
    'SUBCLIENT_MAX_MISSED_HEALTH_CHECKS', 'Channel', 'ClusterTransport', 'InconsistencyError', 'Mutex',
    'MutexHeld', 'PublishBatch', 'QoS', 'SentinelChannel', 'SentinelManagedSSLConnection',
    'SentinelTransport', 'Transport', 'VersionMismatch', 'crit', 'error_classes_t',
    'get_redis_ConnectionError', 'get_redis_error_classes', 'warning',
)  # fmt: skip
