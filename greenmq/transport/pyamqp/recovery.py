"""Opening a lost connection again: its entities and consumers, and consumers that the broker cancelled."""

from __future__ import annotations

import random
import weakref
from typing import TYPE_CHECKING, Any

from amqp import spec

from greenmq import events, runtime
from greenmq.core.retry import RetrySchedule
from greenmq.exceptions import (
    ChannelError,
    ConnectionError,
    ConsumerCancelled,
    InvalidArgument,
    KombuError,
    NotFound,
    ResourceLocked,
    TimeoutError,
)
from greenmq.log import outage_level, outage_over

from . import frames, methods, rebinding
from .message import Delivery

if TYPE_CHECKING:
    from .channel import Channel
    from .connection import Connection
    from .consuming import Consumer
    from .link import Link

__all__ = (
    'consume_again', 'consumer_cancelled', 'recover', 'reopen', 'restore', 'restore_for_another',
    'start_anew',
)  # fmt: skip

#: Seconds that each step of a recovery has at least: to dial, and for each thing that is declared again.
PATIENCE = 5.0


def recover(ref: weakref.ref[Connection]) -> None:
    """Open a lost connection again, until it is open, closed or nobody's any more."""
    attempt = 0
    schedule: RetrySchedule | None = None
    while True:
        connection = ref()
        if connection is None or connection.closed or connection.connected:
            return
        settings = connection.settings
        if schedule is None:
            schedule = RetrySchedule(None, 0.05, settings.recovery_interval, settings.recovery_interval_max)
        try:
            patience = max(settings.connect_timeout or 0, PATIENCE)
            connection.connect(runtime.Deadline.after(patience), patience)
            away = outage_over(connection.name)
            if away is not None:
                connection.log.warning('%s: connected again after %.0f s', connection.name, away)
            return
        except Exception as exc:
            level = outage_level('recovery', connection.name)
            connection.log.log(level, '%s: recovery attempt %d failed: %s', connection.name, attempt + 1, exc)
            connection.recovery_failed(exc)
        pause = connection.pause
        del connection
        # Jitter: the clients of a broker that restarts shall not all come back in the same moment.
        pause.make(schedule.delay(attempt) * random.uniform(0.5, 1.0))
        attempt += 1


def restore(
    connection: Connection, link: Link, deadline: runtime.Deadline, patience: float | None = None
) -> None:
    """Declare and consume on a new link what was declared and consumed on the last one.

    Arguments:
        patience (float): seconds for each entity and each consumer; None: the deadline is that of all. With
            thousands of them a common one would pass each time, and the connection never come back.
    """

    def step() -> runtime.Deadline:
        return deadline if patience is None else runtime.Deadline.after(patience)

    again = connection.epoch > 1 and bool(rebinding.at_risk(connection.topology))

    def declare(last: bool) -> bool:
        complete, settling = True, again
        for kind, facts in connection.topology.replay():
            if kind == 'binding' and settling:
                settling = False
                runtime.sleep(rebinding.SETTLE)
            try:
                _restore_entity(connection, link, kind, facts, step(), deadline)
            except (ChannelError, InvalidArgument) as exc:  # a new broker may agree to smaller frames
                if isinstance(exc, NotFound) and kind == 'binding' and not last:
                    complete = False
                else:
                    _give_up(connection, kind, facts, exc)
        return complete

    # What the last connection had may end only now: with an exclusive queue goes an auto-delete exchange that
    # was still there when we declared it, and its binding finds none. Once all queues are ours, nothing more
    # can go.
    if not declare(last=False):
        declare(last=True)
    if again:
        rebinding.bind_anew_later(connection, link)
    for channel in list(connection.channels.values()):
        channel.consuming.restore(link, step)


