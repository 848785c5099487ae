"""The calls that are made for each message, without botocore: it takes longer over them than all the rest.

Sending, receiving, deleting and hiding in batches: JSON, signed with version 4 of Amazon's signature. What is
asked and what is answered has the shape that botocore gives it. Everything else is botocore's.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from greenmq.utils.json import dumps, loads

__all__ = ('Answer', 'Hot', 'is_hot', 'read')

_TARGETS = {
    'send_message_batch': 'AmazonSQS.SendMessageBatch',
    'receive_message': 'AmazonSQS.ReceiveMessage',
    'delete_message_batch': 'AmazonSQS.DeleteMessageBatch',
    'change_message_visibility_batch': 'AmazonSQS.ChangeMessageVisibilityBatch',
}
_TYPE = 'application/x-amz-json-1.0'


def is_hot(service: str, operation: str, params: Mapping[str, Any]) -> bool:
    """Is it one of these calls? Not with attributes of the program's own, which may hold bytes."""
    if service != 'sqs' or operation not in _TARGETS:
        return False
    if 'MessageAttributeNames' in params:
        return False
    return not any('MessageAttributes' in entry for entry in params.get('Entries') or ())


class Answer(NamedTuple):
    """What the service answered.

    Attributes:
        good (bool): if so `value` is as botocore returns it; else as it is in a `ClientError`'s `response`.
    """

    good: bool
    value: dict[str, Any]


class Hot:
    """Requests to one endpoint in one region.

    Arguments:
        endpoint (str), region (str): as botocore resolved them.
    """

    def __init__(self, endpoint: str, region: str) -> None:
        parts = urlsplit(endpoint)
        self.url = f'{endpoint.rstrip("/")}/'
        self._path = parts.path.rstrip('/') + '/'
        self._host = parts.netloc.rpartition('@')[2]
        self._region = region
        self._day = ('', '', b'')  # day, secret key, and the key for signing that is made of both

    def request(
        self, operation: str, params: Mapping[str, Any], signing: Any, now: float | None = None
    ) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body of a call.

        Arguments:
            signing: credentials: `access_key`, `secret_key`, `token`.
            now (float): seconds since 1970, for tests.
        """
        body = dumps(params).encode()
        stamp = time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))
        headers = {
            'content-type': _TYPE, 'host': self._host, 'x-amz-date': stamp,
            'x-amz-target': _TARGETS[operation],
        }  # fmt: skip
        if signing.token:
            headers['x-amz-security-token'] = signing.token
        names = sorted(headers)
        lines = ''.join(f'{name}:{headers[name]}\n' for name in names)
        signed = ';'.join(names)
        digest = hashlib.sha256(body).hexdigest()
        asked = f'POST\n{self._path}\n\n{lines}\n{signed}\n{digest}'
        scope = f'{stamp[:8]}/{self._region}/sqs/aws4_request'
        text = f'AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}'
        signature = hmac.new(self._key(stamp[:8], signing.secret_key), text.encode(), hashlib.sha256)
        headers['Authorization'] = (
            f'AWS4-HMAC-SHA256 Credential={signing.access_key}/{scope}, SignedHeaders={signed}, '
            f'Signature={signature.hexdigest()}'
        )
        return headers, body

    def _key(self, day: str, secret: str) -> bytes:
        known, of, key = self._day
        if known != day or of != secret:
            key = f'AWS4{secret}'.encode()
            for part in (day, self._region, 'sqs', 'aws4_request'):
                key = hmac.new(key, part.encode(), hashlib.sha256).digest()
            self._day = (day, secret, key)
        return key


def read(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """Read an answer.

    Raises:
        ValueError: it is none.
    """
    found = loads(body) if body.strip() else {}
    if not isinstance(found, dict):
        raise ValueError('no object of JSON')
    if status < 300:
        return Answer(True, found)
    code, _, _ = headers.get('x-amzn-query-error', '').partition(';')
    return Answer(False, {
        'Error': {
            'Code': found.get('__type') or code or str(status),
            'Message': found.get('message') or found.get('Message') or '',
            'QueryErrorCode': code,
        },
        'ResponseMetadata': {'HTTPStatusCode': status, 'HTTPHeaders': headers},
    })
