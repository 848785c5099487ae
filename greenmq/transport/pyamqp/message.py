"""A message on its way out, and a delivery on its way in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from greenmq import message as base
from greenmq.exceptions import DecodeError
from greenmq.utils.encoding import text_encoding

from .properties import decode_properties, encode_properties

if TYPE_CHECKING:
    from . import frames
    from .channel import Channel

__all__ = ['Delivery', 'Message', 'Outgoing']


class Outgoing:
    """A prepared message: its body as bytes and its properties by their AMQP names.

    Attributes:
        encoded (bytes): the properties as they travel: made here, where what cannot travel is the caller's
            mistake and nobody else's, and kept, so that a message published again costs nothing.
    Raises:
        InvalidArgument: a property that AMQP, or RabbitMQ, cannot carry.
    """

    __slots__ = ('body', 'encoded', 'properties')

    def __init__(self, body: bytes, properties: Mapping[str, Any]) -> None:
        self.body = body
        self.properties = properties
        self.encoded = encode_properties(properties)

    def get(self, name: str) -> Any:
        """A property, or None."""
        return self.properties.get(name)

    def __repr__(self) -> str:
        return f'<Outgoing {len(self.body)} bytes {dict(self.properties)!r}>'


class Delivery:
    """What arrived for a consumer or a basic.get, before anybody looked into it.

    Attributes:
        delivery_tag (int): unique over all epochs of the channel.
        consumer_tag (str): empty for a basic.get.
        content (Content): header and body as they came.
        fault (DecodeError | None): what is wrong with its exchange or routing key.
    """

    __slots__ = (
        'channel',
        'consumer_tag',
        'content',
        'delivery_tag',
        'exchange',
        'fault',
        'message_count',
        'redelivered',
        'routing_key',
    )

    def __init__(
        self,
        consumer_tag: str,
        delivery_tag: int,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        content: frames.Content,
        channel: Channel | None,
        message_count: int | None = None,
    ) -> None:
        self.consumer_tag = consumer_tag
        self.delivery_tag = delivery_tag
        self.redelivered = redelivered
        self.exchange = exchange
        self.routing_key = routing_key
        self.content = content
        self.channel = channel
        self.message_count = message_count
        self.fault: DecodeError | None = None

    @property
    def body(self) -> bytes:
        return self.content.body

    @property
    def delivery_info(self) -> dict[str, Any]:
        """As kombu's messages have it: with a consumer tag, or with a message count after a get."""
        info: dict[str, Any] = {
            'delivery_tag': self.delivery_tag,
            'redelivered': self.redelivered,
            'exchange': self.exchange,
            'routing_key': self.routing_key,
        }
        if self.message_count is None:
            info['consumer_tag'] = self.consumer_tag
        else:
            info['message_count'] = self.message_count
        return info

    @property
    def properties(self) -> dict[str, Any]:
        """The properties by their AMQP names, decoded anew at each call.

        Raises:
            DecodeError: they cannot be read.
        """
        return decode_properties(self.content.header)


class Message(base.Message):
    """A delivery as applications see it.

    Arguments:
        msg (Delivery): what arrived.
        channel (Channel): where it is settled.
    Attributes:
        body (str | bytes): text if the content encoding says how to read it, as py-amqp has it.
        errors (list[tuple]): of a delivery whose properties, exchange or routing key cannot be read: that
            is then its first error, and its properties are empty.
    Source: kombu.transport.pyamqp.Message.
    """

    def __init__(self, msg: Delivery, channel: Any = None, **kwargs: Any) -> None:
        fault = msg.fault
        try:
            properties = decode_properties(msg.content.header)
        except DecodeError as exc:
            properties, fault = {}, fault or exc
        body: Any = msg.content.body
        encoding = properties.get('content_encoding')
        headers = properties.get('application_headers') or {}
        if encoding and encoding != 'binary' and 'compression' not in headers:
            try:
                body = str(body, encoding if encoding == 'utf-8' else text_encoding(encoding))
            except (LookupError, UnicodeError):
                pass  # it stays what came; whoever decodes it is told
        super().__init__(
            body=body,
            channel=channel,
            delivery_tag=msg.delivery_tag,
            content_type=properties.get('content_type'),
            content_encoding=encoding,
            delivery_info=msg.delivery_info,
            properties=properties,
            headers=headers,
            **kwargs,
        )
        if fault is not None:
            self._record(fault)
            self.unreadable = True
