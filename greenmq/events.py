"""What happens to connections, publishes and deliveries, told to whoever asked to hear of it.

A handler runs in a task of its own, one task a hub, started when something is to be told and ended when
nothing is: whatever a handler does, waits for or raises, no I/O stands still for it and no other handler
misses anything. What is told waits in a bounded queue; beyond it, it is counted and dropped. Metrics and
tracing stand on this.
"""

from __future__ import annotations

import itertools
import logging
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from greenmq import runtime
from greenmq.exceptions import InvalidArgument

__all__ = (
    'NAMES', 'QUEUE_LIMIT', 'Event', 'Subscription', 'counters', 'emit', 'listeners', 'subscribe', 'wanted',
)  # fmt: skip

logger = logging.getLogger('greenmq.events')

#: Every event there is.
NAMES: tuple[str, ...] = (
    'blocked',  # the broker stopped taking publishes on a connection
    'unblocked',  # it takes them again
    'lost',  # the other side or the network ended a connection
    'recovered',  # it is back, with all that was declared on it
    'returned',  # a mandatory message reached no queue
    'nacked',  # the broker refused a message
    'confirmed',  # the broker took responsibility for a message
    'stale_ack',  # a delivery of an earlier epoch was settled; nothing was sent
    'lease_lost',  # the lease of a delivery ended before it was settled
    'gap',  # messages of a fanout may have been missed
    'consumer_lost',  # a consumer ended that nobody cancelled
    'paused',  # a consumer was stopped because what it fetched is not taken fast enough
    'resumed',  # it goes on
    'lag',  # the hub did not run for too long
    'publish',  # a message was published
    'deliver',  # a message came
    'settle',  # a delivery was acknowledged, rejected or requeued
    'decode_error',  # the body of a message is not what its content type says
)

#: What may wait for handlers on each hub, one for each event and handler.
QUEUE_LIMIT = 10_000

_numbers = itertools.count(1)
# By name, then by number in the order of subscribing. Entries come and go by single operations on dicts,
# which no other native thread can see half done; so there is no lock, and the garbage collector may cancel at
# any point.
_subscriptions: dict[str, dict[int, Subscription]] = {name: {} for name in NAMES}
_counts: dict[str, int] = dict.fromkeys((*NAMES, 'dropped', 'failed'), 0)
# hub -> its dispatcher; only while that has something to tell.
_dispatchers: dict[Any, _Dispatcher] = {}
_fork_hook = False


class Event:
    """One thing that happened.

    Attributes:
        name (str): one of `NAMES`.
        facts (dict[str, Any]): what is known of it; each place that emits says which. Shared by all handlers.
    """

    __slots__ = ('_source', 'facts', 'name')

    def __init__(self, name: str, source: Any, facts: dict[str, Any]) -> None:
        self.name = name
        self.facts = facts
        self._source = _weakly(source)

    @property
    def source(self) -> Any:
        """The connection, channel or other object it happened to; None if there is none or it is gone."""
        return self._source()

    def __repr__(self) -> str:
        facts = ''.join(f' {name}={value!r}' for name, value in self.facts.items())
        return f'<Event {self.name}{facts}>'


Handler = Callable[[Event], Any]


class Subscription:
    """What `subscribe` returns: the way to end it.

    Attributes:
        name (str): the event.
    """

    __slots__ = ('_handler', '_number', '_source', 'name')

    def __init__(self, name: str, handler: Handler, source: Any) -> None:
        self.name = name
        self._number = next(_numbers)
        self._source: Callable[[], Any] | None = None
        self._handler: Callable[[], Handler | None] = partial(_itself, handler)
        if source is None:
            return
        # The reference names us by number: a bound method of ours in it would be a cycle, left to the
        # collector.
        try:
            self._source = weakref.ref(source, partial(_forget, name, self._number))
        except TypeError:
            raise InvalidArgument('source', source, 'must be weakly referable') from None
        if getattr(handler, '__self__', None) is source:
            self._handler = weakref.WeakMethod(handler)  # or the handler would keep alive what it listens to

    @property
    def active(self) -> bool:
        """False once it was cancelled, or its source is gone."""
        return self._number in _subscriptions[self.name]

    def cancel(self) -> None:
        """End it: the handler is not called any more, not even for what already waits. Any number of times.

        Switches: no. A handler that runs just now runs on.
        """
        _forget(self.name, self._number)

    def __repr__(self) -> str:
        return f'<Subscription to {self.name}{"" if self.active else ", cancelled"}>'

    def _hears(self, source: Any) -> bool:
        if self._source is None:
            return True
        return source is not None and self._source() is source

    def _tell(self, event: Event) -> None:
        handler = self._handler() if self.active else None
        if handler is None:
            return
        try:
            handler(event)
        except Exception:
            _counts['failed'] += 1
            logger.exception('handler %r of %r failed; it stays subscribed', handler, event)


