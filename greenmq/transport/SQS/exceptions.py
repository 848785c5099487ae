"""What goes wrong with SQS and SNS, under kombu's names."""

from __future__ import annotations

from greenmq.exceptions import AccessRefused, KombuError, NotFound
from greenmq.transport.http import ServiceError, Throttled

__all__ = (
    'AccessDeniedQueueException', 'DoesNotExistQueueException', 'InvalidQueueException', 'ServiceError',
    'Throttled', 'UnableToSubscribeQueueToTopicException', 'UnableToUnsubscribeQueueFromTopicException',
    'UndefinedExchangeException', 'UndefinedQueueException',
)  # fmt: skip


class UndefinedQueueException(KombuError):
    """Queues are predefined, and this one is none of them."""


class UndefinedExchangeException(KombuError):
    """Exchanges are predefined, and this one is none of them."""


class InvalidQueueException(KombuError):
    """A predefined queue is FIFO by its name and not by its URL, or the other way round."""


class AccessDeniedQueueException(AccessRefused, KombuError):
    """The credentials may not do this, or they are none.

    Attributes:
        aws_code (str): the service's name for it; '' if it was not asked.
    """

    aws_code = ''


class DoesNotExistQueueException(NotFound, KombuError):
    """There is no such queue."""


class UnableToSubscribeQueueToTopicException(KombuError):
    """A queue could not be subscribed to the topic of a fanout exchange."""


class UnableToUnsubscribeQueueFromTopicException(KombuError):
    """A queue could not be unsubscribed from the topic of a fanout exchange."""
