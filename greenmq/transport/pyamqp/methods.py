"""The synchronous methods of a channel: signature, argument types and replies, as a table.

Type letters as in `amqp.serialization`: ``B`` 16 bit, ``l`` 32 bit, ``L`` 64 bit, ``s`` short string,
``b`` bit, ``F`` table. The names of the arguments are there for errors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from amqp import spec

from greenmq.utils import validate

from .properties import encode_table, short_string

__all__ = ['Method', 'encode']


class Method(NamedTuple):
    """One method: what is sent, and what answers it (nothing with ``nowait``)."""

    signature: tuple[int, int]
    arguments: str
    replies: tuple[tuple[int, int], ...]
    answer: str = ''
    names: tuple[str, ...] = ()


def _names(names: str) -> tuple[str, ...]:
    return tuple(names.split())


EXCHANGE_DECLARE = Method(
    spec.Exchange.Declare, 'BssbbbbbF', (spec.Exchange.DeclareOk,),
    names=_names('ticket exchange type passive durable auto_delete internal nowait arguments'),
)
EXCHANGE_DELETE = Method(
    spec.Exchange.Delete, 'Bsbb', (spec.Exchange.DeleteOk,),
    names=_names('ticket exchange if_unused nowait'),
)
EXCHANGE_BIND = Method(
    spec.Exchange.Bind, 'BsssbF', (spec.Exchange.BindOk,),
    names=_names('ticket destination source routing_key nowait arguments'),
)
EXCHANGE_UNBIND = Method(
    spec.Exchange.Unbind, 'BsssbF', (spec.Exchange.UnbindOk,),
    names=_names('ticket destination source routing_key nowait arguments'),
)
QUEUE_DECLARE = Method(
    spec.Queue.Declare, 'BsbbbbbF', (spec.Queue.DeclareOk,), 'sll',
    _names('ticket queue passive durable exclusive auto_delete nowait arguments'),
)
QUEUE_BIND = Method(
    spec.Queue.Bind, 'BsssbF', (spec.Queue.BindOk,),
    names=_names('ticket queue exchange routing_key nowait arguments'),
)
QUEUE_UNBIND = Method(
    spec.Queue.Unbind, 'BsssF', (spec.Queue.UnbindOk,),
    names=_names('ticket queue exchange routing_key arguments'),
)
QUEUE_DELETE = Method(
    spec.Queue.Delete, 'Bsbbb', (spec.Queue.DeleteOk,), 'l',
    _names('ticket queue if_unused if_empty nowait'),
)
QUEUE_PURGE = Method(spec.Queue.Purge, 'Bsb', (spec.Queue.PurgeOk,), 'l', _names('ticket queue nowait'))
BASIC_QOS = Method(
    spec.Basic.Qos, 'lBb', (spec.Basic.QosOk,),
    names=_names('prefetch_size prefetch_count global'),
)
BASIC_CONSUME = Method(
    spec.Basic.Consume, 'BssbbbbF', (spec.Basic.ConsumeOk,), 's',
    _names('ticket queue consumer_tag no_local no_ack exclusive nowait arguments'),
)
BASIC_CANCEL = Method(spec.Basic.Cancel, 'sb', (spec.Basic.CancelOk,), 's', _names('consumer_tag nowait'))
BASIC_GET = Method(
    spec.Basic.Get, 'Bsb', (spec.Basic.GetOk, spec.Basic.GetEmpty),
    names=_names('ticket queue no_ack'),
)
BASIC_PUBLISH = Method(
    spec.Basic.Publish, 'Bssbb', (),
    names=_names('ticket exchange routing_key mandatory immediate'),
)
BASIC_RECOVER = Method(spec.Basic.Recover, 'b', (spec.Basic.RecoverOk,), names=_names('requeue'))
CONFIRM_SELECT = Method(spec.Confirm.Select, 'b', (spec.Confirm.SelectOk,), names=_names('nowait'))
TX_SELECT = Method(spec.Tx.Select, '', (spec.Tx.SelectOk,))
TX_COMMIT = Method(spec.Tx.Commit, '', (spec.Tx.CommitOk,))
TX_ROLLBACK = Method(spec.Tx.Rollback, '', (spec.Tx.RollbackOk,))
FLOW = Method(spec.Channel.Flow, 'b', (spec.Channel.FlowOk,), 'b', _names('active'))


_BYTES = {'B': 2, 'l': 4, 'L': 8}


def encode(method: Method, arguments: tuple[Any, ...]) -> bytes:
    """The argument bytes of a method.

    Raises:
        InvalidArgument: a name, number or table that AMQP, or RabbitMQ, cannot carry.
    """
    parts: list[bytes] = []
    bits = count = 0
    for letter, name, value in zip(method.arguments, method.names, arguments, strict=True):
        if letter == 'b':
            bits |= bool(value) << count
            count += 1
            continue
        if count:
            parts.append(bytes((bits,)))
            bits = count = 0
        if letter == 's':
            parts.append(short_string(name, value or ''))
        elif letter == 'F':
            parts.append(encode_table(name, value or {}))
        elif value == 0:
            parts.append(bytes(_BYTES[letter]))
        else:
            size = _BYTES[letter]
            parts.append(validate.whole_number(name, value, 0, 256**size - 1).to_bytes(size, 'big'))
    if count:
        parts.append(bytes((bits,)))
    return b''.join(parts)
