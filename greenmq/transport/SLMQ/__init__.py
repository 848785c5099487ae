"""SoftLayer Message Queue, a service that was shut down: for what still speaks its protocol.

``slmq://user:api_key@host[:port]/account``. The environment comes first: SLMQ_ACCOUNT, SL_USERNAME,
SL_API_KEY, SLMQ_HOST, SLMQ_PORT.

`driver.py` is what the base of transports needs, `service.py` makes the calls.
"""

from __future__ import annotations

from os import environ

from greenmq.exceptions import InvalidArgument
from greenmq.transport.driver import Channel, Place
from greenmq.transport.driver import Transport as DriverTransport

try:
    from greenmq.transport.SLMQ.driver import SLMQDriver
except ModuleNotFoundError as error:
    if error.name != 'h11':
        raise
    raise ImportError(
        f'the SLMQ transport needs {error.name}: pip install greenmq[slmq]', name=error.name
    ) from None

__all__ = ('Channel', 'Transport')


class Transport(DriverTransport):
    """The transport of ``slmq://``."""

    Driver = SLMQDriver
    driver_type = 'slmq'
    driver_name = 'slmq'
    default_port = None

    def place(self) -> Place:
        """Where the environment leads to, or the URL.

        Raises:
            InvalidArgument: neither names an account, a user and a key.
        """
        place = super().place()
        port = environ.get('SLMQ_PORT', '')
        if port and not port.isdigit():
            raise InvalidArgument('SLMQ_PORT', port, 'is no port')
        place = place._replace(
            host=environ.get('SLMQ_HOST') or place.host,
            port=int(port) if port else place.port,
            userid=environ.get('SL_USERNAME') or place.userid,
            password=environ.get('SL_API_KEY') or place.password,
            virtual_host=(environ.get('SLMQ_ACCOUNT') or place.virtual_host).strip('/'),
        )
        for what, value in (('an account', place.virtual_host), ('a user', place.userid),
                            ('an API key', place.password)):  # fmt: skip
            if not value:
                raise InvalidArgument('the URL', 'slmq://user:api_key@host/account', f'lacks {what}')
        return place
