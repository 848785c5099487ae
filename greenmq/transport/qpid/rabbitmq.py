"""RabbitMQ, told what to make, count and delete.

RabbitMQ 4 answers requests at a node of its own, in the form of HTTP; for RabbitMQ 3 there is the HTTP API of
its management plugin, at the option `management_url`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from greenmq import runtime
from greenmq.exceptions import (
    AccessRefused,
    ChannelError,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
)
from greenmq.transport.amqp10 import message as sections
from greenmq.transport.amqp10.codec import Symbol
from greenmq.transport.amqp10.connection import Connection
from greenmq.transport.amqp10.links import SETTLED, Receiver, Sender
from greenmq.transport.amqp10.performatives import Source, Target, plain
from greenmq.transport.amqp10.requests import Requests
from greenmq.transport.driver import Binding
from greenmq.transport.qpid.management import ROUTED, Management
from greenmq.utils.json import dumps, loads
from greenmq.utils.text import printable

__all__ = ('AMQPManagement', 'HTTPManagement')

_NODE = '/management'
_ERRORS: dict[int, type[Exception]] = {
    401: AccessRefused, 403: AccessRefused, 404: NotFound, 409: PreconditionFailed,
}  # fmt: skip


def _refused(status: int, body: Any, what: str) -> Exception:
    cls = _ERRORS.get(status, ChannelError)
    if status == 400 and 'inequivalent' in str(body):  # how RabbitMQ 3 says 409
        cls, status = PreconditionFailed, 406
    text = printable(str(plain(body) if body is not None else ''), 400)
    return cls(f'{what}: {status} {text}', (0, 0), '', 406 if status == 409 else status)


def _q(name: str) -> str:
    return quote(name, safe='')


class RabbitMQManagement(Management):
    """What RabbitMQ is told, over whatever carries `request`."""

    routes = ROUTED

    def request(self, method: str, path: tuple[str, ...], body: Any, deadline: runtime.Deadline) -> Any:
        """Ask something.

        Arguments:
            path (tuple[str, ...]): its parts, not encoded.
        Returns:
            object: the body of the answer.
        Raises:
            NotFound, PreconditionFailed, AccessRefused, ChannelError: refused. ConnectionLost: not reached.
        Switches: yes.
        """
        raise NotImplementedError(f'{type(self).__name__}.request')

    def make_queue(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> int | None:
        """Make a queue; return how many messages wait in it, if it tells. Switches: yes."""
        body = {
            'durable': bool(facts.get('durable')), 'auto_delete': bool(facts.get('auto_delete')),
            'arguments': dict(facts.get('arguments') or ()),
        }  # fmt: skip
        found = self.request('PUT', ('queues', queue), body, deadline)
        return int(found['message_count']) if self.counts else None

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        """How many messages wait in a queue. Raises NotFound. Switches: yes."""
        return int(self.request('GET', ('queues', queue), None, deadline)['message_count'])

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        """Empty a queue; return how many messages it had. Switches: yes."""
        return int(self.request('DELETE', ('queues', queue, 'messages'), None, deadline)['message_count'])

    def delete_queue(self, queue: str, deadline: runtime.Deadline) -> None:
        """Delete a queue; none of that name is fine. Switches: yes."""
        try:
            self.request('DELETE', ('queues', queue), None, deadline)
        except NotFound:
            return

    def make_exchange(self, exchange: str, kind: str, deadline: runtime.Deadline) -> None:
        """Make an exchange; one that exists is left as it is. Switches: yes."""
        if exchange.startswith('amq.'):
            return  # the broker's own
        body = {'type': kind, 'durable': True, 'auto_delete': False, 'internal': False, 'arguments': {}}
        try:
            self.request('PUT', ('exchanges', exchange), body, deadline)
        except PreconditionFailed:
            return  # made by somebody else, in another way

    def delete_exchange(self, exchange: str, deadline: runtime.Deadline) -> None:
        """Delete an exchange; none of that name is fine. Switches: yes."""
        if exchange.startswith('amq.'):
            return
        try:
            self.request('DELETE', ('exchanges', exchange), None, deadline)
        except NotFound:
            return


class AMQPManagement(RabbitMQManagement):
    """RabbitMQ 4: requests over a pair of links."""

    counts = True

    def __init__(self, connection: Connection) -> None:
        self._requests = Requests(connection, _links, _answer, settled=True)

    def request(self, method: str, path: tuple[str, ...], body: Any, deadline: runtime.Deadline) -> Any:
        """See `RabbitMQManagement`."""
        where = '/' + '/'.join(_q(part) if '=' not in part else part for part in path)

        def payload(number: str, reply_to: str) -> bytes:
            named = {'message_id': number, 'to': where, 'subject': method, 'reply_to': '$me'}
            return sections.write_value(body, named)

        what = f'{method} {where}'
        status, answer = self._requests.call(payload, what, deadline)
        if status >= 300:
            raise _refused(status, answer, what)
        return answer

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        body = {
            'source': binding.exchange, 'destination_queue': binding.queue,
            'binding_key': binding.routing_key, 'arguments': dict(binding.arguments or ()),
        }  # fmt: skip
        self.request('POST', ('bindings',), body, deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        exchange, queue, key = (_q(each) for each in (binding.exchange, binding.queue, binding.routing_key))
        query = f'bindings?src={exchange}&dstq={queue}&key={key}'
        try:
            for found in list(self.request('GET', (query,), None, deadline) or ()):
                if not binding.arguments or found.get('arguments') == dict(binding.arguments):
                    where = str(found['location']).rpartition('/')[2]
                    self.request('DELETE', ('bindings', where), None, deadline)
        except NotFound:
            return

    def close(self) -> None:
        """See `Management`."""
        self._requests.close()


def _links(name: str, listener: Any) -> tuple[Sender, Receiver]:
    pair: dict[str, Any] = {'snd_settle_mode': SETTLED, 'properties': {Symbol('paired'): True}}
    return (
        Sender(name, listener, Source(_NODE), Target(_NODE), **pair),
        Receiver(name, listener, Source(_NODE), Target(_NODE), **pair),
    )


def _answer(found: sections.Sections) -> tuple[str, Any]:
    status = int(found.properties.get('subject') or 500)
    return str(found.properties.get('correlation_id')), (status, plain(found.body))


class HTTPManagement(RabbitMQManagement):
    """RabbitMQ 3: the HTTP API of its management plugin.

    Arguments:
        url (str): http[s]://[user:password@]host:port; user and password of the connection if it has none.
        vhost (str): the virtual host.
    """

    def __init__(self, url: str, vhost: str, user: str | None, password: str | None) -> None:
        from greenmq.transport import http

        parts = urlsplit(url)
        if parts.scheme not in ('http', 'https') or not parts.hostname:
            shown = f'{parts.scheme}://{parts.hostname or ""}'
            raise InvalidArgument('management_url', shown, 'is no http:// or https:// URL with a host')
        host = f'[{parts.hostname}]' if ':' in parts.hostname else parts.hostname
        self._base = f'{parts.scheme}://{host}:{parts.port or (443 if parts.scheme == "https" else 80)}/api'
        self._vhost = vhost
        user = unquote(parts.username) if parts.username else user
        password = unquote(parts.password) if parts.password else password
        self._login = _basic(user or 'guest', password or 'guest')
        self._http = http.Client(http.Settings(proxies={}, pool_size=8))

    def _send(self, method: str, path: str, body: Any, deadline: runtime.Deadline) -> Any:
        headers = {'Authorization': self._login, 'Content-Type': 'application/json'}
        content = dumps(body).encode() if body is not None else b''
        answer = self._http.request(method, self._base + path, headers, content, deadline)
        text = answer.body.decode(errors='replace')
        if answer.status >= 300:
            raise _refused(answer.status, text, f'{method} {path}')
        return loads(text) if text else None

    def request(self, method: str, path: tuple[str, ...], body: Any, deadline: runtime.Deadline) -> Any:
        """See `Management`."""
        first, *rest = path
        where = '/'.join((_q(first), _q(self._vhost), *map(_q, rest)))
        return self._send(method, f'/{where}', body, deadline)

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        body = {'routing_key': binding.routing_key, 'arguments': dict(binding.arguments or ())}
        self.request('POST', ('bindings', 'e', binding.exchange, 'q', binding.queue), body, deadline)

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        path = ('bindings', 'e', binding.exchange, 'q', binding.queue)
        try:
            for found in self.request('GET', path, None, deadline) or ():
                same = not binding.arguments or found.get('arguments') == dict(binding.arguments)
                if found.get('routing_key') == binding.routing_key and same:
                    self.request('DELETE', (*path, found['properties_key']), None, deadline)
        except NotFound:
            return

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        """See `Management`; it does not tell how many there were."""
        self.request('DELETE', ('queues', queue, 'contents'), None, deadline)
        return 0

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]] | None:
        """See `Management`."""
        found = self._send('GET', f'/queues/{_q(self._vhost)}', None, deadline)
        return [
            {
                'name': queue['name'],
                'unacked': queue.get('messages_unacknowledged', 0),
                'dead_letters': (queue.get('arguments') or {}).get('x-dead-letter-exchange'),
            }
            for queue in found
        ]

    def ping(self, deadline: runtime.Deadline) -> None:
        """See whether it answers, and takes us. Raises as `request`. Switches: yes."""
        self._send('GET', '/whoami', None, deadline)

    def close(self) -> None:
        """See `Management`."""
        self._http.close()


def _basic(user: str, password: str) -> str:
    return 'Basic ' + base64.b64encode(f'{user}:{password}'.encode()).decode('ascii')
