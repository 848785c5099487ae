"""How a broker is told to make, count and delete things: over AMQP itself, over HTTP, or not at all.

AMQP 1.0 has no verb for it. RabbitMQ 4 answers requests at a node of its own, in the form of HTTP; for
RabbitMQ 3 there is the HTTP API of its management plugin, at the option `management_url`.
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
from greenmq.transport.amqp10.errors import SessionEnded
from greenmq.transport.amqp10.links import Delivery, Receiver, Sender
from greenmq.transport.amqp10.performatives import Accepted, Source, Target, plain
from greenmq.transport.amqp10.session import Session
from greenmq.utils.json import dumps, loads
from greenmq.utils.text import printable

__all__ = ('AMQPManagement', 'HTTPManagement', 'Management')

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


class Management:
    """What RabbitMQ is told, over whatever carries `request`."""

    #: Does it tell how many messages wait?
    counts = False

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

    def bind(self, exchange: str, queue: str, key: str, arguments: Any, deadline: runtime.Deadline) -> None:
        """Bind a queue to an exchange. Switches: yes."""
        raise NotImplementedError(f'{type(self).__name__}.bind')

    def unbind(self, exchange: str, queue: str, key: str, arguments: Any, deadline: runtime.Deadline) -> None:
        """Undo `bind`; no such binding is fine. Switches: yes."""
        raise NotImplementedError(f'{type(self).__name__}.unbind')

    def queues(self, deadline: runtime.Deadline) -> list[dict[str, Any]] | None:
        """All queues, for people; None if it does not list them. Switches: yes."""
        return None

    def close(self) -> None:
        """Let go of it. Switches: no."""


class AMQPManagement(Management):
    """RabbitMQ 4: requests over a pair of links."""

    counts = True

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._session: Session | None = None
        self._sender: Sender | None = None
        self._receiver: Receiver | None = None
        self._error: Exception | None = None
        self._answers: dict[str, runtime.Waiter] = {}
        self._ready: list[runtime.Waiter] = []
        self._numbers = 0

    def request(self, method: str, path: tuple[str, ...], body: Any, deadline: runtime.Deadline) -> Any:
        """See `Management`."""
        sender = self._opened(deadline)
        self._numbers += 1
        number = f'{self._numbers}'
        where = '/' + '/'.join(_q(part) if '=' not in part else part for part in path)
        what = f'{self._connection.name}: {method} {where}'
        payload = sections.write_value(
            body, {'message_id': number, 'to': where, 'subject': method, 'reply_to': '$me'}
        )
        waiter = self._answers[number] = runtime.Waiter(f'{what} was not answered')
        try:
            sender.send(payload, settled=True)
            status, answer = waiter.wait(deadline)
        finally:
            self._answers.pop(number, None)
        if status >= 300:
            raise _refused(status, answer, what)
        return answer

    def _opened(self, deadline: runtime.Deadline) -> Sender:
        if self._error is not None or self._sender is None:
            self._connection.check()
            self._error = None
            engine = self._connection.engine
            name = engine.link_name()
            pair: dict[str, Any] = {'properties': {Symbol('paired'): True}}
            session = self._session = self._connection.session()
            self._sender = Sender(name, self, Source(_NODE), Target(_NODE), snd_settle_mode=1, **pair)
            self._receiver = Receiver(name, self, Source(_NODE), Target(_NODE), snd_settle_mode=1, **pair)
            session.attach(self._sender)
            session.attach(self._receiver)
        while not self._sender.credit or self._receiver is None or self._receiver.state != 'attached':
            waiter = runtime.Waiter(f'{self._connection.name}: management was not reached')
            self._ready.append(waiter)
            try:
                waiter.wait(deadline)
            finally:
                if waiter in self._ready:
                    self._ready.remove(waiter)
        return self._sender

    def on_attached(self, link: Any) -> None:
        """See `amqp10.links.Listener`."""
        if isinstance(link, Receiver):
            link.grant(100)
        self._wake()

    def _wake(self) -> None:
        ready, self._ready = self._ready, []
        for waiter in ready:
            waiter.wake()

    def on_detached(self, link: Any, error: Exception | None) -> None:
        """See `amqp10.links.Listener`."""
        if link not in (self._sender, self._receiver):
            return
        failure = self._error = error or SessionEnded(f'{self._connection.name}: management ended')
        self._sender = self._receiver = None
        answers, self._answers = self._answers, {}
        for waiter in [*answers.values(), *self._ready]:
            waiter.fail(failure)
        self._ready = []

    def on_flow(self, link: Any) -> None:
        """See `amqp10.links.Listener`."""
        self._wake()

    def on_outcome(self, link: Any, number: int, state: Any) -> None:
        """See `amqp10.links.Listener`: the answer says it."""

    def on_message(self, link: Any, delivery: Delivery) -> None:
        """See `amqp10.links.Listener`."""
        if not delivery.settled:
            link.session.settle([delivery.id], Accepted())
        if link.credit < 50:
            link.grant(100)
        try:
            found = sections.read(delivery.payload)
            status = int(found.properties.get('subject') or 500)
        except ValueError:
            return  # no answer of this node; whoever asked learns it from the deadline
        waiter = self._answers.get(str(found.properties.get('correlation_id')))
        if waiter is not None:
            waiter.wake((status, plain(found.body)))

    def bind(self, exchange: str, queue: str, key: str, arguments: Any, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        body = {
            'source': exchange, 'destination_queue': queue, 'binding_key': key,
            'arguments': dict(arguments or ()),
        }  # fmt: skip
        self.request('POST', ('bindings',), body, deadline)

    def unbind(self, exchange: str, queue: str, key: str, arguments: Any, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        query = f'bindings?src={_q(exchange)}&dstq={_q(queue)}&key={_q(key)}'
        try:
            for found in list(self.request('GET', (query,), None, deadline) or ()):
                if not arguments or found.get('arguments') == dict(arguments):
                    where = str(found['location']).rpartition('/')[2]
                    self.request('DELETE', ('bindings', where), None, deadline)
        except NotFound:
            return

    def close(self) -> None:
        """See `Management`."""
        if self._session is not None and self._connection.error is None:
            self._sender = self._receiver = None
            self._session.end()


class HTTPManagement(Management):
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

    def bind(self, exchange: str, queue: str, key: str, arguments: Any, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        body = {'routing_key': key, 'arguments': dict(arguments or ())}
        self.request('POST', ('bindings', 'e', exchange, 'q', queue), body, deadline)

    def unbind(self, exchange: str, queue: str, key: str, arguments: Any, deadline: runtime.Deadline) -> None:
        """See `Management`."""
        path = ('bindings', 'e', exchange, 'q', queue)
        try:
            for found in self.request('GET', path, None, deadline) or ():
                same = not arguments or found.get('arguments') == dict(arguments)
                if found.get('routing_key') == key and same:
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

