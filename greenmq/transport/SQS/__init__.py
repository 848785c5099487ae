"""Amazon SQS, with fanout exchanges on SNS.

``sqs://KEY:SECRET@``, or ``sqs://`` with the credentials of the environment;
``sqs://KEY:SECRET@host:port`` for an endpoint of one's own. Polls, publishes and settlements are calls of ten
messages, made by greenmq's own HTTP: nothing blocks the hub, and no poll is cut while it may hide a message.

`driver.py` is what the base of transports needs, made of `queues.py`, `sending.py`, `receiving.py`,
`settling.py` and `topics.py` (SNS). `aws.py` makes the calls, `hot.py` those of each message, `logins.py`
says as whom, `envelope.py` has kombu's format, `fifo.py` keeps the order of FIFO queues.
"""

from __future__ import annotations

from typing import Any

from greenmq.transport.driver import Channel as DriverChannel
from greenmq.transport.driver import Place
from greenmq.transport.driver import Transport as DriverTransport
from greenmq.transport.SQS.exceptions import (
    AccessDeniedQueueException,
    DoesNotExistQueueException,
    InvalidQueueException,
    UnableToSubscribeQueueToTopicException,
    UnableToUnsubscribeQueueFromTopicException,
    UndefinedExchangeException,
    UndefinedQueueException,
)
from greenmq.transport.SQS.names import where

try:
    from greenmq.transport.SQS.driver import SQSDriver
except ModuleNotFoundError as error:
    if error.name not in ('botocore', 'h11'):
        raise
    raise ImportError(
        f'the SQS transport needs {error.name}: pip install greenmq[sqs]', name=error.name
    ) from None

__all__ = (
    'AccessDeniedQueueException', 'Channel', 'DoesNotExistQueueException', 'InvalidQueueException',
    'Transport',
    'UnableToSubscribeQueueToTopicException', 'UnableToUnsubscribeQueueFromTopicException',
    'UndefinedExchangeException', 'UndefinedQueueException',
)  # fmt: skip


class Channel(DriverChannel):
    """A channel of SQS."""

    @property
    def supports_fanout(self) -> bool:  # type: ignore[override]
        """Do fanout exchanges reach other processes, by SNS?"""
        return bool(self.session.settings['supports_fanout'])


class Transport(DriverTransport):
    """The transport of ``sqs://``."""

    Driver = SQSDriver
    Channel = Channel
    driver_type = 'sqs'
    driver_name = 'sqs'
    default_port = None

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """No host: Amazon's own."""
        return {'port': None, 'hostname': ''}

    def place(self) -> Place:
        """Where the URL leads to.

        Raises:
            InvalidArgument: its host belongs to another region than the option says.
        """
        place = super().place()
        if place.host == 'localhost' and not place.port:
            place = place._replace(host='')  # what a Connection says whose URL names no host
        options = self.client.transport_options or {}
        where(place.host, place.port, options.get('region'), options.get('is_secure'))
        return place
