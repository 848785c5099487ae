"""Azure Storage Queues.

``azurestoragequeues://KEY@https://ACCOUNT.queue.core.windows.net``; in place of the account's key a SAS
token, or ``DefaultAzureCredential`` or ``ManagedIdentityCredential`` for Entra ID.

`driver.py` is what the base of transports needs; `service.py` makes the calls, `signing.py` says as whom,
`account.py` reads URLs, `names.py` has the rules for the names of queues.
"""

from __future__ import annotations

from typing import Any

from greenmq.transport.azurestoragequeues.account import (
    SCHEME,
    account_of,
    options_of,
    split,
)
from greenmq.transport.azurestoragequeues.exceptions import AccessDenied, QueueNotFound
from greenmq.transport.driver import Channel, Place
from greenmq.transport.driver import Transport as DriverTransport

try:
    from greenmq.transport.azurestoragequeues.driver import StorageDriver
except ModuleNotFoundError as error:
    if error.name != 'h11':
        raise
    raise ImportError(
        f'the azurestoragequeues transport needs {error.name}: pip install greenmq[azurestoragequeues]',
        name=error.name,
    ) from None

__all__ = ('AccessDenied', 'Channel', 'QueueNotFound', 'Transport')


class Transport(DriverTransport):
    """The transport of ``azurestoragequeues://``."""

    Driver = StorageDriver
    driver_type = 'azurestoragequeues'
    driver_name = 'azurestoragequeues'
    default_port = None
    can_parse_url = True

    @staticmethod
    def url_options(url: str) -> dict[str, str]:
        """Return the transport options in the query of a URL."""
        return options_of(url)

    def place(self) -> Place:
        """The account that the URL names."""
        place = super().place()
        options = self.client.transport_options or {}
        account = account_of(
            place.url, options.get('connection_string'), options.get('credential') is not None
        )
        return place._replace(host=account.shown)

    @classmethod
    def as_uri(cls, uri: str, include_password: bool = False, mask: str = '**') -> str:
        """Return the URL, with the mask in place of the credential."""
        credential, address, _ = split(uri)
        shown = credential if include_password else mask
        return f'{SCHEME}{shown}@{address}' if credential else f'{SCHEME}{address}'

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Neither: the URL is read as a whole."""
        return {'port': None, 'hostname': None}
