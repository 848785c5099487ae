# What editors and type checkers see of the package: the names that __init__.py loads at the first look.
from typing import Final, NamedTuple

from greenmq.common import eventloop as eventloop
from greenmq.connection import BrokerConnection as BrokerConnection
from greenmq.connection import Connection as Connection
from greenmq.diagnosis import doctor as doctor
from greenmq.entity import Exchange as Exchange
from greenmq.entity import Queue as Queue
from greenmq.entity import binding as binding
from greenmq.message import Message as Message
from greenmq.messaging import Consumer as Consumer
from greenmq.messaging import Producer as Producer
from greenmq.pools import connections as connections
from greenmq.pools import producers as producers
from greenmq.serialization import disable_insecure_serializers as disable_insecure_serializers
from greenmq.serialization import enable_insecure_serializers as enable_insecure_serializers
from greenmq.utils.url import parse_url as parse_url
from greenmq.utils.uuid import uuid as uuid

__all__ = [
    'BrokerConnection', 'Connection', 'Consumer', 'Exchange', 'Message', 'Producer', 'Queue', 'binding',
    'connections', 'disable_insecure_serializers', 'doctor', 'enable_insecure_serializers', 'eventloop',
    'parse_url', 'producers', 'uuid',
]  # fmt: skip

__version__: Final[str]

class version_info_t(NamedTuple):
    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: str

VERSION: Final[version_info_t]
version_info: Final[version_info_t]
