"""How messages reach the server: the commands of a message, sent at once, and the wait for the server's word.

The server takes any number of commands on one link, and answers in order: publishes of many greenlets need no
gathering here, they leave together as they come (see `link`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from greenmq import runtime
from greenmq.exceptions import BatchPublishError, PublishUnconfirmed, TimeoutError, Unroutable
from greenmq.transport.driver.arrival import EXPIRES_AT
from greenmq.transport.driver.publisher import DELAY_HEADER
from greenmq.transport.redis import resp
from greenmq.transport.redis.envelope import Envelopes
from greenmq.transport.redis.errors import raised
from greenmq.transport.redis.keys import Keys
from greenmq.transport.redis.link import HIGH_WATER
from greenmq.transport.redis.scripts import DELAY, PUSH
from greenmq.transport.redis.server import Server
from greenmq.transport.virtual.envelope import Base64
from greenmq.utils.uuid import uuid

__all__ = ('PublishBatch', 'Publisher')

#: Milliseconds: what a score of Redis holds exactly.
MAX_DELAY = 2**52

#: A key of the command, and its words.
Command = tuple[str, tuple[Any, ...]]

_base64 = Base64()


class Publisher:
    """The publishes of one session.

    Arguments:
        session (RedisSession): whose router knows the exchanges.
        driver (RedisDriver): whose server, keys and bindings are used.
        settings (Mapping): `body_encoding`, `drop_expired`, `fanout_mode`, `stream_maxlen`.
    Attributes:
        published (int), calls (int): messages sent, and how often.
        waiting (int): messages that wait for a call: none, see above.
    """

    waiting = 0

    def __init__(self, session: Any, driver: Any, settings: Mapping[str, Any]) -> None:
        self.published = self.calls = 0
        self._router = session.router
        self._exchanges: dict[str, dict[str, Any]] = session.router.state.exchanges
        self._queues: dict[str, dict[str, Any]] = session.router.state.queues
        self._server: Server = driver.server
        self._keys: Keys = driver.keys
        self._encoding = settings['body_encoding'] or 'base64'
        self._drop_expired = settings['drop_expired']
        self._fanout_mode = settings['fanout_mode']
        self._stream_maxlen = settings['stream_maxlen']
        self._envelopes = Envelopes(f'{uuid()}-')

    def publish(
        self, message: dict[str, Any], exchange: str, key: str, mandatory: bool, deadline: runtime.Deadline
    ) -> None:
        """Publish what `prepare_message` made; the server has it when this returns.

        Raises:
            Unroutable: `mandatory`, and no queue would get it.
            PublishUnconfirmed: not in time; `sent` says whether it may have arrived.
            ConnectionLost: cut while it was on its way: it may have arrived.
            OutOfMemory, NotPermitted, WrongType: the server refuses it.
        Switches: yes. Killed: it is sent whole or not at all.
        """
        self.send(self.commands(message, exchange, key, mandatory, deadline), deadline)

    def send(self, commands: list[Command], deadline: runtime.Deadline) -> None:
        """Send commands together, and wait until the server has them. Raises, Switches: as `publish`."""
        if not commands:
            return
        self.calls += 1
        self.published += len(commands)
        server = self._server
        if server.clustered:
            try:
                for key, command in commands:
                    server.execute(command, key, deadline)
            except TimeoutError as error:
                raise PublishUnconfirmed(str(error)) from None
            return
        link = server.link
        if link is None or link.error is not None or link.out_bytes > HIGH_WATER:
            try:
                server.wait_open(deadline).wait_room(deadline)
            except TimeoutError as error:
                raise PublishUnconfirmed(str(error), sent='no') from None
            link = server.link
        try:
            if len(commands) == 1:
                waiter = runtime.Waiter('redis did not confirm the publish')
                link.send(resp.pack(commands[0][1]), waiter.wake)  # type: ignore[union-attr]
                replies = [waiter.wait(deadline)]
            else:
                replies = link.call_many([command for _, command in commands], deadline)  # type: ignore[union-attr]
        except TimeoutError as error:
            raise PublishUnconfirmed(f'{server.name}: {error}') from None
        for reply in replies:
            if reply.__class__ is not int:
                raised(link.expect(reply, bytes), server.name)  # type: ignore[union-attr]  # of a stream's entry

    def closed(self, error: Exception) -> None:
        """The session ends: whoever waits is told by the link."""

    def decoded(self, body: Any) -> bytes:
        """Undo the base64 of a body."""
        return _base64.decode(body)

    # ------------------------------------------------------------ where it goes

    def commands(
        self, message: dict[str, Any], exchange: str, key: str, mandatory: bool, deadline: runtime.Deadline
    ) -> list[Command]:
        """What has to be sent. Raises, Switches: as `publish`, if the bindings are not known."""
        if not exchange:
            if mandatory and key not in self._queues and not self._router.has_queue(key, deadline):
                raise Unroutable(message, exchange, key)
            return [self._push(key, message, exchange, key)]
        if self._keys.sep in key or self._keys.sep in exchange:
            self._keys.check('routing_key', key)
            self._keys.check('exchange', exchange)
        record = self._exchanges.get(exchange)
        kind = record['type'] if record is not None else 'direct'
        if kind == 'fanout' and self._fanout_mode != 'queues':
            return [self._fan_out(message, exchange, key)]
        queues = self._router.route(exchange, key, message['headers'], deadline)
        if not queues:
            queues = self._router.nowhere(exchange, key, message, mandatory, deadline)
        if len(queues) == 1:
            return [self._push(queues[0], message, exchange, key)]
        return [self._push(queue, message, exchange, key) for queue in queues]

    def _push(self, queue: str, message: dict[str, Any], exchange: str, routing_key: str) -> Command:
        properties = message['properties']
        priority = properties.get('priority') or 0
        key = self._keys.list_of(queue, self._keys.step(priority) if priority else 0)
        declared = self._queues.get(queue)
        arguments = declared['arguments'] if declared else None
        expires = self._drop_expired and 'expiration' in properties
        if expires or (arguments and 'x-message-ttl' in arguments):
            message = _with_expiry(message, arguments or {}, expires)
        text = self._envelopes.write(message, exchange, routing_key, self._encoding)
        delay = delay_of(message['headers']) if message['headers'] else 0
        if delay:
            return self._delay(queue, key, text, delay)
        if arguments and 'x-expires' in arguments:
            return key, ('EVAL', PUSH.text, 1, key, text, int(arguments['x-expires']))
        return key, ('LPUSH', key, text)

    def _delay(self, queue: str, key: str, text: str, delay_ms: int) -> Command:
        home = self._keys.home(queue)
        member = self._keys.delayed_member(key, uuid(), text)
        # By its text and not by its digest: nobody could load it for a command that is only queued.
        return home.delayed, ('EVAL', DELAY.text, 1, home.delayed, delay_ms, member)

    def _fan_out(self, message: dict[str, Any], exchange: str, routing_key: str) -> Command:
        text = self._envelopes.write(message, exchange, routing_key, self._encoding)
        if self._fanout_mode == 'stream':
            key = self._keys.stream(exchange)
            return key, ('XADD', key, 'MAXLEN', '~', self._stream_maxlen, '*', 'm', text)
        channel = self._keys.channel(exchange, routing_key)
        return channel, ('PUBLISH', channel, text)

    def __repr__(self) -> str:
        return f'<Publisher: {self.published} sent in {self.calls} calls>'


class PublishBatch:
    """Publishes that are sent together by `flush`.

    Source: kombu redis PublishBatch.
    """

    def __init__(self, channel: Any, max_size: int) -> None:
        self.channel = channel
        self.max_size = max_size
        self.pipeline: list[Command] = []

    def add(self, name: str, *args: Any) -> None:
        """Collect one command. Switches: no, unless it is full: then as `flush`."""
        self.pipeline.append((str(args[0]) if args else '', (name.upper(), *args)))
        self._flush_if_full()

    def publish(self, message: Any, **kwargs: Any) -> None:
        """Collect one message; as `basic_publish`.

        Switches: only to learn of bindings, or as `flush` if it is full.
        """
        deadline = runtime.Deadline.of(kwargs.get('timeout'))
        self.pipeline += self.channel.session.publisher.commands(
            message, kwargs['exchange'], kwargs['routing_key'], bool(kwargs.get('mandatory')), deadline
        )
        self._flush_if_full()

    def _flush_if_full(self) -> None:
        if len(self.pipeline) >= self.max_size:
            self.flush()

    def flush(self, timeout: Any = None) -> None:
        """Send what was collected, and wait until the server has it.

        Raises:
            BatchPublishError: it failed: some may have arrived, some not.
        Switches: yes.
        """
        commands, self.pipeline = self.pipeline, []
        try:
            deadline = runtime.Deadline.of(timeout if timeout is not None else 30.0)
            self.channel.session.publisher.send(commands, deadline)
        except Exception as error:
            raise BatchPublishError(f'{len(commands)} publishes of a batch: {error}') from error

    def discard(self) -> None:
        """Forget what was collected."""
        self.pipeline = []

    def close(self) -> None:
        """As `discard`."""
        self.discard()


def delay_of(headers: Mapping[str, Any]) -> int:
    """Milliseconds that a message is to be held back. What is no number is no delay, as RabbitMQ has it.
    """
    given = headers.get(DELAY_HEADER)
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        return 0
    try:
        return min(max(int(given), 0), MAX_DELAY)
    except (ValueError, OverflowError):
        return 0


def _with_expiry(message: dict[str, Any], arguments: Mapping[str, Any], own: bool) -> dict[str, Any]:
    """The message with the time when it expires: by its `own` expiration or its queue's `x-message-ttl`."""
    given = (message['properties'].get('expiration') if own else None, arguments.get('x-message-ttl'))
    ttls = [int(ttl) for ttl in given if ttl is not None]
    expires_at = int(time.time() * 1000) + min(ttls)
    return {**message, 'properties': {**message['properties'], EXPIRES_AT: expires_at}}
