"""``redis://``: Redis as a broker that does not lose, does not go deaf and does not poll.

The way through this package: `keys` says what stands in Redis; `wire` and `link` speak with one server;
`session` keeps a link alive; `dialling`, `sentinel` and `cluster` find the server; `transport` joins it with
`channel` (entities), `publishing`, `consuming`, `settling`, `leases`, `bindings` and `pubsub`; what must
happen in one step at the server is in `scripts`.
"""

from __future__ import annotations

from greenmq.exceptions import InconsistencyError, VersionMismatch
from greenmq.transport.redis.channel import PRIORITY_STEPS, Channel, QoS, SentinelChannel
from greenmq.transport.redis.cluster import ClusterTransport
from greenmq.transport.redis.publishing import PublishBatch
from greenmq.transport.redis.sentinel import SentinelManagedSSLConnection, SentinelTransport
from greenmq.transport.redis.transport import (
    DEFAULT_DB,
    DEFAULT_HEALTH_CHECK_INTERVAL,
    DEFAULT_PORT,
    Transport,
)

__all__ = (
    'DEFAULT_DB', 'DEFAULT_HEALTH_CHECK_INTERVAL', 'DEFAULT_PORT', 'PRIORITY_STEPS', 'Channel',
    'ClusterTransport', 'InconsistencyError', 'PublishBatch', 'QoS', 'SentinelChannel',
    'SentinelManagedSSLConnection', 'SentinelTransport', 'Transport', 'VersionMismatch',
)  # fmt: skip
