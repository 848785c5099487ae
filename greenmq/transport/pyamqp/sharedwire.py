"""One publishing wire for the leased channels of a connection, so that their confirms come together.

A wire of its own for each lease costs the broker a process and a confirm a message; on one wire it confirms
hundreds of messages in one frame, and one write carries what many greenlets publish. The price of a shared
wire would be shared errors: a message that the broker refuses (403, 404, 406) ends the wire it came over. So
only what is known to be harmless goes over it, and all else over the lease's own wire, as everywhere:

* an exchange must have been published to, with success, over some lease's own wire of this epoch;
* the message must have nothing that RabbitMQ looks at before it takes it: see `is_plain`;
* whoever publishes waits for the confirm, or the order of what one lease publishes would be lost.

Should the broker refuse something all the same, whoever had a message under way publishes it again over the
wire of its own lease: there the answer is for that message alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .publishing import Pending, Publishing

if TYPE_CHECKING:
    from .channel import Channel
    from .message import Outgoing
    from .wirechannel import WireChannel

__all__ = ['Refused', 'SharedPublishing', 'is_plain']

#: Bytes of the largest body; every broker takes messages of this size, unless somebody forbade it.
MAX_BODY = 1 << 20

_EXCHANGE = re.compile(r"exchange '([^']*)'")


class Refused(Exception):
    """The shared wire went down for somebody's fault: publish over a wire of one's own."""


def is_plain(message: Outgoing) -> bool:
    """True if RabbitMQ has no reason in the message itself to end the wire over it. No switch."""
    properties = message.properties
    if 'user_id' in properties or len(message.body) > MAX_BODY:
        return False
    if 'expiration' in properties and not str(properties['expiration']).isdecimal():
        return False
    headers = properties.get('application_headers')
    return not headers or ('CC' not in headers and 'BCC' not in headers)


class SharedPublishing(Publishing):
    """What the leased channels of a connection publish together; of a channel that nobody else has."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self._epoch = -1
        self._proved: set[str] = set()
        self._avoided: set[str] | None = set()  # None: all, whatever it was that was refused

    def takes(self, exchange: str, message: Outgoing) -> bool:
        """May this go over the shared wire? No switch."""
        return (
            exchange in self._proved and self._epoch == self.connection.epoch and is_plain(message)
        )

    def prove(self, exchange: str) -> None:
        """Note that the broker took a message for this exchange over a wire of its own. No switch."""
        epoch = self.connection.epoch
        if self._epoch != epoch:
            self._epoch = epoch
            self._proved = set()
            self._avoided = set()
        if self._avoided is not None and exchange not in self._avoided:
            self._proved.add(exchange)

    def on_wire_end(self, channel: WireChannel, error: BaseException) -> None:
        """See Publishing. No switch."""
        if channel.refused:
            self._avoid(error)
        super().on_wire_end(channel, error)

    def _avoid(self, error: BaseException) -> None:
        named = _EXCHANGE.search(getattr(error, 'reply_text', None) or '')
        if named is None:
            # Not even RabbitMQ's text tells what it was, so it could come again: for this epoch nobody is put
            # at risk once more.
            self._proved.clear()
            self._avoided = None
            return
        exchange = '' if named.group(1) == 'amq.default' else named.group(1)
        self._proved.discard(exchange)
        if getattr(error, 'reply_code', None) != 404 and self._avoided is not None:  # it may be made again
            self._avoided.add(exchange)

    def _settle_lost(
        self, pending: Pending, channel: WireChannel, error: BaseException, guilty: bool
    ) -> None:
        if channel.refused:
            pending.settle(Refused())
        else:
            super()._settle_lost(pending, channel, error, guilty)
