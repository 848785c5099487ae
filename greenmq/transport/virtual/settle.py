"""Acknowledgements collected and sent together, and leases renewed: for channels with `_settle` or `_extend`.

What was given to `_settle` is forgotten only when it has returned, so a killed or failed call is repeated:
settling a tag twice must do no harm at the broker.
"""

from __future__ import annotations

import weakref
from typing import Any

from greenmq import runtime
from greenmq.core.retry import RetrySchedule
from greenmq.log import get_logger

__all__ = ('Settling',)

logger = get_logger('greenmq.transport.virtual')


class Settling:
    """What one channel has to settle at its broker, and whose leases it keeps."""

    def __init__(self, channel: Any) -> None:
        self._channel = weakref.ref(channel)
        self._acks: list[Any] = []
        self._rejects: list[tuple[Any, bool]] = []
        self._sender: Any = None
        self._keeper: Any = None

    def ack(self, tag: Any) -> None:
        """Settle a delivery soon."""
        self._acks.append(tag)
        self._send_soon()

    def reject(self, tag: Any, requeue: bool) -> None:
        """Refuse a delivery soon."""
        self._rejects.append((tag, requeue))
        self._send_soon()

    def leased(self) -> None:
        """There is a new delivery whose lease must be kept."""
        channel = self._channel()
        if channel is None or not channel.adapter.extends or not channel.lease_seconds:
            return
        if self._keeper is None or self._keeper.done:
            self._keeper = runtime.spawn(self._keep, name='greenmq-lease', owner=channel)

    def arrived_here(self) -> None:
        """Go on in this thread: what was on its way is sent again."""
        for task in (self._keeper, self._sender):
            if task is not None:
                task.kill()
        self._keeper = self._sender = None
        self.leased()
        if self._acks or self._rejects:
            self._send_soon()

    def close(self, deadline: runtime.Deadline) -> None:
        """Send what is left, within the deadline, and stop.

        Switches: if there is something to send.
        """
        for task in (self._keeper, self._sender):
            if task is not None:
                task.kill()
        channel = self._channel()
        if channel is None or not channel.adapter.settles or not (self._acks or self._rejects):
            return
        # In a task, because the channel's code may hang, and closing must not.
        last = runtime.spawn(self._send, channel, name='greenmq-settle', owner=channel)
        try:
            last.join(deadline)
        finally:
            last.kill()  # also where we are killed while it hangs
        left = len(self._acks) + len(self._rejects)
        if left:
            logger.warning(
                '%r could not send %d acknowledgements: their messages will be delivered again: %r',
                channel,
                left,
                last.error,
            )

    def _send_soon(self) -> None:
        channel = self._channel()
        if channel is None or not channel.adapter.settles:
            self._acks.clear()
            self._rejects.clear()
            return
        if self._sender is None or self._sender.done:
            self._sender = runtime.spawn(self._run, name='greenmq-settle', owner=channel)

    def _run(self) -> None:
        retry = RetrySchedule(None, 0.1, 0.4, 10.0, jitter=0.2)
        failures = 0
        while self._acks or self._rejects:
            channel = self._channel()
            if channel is None:
                return
            try:
                self._send(channel)
                failures = 0
                continue
            except Exception as error:  # told to the drains, and tried again
                failures += 1
                channel.connection.events.report(error)
            del channel
            runtime.sleep(retry.delay(failures))

    def _send(self, channel: Any) -> None:
        acks, rejects = list(self._acks), list(self._rejects)
        channel.adapter.settle(acks, rejects)
        # Others may have joined meanwhile, at the end.
        del self._acks[: len(acks)]
        del self._rejects[: len(rejects)]

    def _keep(self) -> None:
        while True:
            channel = self._channel()
            if channel is None or channel.closed or not channel.qos.unsettled:
                return
            seconds = channel.lease_seconds
            del channel
            runtime.sleep(seconds / 3)
            channel = self._channel()
            if channel is None or channel.closed:
                return
            tags = list(channel.qos.unsettled)
            if tags:
                try:
                    channel.adapter.extend(tags, seconds)
                except Exception as error:  # the next third may succeed; the drains learn of it
                    channel.connection.events.report(error)
            del channel

    def __repr__(self) -> str:
        return f'<Settling: {len(self._acks)} acks, {len(self._rejects)} rejects to send>'
