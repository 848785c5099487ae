"""Node: one process that takes the commands of a mailbox. Public in `greenmq.pidbox`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from glob import escape
from typing import Any

from greenmq import messaging
from greenmq.core.commands import check_command, number_of, reply_place
from greenmq.exceptions import ConnectionError, InvalidArgument, OperationalError, SerializationError
from greenmq.log import get_logger
from greenmq.matcher import match
from greenmq.utils.functional import reprcall
from greenmq.utils.text import printable

__all__ = ('Node',)

W_PIDBOX_IN_USE = """\
A node named {node.hostname} already takes commands from this mailbox.

Either another node of that name is running, or one was not shut down as it should: the commands
are then shared out among them. Give each node of a host a name of its own.
"""

logger = get_logger('greenmq.pidbox')
debug, error = logger.debug, logger.error


class Node:
    """One process that takes commands.

    Arguments:
        hostname (str): its name; default: that of the host.
        state (object): given to every handler as first argument.
        channel (Channel): where it takes commands.
        handlers (dict[str, Callable]): commands by name.
        mailbox (Mailbox): whose node it is.
    Source: kombu.pidbox.Node.
    """

    hostname: str | None = None
    handlers: dict[str, Callable[..., Any]] | None = None
    mailbox: Any = None
    state: Any = None
    channel: Any = None

    def __init__(
        self,
        hostname: str | None,
        state: Any = None,
        channel: Any = None,
        handlers: dict[str, Callable[..., Any]] | None = None,
        mailbox: Any = None,
    ) -> None:
        self.channel = channel
        self.mailbox = mailbox
        self.hostname = hostname
        self.state = state
        self.adjust_clock = self.mailbox.clock.adjust
        self.handlers = {} if handlers is None else handlers

    def Consumer(
        self, channel: Any = None, no_ack: bool = True, accept: Any = None, **options: Any
    ) -> messaging.Consumer:
        """Make the consumer of this node's commands.

        Switches: yes: it declares the node's queue.
        Source: kombu Node.Consumer.
        """
        queue = self.mailbox.get_queue(self.hostname)

        def verify_exclusive(name: str, messages: int, consumers: int) -> None:
            if consumers:
                warnings.warn(W_PIDBOX_IN_USE.format(node=self), stacklevel=2)

        queue.on_declared = verify_exclusive
        return messaging.Consumer(
            channel or self.channel,
            [queue],
            no_ack=no_ack,
            accept=self.mailbox.accept if accept is None else accept,
            **options,
        )

    def handler(self, fun: Callable[..., Any]) -> Callable[..., Any]:
        """Register a command under its function's name; a decorator.

        Source: kombu Node.handler.
        """
        assert self.handlers is not None
        self.handlers[fun.__name__] = fun
        return fun

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Log a command that can't be decoded.

        Source: kombu Node.on_decode_error.
        """
        error('Cannot decode message: %r', exc, exc_info=exc)

    def listen(self, channel: Any = None, callback: Callable[..., Any] | None = None) -> messaging.Consumer:
        """Start taking commands.

        Arguments:
            callback (Callable): called with (body, message); default `handle_message`.
        Switches: yes.
        Source: kombu Node.listen.
        """
        consumer = self.Consumer(
            channel=channel,
            callbacks=[callback or self.handle_message],
            on_decode_error=self.on_decode_error,
        )
        consumer.consume()
        return consumer

    def dispatch(
        self,
        method: str,
        arguments: dict[str, Any] | None = None,
        reply_to: dict[str, str] | None = None,
        ticket: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run a command, and send what it returned to where `reply_to` says.

        Arguments:
            reply_to (dict[str, str]): `exchange` and `routing_key`.
            ticket (str): of the request.
            **kwargs: ignored.
        Returns:
            object: what the handler returned, ``{'error': …}`` if it raised.
        Switches: as the handler; yes to reply.
        Source: kombu Node.dispatch.
        """
        arguments = arguments or {}
        debug(
            'pidbox received method %s [reply_to:%s ticket:%s]',
            reprcall(method, (), arguments),
            reply_to,
            ticket,
        )
        handle = self.handle_call if reply_to else self.handle_cast
        try:
            reply = handle(method, arguments)
        except Exception as exc:
            error('pidbox command error: %r', exc, exc_info=True)
            reply = {'error': repr(exc)}
        if reply_to:
            self._answer(reply, reply_to, ticket)
        return reply

    def _answer(self, reply: Any, reply_to: Mapping[str, Any], ticket: str | None) -> None:
        where = {name: reply_to[name] for name in ('exchange', 'routing_key')}
        try:
            try:
                self.reply({self.hostname: reply}, ticket=ticket, **where)
            except SerializationError as exc:  # what the handler returned can't be written
                self.reply({self.hostname: {'error': repr(exc)}}, ticket=ticket, **where)
        except (ConnectionError, OperationalError, OSError):
            raise
        except Exception as exc:  # an exchange of another type, say: whoever asked gets no answer
            error('pidbox reply to %s failed: %s', printable(where), printable(repr(exc)))

    def handle(self, method: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run a command; `handle_call` and `handle_cast` are this with and without a reply.

        Raises:
            KeyError: unknown.
        Switches: as the handler.
        Source: kombu Node.handle.
        """
        assert self.handlers is not None
        return self.handlers[method](self.state, **(arguments or {}))

    def handle_call(self, method: str, arguments: dict[str, Any]) -> Any:
        """Run a command that wants a reply.

        Switches: as the handler.
        Source: kombu Node.handle_call.
        """
        return self.handle(method, arguments)

    def handle_cast(self, method: str, arguments: dict[str, Any]) -> Any:
        """Run a command that wants no reply.

        Switches: as the handler.
        Source: kombu Node.handle_cast.
        """
        return self.handle(method, arguments)

    def handle_message(self, body: dict[str, Any], message: Any = None) -> Any:
        """Run the command of a message, if it is for this node.

        A message that is no command is answered by an error if it says where to, in any case logged, and
        settled: it never ends the consumer of the mailbox.

        Switches: as `dispatch`.
        Source: kombu Node.handle_message; differs: what is malformed raises nothing, and replies go to
            exchanges of replies only, see `Mailbox.reply_exchanges`.
        """
        if message is not None:
            self.adjust_clock(int(number_of(message.headers, 'clock')))
        try:
            check_command(body, self._reply_exchanges)
            if not self._is_meant(body):
                return None
        except Exception as exc:  # a matcher may raise anything
            self._refuse(body, message, exc)
            return None
        return self.dispatch(**{name: value for name, value in body.items() if name != 'self'})

    @property
    def _reply_exchanges(self) -> tuple[str, ...]:
        mailbox = self.mailbox
        return (*mailbox.reply_exchanges, escape(mailbox.reply_exchange.name))

    def _is_meant(self, body: dict[str, Any]) -> bool:
        destination = body.get('destination')
        pattern, matcher = body.get('pattern'), body.get('matcher')
        if isinstance(destination, str) and destination:
            return self.hostname == destination
        if destination:
            return self.hostname in destination
        return not (pattern and matcher) or bool(match(self.hostname or '', pattern, matcher))

    def _refuse(self, body: Any, message: Any, exc: Exception) -> None:
        error('pidbox command error: %s', printable(repr(exc)))
        if message is not None and message.channel is not None and not message.acknowledged:
            message.ack()
        try:
            reply_to = reply_place(body, self._reply_exchanges) if isinstance(body, dict) else None
        except InvalidArgument:
            return
        if reply_to:
            ticket = body.get('ticket')
            self._answer({'error': repr(exc)}, reply_to, ticket if isinstance(ticket, str) else None)

    dispatch_from_message = handle_message

    def reply(self, data: Any, exchange: str, routing_key: str, ticket: str | None, **kwargs: Any) -> None:
        """Send a reply.

        Switches: yes.
        Source: kombu Node.reply.
        """
        self.mailbox.publish_reply(
            data, exchange, routing_key, ticket, channel=self.channel, serializer=self.mailbox.serializer
        )