def restore_for_another(connection: Connection, exchange: str, deadline: runtime.Deadline) -> bool:
    """Declare an exchange again that the broker lost, and what it gives its messages to, in the place of the
    connection of another thread for which this one publishes.

    That one does so when it comes back, but it does not while its thread is held up, or has ended. Exclusive
    queues stay out: they can be that connection's only.

    Returns:
        bool: False if this one publishes for nobody, or that one has not declared it.
    """
    stands_for = getattr(connection.source, 'stands_for', None)
    origin = getattr(stands_for(), '_connection', None) if stands_for is not None else None
    topology = getattr(origin, 'topology', None)
    if topology is None or not topology.has_exchange(exchange):
        return False
    link = connection.wait_open(deadline)
    entries = list(topology.replay())
    fed = {
        facts['destination']
        for kind, facts in entries
        if kind == 'binding' and facts['kind'] == 'queue' and facts['source'] == exchange
    }
    declared = set()
    for kind, facts in entries:
        name = facts.get('name')
        if kind == 'exchange' and name == exchange:
            _declare_exchange(connection, link, facts, deadline)
        elif kind == 'queue' and name in fed and not (facts['exclusive'] or facts['server_named']):
            _declare_queue(connection, link, facts, deadline, deadline)
            declared.add(name)
        elif kind == 'binding' and facts['source'] == exchange and facts['destination'] in declared:
            _bind(connection, link, facts, deadline)
    return True


def _restore_entity(
    connection: Connection,
    link: Link,
    kind: str,
    facts: dict[str, Any],
    deadline: runtime.Deadline,
    unlocked: runtime.Deadline,
) -> None:
    if kind == 'exchange':
        _declare_exchange(connection, link, facts, deadline)
    elif kind == 'queue':
        _declare_queue(connection, link, facts, deadline, unlocked)
    elif kind == 'binding':
        _bind(connection, link, facts, deadline)


def _give_up(connection: Connection, kind: str, facts: dict[str, Any], error: Exception) -> None:
    # One entity that cannot be had again (changed elsewhere, not allowed now) must not keep all others away.
    name = facts.get('name') or facts.get('destination')
    connection.log.error('%s: %s %r cannot be declared again: %s', connection.name, kind, name, error)
    events.emit('consumer_lost', connection.source, kind=kind, name=name, entity=facts, error=error)


def _declare_exchange(
    connection: Connection, link: Link, facts: dict[str, Any], deadline: runtime.Deadline
) -> None:
    name = facts['name']
    connection.call_on(
        link,
        methods.EXCHANGE_DECLARE,
        (
            0,
            name,
            facts['type'],
            False,
            facts['durable'],
            facts['auto_delete'],
            facts['internal'],
            False,
            facts['arguments'],
        ),
        deadline,
    )
    connection.known_exchanges.add(name)


def _declare_queue(
    connection: Connection,
    link: Link,
    facts: dict[str, Any],
    deadline: runtime.Deadline,
    unlocked: runtime.Deadline,
) -> None:
    name = facts['name']
    asked = '' if facts['server_named'] else name
    pause = 0.1
    while True:
        try:
            reply = connection.call_on(
                link,
                methods.QUEUE_DECLARE,
                (
                    0,
                    asked,
                    False,
                    facts['durable'],
                    facts['exclusive'],
                    facts['auto_delete'],
                    False,
                    facts['arguments'],
                ),
                deadline,
            )
            break
        except ResourceLocked:
            # The broker has not noticed yet that the last connection is gone, and keeps its exclusive queue.
            left = unlocked.remaining()
            if left is not None and left < 2 * pause:
                raise
            runtime.sleep(pause)
            pause *= 2
    found = frames.read_arguments('sll', reply[1])[0]
    if found != name:
        connection.topology.rename_queue(name, found)
        connection.names.renamed(name, found)


def _bind(connection: Connection, link: Link, facts: dict[str, Any], deadline: runtime.Deadline) -> None:
    call = rebinding.binding_call(connection, facts, facts['arguments'] or {}, True)
    connection.call_on(link, *call, deadline)


