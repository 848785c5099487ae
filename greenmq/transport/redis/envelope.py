"""A message ↔ the text that stands in Redis: kombu's JSON, byte for byte where it matters.

Writing it out is half of what a publish costs, so for the usual message, without headers and with no
properties but the standard ones, all but the body and the tag is kept as a ready-made text.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from greenmq.exceptions import DecodeError
from greenmq.transport.driver.arrival import EXPIRES_AT
from greenmq.transport.virtual.envelope import DELIVERY_COUNT, check_payload, delivery_count
from greenmq.utils.encoding import str_to_bytes
from greenmq.utils.json import dumps, loads

__all__ = ('Envelopes', 'opened')

#: Ready-made texts kept; then the memory starts anew.
MAX_FORMS = 1000

_plain_loads = json.JSONDecoder().decode
_USUAL = frozenset(('delivery_mode', 'delivery_info', 'priority'))


class Envelopes:
    """Writes the messages of one channel.

    Arguments:
        prefix (str): begins the tags that kombu's workers know messages by; unique to the channel.
    """

    __slots__ = ('_forms', '_number', '_prefix')

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._number = 0
        self._forms: dict[Any, tuple[str, str]] = {}

    def write(self, message: dict[str, Any], exchange: str, routing_key: str, encoding: str | None) -> str:
        """The text of a message, which is not changed.

        Arguments:
            message (dict): as `prepare_message` made it.
            encoding (str): body_encoding; None writes the body as it is, if it is text.
        """
        self._number += 1
        tag = f'{self._prefix}{self._number}'
        properties = message['properties']
        if not message['headers'] and encoding == 'base64' and properties.keys() <= _USUAL:
            form = (
                exchange,
                routing_key,
                message['content-type'],
                message['content-encoding'],
                properties.get('delivery_mode'),
                properties.get('priority'),
            )
            try:
                before, after = self._forms[form]
            except (KeyError, TypeError):
                before, after = self._make_form(form, message, exchange, routing_key)
            body = message['body']
            if body.__class__ is not bytes:
                body = str_to_bytes(body)
            return f'{{"body": "{b64encode(body).decode()}"{before}{tag}{after}'
        return self._write_any(message, exchange, routing_key, encoding, tag)

    def _make_form(
        self, form: Any, message: dict[str, Any], exchange: str, routing_key: str
    ) -> tuple[str, str]:
        text = self._write_any({**message, 'body': b''}, exchange, routing_key, 'base64', '\x00')
        before, _, after = text.removeprefix('{"body": ""').rpartition('\\u0000')
        if len(self._forms) >= MAX_FORMS:
            self._forms.clear()
        self._forms[form] = before, after
        return before, after

    def _write_any(
        self, message: dict[str, Any], exchange: str, routing_key: str, encoding: str | None, tag: str
    ) -> str:
        properties = dict(message['properties'])
        body = message['body']
        if encoding == 'base64':
            body = b64encode(str_to_bytes(body)).decode()
        elif isinstance(body, (bytes, bytearray, memoryview)):
            try:
                body = bytes(body).decode()
            except UnicodeDecodeError:
                body, encoding = b64encode(bytes(body)).decode(), 'base64'
        info = dict(properties.pop('delivery_info', None) or ())
        info.update(exchange=exchange, routing_key=routing_key)
        return dumps(
            {
                'body': body,
                'content-encoding': message.get('content-encoding'),
                'content-type': message.get('content-type'),
                'headers': message.get('headers') or {},
                'properties': {
                    **properties,
                    'delivery_info': info,
                    'body_encoding': encoding,
                    'delivery_tag': tag,
                },
            }
        )


def opened(raw: bytes | int, tag: str) -> dict[str, Any]:
    """The message of a text, under the tag that we took it by.

    Arguments:
        raw (bytes): the text. An int is the length of one that is longer than `max_message_bytes`.
    Raises:
        DecodeError: it is none, whatever is wrong with it.
    """
    try:
        if isinstance(raw, int):
            raise DecodeError(f'it is {raw} bytes long, more than max_message_bytes')
        text = raw.decode()
        if text.startswith('{"body": "'):
            # Most messages of a queue differ in body and tag alone: the rest of such a one is known already.
            body_end = text.find('"', 10)
            tag_at = text.rfind('"delivery_tag": "')
            known = _known.get(text[body_end:tag_at])
            if known is not None and text.find('"', tag_at + 17) == len(text) - 3:
                message, properties, info = known
                return {
                    **message,
                    'body': text[10:body_end],
                    'headers': {},
                    'properties': {**properties, 'delivery_info': info.copy(), 'delivery_tag': tag},
                }
            message = _opened(text, tag)
            if '"headers": {}' in text and '"body_encoding": "base64"' in text and text.endswith('"}}'):
                _learn(text[body_end:tag_at], message)
            return message
        return _opened(text, tag)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:  # RecursionError of what is nested too deep, among others
        raise DecodeError(f'it is no message: {type(error).__name__}: {str(error)[:200]}') from None


def _learn(rest: str, message: dict[str, Any]) -> None:
    properties = message['properties']
    if message.get('redelivered') or list(properties)[-1] != 'delivery_tag' or EXPIRES_AT in properties:
        return
    if any(type(value) not in _PLAIN for name, value in properties.items() if name != 'delivery_info'):
        return  # shared by all messages, what is in a list or dict could be changed by one of them
    if len(_known) >= MAX_FORMS:
        _known.clear()
    info = properties.get('delivery_info')
    if type(info) is dict and all(type(value) in _PLAIN for value in info.values()):
        _known[rest] = dict(message), dict(properties), dict(info)


#: What stands between body and tag → message, properties, delivery_info of such a one.
_known: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {}
_PLAIN = (str, int, float, bool, type(None))


def _opened(text: str, tag: str) -> dict[str, Any]:
    # Only what `dumps` marked needs the slow way.
    message = loads(text) if '"__type__"' in text else _plain_loads(text)
    check_payload(message)
    properties = message['properties']
    properties['delivery_tag'] = tag
    info = properties.get('delivery_info') or {}
    times = message.get('redelivered', 0)
    if times:
        headers = message['headers'] = dict(message.get('headers') or ())
        headers[DELIVERY_COUNT] = delivery_count(headers) + (times if type(times) is int else 1)
    elif info.get('redelivered'):
        message['redelivered'] = True  # restored by kombu, which notes it there
    return message  # type: ignore[no-any-return]
