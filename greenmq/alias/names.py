"""kombu's classes, by the module that kombu has them in.

While greenmq stands in kombu's place they carry these modules in `__module__`, so that what is pickled, or
sent by name as Celery sends exceptions, can be read by programs on kombu and the other way round.
"""

from __future__ import annotations

__all__ = ('API', 'CLASSES')

#: The version of kombu whose API greenmq has.
API = (5, 7, 0)

#: Module below the package → its classes.
CLASSES: dict[str, str] = {
    'abstract': 'MaybeChannelBound Object',
    'asynchronous.hub': 'Hub Stop',
    'asynchronous.semaphore': 'DummyLock LaxBoundedSemaphore',
    'asynchronous.timer': 'Entry Timer scheduled',
    'clocks': 'LamportClock timetuple',
    'common': 'Broadcast QoS',
    'compat': 'Consumer ConsumerSet Publisher',
    'connection': 'ChannelPool Connection ConnectionPool PooledConnection',
    'entity': 'Exchange Queue binding',
    'exceptions':
        'BatchPublishError ChannelLimitExceeded ConnectionLimitExceeded ContentDisallowed '
        'DecodeError EncodeError HttpError InconsistencyError KombuError LimitExceeded '
        'MessageStateError NotBoundError OperationalError SerializationError '
        'SerializerNotInstalled VersionMismatch',
    'log': 'Log LogMixin',
    'matcher': 'MatcherNotInstalled MatcherRegistry',
    'message': 'Message',
    'messaging': 'Consumer Producer',
    'mixins': 'ConsumerMixin ConsumerProducerMixin',
    'pidbox': 'Mailbox Node',
    'pools': 'Connections PoolGroup ProducerPool Producers',
    'resource': 'Resource',
    'serialization': 'SerializerRegistry codec',
    'simple': 'SimpleBase SimpleBuffer SimpleQueue',
    'transport.base': 'Implements Management StdChannel Transport',
    'transport.memory': 'Channel Transport',
    'transport.pyamqp': 'Channel Connection Message SSLTransport Transport',
    'transport.redis':
        'Channel GlobalKeyPrefixMixin MultiChannelPoller MutexHeld PrefixedRedisPipeline '
        'PrefixedRedisPubSub PrefixedStrictRedis PublishBatch QoS SentinelChannel '
        'SentinelManagedSSLConnection SentinelTransport Transport error_classes_t',
    'transport.virtual.base':
        'AbstractChannel Base64 BrokerState Channel Management Message NotEquivalentError QoS '
        'Transport UndeliverableWarning binding_key_t queue_binding_t',
    'transport.virtual.exchange': 'DirectExchange ExchangeType FanoutExchange TopicExchange',
    'utils.collections': 'EqualityDict HashedSeq',
    'utils.debug': 'Logwrapped',
    'utils.functional': 'ChannelPromise LRUCache lazy',
    'utils.json': 'JSONEncoder',
    'utils.limits': 'TokenBucket',
    'utils.objects': 'cached_property',
    'utils.scheduling': 'FairCycle priority_cycle round_robin_cycle sorted_cycle',
    'utils.url': 'urlparts',
}
