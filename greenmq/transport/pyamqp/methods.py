"""The synchronous methods of a channel: signature, argument types and replies, as a table.

Type letters as in `amqp.serialization`: ``B`` 16 bit, ``l`` 32 bit, ``L`` 64 bit, ``s`` short string,
``b`` bit, ``F`` table.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from amqp import spec
from amqp.serialization import dumps

__all__ = ['Method', 'encode']


class Method(NamedTuple):
    """One method: what is sent, and what answers it (nothing with ``nowait``)."""

    signature: tuple[int, int]
    arguments: str
    replies: tuple[tuple[int, int], ...]
    answer: str = ''


EXCHANGE_DECLARE = Method(spec.Exchange.Declare, 'BssbbbbbF', (spec.Exchange.DeclareOk,))
EXCHANGE_DELETE = Method(spec.Exchange.Delete, 'Bsbb', (spec.Exchange.DeleteOk,))
EXCHANGE_BIND = Method(spec.Exchange.Bind, 'BsssbF', (spec.Exchange.BindOk,))
EXCHANGE_UNBIND = Method(spec.Exchange.Unbind, 'BsssbF', (spec.Exchange.UnbindOk,))
QUEUE_DECLARE = Method(spec.Queue.Declare, 'BsbbbbbF', (spec.Queue.DeclareOk,), 'sll')
QUEUE_BIND = Method(spec.Queue.Bind, 'BsssbF', (spec.Queue.BindOk,))
QUEUE_UNBIND = Method(spec.Queue.Unbind, 'BsssF', (spec.Queue.UnbindOk,))
QUEUE_DELETE = Method(spec.Queue.Delete, 'Bsbbb', (spec.Queue.DeleteOk,), 'l')
QUEUE_PURGE = Method(spec.Queue.Purge, 'Bsb', (spec.Queue.PurgeOk,), 'l')
BASIC_QOS = Method(spec.Basic.Qos, 'lBb', (spec.Basic.QosOk,))
BASIC_CONSUME = Method(spec.Basic.Consume, 'BssbbbbF', (spec.Basic.ConsumeOk,), 's')
BASIC_CANCEL = Method(spec.Basic.Cancel, 'sb', (spec.Basic.CancelOk,), 's')
BASIC_GET = Method(spec.Basic.Get, 'Bsb', (spec.Basic.GetOk, spec.Basic.GetEmpty))
BASIC_RECOVER = Method(spec.Basic.Recover, 'b', (spec.Basic.RecoverOk,))
CONFIRM_SELECT = Method(spec.Confirm.Select, 'b', (spec.Confirm.SelectOk,))
TX_SELECT = Method(spec.Tx.Select, '', (spec.Tx.SelectOk,))
TX_COMMIT = Method(spec.Tx.Commit, '', (spec.Tx.CommitOk,))
TX_ROLLBACK = Method(spec.Tx.Rollback, '', (spec.Tx.RollbackOk,))
FLOW = Method(spec.Channel.Flow, 'b', (spec.Channel.FlowOk,), 'b')


def encode(method: Method, arguments: tuple[Any, ...]) -> bytes:
    """The argument bytes of a method.

    Raises:
        amqp.exceptions.FrameSyntaxError: a table holds what AMQP has no type for.
        ValueError, struct.error: a number or name is out of range.
    """
    return dumps(method.arguments, arguments) if method.arguments else b''
