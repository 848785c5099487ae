"""Queues of Azure Storage: what the base needs of them, in as few calls as the service allows.

The service has no long poll: a consumer looks, with pauses that grow while nothing comes and end at once when
this process puts a message there. A message is hidden from others for a lease and deleted when it is settled.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, NotFound
from greenmq.log import get_logger
from greenmq.transport import http
from greenmq.transport.azurestoragequeues.account import account_of
from greenmq.transport.azurestoragequeues.exceptions import AccessDenied, Gone
from greenmq.transport.azurestoragequeues.names import Names, poison
from greenmq.transport.azurestoragequeues.service import MOST, STRANGERS, Got, Service
from greenmq.transport.azurestoragequeues.signing import signer_of
from greenmq.transport.driver import DEAD, UNSEEN, Driver, Place, Put, Taken, strangers
from greenmq.transport.driver.contract import Owner
from greenmq.transport.driver.looking import Looker
from greenmq.transport.driver.unseen import Unseen
from greenmq.transport.options import Option, seconds, whole

__all__ = ('StorageDriver',)

logger = get_logger('greenmq.transport.azurestoragequeues')

#: Seconds that the service hides, delays and keeps a message at most, and hides one it gives at least.
LONGEST, SHORTEST = 7 * 24 * 3600, 1
#: Bytes of a message's text.
BYTES = 64 * 1024
#: Calls of one settlement, or of one round of renewals, under way at once.
WIDTH = 16
#: Seconds in which a look must be answered.
LOOK = 15.0


def _lease(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not SHORTEST <= number <= LONGEST:
        raise ValueError(f'the service lends a message for {SHORTEST} to {LONGEST} s')
    return number


def _ttl(value: Any) -> int:
    number = int(value)
    if number != -1 and number < 1:
        raise ValueError('neither -1 nor 1 and more')
    return number


class Receipt:
    """The service's names of one delivery. The second changes with each renewal.

    Attributes:
        lock (Lock): held by the one operation that is under way: the next needs the receipt it gives.
        settled (bool): it is deleted or goes back: nothing is to be renewed.
        asked (bool): it may be deleted already, as the answer was lost.
    """

    __slots__ = ('asked', 'id', 'lock', 'pop', 'settled')

    def __init__(self, got: Got) -> None:
        self.id = got.id
        self.pop = got.receipt
        self.lock = runtime.Lock()
        self.settled = self.asked = False

    def __repr__(self) -> str:
        return f'<{self.id}>'


class StorageDriver(Driver):
    """Queues of one storage account. A delivery is ours for a lease, renewed while it is in work."""

    delivery = 'wait'
    groups = 'each'
    wait_seconds = 60.0
    take_batch = MOST
    lease_seconds = 60.0
    settle_batch = 4 * WIDTH
    settle_hold = 0.0
    put_direct = True
    max_payload = BYTES
    max_delay = float(LONGEST)
    dead_letters = True
    understands = frozenset({'ssl'})
    errors = {Gone: NotFound}
    options = {
        'lease_timeout': Option(_lease, None, 'seconds that a delivery is ours without a renewal; 60'),
        'polling_interval': Option(
            seconds, 5.0, 'longest pause in seconds between two looks at a queue where nothing comes'
        ),
        'queue_name_prefix': Option(str, '', 'before the name of each queue'),
        'connection_string': Option(None, None, "the portal's connection string, in place of the URL's"),
        'credential': Option(None, None, "an object with azure-core's get_token, in place of the URL's"),
        'message_ttl': Option(_ttl, -1, 'seconds after which the service drops a message; -1 for never'),
        'poison_suffix': Option(
            str, '-poison', 'ends the name of the queue for what nobody could handle; empty: it is dropped'
        ),
        'requeue_delay': Option(whole, 0, 'seconds after which a requeued message comes again'),
        'max_connections': Option(whole, 50, 'connections to the service at a time'),
    }

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        super().__init__(place, settings, owner)
        self._http = http.Client(http.settings_for(
            place.ssl, settings['max_connections'] or 50, settings.get('connect_timeout') or 5.0
        ))
        self._service = self._service_of(place)
        self._names = Names(settings['queue_name_prefix'] or '')
        self._looker = Looker(
            self, StorageDriver._look, StorageDriver._give_back, settings['polling_interval'] or 0.0, LOOK
        )
        self._unseen = Unseen()

    def _service_of(self, place: Place) -> Service:
        credential = self.settings['credential']
        account = account_of(place.url, self.settings['connection_string'], credential is not None)
        return Service(self._http, account, signer_of(account, credential))

    # ---- the connection

    def open(self, deadline: runtime.Deadline) -> None:
        if self._service.account != account_of(
            self.place.url, self.settings['connection_string'], self.settings['credential'] is not None
        ):
            self._service = self._service_of(self.place)  # another host of several
        self.ping(deadline)

    def close(self, deadline: runtime.Deadline) -> None:
        try:
            self._looker.wait(deadline)
        finally:
            self._http.close()

    def forget(self) -> None:
        self._looker.forget()

    def ping(self, deadline: runtime.Deadline) -> None:
        # Any answer will do but one that knows nobody of our name: no right is needed for it.
        try:
            self._service.count(self._names.of('greenmq'), deadline)
        except NotFound:
            return
        except AccessDenied as error:
            if error.azure_code in STRANGERS:
                raise
        except http.ServiceError as error:
            raise ConnectionLost(str(error)) from error

    # ---- messages

    def decode(self, taken: Taken) -> dict[str, Any]:
        return strangers.message(taken.payload)

    def put(self, items: list[Put], deadline: runtime.Deadline) -> list[Exception | None]:
        def one(item: Put) -> None:
            self._put(item, deadline)

        return http.side_by_side(one, items, WIDTH, 'greenmq-put')

    def _put(self, item: Put, deadline: runtime.Deadline) -> None:
        delay = item.delay
        given = item.message['properties'].get('delay_seconds')
        if given is not None:
            delay = min(max(float(given), 0.0), LONGEST)
        hidden = min(ceil(delay), LONGEST - 1)
        ttl = self.settings['message_ttl']
        if item.expires is not None:
            ttl = max(ceil(item.expires - time.time()), 1)
        if ttl != -1:
            # The service keeps nothing that is gone before it may be got; who gets it dead-letters it.
            ttl = max(ttl, hidden + 1)
        self._service.put(self._names.of(item.queue), item.payload, ttl, hidden, deadline)
        if not hidden:
            self._looker.now(item.queue)

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> Iterable[Taken]:
        return self._looker.take(queues[0], n, seconds)

    def _look(self, queue: str, n: int) -> list[Taken]:
        began = runtime.monotonic()
        deadline, lease = runtime.Deadline.after(LOOK), ceil(self.lease_seconds or 60.0)
        try:
            got = self._service.get(self._names.of(queue), n, lease, deadline)
        except http.Throttled as error:
            logger.info('a look at %r brought nothing: %s', queue, error)
            return []  # there is nothing to repair, and the pace is slower by now
        except http.ServiceError as error:
            if error.status < 500:
                raise
            # What ends a connection is what programs expect, and recovery waits for the service.
            raise ConnectionLost(f'a look was not answered: {error}') from error
        return [self._taken(queue, each, began) for each in got]

    def _taken(self, queue: str, got: Got, began: float) -> Taken:
        before = max(got.got - 1 - self._unseen.count(got.id), 0)
        return Taken(queue, got.text, Receipt(got), before, began)

    def _give_back(self, takens: list[Taken]) -> None:
        self.settle([], [(taken, UNSEEN) for taken in takens], runtime.Deadline.after(10.0))

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> list[tuple[Taken, Exception | None]]:
        def one(work: tuple[Taken, str | None]) -> bool:
            return self._settle(*work, deadline)

        works: list[tuple[Taken, str | None]] = [*((taken, None) for taken in done), *back]
        outcomes = http.side_by_side(one, works, WIDTH, 'greenmq-settle')
        failed: list[tuple[Taken, Exception | None]] = []
        lost: Exception | None = None
        for (taken, _), outcome in zip(works, outcomes, strict=True):
            if outcome is True:
                continue
            if isinstance(outcome, (NotFound, Gone)):
                failed.append((taken, None))
            elif isinstance(outcome, Exception):
                taken.receipt.settled = False
                failed.append((taken, outcome))
                if isinstance(outcome, ConnectionLost):
                    lost = outcome
        if lost is not None and len(failed) == len(works):
            raise lost  # the service can't be reached: a recovery waits for it
        for queue in {taken.queue for taken, fate in back if fate != DEAD}:
            self._looker.now(queue)
        return failed

    def _settle(self, taken: Taken, fate: str | None, deadline: runtime.Deadline) -> bool:
        receipt: Receipt = taken.receipt
        queue = self._names.of(taken.queue)
        receipt.settled = True
        with receipt.lock:  # a renewal that is under way changes the receipt
            if fate is None or fate == DEAD:
                if fate == DEAD:
                    self._poison(taken, queue, deadline)
                self._delete(queue, receipt, deadline)
            else:
                hidden = 0 if fate == UNSEEN else self.settings['requeue_delay']
                self._service.hide(queue, receipt.id, receipt.pop, hidden, deadline)
                if fate == UNSEEN:
                    self._unseen.gave_back(receipt.id)
        return True

    def _delete(self, queue: str, receipt: Receipt, deadline: runtime.Deadline) -> None:
        again = receipt.asked
        receipt.asked = True
        try:
            self._service.delete(queue, receipt.id, receipt.pop, deadline)
        except Gone as error:
            if not again and not error.perhaps_by_us:
                raise
        # Else an answer was lost, and the message is deleted as was asked.

    def _poison(self, taken: Taken, queue: str, deadline: runtime.Deadline) -> None:
        """Put aside what was delivered too often, or is no message. A plain reject drops it, as in AMQP."""
        suffix, most = self.settings['poison_suffix'], self.settings['max_deliveries']
        often = bool(most) and (taken.deliveries or 0) + 1 >= most
        if not suffix or not (often or self._undecodable(taken)):
            return
        name = poison(queue, suffix)
        try:
            self._service.put(name, taken.payload, -1, 0, deadline)
        except NotFound:
            self._service.create(name, deadline)
            self._service.put(name, taken.payload, -1, 0, deadline)
        logger.warning('a message of %r that nobody could handle is in %r now', taken.queue, name)

    def _undecodable(self, taken: Taken) -> bool:
        try:
            self.decode(taken)
        except Exception:  # whatever it trips over is what was asked
            return True
        return False

    def extend(self, takens: list[Taken], seconds: float, deadline: runtime.Deadline) -> list[Taken]:
        def one(taken: Taken) -> None:
            receipt: Receipt = taken.receipt
            with receipt.lock:
                if not receipt.settled:
                    queue = self._names.of(taken.queue)
                    receipt.pop = self._service.hide(
                        queue, receipt.id, receipt.pop, ceil(seconds), deadline
                    )

        outcomes = http.side_by_side(one, takens, WIDTH, 'greenmq-lease')
        gone: list[Taken] = []
        for taken, outcome in zip(takens, outcomes, strict=True):
            if isinstance(outcome, (Gone, NotFound)):
                gone.append(taken)
            elif outcome is not None:
                raise outcome  # the next round renews what this one did not
        return gone

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> int | None:
        name = self._names.of(queue)
        try:
            return self._service.count(name, deadline)
        except NotFound:
            self._service.create(name, deadline)
            return 0
        except AccessDenied as error:
            if error.azure_code in STRANGERS:
                raise
        # We may not look: perhaps we may make it, and else it is there or the first message tells.
        try:
            self._service.create(name, deadline)
        except AccessDenied as error:
            logger.info('could not tell whether the queue %r is there: %s', queue, error)
        return 0

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        try:
            self._service.count(self._names.of(queue), deadline)
        except NotFound:
            return False
        return True

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        try:
            return self._service.count(self._names.of(queue), deadline)
        except NotFound:
            return 0

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        count = self.size(queue, deadline)
        if count:
            self._service.clear(self._names.of(queue), deadline)
        return count

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        try:
            self._service.remove(self._names.of(queue), deadline)
        except NotFound:
            logger.debug('queue %r was gone already', queue)

    def keeps_dead(self, queue: str) -> bool:
        return False  # only what nobody could handle, see `_poison`

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]]:
        return [{'name': self._names.back(name)}
                for name in self._service.names(self._names.listed(), deadline)]

    def stats(self) -> dict[str, Any]:
        return {'calls': self._service.calls, 'throttles': self._service.throttles}
