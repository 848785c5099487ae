"""Queues of SoftLayer: pushed, popped and deleted. The service cannot show a message again: what goes back is
a copy, pushed before the popped one is deleted.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, InvalidArgument, NotFound
from greenmq.log import get_logger
from greenmq.transport import http
from greenmq.transport.driver import DEAD, UNSEEN, Driver, Place, Put, Taken, strangers
from greenmq.transport.driver.contract import Owner
from greenmq.transport.driver.looking import Looker
from greenmq.transport.options import Option, seconds, truth, whole
from greenmq.transport.SLMQ.service import Service

__all__ = ('SLMQDriver',)

logger = get_logger('greenmq.transport.SLMQ')

#: Messages that one pop brings, calls of one settlement at once, seconds in which a look must be answered.
MOST, WIDTH, LOOK = 100, 16, 15.0

#: Hosts of which the log says already that they are not the service: once a process, not at each connection.
_told: set[str] = set()

_DASHES = {ord(mark): '_' for mark in string.punctuation}


class SLMQDriver(Driver):
    """Queues of one account. A delivery is ours for the visibility timeout of its queue, and no longer."""

    delivery = 'wait'
    groups = 'each'
    wait_seconds = 60.0
    take_batch = MOST
    lease_seconds = 1800.0
    settle_batch = 4 * WIDTH
    put_direct = True
    understands = frozenset({'ssl'})
    options = {
        'visibility_timeout': Option(
            whole, 1800, 'attribute of queues that are made: seconds that a popped message is ours'
        ),
        'polling_interval': Option(seconds, 20.0, 'longest pause in seconds between two looks'),
        'queue_name_prefix': Option(str, '', 'before the name of each queue'),
        'secure': Option(truth, True, 'https; http only if this says so'),
        'max_connections': Option(whole, 50, 'connections to the service at a time'),
    }

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        super().__init__(place, settings, owner)
        self._http = http.Client(http.settings_for(
            place.ssl, settings['max_connections'] or 50, settings.get('connect_timeout') or 5.0
        ))
        self._service = Service(self._http, place, settings['secure'])
        longest = settings['polling_interval'] or 0.0
        self._looker = Looker(self, SLMQDriver._look, SLMQDriver._give_back, longest, LOOK, 1.0)
        # Nothing renews it: the base ends what has lasted so long.
        self.lease_seconds = self.lease_limit = float(settings['visibility_timeout'] or 1800)

    # ---- the connection

    def open(self, deadline: runtime.Deadline) -> None:
        if self.place.host not in _told:
            _told.add(self.place.host)
            logger.warning('SoftLayer Message Queue was shut down: %s is not the service', self.place.host)
        self._service = Service(self._http, self.place, self.settings['secure'])
        self.ping(deadline)

    def close(self, deadline: runtime.Deadline) -> None:
        try:
            self._looker.wait(deadline)
        finally:
            self._http.close()

    def forget(self) -> None:
        self._looker.forget()

    def ping(self, deadline: runtime.Deadline) -> None:
        try:
            self._service.call('GET', '/queues', deadline)
        except http.ServiceError as error:
            raise ConnectionLost(str(error)) from error

    # ---- messages

    def decode(self, taken: Taken) -> dict[str, Any]:
        message = strangers.message(taken.payload)
        properties = message['properties']
        properties['delivery_info'] = {
            **(properties.get('delivery_info') or {}),
            'slmq_message_id': taken.receipt, 'slmq_queue_name': self._name(taken.queue),
        }  # fmt: skip
        return message

    def put(self, items: list[Put], deadline: runtime.Deadline) -> list[Exception | None]:
        def one(item: Put) -> None:
            self._push(item.queue, item.payload, deadline)
            self._looker.now(item.queue)

        return http.side_by_side(one, items, WIDTH, 'greenmq-put')

    def _push(self, queue: str, payload: Any, deadline: runtime.Deadline) -> None:
        self._service.call('POST', f'{self._path(queue)}/messages', deadline, {'body': payload})

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> Iterable[Taken]:
        return self._looker.take(queues[0], n, seconds)

    def _look(self, queue: str, n: int) -> list[Taken]:
        began = runtime.monotonic()
        path = f'{self._path(queue)}/messages?batch={min(n, MOST)}'
        try:
            answer = self._service.call('GET', path, runtime.Deadline.after(LOOK))
        except http.ServiceError as error:
            raise ConnectionLost(f'a look was not answered: {error}') from error
        return [
            Taken(queue, str(item['body']), str(item['id']), None, began)
            for item in answer.get('items') or ()
        ]

    def _give_back(self, takens: list[Taken]) -> None:
        self.settle([], [(taken, UNSEEN) for taken in takens], runtime.Deadline.after(10.0))

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> list[tuple[Taken, Exception | None]]:
        def one(work: tuple[Taken, str | None]) -> None:
            taken, fate = work
            if fate not in (None, DEAD):
                self._push(taken.queue, self._again(taken, fate or UNSEEN), deadline)
                self._looker.now(taken.queue)
            path = f'{self._path(taken.queue)}/messages/{quote(taken.receipt, safe="")}'
            try:
                self._service.call('DELETE', path, deadline)
            except NotFound:
                logger.debug('a message of %r was deleted already', taken.queue)

        works: list[tuple[Taken, str | None]] = [*((taken, None) for taken in done), *back]
        outcomes = http.side_by_side(one, works[: len(done)], WIDTH, 'greenmq-settle')
        outcomes += http.side_by_side(one, works[len(done) :], 1, 'greenmq-settle')  # in their order
        return [
            (taken, outcome) for (taken, _), outcome in zip(works, outcomes, strict=True)
            if outcome is not None
        ]  # fmt: skip

    def _again(self, taken: Taken, fate: str) -> Any:
        try:
            return self.again(taken, fate)
        except Exception:  # it is no message: as it came
            return taken.payload

    def encode(self, message: dict[str, Any]) -> Any:
        info = message['properties'].get('delivery_info') or {}
        if 'slmq_message_id' in info:  # of an earlier delivery
            kept = {name: value for name, value in info.items() if not name.startswith('slmq_')}
            message = {**message, 'properties': {**message['properties'], 'delivery_info': kept}}
        return super().encode(message)

    # ---- queues

    def _name(self, queue: str) -> str:
        name = f'{self.settings["queue_name_prefix"] or ""}{queue}'.translate(_DASHES)
        if not queue:
            raise InvalidArgument('queue', queue, 'is no name')
        return name

    def _path(self, queue: str) -> str:
        return f'/queues/{quote(self._name(queue), safe="")}'

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> int | None:
        timeout = {'visibility_timeout': int(self.lease_seconds or 1800)}
        self._service.call('PUT', self._path(queue), deadline, timeout)
        return None

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        try:
            self._service.call('GET', self._path(queue), deadline)
        except NotFound:
            return False
        return True

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        try:
            return int(self._service.call('GET', self._path(queue), deadline).get('message_count') or 0)
        except NotFound:
            return 0

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        removed = 0
        while takens := self._look(queue, MOST):
            self.settle(takens, [], deadline)
            removed += len(takens)
        return removed

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        try:
            self._service.call('DELETE', f'{self._path(queue)}?force=1', deadline)
        except NotFound:
            logger.debug('queue %r was gone already', queue)

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]]:
        prefix = (self.settings['queue_name_prefix'] or '').translate(_DASHES)
        found = self._service.call('GET', '/queues', deadline).get('items') or ()
        names = [str(item['name']) for item in found if str(item['name']).startswith(prefix)]
        return [{'name': name[len(prefix) :]} for name in sorted(names)]

    def stats(self) -> dict[str, Any]:
        return {'calls': self._service.calls}
