"""Queues of Amazon SQS: what the base needs of them, in as few calls as there can be.

Each call carries ten messages where there are ten. A poll on its way is never cut: the service would hand the
next message to nobody, and hide it for as long as a lease. It ends alone, and what it brings goes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionLost
from greenmq.transport import http
from greenmq.transport.driver import Binding, Driver, Place, Put, Taken
from greenmq.transport.driver.contract import Owner
from greenmq.transport.options import Option, truth, whole
from greenmq.transport.SQS import envelope
from greenmq.transport.SQS.aws import STRANGERS
from greenmq.transport.SQS.exceptions import (
    AccessDeniedQueueException,
    DoesNotExistQueueException,
    ServiceError,
)
from greenmq.transport.SQS.logins import Logins
from greenmq.transport.SQS.queues import Queues
from greenmq.transport.SQS.receiving import LONGEST_WAIT, Receiving
from greenmq.transport.SQS.sending import BYTES, ENTRIES, LONGEST_DELAY, Sending
from greenmq.transport.SQS.settling import LONGEST_LEASE, Settling
from greenmq.transport.SQS.topics import Topics

__all__ = ('SQSDriver',)


def _wait(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not 0 <= number <= LONGEST_WAIT:
        raise ValueError(f'SQS waits 0 to {LONGEST_WAIT} s')
    return number


def _lease(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not 1 <= number <= LONGEST_LEASE:
        raise ValueError(f'SQS lends a message for 1 to {LONGEST_LEASE} s')
    return number


def _maybe(value: Any) -> bool | None:
    return None if value is None else truth(value)


class SQSDriver(Driver):
    """Queues of SQS. A delivery is ours for a lease, renewed while it is in work."""

    delivery = 'wait'
    groups = 'each'
    uncut = True
    wait_seconds = 20.0
    take_batch = ENTRIES
    lease_seconds = 60.0
    lease_limit = 11.5 * 3600
    settle_batch = ENTRIES
    settle_hold = 0.05
    put_batch = ENTRIES
    max_puts = 8
    max_payload = BYTES
    max_delay: float | None = float(LONGEST_DELAY)
    dead_letters = True
    understands = frozenset({'login_method'})
    options = {
        'wait_time_seconds': Option(_wait, None, 'seconds that one poll waits at SQS: 0 to 20, the default'),
        'max_receives': Option(
            whole, 4, 'receives of a queue at once, where many messages wait and there is room'
        ),
        'lease_timeout': Option(_lease, None, 'seconds that a delivery is ours without a renewal; 60'),
        'region': Option(None, None, "region of the service; default: of the host, of boto's configuration"),
        'is_secure': Option(_maybe, None, 'https or http; default: https, but on the loopback'),
        'visibility_timeout': Option(int, 1800, 'attribute of queues that are made, in seconds'),
        'queue_name_prefix': Option(str, '', 'before the name of each queue and topic'),
        'predefined_queues': Option(None, None, 'the queues there are: none is looked for or made'),
        'predefined_exchanges': Option(None, None, 'the fanout exchanges there are: no topic is made'),
        'supports_fanout': Option(truth, False, 'fanout exchanges are topics of SNS'),
        'sts_role_arn': Option(None, None, 'a role to assume, for predefined queues and exchanges'),
        'sts_token_timeout': Option(int, 900, 'seconds that the keys of that role last'),
        'sts_token_buffer_time': Option(int, 0, 'seconds before their end in which they are renewed'),
        'client-config': Option(None, None, "arguments of botocore's Config"),
        'sqs-creation-attributes': Option(None, None, 'attributes of queues that are made'),
        'queue_tags': Option(None, None, 'tags of queues that are made'),
        'sqs_base64_encoding': Option(truth, True, 'messages are base64, as of kombu; else plain JSON'),
        'fetch_message_attributes': Option(None, None, 'attributes that deliveries carry: a list, or a dict'),
        'session_token': Option(None, None, 'token that belongs to temporary keys in the URL'),
        'delay_beyond': Option(truth, False, 'delays of more than 15 minutes, kept up by consumers'),
        'requeue_delay': Option(int, 0, 'seconds after which a requeued message comes again'),
        'sns_endpoint': Option(None, None, "URL of SNS; default: the queues' own, or Amazon's"),
        'sts_endpoint': Option(None, None, "URL of STS; default: AWS_ENDPOINT_URL_STS, or Amazon's"),
    }

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        super().__init__(place, settings, owner)
        self._http = http.Client(http.Settings(pool_size=1000))
        self._logins = Logins(place, settings, self._http)
        self._queues = Queues(settings, self._logins)
        self._sending = Sending(self._queues, settings)
        self._settling = Settling(self._queues, settings)
        self._receiving = Receiving(
            self._queues, self._sending, self._settling, settings, owner, not place.host
        )
        self._topics = Topics(self._queues, self._logins, settings)
        self.take_batch = ENTRIES * max(settings['max_receives'] or 1, 1)
        if settings['supports_fanout']:
            self.fanout = 'native'
        if settings['delay_beyond']:
            self.max_delay = None

    # ---- the connection

    def open(self, deadline: runtime.Deadline) -> None:
        self._logins.place = self.place
        self.ping(deadline)

    def close(self, deadline: runtime.Deadline) -> None:
        try:
            for queue, groups in list(self._settling.groups.items()):
                self._settling.give_back(queue, list(reversed(groups.held())), deadline)
        finally:
            self._settling.groups.clear()
            self._http.close()

    def forget(self) -> None:
        self._receiving.forget()

    def ping(self, deadline: runtime.Deadline) -> None:
        # Any answer will do but one that knows nobody of our name: no right is needed for it.
        name = self._queues.any_name()
        try:
            self._queues.aws().call('sqs', 'get_queue_url', deadline, QueueName=name)
        except DoesNotExistQueueException:
            return
        except AccessDeniedQueueException as error:
            if error.aws_code in STRANGERS or not error.aws_code:
                raise
        except ServiceError as error:
            if error.status >= 500 or error.status == 0:
                raise ConnectionLost(str(error)) from error

    def version(self) -> str:
        import botocore

        return str(botocore.__version__)

    # ---- messages

    def encode(self, message: dict[str, Any]) -> Any:
        return envelope.encode(message, self.settings['sqs_base64_encoding'])

    def decode(self, taken: Taken) -> dict[str, Any]:
        return envelope.decode(taken.payload, self._queues.known_url(taken.queue))

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None]:
        where = self._sending if items[0].queue else self._topics
        return where.put(items, deadline)

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> Iterable[Taken]:
        patient = seconds == self.wait_seconds
        return self._receiving.take(queues[0], n, seconds, self.lease_seconds or 60.0, patient)

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> list[tuple[Taken, Exception | None]]:
        failed, ready = self._settling.settle(done, back, deadline)
        if ready:
            self._receiving.next_is_ready(done[0].queue if done else back[0][0].queue)
        return failed

    def extend(self, takens: list[Taken], seconds: float, deadline: runtime.Deadline) -> Iterable[Taken]:
        return self._settling.extend(takens, seconds, deadline)

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> int | None:
        return self._queues.make(queue, deadline)

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        return self._queues.size(queue, deadline) is not None

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        return self._queues.size(queue, deadline) or 0

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        count = self._queues.size(queue, deadline)
        if not count or self._queues.purge(queue, deadline):
            return count or 0
        # Purged a short while ago: what waits now is taken out by hand.
        removed = 0
        while takens := self._receiving.receive(queue, ENTRIES, 0, 30):
            removed += len(takens)
            self._settling.delete(queue, takens, deadline)
        return max(count, removed)

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        if self._queues.predefined:
            return  # made by somebody else, and so is their end
        self._topics.queue_gone(queue, deadline)
        self._queues.delete(queue, deadline)
        self._settling.groups.pop(queue, None)

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]]:
        return self._queues.listed(deadline)

    def keeps_dead(self, queue: str) -> bool:
        return 'RedrivePolicy' in (self._queues.known(queue) or {})

    # ---- fanout exchanges

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        self._topics.bind(binding.exchange, binding.queue, deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        self._topics.unbind(binding.exchange, binding.queue, deadline)

    def stats(self) -> dict[str, Any]:
        held = sum(len(groups) for groups in self._settling.groups.values())
        return {**self._logins.stats(), 'held_in_order': held}
