"""Bindings that are made once more after a recovery, since RabbitMQ may have taken them for old ones.

With a connection go its exclusive queues, with their last consumers auto-delete queues, and with their last
bindings auto-delete exchanges. RabbitMQ 4 removes such a queue first and a moment later, by name, what was
bound to it from the table of a topic exchange. What a recovery declares and binds between the two is listed
as bound and never gets a message (seen on 4.0.5 in one of twenty recoveries, never on 3.10). So bindings of
this kind wait a moment before they are made, and are made once more when all that is old must be gone: while
another binding, that differs by an argument, stands in for them, so that no message misses its way.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from greenmq import runtime
from greenmq.exceptions import ChannelError, ConnectionError, KombuError, TimeoutError

from . import methods

if TYPE_CHECKING:
    from greenmq.core.topology import Topology

    from .connection import Connection
    from .link import Link

__all__ = ('SETTLE', 'at_risk', 'bind_anew_later', 'binding_call')

#: Seconds between declaring what may go with the last connection, and binding it.
SETTLE = 0.1
#: Seconds after which nothing of the last connection is left at the broker.
_LATER = 2.0
#: Makes it another binding; a topic exchange looks at no arguments.
_STAND_IN = {'x-greenmq-stand-in': True}
#: The topic exchange that every virtual host has.
_AMQ_TOPIC = 'amq.topic'

Facts = dict[str, Any]


def at_risk(topology: Topology) -> list[Facts]:
    """Return the bindings to topic exchanges that the broker removes when a connection goes."""
    topics, passing, entries = {_AMQ_TOPIC}, set(), list(topology.replay())
    for kind, facts in entries:
        if kind == 'exchange' and facts.get('type') == 'topic':
            topics.add(facts['name'])
        if kind in ('exchange', 'queue') and (facts.get('auto_delete') or facts.get('exclusive')):
            passing.add((kind, facts['name']))
    return [
        facts
        for kind, facts in entries
        if kind == 'binding'
        and facts['source'] in topics
        and {('exchange', facts['source']), (facts['kind'], facts['destination'])} & passing
    ]


def bind_anew_later(connection: Connection, link: Link) -> None:
    """Make the bindings at risk once more in a while, in a task, if the link is still the one. No switch."""
    name = f'amqp-rebind {connection.name}'
    runtime.spawn(_bind_anew, weakref.ref(connection), weakref.ref(link), name=name, owner=connection)


def _bind_anew(ref: weakref.ref[Connection], link_ref: weakref.ref[Link]) -> None:
    runtime.sleep(_LATER)
    connection, link = ref(), link_ref()
    if connection is None or link is None or connection.link is not link:
        return
    try:
        for facts in at_risk(connection.topology):
            _bind_one_anew(connection, link, facts)
    except (ConnectionError, ChannelError, TimeoutError, KombuError) as exc:
        # Gone, or lost once more: then it is made again anyhow.
        connection.log.debug('%s: bindings were not made once more: %s', connection.name, exc)


def _bind_one_anew(connection: Connection, link: Link, facts: Facts) -> None:
    def call(bind: bool, arguments: Facts) -> None:
        deadline = runtime.Deadline.after(connection.settings.operation_timeout)
        connection.call_on(link, *binding_call(connection, facts, arguments, bind), deadline)

    arguments = facts['arguments'] or {}
    stand_in = {**arguments, **_STAND_IN}
    call(True, stand_in)
    try:
        call(False, arguments)
        call(True, arguments)
    finally:
        # Also when this is killed: a queue that outlives us would keep it.
        call(False, stand_in)
    if not connection.topology.has_binding(facts):
        call(False, arguments)  # the program has undone it meanwhile


def binding_call(
    connection: Connection, facts: Facts, arguments: Facts, bind: bool
) -> tuple[methods.Method, tuple[Any, ...]]:
    """Return the method, and what it is sent with, that makes or undoes a binding."""
    to_queue = facts['kind'] == 'queue'
    names = (0, connection.current_name(facts['destination']), facts['source'], facts['routing_key'])
    if bind:
        return methods.QUEUE_BIND if to_queue else methods.EXCHANGE_BIND, (*names, False, arguments)
    if to_queue:  # the one method of its kind without `nowait`
        return methods.QUEUE_UNBIND, (*names, arguments)
    return methods.EXCHANGE_UNBIND, (*names, False, arguments)
