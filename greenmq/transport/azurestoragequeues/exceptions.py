"""What goes wrong with Storage Queues."""

from __future__ import annotations

from greenmq.exceptions import AccessRefused, KombuError, NotFound

__all__ = ('AccessDenied', 'Gone', 'QueueNotFound')


class AccessDenied(AccessRefused, KombuError):
    """The key, the SAS token or the identity may not do this.

    Attributes:
        azure_code (str): the service's name for it, e.g. "AuthorizationPermissionMismatch".
    """

    azure_code = ''


class QueueNotFound(NotFound, KombuError):
    """There is no such queue."""


class Gone(Exception):
    """A message is not ours any more: somebody else has taken it, or it was deleted.

    Attributes:
        perhaps_by_us (bool): the answer to an earlier try of the same call was lost.
    """

    def __init__(self, text: str, perhaps_by_us: bool = False) -> None:
        super().__init__(text)
        self.perhaps_by_us = perhaps_by_us
