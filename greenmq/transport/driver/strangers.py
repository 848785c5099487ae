"""Messages that others put into a queue: kombu's envelope in base64 or as it is, or no envelope at all."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from typing import Any

from greenmq.utils.json import loads

__all__ = ('message', 'read', 'unwrapped')


def unwrapped(text: str) -> str:
    """Undo the base64 of a text, if it is nothing else: it encodes to itself again, and is text."""
    try:
        raw = b64decode(text, validate=True)
        if text and b64encode(raw).decode() == text:
            return raw.decode('utf-8')
    except (binascii.Error, ValueError):
        return text
    return text


def read(text: str) -> Any:
    """Return what a text is as JSON; None if it is none."""
    try:
        return loads(text)
    except ValueError:
        return None


def message(text: str) -> dict[str, Any]:
    """Return the message in the text of a broker's message: what is no envelope of kombu's is a body.

    Returns:
        dict[str, object]: with `body`, `headers` and `properties` at least.
    """
    text = unwrapped(text)
    found = read(text)
    if not isinstance(found, dict) or not isinstance(found.get('properties'), dict):
        found = {
            'body': text,
            'content-type': 'text/plain' if found is None else 'application/json',
            'content-encoding': 'utf-8',
            'properties': {'delivery_mode': 2},
        }
    found.setdefault('headers', {})
    return found
