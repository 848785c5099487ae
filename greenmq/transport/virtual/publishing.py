"""How a virtual channel publishes: the payload, its way through the exchanges, the warning when it has
none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from greenmq import runtime
from greenmq.exceptions import PublishUnconfirmed, TimeoutError, Unroutable
from greenmq.transport.virtual import envelope
from greenmq.transport.virtual.entities import UNDELIVERABLE_FMT, UndeliverableWarning
from greenmq.transport.virtual.parts import ChannelParts
from greenmq.utils.uuid import uuid

__all__ = ('UNDELIVERABLE_FMT', 'PublishMethods', 'UndeliverableWarning')


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

    prepare_message = envelope.prepare_message

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
        headers = message.get('headers')
        if kwargs.get('mandatory') and not self.entities.reaches(exchange, routing_key, headers):
            raise Unroutable(message, exchange, routing_key)
        if exchange:
            return self.typeof(exchange).deliver(message, exchange, routing_key, **kwargs)
        return self.adapter.put(routing_key, message, **kwargs)

    def _inplace_augment_message(self, message: Any, exchange: str, routing_key: str) -> None:
        properties = message['properties']
        message['body'], body_encoding = self.encode_body(message['body'], self.body_encoding)
        properties['body_encoding'] = body_encoding
        properties['delivery_tag'] = self._next_delivery_tag()
        properties.setdefault('delivery_info', {}).update(exchange=exchange, routing_key=routing_key)

    def _next_delivery_tag(self) -> Any:
        return uuid()

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:
        """Return the queues that get a message; the deadletter queue if there are none."""
        default = self.deadletter_queue if default is None else default
        return self.entities.lookup(exchange, routing_key, default)

    def _lookup_headers(self, exchange: str, routing_key: str, headers: Any) -> Any:
        return self.state.route(exchange, routing_key, headers or {})

    def _put_fanout(self, exchange: str, message: Any, routing_key: str | None = None, **kwargs: Any) -> None:
        for queue in self._lookup(exchange, routing_key or ''):
            self.adapter.put(queue, message, **kwargs)

    def _get_message_priority(self, message: Any, reverse: bool = False) -> int:
        try:
            priority = max(min(int(message['properties']['priority']), self.max_priority), self.min_priority)
        except (TypeError, ValueError, KeyError):
            priority = self.default_priority
        return self.max_priority - priority if reverse else priority

    encode_body = envelope.encode_body
    decode_body = envelope.decode_body
