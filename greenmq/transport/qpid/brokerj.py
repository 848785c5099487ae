"""Apache Qpid Broker-J, told over AMQP what to make, count, bind and delete: messages to its management node.

A request names an operation, the type of the object and its path; its arguments are application properties,
those that are no text as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenmq import runtime
from greenmq.exceptions import AccessRefused, ChannelError, NotFound, PreconditionFailed
from greenmq.transport.amqp10 import message as sections
from greenmq.transport.amqp10.connection import Connection
from greenmq.transport.amqp10.performatives import plain
from greenmq.transport.amqp10.requests import Requests
from greenmq.transport.driver import Binding
from greenmq.transport.qpid.management import ROUTED, Management, node
from greenmq.utils.json import dumps
from greenmq.utils.text import printable

__all__ = ('BrokerJManagement',)

_QUEUE, _EXCHANGE = 'org.apache.qpid.Queue', 'org.apache.qpid.Exchange'
_CONFLICT = 409
_ERRORS: dict[int, type[Exception]] = {
    401: AccessRefused, 403: AccessRefused, 404: NotFound, _CONFLICT: PreconditionFailed,
}  # fmt: skip


def _at(name: str) -> dict[str, str]:
    # A path has its parts between slashes.
    return {'index': 'object-path', 'key': name.replace('\\', '\\\\').replace('/', '\\/')}


class BrokerJManagement(Management):
    """Queues and exchanges of Broker-J."""

    counts = True
    routes = ROUTED
    purges = False  # its operation takes from consumers what they hold

    def __init__(self, connection: Connection) -> None:
        self._requests = Requests(connection, node('$management'), _answer)

    def ask(
        self, operation: str, kind: str, deadline: runtime.Deadline, *, body: Any = None, **arguments: Any
    ) -> Any:
        """Have an operation done.

        Arguments:
            kind (str): type of the object. body (object): its attributes, to make one.
        Raises:
            NotFound, PreconditionFailed, AccessRefused, ChannelError: refused. ConnectionLost: not reached.
        Switches: yes.
        """
        program = {'operation': operation, 'type': kind, **arguments}

        def payload(number: str, reply_to: str) -> bytes:
            return sections.write_value(body or {}, {'message_id': number, 'reply_to': reply_to}, program)

        what = f'{operation} of {arguments.get("key") or arguments.get("name") or kind}'
        status, answer = self._requests.call(payload, what, deadline)
        if status >= 300:
            cls = _ERRORS.get(status, ChannelError)
            raise cls(f'{what}: {status} {printable(str(answer), 300)}', (0, 0), '', status)
        return answer

    def _make(self, kind: str, name: str, attributes: Mapping[str, Any], deadline: runtime.Deadline) -> None:
        try:
            self.ask('CREATE', kind, deadline, body={'name': name, **attributes}, name=name)
        except PreconditionFailed:
            return  # it is there, and stays as it is

    def _drop(self, kind: str, name: str, deadline: runtime.Deadline) -> None:
        try:
            self.ask('DELETE', kind, deadline, **_at(name))
        except NotFound:
            return

    def make_queue(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> int | None:
        """See `Management`: what is there stays as it is."""
        self._make(_QUEUE, queue, {'durable': bool(facts.get('durable'))}, deadline)
        return None

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        """See `Management`."""
        wanted = {'statistics': dumps(['availableMessages'])}
        found = self.ask('getStatistics', _QUEUE, deadline, **wanted, **_at(queue))
        return int(found['availableMessages'])

    def delete_queue(self, queue: str, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        self._drop(_QUEUE, queue, deadline)

    def make_exchange(self, exchange: str, kind: str, deadline: runtime.Deadline) -> None:
        """See `Management`: what is there stays as it is."""
        if not exchange.startswith('amq.'):
            # Else it accepts what no queue gets.
            attributes = {'durable': True, 'qpid-type': kind, 'unroutableMessageBehaviour': 'REJECT'}
            self._make(_EXCHANGE, exchange, attributes, deadline)

    def delete_exchange(self, exchange: str, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        if not exchange.startswith('amq.'):
            self._drop(_EXCHANGE, exchange, deadline)

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        said = {'arguments': dumps(dict(binding.arguments))} if binding.arguments else {}
        self._change('bind', binding, deadline, **said)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        try:
            self._change('unbind', binding, deadline)
        except NotFound:
            return

    def _change(self, operation: str, binding: Binding, deadline: runtime.Deadline, **said: str) -> None:
        ends = {'destination': binding.queue, 'bindingKey': binding.routing_key}
        self.ask(operation, _EXCHANGE, deadline, **ends, **said, **_at(binding.exchange))

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]] | None:
        """See `Management`."""
        found = self.ask(
            'QUERY', 'org.amqp.management', deadline, body={'attributeNames': ['name']}, identity='self',
            entityType=_QUEUE,
        )  # fmt: skip
        return [{'name': str(name)} for (name,) in found['results'] if not name.startswith('TempQueue')]

    def close(self) -> None:
        """See `Management`."""
        self._requests.close()


def _answer(found: sections.Sections) -> tuple[str, Any]:
    status = int(found.program.get('statusCode') or 500)
    said = plain(found.body) if status < 300 else found.program.get('statusDescription')
    return str(found.properties.get('correlation_id')), (status, said)
