"""Apache Artemis, told over AMQP what to make, count and delete: messages to its management address.

A request names a resource and an operation; parameters and results are JSON texts. It has no exchanges: one
is an address whose messages go to all who are bound, and a binding is a divert from it to the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from greenmq import runtime
from greenmq.exceptions import ChannelError, NotFound
from greenmq.transport.amqp10 import message as sections
from greenmq.transport.amqp10.connection import Connection
from greenmq.transport.amqp10.requests import Requests
from greenmq.transport.driver import Binding
from greenmq.transport.qpid.management import Management, node
from greenmq.transport.qpid.styles import STYLES
from greenmq.utils.json import dumps, loads
from greenmq.utils.text import printable

__all__ = ('ArtemisManagement',)

_NODE = 'activemq.management'
_address = STYLES['artemis'].exchange_address
#: How often a queue is counted that changes meanwhile.
TRIES = 3
#: Queues that are listed at once.
PAGE = 100
#: A filter that takes all of them, and what those have that are no program's.
_ALL = dumps({'field': '', 'operation': '', 'value': '', 'sortOrder': 'asc', 'sortColumn': 'id'})
_PASSING = ('temporary', 'internalQueue')
#: What names of our diverts begin with.
_DIVERT = 'greenmq'
#: Code in its texts: there is such an address.
_THERE = 'AMQ229204'
#: Codes in its texts: there is no such thing.
_MISSING = ('AMQ229067', 'AMQ229017', 'AMQ229203')


class ArtemisManagement(Management):
    """Queues of Artemis, and addresses and diverts in the place of exchanges and bindings."""

    counts = True
    routes = frozenset({'direct', 'fanout'})  # a divert knows no patterns

    def __init__(self, connection: Connection) -> None:
        self._requests = Requests(connection, node(_NODE), _answer)

    def ask(self, resource: str, operation: str, deadline: runtime.Deadline, *parameters: Any) -> Any:
        """Have an operation done.

        Raises:
            NotFound: there is no such resource. ChannelError: refused. ConnectionLost: not reached.
        Switches: yes.
        """
        program = {'_AMQ_ResourceName': resource, '_AMQ_OperationName': operation}
        text = dumps(list(parameters))

        def payload(number: str, reply_to: str) -> bytes:
            return sections.write_value(text, {'message_id': number, 'reply_to': reply_to}, program)

        what = f'{operation} of {resource}'
        succeeded, body = self._requests.call(payload, what, deadline)
        results = loads(body) if body else []
        result = results[0] if isinstance(results, list) and results else None
        if not succeeded:
            reason = printable(str(result), 300)
            cls = NotFound if reason.startswith(_MISSING) else ChannelError
            raise cls(f'{what}: {reason}', (0, 0), '', 404 if cls is NotFound else 541)
        return result

    def make_queue(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> int | None:
        """See `Management`: what is there stays as it is."""
        settings = {
            'name': queue, 'address': queue, 'routing-type': 'ANYCAST', 'durable': bool(facts.get('durable')),
            'auto-delete': False,
        }  # fmt: skip
        self.ask('broker', 'createQueue', deadline, dumps(settings), True)
        return None

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        """See `Management`."""
        return self.load(queue, deadline)[0]

    def load(self, queue: str, deadline: runtime.Deadline) -> tuple[int, int]:
        """See `Management`."""
        resource = f'queue.{queue}'
        total, held = self._number(resource, 'countMessages', deadline), 0
        for _ in range(TRIES):
            # Both fall when an acknowledgement is on the disk; a list of what is held is shorter before that.
            held = self._number(resource, 'getDeliveringCount', deadline) if total else 0
            before, total = total, self._number(resource, 'countMessages', deadline) if held else total
            if total == before:
                break
        return max(total - held, 0), held

    def _number(self, resource: str, operation: str, deadline: runtime.Deadline) -> int:
        return int(self.ask(resource, operation, deadline) or 0)

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        """See `Management`."""
        return self._number(f'queue.{queue}', 'removeAllMessages', deadline)

    def delete_queue(self, queue: str, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        self._end_diverts(deadline, queue, None)
        try:
            self.ask('broker', 'destroyQueue', deadline, queue, True, True)
        except NotFound:
            return

    def make_exchange(self, exchange: str, kind: str, deadline: runtime.Deadline) -> None:
        """See `Management`: what is there stays as it is."""
        try:
            self.ask('broker', 'createAddress', deadline, _address(exchange), 'MULTICAST')
        except ChannelError as error:
            if _THERE not in str(error):
                raise

    def delete_exchange(self, exchange: str, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        self._end_diverts(deadline, None, exchange)
        try:
            self.ask('broker', 'deleteAddress', deadline, _address(exchange), True)
        except NotFound:
            return

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """See `Management`: one that is there stays."""
        exchange, key = binding.exchange, binding.routing_key
        name = '/'.join(part or '' for part in _parts(binding.queue, exchange, key))
        settings = {
            'name': name, 'routing-name': name, 'address': _address(exchange), 'exclusive': False,
            'forwarding-address': binding.queue, 'routing-type': 'ANYCAST',
        }  # fmt: skip
        if binding.kind != 'fanout':
            # The subject of a message, by the name that it has in filters.
            settings['filter-string'] = "JMSType = '" + key.replace("'", "''") + "'"
        self.ask('broker', 'createDivert', deadline, dumps(settings))

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        self._end_diverts(deadline, binding.queue, binding.exchange, binding.routing_key)

    def _end_diverts(
        self, deadline: runtime.Deadline, queue: str | None, exchange: str | None, key: str | None = None
    ) -> None:
        # Those of a queue, of an exchange, or one.
        wanted = _parts(queue, exchange, key)
        for name in self.ask('broker', 'getDivertNames', deadline) or []:
            parts = str(name).split('/')
            if len(parts) == len(wanted) and all(
                part in (None, found) for part, found in zip(wanted, parts, strict=True)
            ):
                self.ask('broker', 'destroyDivert', deadline, name)

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]] | None:
        """See `Management`: those for answers, as ours for these, and the broker's own are not named."""
        found: list[dict[str, Any]] = []
        while True:
            number = len(found) // PAGE + 1
            page = self.ask('broker', 'listQueues', deadline, _ALL, number, PAGE)
            listed = loads(page or '{}').get('data') or []
            found += listed
            if len(listed) < PAGE:
                break
        return [
            {'name': queue['name'], 'unacked': int(queue.get('deliveringCount') or 0)}
            for queue in found
            if queue.get('routingType') == 'ANYCAST' and 'true' not in map(queue.get, _PASSING)
        ]

    def close(self) -> None:
        """See `Management`."""
        self._requests.close()


def _parts(*named: str | None) -> list[str | None]:
    # Of a divert's name, which stand between slashes: ours, queue, exchange, key.
    return [_DIVERT, *(None if part is None else quote(part, safe='') for part in named)]


def _answer(found: sections.Sections) -> tuple[str, Any]:
    body = found.body if isinstance(found.body, str) else None
    succeeded = found.program.get('_AMQ_OperationSucceeded') is True
    return str(found.properties.get('correlation_id')), (succeeded, body)
