"""A broker of AMQP 1.0 in a greenlet: Proton's engine behind a socket, which misbehaves as it is told.

Queues are made by their use; what is released comes back to the front, what is modified as well, counted.
"""

from __future__ import annotations

import contextlib

from greenmq import runtime
from tests.support import green
from tests.support.amqp10_proton import ProtonPeer, proton


class BrokerPeer(ProtonPeer):
    """One connection to the broker."""

    def __init__(self, broker):
        super().__init__(credit=broker.credit)
        self.broker = broker
        self.queues = broker.queues
        self.answer = broker.answer
        self.refuse = broker.refuse
        self.flowed = 0
        self.unsaid, self.saying = b'', False
        self.out = {}  # tag → link, queue, message

    def on_link_remote_open(self, event):
        if self.broker.mute_attach:
            return
        super().on_link_remote_open(event)
        if event.link.is_sender:
            self.broker.consumers += 1

    def on_session_remote_close(self, event):
        green.sleep(self.broker.slow_end)
        self.broker.ended += 1
        super().on_session_remote_close(event)

    def on_link_flow(self, event):
        self.flowed += 1
        if not self.broker.deaf:
            super().on_link_flow(event)

    def pump(self, link):
        while link.credit > 0 and self.queues[link.queue]:
            self._tag += 1
            raw = self.queues[link.queue].popleft()
            link.delivery(str(self._tag))
            self.out[str(self._tag)] = link, link.queue, raw
            link.stream(raw)
            link.advance()
        if link.drain_mode:
            link.drained()

    def on_delivery(self, event):
        delivery, link = event.delivery, event.link
        if link.is_receiver:
            if delivery.readable and not delivery.partial:
                raw = link.recv(delivery.pending) or b''
                link.advance()
                self.broker.received.append(raw)
                if self.answer is not None:
                    if self.answer == proton.Delivery.ACCEPTED:
                        self.queues[link.queue].append(raw)
                    delivery.update(self.answer)
                    delivery.settle()
                    if self.credit:
                        link.flow(1)
                self.broker.deliver(link.queue, self)
        elif delivery.updated or delivery.settled:
            self.broker.outcomes.append(int(delivery.remote_state))
            _, queue, raw = self.out.pop(delivery.tag, (None, None, None))
            if raw is not None and delivery.remote_state in (
                proton.Delivery.RELEASED, proton.Delivery.MODIFIED,
            ):  # fmt: skip
                self.queues[queue].appendleft(raw)
            delivery.settle()

    def give_back(self, link=None):
        """What is out over a link, or over all: the link or the connection ended."""
        for tag, (owner, queue, raw) in reversed(list(self.out.items())):
            if link is None or owner is link:
                del self.out[tag]
                self.queues[queue].appendleft(raw)


class Broker:
    """A broker that a test rules.

    Attributes:
        queues: name → raw messages. received: what came. outcomes: what became of deliveries.
        credit: what senders are granted; answer: what they are told. refuse: address → condition.
        deaf: no more messages, whatever credit is given; silent: no byte more; mute_attach: no answer to one.
        slow_end: seconds until the end of a session is answered; ended: sessions of which it was.
    """

    def __init__(self):
        from collections import defaultdict, deque

        self.queues = defaultdict(deque)
        self.received, self.outcomes = [], []
        self.credit, self.answer, self.refuse = 100, proton.Delivery.ACCEPTED if proton else None, {}
        self.deaf = self.silent = self.mute_attach = False
        self.consumers = self.accepted = self.ended = self.slow_end = 0
        self.peers = []
        self.listener = green.socket.socket()
        self.listener.bind(('127.0.0.1', 0))
        self.listener.listen(16)
        self.port = self.listener.getsockname()[1]
        self.tasks = [runtime.spawn(self.accept, name='amqp10-broker')]

    @property
    def url(self):
        return f'qpid://127.0.0.1:{self.port}/'

    def accept(self):
        while True:
            sock, _ = self.listener.accept()
            self.accepted += 1
            self.tasks.append(runtime.spawn(self.serve, sock, name='amqp10-broker-peer'))

    def serve(self, sock):
        peer = BrokerPeer(self)
        peer.sock = sock
        self.peers.append(peer)
        try:
            while data := sock.recv(65536):
                if not self.silent:
                    self.say(peer, peer.feed(data))
        except OSError:
            pass  # cut
        finally:
            if peer in self.peers:
                self.peers.remove(peer)
            peer.give_back()
            sock.close()

    def say(self, peer, data):
        peer.unsaid += data
        if peer.unsaid and not peer.saying:  # else whoever is at it goes on with this
            peer.saying = True
            try:
                while peer.unsaid:
                    data, peer.unsaid = peer.unsaid, b''
                    peer.sock.sendall(data)
            finally:
                peer.saying = False

    def deliver(self, queue, asking):
        """A message came to a queue, from a peer that is heard by now: whoever has credit gets it."""
        if self.deaf:
            return
        for peer in self.peers[:]:
            consuming = [link for link in peer.links if link.is_sender and link.queue == queue]
            for link in consuming:
                peer.pump(link)
            if consuming and peer is not asking:
                with contextlib.suppress(OSError):  # its own reader sees that
                    self.say(peer, peer.output())

    def cut(self):
        """All connections, now."""
        for peer in self.peers[:]:
            self.peers.remove(peer)
            peer.sock.shutdown(2)

    def detach(self, condition='amqp:internal-error'):
        """All links to consumers, with a condition."""
        for peer in self.peers:
            for link in peer.links:
                if link.is_sender and link.state & proton.Endpoint.LOCAL_ACTIVE:
                    link.condition = proton.Condition(condition, 'by the test')
                    link.close()
                    peer.give_back(link)
            peer.links = [link for link in peer.links if link.is_receiver]
            self.say(peer, peer.output())

    def close_all(self, condition='amqp:connection:forced'):
        """All connections, by a goodbye with a condition."""
        for peer in self.peers:
            peer.connection.condition = proton.Condition(condition, 'by the test')
            peer.connection.close()
            self.say(peer, peer.output())

    def stop(self):
        for task in self.tasks:
            task.kill()
        for task in self.tasks:
            task.join(5)
        self.listener.close()
        for peer in self.peers:
            peer.sock.close()
