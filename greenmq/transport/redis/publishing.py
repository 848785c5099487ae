"""How a channel publishes: the commands of a message, sent at once, and the wait for the server's word."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from greenmq import runtime
from greenmq.exceptions import BatchPublishError, PublishUnconfirmed, TimeoutError, Unroutable
from greenmq.transport.redis import wire
from greenmq.transport.redis.envelope import EXPIRES_AT
from greenmq.transport.redis.errors import raised
from greenmq.transport.redis.link import HIGH_WATER
from greenmq.transport.redis.scripts import DELAY, PUSH
from greenmq.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES
from greenmq.transport.virtual.parts import ChannelParts
from greenmq.utils.uuid import uuid

__all__ = ('PublishBatch', 'RedisPublishing')

#: Header that holds a message back for so many ms, as RabbitMQ's plugin for delayed messages has it.
DELAY_HEADER = 'x-delay'

#: Milliseconds: what a score of Redis holds exactly.
MAX_DELAY = 2**52

Command = tuple[Any, ...]


class RedisPublishing(ChannelParts):
    """basic_publish, its variants, and where a message goes."""

    _session: Any
    _keys: Any
    _bindings: Any
    _envelopes: Any
    _amqp_order: bool
    _drop_expired: bool
    _fanout_mode: str
    _stream_maxlen: int
    _check_open: Any
    _has_queue: Any
    _fanout_channel: Any
    _new_queue: Any
    _declared: dict[str, Any]

    def basic_publish(
        self,
        message: Any,
        exchange: str,
        routing_key: str,
        mandatory: bool = False,
        immediate: bool = False,
        timeout: Any = None,
        confirm_timeout: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Publish what `prepare_message` made; the server has it when this returns.

        Arguments:
            mandatory (bool): raise if no queue would get it.
            timeout (Deadline | float): for all of it, a recovery included.
        Raises:
            Unroutable: `mandatory`, and no queue would get it.
            PublishUnconfirmed: not in time; `sent` says whether it may have arrived.
            ConnectionLost: cut while it was on its way: it may have arrived.
            OutOfMemory, NotPermitted, WrongType: the server refuses it.
            ConnectionClosed: the channel is closed. WrongHub: called in another native thread.
        Switches: yes. Killed: it is sent whole or not at all.
        Source: AMQP 0-9-1 basic.publish; kombu.
        """
        if self.closed:
            self._check_open()
        self._session.check_here()
        deadline = timeout if timeout.__class__ is runtime.Deadline else runtime.Deadline.of(timeout)
        try:
            commands = self._commands(message, exchange, routing_key, mandatory, deadline)
        except PublishUnconfirmed:
            raise
        except TimeoutError as error:
            raise PublishUnconfirmed(str(error), sent='no') from None
        self._publish_all(commands, deadline)

    def basic_publish_nowait(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Publish without waiting.

        Returns:
            runtime.Future: resolves when the server has it, or to the error.
        Switches: no; a task publishes if the connection is away or the exchange's bindings are not known.
        """
        future = runtime.Future()
        runtime.spawn(
            self._publish_for,
            future,
            message,
            exchange,
            routing_key,
            kwargs,
            name='redis-publish',
        )
        return future

    def _publish_for(self, future: Any, message: Any, exchange: str, routing_key: str, kwargs: Any) -> None:
        kwargs.setdefault('timeout', 30.0)
        try:
            future.set_result(self.basic_publish(message, exchange, routing_key, **kwargs))
        except Exception as error:  # whoever asks the future gets it
            future.set_exception(error)

    def _publish_all(self, commands: list[tuple[str, Command]], deadline: runtime.Deadline) -> None:
        if not commands:
            return
        session = self._session
        if session.clustered:
            try:
                for key, command in commands:
                    session.execute(command, key, deadline)
            except TimeoutError as error:
                raise PublishUnconfirmed(str(error)) from None
            return
        link = session.link
        if link is None or link.error is not None or link.out_bytes > HIGH_WATER:
            try:
                session.wait_open(deadline).wait_room(deadline)
            except TimeoutError as error:
                raise PublishUnconfirmed(str(error), sent='no') from None
            link = session.link
        try:
            if len(commands) == 1:
                waiter = runtime.Waiter('redis did not confirm the publish')
                link.send(wire.pack(commands[0][1]), waiter.wake)
                replies = [waiter.wait(deadline)]
            else:
                replies = link.call_many([command for _, command in commands], deadline)
        except TimeoutError as error:
            raise PublishUnconfirmed(f'{session.name}: {error}') from None
        for reply in replies:
            if reply.__class__ is not int:
                raised(link.expect(reply, bytes), session.name)  # the number of a stream's entry

    # ------------------------------------------------------------ where it goes

    def _commands(
        self, message: Any, exchange: str, routing_key: str, mandatory: bool, deadline: runtime.Deadline
    ) -> list[tuple[str, Command]]:
        """What has to be sent: (key, command) each."""
        if not exchange:
            if mandatory and not self._has_queue(routing_key):
                raise Unroutable(message, exchange, routing_key)
            return [self._push(routing_key, message, exchange, routing_key)]
        if self._keys.sep in routing_key or self._keys.sep in exchange:
            self._keys.check('routing_key', routing_key)
            self._keys.check('exchange', exchange)
        kind = self.typeof(exchange)
        if type(kind) is not STANDARD_EXCHANGE_TYPES.get(kind.type):
            # Somebody's own type, which may return a set, as kombu's do.
            table = self.get_table(exchange)
            queues = tuple(kind.lookup(table, exchange, routing_key, self.deadletter_queue))
        elif kind.type == 'fanout' and self._fanout_mode != 'queues':
            return [self._fan_out(message, exchange, routing_key)]
        else:
            queues = self._bindings.route(exchange, kind.type, routing_key, deadline)
        if not queues:
            queues = self._nowhere(message, exchange, routing_key, mandatory)
        if len(queues) == 1:
            return [self._push(queues[0], message, exchange, routing_key)]
        return [self._push(queue, message, exchange, routing_key) for queue in queues]

    def _nowhere(self, message: Any, exchange: str, routing_key: str, mandatory: bool) -> tuple[str, ...]:
        if mandatory:
            raise Unroutable(message, exchange, routing_key)
        if self.deadletter_queue is None:
            return ()
        return tuple(self._lookup(exchange, routing_key))  # warns

    def _push(self, queue: str, message: Any, exchange: str, routing_key: str) -> tuple[str, Command]:
        properties = message['properties']
        priority = properties.get('priority') or 0
        key = self._keys.list_of(queue, self._keys.step(priority) if priority else 0)
        declared = self._declared.get(queue)
        arguments = declared['arguments'] if declared else None
        expires = self._drop_expired and 'expiration' in properties
        if expires or (arguments and 'x-message-ttl' in arguments):
            message = _with_expiry(message, arguments or {}, expires)
        text = self._envelopes.write(message, exchange, routing_key, self.body_encoding)
        delay = delay_of(message['headers']) if message['headers'] else 0
        if delay:
            return self._delay(queue, key, text, delay)
        if arguments and 'x-expires' in arguments:
            return key, ('EVAL', PUSH.text, 1, key, text, int(arguments['x-expires']))
        return key, ('LPUSH', key, text)

    def _delay(self, queue: str, key: str, text: str, delay_ms: int) -> tuple[str, Command]:
        home = self._keys.home(queue)
        member = self._keys.delayed_member(key, self._next_delivery_tag(), text)
        # By its text and not by its digest: nobody could load it for a command that is only queued.
        return home.delayed, ('EVAL', DELAY.text, 1, home.delayed, delay_ms, member)

    def _fan_out(self, message: Any, exchange: str, routing_key: str) -> tuple[str, Command]:
        text = self._envelopes.write(message, exchange, routing_key, self.body_encoding)
        if self._fanout_mode == 'stream':
            key = self._keys.stream(exchange)
            return key, ('XADD', key, 'MAXLEN', '~', self._stream_maxlen, '*', 'm', text)
        channel = self._fanout_channel(exchange, routing_key)
        return channel, ('PUBLISH', channel, text)

    def _next_delivery_tag(self) -> str:
        return uuid()

    # ------------------------------------------------- what virtual channels give

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        info = message['properties'].get('delivery_info') or {}
        exchange, routing_key = info.get('exchange') or '', info.get('routing_key') or queue
        deadline = runtime.Deadline.of(kwargs.get('timeout'))
        properties = {**message['properties']}
        body, encoding = message['body'], properties.pop('body_encoding', None)
        if encoding:
            body = self.decode_body(body, encoding)
        message = {**message, 'body': body, 'properties': properties}
        self._publish_all([self._push(queue, message, exchange, routing_key)], deadline)

    def _put_fanout(self, exchange: str, message: Any, routing_key: str | None = None, **kwargs: Any) -> None:
        deadline = runtime.Deadline.of(kwargs.get('timeout'))
        self._publish_all([self._fan_out(message, exchange, routing_key or '')], deadline)

    def priority(self, n: int) -> int:
        """The step of a priority. Switches: no.

        Source: kombu redis Channel.priority.
        """
        return int(self._keys.step(n))

    # ----------------------------------------------------------------- batches

    @property
    def supports_batch_publish(self) -> bool:
        """Whether a batch leaves together: always."""
        return True

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Collect publishes, to be sent together.

        Arguments:
            max_size (int): messages after which it is flushed by itself.
        Switches: no.
        Source: kombu redis Channel.create_publish_batch.
        """
        return PublishBatch(self, max_size)


class PublishBatch:
    """Publishes that are sent together by `flush`.

    Source: kombu redis PublishBatch.
    """

    def __init__(self, channel: Any, max_size: int) -> None:
        self.channel = channel
        self.max_size = max_size
        self.pipeline: list[tuple[str, Command]] = []

    def add(self, name: str, *args: Any) -> None:
        """Collect one command. Switches: no, unless it is full: then as `flush`."""
        self.pipeline.append((str(args[0]) if args else '', (name.upper(), *args)))
        self._flush_if_full()

    def publish(self, message: Any, **kwargs: Any) -> None:
        """Collect one message; as `basic_publish`.

        Switches: only to learn of bindings, or as `flush` if it is full.
        """
        deadline = runtime.Deadline.of(kwargs.get('timeout'))
        self.pipeline += self.channel._commands(
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
            self.channel._publish_all(commands, runtime.Deadline.of(timeout if timeout is not None else 30.0))
        except Exception as error:
            raise BatchPublishError(f'{len(commands)} publishes of a batch: {error}') from error

    def discard(self) -> None:
        """Forget what was collected. Switches: no."""
        self.pipeline = []

    def close(self) -> None:
        """As `discard`. Switches: no."""
        self.discard()


def delay_of(headers: Mapping[str, Any]) -> int:
    """Milliseconds that a message is to be held back. What is no number is no delay, as RabbitMQ has it.

    Switches: no.
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
