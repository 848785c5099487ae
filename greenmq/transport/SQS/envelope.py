"""kombu's envelope in a message of SQS, and messages of others.

kombu writes a JSON object, base64 of the whole; readers take either form. What is no envelope of kombu's is
the body of a message: plain text, JSON of another program, a notification of SNS.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from greenmq.transport.driver import strangers
from greenmq.utils.json import dumps

__all__ = ('ATTRIBUTES', 'DUE', 'decode', 'due_at', 'encode', 'plain')

#: What a delivery says of where it came from; no part of the message.
_OF_THE_DELIVERY = frozenset(('sqs_message', 'sqs_queue'))
#: Properties that become parameters of the call.
ATTRIBUTES = 'message_attributes'
#: Property that says when a message may be handled that is delayed for longer than SQS can, in s since 1970.
DUE = 'x-greenmq-due'


def plain(message: dict[str, Any]) -> str:
    """Return the JSON of a message, as it goes through SNS."""
    properties = message['properties']
    info = properties.get('delivery_info')
    if ATTRIBUTES in properties or (info and not _OF_THE_DELIVERY.isdisjoint(info)):
        properties = {name: value for name, value in properties.items() if name != ATTRIBUTES}
        if info:
            properties['delivery_info'] = {
                name: value for name, value in info.items() if name not in _OF_THE_DELIVERY
            }
        message = {**message, 'properties': properties}
    return dumps(message)


def encode(message: dict[str, Any], base64: bool) -> str:
    """Return the body of the SQS message that carries a message."""
    text = plain(message)
    return b64encode(text.encode()).decode() if base64 else text


def due_at(raw: dict[str, Any]) -> float:
    """When a message may be handled, in seconds since 1970; 0 for at once."""
    found = strangers.read(strangers.unwrapped(raw['Body']))
    properties = found.get('properties') if isinstance(found, dict) else None
    at = properties.get(DUE) if isinstance(properties, dict) else None
    return float(at) if isinstance(at, (int, float)) else 0.0


def decode(raw: dict[str, Any], url: str) -> dict[str, Any]:
    """Return the message that an SQS message carries.

    Arguments:
        raw (dict): as ReceiveMessage has it. url (str): of its queue.
    """
    found = strangers.message(raw['Body'])
    properties = found['properties']
    properties.pop(DUE, None)
    properties['delivery_info'] = {
        **(properties.get('delivery_info') or {}), 'sqs_message': raw, 'sqs_queue': url,
    }  # fmt: skip
    return found