def subscribe(name: str, handler: Handler, source: Any = None) -> Subscription:
    """Have a function called when something happens.

    Arguments:
        name (str): one of `NAMES`.
        handler (Callable[[Event], Any]): called in the task 'greenmq.events' of the hub it happened on. It
            may wait, but what happens meanwhile waits too. What it raises is logged on 'greenmq.events' and
            ends nothing.
        source (object): hear only of this connection or channel; held weakly, and the subscription ends with
            it. None: of all.
    Returns:
        Subscription: its `cancel()` ends it; dropping it does not.
    Example:
        >>> subscription = subscribe('lost', lambda event: print('lost:', event.source, event.facts))
        >>> subscription.cancel()

    Raises:
        InvalidArgument: there is no such event, the handler can't be called, or the source can't be held
            weakly.
    """
    if name not in NAMES:
        raise InvalidArgument('event', name, f'must be one of {", ".join(NAMES)}')
    if not callable(handler):
        raise InvalidArgument('handler', handler, 'must be callable')
    subscription = Subscription(name, handler, source)
    _subscriptions[name][subscription._number] = subscription
    return subscription


def wanted(name: str) -> bool:
    """Ask whether anybody listens: on a hot path, before the facts are gathered.

    An event that is not emitted because nobody wants it is not counted either.
    """
    return bool(_subscriptions[name])


def listeners(name: str) -> Mapping[int, Subscription]:
    """Who listens, now and later: true while anybody does. As `wanted`, for who asks with each message."""
    return MappingProxyType(_subscriptions[name])


def emit(name: str, /, source: Any = None, **facts: Any) -> None:
    """Tell that something happened.

    Arguments:
        name (str): one of `NAMES`; KeyError for another.
        source (object): what it happened to; held weakly.
        facts (Any): what the handlers get as `event.facts`; held until all have run.
    Switches: no: callable from hub callbacks and I/O tasks.
    """
    # Lost counts need two native threads within one addition; CPython does not change threads there.
    _counts[name] += 1
    subscriptions = _subscriptions[name]
    if not subscriptions:
        return
    hearing = [subscription for subscription in list(subscriptions.values()) if subscription._hears(source)]
    if hearing:
        hub = runtime.hub_id()
        dispatcher = _dispatchers.get(hub)
        if dispatcher is None:
            dispatcher = _new_dispatcher(hub)
        dispatcher.put(Event(name, source, facts), hearing)


def counters() -> dict[str, int]:
    """Count what was emitted in this process so far.

    Returns:
        dict[str, int]: for each of `NAMES` how often; 'dropped': how often a handler missed an event because
            `QUEUE_LIMIT` waited already; 'failed': how often a handler raised.
    """
    return dict(_counts)


class _Dispatcher:
    # Calls the handlers of one hub, in one task, in the order of what happened.
    __slots__ = ('_dropping', '_hub', '_queue', '_task')

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        # One entry a handler, so that one which ends the task takes no other's event along.
        self._queue: deque[tuple[Subscription, Event]] = deque()
        self._task: runtime.Task | None = None
        self._dropping = False

    def put(self, event: Event, hearing: list[Subscription]) -> None:
        # no switch
        room = QUEUE_LIMIT - len(self._queue)
        if len(hearing) > room:
            self._drop(event, len(hearing) - room)
            hearing = hearing[:room]
        for subscription in hearing:
            self._queue.append((subscription, event))
        if self._task is None and self._queue:
            self._start()

    def forget(self) -> None:
        self._queue.clear()

    def _start(self) -> None:
        self._task = runtime.spawn(self._run, name='greenmq.events', on_exit=self._ended)

    def _run(self) -> None:
        queue = self._queue
        while True:
            for _ in range(len(queue)):
                if not queue:  # a fork in a handler emptied it
                    break
                subscription, event = queue.popleft()
                subscription._tell(event)
                del subscription, event  # or a wait below would keep them
            if not queue:
                return
            # A handler that causes an event for each that it gets must not keep the hub for itself.
            runtime.sleep(0)

    def _ended(self, task: runtime.Task, error: BaseException | None) -> None:
        # Killed, or a handler let a Timeout out: the others still get theirs.
        self._task = None
        if self._queue:
            self._start()
        else:
            _dispatchers.pop(self._hub, None)

    def _drop(self, event: Event, missing: int) -> None:
        _counts['dropped'] += missing
        if not self._dropping:
            self._dropping = True
            logger.warning(
                '%d events wait for their handlers: %r and what follows is not told; is a handler stuck?',
                QUEUE_LIMIT,
                event,
            )


def _new_dispatcher(hub: Any) -> _Dispatcher:
    global _fork_hook
    if not _fork_hook:
        _fork_hook = True
        runtime.after_fork(_forked)
    dispatcher = _dispatchers[hub] = _Dispatcher(hub)
    return dispatcher


def _forked() -> None:
    # What waits happened in the parent, which tells its handlers itself.
    for dispatcher in _dispatchers.values():
        dispatcher.forget()
    _dispatchers.clear()


def _itself(value: Any) -> Any:
    return value


def _weakly(value: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(value)
    except TypeError:  # a name or a number for a source: nothing that could be kept alive
        return partial(_itself, value)


def _forget(name: str, number: int, _reference: Any = None) -> None:
    _subscriptions[name].pop(number, None)
