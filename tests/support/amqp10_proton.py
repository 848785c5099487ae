"""A peer that speaks AMQP 1.0 by Qpid Proton's engine, in memory: bytes in, bytes out, no socket.

It is the oracle of `greenmq.transport.amqp10`: other people's code, used by many. It has queues by name,
takes and gives messages, and does what a test tells it to.
"""

from __future__ import annotations

from collections import defaultdict, deque

import pytest

from tests.support.process import servers_required

try:
    import proton
except ModuleNotFoundError:
    proton = None


def need_proton():
    if proton is None:
        (pytest.fail if servers_required() else pytest.skip)('not installed: python-qpid-proton')


class ProtonPeer:
    """The other end of a connection.

    Attributes:
        queues: name → raw messages.
        outcomes: what became of deliveries, as (state, settled).
        credit: what it grants to a sender.
        refuse: address → condition, for links that it does not want.
        answer: what it says of a message that came; None for nothing.
    """

    def __init__(self, max_frame=16384, mechanisms='ANONYMOUS', credit=100):
        need_proton()
        self.transport = proton.Transport(proton.Transport.SERVER)
        self.transport.max_frame_size = max_frame
        sasl = self.transport.sasl()
        sasl.allow_insecure_mechs = True
        sasl.allowed_mechs(mechanisms)
        self.connection = proton.Connection()
        self.connection.container = 'peer'
        self.connection.properties = {proton.symbol('product'): 'proton'}
        self.collector = proton.Collector()
        self.connection.collect(self.collector)
        self.transport.bind(self.connection)
        self.queues = defaultdict(deque)
        self.received = []
        self.outcomes = []
        self.links = []
        self.credit = credit
        self.refuse = {}
        self.answer = proton.Delivery.ACCEPTED
        self._tag = 0

    def feed(self, data):
        """Give it bytes; gives what it says."""
        while data:
            count = min(self.transport.capacity(), len(data))
            assert count > 0, f'proton takes no more: {self.transport.condition}'
            self.transport.push(data[:count])
            data = data[count:]
            self.work()
        return self.output()

    def output(self):
        self.work()
        out = b''
        while (pending := self.transport.pending()) > 0:
            out += self.transport.peek(pending)
            self.transport.pop(pending)
            self.work()
        return out

    def work(self):
        while (event := self.collector.peek()) is not None:
            handler = getattr(self, event.type.method, None)
            if handler is not None:
                handler(event)
            self.collector.pop()

    def on_connection_remote_open(self, event):
        self.connection.open()

    def on_connection_remote_close(self, event):
        self.connection.close()

    def on_session_remote_open(self, event):
        event.session.open()

    def on_session_remote_close(self, event):
        event.session.close()

    def on_link_remote_open(self, event):
        link = event.link
        address = link.remote_target.address if link.is_receiver else link.remote_source.address
        if address in self.refuse:
            link.source.type = link.target.type = proton.Terminus.UNSPECIFIED
            link.open()
            link.condition = proton.Condition(self.refuse[address], 'no')
            link.close()
            return
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        link.queue = address
        link.open()
        self.links.append(link)
        if link.is_receiver:
            link.flow(self.credit)

    def on_link_remote_close(self, event):
        event.link.close()

    def on_link_flow(self, event):
        link = event.link
        if link.is_sender:
            self.pump(link)

    def pump(self, link):
        while link.credit > 0 and self.queues[link.queue]:
            self._tag += 1
            link.delivery(str(self._tag))
            link.stream(self.queues[link.queue].popleft())
            link.advance()
        if link.drain_mode:
            link.drained()

    def on_delivery(self, event):
        delivery, link = event.delivery, event.link
        if link.is_receiver:
            if delivery.readable and not delivery.partial:
                self.received.append(link.recv(delivery.pending) or b'')
                link.advance()
                if self.answer is not None:
                    delivery.update(self.answer)
                    delivery.settle()
        elif delivery.updated:
            self.outcomes.append((int(delivery.remote_state), delivery.settled))
            delivery.settle()
