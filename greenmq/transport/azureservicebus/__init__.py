"""Azure Service Bus.

``azureservicebus://POLICY:KEY@NAMESPACE``; in place of policy and key ``DefaultAzureCredential`` or
``ManagedIdentityCredential`` for Entra ID.

`driver.py` is what the base of transports needs; `lines.py` has the connections, `tokens.py` what lets us in,
`settling.py` and `locks.py` what becomes of deliveries, `sessions.py` the queues that have sessions,
`admin.py` makes and counts queues, `envelope.py` has the message, `account.py` reads URLs and `names.py` the
names of queues. The protocol is `greenmq.transport.amqp10`.
"""

from __future__ import annotations

from typing import Any

from greenmq.transport.azureservicebus.account import SCHEME, account_of, full_host, options_of, split
from greenmq.transport.driver import Channel, Place
from greenmq.transport.driver import Transport as DriverTransport
from greenmq.transport.entra import IDENTITIES

try:
    from greenmq.transport.azureservicebus.driver import ServiceBusDriver
except ModuleNotFoundError as error:
    if error.name != 'h11':
        raise
    raise ImportError(
        f'the azureservicebus transport needs {error.name}: pip install greenmq[azureservicebus]',
        name=error.name,
    ) from None

__all__ = ('Channel', 'Transport')


class Transport(DriverTransport):
    """The transport of ``azureservicebus://``."""

    Driver = ServiceBusDriver
    driver_type = 'azureservicebus'
    driver_name = 'azureservicebus'
    default_port = None
    can_parse_url = True

    @staticmethod
    def url_options(url: str) -> dict[str, str]:
        """Return the transport options in the query of a URL."""
        return options_of(url)

    @staticmethod
    def parse_uri(uri: str) -> tuple[str, str]:
        """Return the host of a URL's namespace, and the credential: POLICY:KEY or a word for Entra ID.

        Raises:
            ValueError: it is no such URL.
        Source: kombu azureservicebus.Transport.parse_uri; differs: no object of azure-identity is made.
        """
        credential, address, _ = split(uri)
        if not credential or not address:
            raise ValueError(f'need a URL like {SCHEME}POLICY:KEY@NAMESPACE')
        return full_host(address), IDENTITIES.get(credential.lower(), credential)

    def place(self) -> Place:
        """The namespace that the URL names."""
        place = super().place()
        options = self.client.transport_options or {}
        account = account_of(
            place.url, options.get('connection_string'), options.get('credential') is not None,
            options.get('tls'), options.get('management_url'),
        )  # fmt: skip
        return place._replace(host=account.host, port=account.port)

    @classmethod
    def as_uri(cls, uri: str, include_password: bool = False, mask: str = '**') -> str:
        """Return the URL, with the mask in place of the key."""
        credential, address, query = split(uri)
        policy, colon, key = credential.partition(':')
        if colon:
            credential = f'{policy}:{key if include_password else mask}'
        shown = f'{credential}@{address}' if credential else address
        return f'{SCHEME}{shown}' + (f'?{query}' if query and include_password else '')

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Neither: the URL is read as a whole."""
        return {'port': None, 'hostname': None}