def start_anew(channel: Channel) -> None:
    """Leave everything behind that a channel had: in a forked child, where it goes on in the parent. No
    switch."""
    last_tag, confirm = channel.consuming.last_tag, channel.publishing.confirm
    channel.consuming = type(channel.consuming)(channel)
    channel.consuming.last_tag = last_tag  # or the tags of the parent's deliveries would mean something here
    channel.publishing = type(channel.publishing)(channel)
    channel.publishing.confirm = confirm
    channel.no_ack_consumers.clear()


def reopen(connection: Connection, channel: Channel) -> None:
    """Open the consuming wire of a channel again, with its consumers; or tell that they are lost."""
    if not connection.is_here:
        return  # it has moved meanwhile, and its consumers with it

    def step() -> runtime.Deadline:
        return runtime.Deadline.after(connection.settings.operation_timeout)

    try:
        channel.check_open()
        channel.consuming.restore(connection.wait_open(step()), step)
    except (ConnectionError, TimeoutError, KombuError) as exc:
        connection.log.error('%r: its consumers could not be started again: %s', channel, exc)
        events.emit('consumer_lost', connection.source, channel=channel, error=exc)
        connection.drain.report(exc)


def consumer_cancelled(connection: Connection, channel: Channel, consumer: Consumer) -> None:  # no switch
    """The broker ended a consumer: tell its `on_cancel`, or start it again (P37)."""
    consumer.paused = True  # nothing to cancel at the broker
    on_cancel = consumer.on_cancel
    if on_cancel is not None:
        channel.consuming.consumers.pop(consumer.tag.encode(), None)
        told = Delivery(consumer.tag, 0, False, '', '', _nothing, channel)
        connection.drain.put(channel, (told, lambda delivery: on_cancel(consumer.tag)))
        return
    channel.consuming.consumers[consumer.tag.encode()] = consumer
    name = f'amqp-reconsume {connection.name}'
    runtime.spawn(consume_again, connection, channel, consumer, name=name, owner=connection)


_nothing = frames.Content((0, 0), b'')
_nothing.header = b'\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00'


def consume_again(connection: Connection, channel: Channel, consumer: Consumer) -> None:
    facts = connection.queue_facts(consumer.queue)
    bindings = [
        entry
        for kind, entry in connection.topology.replay()
        if kind == 'binding' and entry['destination'] == connection.current_name(consumer.queue)
    ]
    schedule = RetrySchedule(8, 0.05, 0.2, 1.0)
    error: BaseException = ConsumerCancelled(f'consumer {consumer.tag} of queue {consumer.queue!r}')
    for attempt in range(9):
        if channel.closed or consumer.cancelled or connection.closed or not consumer.paused:
            return  # or a recovery has started it
        deadline = runtime.Deadline.after(connection.settings.operation_timeout)
        try:
            link = connection.wait_open(deadline)
            if facts:
                _declare_queue(connection, link, facts, deadline, deadline)
                for entry in bindings:
                    _bind(connection, link, entry, deadline)
                if rebinding.at_risk(connection.topology):
                    rebinding.bind_anew_later(connection, link)
            # on the control wire first: a queue that is not there must not close the wire of the other
            # consumers
            name = connection.current_name(consumer.queue)
            connection.call_on(
                link, methods.QUEUE_DECLARE, (0, name, True, False, False, False, False, {}), deadline
            )
            channel.consuming.resume_cancelled(consumer, deadline)
            connection.log.info(
                '%s: consumer %s consumes again from %r', connection.name, consumer.tag, consumer.queue
            )
            return
        except (ConnectionError, ChannelError, TimeoutError, KombuError) as exc:
            error = exc
        runtime.sleep(schedule.delay(attempt))
    if not consumer.paused:
        return
    connection.log.error(
        '%s: consumer %s of queue %r is lost: %s', connection.name, consumer.tag, consumer.queue, error
    )
    if channel.consuming.consumers.get(consumer.tag.encode()) is consumer:
        del channel.consuming.consumers[consumer.tag.encode()]
    events.emit(
        'consumer_lost', connection.source, consumer_tag=consumer.tag, queue=consumer.queue, error=error
    )
    connection.drain.report(ConsumerCancelled(consumer.tag, spec.Basic.Cancel))
