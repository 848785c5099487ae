"""What brokers of AMQP 1.0 call their queues, and what they do with a message that is not accepted.

The protocol leaves both open. A style is recognised by what the broker says it is (`product`), or named by
the option `address_style`.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from greenmq.exceptions import InvalidArgument
from greenmq.transport.amqp10.performatives import OUTCOMES, Source, Target
from greenmq.transport.driver import Driver

__all__ = ('STYLES', 'Style', 'recognised')


class Style(NamedTuple):
    """How to speak to one kind of broker.

    Attributes:
        name (str): of the option.
        queue (str): the address of a queue, `{}` for its name. declares (str): one that makes it, if any.
        exchange (str): the address of an exchange, to publish to; '' if it has none.
        to (str): what a message for an exchange says of where it goes, over a link without an address;
            '' where the link says it, and the subject is the routing key.
        escaped (bool): names stand in addresses percent-encoded.
        capability (str): of the terminus of a queue. multicast (str): of an exchange's.
        modified (bool): a message that goes back counted is "modified", else "released".
        own_sessions (bool): it ends a whole session for the fault of one link.
        drains (bool): it answers a drain. echoes (bool): and where a link stands, when it is asked.
        management (str): 'amqp' (RabbitMQ's requests over AMQP), 'http' (the same, at `management_url`),
            'artemis', 'brokerj', or ''.
        hasty (bool): it may say that it is drained while messages wait: then it is asked how many.
        discards (bool): it lets go of what is rejected, or dead-letters it; else it gives it to the next one.
        made_up (str): what names of queues begin with that are made up here.
    """

    name: str
    queue: str = '{}'
    declares: str = ''
    exchange: str = ''
    to: str = ''
    escaped: bool = False
    capability: str = ''
    multicast: str = ''
    modified: bool = True
    own_sessions: bool = False
    drains: bool = True
    echoes: bool = False
    management: str = ''
    hasty: bool = False
    discards: bool = True
    made_up: str = Driver.made_up

    def _named(self, form: str, name: str) -> str:
        return form.format(quote(name, safe='') if self.escaped else name)

    def queue_address(self, queue: str) -> str:
        """The address of a queue."""
        return self._named(self.queue, queue)

    def declaring_address(self, queue: str) -> str:
        """An address that makes a queue by its use; '' if there is none."""
        return self._named(self.declares, queue) if self.declares else ''

    def exchange_address(self, exchange: str) -> str:
        """The address of an exchange."""
        return '' if self.to else self._named(self.exchange, exchange)

    def message_to(self, exchange: str, key: str) -> str | None:
        """What a message for an exchange says of where it goes; None if it need not."""
        if not self.to or not exchange:
            return None
        return self.to.format(quote(exchange, safe=''), quote(key, safe=''))

    def source(self, address: str) -> Source:
        """What a receiving link says of its source."""
        return Source(
            address, outcomes=OUTCOMES, capabilities=(self.capability,) if self.capability else None
        )

    def target(self, address: str) -> Target:
        """What a sending link says of its target."""
        if not address:
            return Target()  # each message says it
        prefix = self.exchange.partition('{}')[0] if self.multicast else ''
        capability = self.multicast if prefix and address.startswith(prefix) else self.capability
        return Target(address, capabilities=(capability,) if capability else None)


#: RabbitMQ keeps names with "amq." for itself, where it does not make the queue up.
_NOT_RESERVED = 'greenmq.gen-'

#: Name → style.
STYLES: dict[str, Style] = {
    style.name: style
    for style in (
        Style('plain'),
        Style('rabbitmq3', '/amq/queue/{}', '/queue/{}', '/exchange/{}', modified=False, own_sessions=True,
              drains=False, echoes=True, management='http', made_up=_NOT_RESERVED),
        Style('rabbitmq4', '/queues/{}', to='/exchanges/{}/{}', escaped=True, own_sessions=True, echoes=True,
              management='amqp', made_up=_NOT_RESERVED),
        Style('artemis', exchange='greenmq.exchange:{}', capability='queue', multicast='topic',
              management='artemis', hasty=True),
        Style('activemq', 'queue://{}'),
        Style('brokerj', exchange='{}/', management='brokerj', discards=False),
    )
}  # fmt: skip


def recognised(named: str | None, product: str, version: str) -> Style:
    """The style of a broker.

    Arguments:
        named (str | None): the option `address_style`; None goes by what the broker says it is.
    Raises:
        InvalidArgument: no such style.
    """
    if named is not None:
        if named not in STYLES:
            raise InvalidArgument('address_style', named, f'is none of {", ".join(sorted(STYLES))}')
        return STYLES[named]
    product = product.lower()
    if 'rabbitmq' in product:
        major = version.partition('.')[0]
        return STYLES['rabbitmq3' if major.isdecimal() and int(major) < 4 else 'rabbitmq4']
    if 'artemis' in product:
        return STYLES['artemis']
    if 'broker-j' in product:
        return STYLES['brokerj']
    if 'activemq' in product:
        return STYLES['activemq']
    return STYLES['plain']
