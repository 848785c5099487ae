"""How a channel in kombu's style ends: its fetches first, then all that it holds goes back."""

from __future__ import annotations

import logging
from typing import Any

from greenmq import runtime
from greenmq.log import get_logger

__all__ = ('close',)

logger = get_logger('greenmq.transport.virtual')

#: Seconds that a task has for its end when it was killed.
DYING = 0.5


def close(channel: Any) -> None:
    """End the fetches and the consumers of a channel, give back what is unsettled, and let it go.

    Raises:
        Exception: what could not be given back.
    Switches: yes.
    """
    connection = channel.connection
    deadline = connection.closing or runtime.Deadline.after(channel.close_timeout)
    # In a task: giving back may wait for the broker, and a caller that is killed then must not keep what
    # it has not given back yet.
    failures: list[BaseException] = []
    fetching = runtime.current() in connection.fetching
    task = runtime.spawn(_shut, channel, deadline, failures, name='greenmq-close')
    if fetching or runtime.in_hub():
        return  # what is fetched must end first, and this is what fetches; or nothing may wait here
    if not task.join(deadline):
        task.kill()
        task.join(DYING)  # it lets go of the connection still
        # That a broker is away is told already.
        level = logging.WARNING if connection.verify_connection(None) else logging.DEBUG
        logger.log(level, '%r could not give back all it had within %s s', channel, deadline.seconds)
    if failures:
        raise failures[0]


def _shut(channel: Any, deadline: runtime.Deadline, failures: list[BaseException]) -> None:
    try:
        events = channel.connection.events.discard(channel)
        try:
            channel.fetcher.close(deadline)
        finally:
            _give_back(channel, events + channel.connection.events.discard(channel), deadline)
    except Exception as error:  # raised to the caller of close()
        failures.append(error)


def _give_back(channel: Any, events: list[Any], deadline: runtime.Deadline) -> None:
    try:
        for _, message in events:
            message.unseen = True
        for tag in list(channel.books.subscriptions):
            channel.basic_cancel(tag)
        if channel.books.qos is not None:
            channel.books.qos.restore_unacked_once()
        # Those that need no ack are in no book of ours.
        channel.deliveries.put_back([message for sub, message in events if sub.no_ack])
        if channel.settling is not None:
            channel.settling.close(deadline)
    finally:
        channel.let_go()
