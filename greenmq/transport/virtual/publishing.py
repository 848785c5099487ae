"""How a virtual channel publishes: the payload, its way through the exchanges, the warning when it has
none.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.exceptions import PublishUnconfirmed, TimeoutError, Unroutable
from greenmq.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES
from greenmq.transport.virtual.parts import ChannelParts
from greenmq.utils.uuid import uuid

__all__ = ('UNDELIVERABLE_FMT', 'PublishMethods', 'UndeliverableWarning')

UNDELIVERABLE_FMT = (
    'Message could not be delivered: no queue is bound to exchange {exchange!r} '
    'with binding key {routing_key!r}.'
)
W_NO_CONSUMERS = 'Giving back a message of queue %r: nobody consumes it.'


class UndeliverableWarning(UserWarning):
    """A message reached no queue and went to the `deadletter_queue`.

    Source: kombu UndeliverableWarning.
    """


def in_time(publish: Callable[..., Any]) -> Callable[..., Any]:
    """Hold a publish to its `timeout`, whatever the channel's `_put` does with it, or does not."""

    @functools.wraps(publish)
    def held(channel: Any, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        deadline = runtime.Deadline.of(kwargs.get('timeout'))
        left = deadline.remaining()
        if left is None or channel.delivery == 'push':
            return publish(channel, message, exchange, routing_key, **kwargs)
        timeout = runtime.timeout_class()
        with timeout(left) as limit:  # type: ignore[attr-defined]
            try:
                return publish(channel, message, exchange, routing_key, **kwargs)
            except timeout as error:
                if error is not limit:
                    raise
                raise PublishUnconfirmed(str(deadline.error('the broker did not take the message'))) from None
            except PublishUnconfirmed:
                raise
            except TimeoutError as error:
                if deadline.expired():
                    raise PublishUnconfirmed(str(error)) from error
                raise

    return held


class PublishMethods(ChannelParts):
    """basic_publish and what it stands on."""

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the payload of a message; nothing given is changed later."""
        properties = dict(properties) if properties else {}
        properties['delivery_info'] = dict(properties.get('delivery_info') or ())
        properties.setdefault('priority', priority or self.default_priority)
        return {
            'body': body,
            'content-encoding': content_encoding,
            'content-type': content_type,
            'headers': dict(headers) if headers else {},
            'properties': properties,
        }

    @in_time
    def basic_publish(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Publish what `prepare_message` made.

        Arguments:
            mandatory (bool): raise if no queue would get it.
        Raises:
            Unroutable: `mandatory`, and no queue would get it.
            PublishUnconfirmed: not within `timeout`.
            ConnectionClosed: the channel is closed.
        Switches: as the channel's `_put`.
        Source: AMQP 0-9-1 basic.publish; kombu.
        """
        self._check_open()
        self._inplace_augment_message(message, exchange, routing_key)
        if kwargs.get('mandatory') and not self._reaches(message, exchange, routing_key):
            raise Unroutable(message, exchange, routing_key)
        if exchange:
            return self.typeof(exchange).deliver(message, exchange, routing_key, **kwargs)
        return self._put(routing_key, message, **kwargs)

    def _inplace_augment_message(self, message: Any, exchange: str, routing_key: str) -> None:
        properties = message['properties']
        message['body'], body_encoding = self.encode_body(message['body'], self.body_encoding)
        properties['body_encoding'] = body_encoding
        properties['delivery_tag'] = self._next_delivery_tag()
        properties.setdefault('delivery_info', {}).update(exchange=exchange, routing_key=routing_key)

    def _next_delivery_tag(self) -> Any:
        return uuid()

    def _reaches(self, message: Any, exchange: str, routing_key: str) -> bool:
        if not exchange:
            return bool(self._has_queue(routing_key))
        if exchange not in self.state.exchanges and self._own_routes:
            return False
        if self.typeof(exchange).type == 'headers':
            return bool(self._lookup_headers(exchange, routing_key, message.get('headers')))
        if self._routes_itself(exchange):
            return bool(self.state.route(exchange, routing_key))
        return bool(self.typeof(exchange).lookup(self._table(exchange), exchange, routing_key, None))

    def _routes_itself(self, exchange: str) -> bool:
        # Not if the channel keeps its tables elsewhere or has exchange types of its own: those do the look-up
        # then.
        kind = self.typeof(exchange)
        return self._own_routes and type(kind) is STANDARD_EXCHANGE_TYPES.get(kind.type)

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:
        """Return the queues that get a message; the deadletter queue if there are none."""
        default = self.deadletter_queue if default is None else default
        if not exchange:
            return [routing_key or default]
        if self._routes_itself(exchange):
            found = self.state.route(exchange, routing_key)
        else:
            found = self.typeof(exchange).lookup(self._table(exchange), exchange, routing_key, default)
        if not found and default is not None:
            warnings.warn(
                UndeliverableWarning(UNDELIVERABLE_FMT.format(exchange=exchange, routing_key=routing_key)),
                stacklevel=2,
            )
            self._new_queue(default)
            found = [default]
        return found

    def _lookup_headers(self, exchange: str, routing_key: str, headers: Any) -> Any:
        return self.state.route(exchange, routing_key, headers or {})

    def _put_fanout(self, exchange: str, message: Any, routing_key: str | None = None, **kwargs: Any) -> None:
        for queue in self._lookup(exchange, routing_key or ''):
            self._put(queue, message, **kwargs)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: Any, queue: str) -> None:
        """Called after a binding if `supports_fanout`: for brokers that keep bindings too."""

    def _get_message_priority(self, message: Any, reverse: bool = False) -> int:
        try:
            priority = max(min(int(message['properties']['priority']), self.max_priority), self.min_priority)
        except (TypeError, ValueError, KeyError):
            priority = self.default_priority
        return self.max_priority - priority if reverse else priority

    def encode_body(self, body: Any, encoding: str | None = None) -> tuple[Any, str | None]:
        """Return a body as the named codec encodes it, and the name."""
        if encoding and encoding.lower() != 'utf-8':
            return self.codecs[encoding].encode(body), encoding
        return body, encoding

    def decode_body(self, body: Any, encoding: str | None = None) -> Any:
        """Undo `encode_body`."""
        if encoding and encoding.lower() != 'utf-8':
            return self.codecs[encoding].decode(body)
        return body
