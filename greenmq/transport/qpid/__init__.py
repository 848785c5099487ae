"""Apache Qpid, ActiveMQ Artemis, RabbitMQ: brokers that speak AMQP 1.0.

``qpid://user:password@host/``, or ``amqp10://`` and, over TLS, ``amqps10://``. kombu's transport of this name
spoke AMQP 0-10 with a client for Python 2; its URL and its rules of login hold, the protocol is the current
one.

`driver.py` is what the base of transports needs; `styles.py` has what brokers call their queues,
`management.py` how they are told to make them (`rabbitmq.py`, `artemis.py`), `envelope.py` the message. The
protocol is `greenmq.transport.amqp10`.
"""

from __future__ import annotations

from greenmq.transport.amqp10.errors import LoginRefused as AuthenticationFailure
from greenmq.transport.driver import Channel, Place
from greenmq.transport.driver import Transport as DriverTransport
from greenmq.transport.driver.arrival import DriverMessage as Message
from greenmq.transport.driver.channel import QoS
from greenmq.transport.qpid.driver import QpidDriver
from greenmq.transport.virtual.envelope import Base64

__all__ = ('AuthenticationFailure', 'Base64', 'Channel', 'Message', 'QoS', 'SSLTransport', 'Transport')

DEFAULT_PORT = 5672
DEFAULT_TLS_PORT = 5671


class Transport(DriverTransport):
    """The transport of ``qpid://`` and ``amqp10://``."""

    Driver = QpidDriver
    driver_type = 'qpid'
    driver_name = 'qpid'
    default_port = DEFAULT_PORT


class SSLTransport(Transport):
    """The transport of ``amqps10://``: TLS, verified, unless `ssl` says otherwise."""

    default_port = DEFAULT_TLS_PORT

    def place(self) -> Place:
        """Where the URL leads to."""
        place = super().place()
        return place._replace(ssl=place.ssl or True)

