"""Which transport a name or URL scheme stands for."""

from __future__ import annotations

from typing import Any

from greenmq.utils.imports import symbol_by_name
from greenmq.utils.text import fmatch_best

__all__ = ('TRANSPORT_ALIASES', 'get_transport_cls', 'resolve_transport', 'supports_librabbitmq')

#: Scheme → 'module:class', or a function that returns that, or the class. A module of ours that
#: this version lacks gives an error that says so.
TRANSPORT_ALIASES: dict[str, Any] = {
    'amqp': 'greenmq.transport.pyamqp:Transport',
    'amqps': 'greenmq.transport.pyamqp:SSLTransport',
    'pyamqp': 'greenmq.transport.pyamqp:Transport',
    # The C client can't be shared between greenlets; programs that name it get the same protocol.
    'librabbitmq': 'greenmq.transport.pyamqp:Transport',
    'memory': 'greenmq.transport.memory:Transport',
    'redis': 'greenmq.transport.redis:Transport',
    'rediss': 'greenmq.transport.redis:Transport',
    'redis+socket': 'greenmq.transport.redis:Transport',
    'redis+cluster': 'greenmq.transport.redis:ClusterTransport',
    'valkey': 'greenmq.transport.redis:Transport',
    'valkeys': 'greenmq.transport.redis:Transport',
    'valkey+socket': 'greenmq.transport.redis:Transport',
    'sentinel': 'greenmq.transport.redis:SentinelTransport',
    'SQS': 'greenmq.transport.SQS:Transport',
    'sqs': 'greenmq.transport.SQS:Transport',
    'SLMQ': 'greenmq.transport.SLMQ:Transport',
    'slmq': 'greenmq.transport.SLMQ:Transport',
    'mongodb': 'greenmq.transport.mongodb:Transport',
    'mongodb+srv': 'greenmq.transport.mongodb:Transport',
    'zookeeper': 'greenmq.transport.zookeeper:Transport',
    'azurestoragequeues': 'greenmq.transport.azurestoragequeues:Transport',
    'azureservicebus': 'greenmq.transport.azureservicebus:Transport',
    'sqlite': 'greenmq.transport.sqlite:Transport',
    'file': 'greenmq.transport.sqlite:FileTransport',
    'filesystem': 'greenmq.transport.filesystem:Transport',
    'sqla': 'greenmq.transport.sqlalchemy:Transport',
    'sqlalchemy': 'greenmq.transport.sqlalchemy:Transport',
    'postgresql': 'greenmq.transport.sqlalchemy:Transport',
    'pgmq': 'greenmq.transport.pgmq:Transport',
    'pyro': 'greenmq.transport.pyro:Transport',
    'qpid': 'greenmq.transport.qpid:Transport',
    'amqp10': 'greenmq.transport.qpid:Transport',
    'amqps10': 'greenmq.transport.qpid:SSLTransport',
}

#: Names of kombu transports that greenmq doesn't have and doesn't plan.
_ELSEWHERE = frozenset(
    (
        'confluentkafka',
        'consul',
        'etcd',
        'gcpubsub',
        'kafka',
    )
)

_resolved: dict[str, Any] = {}


def supports_librabbitmq() -> bool | None:
    """Tell whether the C client would be used: never.

    Source: kombu supports_librabbitmq; differs: greenmq speaks AMQP itself in every case.
    """
    return None


def resolve_transport(transport: Any = None) -> Any:
    """Return the class that a transport's name stands for.

    Arguments:
        transport (str | type): a scheme such as 'memory' or 'redis', a dotted path 'package.module:Class' of
            any transport written for kombu, or a class, which is returned as it is.
    Returns:
        type: the Transport class.
    Raises:
        KeyError: no transport of that name (with the nearest one), or none in this version.
        ImportError: the module of a dotted path can't be imported, or a driver is missing.
    Source: kombu resolve_transport.
    """
    if not isinstance(transport, str):
        return transport
    path = TRANSPORT_ALIASES.get(transport)
    if callable(path):
        path = path()
        if not isinstance(path, str):
            return path
    if path is None:
        if '.' in transport or ':' in transport:
            return symbol_by_name(transport)
        raise KeyError(_unknown(transport))
    try:
        return symbol_by_name(path)
    except ModuleNotFoundError as error:
        if error.name is not None and (path.partition(':')[0] + '.').startswith(error.name + '.'):
            raise KeyError(
                f'The transport {transport!r} is not available in this version of greenmq'
            ) from None
        raise


#: Names of products, which people write for the scheme → the scheme.
_PRODUCTS = {
    'rabbitmq': 'amqp', 'rabbit': 'amqp', 'rabbitmqs': 'amqps', 'postgres': 'postgresql',
}  # fmt: skip


def _unknown(name: str) -> str:
    if name in _ELSEWHERE:
        return f"No such transport: {name}.  kombu has it, greenmq doesn't; a class can be given by its path"
    nearest = _PRODUCTS.get(name) or fmatch_best(name, TRANSPORT_ALIASES)
    return f'No such transport: {name}' + (f'.  Did you mean {nearest}?' if nearest else '')


def get_transport_cls(transport: Any = None) -> Any:
    """Return the class that a transport's name stands for, looked up once a process.

    Raises:
        KeyError: as `resolve_transport`.
    Source: kombu get_transport_cls.
    """
    if not isinstance(transport, str):
        return transport
    found = _resolved.get(transport)
    if found is None:
        found = _resolved[transport] = resolve_transport(transport)
    return found
