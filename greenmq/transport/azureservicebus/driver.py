"""Queues of Azure Service Bus: what the base of transports needs of them.

Two connections carry all, however many queues there are: one for what is consumed, and for all else; another
one for what is published, as soon as anything is consumed. A message is locked for us until it is settled;
its lock is renewed, and outlives the connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from greenmq import runtime
from greenmq.exceptions import (
    AccessRefused,
    ConnectionLost,
    InvalidArgument,
    NotFound,
)
from greenmq.log import get_logger
from greenmq.transport import http
from greenmq.transport.amqp10.errors import Malformed
from greenmq.transport.amqp10.links import Delivery, Receiver
from greenmq.transport.amqp10.performatives import Accepted
from greenmq.transport.amqp10.receiving import Came
from greenmq.transport.azureservicebus import envelope, settling
from greenmq.transport.azureservicebus.account import account_of
from greenmq.transport.azureservicebus.admin import Admin
from greenmq.transport.azureservicebus.known import Known
from greenmq.transport.azureservicebus.lines import Line, Lines
from greenmq.transport.azureservicebus.names import DEAD_LETTERS, is_dead_letters
from greenmq.transport.azureservicebus.publishing import Publishing
from greenmq.transport.azureservicebus.sessions import SessionLink, Sessions
from greenmq.transport.azureservicebus.settling import Receipt
from greenmq.transport.azureservicebus.tokens import Tokens
from greenmq.transport.driver import Binding, Driver, Place, Put, Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.options import Option, seconds, truth, whole

__all__ = ('ServiceBusDriver',)

logger = get_logger('greenmq.transport.azureservicebus')

#: Seconds that the service locks a message for, at most; and that a lock is taken to last, at least.
LONGEST_LOCK, SHORTEST_LOCK = 300.0, 1.0
#: Seconds between two looks at how long the locks of a queue are.
BETWEEN_LOOKS = 1.0
#: Messages that are taken at once to empty a queue.
PURGED = 500
#: Seconds for which nobody is asked again how many messages there are, after no answer.
UNCOUNTED = 30.0

def _lock(value: Any) -> float:
    number = float(value)
    if number <= 0:
        raise ValueError('no time at all')
    return min(number, LONGEST_LOCK)


def _dots(value: Any) -> str:
    if value not in ('keep', 'dash'):
        raise ValueError('neither keep nor dash')
    return str(value)


def _fanout(value: Any) -> str:
    if value not in ('copies', 'topics'):
        raise ValueError('neither copies nor topics')
    return str(value)


def _maybe(value: Any) -> bool | None:
    return None if value is None else truth(value)


class ServiceBusDriver(Driver):
    """Queues of one namespace. A delivery is ours for a lock, renewed while it is in work."""

    delivery = 'push'
    groups = 'all'
    lease_seconds = 60.0
    survives_loss = True
    put_direct = True
    keeps_deadline = True
    settle_batch = 1000
    settle_hold = 0.01
    take_batch = 1000
    max_delay = None
    dead_letters = True
    understands = frozenset({'ssl'})
    options = {
        'queue_name_prefix': Option(str, '', 'before the name of each queue and topic'),
        'dots': Option(_dots, 'keep', "what dots in names become: keep, or dash as in kombu up to 5.6"),
        'peek_lock_seconds': Option(_lock, 60.0, 'lock of queues that are made, 300 at most'),
        'max_lock_renewal_duration': Option(
            seconds, 0.0, 'seconds after which a lock is renewed no more; 0 for no limit'
        ),
        'connection_string': Option(None, None, "the portal's connection string, in place of the URL's"),
        'credential': Option(None, None, "an object with azure-core's get_token, in place of the URL's"),
        'management_url': Option(None, None, 'where queues are made and counted; default: https://NAMESPACE'),
        'tls': Option(_maybe, None, '0 for none: on the loopback only'),
        'create_queues': Option(truth, True, 'queues that are not there are made: it takes the claim Manage'),
        'max_delivery_count': Option(
            whole, 0, "deliveries after which queues that are made put a message aside; 0: the service's 10"
        ),
        'max_sessions': Option(whole, 8, 'sessions of one queue at a time, where it has sessions'),
        'session_idle': Option(seconds, 5.0, 'seconds without a message, after which a session is given up'),
        'fanout': Option(_fanout, 'copies', 'fanout exchanges: copies, or topics of the service'),
        'token_lifetime': Option(seconds, 3600.0, 'seconds that a token lasts which a key signs'),
        'idle_timeout': Option(
            seconds, 60.0, 'seconds of silence after which the service is taken for dead; 0 for never'
        ),
        'max_message_bytes': Option(
            whole, 128 * 1024 * 1024, 'bytes of the largest message that is taken; 0 for any'
        ),
        'use_lock_renewal': Option(truth, True, "of kombu's; locks are renewed always"),
        'uamqp_keep_alive_interval': Option(seconds, None, "of kombu's SDK; without effect"),
        'retry_total': Option(whole, None, "of kombu's SDK; without effect"),
        'retry_backoff_factor': Option(float, None, "of kombu's SDK; without effect"),
        'retry_backoff_max': Option(whole, None, "of kombu's SDK; without effect"),
    }

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        super().__init__(place, settings, owner)
        self._http = http.Client(
            http.settings_for(place.ssl, 10, settings.get('connect_timeout') or 5.0)
        )
        self._known = Known(settings)
        self._queues: dict[str, str] = {}  # entity → queue, of those that are consumed
        self._wanted: dict[str, int] = {}  # queue → messages that may come, while it is let in
        self._sessions: dict[str, Sessions] = {}
        self._looks: dict[str, float] = {}  # entity → when to look again how long its locks are
        self._uncounted = 0.0
        self.lease_seconds = settings['peek_lock_seconds']
        self.lease_limit = settings['max_lock_renewal_duration'] or None
        if settings['fanout'] == 'topics':
            self.fanout = 'native'
        self._told: set[str] = set()
        self._go_to(place)

    def _go_to(self, place: Place) -> None:
        settings = self.settings
        credential = settings['credential']
        account = account_of(
            place.url, settings['connection_string'], credential is not None, settings['tls'],
            settings['management_url'],
        )  # fmt: skip
        self._account = account
        tokens = Tokens(account, credential, settings['token_lifetime'] or 3600.0)
        self._admin = Admin(self._http, account.management, account.host, tokens)
        self._lines = Lines(account, tokens, settings, self)
        self._publishing = Publishing(self._lines, self._known, account.host)

    # ---- the connection

    def open(self, deadline: runtime.Deadline) -> None:
        account = account_of(
            self.place.url, self.settings['connection_string'], self.settings['credential'] is not None,
            self.settings['tls'], self.settings['management_url'],
        )  # fmt: skip
        if account != self._account:
            self._go_to(self.place)
        self._lines.open(runtime.TLSOptions.of(self.place.ssl), deadline)
        self._queues.clear()
        self._wanted = {}

    def on_line_lost(self, main: bool, error: Exception) -> None:
        """See `lines.LinesOwner`."""
        if main:
            self._end_sessions()
            self.owner.lost(error)

    def _end_sessions(self) -> None:
        sessions, self._sessions = list(self._sessions.values()), {}
        for each in sessions:
            each.close()

    def close(self, deadline: runtime.Deadline) -> None:
        try:
            self._end_sessions()
            self._lines.close(deadline)
        finally:
            self._http.close()

    def forget(self) -> None:
        self._sessions.clear()
        self._lines.forget()

    def ping(self, deadline: runtime.Deadline) -> None:
        self._lines.main().receiving.round(deadline)

    def version(self) -> str:
        return 'AMQP 1.0'

    # ---- publishing

    def encode(self, message: dict[str, Any]) -> Any:
        return envelope.encode(message)

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None]:
        return self._publishing.put(items, deadline)

    # ---- receiving

    def want(self, queue: str, n: int) -> None:
        line = self._lines.main_or_none()
        if line is None:
            return
        entity = self._known.names.of(queue)
        self._queues[entity] = queue
        if n:
            self._publishing.apart = True
        if line.admission.holds(entity):
            self._want(line, queue, entity, n)
        elif queue in self._wanted:
            self._wanted[queue] = n
        elif n:
            self._wanted[queue] = n
            waits = self._wanted
            runtime.spawn(self._admit, line, waits, queue, entity, name='greenmq-admit', owner=self)

    def _admit(self, line: Line, waits: dict[str, int], queue: str, entity: str) -> None:
        # `waits` is of this connection: the next one has its own, and tasks of its own.
        failures = 0
        try:
            while waits.get(queue) and line.connection.error is None:
                try:
                    line.admission.ensure(entity, runtime.Deadline.after(self._patience))
                except Exception as error:  # told, and tried again: rights and queues come and go
                    failures += 1
                    if failures == 1:
                        logger.warning('%r can not be consumed yet: %s', queue, error)
                    runtime.sleep(min(0.2 * 2**failures, 5.0))
                else:
                    break
        finally:
            wanted = waits.pop(queue, 0)
        if line.connection.error is None and line.admission.holds(entity):
            self._want(line, queue, entity, wanted)

    def _want(self, line: Line, queue: str, entity: str, n: int) -> None:
        if queue in self._known.sessionful:
            if n or entity in self._sessions:
                self._sessions_of(line, entity).want(n)
        else:
            line.receiving.want(entity, n)

    def _sessions_of(self, line: Line, entity: str) -> Sessions:
        found = self._sessions.get(entity)
        if found is None:
            settings = self.settings

            def arrived(one: SessionLink, link: Receiver, delivery: Delivery) -> None:
                self.owner.arrived([self._taken(entity, link, delivery, one)])

            idle = min(settings['session_idle'] or 0.1, (self.lease_seconds or 60.0) / 2)
            found = self._sessions[entity] = Sessions(
                line.connection, line.way, entity, max(settings['max_sessions'], 1), idle, arrived
            )
        return found

    @property
    def _patience(self) -> float:
        return float(self.settings['operation_timeout'] or 30.0)

    def on_arrived(self, came: list[Came]) -> None:
        """See `lines.LinesOwner`."""
        self.owner.arrived([self._taken(entity, link, delivery) for entity, link, delivery in came])

    def _taken(
        self, entity: str, link: Receiver, delivery: Delivery, session: SessionLink | None = None
    ) -> Taken:
        receipt = Receipt(link, delivery.id, entity, delivery.tag, session)
        queue = self._queues.get(entity, entity)
        about = envelope.AzureMessage(delivery.payload, delivery.tag)
        try:
            count, body = envelope.glance(delivery.payload)
            now = runtime.monotonic()
            if now >= self._looks.get(entity, 0.0):
                self._looks[entity] = now + BETWEEN_LOOKS
                self._look_at_lock(about)
        except Malformed as error:
            return Taken(queue, error, receipt)  # decoding raises it
        return Taken(queue, (body, about), receipt, count)

    def _look_at_lock(self, about: envelope.AzureMessage) -> None:
        lock = about.lock_seconds
        if lock is not None and lock < (self.lease_seconds or 0.0):
            # Somebody made this queue with shorter locks: all are renewed more often.
            self.lease_seconds = max(lock, SHORTEST_LOCK)

    def decode(self, taken: Taken) -> dict[str, Any]:
        payload = taken.payload
        if isinstance(payload, Exception):
            raise payload
        body, about = payload
        return envelope.decode(body, about, taken.receipt.entity)

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> Iterable[Taken]:
        line = self._lines.main()
        deadline = runtime.Deadline.after(self._patience)
        taken: list[Taken] = []
        for queue in queues:
            if len(taken) >= n:
                break
            entity = self._known.names.of(queue)
            self._queues[entity] = queue
            line.admission.ensure(entity, deadline)
            if queue in self._known.sessionful:
                found = self._sessions_of(line, entity).look(deadline)
                taken += [self._taken(entity, found[1], found[2], found[0])] if found else []
            else:
                link, came = line.receiving.look(entity, n - len(taken), deadline)
                taken += [self._taken(entity, link, delivery) for delivery in came]
        return taken

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> list[tuple[Taken, Exception | None]]:
        line = self._lines.main()
        gone, went_back = settling.settle(done, back, line.locks, deadline)
        if went_back:
            # Whoever looks for them now, over another connection, shall find them; and nothing of a session
            # shall come before them.
            try:
                line.receiving.sync({receipt.link for receipt in went_back}, deadline)
            finally:
                for receipt in went_back:
                    receipt.settled()
        return gone

    def extend(self, takens: list[Taken], seconds: float, deadline: runtime.Deadline) -> Iterable[Taken]:
        return settling.extend(takens, self._lines.main().locks, deadline)

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> int | None:
        entity = self._known.names.of(queue)
        arguments = facts.get('arguments') or {}
        self._known.learn(queue, arguments)
        if not self._there(entity, deadline):
            if not self.settings['create_queues'] or is_dead_letters(queue):
                raise NotFound(f'NOT_FOUND - no queue {entity!r}', (50, 10), 'queue.declare', 404)
            self._admin.make_queue(entity, self._known.description(arguments), deadline)
        self._lines.main().receiving.retry(entity)
        return None

    def _there(self, entity: str, deadline: runtime.Deadline) -> bool:
        """Is there such a queue? A link to it tells, whatever we may do with it."""
        line = self._lines.main()
        refused: Exception | None = None
        try:
            line.admission.ensure(entity, deadline)
            for attempt in (self._may_send, self._may_listen):
                try:
                    attempt(line, entity, deadline)
                    return True
                except AccessRefused as error:
                    refused = refused or error
        except NotFound:
            return False
        raise refused or AssertionError('no way was tried')

    def _may_send(self, line: Line, entity: str, deadline: runtime.Deadline) -> None:
        if is_dead_letters(entity):
            raise AccessRefused(f'nobody sends to {entity!r}', None, 'Azure', 403)
        line.sending.touch(entity, deadline)  # and kept: the service ends it when it was idle for long

    def _may_listen(self, line: Line, entity: str, deadline: runtime.Deadline) -> None:
        line.receiving.look(entity, 0, deadline)

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        return self._there(self._known.names.of(queue), deadline)

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        entity = self._known.names.of(queue)
        if is_dead_letters(queue) or runtime.monotonic() < self._uncounted:
            return 0
        # What was settled before it over the other protocol shall not be counted.
        self._lines.main().receiving.round(deadline)
        try:
            return self._admin.count(entity, deadline.within(self._patience / 2)) or 0
        except AccessRefused as error:
            self._tell_once('may not be counted', error)
        except (ConnectionLost, OSError, http.ServiceError) as error:
            self._tell_once('can not be counted', error)
        self._uncounted = runtime.monotonic() + UNCOUNTED
        return 0

    def _tell_once(self, what: str, error: Exception) -> None:
        if what not in self._told:
            self._told.add(what)
            logger.info('messages %s at %s, and are said to be none: %s', what, self._account.host, error)

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        if queue in self._known.sessionful:
            return self._purge_sessions(queue, deadline)
        entity, line, removed = self._known.names.of(queue), self._lines.main(), 0
        line.admission.ensure(entity, deadline)
        while True:
            link, found = line.receiving.look(entity, PURGED, deadline)
            if not found:
                return removed
            link.session.settle([delivery.id for delivery in found], Accepted())
            removed += len(found)

    def _purge_sessions(self, queue: str, deadline: runtime.Deadline) -> int:
        removed = 0
        while found := list(self.take([queue], 1, 0, 0.0)):
            self.settle(found, [], deadline)
            removed += 1
        return removed

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        if is_dead_letters(queue):
            raise InvalidArgument('queue', queue, 'goes with its queue')
        entity = self._known.names.of(queue)
        sessions = self._sessions.pop(entity, None)
        if sessions is not None:
            sessions.close()
        self._lines.gone(entity)
        self._lines.gone(entity + DEAD_LETTERS)
        self._admin.delete(entity, deadline)
        self._known.forget(queue)

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]]:
        found = []
        for entity, active, scheduled in self._admin.queues(deadline):
            name = self._known.names.back(entity)
            if name is not None:
                found.append({
                    'name': name, 'messages': active, 'delayed': scheduled,
                    'dead_letters': name + DEAD_LETTERS,
                })  # fmt: skip
        return found

    def keeps_dead(self, queue: str) -> bool:
        return not is_dead_letters(queue)

    # ---- fanout exchanges, as topics

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        topic, entity = self._known.names.of(binding.exchange), self._known.names.of(binding.queue)
        self._admin.make_topic(topic, deadline)
        self._admin.forward(topic, entity, self.settings['max_delivery_count'], deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        topic, entity = self._known.names.of(binding.exchange), self._known.names.of(binding.queue)
        self._admin.forward_no_more(topic, entity, deadline)

    def stats(self) -> dict[str, Any]:
        return {
            **self._lines.stats(), 'management_calls': self._admin.calls,
            'sessions': sum(len(each.links) for each in self._sessions.values()),
        }
